#!/bin/sh
# `make install` to a folder, a small program compiled against what lies there, with the shared and with the static
# library, and `make uninstall`.
. tests/script.sh
prefix=/opt/diffusionlm
there=$work/root$prefix
tokenizer=$GOLDEN/tokenizer/stories_1024/tokenizer.json

make_it() {
    # The outer make's job slots are not for this one.
    env -u MAKEFLAGS -u MFLAGS "$MAKE" --no-print-directory "$1" PREFIX="${2-$prefix}" DESTDIR="$work/root${3-}" CC="$CC" \
        BACKEND="$BACKEND" MODE="$MODE" CFLAGS="${CFLAGS-}" LDFLAGS="${LDFLAGS-}"
}

# The flags by pkg-config where there is one, else read from the file.
flags() {
    if command -v pkg-config > /dev/null; then
        PKG_CONFIG_PATH=$there/lib/pkgconfig PKG_CONFIG_SYSROOT_DIR=$work/root pkg-config "$@" diffusionlm
    else
        case $* in *--cflags*) printf '%s ' "-I$there/include" ;; esac
        case $* in *--libs*) printf '%s ' "-L$there/lib -ldiffusionlm" ;; esac
        case $* in *--static*) sed -n 's/^Libs.private: //p' "$there/lib/pkgconfig/diffusionlm.pc" ;; esac
    fi
}

same_version() { [ "$("$@")" = "$(sed -n 's/^.define DLM_VERSION "\(.*\)"/\1/p' include/diffusionlm.h)" ]; }
needs_soname() { readelf -d "$work/shared" | grep -q 'NEEDED.*\[libdiffusionlm.so.0\]'; }
needs_none() { ! readelf -d "$work/static" | grep -q 'NEEDED.*libdiffusionlm'; }
files_left() { [ -z "$(find "$work/root" ! -type d)" ]; }

# Prints the version if a text comes back whole from its ids.
cat > "$work/small.c" << 'EOF'
#include <diffusionlm.h>
#include <stdio.h>
#include <string.h>

int main(int argc, char **argv) {
    dlm_tokenizer *tokenizer = NULL;
    dlm_error err;
    int32_t *ids = NULL;
    char *text = NULL;
    size_t n = 0, bytes = 0;
    if (argc != 2 || dlm_tokenizer_load(argv[1], &tokenizer, &err) != DLM_OK) return 1;
    if (dlm_tokenizer_encode(tokenizer, "Once upon a time", 16, false, &ids, &n, &err) != DLM_OK) return 2;
    if (dlm_tokenizer_decode(tokenizer, ids, n, true, &text, &bytes, &err) != DLM_OK) return 3;
    if (strcmp(text, " Once upon a time") == 0) puts(dlm_version());
    dlm_free(text);
    dlm_free(ids);
    dlm_tokenizer_free(tokenizer);
    return 0;
}
EOF

check 'make install' make_it install
check 'header alone' $CC -std=c11 -Wall -Wextra -Wpedantic -Werror -fsyntax-only "$there/include/diffusionlm.h"
if command -v g++ > /dev/null; then
    check 'header in C++' g++ -Wall -Wextra -Wpedantic -Werror -fsyntax-only -x c++ "$there/include/diffusionlm.h"
fi
# shellcheck disable=SC2046
check 'compile, shared' $CC "$work/small.c" $(flags --cflags --libs) -o "$work/shared"
# shellcheck disable=SC2046
check 'compile, static' $CC "$work/small.c" $(flags --cflags) "$there/lib/libdiffusionlm.a" \
    $(flags --static --libs | sed 's/-ldiffusionlm//') -o "$work/static"
check 'soname' needs_soname
check 'static is static' needs_none
check 'run, shared' same_version env LD_LIBRARY_PATH="$there/lib" "$work/shared" "$tokenizer"
check 'run, static' same_version "$work/static" "$tokenizer"
if [ -f "$PROGRAM" ]; then
    check 'command' "$there/bin/diffusionlm" --version
    check 'manual' grep -q '^\.TH' "$there/share/man/man1/diffusionlm.1"
    check 'bash completion' bash -n "$there/share/bash-completion/completions/diffusionlm"
    check 'zsh completion' test -s "$there/share/zsh/site-functions/_diffusionlm"
    check 'fish completion' test -s "$there/share/fish/vendor_completions.d/diffusionlm.fish"
fi
check 'make uninstall' make_it uninstall
check 'nothing is left' files_left
# ---- awkward places -------------------------------------------------------------------------------------------------
refuses_relative() { ! make_it install relative; }
check 'a relative prefix is refused' refuses_relative
check 'and nothing made' test ! -e relative
check 'a place with a space' make_it install '/opt/with space' ' too'
check 'is there' test -x "$work/root too/opt/with space/bin/diffusionlm"
check 'and goes again' make_it uninstall '/opt/with space' ' too'
check 'all of it' test -z "$(find "$work/root too" ! -type d)"

finish

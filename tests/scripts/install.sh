#!/bin/sh
# `make install` to a folder, a small program compiled against what lies there, with the shared and with the static
# library, and `make uninstall`.
set -u
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
prefix=/opt/diffusionlm
there=$work/root$prefix
passed=0
failed=0

# check WHAT COMMAND...
check() {
    what=$1
    shift
    if "$@" > "$work/log" 2>&1; then
        passed=$((passed + 1))
    else
        echo "failed: $what: $*"
        cat "$work/log"
        failed=$((failed + 1))
    fi
}

make_it() {
    # The outer make's job slots are not for this one.
    env -u MAKEFLAGS -u MFLAGS "$MAKE" --no-print-directory "$1" PREFIX=$prefix DESTDIR="$work/root" CC="$CC" \
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

cat > "$work/small.c" << 'EOF'
#include <diffusionlm.h>
#include <stdio.h>

int main(void) {
    dlm_set_threads(1);
    puts(dlm_version());
    return dlm_status_text(DLM_OK)[0] == 'o' ? 0 : 1;
}
EOF

check 'make install' make_it install
# shellcheck disable=SC2046
check 'compile, shared' $CC "$work/small.c" $(flags --cflags --libs) -o "$work/shared"
# shellcheck disable=SC2046
check 'compile, static' $CC "$work/small.c" $(flags --cflags) "$there/lib/libdiffusionlm.a" \
    $(flags --static --libs | sed 's/-ldiffusionlm//') -o "$work/static"
check 'soname' needs_soname
check 'static is static' needs_none
check 'run, shared' same_version env LD_LIBRARY_PATH="$there/lib" "$work/shared"
check 'run, static' same_version "$work/static"
if [ -f "$PROGRAM" ]; then
    check 'command' "$there/bin/diffusionlm" --version
    check 'manual' grep -q '^\.TH' "$there/share/man/man1/diffusionlm.1"
    check 'bash completion' bash -n "$there/share/bash-completion/completions/diffusionlm"
    check 'zsh completion' test -s "$there/share/zsh/site-functions/_diffusionlm"
    check 'fish completion' test -s "$there/share/fish/vendor_completions.d/diffusionlm.fish"
fi
check 'make uninstall' make_it uninstall
check 'nothing is left' files_left
echo "$passed passed, $failed failed"
[ $failed = 0 ]

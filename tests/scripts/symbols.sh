#!/bin/sh
# Names in the built libraries: the shared one exports exactly what the header declares with DLM_API, and every global
# name of the static one starts with dlm_.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
passed=0
failed=0

# report WHAT FILE: FILE lists the offenders
report() {
    if [ -s "$2" ]; then
        sed "s/^/$1: /" "$2"
        failed=$((failed + 1))
    else
        passed=$((passed + 1))
    fi
}

tr '\n' ' ' < include/diffusionlm.h | grep -oE 'DLM_API [^;(]*\(' | grep -oE 'dlm_[a-z0-9_]+ *\($' | tr -d ' (' |
    sort -u > "$work/declared"
nm -D --defined-only "$OUT"/libdiffusionlm.so | awk 'NF == 3 && $2 ~ /[A-Z]/ { print $3 }' | sort -u > "$work/exported"
nm -g --defined-only "$OUT"/libdiffusionlm.a | awk 'NF == 3 { print $3 }' | sort -u > "$work/global"

comm -23 "$work/exported" "$work/declared" > "$work/undeclared"
report 'exported, but not in diffusionlm.h' "$work/undeclared"
comm -13 "$work/exported" "$work/declared" > "$work/missing"
report 'in diffusionlm.h, but not exported' "$work/missing"
grep -v '^dlm_' "$work/global" > "$work/foreign" || true
report 'a global name that does not start with dlm_' "$work/foreign"
grep -v '^dlm__' "$work/global" | comm -23 - "$work/declared" > "$work/public" || true
report 'a public name that is not in diffusionlm.h' "$work/public"

echo "$passed passed, $failed failed"
[ $failed = 0 ]

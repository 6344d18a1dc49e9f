#!/bin/sh
# Names in the built libraries: the shared one exports exactly what the header declares with DLM_API, and every global
# name of the static one starts with dlm_.
. tests/script.sh

tr '\n' ' ' < include/diffusionlm.h | grep -oE 'DLM_API [^;(]*\(' | grep -oE 'dlm_[a-z0-9_]+ *\($' | tr -d ' (' |
    sort -u > "$work/declared"
nm -D --defined-only "$OUT"/libdiffusionlm.so | awk 'NF == 3 && $2 ~ /[A-Z]/ { print $3 }' | sort -u > "$work/exported"
nm -g --defined-only "$OUT"/libdiffusionlm.a | awk 'NF == 3 { print $3 }' | sort -u > "$work/global"

comm -23 "$work/exported" "$work/declared" > "$work/undeclared"
check 'exported, but not in diffusionlm.h' none "$work/undeclared"
comm -13 "$work/exported" "$work/declared" > "$work/missing"
check 'in diffusionlm.h, but not exported' none "$work/missing"
grep -v '^dlm_' "$work/global" > "$work/foreign" || true
check 'a global name that does not start with dlm_' none "$work/foreign"
grep -v '^dlm__' "$work/global" | comm -23 - "$work/declared" > "$work/public" || true
check 'a public name that is not in diffusionlm.h' none "$work/public"

finish

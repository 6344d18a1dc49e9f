#!/bin/sh
# The one-way structure of docs/structure.md: a folder includes only itself and what stands to its left.
#
#     base <- { compute, text, format } <- model <- diffusion <- train      cli -> include/diffusionlm.h
#     base <- ranks <- train
#
# Also: instruction sets, oneDNN and OpenMP are known to src/compute and src/base/system.c alone, and no type ends in _t.
# One test a file.
set -u
passed=0
failed=0

allowed() {
    case $1 in
    base) echo 'base' ;;
    compute) echo 'base compute' ;;
    text) echo 'base text' ;;
    format) echo 'base format' ;;
    ranks) echo 'base ranks' ;;
    model) echo 'base compute text format model' ;;
    diffusion) echo 'base compute text format model diffusion' ;;
    train) echo 'base compute text format model diffusion ranks train' ;;
    *) echo "$1" ;;
    esac
}

# complain FILE TEXT
complain() {
    echo "$1: $2"
    bad=1
}

# check FILE FOLDER: FOLDER's name decides what FILE may include
check() {
    bad=0
    for included in $(sed -n 's/^[[:space:]]*#[[:space:]]*include[[:space:]]*"\([^"]*\)".*/\1/p' "$1"); do
        case $included in
        diffusionlm.h) continue ;;
        *..*) complain "$1" "includes $included" ;;
        */*)
            case " $(allowed "$2") " in
            *" ${included%%/*} "*) ;;
            *) complain "$1" "$2 must not include $included" ;;
            esac
            ;;
        *) [ -f "$(dirname "$1")/$included" ] || complain "$1" "includes $included, which is not in its folder" ;;
        esac
    done
    case $1 in
    src/compute/* | src/base/system.c) ;;
    *) grep -qE '^ *# *(include *<(.*dnnl|omp|[a-z]*mmintrin|arm_neon)|pragma omp)' "$1" &&
        complain "$1" 'threads and instruction sets belong to src/compute' ;;
    esac
    grep -nE '^(typedef.*|}) *[a-z_0-9]+_t;' "$1" && complain "$1" 'a type that ends in _t'
    if [ $bad = 0 ]; then passed=$((passed + 1)); else failed=$((failed + 1)); fi
}

for file in src/*/*.[ch] cli/*.[ch] server/*.[ch] python/*.[ch]; do
    [ -f "$file" ] && check "$file" "$(basename "$(dirname "$file")")"
done
for file in src/*.[ch]; do
    [ -f "$file" ] && echo "$file: sources belong into a folder of src" && failed=$((failed + 1))
done
echo "$passed passed, $failed failed"
[ $failed = 0 ]

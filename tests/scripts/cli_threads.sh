#!/bin/sh
# How the command's threads wait, as the OpenMP runtime itself tells it: they soon sleep, unless the user wants something
# else, and the program is not started a second time for that. And that products know how many threads there are;
# and which instruction set is the highest.
. tests/script.sh
unset OMP_WAIT_POLICY GOMP_SPINCOUNT KMP_BLOCKTIME

# tells TIMES TEXT VARIABLE=VALUE...: with these in the environment, the runtime tells TEXT so many times.
tells() {
    times=$1 text=$2
    shift 2
    env "$@" "$PROGRAM" generate -m "$GOLDEN/nowhere" > "$work/out" 2> "$work/err"
    [ "$(grep -cE -- "$text" "$work/err")" = "$times" ] || { cat "$work/err" && false; }
}

if ldd "$PROGRAM" | grep -q libomp; then
    # Among the settings of the user, and among all.
    check 'soon' tells 2 '^ *KMP_BLOCKTIME=0$' KMP_SETTINGS=1
    check 'as set' tells 2 '^ *KMP_BLOCKTIME=7$' KMP_SETTINGS=1 KMP_BLOCKTIME=7
    check 'another policy' tells 0 '^ *KMP_BLOCKTIME=0$' KMP_SETTINGS=1 OMP_WAIT_POLICY=active
else
    check 'soon' tells 1 "GOMP_SPINCOUNT = '1000'" OMP_DISPLAY_ENV=verbose
    check 'as set' tells 1 "GOMP_SPINCOUNT = '7'" OMP_DISPLAY_ENV=verbose GOMP_SPINCOUNT=7
    check 'set to nothing' tells 0 "GOMP_SPINCOUNT = '1000'" OMP_DISPLAY_ENV=verbose GOMP_SPINCOUNT=
    check 'another policy' tells 1 "GOMP_SPINCOUNT = '30000000000'" OMP_DISPLAY_ENV=verbose OMP_WAIT_POLICY=active
    check 'started once' tells 1 'OPENMP DISPLAY ENVIRONMENT BEGIN' OMP_DISPLAY_ENV=verbose
    check 'without any environment' sh -c "env -i OMP_DISPLAY_ENV=verbose '$PROGRAM' --version 2>&1 | grep -q \"SPINCOUNT = '1000'\""
fi

check 'fewer threads than asked for' env OMP_THREAD_LIMIT=1 "$OUT/tests/unit/test_compute_product" fewer_threads_than_asked_for

# The instruction set, as a command with --verbose tells it.
set_of() { "$PROGRAM" info "$GOLDEN/tiny" --verbose 2>&1 > /dev/null | sed -n 's/^diffusionlm [^,]*, oneDNN [^,]*, \([^,]*\), .*/\1/p'; }

# limited LIMIT SET: under oneDNN's own limit own kernels are of SET.
limited() { [ "$(ONEDNN_MAX_CPU_ISA=$1 set_of)" = "$2" ]; }

best=$(set_of)
case $best in avx*)
    check 'limited to SSE 4.1' limited SSE41 baseline
    check 'limited to AVX2' limited AVX2 avx2
    check 'products limited to AVX2' env ONEDNN_MAX_CPU_ISA=AVX2 "$OUT/tests/unit/test_compute_product"
    ;;
esac
case $best in avx512*) check 'limited to AVX-512' limited AVX512_CORE avx512 ;; esac

finish

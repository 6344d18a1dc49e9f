#!/bin/sh
# Runs test programs and scripts one after the other; each ends with "N passed, N failed". Shows what failed and the
# lines that start with "isa:" or "note:", and ends with the sum. A program that crashes, hangs or says nothing counts
# as one failed test.
set -u
limit=${TEST_SECONDS:-600}
log=$(mktemp)
trap 'rm -f "$log"' EXIT
export ASAN_OPTIONS="${ASAN_OPTIONS:-allocator_may_return_null=1:detect_leaks=1}"
# Waiting threads sleep: where other work shares the processors, spinning ones would hold up those they wait for.
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-passive}"
# A name of a model that is no path may be one of the Hub: no test asks the network.
export HF_HUB_OFFLINE=1
export UBSAN_OPTIONS="${UBSAN_OPTIONS:-print_stacktrace=1}"

passed=0
failed=0
for program in "$@"; do
    start=$(date +%s)
    timeout "$limit" "$program" > "$log" 2>&1 < /dev/null
    status=$?
    last=$(tail -n 1 "$log")
    seconds=$(($(date +%s) - start))
    name=$(basename "$program")
    case $last in
    [0-9]*' passed, '[0-9]*' failed')
        p=${last%% *}
        f=${last#*, }
        f=${f%% *}
        [ "$status" -ne 0 ] && [ "$f" -eq 0 ] && f=1 && last="$last, but exit status $status"
        ;;
    *)
        p=0
        f=1
        last="no result, exit status $status"
        ;;
    esac
    if [ "$f" -gt 0 ]; then cat "$log"; else grep -E '^(isa|note):' "$log"; fi
    printf '%-28s %s (%d s)\n' "$name" "$last" "$seconds"
    passed=$((passed + p))
    failed=$((failed + f))
done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]

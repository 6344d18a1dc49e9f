# What the scripts of tests/scripts share; to be sourced. Counts checks, keeps a folder for files, and says at the end
# what the runner reads: "N passed, N failed".
# shellcheck shell=sh
set -u
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
passed=0
failed=0

# check WHAT COMMAND...: it succeeds
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

# None stands in FILE; its lines are the offenders.
none() { cat "$1"; [ ! -s "$1" ]; }

finish() {
    echo "$passed passed, $failed failed"
    [ $failed = 0 ]
}

# ---- the command ------------------------------------------------------------------------------------------------------

# Runs the command, its output in $work/out and $work/err, and notes the options that it was run with.
run() {
    timeout 120 "$PROGRAM" "$@" > "$work/out" 2> "$work/err"
    status=$?
    [ $status != 0 ] || echo " $* " >> "$work/used"
    return $status
}

# succeeds WHAT ARGUMENT...: the command with these arguments
succeeds() {
    what=$1
    shift
    if run "$@"; then
        passed=$((passed + 1))
    else
        echo "failed: $what: diffusionlm $*: exit status $status"
        cat "$work/err"
        failed=$((failed + 1))
    fi
}

# refuses STATUS TEXT ARGUMENT...: it ends with this exit status, writes no result, and says TEXT in the one line that
# begins with its name, with nothing but a hint behind it.
refuses() {
    want=$1 text=$2
    shift 2
    run "$@"
    if [ $status = "$want" ] && [ "$(grep -c '^diffusionlm: ' "$work/err")" = 1 ] && [ ! -s "$work/out" ] &&
        grep -F '' "$work/err" | grep '^diffusionlm: ' | grep -qF -- "$text"; then
        passed=$((passed + 1))
    else
        echo "failed: diffusionlm $*: exit status $status, not $want with '$text'"
        cat "$work/err"
        failed=$((failed + 1))
    fi
}

# Is TEXT in what the last run wrote, or said?
wrote() { grep -qF -- "$1" "$work/out"; }
said() { grep -qF -- "$1" "$work/err"; }
lines() { [ "$(wc -l < "$work/out")" = "$1" ]; }
# The names of the JSON object in the last run's output (no names of objects inside it) are these, in any order.
keys() {
    sed 's/^{//; s/}$//; s/{[^{}]*}/0/g; s/\[[^]]*\]/0/g; s/"\(\\.\|[^"\\]\)*":/\n&\n/g' "$work/out" |
        sed -n 's/^"\(.*\)":$/\1/p' | sort -u > "$work/keys"
    printf '%s\n' "$@" | sort | diff - "$work/keys"
}

# Every option of the command stood in a run that succeeded.
covered() {
    "$PROGRAM" "$@" --help > "$work/help" || return 1
    missing=
    for option in $(grep -oE '^  (-.,|   ) --[a-z-]+' "$work/help" | grep -oE -- '--[a-z-]+'); do
        [ "$option" = --help ] || grep "^ $* " "$work/used" | grep -qE -- " $option[ =]" || missing="$missing $option"
    done
    [ -z "$missing" ] || echo "no run of '$*' had$missing"
    [ -z "$missing" ]
}

# A corpus of $1 documents in $work/$2.
corpus() {
    i=0
    while [ $i -lt "$1" ]; do
        echo "Once upon a time there was a cat number $i. It saw $((i * 7 % 31)) birds and $((i * 5 % 17)) dogs."
        echo '<|endoftext|>'
        i=$((i + 1))
    done > "$work/$2"
}

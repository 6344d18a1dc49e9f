#!/bin/bash
# How training by several ranks on this machine compares with one: a table of docs/distributed.md. Every round runs each
# row once, in turn; printed are the medians of tokens a second, as log.csv has them behind the first ten steps, and of
# the processors' seconds for a thousand tokens, which other work on the machine disturbs less.
#
#     make MPI=1 && tools/scaling.sh DATA [PRESET [ROUNDS]]
set -eu
data=$1 preset=${2:-tiny} rounds=${3:-3}
program=${PROGRAM:-build/gcc-onednn-release-mpi/diffusionlm}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
as_root=
[ "$(id -u)" != 0 ] || as_root=--allow-run-as-root
export OMP_WAIT_POLICY=passive
steps=30

# name ranks threads batch
rows='one 1 1 16
threads 1 2 16
strong 2 1 16
strong 4 1 16
half 1 1 8
weak 2 1 16
weak 4 1 32'

# measure ROW RANKS THREADS BATCH: a line "tokens_per_second cpu_seconds" into the row's file
measure() {
    local run=$work/run TIMEFORMAT='%U %S'
    rm -rf "$run"
    # shellcheck disable=SC2086
    { time mpirun $as_root --oversubscribe --bind-to none -np "$2" "$program" train -d "$data" -o "$run" --preset "$preset" \
        --threads "$3" --batch "$4" --micro-tokens 2048 --steps $steps --log-every 10 --eval-every 0 --sample-every 0 \
        --save-every 0 --quiet > /dev/null 2> "$work/err"; } 2> "$work/time" || { cat "$work/err"; exit 1; }
    awk -F, -v t="$(cat "$work/time")" 'NR > 2 { n++; sum += 1 / $8 } { tokens = $3 }
        END { split(t, s, " "); printf "%.0f %.4f\n", n / sum, 1000 * (s[1] + s[2]) / tokens }' "$run/log.csv" >> "$work/$1-$2-$3-$4"
}

median() { sort -n | awk '{ v[NR] = $1 } END { print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'; }

for _ in $(seq "$rounds"); do
    while read -r name ranks threads batch; do measure "$name" "$ranks" "$threads" "$batch" < /dev/null; done <<< "$rows"
done
echo '| ranks x threads | sequences in a step | tokens/s | processor seconds for 1,000 tokens |'
echo '| --- | --- | --- | --- |'
while read -r name ranks threads batch; do
    file=$work/$name-$ranks-$threads-$batch
    echo "| $ranks x $threads ($name) | $batch | $(cut -d' ' -f1 "$file" | median) | $(cut -d' ' -f2 "$file" | median) |"
done <<< "$rows"

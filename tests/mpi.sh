#!/bin/sh
# Training by processes that mpirun starts: the collectives, the losses of one process, the same bytes again, resuming
# by another number, and ends: a killed rank, a loss that is not finite, signals. Run by `make test-mpi`.
. tests/script.sh
as_root=
[ "$(id -u)" != 0 ] || as_root=--allow-run-as-root
mpirun="mpirun $as_root --oversubscribe"
tiny='--hidden 32 --depth 2 --heads 2 --seq-len 32 --batch 6 --precision f32 --threads 1 --seed 9'
part="$tiny --log-every 4 --eval-every 10 --eval-documents 6 --sample-every 20 --save-every 10 --keep 9"
# Many small steps, so that what happens finds them at work, at a rate that does not depend on how many there are.
long="$part --min-lr-ratio 1 --warmup 0 --steps 100000"

# on N ARGUMENT...: the command by N ranks, its output in $work/out and $work/err
on() {
    n=$1
    shift
    # shellcheck disable=SC2086
    timeout 100 $mpirun -np "$n" "$PROGRAM" "$@" > "$work/out" 2> "$work/err" < /dev/null
    status=$?
    return $status
}
trains() {
    what=$1
    shift
    check "$what" on "$@" || cat "$work/err"
}
# refused N TEXT ARGUMENT...: all ranks end, and one says TEXT
refused() {
    n=$1 text=$2
    shift 2
    on "$n" "$@"
    check "'$text' ends it" test $status -ne 0 -a $status -ne 124
    check "'$text' is said once" test "$(grep '^diffusionlm: ' "$work/err" | grep -cF -- "$text")" = 1
    check 'and nothing else' test "$(grep -c '^diffusionlm: ' "$work/err")" = 1
}
same_run() {
    diff -r -x clock.json "$1/checkpoints" "$2/checkpoints" && cmp "$1/samples.txt" "$2/samples.txt" &&
        same_log "$1/log.csv" "$2/log.csv"
}
# All columns but seconds and tokens_per_s.
same_log() {
    cut -d, -f1-3,5-7,9- "$1" > "$work/log1"
    cut -d, -f1-3,5-7,9- "$2" | cmp - "$work/log1"
}
# near_log A B [SHARE]: every number of every row within rounding, or this share of it
near_log() {
    cut -d, -f1-3,5-7,9- "$1" | tr , ' ' > "$work/log1"
    cut -d, -f1-3,5-7,9- "$2" | tr , ' ' > "$work/log2"
    paste -d ' ' "$work/log1" "$work/log2" | awk -v near="${3-1e-4}" '
        NR > 1 {
            if (NF % 2) bad = 1
            for (i = 1; i <= NF / 2; i++) {
                d = $i - $(i + NF / 2)
                if ((d < 0 ? -d : d) > near * ($i < 0 ? -$i : $i)) { print "row " NR ": " $i ", " $(i + NF / 2); bad = 1 }
            }
        }
        END { exit bad || NR < 4 }'
}

corpus 150 text
D=$work/data
"$PROGRAM" tokenizer train "$work/text" -o "$work/tokenizer" --vocab-size 300 --quiet
"$PROGRAM" prepare "$work/text" -t "$work/tokenizer" -o "$D" --seq-len 32 --quiet

# ---- collectives --------------------------------------------------------------------------------------------------------
for n in 2 4; do
    # shellcheck disable=SC2086
    check "collectives of $n processes" timeout 100 $mpirun -np $n "$OUT/tests/unit/test_ranks" small_things_go_round \
        what_rank_0_shares the_first_failure_is_that_of_all blocks_are_summed_in_one_order rank_0_gets_what_is_brought
done

# ---- the same as one ----------------------------------------------------------------------------------------------------
for n in 1 2 4; do
    # shellcheck disable=SC2086
    trains "$n ranks" $n train -d "$D" -o "$work/by$n" $part --steps 30 --json
    check 'one result' lines 1
    [ $n = 1 ] || check 'says by how many' grep -q "trained by $n ranks, each with 1 thread$" "$work/err"
done
# shellcheck disable=SC2086
check 'without mpirun' "$PROGRAM" train -d "$D" -o "$work/alone" $part --steps 30 --quiet
check 'mpirun -np 1 gives the bytes of no mpirun' same_run "$work/alone" "$work/by1"
check 'losses of 2' near_log "$work/alone/log.csv" "$work/by2/log.csv"
check 'losses of 4' near_log "$work/alone/log.csv" "$work/by4/log.csv"
check 'the same files' sh -c "cd '$work/by4' && find . -type f ! -name 'events*' | sort > '$work/files4' &&
    cd '$work/alone' && find . -type f ! -name 'events*' | sort | cmp - '$work/files4'"
check 'a model as any other' "$PROGRAM" eval -m "$work/by4" -d "$D"
# shellcheck disable=SC2086
trains '2 again' 2 train -d "$D" -o "$work/again" $part --steps 30
check 'the same bytes' same_run "$work/by2" "$work/again"
# shellcheck disable=SC2086
trains 'from text' 2 train "$work/text" -o "$work/made" --vocab-size 300 $part --steps 30
check 'the same shards' diff -r "$D" "$work/made/data"
# shellcheck disable=SC2086
trains 'by the clock' 2 train -d "$D" -o "$work/clock" $part --minutes 0.05

# ---- in bfloat16, on several threads --------------------------------------------------------------------------------------
# Large enough that two threads share each product. Rounding to bfloat16 makes more of another order of sums, the more the
# faster a model learns.
wide="$part --hidden 192 --lr 0.001 --precision bf16"
for n in 1 2 4; do
    # shellcheck disable=SC2086
    trains "$n ranks in bfloat16" $n train -d "$D" -o "$work/bf$n" $wide --steps 20
done
check 'losses of 2 in bfloat16' near_log "$work/bf1/log.csv" "$work/bf2/log.csv" 0.005
check 'losses of 4 in bfloat16' near_log "$work/bf1/log.csv" "$work/bf4/log.csv" 0.005
# shellcheck disable=SC2086
trains '4 again in bfloat16' 4 train -d "$D" -o "$work/bfagain" $wide --steps 20
check 'the same bytes in bfloat16' same_run "$work/bf4" "$work/bfagain"
for run in threads threads2; do
    # shellcheck disable=SC2086
    trains '2 ranks of 2 threads' 2 train -d "$D" -o "$work/$run" $wide --threads 2 --steps 20 --json
    check 'says so' said 'trained by 2 ranks, each with 2 threads'
done
check 'losses of 2 threads' near_log "$work/bf1/log.csv" "$work/threads/log.csv" 0.005
check 'the same bytes of 2 threads' same_run "$work/threads" "$work/threads2"

# ---- resumed by others --------------------------------------------------------------------------------------------------
cp -r "$work/by2" "$work/resumed"
trains '2, then 1' 1 train -o "$work/resumed" --resume --steps 40 --threads 1
trains 'then 4' 4 train -o "$work/resumed" --resume --steps 50 --threads 1
# shellcheck disable=SC2086
check 'one alone, as far' "$PROGRAM" train -d "$D" -o "$work/far" $part --steps 30 --quiet
check 'by itself' sh -c "'$PROGRAM' train -o '$work/far' --resume --steps 40 --threads 1 --quiet &&
    '$PROGRAM' train -o '$work/far' --resume --steps 50 --threads 1 --quiet"
check 'the losses of one' near_log "$work/far/log.csv" "$work/resumed/log.csv"

# ---- refused ------------------------------------------------------------------------------------------------------------
# shellcheck disable=SC2086
refused 4 'a batch of 3 sequences is not enough for 4 ranks' train -d "$D" -o "$work/no" $tiny --batch 3 --steps 5
refused 2 "$work/by2 is already there; --resume goes on with it" train -d "$D" -o "$work/by2" --steps 5
refused 2 "$work/nowhere" train -d "$work/nowhere" -o "$work/no" --steps 5
refused 2 'lr was 0.005, is 1' train -o "$work/by2" --resume --lr 1 --steps 60
check 'nothing was made' test ! -e "$work/no"

# ---- not finite ---------------------------------------------------------------------------------------------------------
# shellcheck disable=SC2086
refused 2 'the last good checkpoint is ' train -d "$D" -o "$work/wild" $long --optimizer adamw --lr 100 \
    --weight-decay 100 --warmup 0 --save-every 0 --eval-every 0 --sample-every 0
check 'names the step' said 'loss '

# ---- ends ---------------------------------------------------------------------------------------------------------------
# The process that is rank $2 of the run in $1.
rank_process() {
    for process in /proc/[0-9]*; do
        tr '\0' '\n' 2> /dev/null < "$process/environ" | grep -qx "OMPI_COMM_WORLD_RANK=$2" || continue
        tr '\0' '\n' 2> /dev/null < "$process/cmdline" | grep -qxF "$1" && echo "${process#/proc/}" && return
    done 2> /dev/null
}
# Starts the run $1 by $2 ranks in the background and waits for its first checkpoints. Where one rank ends badly,
# mpirun kills the others after a second, which may be too short a time to say why on a crowded machine.
start() {
    # shellcheck disable=SC2086
    timeout 100 $mpirun --mca odls_base_sigkill_timeout 3 -np "$2" "$PROGRAM" train -d "$D" -o "$1" $long > "$work/out" 2> "$work/err" < /dev/null &
    launcher=$!
    i=0
    while [ ! -s "$1/latest" ] && [ $i -lt 4000 ]; do
        sleep 0.01
        i=$((i + 1))
    done
}
last_step() { sed 's/step-0*//' "$1/latest"; }
# The run in $1 goes on for some steps from its last checkpoint, by $2 ranks as before, and has then the bytes of one that
# was never stopped.
goes_on() {
    steps=$(($(last_step "$1") + 10))
    on "$2" train -o "$1" --resume --steps $steps --threads 1 || return 1
    # shellcheck disable=SC2086
    on "$2" train -d "$D" -o "$1-whole" $long --steps $steps || return 1
    last=step-$(printf %08d $steps)
    for file in model.safetensors raw.safetensors optimizer.safetensors; do
        cmp "$1/checkpoints/$last/$file" "$1-whole/checkpoints/$last/$file" || return 1
    done
}
no_halves() { [ -z "$(find "$1" -name '*.partial*')" ]; }

# killed RANK SIZE
killed() {
    victim=$1 size=$2
    run=$work/dead$victim-$size
    start "$run" "$size"
    kill -KILL "$(rank_process "$run" "$victim")"
    wait $launcher
    status=$?
    check "rank $victim of $size was killed: it ends" test $status -ne 0 -a $status -ne 124
    check 'the others say so' said "rank $victim of $size is gone: its process "
    check 'and what is left' said 'nothing is saved any more, the last good checkpoint is '
    check 'nothing is saved after that' sh -c "! grep -q 'all of it saved' '$work/err'"
    [ "$victim" = 0 ] || check 'nothing is half written' no_halves "$run"
    check 'goes on' goes_on "$run" "$size"
}
killed 1 2
killed 0 2
killed 2 4

for number in 15 10; do
    run=$work/signal$number
    start "$run" 2
    if [ $number = 15 ]; then
        kill -TERM "$(rank_process "$run" 1)"
    else
        # To mpirun, which timeout started: it hands the signal to all ranks.
        kill -USR1 "$(cat /proc/$launcher/task/$launcher/children)"
    fi
    wait $launcher
    status=$?
    check "signal $number: ends by it" test $status = $((128 + number))
    check 'all of it is saved' said 'all of it saved'
    check 'and how to go on is said' said 'go on with:  mpirun -np 2 '
    check 'nothing is half written' no_halves "$run"
    check 'goes on' goes_on "$run" 2
done
finish

#!/bin/sh
# The command trains: from text in one go, from shards, stopped and resumed with the same bytes, and what it refuses.
. tests/script.sh
corpus 150 text
T=$work/tokenizer
D=$work/data
tiny='--hidden 16 --depth 1 --heads 2 --seq-len 32 --batch 4 --threads 1'
# Many small steps, so that a signal finds it at work; evaluations and samples among them.
long="$tiny --steps 2000 --eval-every 700 --eval-documents 2 --sample-every 900 --save-every 300 --keep 2 --seed 9"

same_run() {
    diff -r -x clock.json "$1/checkpoints" "$2/checkpoints" && cmp "$1/samples.txt" "$2/samples.txt" &&
        cmp "$1/latest" "$2/latest" && cmp "$1/best" "$2/best" && same_log "$1/log.csv" "$2/log.csv"
}
# All columns but seconds and tokens_per_s.
same_log() {
    cut -d, -f1-3,5-7,9- "$1" > "$work/log1"
    cut -d, -f1-3,5-7,9- "$2" | cmp - "$work/log1"
}
has_columns() {
    [ "$(head -n 1 "$1")" = 'step,epoch,tokens,seconds,loss,lr,grad_norm,tokens_per_s,eval_ce,eval_ppl,eval_nelbo' ]
}

# ---- in one go, and from shards -----------------------------------------------------------------------------------------
# shellcheck disable=SC2086
succeeds 'train FILE...' train "$work/text" --output "$work/one" --vocab-size 300 $tiny --steps 20 --log-every 5 \
    --eval-every 10 --sample-every 10 --save-every 10 --json --quiet
check 'keys' keys run checkpoint step epoch tokens seconds loss eval_ce eval_ppl eval_nelbo
for name in tokenizer/tokenizer.json data/data.json latest best log.csv samples.txt \
    checkpoints/step-00000020/model.safetensors checkpoints/step-00000020/raw.safetensors; do
    check "$name" test -s "$work/one/$name"
done
check 'columns' has_columns "$work/one/log.csv"
check 'latest' grep -qx step-00000020 "$work/one/latest"
run tokenizer train "$work/text" -o "$T" --vocab-size 300 --quiet
run prepare "$work/text" -t "$T" -o "$D" --seq-len 32 --quiet
check 'the same shards by hand' diff -r "$D" "$work/one/data"
# shellcheck disable=SC2086
succeeds 'train -d DATA' train -d "$D" -o "$work/two" $tiny --steps 20 --log-every 5 --eval-every 10 --sample-every 10 \
    --save-every 10
check 'it says what to do next' said "generate -m $work/two"
sed "s|$work/one/data|$D|" "$work/one/checkpoints/step-00000020/trainer.json" > "$work/state"
check 'the same state' cmp "$work/state" "$work/two/checkpoints/step-00000020/trainer.json"
check 'the same weights' cmp "$work/one/checkpoints/step-00000020/model.safetensors" \
    "$work/two/checkpoints/step-00000020/model.safetensors"

# ---- a resumed run keeps its model --------------------------------------------------------------------------------------
refuses 1 'hidden_size' train -o "$work/two" --resume --preset small --steps 30
refuses 2 '--init is for the beginning' train -o "$work/two" --resume --init "$work/one"
refuses 2 'exclude each other' train -d "$D" -o "$work/no" --epochs 6 --steps 7
refuses 1 'recipe was default, is original' train -o "$work/two" --resume --recipe original --steps 30
for size in 290 310; do
    refuses 1 "vocab_size was 300, is $size" train "$work/text" -o "$work/one" --resume --vocab-size $size --steps 30
done
refuses 1 'format was separated, is lines' train "$work/text" -o "$work/one" --resume --format lines --steps 30
refuses 1 'field was text, is story' train "$work/text" -o "$work/one" --resume --field story --steps 30
refuses 1 'invalid was error, is replace' train "$work/text" -o "$work/one" --resume --invalid replace --steps 30
refuses 1 '1 text files were read, 2 are named' train "$work/text" "$work/text" -o "$work/one" --resume --steps 30
echo 'More.' | cat "$work/text" - > "$work/more"
refuses 1 "$work/more has $(wc -c < "$work/more") bytes, had $(wc -c < "$work/text")" train "$work/more" -o "$work/one" --resume
cp -r "$work/one" "$work/again"
cp "$work/text" "$work/renamed"
succeeds 'the same text by another name' train "$work/renamed" -o "$work/again" --resume --vocab-size 300 --steps 21
succeeds 'and one that is gone' train "$work/nosuch" -o "$work/again" --resume --steps 22
for damage in '' '[]' '{"bytes": 3}' '{"bytes": [1'; do
    printf '%s' "$damage" > "$work/again/text.json"
    refuses 1 "$work/again/text.json: " train "$work/text" -o "$work/again" --resume --steps 23
done
rm "$work/again/text.json"
refuses 1 'was made with a vocabulary of 300 tokens, not 290' train "$work/text" -o "$work/again" --resume --vocab-size 290
refuses 1 'nosuch: No such file' train "$work/nosuch" -o "$work/no"
: > "$work/blank"
refuses 1 'the text is empty' train "$work/blank" -o "$work/no"
refuses 1 "$work: Is a directory" train "$work" -o "$work/no"
check 'nothing was made' test ! -e "$work/no"
cp -r "$work/one" "$work/moved"
mv "$work/one" "$work/away"
succeeds 'a moved run' train -o "$work/moved" --resume --steps 21 --quiet
mv "$work/away" "$work/one"

# ---- folders, and texts of one document --------------------------------------------------------------------------------
mkdir "$work/empty" "$work/other"
: > "$work/other/letter"
# shellcheck disable=SC2086
succeeds 'into an empty folder' train -d "$D" -o "$work/empty" $tiny --steps 1 --quiet
refuses 1 'other is already there, and is no run' train -d "$D" -o "$work/other"
echo 'One book, and nothing else.' > "$work/book"
# shellcheck disable=SC2086
succeeds 'a single document' train "$work/book" -o "$work/read" $tiny --steps 2 --eval-every 1
check 'it is learnt whole' said 'none can be held out, so nothing is evaluated; --eval-data DATA'
refuses 2 'hidden_size 128 is no multiple of num_heads 3' train "$work/book" -o "$work/no" --preset tiny --heads 3
check 'nothing was made' test ! -e "$work/no"

# ---- stopped and resumed ------------------------------------------------------------------------------------------------
# shellcheck disable=SC2086
succeeds 'uninterrupted' train -d "$D" -o "$work/whole" $long --quiet
# stopped SIGNAL STATUS RUN: starts a run, sends the signal when it has logged something
stopped() {
    # shellcheck disable=SC2086
    "$PROGRAM" train -d "$D" -o "$3" $long 2> "$work/err" &
    process=$!
    i=0
    while [ "$(wc -l 2> /dev/null < "$3/log.csv" || echo 0)" -lt 3 ] && [ $i -lt 3000 ]; do
        sleep 0.01
        i=$((i + 1))
    done
    kill -"$1" $process
    wait $process
    status=$?
    [ $status = "$2" ] || echo "exit status $status, not $2"
    [ $status = "$2" ] && said 'all of it saved' && [ -s "$3/latest" ] &&
        [ "$(cat "$3/latest")" != step-00002000 ]
}
for signal in 'INT 130' 'TERM 143'; do
    name=${signal% *}
    # shellcheck disable=SC2086
    check "SIG$name" stopped $signal "$work/$name"
    go_on=$(sed -n 's/^go on with:  //p' "$work/err")
    check 'it says how to go on' test -n "$go_on"
    check 'as it says' sh -c "$go_on --quiet"
    check 'the same bytes' same_run "$work/whole" "$work/$name"
done
succeeds 'shorter' train --data "$D" --output "$work/short" --hidden 16 --depth 1 --heads 2 --seq-len 32 --batch 4 \
    --steps 6 --quiet
succeeds 'resume by RUN alone, with more steps' train -o "$work/short" --resume --steps 9 --verbose
check 'goes to the new end' grep -qx step-00000009 "$work/short/latest"
succeeds 'resume what is complete' train -o "$work/short" --resume
check 'says that there is nothing to do' said 'was complete already, after step 9'
check 'and no loss' sh -c "! grep -q 'loss 0.0000' '$work/err'"

# Stopped before training began, at any of its parts: --resume does the rest.
mkdir "$work/begun"
cp -r "$T" "$work/begun/tokenizer"
# shellcheck disable=SC2086
succeeds 'a tokenizer alone' train "$work/text" -o "$work/begun" $tiny --steps 4 --resume --quiet
check 'was used' cmp "$T/tokenizer.json" "$work/begun/checkpoints/step-00000004/tokenizer.json"
mkdir "$work/asked"
cp "$work/one/text.json" "$work/asked"
refuses 1 'asked is already there; --resume goes on with it' train "$work/text" -o "$work/asked" --vocab-size 300
refuses 1 'vocab_size was 300, is 1024' train "$work/text" -o "$work/asked" --resume
# shellcheck disable=SC2086
succeeds 'what was asked for alone' train "$work/text" -o "$work/asked" --vocab-size 300 $tiny --steps 4 --resume --quiet
check 'made the same' cmp "$T/tokenizer.json" "$work/asked/tokenizer/tokenizer.json"
mkdir "$work/made"
cp -r "$D" "$work/made/data"
# shellcheck disable=SC2086
succeeds 'shards alone' train -o "$work/made" $tiny --steps 4 --resume --quiet
check 'were used' cmp "$work/made/checkpoints/step-00000004/model.safetensors" \
    "$work/begun/checkpoints/step-00000004/model.safetensors"

# ---- what is refused, with nothing changed -------------------------------------------------------------------------------
(cd "$work" && find short -type f -exec cksum {} + | sort) > "$work/before"
refuses 1 "$work/short is already there; --resume goes on with it" train -d "$D" -o "$work/short" --steps 5
refuses 1 'lr was 0.005, is 1' train -o "$work/short" --resume --lr 1 --steps 12
refuses 1 'seed was 0, is 3; micro_tokens was 2048, is 7' train -o "$work/short" --resume --seed 3 --micro-tokens 7 --steps 12
refuses 1 'has done 9 steps, more than the 5' train -o "$work/short" --resume --steps 5
run tokenizer train "$work/text" -o "$work/other" --vocab-size 290 --quiet
run prepare "$work/text" -t "$work/other" -o "$work/foreign" --quiet
refuses 1 'goes on with other data than it began with' train -o "$work/short" -d "$work/foreign" --resume --steps 12
refuses 1 'was made with another vocabulary' train -d "$D" --eval-data "$work/foreign" -o "$work/no" --steps 2
refuses 1 "$work/absent: there is no such run to resume" train "$work/text" -o "$work/absent" --resume
refuses 2 'hidden_size 15 is no multiple of num_heads 2' train "$work/text" -o "$work/no" --hidden 15 --heads 2
refuses 1 "$work/absent" train -d "$work/absent" -o "$work/no"
refuses 2 'what to train on is missing: -d DATA or FILE...' train -o "$work/no"
refuses 2 '-d DATA and FILE... exclude each other' train -d "$D" "$work/text" -o "$work/no"
refuses 2 '--steps, --epochs and --minutes exclude each other' train -d "$D" -o "$work/no" --steps 3 --epochs 1
refuses 2 '--vocab-size goes with FILE...' train -d "$D" -o "$work/no" --vocab-size 300
refuses 2 '--tokenizer and --vocab-size exclude each other' train "$work/text" -t "$T" -o "$work/no" --vocab-size 300
refuses 2 '--lr: -1 is not a number from 0 to 100' train -d "$D" -o "$work/no" --lr -1
refuses 2 '--weight: nelbo is not elbo, flat, uniform, inv_sigma or sigma; did you mean elbo?' train -d "$D" \
    -o "$work/no" --weight nelbo
refuses 2 '-o, --output RUN is missing' train -d "$D"
check 'nothing was made' test ! -e "$work/no" -a ! -e "$work/absent"
(cd "$work" && find short -type f -exec cksum {} + | sort) > "$work/after"
check 'nothing was changed' cmp "$work/before" "$work/after"

# ---- every other option -----------------------------------------------------------------------------------------------------
for weight in elbo flat uniform inv_sigma sigma; do
    # shellcheck disable=SC2086
    succeeds "--weight $weight" train -d "$D" -o "$work/$weight" $tiny --steps 2 --weight $weight --quiet
done
# shellcheck disable=SC2086
succeeds 'the original' train -d "$D" -o "$work/original" $tiny --recipe original --steps 2 --warmup 1 --quiet \
    --eval-data "$D" --optimizer muon --schedule linear --precision f32
# shellcheck disable=SC2086
succeeds 'from a model' train -d "$D" -o "$work/init" $tiny --init "$work/one" --lr 0.001 --steps 2 --eval-every 0 --quiet
succeeds 'options' train -o "$work/options" --preset tiny --mlp-ratio 2 --time adaln --position learned --epochs 0.02 \
    --batch 2 --min-lr-ratio 0.2 --weight-decay 0.1 --clip 0.5 --ema 0.9 --optimizer adamw --tail-share 0.2 \
    --micro-tokens 64 --tokenizer "$T" --format separated --field text --invalid error --seq-len 32 --quiet "$work/text"
check 'a preset' sh -c "'$PROGRAM' info '$work/options' | grep -q 'channels 128, blocks 4, heads 4'"
# shellcheck disable=SC2086
succeeds 'a name that is not UTF-8' train -d "$D" -o "$(printf '%s/\377' "$work")" $tiny --steps 1 --quiet --json
check 'is printed as JSON can' wrote "$(printf '"run":"%s/\357\277\275",' "$work")"
succeeds 'and told about' info "$(printf '%s/\377' "$work")" --json
# shellcheck disable=SC2086
succeeds 'in folders that are not there' train "$work/text" -o "$work/new/runs/one" $tiny --steps 1 --quiet
# shellcheck disable=SC2086
succeeds 'by the clock' train -d "$D" -o "$work/clock" $tiny --minutes 0.01 --quiet
check 'every option was tried' covered train

# One of several that were started together must not train by itself, unless it can join them (tests/mpi.sh).
if [ "${MPI:-0}" = 0 ]; then
    export OMPI_COMM_WORLD_SIZE=2
    refuses 1 'one of 2 processes that were started together, and this build trains in one alone' train -d "$D" -o "$work/no"
    check 'nothing was made' test ! -e "$work/no"
    unset OMPI_COMM_WORLD_SIZE
fi
finish

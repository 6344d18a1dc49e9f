#!/bin/sh
# The command on a model: score.
. tests/script.sh
corpus 120 text
R=$work/run
succeeds 'train' train "$work/text" -o "$R" --vocab-size 300 --hidden 16 --depth 1 --heads 2 --seq-len 64 --batch 4 \
    --steps 30 --eval-every 0 --sample-every 0 --quiet --threads 1
head -n 6 "$work/text" > "$work/three"
text_keys='text tokens bytes nelbo_nats standard_error orders'
# The number behind the key $1 in line $2 of the output.
value() { sed -n "$2p" "$work/out" | sed "s/.*\"$1\":\(-\{0,1\}[0-9.e-]*\).*/\1/"; }
# Value $1 of line 1 and $2 differ by at most 1e-4 of the latter
near() { awk -v a="$(value "$1" 1)" -v b="$2" 'BEGIN { d = a - b; e = 1e-4 * b; exit !(a != "" && d * d <= e * e) }'; }
rows() { [ "$(grep -o '"order":' "$work/out" | wc -l)" = "$1" ]; }

# ---- a line for each text -------------------------------------------------------------------------------------------------
succeeds 'score' score --model "$R" "$work/three"
check 'a header and a line each' lines 4
check 'of every order' sh -c "head -n 1 '$work/out' | grep -q 'NELBO .* confidence  *margin  *entropy left_to_right'"
check 'and how the text begins' wrote 'Once upon a time there was a cat number ...'
succeeds 'JSON' score -m "$R" "$work/three" --json --precision f32 --threads 1 --seed 4
check 'a line each' lines 3
cp "$work/out" "$work/all"
head -n 1 "$work/all" > "$work/out"
# shellcheck disable=SC2086
check 'keys' keys $text_keys
check 'and orders' wrote '"orders":{"confidence":-'
bytes=$(printf %s "$(head -n 1 "$work/three")" | wc -c)
check 'bytes' [ "$(value bytes 1)" = "$bytes" ]
confidence=$(value confidence 1)
check 'again, from standard input' sh -c \
    "'$PROGRAM' score -m '$R' --json --precision f32 --threads 1 --seed 4 < '$work/three' > '$work/again'"
check 'the same seed repeats it' cmp "$work/all" "$work/again"
succeeds 'one of them, one order' score -m "$R" "$work/three" --documents 1 --orders confidence --reveals 1 --json \
    --precision f32 --threads 1 --draws 1
check 'a line' lines 1
check 'only that order' sh -c "grep -q '\"orders\":{\"confidence\":-[0-9.]*}' '$work/out'"
check 'as among the others' near confidence "$confidence"
check 'one draw has no standard error' wrote '"standard_error":null'
succeeds 'the bound alone' score -m "$R" "$work/three" --orders none --json
check 'no orders' wrote '"orders":{}'
succeeds 'bounds beside them' score -m "$R" "$work/three" --orders none --confidence-threshold 0 --entropy-bound 0 --json
check 'are two more' wrote '"orders":{"threshold":-'
succeeds 'all at once' score -m "$R" "$work/three" --orders confidence,left_to_right --steps 1 --reveal linear \
    --confidence-threshold 0 --json --precision f32 --threads 1
check 'whatever the order' near left_to_right "$(value confidence 1)"
check 'and by a threshold of 0' near threshold "$(value confidence 1)"
succeeds 'every other option' score -m "$R" --format lines --field x --invalid replace --tokenizer "$R/tokenizer" \
    --weights raw --schedule linear --heads 2 --temperature 0.7 --top-k 200 --top-p 0.999 --min-p 1e-9 --repetition-penalty 1.1 \
    --ban '#290' --documents 2 --quiet --verbose "$work/three"
succeeds 'a token that the sampler does not draw' score -m "$R" "$work/three" --orders confidence --ban a --json
check 'has no likelihood' wrote '"orders":{"confidence":null}'
check 'which is said' said 'have no likelihood under some samplers, which cannot write them (null)'
succeeds 'the same for people' score -m "$R" "$work/three" --orders confidence --ban a
check 'inf' wrote ' inf '

# ---- windows, and all masks -------------------------------------------------------------------------------------------------
i=0
while [ $i -lt 60 ]; do printf 'long '; i=$((i + 1)); done > "$work/long"
succeeds 'a text longer than the model' score -m "$R" "$work/long" --json
check 'is scored whole' [ "$(value tokens 1)" -gt 64 ]
echo 'A cat.' > "$work/short"
succeeds 'all masks' score -m "$R" "$work/short" --exact --json --precision f32
check 'have no error' wrote '"standard_error":0.0'
exact=$(value nelbo_nats 1)
succeeds 'many draws' score -m "$R" "$work/short" --draws 2000 --json --precision f32
check 'come near' awk -v a="$(value nelbo_nats 1)" -v b="$exact" -v e="$(value standard_error 1)" \
    'BEGIN { d = a - b; exit !(d * d < 25 * e * e) }'
refuses 1 'text 1 has ' score -m "$R" "$work/three" --exact
refuses 1 '--exact takes at most 20' score -m "$R" "$work/long" --exact

# ---- the table --------------------------------------------------------------------------------------------------------------
succeeds 'a table' score -m "$R" "$work/three" --table
check 'the bound' wrote 'random (NELBO)'
check 'orders' sh -c "[ \$(grep -cE '^(confidence|margin|entropy|left_to_right) .* (1|2|4|8|16) a step' '$work/out') = 20 ]"
check 'and bounds' sh -c "[ \$(grep -cE '^(threshold|entropy_bound) ' '$work/out') = 8 ]"
succeeds 'as JSON' score -m "$R" "$work/three" --table --json --orders confidence
check 'a line' lines 1
check 'the rows of the order' rows 5
check 'keys' keys texts tokens bytes nelbo rows
check 'the bound' wrote '"nelbo":{"forwards_per_text":'
check 'each row' wrote '{"order":"confidence","reveals_per_step":16,"steps":null,"confidence_threshold":null,"entropy_bound":null,"impossible":0,"forwards_per_text":'
succeeds 'of one step budget' score -m "$R" "$work/three" --table --json --steps 5
check 'a row for each order' rows 4
check 'passes' wrote '"steps":5,"confidence_threshold":null,"entropy_bound":null,"impossible":0,"forwards_per_text":5.0,'
succeeds 'of a bound' score -m "$R" "$work/three" --table --json --orders none --entropy-bound 3
check 'a row' rows 1
succeeds 'of what cannot be written' score -m "$R" "$work/three" --table --orders margin --ban a
check 'inf' wrote 'inf: with these options the sampler cannot write some of the texts'
succeeds 'and as JSON' score -m "$R" "$work/three" --table --orders margin --ban a --json
check 'null' wrote '"impossible":3,"forwards_per_text":'
: > "$work/empty"
refuses 1 'there is no text to score' score -m "$R" "$work/empty" --table

# Long enough that nobody waits for its end. In the foreground, since timeout otherwise sends its signal twice, and the
# second one kills.
i=0
while [ $i -lt 40 ]; do cat "$work/text"; i=$((i + 1)); done > "$work/many"
stopped() {
    timeout --foreground --preserve-status -s INT 2 "$PROGRAM" score -m "$R" "$work/many" --table > "$work/out" \
        2> "$work/err"
    [ $? = 130 ] && [ ! -s "$work/out" ] && said 'stopped'
}
check 'Ctrl-C ends it' stopped

# ---- what it refuses --------------------------------------------------------------------------------------------------------
refuses 2 "--orders: 'x' is none of confidence, margin, entropy, left_to_right" score -m "$R" --orders margin,x "$work/three"
refuses 2 "--orders: '' is none of" score -m "$R" --orders '' "$work/three"
refuses 2 'the order random is one of chance' score -m "$R" --orders random "$work/three"
refuses 2 'the order first_hitting is one of chance' score -m "$R" --orders confidence,first_hitting "$work/three"
refuses 2 'at temperature 0 a sampler writes a single text' score -m "$R" --temperature 0 "$work/three"
refuses 2 '2 reveals a step leave no choice of steps' score -m "$R" --reveals 2 --steps 3 "$work/three"
refuses 2 '--draws: 0 is not a whole number' score -m "$R" --draws 0 "$work/three"
refuses 2 '#300 is no token' score -m "$R" --ban '#300' "$work/three"
printf '{"text": "a"}\n{"text": ""}\n' > "$work/jsonl"
refuses 1 'text 2 is empty' score -m "$R" --format jsonl "$work/jsonl"
refuses 1 "$work/absent" score -m "$R" "$work/absent"
refuses 1 "$work/absent" score -m "$work/absent"
refuses 2 '-m, --model MODEL is missing' score
check 'every option of score was tried' covered score
finish

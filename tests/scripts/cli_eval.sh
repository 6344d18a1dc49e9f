#!/bin/sh
# eval: its table, JSON, curve and plot, all masks of short texts, two models, and what it refuses.
. tests/script.sh
corpus 120 text
R=$work/run
succeeds 'train' train "$work/text" -o "$R" --vocab-size 300 --hidden 16 --depth 1 --heads 2 --seq-len 64 --batch 4 \
    --steps 30 --eval-every 0 --sample-every 0 --quiet --threads 1
second="-d $R/data --hidden 16 --depth 1 --heads 2 --batch 4 --steps 3 --eval-every 0 --sample-every 0 --quiet"
# shellcheck disable=SC2086
succeeds 'train a second' train $second -o "$work/second" --seq-len 48 --threads 1 --seed 2
# shellcheck disable=SC2086
succeeds 'train as the original' train $second -o "$work/original" --seq-len 64 --threads 1 --recipe original
D=$R/data
for i in 1 2 3; do printf 'a cat saw %s\n<|endoftext|>\n' "$i"; done > "$work/short"
succeeds 'prepare short texts' prepare "$work/short" -t "$R/tokenizer" -o "$work/shorts" --quiet
eval_keys='eval_ce perplexity nelbo_nats_per_token standard_error standard_error_documents interval_95 interval_95_documents
    bits_per_byte tokens bytes without_end_token exact seconds'
# The JSON of the last run but for its seconds.
measured() { sed 's/"seconds":[0-9.e-]*//g' "$work/out"; }

# ---- one model ----------------------------------------------------------------------------------------------------------
succeeds 'eval' eval --model "$R" --data "$D" --draws 3 --seq-len 32 --documents 20 --seed 5
check 'a table' wrote 'bits per byte'
check 'with an interval of each error' sh -c "[ \$(grep -c '; 95 %: [0-9.]* to [0-9.]*$' '$work/out') = 2 ]"
check 'and without the end tokens' wrote 'without end'
succeeds 'eval JSON' eval -m "$R" -d "$D" --json --seed 5 --tokenizer "$R/tokenizer" --weights ema --precision f32 \
    --schedule cosine --heads 2 --threads 1 --quiet --verbose
# shellcheck disable=SC2086
check 'keys' keys $eval_keys
check 'drawn' wrote '"exact":false'
measured > "$work/measured"
succeeds 'eval again' eval -m "$R" -d "$D" --json --seed 5 --precision f32 --threads 1
check 'the same seed repeats it' sh -c "sed 's/\"seconds\":[0-9.e-]*//g' '$work/out' | cmp - '$work/measured'"
succeeds 'one draw' eval -m "$R" -d "$D" --draws 1 --json
check 'has no standard error' wrote '"standard_error":null'
check 'and no interval' wrote '"interval_95":[null,null]'
succeeds 'one draw' eval -m "$R" -d "$D" --draws 1
check 'which is said' wrote 'these data do not tell'
succeeds 'masks one by one' eval -m "$R" -d "$D" --draws 4 --masks independent --json --precision f32 --threads 1
measured > "$work/independent"
succeeds 'pairs of masks' eval -m "$R" -d "$D" --draws 4 --masks complementary --json --precision f32 --threads 1
measured > "$work/complementary"
check 'are other masks' sh -c "! cmp -s '$work/independent' '$work/complementary'"
succeeds 'four draws' eval -m "$R" -d "$D" --draws 4 --json --precision f32 --threads 1
check 'are pairs' sh -c "sed 's/\"seconds\":[0-9.e-]*//g' '$work/out' | cmp - '$work/complementary'"
succeeds 'as the original' eval -m "$work/original" -d "$D" --json
check 'has no end token' wrote '"without_end_token":null'
refuses 1 '3 draws are odd, complementary masks come in pairs' eval -m "$R" -d "$D" --draws 3 --masks complementary

# ---- all masks ----------------------------------------------------------------------------------------------------------
succeeds 'all masks' eval -m "$R" -d "$work/shorts" --exact
check 'a table' wrote 'every mask was tried'
succeeds 'all masks, JSON' eval -m "$R" -d "$work/shorts" --exact --json
check 'said' wrote '"exact":true'
check 'without an error of masks' wrote '"standard_error":0.0,'
succeeds 'all masks, two models' eval -m "$R" -m "$work/second" -d "$work/shorts" --exact --json --draws 1 --curve
check 'without an error of masks' sh -c "[ \$(grep -o '\"standard_error\":0.0,\"standard_error_documents\":[0-9]' '$work/out' | wc -l) -ge 6 ]"
refuses 1 'document 1 has ' eval -m "$R" -d "$D" --exact
check 'by its length' said 'tokens in windows of up to 64, and all masks are tried of at most 20'
refuses 2 '--exact tries all masks, so --draws has nothing to say' eval -m "$R" -d "$work/shorts" --exact --draws 2
refuses 2 '--exact tries all masks, so --masks has nothing to say' eval -m "$R" -d "$work/shorts" --exact --masks auto

# ---- the curve ----------------------------------------------------------------------------------------------------------
succeeds 'a curve' eval -m "$R" -d "$D" --documents 10 --curve
check 'of 20 shares' sh -c "[ \$(grep -cE '^ *[0-9]+ %  ' '$work/out') = 20 ]"
succeeds 'a curve, JSON' eval -m "$R" -d "$D" --documents 10 --curve --json
# shellcheck disable=SC2086
check 'keys' keys $eval_keys curve
check 'points' sh -c "[ \$(grep -o '\"ratio\":' '$work/out' | wc -l) = 20 ]"
succeeds 'a plot' eval -m "$R" -d "$D" --documents 10 --svg "$work/plot.svg"
check 'is of SVG' grep -q '^<svg ' "$work/plot.svg"
check 'with 20 points' sh -c "[ \$(grep -c '<circle' '$work/plot.svg') = 20 ]"
check 'and the table beside it' sh -c "[ \$(grep -cE '^ *[0-9]+ %  ' '$work/out') = 20 ]"
succeeds 'two curves in place of one' eval -m "$R" -m "$work/second" -d "$D" --documents 10 --svg "$work/plot.svg" --quiet
check 'with 40 points' sh -c "[ \$(grep -c '<circle' '$work/plot.svg') = 40 ]"
check 'no half file is left' sh -c "! ls '$work' | grep -q partial"
refuses 1 "$work/absent/plot.svg: cannot be written" eval -m "$R" -d "$D" --documents 3 --svg "$work/absent/plot.svg"

# ---- two models ---------------------------------------------------------------------------------------------------------
succeeds 'two models' eval -m "$R" -m "$work/second" -d "$D" --seed 5
check 'a table' wrote 'the second has'
check 'with intervals of the difference' sh -c "[ \$(grep -c '; 95 %: [+-][0-9.]* to [+-][0-9.]*$' '$work/out') = 2 ]"
succeeds 'two models, JSON' eval -m "$R" -m "$work/second" -d "$D" --json --seed 5 --precision f32 --threads 1
check 'keys' sh -c "grep -q '^{\"models\":\[{.*}\],\"difference\":{\"eval_ce\":.*\"standard_error\":.*\"interval_95\":' '$work/out'"
sed 's/^{"models":\[//; s/"seconds":[0-9.e-]*.*//' "$work/out" > "$work/first"
succeeds 'the first alone, in windows that both take' eval -m "$R" -d "$D" --json --seed 5 --precision f32 --threads 1 \
    --seq-len 48
check 'is the same' sh -c "sed 's/\"seconds\":[0-9.e-]*.*//' '$work/out' | cmp - '$work/first'"
succeeds 'a model beside itself' eval -m "$R" -m "$R" -d "$D" --json
check 'differs by nothing' wrote '"nelbo_nats_per_token":0.0,"standard_error":0.0,"standard_error_documents":0.0,"interval_95":[0.0,0.0]'

succeeds 'statistics of texts (more: cli_statistics.sh)' eval --samples "$work/short" --format separated -d "$D" \
    --train-data "$D"
refuses 1 'score other tokens: measure each alone' eval -m "$R" -m "$work/original" -d "$D"
refuses 2 '-m: c is one too many, two are compared' eval -m a -m b -m c -d "$D"
refuses 1 'sequence length 65 is above the model' eval -m "$R" -d "$D" --seq-len 65
refuses 1 "$R is no folder of prepared data: it has no data.json" eval -m "$R" -d "$R"
refuses 1 "$work/absent" eval -m "$R" -d "$work/absent"
refuses 2 '-d, --data DATA is missing' eval -m "$R"
run tokenizer train "$work/text" -o "$work/other" --vocab-size 290 --quiet
run prepare "$work/text" -t "$work/other" -o "$work/foreign" --quiet
refuses 1 'the data was made with another tokenizer' eval -m "$R" -d "$work/foreign"

check 'every option of eval was tried' covered eval
finish

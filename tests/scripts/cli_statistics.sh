#!/bin/sh
# eval --samples: its table and JSON, the formats it reads, and what it refuses.
. tests/script.sh
corpus 120 text
R=$work/run
# Every text is a training document; the held-out ones are others.
i=1000
while [ $i -lt 1040 ]; do
    echo "Once upon a time there was a dog number $i. It had $((i * 7 % 31)) bones."
    echo '<|endoftext|>'
    i=$((i + 1))
done > "$work/others"
succeeds 'train' train "$work/text" -o "$R" --vocab-size 300 --hidden 16 --depth 1 --heads 2 --seq-len 64 --batch 4 \
    --steps 10 --eval-every 0 --sample-every 0 --quiet --threads 1
# shellcheck disable=SC2086
succeeds 'train as the original' train -d "$R/data" -o "$work/original" --hidden 16 --depth 1 --heads 2 --batch 4 --steps 3 \
    --eval-every 0 --sample-every 0 --quiet --seq-len 64 --threads 1 --recipe original
succeeds 'prepare' prepare "$work/others" -t "$R/tokenizer" -o "$work/held" --quiet
H=$work/held
head -n 40 "$work/text" > "$work/copied"

side_keys='texts tokens distinct_1 distinct_2 distinct_3 repeated_2grams repeated_3grams repeated_4grams unigram_entropy_nats ended
    lengths mean standard_deviation min p5 p25 median p75 p95 max histogram copied longest_span span seen_8grams'
# Figure $1 of the JSON of the last run is $2.
samples_have() { [ "$(sed 's/"held_out".*//' "$work/out" | grep -o "\"$1\":[^,}]*" | head -n 1)" = "\"$1\":$2" ]; }
held_out_have() { [ "$(sed 's/.*"held_out"//' "$work/out" | grep -o "\"$1\":[^,}]*" | head -n 1)" = "\"$1\":$2" ]; }

# ---- what it measures -------------------------------------------------------------------------------------------------------
succeeds 'plain texts' eval --samples "$work/copied" -d "$H"
check 'a table' wrote 'distinct-1'
check 'nothing is copied without training data' sh -c "! grep -q copied '$work/out'"
check 'whether they end is not known' grep -q '^end  *-  *[0-9.]* %' "$work/out"
succeeds 'copies' eval --samples "$work/copied" --data "$H" --train-data "$R/data" --seed 3 --threads 2 --verbose
check 'are found whole' grep -q '^8-grams seen  *100.0 %' "$work/out"
check 'and shown' wrote 'Once upon a time there was a cat number'
check 'what was read is told' wrote 'looked up in 120 documents, '
check 'nothing for terminals in a file' sh -c "! grep -q '$(printf '\033')' '$work/out'"
succeeds 'JSON' eval --samples "$work/copied" -d "$H" --train-data "$R/data" --json --quiet --seed 3
cp "$work/out" "$work/first"
# shellcheck disable=SC2086
check 'keys' keys samples held_out window training $side_keys
check 'texts' samples_have texts 20
check 'as many documents' held_out_have texts 20
check 'all is copied' samples_have seen_8grams 1.0
check 'not of the others' sh -c "! sed 's/.*held_out//' '$work/out' | grep -q 'seen_8grams\":1.0'"
check 'not known is null' samples_have ended null
succeeds 'again' eval --samples "$work/copied" -d "$H" --train-data "$R/data" --json --seed 3 --threads 1
check 'the same seed repeats it' sh -c "sed 's/\"seconds\".*//' '$work/out' > '$work/a'
    sed 's/\"seconds\".*//' '$work/first' | cmp - '$work/a'"
succeeds 'another seed' eval --samples "$work/copied" -d "$H" --json --seed 4
check 'without training data there is null' sh -c "grep -q '\"training\":null' '$work/out' && ! grep -q seen_8grams '$work/out'"

# ---- formats ----------------------------------------------------------------------------------------------------------------
run generate -m "$R" -n 6 --length 30 --json
cp "$work/out" "$work/json"
succeeds 'what generate --json writes' eval --samples "$work/json" -d "$H" --json
check 'texts' samples_have texts 6
check 'tells whether it ends' sh -c "! grep -q '\"ended\":null' '$work/out'"
check 'in 30 tokens' wrote '"window":30'
printf '{"ids": [5, 6, 7, 3, 3]}\n\n{"ids": [8, 9]}\n{"text": null, "ids": [3]}\n' > "$work/ids"
succeeds 'ids' eval --samples "$work/ids" -d "$H" --json
check 'end at the end token' samples_have tokens 5
check 'two of three end' samples_have ended 0.66666666666666663
succeeds 'of a model' eval --samples "$work/ids" -d "$H" --json -m "$R"
check 'that has ends' samples_have ended 0.66666666666666663
succeeds 'of a model' eval --samples "$work/ids" -d "$H" --json --model "$work/original"
check 'that has none' samples_have ended null
check 'each token counts' samples_have tokens 8
printf '{"text": "a cat"}\n{"ids": [3]}\n' > "$work/mixed"
succeeds 'a text without ids' eval --samples "$work/mixed" -d "$H" --json
check 'does not tell whether it ends' samples_have ended null
succeeds 'lines' eval --samples "$work/others" -d "$H" --json --format lines
check 'one text a line' samples_have texts 80
succeeds 'whole' eval --samples "$work/others" -d "$H" --json --format whole
check 'one text' samples_have texts 1
check 'without deviation' samples_have standard_deviation null
printf '{ is a brace\n<|endoftext|>\nand } another' > "$work/braces"
succeeds 'separated' eval --samples "$work/braces" -d "$H" --json --format separated
check 'two texts' samples_have texts 2
gzip -c "$work/json" > "$work/json.gz"
succeeds 'compressed' eval --samples "$work/json.gz" -d "$H" --json
check 'is JSON too' samples_have texts 6
succeeds_from() { run_from=$1; shift; timeout 120 "$PROGRAM" "$@" < "$run_from" > "$work/out" 2> "$work/err"; }
check 'standard input' succeeds_from "$work/copied" eval --samples - -d "$H" --json
check 'texts' samples_have texts 20
check 'JSON on standard input' succeeds_from "$work/json" eval --samples - --format jsonl -d "$H" --json
check 'texts' samples_have texts 6
check 'is asked about' sh -c "! '$PROGRAM' eval --samples - -d '$H' < '$work/json' 2> '$work/err' &&
    grep -q 'begins as JSON does; --format tells whether it is jsonl or separated' '$work/err'"
succeeds 'more samples than documents' eval --samples "$work/text" -d "$H" --json
check 'is said' said 'has 40 documents to hold beside 120 samples'
check 'all of them' held_out_have texts 40

# ---- what it refuses --------------------------------------------------------------------------------------------------------
: > "$work/empty"
refuses 1 'holds no text' eval --samples "$work/empty" -d "$H"
printf '\n \n<|endoftext|>\n' > "$work/blank"
refuses 1 'holds no text' eval --samples "$work/blank" -d "$H"
refuses 1 "$work/absent" eval --samples "$work/absent" -d "$H"
refuses 1 "$work/absent" eval --samples "$work/absent" -d "$H" --format jsonl
refuses 1 "$work" eval --samples "$work" -d "$H"
printf '{"ids": [5, 300]}\n' > "$work/bad"
refuses 1 'value 1: ids[1] is 300, and the vocabulary has 300 tokens' eval --samples "$work/bad" -d "$H"
printf '{"ids": [5]}\n{"ids": [5, -1]}\n' > "$work/bad"
refuses 1 'value 2: ids[1] is not a token id' eval --samples "$work/bad" -d "$H"
printf '{"ids": "none"}\n' > "$work/bad"
refuses 1 'value 1: not {"ids": [...]}' eval --samples "$work/bad" -d "$H"
printf '{"story": "a cat"}\n' > "$work/bad"
refuses 1 'value 1 has neither "ids" nor a "text"' eval --samples "$work/bad" -d "$H"
printf '[1]\n' > "$work/bad"
refuses 1 'value 1 has neither "ids" nor a "text"' eval --samples "$work/bad" -d "$H" --format jsonl
head -c 100 "$work/json" > "$work/bad"
refuses 1 'value 1 is not JSON' eval --samples "$work/bad" -d "$H"
printf 'a cat \377\n' > "$work/bad"
refuses 1 "$work/bad" eval --samples "$work/bad" -d "$H"
printf '{"text": "\377"}\n' > "$work/bad"
refuses 1 "$work/bad" eval --samples "$work/bad" -d "$H"
refuses 1 "$work/absent" eval --samples "$work/copied" -d "$work/absent"
refuses 1 "$work/absent" eval --samples "$work/copied" -d "$H" --train-data "$work/absent"
refuses 1 "$work/absent" eval --samples "$work/copied" -d "$H" -m "$work/absent"
run tokenizer train "$work/text" -o "$work/other" --vocab-size 290 --quiet
run prepare "$work/text" -t "$work/other" -o "$work/foreign" --quiet
refuses 1 'were prepared with different tokenizers' eval --samples "$work/copied" -d "$H" --train-data "$work/foreign"
refuses 1 'was prepared with another tokenizer than that of' eval --samples "$work/copied" -d "$work/foreign" -m "$R"
refuses 2 '-d, --data DATA is missing' eval --samples "$work/copied"
refuses 2 '-m, --model MODEL is missing' eval -d "$H"
refuses 2 '--train-data needs --samples' eval -m "$R" -d "$H" --train-data "$H"
refuses 2 '--format needs --samples' eval -m "$R" -d "$H" --format auto
refuses 2 '--draws says how a model is measured, and with --samples none is' eval --samples "$work/copied" -d "$H" --draws 3
refuses 2 '-m: --samples takes one model at most' eval --samples "$work/copied" -d "$H" -m "$R" -m "$R"
refuses 2 '--format: text is not auto, separated, lines, jsonl or whole' eval --samples "$work/copied" -d "$H" --format text
finish

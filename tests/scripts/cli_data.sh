#!/bin/sh
# The command from text to token shards: help, exit statuses, tokenizer train, encode, decode and info, prepare.
. tests/script.sh
T=$work/tokenizer
corpus 60 text
grep -v '^<|' "$work/text" > "$work/lines"
sed 's/.*/{"s": "&"}/' "$work/lines" > "$work/jsonl"
gzip -k "$work/text"
zstd -q "$work/text"
printf 'ab\377cd' > "$work/invalid"

# ---- help and exit statuses ---------------------------------------------------------------------------------------------
for name in 'tokenizer train' 'tokenizer encode' 'tokenizer decode' 'tokenizer info' prepare train eval generate refine \
    info bench help; do
    # shellcheck disable=SC2086
    succeeds "$name --help" $name --help
    check "$name --help shows how it is called" wrote "Usage: diffusionlm $name"
    # shellcheck disable=SC2086
    refuses 2 'there is no option --nonsense' $name --nonsense
done
succeeds '--version' --version
check '--version' lines 1
refuses 2 'there is no command nonsense' nonsense
refuses 2 '--threads: -1 is not a whole number from 0 to 4096' tokenizer info -t "$T" --threads -1
refuses 2 '--seed: 1e3 is not a whole number from 0 to 9007199254740991' tokenizer info -t "$T" --seed=1e3

# ---- tokenizer ------------------------------------------------------------------------------------------------------------
succeeds 'train' tokenizer train "$work/text" --output "$T" --vocab-size 300 --min-frequency 2 --threads 2 --verbose
check 'it says what it made' said '300 tokens, 40 of them merges'
for form in "--format lines $work/lines" "--format jsonl --field s $work/jsonl" "$work/text.gz" "$work/text.zst"; do
    # shellcheck disable=SC2086
    succeeds 'train on another form' tokenizer train $form -o "$work/other" --vocab-size 300 --min-frequency 2 --quiet \
        --seed 1 --invalid error --json --overwrite
    check 'keys' keys vocab_size merges added_tokens pad_id unk_id mask_id end_id add_prefix_space hash
    check "the same from $form" cmp "$T/tokenizer.json" "$work/other/tokenizer.json"
done
refuses 2 '--vocab-size: 259 is not a whole number from 260 to 1000000' tokenizer train "$work/text" -o "$work/no" \
    --vocab-size 259
refuses 1 'invalid' tokenizer train "$work/invalid" -o "$work/no"
check 'the message tells the byte' said '2'
refuses 1 'the text is empty' tokenizer train /dev/null -o "$work/no"
cp "$T/tokenizer.json" "$work/before"
refuses 1 'has a tokenizer.json, which data and models may rest on; --overwrite replaces it' tokenizer train "$work/text" \
    -o "$T" --vocab-size 290
check 'it is as it was' cmp "$T/tokenizer.json" "$work/before"
refuses 1 'absent' tokenizer train "$work/absent" -o "$work/no"
check 'nothing was made' test ! -e "$work/no"

succeeds 'info' tokenizer info --tokenizer "$T" --seed 1 --threads 1 --quiet --verbose --json
check 'keys of info' keys vocab_size merges added_tokens pad_id unk_id mask_id end_id add_prefix_space hash
refuses 1 "$work/text" tokenizer info -t "$work/text"
refuses 1 "$work/absent" tokenizer info -t "$work/absent"

succeeds 'encode' tokenizer encode --tokenizer "$T" --format lines --field text --invalid replace --seed 1 --threads 1 \
    --quiet --verbose "$work/lines"
check 'a line of ids for each document' lines 60
cp "$work/out" "$work/ids"
succeeds 'decode' tokenizer decode -t "$T" --keep-special "$work/ids"
sed 's/^/ /' "$work/lines" | tr -d '\n' > "$work/want"
check 'the text comes back' cmp "$work/want" "$work/out"
printf '"a [MASK] b"\n{"text": "\\u0000"}\n' > "$work/values"
succeeds 'encode JSON' tokenizer encode -t "$T" --json "$work/values"
cp "$work/out" "$work/coded"
succeeds 'decode JSON' tokenizer decode --tokenizer "$T" --json --seed 1 --threads 1 --quiet --verbose "$work/coded"
check 'without special tokens' wrote '{"text":" a  b"}'
check 'U+0000' wrote '{"text":" \u0000"}'
succeeds 'decode JSON' tokenizer decode -t "$T" --json --keep-special "$work/coded"
check 'with special tokens' wrote '[MASK]'
echo '{"ids": [300]}' > "$work/values"
refuses 1 '300' tokenizer decode -t "$T" --json "$work/values"

# ---- prepare --------------------------------------------------------------------------------------------------------------
D=$work/data
succeeds 'prepare' prepare "$work/text" --tokenizer "$T" --output "$D" --seq-len 32 --shard-tokens 500 --threads 1 --verbose
check 'its summary' said '60 documents'
check 'several shards' test -f "$D/shard-00001.dlm"
for form in "--format lines $work/lines" "--format jsonl --field s $work/jsonl" "$work/text.gz" "$work/text.zst"; do
    # shellcheck disable=SC2086
    succeeds 'prepare another form' prepare $form -t "$T" -o "$work/same" --seq-len 32 --shard-tokens 500 --overwrite \
        --quiet --seed 1 --invalid error --json
    check 'keys' keys documents tokens bytes bytes_per_token longest split windows seq_len shards vocabulary_hash
    check "the same from $form" diff -r "$D" "$work/same"
done
refuses 1 "$D exists, and is not overwritten" prepare "$work/text" -t "$T" -o "$D"
refuses 1 "$T exists and is no folder of prepared data" prepare "$work/text" -t "$T" -o "$T" --overwrite
check 'the tokenizer is still there' cmp "$T/tokenizer.json" "$work/other/tokenizer.json"
refuses 1 'invalid' prepare "$work/invalid" -t "$T" -o "$work/no"
refuses 1 'no document' prepare /dev/null -t "$T" -o "$work/no"
refuses 2 '--seq-len: 1 is not a whole number from 2 to 65536' prepare "$work/text" -t "$T" -o "$work/no" --seq-len 1
check 'nothing was made' test ! -e "$work/no" -a ! -e "$work/no.partial"

for name in 'tokenizer train' 'tokenizer encode' 'tokenizer decode' 'tokenizer info' prepare; do
    # shellcheck disable=SC2086
    check "every option of $name was tried" covered $name
done
finish

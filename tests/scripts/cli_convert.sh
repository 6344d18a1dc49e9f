#!/bin/sh
# The command on files of models: convert, and info of what it wrote.
. tests/script.sh
corpus 60 text
R=$work/run
succeeds 'train' train "$work/text" -o "$R" --vocab-size 300 --hidden 16 --depth 1 --heads 2 --seq-len 32 --batch 4 \
    --steps 6 --eval-every 0 --sample-every 0 --quiet --threads 1
generated() { "$PROGRAM" generate -m "$1" -n 2 --length 8 --json --precision f32 --threads 1 --seed 5 "$2" "$3" 2> /dev/null |
    sed 's/"seconds":[0-9.e-]*//g'; }
# The two write the same texts.
same_texts() {
    generated "$1" --weights "$3" > "$work/a" && generated "$2" --tokenizer "$R/tokenizer" > "$work/b" &&
        [ -s "$work/a" ] && cmp "$work/a" "$work/b"
}
T=$R/tokenizer

# ---- every format -----------------------------------------------------------------------------------------------------
succeeds 'to a checkpoint of torch.save' convert "$R" "$work/a.pt"
check 'which the original cannot run' said 'the original program cannot run this model, of time none and position both'
check 'no result' lines 0
succeeds 'to safetensors' convert "$work/a.pt" "$work/a.safetensors"
check 'without words' [ ! -s "$work/err" ]
succeeds 'to a model folder, with a tokenizer' convert "$work/a.safetensors" "$work/folder" --tokenizer "$T" --schedule linear
check 'its schedule' grep -q '"schedule": "linear"' "$work/folder/config.json"
check 'its tokenizer' [ -s "$work/folder/tokenizer.json" ]
succeeds 'a run folder to a model folder' convert "$R" "$work/both"
check 'with both kinds of weights' [ -s "$work/both/raw.safetensors" ]
succeeds 'one kind alone' convert "$R" "$work/one" --weights ema
check 'the average' [ ! -e "$work/one/raw.safetensors" ]
succeeds 'the other' convert "$R" "$work/raw.pt" --weights raw --quiet --verbose --threads 1 --seed 1
for form in a.pt a.safetensors both; do check "$form writes the same texts" same_texts "$R" "$work/$form" ema; done
check 'so do raw weights' same_texts "$R" "$work/raw.pt" raw
succeeds 'halves' convert "$R" "$work/half.pt" --precision f16
succeeds 'the other halves' convert "$R" "$work/half.safetensors" --precision bf16
smaller() { [ $((2 * $(wc -c < "$2"))) -lt $((5 * $(wc -c < "$1") / 4)) ]; }
check 'are half as large' smaller "$work/a.pt" "$work/half.pt"
check 'so are these' smaller "$work/a.safetensors" "$work/half.safetensors"
check 'and load' generated "$work/half.pt" --quiet --verbose
succeeds 'in 8 bits' convert "$R" "$work/small" --precision int8
check 'smaller still' smaller "$work/a.safetensors" "$work/small/model.safetensors"
succeeds 'its info' info "$work/small"
check 'what it is multiplied in' wrote 'products in   int8'
succeeds 'the same as JSON' info "$work/small" --json
check 'and how it is stored' wrote '"stored":"int8"'
check 'it writes the texts of the model in 8 bits' sh -c "'$PROGRAM' generate -m '$work/small' -n 2 --length 8 --seed 5 \
    --threads 1 2> /dev/null > '$work/a' && '$PROGRAM' generate -m '$R' -n 2 --length 8 --seed 5 --threads 1 --precision int8 \
    2> /dev/null > '$work/b' && [ -s '$work/a' ] && cmp '$work/a' '$work/b'"
succeeds 'onto itself' convert "$work/a.pt" "$work/a.pt" --overwrite --quiet
succeeds 'onto its folder' convert "$work/folder" "$work/folder" --overwrite
check 'nothing else is left' sh -c "[ -z \"\$(find '$work' -name '*.partial*')\" ]"

# ---- info of each -----------------------------------------------------------------------------------------------------
for form in a.pt half.pt a.safetensors half.safetensors folder both; do
    succeeds "info of $form" info "$work/$form" --json
    check 'its size' wrote '"hidden_size":16'
    check 'its recipe' wrote '"recipe":"default"'
done
succeeds 'info of raw weights' info "$work/both" --weights raw
check 'where they are' wrote "raw.safetensors"
if [ -f "$GOLDEN/tiny/final.pt" ]; then
    succeeds 'a file of PyTorch' convert "$GOLDEN/tiny/final.pt" "$work/tiny.pt"
    check 'which the original can run' [ ! -s "$work/err" ]
    succeeds 'its info' info "$GOLDEN/tiny/final.pt" --weights raw --heads 4
    check 'its kind' wrote 'time adaln, position learned'
    succeeds 'its heads' convert "$GOLDEN/tiny/final.pt" "$work/heads.pt" --heads 4
    refuses 1 'its config has 4 heads, not 8' info "$GOLDEN/tiny/final.pt" --heads 8
    refuses 1 'it holds no raw weights' info "$GOLDEN/tiny/bf16.pt" --weights raw
fi

# ---- what it refuses --------------------------------------------------------------------------------------------------
refuses 1 'a.pt exists, and is not overwritten' convert "$R" "$work/a.pt"
check 'and says how to' said '--overwrite replaces it'
refuses 1 'folder exists, and is not overwritten' convert "$R" "$work/folder"
refuses 1 'is no model folder alone' convert "$work/a.pt" "$R" --overwrite
refuses 1 'is no model folder alone' convert "$work/a.pt" "$work" --overwrite
check 'the run is there' [ -s "$R/latest" ]
refuses 1 "$work/absent" convert "$work/absent" "$work/x.pt"
refuses 1 "$work/text" convert "$work/text" "$work/x.pt"
head -c 3000 "$work/a.pt" > "$work/cut.pt"
refuses 1 'cut.pt is no zip archive, or a damaged one' convert "$work/cut.pt" "$work/x.pt"
refuses 1 'cut.pt is no zip archive, or a damaged one' info "$work/cut.pt"
: > "$work/empty.pt"
refuses 1 'empty.pt is no zip archive: it is empty' info "$work/empty.pt"
printf '\200\002cposix\nsystem\nX\010\000\000\000touch %s\205R.' "$work/x" > "$work/evil.pt"
refuses 1 'evil.pt is no zip archive' info "$work/evil.pt"
refuses 2 'not standard output' convert "$R" -
refuses 2 'IN OUT is missing' convert "$R"
refuses 2 '--precision: int4 is not f32, bf16, f16 or int8' convert "$R" "$work/x.pt" --precision int4
refuses 1 'a .pt cannot hold int8 weights' convert "$R" "$work/x.pt" --precision int8
refuses 2 '--precision: int8 is not auto, f32 or bf16' train -d "$R" -o "$work/x.run" --precision int8
refuses 2 '--weights: all is not ema or raw' convert "$R" "$work/x.pt" --weights all
check 'nothing was made' [ ! -e "$work/x.pt" ]
check 'every option of convert was tried' covered convert
finish

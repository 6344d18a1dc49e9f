#!/bin/sh
# The command on a model: generate, refine, info.
. tests/script.sh
corpus 120 text
R=$work/run
succeeds 'train' train "$work/text" -o "$R" --vocab-size 300 --hidden 16 --depth 1 --heads 2 --seq-len 64 --batch 4 \
    --steps 30 --eval-every 0 --sample-every 0 --quiet --threads 1
M=$(ls -d "$R"/checkpoints/step-*)
generate_keys='text ids seed index forwards seconds'
end_lines() { [ "$(grep -c '^<|endoftext|>$' "$work/out")" = "$1" ]; }
# The ids of line $2 of file $1, and how many they are.
ids() { sed -n "$2p" "$1" | sed 's/.*"ids":\[\([0-9,]*\)\].*/\1/'; }
count() { ids "$1" "$2" | tr ',' '\n' | wc -l; }
has_length() { [ "$(count "$work/out" 1)" = "$1" ]; }
lacks_id() { ! ids "$work/out" 1 | tr ',' '\n' | grep -qx "$1"; }
same_ids() { [ "$(ids "$1" "$2")" = "$(ids "$3" "$4")" ]; }

# ---- generate -------------------------------------------------------------------------------------------------------------
succeeds 'generate' generate --model "$R" --count 3 --seed 7 --watch --fps 60
check 'a line <|endoftext|> behind each text' end_lines 3
check 'nothing for terminals in a file' sh -c "! grep -q '$(printf '\033')\[' '$work/out'"
cp "$work/out" "$work/texts"
succeeds 'generate again' generate -m "$M" -n 3 --seed=7 --quiet
check 'the same seed repeats it, by run or by checkpoint' cmp "$work/out" "$work/texts"
succeeds 'another seed' generate -m "$R" -n 3 --seed 8
check 'gives other texts' sh -c "! cmp -s '$work/out' '$work/texts'"
succeeds 'it can be read back' prepare "$work/texts" -t "$R/tokenizer" -o "$work/back" --quiet
succeeds 'a prompt' generate -m "$R" --prompt 'Once upon a time' --length 40 -n 2
check 'comes back' sh -c "[ \$(grep -c '^Once upon a time' '$work/out') = 2 ]"

succeeds 'JSON' generate -m "$R" -n 3 --seed 7 --length 20 --json
check 'a line each' lines 3
check 'all ids' has_length 20
cp "$work/out" "$work/three"
head -n 1 "$work/three" > "$work/out"
# shellcheck disable=SC2086
check 'keys' keys $generate_keys
succeeds 'one alone' generate -m "$R" -n 1 --seed 7 --length 20 --json
check 'seed and index repeat a sample' same_ids "$work/out" 1 "$work/three" 1
check 'seed and index are told' sh -c "sed -n 3p '$work/three' | grep -q '\"seed\":7,\"index\":2'"
succeeds 'greedy' generate -m "$R" --seed 1 --length 12 --temperature 0 --json --steps 12 --order confidence
cp "$work/out" "$work/greedy"
succeeds 'greedy, another seed' generate -m "$R" --seed 2 --length 12 --temperature 0 --json --steps 12
check 'depends on no seed' same_ids "$work/out" 1 "$work/greedy" 1
succeeds 'few steps' generate -m "$R" --length 12 --steps 3 --json --order random --reveal linear
check 'as many passes' wrote '"forwards":3,'
succeeds 'reveals' generate -m "$R" --length 12 --reveals 5 --json
check 'as many passes' wrote '"forwards":3,'
refuses 2 '5 reveals a step leave no choice of steps, which are to be 2' generate -m "$R" --reveals 5 --steps 2
succeeds 'every other option' generate -m "$R" --tokenizer "$R/tokenizer" --weights raw --precision f32 --schedule linear --heads 2 \
    --length auto --order confidence_weighted --confidence-threshold 0.9 --corrector-frac 0.2 --corrector-every 3 \
    --corrector-mode low_confidence --threads 1 --verbose
succeeds 'top-k 1' generate -m "$R" --seed 3 --length 12 --temperature 1 --top-k 1 --json
check 'is greedy' same_ids "$work/out" 1 "$work/greedy" 1
for order in margin entropy left_to_right ancestral first_hitting; do
    succeeds "order $order" generate -m "$R" --length 12 --order $order --json
    check 'is whole' has_length 12
done
succeeds 'first_hitting in as many passes as tokens' generate -m "$R" --length 9 --order first_hitting --json
check 'as many passes' wrote '"forwards":9,'
for remask in cap rescale conf loop; do
    succeeds "remask $remask" generate -m "$R" --length 12 --steps 30 --remask $remask --eta 0.1 --json
    check 'is whole' has_length 12
done
succeeds 'entropy bound' generate -m "$R" --length 12 --entropy-bound 1000 --json
check 'all at once' wrote '"forwards":1,'
succeeds 'guidance' generate -m "$R" --prompt 'Once' --length 10 --steps 3 --guidance 1.5 --json
check 'two passes a step' wrote '"forwards":6,'
succeeds 'all that draws' generate -m "$R" --length 12 --top-p 0.9 --min-p 0.05 --repetition-penalty 1.2 \
    --ban 'a,#5,.' --max-seconds 5 --json
check 'nothing banned' lacks_id 5
refuses 2 'nothing is given that could guide' generate -m "$R" --guidance 1
refuses 2 '--ban: "once upon" is no single token' generate -m "$R" --ban 'a,once upon'
refuses 2 '--ban: #999999 is no token: the vocabulary has #0 to #' generate -m "$R" --ban '#999999'
refuses 2 'there is an empty item' generate -m "$R" --ban 'a,,b'
refuses 2 'there is an empty item' generate -m "$R" --ban ''
refuses 2 'remasking belongs to the order ancestral' generate -m "$R" --remask cap --order confidence
refuses 2 'eta 0.5 is a probability of remasking' generate -m "$R" --eta 0.5
refuses 2 'takes a step for each masked position' generate -m "$R" --order first_hitting --steps 5
refuses 2 'both say how many' generate -m "$R" --entropy-bound 1 --confidence-threshold 0.5
succeeds 'past the length of the model' generate -m "$R" --length 100 --context 20 --steps 8 --json
check 'all ids' has_length 100
succeeds 'a suffix' generate -m "$R" --prompt 'Once' --suffix ' birds.' --length 20
check 'is the end' sh -c "grep -q '^Once.* birds\.\$' '$work/out'"
succeeds 'a template' generate -m "$R" --template 'Once [MASK:2-4] cat.' --tries 2 --steps 2
check 'is filled in' sh -c "grep -q '^Once .* cat\.\$' '$work/out'"
refuses 2 'leaves nothing to write: the length is 3' generate -m "$R" --length 3 --prompt 'Once upon a time there was a cat'
refuses 2 '--prompt is empty' generate -m "$R" --prompt ''
refuses 2 '--watch and --json exclude each other' generate -m "$R" --watch --json
succeeds 'a trace' generate -m "$R" -n 2 --seed 7 --length 12 --trace "$work/trace" --json
check 'a header, a line for each step of each text, and its end' sh -c "[ \$(wc -l < '$work/trace') = 29 ]"
check 'the end has the ids' sh -c "tail -n 1 '$work/trace' | grep -q '\"ids\":\[$(ids "$work/out" 2)\]'"
check 'nothing is left beside it' sh -c "[ ! -e '$work/trace.partial' ]"
succeeds 'a trace instead of texts' generate -m "$R" -n 2 --seed 7 --length 12 --trace -
check 'is the same' cmp "$work/out" "$work/trace"
cp "$work/texts" "$work/mine"
refuses 1 'there is a file that is no trace, and it is not overwritten' generate -m "$R" --trace "$work/mine"
check 'it is not' cmp "$work/texts" "$work/mine"
refuses 1 "--trace $work is a folder, not a file" generate -m "$R" --trace "$work"
refuses 1 "--trace $work/absent/trace: No such file or directory" generate -m "$R" --trace "$work/absent/trace"
refuses 2 '--trace - and --json both write to standard output' generate -m "$R" --trace - --json
refuses 2 '--trace - and --watch both write to standard output' generate -m "$R" --trace - --watch
refuses 2 '--trace is empty' generate -m "$R" --trace ''
refuses 2 '--fps: 1001 is not a number from 0 to 1000' generate -m "$R" --watch --fps 1001
refuses 2 '--fps: -1 is not a number from 0 to 1000' generate -m "$R" --watch --fps -1
refuses 2 '--temperature: nan is not a number from 0 to 100' generate -m "$R" --temperature nan
refuses 2 '--count: 0 is not a whole number from 1 to 1000000000' generate -m "$R" --count 0
refuses 2 'did you mean confidence?' generate -m "$R" --order confidenc
refuses 2 '-m, --model MODEL is missing' generate
refuses 1 "$work/absent" generate -m "$work/absent"
refuses 1 "$work/text" generate -m "$work/text"

# ---- refine -----------------------------------------------------------------------------------------------------------------
head -n 8 "$work/text" > "$work/few"
succeeds 'refine' refine -m "$R" "$work/few" --seed 3 --frac 1e-6 --passes 1 --watch --fps max
check 'with nothing hidden the texts come back' cmp "$work/few" "$work/out"
succeeds 'refine' refine --model "$R" "$work/few" --passes 4 --frac 0.5 --temperature 0.8 --seed 3 \
    --trace "$work/trace"
check 'a line <|endoftext|> behind each text' end_lines 4
check 'a trace of the start, four passes and the end' sh -c "[ \$(wc -l < '$work/trace') = 25 ]"
check 'texts changed' sh -c "! cmp -s '$work/few' '$work/out'"
cp "$work/out" "$work/refined"
succeeds 'refine again' refine -m "$R" --passes 4 --frac 0.5 --temperature 0.8 --seed 3 --quiet "$work/few"
check 'the same seed repeats it' cmp "$work/out" "$work/refined"
grep -v '^<|' "$work/few" | sed 's/.*/{"s": "&"}/' > "$work/jsonl"
succeeds 'refine JSON' refine -m "$R" --json --format jsonl --field s --invalid replace --tokenizer "$R/tokenizer" \
    --weights ema --precision auto --schedule cosine --heads 2 --threads 1 --verbose "$work/jsonl"
check 'a line each' lines 4
tail -n 1 "$work/out" > "$work/one"
cp "$work/one" "$work/out"
# shellcheck disable=SC2086
check 'keys' keys $generate_keys changed
i=0
while [ $i -lt 100 ]; do printf 'long '; i=$((i + 1)); done > "$work/long"
succeeds 'a long text' refine -m "$R" "$work/long" --low-confidence --keep 'long long' --context 20 --passes 2 --diff
check 'is kept' sh -c "head -n 1 '$work/out' | grep -q '^long long '"
refuses 2 '--frac: 0 is not a number from 1e-06 to 1' refine -m "$R" "$work/few" --frac 0
refuses 1 "$work/absent" refine -m "$R" "$work/absent"

# ---- info -------------------------------------------------------------------------------------------------------------------
succeeds 'info' info "$R" --verbose
check 'a table' wrote 'vocabulary 300, length 64, channels 16, blocks 1, heads 2'
check 'with every parameter' wrote 'blocks.0.mlp.fc1.weight'
succeeds 'info JSON' info "$M" --json --tokenizer "$R/tokenizer" --heads 2 --weights raw --seed 1 --threads 1 --quiet
check 'config' wrote '"vocab_size":300,"max_seq_len":64,"hidden_size":16,"depth":1,"num_heads":2'
check 'counts and hashes' wrote '"tokenizer_hash":"'
refuses 1 "$work: neither a model (config.json, final.pt) nor a run with a checkpoint (latest)" info "$work"
refuses 2 'MODEL is missing' info

for name in generate refine info; do check "every option of $name was tried" covered $name; done
finish

#!/bin/sh
# Given text: prompts, suffixes and templates, lengths, refined texts and what changed in them.
. tests/script.sh
corpus 120 text
R=$work/run
succeeds 'train' train "$work/text" -o "$R" --vocab-size 300 --hidden 16 --depth 1 --heads 2 --seq-len 64 --batch 4 \
    --steps 30 --eval-every 0 --sample-every 0 --quiet --threads 1
second="-d $R/data --hidden 16 --depth 1 --heads 2 --batch 4 --steps 3 --eval-every 0 --sample-every 0 --quiet"
# shellcheck disable=SC2086
succeeds 'train as the original, without end token' train $second -o "$work/original" --seq-len 64 --threads 1 \
    --recipe original
# The text of JSON line $1 of the last run.
text() { sed -n "$1p" "$work/out" | sed 's/^{"text":"//; s/","ids":.*//'; }
# The texts of all lines match the basic regular expression $1 from their first byte to their last.
match() { [ "$(sed 's/^{"text":"//; s/","ids":.*//' "$work/out" | grep -cvx -- "$1")" = 0 ]; }
ids() { sed -n "$1p" "$work/out" | sed 's/.*"ids":\[\([0-9,]*\)\].*/\1/' | tr ',' '\n'; }
count() { ids "$1" | wc -l; }
has_length() { [ "$(count 1)" = "$1" ]; }
ends_in() { [ "$(ids 1 | tail -n 1)" = "$1" ]; }

# ---- templates ----------------------------------------------------------------------------------------------------------
for model in "$R" "$work/original"; do
    succeeds 'a template' generate -m "$model" --template 'Once [MASK:3] a[MASK]b,  [MASK:1-5] cat!' -n 5 --json
    check 'fixed text comes back' match 'Once .*a.*b,  .* cat!'
    succeeds 'a template of spaces' generate -m "$model" --template '  [MASK:3] ' -n 5 --json
    check 'fixed text comes back' match '  .* '
    succeeds 'a prompt and a suffix' generate -m "$model" --prompt ' It saw ' --suffix '5 dogs. ' -n 5 --json
    check 'fixed text comes back' match ' It saw .*5 dogs. '
    succeeds 'a suffix alone' generate -m "$model" --suffix ' dogs' -n 5 --length 12 --json
    check 'fixed text comes back' match '.* dogs'
    check 'the length is that of the whole' has_length 12
done
succeeds 'a template' generate -m "$R" --template 'It[MASK:4]' --json
check 'with its end behind it' ends_in 3
check 'is not scored when there is no choice' sh -c "! grep -q nelbo '$work/out'"
succeeds 'a range' generate -m "$R" --template 'It [MASK:2-9].' --json --seed 5
check 'keys' keys text ids seed index forwards seconds nelbo_per_token
cp "$work/out" "$work/range"
succeeds 'a range again' generate -m "$R" --template 'It [MASK:2-9].' --json --seed 5 --tries 8
check 'eight tries are the default' sh -c "sed 's/\"seconds.*nelbo/nelbo/' '$work/out' > '$work/a';
    sed 's/\"seconds.*nelbo/nelbo/' '$work/range' | cmp - '$work/a'"
succeeds 'tries of any text' generate -m "$R" -n 2 --tries 3 --json --steps 4
check 'are scored' sh -c "[ \$(grep -c nelbo_per_token '$work/out') = 2 ]"
succeeds 'a trace of candidates' generate -m "$R" --template 'It [MASK:2-4].' --trace - --seed 5 --steps 1
check 'each has a first and a last step, and one is kept' sh -c "grep -c '\"try\":[0-2],' '$work/out' | grep -qx 6 &&
    tail -n 1 '$work/out' | grep -q '\"done\":true,.*\"try\":[0-2]}'"
succeeds 'a template, watched, in a file' generate -m "$R" --template 'It [MASK:2-9].' --watch
succeeds 'a literal mask in a prompt' generate -m "$R" --prompt 'a [MASK] b' --suffix ' [MASK:3]'
check 'is text' wrote 'a [MASK] b'
check 'of which a note tells' said 'note: [MASK] in --prompt is plain text; --template reads it as a mask'
check 'and of the other' said 'note: [MASK] in --suffix'
refuses 2 '--template is empty' generate -m "$R" --template ''
refuses 2 '--suffix is empty' generate -m "$R" --suffix ''
refuses 2 'the template has no [MASK], so there is nothing to fill in' generate -m "$R" --template 'a cat'
refuses 2 'has [MASK:0] at byte 2: a mask has at least 1 token' generate -m "$R" --template 'a [MASK:0]'
refuses 2 'has [MASK:9-3] at byte 0: 9 is more than 3' generate -m "$R" --template '[MASK:9-3]'
refuses 2 'a mask is [MASK], [MASK:8] or [MASK:20-60]' generate -m "$R" --template '[MASK:1e9]'
refuses 2 'at byte 2 without its ]' generate -m "$R" --template 'a [MASK:5'
refuses 2 'tokens with its end, and the model takes at most 64' generate -m "$R" --template 'a [MASK:5-64]'
refuses 2 'has <|endoftext|> at byte 9, a special token' generate -m "$R" --template 'a [MASK] <|endoftext|>'
refuses 2 'the prompt has [PAD] at byte 2, a special token' generate -m "$R" --prompt 'a [PAD]'
refuses 2 'the suffix has [UNK] at byte 0' generate -m "$R" --suffix '[UNK]'
refuses 2 'the template is not UTF-8 at byte 6' generate -m "$R" --template "$(printf '[MASK]\377')"
refuses 2 'the prompt is not UTF-8 at byte 0' generate -m "$R" --prompt "$(printf '\377')"
refuses 2 'what --prompt says belongs in it' generate -m "$R" --template '[MASK]' --prompt a
refuses 2 'what --suffix says belongs in it' generate -m "$R" --template '[MASK]' --suffix a
refuses 2 "but the template's masks say how long it is" generate -m "$R" --template '[MASK]' --length 9
refuses 2 'no token is allowed at position' generate -m "$R" --template 'a [MASK]' --ban \
    "$(i=0; while [ $i -lt 300 ]; do printf '#%d,' $i; i=$((i + 1)); done | sed 's/,$//')"

# ---- length --------------------------------------------------------------------------------------------------------------
long=$(i=0; while [ $i -lt 100 ]; do printf 'long '; i=$((i + 1)); done)
succeeds 'a length past that of the model' generate -m "$R" --length 200 --steps 6 --json --seed 2
check 'all ids' has_length 200
cp "$work/out" "$work/long"
succeeds 'three of them' generate -m "$R" --length 200 --steps 6 --json --seed 2 -n 3
check 'the first is the same' sh -c "head -n 1 '$work/out' | sed 's/\"forwards.*//' > '$work/a';
    sed 's/\"forwards.*//' '$work/long' | cmp - '$work/a'"
check 'no end token before the last block' sh -c "! sed 's/.*\"ids\":\[//; s/\].*//' '$work/out' | cut -d , -f 1-160 |
    grep -q ',3,'"
succeeds 'with a prompt and a suffix' generate -m "$R" --prompt 'Once' --suffix ' dogs.' --length 150 --steps 6 --json
check 'fixed text comes back' match 'Once.* dogs.'
succeeds 'a long prompt' generate -m "$R" --prompt "$long" --length 600 --steps 4 --context 50 --tries 2 --max-seconds 30
check 'goes on' sh -c "grep -q '^long long ' '$work/out'"
succeeds 'watched, in a file' generate -m "$R" --length 100 --steps 6 --watch
refuses 2 'nothing to write: the model takes at most 64, unless a greater length is asked for' generate -m "$R" --prompt "$long"
refuses 2 'a context of 64 tokens leaves no room to write in the 64 that the model takes' generate -m "$R" --length 100 \
    --context 64
refuses 2 '--tries: 0 is not a whole number from 1 to 1000, nor auto' generate -m "$R" --tries 0
# ---- refine ---------------------------------------------------------------------------------------------------------------
printf ' Once upon a time there was a cat number 3.\n\n It saw 5 birds and\t2 dogs. \n<|endoftext|>\nOnce, twice and again.\n' > "$work/two"
printf '{"s": " Once upon a time  there was a cat. "}\n{"s": "\\n\\nIt saw 5 birds."}\n' > "$work/spaced"
succeeds 'nothing hidden' refine -m "$R" --format jsonl --field s --frac 1e-6 --passes 1 --json "$work/spaced"
check 'texts come back with their spaces' sh -c "grep -q '\"text\":\" Once upon a time  there was a cat. \",' '$work/out' &&
    grep -q '\"text\":\"\\\\n\\\\nIt saw 5 birds.\",' '$work/out'"
check 'and nothing changed' sh -c "[ \$(grep -c '\"changed\":\[\]' '$work/out') = 2 ]"
succeeds 'by low confidence' refine -m "$R" "$work/two" --low-confidence --passes 3 --frac 0.3 --seed 4 --json
cp "$work/out" "$work/low"
check 'something changed' wrote '"changed":[['
succeeds 'again' refine -m "$R" "$work/two" --low-confidence --passes 3 --frac 0.3 --seed 4 --json
check 'the same' sh -c "sed 's/\"seconds\":[0-9.e-]*//' '$work/out' > '$work/a'; sed 's/\"seconds\":[0-9.e-]*//' '$work/low' | cmp - '$work/a'"
succeeds 'any token' refine -m "$R" "$work/two" --passes 3 --frac 0.3 --seed 4 --json
check 'is another choice' sh -c "sed 's/\"seconds\":[0-9.e-]*//' '$work/out' > '$work/a'; ! sed 's/\"seconds\":[0-9.e-]*//' '$work/low' | cmp -s - '$work/a'"
head -n 2 "$work/two" > "$work/alone"
sed -n 3p "$work/two" >> "$work/alone"
for model in "$R" "$work/original"; do
    succeeds 'kept spans' refine -m "$model" "$work/alone" --frac 1 --passes 2 --keep 'upon a time' --keep '5 birds' --keep 'dogs.' --json
    check 'stay' match '.*upon a time.*5 birds.*dogs.'
done
succeeds 'all kept' refine -m "$R" "$work/alone" --frac 1 --passes 2 --keep "$(sed -n 1p "$work/alone" | sed 's/^ //')" \
    --keep "$(sed -n 3p "$work/alone" | sed 's/^ *//; s/ *$//')" --json
check 'comes back but for the white space between' match 'Once upon a time there was a cat number 3\..*It saw 5 birds and\\t2 dogs\.'
succeeds 'differences' refine -m "$R" "$work/two" --frac 0.4 --passes 2 --keep 'nce' --seed 6 --diff
check 'in words' grep -qE '\[-[^]]+-\]\{\+[^}]+\+\}' "$work/out"
check 'nothing for terminals in a file' sh -c "! grep -q '$(printf '\033')' '$work/out'"
check 'a line <|endoftext|> behind each text' sh -c "[ \$(grep -c '^<|endoftext|>\$' '$work/out') = 2 ]"
tr '\n' '\1' < "$work/out" > "$work/diff"
# Without what was put in, it is the text before; without what was taken out, the text after.
sed 's/{+[^}]*+}//g; s/\[-//g; s/-\]//g' "$work/diff" | tr '\1' '\n' > "$work/old"
sed 's/\[-[^]]*-\]//g; s/{+//g; s/+}//g' "$work/diff" | tr '\1' '\n' > "$work/new"
succeeds 'nothing hidden' refine -m "$R" "$work/two" --frac 1e-6 --passes 1
check 'the old words are the text before' cmp "$work/out" "$work/old"
succeeds 'no differences' refine -m "$R" "$work/two" --frac 0.4 --passes 2 --keep 'nce' --seed 6
check 'the new words are the text after' cmp "$work/out" "$work/new"
refuses 1 'text 2 does not have "upon a time"' refine -m "$R" "$work/two" --keep 'upon a time'
refuses 2 '--keep is empty' refine -m "$R" "$work/two" --keep ''
refuses 2 '--diff and --json exclude each other' refine -m "$R" "$work/two" --diff --json
refuses 2 '--trace - and --diff both write to standard output' refine -m "$R" "$work/two" --diff --trace -
printf '%s\n<|endoftext|>\nshort one\n' "$long" > "$work/long"
succeeds 'a long text' refine -m "$R" "$work/long" --frac 0.5 --passes 2 --json
check 'all its tokens, and the other text' sh -c "[ $(count 1) -gt 200 ] && [ $(wc -l < "$work/out") = 2 ]"
succeeds 'a long text by low confidence' refine -m "$R" "$work/long" --low-confidence --context 9 --passes 2 --watch
refuses 2 'a context of 64 tokens leaves none to refine of the 64 that the model takes' refine -m "$R" "$work/long" --context 64
i=0; keeps=
while [ $i -lt 65 ]; do keeps="$keeps --keep a"; i=$((i + 1)); done
# shellcheck disable=SC2086
refuses 2 '--keep: a is one too many, there can be 64' refine -m "$R" "$work/two" $keeps
finish

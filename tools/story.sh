#!/bin/sh
# From the corpus of the repository to a story on the terminal: `make story` calls this after the build.
#
# The first call trains a tokenizer and a small model for about five minutes into build/story; a second one goes on
# where an interrupted run stopped, or uses the model that is there. A model under models/ is preferred to both.
set -eu
cd "$(dirname "$0")/.."
program=${PROGRAM:-build/diffusionlm}
run=${STORY_RUN:-build/story}
minutes=${STORY_MINUTES:-5}

for model in "${STORY_MODELS:-models}"/*/; do
    if [ -f "$model/config.json" ]; then
        exec "$program" generate -m "$model" --watch --prompt "Once upon a time" --seed "$(date +%s)"
    fi
done

if [ ! -f "$run/finished" ]; then
    echo "Training a small model for $minutes minutes; its stories will be rough."
    resume=
    [ ! -d "$run" ] || resume=--resume
    # All options again: a run stopped before its first checkpoint remembers none.
    "$program" train corpus/tinystories-train.txt.zst -o "$run" --preset tiny --vocab-size 4096 --batch 16 \
        --minutes "$minutes" --save-every 200 $resume
    touch "$run/finished"
fi
echo
# What reads best of so small a model: little daring, and positions in any order, else it repeats itself.
"$program" generate -m "$run" --watch --prompt "Once upon a time" --order random --temperature 0.6 \
    --seed "$(date +%s)"

#!/bin/sh
# What `make story` runs, for seconds instead of minutes: a first call, one that was killed early, one that finds a model.
. tests/script.sh
export STORY_RUN="$work/story" STORY_MINUTES=0.05 STORY_MODELS="$work/models"

story() { timeout 300 tools/story.sh > "$work/out" 2> "$work/err" < /dev/null; }
trains() { wrote 'its stories will be rough'; }
tells() { wrote 'Once upon a time' && [ "$(tail -n 1 "$work/out")" = '<|endoftext|>' ]; }
no() { ! "$@"; }

# killed in its first moments, once before there is data and once before there is a checkpoint
for file in tokenizer data/data.json; do
    STORY_MINUTES=5 setsid tools/story.sh > "$work/out" 2> "$work/err" < /dev/null &
    process=$!
    i=0
    while [ ! -e "$STORY_RUN/$file" ] && [ $i -lt 3000 ]; do
        sleep 0.01
        i=$((i + 1))
    done
    kill -9 -$process # with what it started
    wait $process 2> /dev/null
    check "killed when there was $file" no test -e "$STORY_RUN/finished"
done
check 'it goes on where it was' story
check 'it trains' trains
check 'it is the small model' said '4096, 128 channels, 4 blocks'
check 'and tells a story' tells
check 'it is finished' test -e "$STORY_RUN/finished"
check 'the second call' story
check 'uses what is there' no trains
check 'and tells a story' tells
mkdir -p "$work/models"
cp -r "$STORY_RUN/checkpoints/$(cat "$STORY_RUN/latest")" "$work/models/shipped"
rm -r "$STORY_RUN"
check 'with a model that ships' story
check 'nothing is trained' no trains
check 'and it tells a story' tells
finish

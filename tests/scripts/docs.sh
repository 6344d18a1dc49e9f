#!/bin/sh
# What the documents name is there: files by their paths, or alone by their names; tests by their names, and where
# they stand behind a file, as "test_x.c: a, b", in that one. A name may have a * in it.
. tests/script.sh

# Without what is no part of the tree: ../shared, what is built, and words in capitals and commands that stand for others.
plain() { sed 's|\.\./shared/[^ ]*||g; s|build/[^ ]*||g; s|[a-z/]*/NAME[^ ]*||g; s|`cc [^`]*`||g' "$@"; }

plain README.md docs/*.md tests/golden/README.md corpus/README.md python/README.md > "$work/text"
find . -type f -not -path './.git/*' -not -path './build/*' | sed 's|^\./||' > "$work/files"
sed 's|.*/||' "$work/files" | sort -u > "$work/names"
# Each test as "FILE NAME".
for file in tests/unit/*.c; do sed -n "s|^TEST(\([a-z0-9_]*\)).*|${file##*/} \1|p" "$file"; done > "$work/tests"
for file in tests/oracle/*.py python/tests/*.py; do
    sed -n "s|^ *def \(test_[a-z0-9_]*\)(.*|${file##*/} \1|p" "$file"
done >> "$work/tests"
check 'there are tests' test "$(wc -l < "$work/tests")" -gt 500
sed 's/.* //' "$work/tests" | sort -u > "$work/functions"

# missing LIST: of the words that come in, those that are no line of LIST
missing() {
    list=$1
    while read -r word; do
        pattern=$(printf '%s\n' "$word" | sed 's/[.]/[.]/g; s/[*]/.*/g')
        grep -qx -- "$pattern" "$list" || echo "$word"
    done
}

grep -oE '\b(src|tests|tools|bench|docs|cli|python|include|corpus)/[A-Za-z0-9_./*-]*\.(c|h|py|sh|md|json|zst|txt)\b' "$work/text" |
    sort -u | missing "$work/files" > "$work/paths"
check 'files by their paths' none "$work/paths"

grep -oE '(^|[^A-Za-z0-9_./*-])[a-z0-9_*]+\.(c|h|py|sh|md)\b' "$work/text" | grep -oE '[a-z0-9_*]+\.[a-z]+$' |
    sort -u | missing "$work/names" > "$work/alone"
check 'files by their names' none "$work/alone"

# "FILE: a, b" as lines "FILE a" and "FILE b".
behind_files() {
    grep -oE '\btest_[a-z0-9_]+\.(c|py): [a-z0-9_*]+(, [a-z0-9_*]+)*' | tr -d :, | while read -r file names; do
        for name in $names; do echo "$file $name"; done
    done
}
# Outside of docs/testing.md a colon may begin a sentence, but no word of that has an underscore in it.
{
    plain docs/testing.md | behind_files
    behind_files < "$work/text" | grep ' .*_'
} | sort -u | missing "$work/tests" > "$work/behind"
check 'tests behind the names of their files' none "$work/behind"

# Alone, a name that begins with test_ is a test in Python or a file of tests.
{
    cat "$work/functions"
    sed -n 's/^\(test_.*\)\.[a-z]*$/\1/p' "$work/names"
} | sort -u > "$work/known"
grep -oE '(^|[^A-Za-z0-9_./-])test_[a-z0-9_]+[*]?' "$work/text" | grep -oE 'test_.*' | sort -u |
    missing "$work/known" > "$work/lone"
check 'tests by their names' none "$work/lone"

finish

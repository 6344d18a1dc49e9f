#!/bin/sh
# A line between sections, "/* ---- what follows ---- */", is one line: where it is too long for it clang-format spills it
# over the next ones.
. tests/script.sh

grep -nE '^ *\/\* ----' include/*.h src/*/*.[ch] cli/*.[ch] python/*.h bench/*.c tests/*.[ch] tests/*/*.[ch] > "$work/banners"
check 'there are such lines' test -s "$work/banners"
grep -vE ' -+ \*/$' "$work/banners" > "$work/spilt"
check 'lines between sections' none "$work/spilt"

finish

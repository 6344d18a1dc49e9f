"""Writes src/text/unicode_table.c: the classes of code points as the Hugging Face `tokenizers` library sees them.

usage: python tools/unicode_table.py > src/text/unicode_table.c

The library is asked, code point by code point, so that the table has its version of Unicode and its idea of white space,
whatever is installed elsewhere: a character is a letter when the ByteLevel pre-tokenizer leaves it in one piece with "a", a number
with "1", neither of the two nor white space with "!". A word character (the regular expression \\w) is one that keeps an added
token with single_word from matching beside it."""

import sys

import tokenizers
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

OTHER, LETTER, NUMBER, SPACE = range(4)
BLOCK = 256
LIMIT = 0x110000
BATCH = 1 << 14


def code_points():
    return (c for c in range(LIMIT) if not 0xD800 <= c <= 0xDFFF)


def class_table():
    split = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True).pre_tokenize_str
    table = [OTHER] * LIMIT
    for c in code_points():
        joins = [len(split(beside + chr(c))) == 1 for beside in "a1!"]
        assert sum(joins) <= 1, hex(c)
        table[c] = (LETTER, NUMBER, OTHER)[joins.index(True)] if any(joins) else SPACE
    return table


def word_ranges():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.add_tokens([AddedToken("<w>", single_word=True)])
    points, ranges = list(code_points()), []
    for at in range(0, len(points), BATCH):
        batch = points[at:at + BATCH]
        after = tokenizer.encode_batch([chr(c) + "<w>" for c in batch])
        before = tokenizer.encode_batch(["<w>" + chr(c) for c in batch])
        for c, a, b in zip(batch, after, before):
            assert len(a.ids) == len(b.ids), hex(c)
            if not a.ids:
                if ranges and ranges[-1][1] == c - 1:
                    ranges[-1][1] = c
                else:
                    ranges.append([c, c])
    return ranges


def rows(items, per_line, form):
    for at in range(0, len(items), per_line):
        print("    " + ", ".join(form(item) for item in items[at:at + per_line]) + ",")


def main():
    table = class_table()
    blocks, index = [], []
    for start in range(0, LIMIT, BLOCK):
        words = []
        for first in range(start, start + BLOCK, 32):
            words.append(sum(table[first + i] << (2 * i) for i in range(32)))
        if words not in blocks:
            blocks.append(words)
        index.append(blocks.index(words))
    while index[-1] == index[-2]:
        index.pop()
    assert len(blocks) <= 256
    assert blocks[index[-1]] == [0] * 8 and len(index) << 8 >= 0x30000
    ranges = word_ranges()

    print("/* Made by tools/unicode_table.py from tokenizers %s; not to be edited. */" % tokenizers.__version__)
    print('#include "text/unicode_table.h"\n')
    print("/* clang-format off */")
    print("/* Blocks of 256 code points, two bits each, the lowest bits first. */")
    print("static const uint64_t class_blocks[%d][8] = {" % len(blocks))
    for words in blocks:
        print("    {" + ",\n     ".join(", ".join("0x%016x" % w for w in words[i:i + 4]) for i in (0, 4)) + "},")
    print("};\n")
    print("/* The block of each 256 code points; those behind the last are of class other. */")
    print("static const uint8_t class_index[%d] = {" % len(index))
    rows(index, 24, lambda i: "%3d" % i)
    print("};\n")
    print("/* First and last of each range of word characters. */")
    print("static const uint32_t word_ranges[%d][2] = {" % len(ranges))
    rows(ranges, 6, lambda r: "{0x%x, 0x%x}" % tuple(r))
    print("};")
    print("/* clang-format on */")
    print("""
dlm_class dlm__class_of(uint32_t c) {
    if (c >> 8 >= sizeof class_index) return DLM_CLASS_OTHER;
    return (dlm_class)(class_blocks[class_index[c >> 8]][c >> 5 & 7] >> (c & 31) * 2 & 3);
}

bool dlm__is_word_character(uint32_t c) {
    size_t low = 0, high = sizeof word_ranges / sizeof *word_ranges;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (c < word_ranges[middle][0]) {
            high = middle;
        } else if (c > word_ranges[middle][1]) {
            low = middle + 1;
        } else {
            return true;
        }
    }
    return false;
}""")


if __name__ == "__main__":
    sys.exit(main())

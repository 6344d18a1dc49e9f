"""Shards of `prepare`, decoded here from docs/formats.md alone, hold what the Hugging Face library gives for the corpus:
ids in document order, bytes, windows; from each form of text."""

import gzip
import json
import math
import struct
import subprocess

import pytest
import xxhash
from tokenizers import Tokenizer

SEQ_LEN = 16
HEADER = struct.Struct("<8sII8Q9Q32xQ")

# Documents are plain text: [MASK] is no token here. White space around one is dropped where lines separate them.
DOCUMENTS = [
    "Once upon a time there was a little cat.",
    "a",
    "A [MASK] and a [PAD] are text, and so is <|endoftext|> inside a line.",
    "é 中文 \U0001f600 naïve!  Two  spaces.\nA second line.",
    "Lily saw a big red ball in the park and played with it all day, until the sun was gone and the moon came. " * 3,
    "one two three four five six seven eight nine ten eleven twelve",
] + [f"The cat number {i} saw a dog and {i * 7} birds." for i in range(50)]
DOCUMENTS[4] = DOCUMENTS[4].strip()


@pytest.fixture(scope="module")
def tokenizer(golden):
    return golden / "tokenizer/stories_1024"


@pytest.fixture(scope="module")
def plain(tokenizer):
    """The library's tokenizer without added tokens: text is only text."""
    tree = json.loads((tokenizer / "tokenizer.json").read_text())
    tree["added_tokens"] = []
    return Tokenizer.from_str(json.dumps(tree))


def parts_of(path):
    """Header fields by name, and the three parts, whose checksums hold."""
    raw = path.read_bytes()
    fields = HEADER.unpack(raw[:192])
    names = ("magic", "version", "width", "hash", "vocab_size", "seq_len", "number", "documents", "tokens", "windows",
             "bytes")  # fmt: skip
    header = dict(zip(names, fields))
    assert header["magic"] == b"DLMSHARD" and header["version"] == 1
    assert fields[-1] == xxhash.xxh3_64_intdigest(raw[:184])
    parts, end = [], 192
    for i in range(3):
        offset, size, checksum = fields[11 + 3 * i : 14 + 3 * i]
        assert offset == end and offset % 64 == 0 and size % 64 == 0
        part = raw[offset : offset + size]
        assert len(part) == size and checksum == xxhash.xxh3_64_intdigest(part)
        parts.append(part)
        end = offset + size
    assert end == len(raw)
    return header, parts


def padded(part, size):
    """The first size bytes of a part, which is filled up with zeros to the next multiple of 64."""
    assert len(part) == (size + 63) // 64 * 64 and not any(part[size:])
    return part[:size]


def read_shard(path):
    """(header, [(ids, bytes of text, added space, marks of its windows)])"""
    header, (ids, marks, documents) = parts_of(path)
    n, width = header["documents"], header["width"]
    ids = struct.unpack(f"<{header['tokens']}{'H' if width == 2 else 'I'}", padded(ids, header["tokens"] * width))
    marks = padded(marks, header["windows"])
    table = struct.unpack(f"<{2 * n}Q", padded(documents, 16 * n))
    found, start, window = [], 0, 0
    for end, text_bytes in zip(table[::2], table[1::2]):
        windows = (end - start) // header["seq_len"] + 1
        found.append((list(ids[start:end]), text_bytes // 2, text_bytes % 2, list(marks[window : window + windows])))
        start, window = end, window + windows
    assert start == header["tokens"] and window == header["windows"]
    assert sum(document[1] for document in found) == header["bytes"]
    return header, found


def marks_of(n):
    """1 it continues a document, 2 it ends one."""
    windows = n // SEQ_LEN + 1
    return [(1 if i > 0 else 0) + (2 if i + 1 == windows else 0) for i in range(windows)]


def write(folder, form, documents):
    """The documents in a form, and the options that read it."""
    if form == "jsonl":
        (folder / "text").write_text("".join(json.dumps({"id": 1, "story": text}) + "\n" for text in documents))
        return [folder / "text", "--format", "jsonl", "--field", "story"]
    if form == "lines":
        (folder / "text").write_text("".join(f"{text}\n\n" for text in documents))
        return [folder / "text", "--format", "lines"]
    text = "".join(f"\n {text}\n<|endoftext|>\n" for text in documents)
    (folder / "text").write_text(text)
    if form == "gzip":
        (folder / "text.gz").write_bytes(gzip.compress(text.encode()))
        return [folder / "text.gz"]
    if form == "zstd":
        subprocess.run(["zstd", "-q", folder / "text"], check=True)
        return [folder / "text.zst"]
    if form == "files":
        middle = text.index("<|endoftext|>\n", len(text) // 2) + len("<|endoftext|>\n")
        (folder / "text").write_text(text[:middle])
        (folder / "more").write_text(text[middle:])
        return [folder / "text", folder / "more"]
    return [folder / "text"]


@pytest.mark.parametrize("form", ["separated", "files", "gzip", "zstd", "lines", "jsonl"])
def test_shards_hold_what_the_library_gives(run, tokenizer, plain, tmp_path, form):
    documents = DOCUMENTS
    if form == "lines":  # as they stand, but for line ends
        documents = [text.replace("\n", " ") for text in DOCUMENTS] + [" spaces around  "]
    if form == "jsonl":  # exactly as they stand
        documents = documents + ["  spaces around \n", " ", "before\n<|endoftext|>\nbehind", "\x00"]
    options = write(tmp_path, form, documents)
    run("prepare", *options, "-t", tokenizer, "-o", tmp_path / "data", "--seq-len", SEQ_LEN, "--shard-tokens", 200)
    summary = json.loads((tmp_path / "data/data.json").read_text())
    info = json.loads(run("tokenizer", "info", "-t", tokenizer, "--json").stdout)
    want = []
    for text in documents:
        ids = plain.encode(text).ids
        want.append((ids, len(text.encode()), int(text != "" and not text.startswith(" ")), marks_of(len(ids))))
    got = []
    assert len(summary["shards"]) > 2
    for i, row in enumerate(summary["shards"]):
        assert row["file"] == f"shard-{i:05d}.dlm"
        path = tmp_path / "data" / row["file"]
        header, found = read_shard(path)
        assert header["number"] == i and header["vocab_size"] == 1024 and header["seq_len"] == SEQ_LEN
        assert header["width"] == 2 and f"{header['hash']:016x}" == summary["vocabulary_hash"] == info["hash"]
        assert (row["size"], row["documents"], row["tokens"]) == (path.stat().st_size, len(found), header["tokens"])
        got += found
    for ours, theirs, text in zip(got, want, documents):
        assert ours == theirs, text
    assert len(got) == len(want)

    counts = [len(ids) for ids, *_ in want]
    assert (summary["documents"], summary["tokens"]) == (len(want), sum(counts))
    assert summary["bytes"] == sum(row[1] for row in want) and summary["longest"] == max(counts)
    assert summary["split"] == sum(n >= SEQ_LEN for n in counts) > 0
    assert summary["windows"] == sum(len(row[3]) for row in want)
    lengths = [0] * (SEQ_LEN + 1)
    for n in counts:
        lengths[min(n + 1, SEQ_LEN)] += 1
    assert summary["lengths"] == lengths


def test_wide_ids(run, tmp_path):
    """A vocabulary of more than 65,536 tokens takes four bytes an id."""
    run("tokenizer", "train", "-", "-o", tmp_path / "bytes", "--vocab-size", 260, input=b"a")
    tree = json.loads((tmp_path / "bytes/tokenizer.json").read_text())
    model = tree["model"]
    for i in range(66000):
        model["vocab"][f"filler{i}"] = len(model["vocab"])
    merges = [["Ġ", "a"], ["b", "b"]]
    for a, b in merges:
        model["vocab"][a + b] = len(model["vocab"])
    model["merges"] = merges
    (tmp_path / "tokenizer.json").write_text(json.dumps(tree))
    (tmp_path / "text").write_text("a bb a abb")
    run("prepare", tmp_path / "text", "-t", tmp_path / "tokenizer.json", "-o", tmp_path / "data")
    header, [(ids, size, space, marks)] = read_shard(tmp_path / "data/shard-00000.dlm")
    assert header["width"] == 4 and max(ids) > 65536
    assert ids == Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode("a bb a abb").ids
    assert (size, space, marks) == (10, 1, [2])


def test_a_damaged_shard_is_refused(run, tokenizer, tmp_path):
    """By the checksums that are computed here too: a changed byte is refused, and read once its checksums are mended."""
    options = write(tmp_path, "separated", DOCUMENTS)
    run("prepare", *options, "-t", tokenizer, "-o", tmp_path / "data", "--seq-len", SEQ_LEN)
    path = tmp_path / "data/shard-00000.dlm"
    raw = bytearray(path.read_bytes())
    raw[192] ^= 1
    path.write_bytes(raw)
    tiny = ["--hidden", 16, "--depth", 1, "--heads", 2, "--seq-len", 16, "--steps", 1, "--threads", 1]
    done = run("train", "-d", tmp_path / "data", "-o", tmp_path / "run", *tiny, status=1)
    assert b"shard-00000.dlm" in done.stderr and b"checksum" in done.stderr
    assert not (tmp_path / "run").exists()
    size = struct.unpack_from("<Q", raw, 88)[0]
    struct.pack_into("<Q", raw, 96, xxhash.xxh3_64_intdigest(bytes(raw[192 : 192 + size])))
    struct.pack_into("<Q", raw, 184, xxhash.xxh3_64_intdigest(bytes(raw[:184])))
    path.write_bytes(raw)
    summary = json.loads((tmp_path / "data/data.json").read_text())
    value = xxhash.xxh3_64_intdigest(bytes(raw[:184]))
    summary["shards"][0]["checksum"] = f"{value:016x}"
    (tmp_path / "data/data.json").write_text(json.dumps(summary))
    run("train", "-d", tmp_path / "data", "-o", tmp_path / "run", *tiny)


def test_bytes_per_token_of_the_summary(run, tokenizer, plain, tmp_path):
    options = write(tmp_path, "separated", DOCUMENTS)
    said = json.loads(run("prepare", *options, "-t", tokenizer, "-o", tmp_path / "data", "--json").stdout)
    tokens, size = sum(len(plain.encode(t).ids) for t in DOCUMENTS), sum(len(t.encode()) for t in DOCUMENTS)
    assert math.isclose(said["bytes_per_token"], size / tokens)

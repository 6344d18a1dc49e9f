"""Documents and token shards: those of the command, byte for byte, and hostile input."""

import gzip
import json
import subprocess
import sys

import numpy as np
import pytest
import tokenizers

from diffusionlm import Data, Documents, Tokenizer, errors, prepare


@pytest.fixture(scope="module")
def tokenizer(golden):
    return golden / "tokenizer" / "stories_1024"


# ---- documents ------------------------------------------------------------------------------------------------------


def test_documents_of_each_format(stories, tmp_path):
    written = [text.strip() for text in stories.read_text().split("\n<|endoftext|>\n") if text.strip()]
    with Documents(stories) as documents:
        assert list(documents) == written and documents.position == (stories.stat().st_size,) * 2
        assert list(documents) == []
    (tmp_path / "lines").write_text("one\n\n two \r\nthree")
    assert list(Documents(tmp_path / "lines", format="lines")) == ["one", " two ", "three"]
    texts = ["a\n<|endoftext|>\nb", "", "\0 é"]
    (tmp_path / "jsonl").write_text("".join(json.dumps({"story": text}) + "\n\n" for text in texts))
    assert list(Documents(str(tmp_path / "jsonl"), format="jsonl", field="story")) == texts
    both = Documents([tmp_path / "lines", tmp_path / "jsonl"], format="whole")
    assert list(both) == [path.read_bytes().decode() for path in (tmp_path / "lines", tmp_path / "jsonl")]
    (tmp_path / "packed").write_bytes(gzip.compress(stories.read_bytes()))
    assert list(Documents(tmp_path / "packed")) == written


def test_documents_that_are_none(tmp_path):
    (tmp_path / "bad").write_bytes(b"ok\n<|endoftext|>\nbad \xff byte")
    with Documents(tmp_path / "bad") as documents:
        each = iter(documents)
        assert next(each) == "ok"
        with pytest.raises(errors.FormatError, match="bad"):
            next(each)
    assert list(Documents(tmp_path / "bad", replace_invalid=True)) == ["ok", "bad \ufffd byte"]
    with pytest.raises(errors.DiffusionLMError):
        list(Documents(tmp_path / "bad", max_bytes=1))
    with pytest.raises(errors.NotFound):
        list(Documents(tmp_path / "absent"))
    with pytest.raises(errors.ArgumentError, match="one of separated, lines, jsonl, whole"):
        Documents(tmp_path / "bad", format="csv")
    with pytest.raises(errors.ArgumentError, match="NUL"):
        Documents(["a\0b"])
    with pytest.raises(TypeError):
        Documents([1.5])
    closed = Documents(tmp_path / "bad")
    closed.close()
    closed.close()
    assert list(closed) == []
    with pytest.raises(ValueError, match="closed"):
        _ = closed.position


# ---- shards ----------------------------------------------------------------------------------------------------------


def test_shards_are_the_commands(run, stories, tokenizer, tmp_path):
    run("prepare", stories, "-t", tokenizer, "-o", tmp_path / "theirs", "--seq-len", 64, "--shard-tokens", 20000)
    seen = []
    data = prepare(stories, tokenizer, tmp_path / "ours", seq_len=64, shard_tokens=20000,
                   progress=lambda *told: seen.append(told))  # fmt: skip
    names = sorted(path.name for path in (tmp_path / "theirs").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "ours").iterdir()) and len(names) > 4
    for name in names:
        assert (tmp_path / "theirs" / name).read_bytes() == (tmp_path / "ours" / name).read_bytes(), name
    assert seen and {told[0] for told in seen} == {"encoding"}
    theirs = tokenizers.Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    with Documents(stories) as documents:
        lengths = [len(theirs.encode(text).ids) for text in documents]
    info = data.info
    assert (info.documents, info.tokens, info.longest) == (len(lengths), sum(lengths), max(lengths))
    assert len(data) == len(lengths) and [data.length(i) for i in range(len(data))] == lengths
    assert info.windows == sum(-(-(n + 1) // 64) for n in lengths) and info.seq_len == 64
    assert info.split == sum(n + 1 > 64 for n in lengths) and info.shards == sum(
        "shard" in n or n.endswith(".bin") for n in names
    )
    assert info.vocabulary_hash == data.tokenizer.hash == Tokenizer.load(tokenizer).hash
    assert Data(str(tmp_path / "theirs")).info == info and str(info.documents) in repr(data)
    for wrong in (-1, len(data), 2**70):
        with pytest.raises(errors.ArgumentError):
            data.length(wrong)


def test_documents_beside_others(stories, tokenizer, tmp_path):
    """match: documents at least as long, none twice, cut to the length; the ids are the real library's."""
    data = prepare(stories, tokenizer, tmp_path / "data")
    theirs = tokenizers.Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    with Documents(stories) as documents:
        ids = [theirs.encode(text).ids for text in documents]
    wanted = np.random.default_rng(1).integers(1, 150, 40)
    which, texts = data.match(wanted, seed=3)
    assert len(set(which.tolist())) == 40 and which.dtype == np.uint64
    for n, document, text in zip(sorted(wanted, reverse=True), which, texts):
        assert text.dtype == np.int32 and text.tolist() == ids[document][:n] and len(text) == n
    again = data.match(list(map(int, wanted)), seed=3)
    assert np.array_equal(again[0], which) and not np.array_equal(data.match(wanted, seed=4)[0], which)
    assert data.match([])[1] == [] and len(data.match(np.ones(1000, int))[1]) == len(data)


@pytest.mark.parametrize("wrong", [[1.5], [-1], [[1]], ["a"]], ids=str)
def test_lengths_that_are_none(stories, small_model, wrong):
    with pytest.raises((errors.ArgumentError, TypeError)):
        Data(small_model / "data").match(wrong)


def test_overwriting(stories, tokenizer, tmp_path):
    prepare(stories, Tokenizer.load(tokenizer), tmp_path / "data")
    with pytest.raises(FileExistsError, match="data"):
        prepare(stories, tokenizer, tmp_path / "data")
    assert prepare([stories, stories], tokenizer, tmp_path / "data", overwrite=True).info.documents == 800


def test_stopping_leaves_nothing(stories, tokenizer, tmp_path):
    for stop, error in ((lambda *told: True, errors.Cancelled), (lambda *told: 1 / 0, ZeroDivisionError)):
        with pytest.raises(error):
            prepare(stories, tokenizer, tmp_path / "data", progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_data_that_is_none(stories, tokenizer, tmp_path, run):
    data = tmp_path / "data"
    prepare(stories, tokenizer, data)
    shard = next(
        path for path in sorted(data.iterdir()) if path.suffix not in (".json",) and path.stat().st_size > 1000
    )
    whole = shard.read_bytes()
    for damage in (whole[:-7], whole[:900] + bytes([whole[900] ^ 1]) + whole[901:], b""):
        shard.write_bytes(damage)
        with pytest.raises(errors.DiffusionLMError, match=shard.name):
            Data(data)
    for wrong, error in (
        (lambda: Data(tmp_path / "absent"), errors.NotFound),
        (lambda: Data(tmp_path), errors.DiffusionLMError),
        (lambda: Data("a\0b"), errors.ArgumentError),
        (lambda: prepare(stories, tmp_path / "absent", tmp_path / "no"), errors.NotFound),
        (lambda: prepare(tmp_path / "absent", tokenizer, tmp_path / "no"), errors.NotFound),
        (lambda: prepare(stories, tokenizer, tmp_path / "no", seq_len=0), errors.ArgumentError),
        (lambda: prepare(stories, tokenizer, tmp_path / "no", seq_len=2.5), TypeError),
        (lambda: prepare(stories, tokenizer, tmp_path / "no", seqlen=9), TypeError),
        (lambda: prepare(stories, tokenizer, tmp_path / "no", shard_tokens=-1), errors.ArgumentError),
    ):
        with pytest.raises(error):
            wrong()
    assert not (tmp_path / "no").exists()


def test_a_full_disk(stories, tokenizer, tmp_path):
    """A limit on file size stands for it: the error is an OSError, and nothing is left."""
    code = (
        "import resource, signal, sys\n"
        "import diffusionlm\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100000, 100000))\n"
        "try: diffusionlm.prepare(*sys.argv[1:])\n"
        "except OSError as error: print(type(error).__name__, error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, stories, tokenizer, tmp_path / "data"], capture_output=True,
                          text=True)  # fmt: skip
    assert done.stdout.startswith("InputOutputError") and "File too large" in done.stdout, done
    assert not (tmp_path / "data").exists()

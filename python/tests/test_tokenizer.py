"""Tokenizers: the real `tokenizers` library on the same text, and hostile input."""

import gc
import json
import pathlib
import random
import signal
import subprocess
import sys

import numpy as np
import pytest
import tokenizers

from diffusionlm import Data, Documents, Model, Tokenizer, errors

NAMES = ["stories_1024", "unicode_1500", "exhausted", "stories_min5"]
TEXTS = [
    "Once upon a time, there was a dog.",
    "",
    " ",
    "  two  spaces\n\n\tand lines\r\n",
    "don't we'll I'VE 12345 x_y",
    "Grüße, 世界! \U0001f600 e\u0301 \u202e",
    "nul \0 inside",
    "[MASK] and <|endoftext|> and [PAD][UNK]",
    "a" * 3000,
]


@pytest.fixture(scope="module", params=NAMES)
def both(request, golden):
    folder = golden / "tokenizer" / request.param
    return Tokenizer.load(folder), tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))


def random_texts(n):
    rng = random.Random(7)
    ranges = [(32, 127), (32, 127), (0xA0, 0x24F), (0x400, 0x460), (0x4E00, 0x4E40), (0x1F600, 0x1F640), (9, 14)]
    for _ in range(n):
        yield "".join(chr(rng.randrange(*rng.choice(ranges))) for _ in range(rng.randint(1, 60)))


def test_ids_and_texts_are_theirs(both):
    ours, theirs = both
    for text in [*TEXTS, *random_texts(300)]:
        ids = ours.encode(text)
        assert ids.dtype == np.int32 and ids.tolist() == theirs.encode(text).ids, text
        assert ours.decode(ids) == theirs.decode(ids.tolist())
        assert ours.decode(ids, skip_special=False) == theirs.decode(ids.tolist(), skip_special_tokens=False)
        assert np.array_equal(ours.encode(text.encode()), ids)
    batch = ours.encode_batch(TEXTS)
    assert [one.tolist() for one in batch] == [one.ids for one in theirs.encode_batch(TEXTS)]
    assert ours.decode_batch(batch) == theirs.decode_batch([one.tolist() for one in batch])


def test_any_ids_decode_as_theirs(both):
    ours, theirs = both
    rng = random.Random(8)
    for _ in range(100):
        ids = [rng.randrange(len(ours)) for _ in range(rng.randint(0, 12))]
        assert ours.decode(ids) == theirs.decode(ids), ids


def test_what_it_tells(both):
    ours, theirs = both
    assert len(ours) == ours.vocab_size == theirs.get_vocab_size()
    for name, token in (("pad_id", "[PAD]"), ("unk_id", "[UNK]"), ("mask_id", "[MASK]"), ("end_id", "<|endoftext|>")):
        assert getattr(ours, name) == theirs.token_to_id(token)
    assert ours.added_tokens == len(theirs.get_added_tokens_decoder())
    assert ours.merges == len(json.loads(theirs.to_str())["model"]["merges"])
    for id in range(len(ours)):
        assert ours.is_special(id) == (id in theirs.get_added_tokens_decoder())
        assert ours.token(id).decode("utf-8", "replace") == theirs.decode([id], skip_special_tokens=False)
    assert "of" in repr(ours) and str(len(ours)) in repr(ours)


def test_special_tokens_as_plain_text(both):
    ours, theirs = both
    plain = ours.encode("[MASK]", added_tokens=False)
    assert ours.mask_id not in plain.tolist() and ours.decode(plain).strip() == "[MASK]"
    assert ours.mask_id in ours.encode("[MASK]").tolist()


# ---- files, and training ---------------------------------------------------------------------------------------------


def test_files_both_ways(both, tmp_path):
    ours, theirs = both
    ours.save(tmp_path / "ours")
    again = tokenizers.Tokenizer.from_file(str(tmp_path / "ours" / "tokenizer.json"))
    assert again.get_vocab() == theirs.get_vocab() and again.encode(TEXTS[5]).ids == theirs.encode(TEXTS[5]).ids
    theirs.save(str(tmp_path / "theirs.json"))
    for path in (tmp_path / "ours", tmp_path / "ours" / "tokenizer.json", str(tmp_path / "theirs.json")):
        assert Tokenizer.load(path).hash == ours.hash
    text = (tmp_path / "theirs.json").read_text(encoding="utf-8")
    assert Tokenizer.parse(text).hash == Tokenizer.parse(text.encode()).hash == ours.hash


def test_trained_it_is_the_commands_and_theirs(run, stories, tmp_path):
    seen = []
    ours = Tokenizer.train(stories, vocab_size=400, progress=lambda *told: seen.append(told))
    run("tokenizer", "train", stories, "-o", tmp_path / "theirs", "--vocab-size", 400)
    ours.save(tmp_path / "ours")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "ours" / name).read_bytes() == (tmp_path / "theirs" / name).read_bytes()
    assert {told[0] for told in seen} == {"counting words", "merging"} and seen[-1][1] <= seen[-1][2]
    # the Hugging Face trainer, set up as the original sets it up
    hf = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="[UNK]"))
    hf.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["[PAD]", "[UNK]", "[MASK]", "<|endoftext|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    with Documents(stories) as documents:
        hf.train_from_iterator(documents, trainer)
    theirs = json.loads(hf.to_str())["model"]
    got = json.loads((tmp_path / "ours" / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    assert got["vocab"] == theirs["vocab"]
    pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in got["merges"]]
    assert pairs == [pair.split(" ") if isinstance(pair, str) else pair for pair in theirs["merges"]]
    assert Tokenizer.train([stories], vocab_size=400, min_frequency=10**9).merges == 0
    short = Tokenizer.train(stories, vocab_size=400, max_token_length=3)
    assert max(len(short.token(id)) for id in range(4, len(short))) == 2


def test_open_documents_are_taken(stories, tmp_path):
    (tmp_path / "lines.txt").write_text("aaaa bbbb\naaaa\n")
    with Documents(tmp_path / "lines.txt", format="lines") as documents:
        made = Tokenizer.train(documents, vocab_size=265)
        with pytest.raises(TypeError, match="opened already"):
            Tokenizer.train(documents, vocab_size=265, format="lines")
    assert made.vocab_size == 265 and made.encode("aaaa").size < 4


def test_stopping(stories):
    with pytest.raises(errors.Cancelled):
        Tokenizer.train(stories, progress=lambda *told: True)
    with pytest.raises(ZeroDivisionError):
        Tokenizer.train(stories, progress=lambda *told: 1 / 0)


@pytest.mark.parametrize("what", ["Tokenizer.train(files, vocab_size=8000)", "prepare(files, 'T', 'D')"])
def test_interrupts(golden, stories, tmp_path, what):
    """Ctrl-C during a long call, without a callback of the user's; nothing half-written is left."""
    large = tmp_path / "large.txt"
    text = stories.read_text()
    with open(large, "w") as file:
        for i in range(40):
            file.write(text.replace("the", f"th{i}e"))
    code = (
        "import sys\nfrom diffusionlm import Tokenizer, prepare\n"
        f"files = [{str(large)!r}] * 40\nprint('begun', flush=True)\n"
        f"try: {what.replace(chr(39) + 'T' + chr(39), repr(str(golden / 'tokenizer/stories_8192')))}\n"
        "except KeyboardInterrupt: print('interrupted')\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=tmp_path)
    try:
        assert process.stdout.readline() == "begun\n"
        import time

        time.sleep(0.4)
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == "interrupted\n" and process.wait(30) == 0
    finally:
        process.kill()
    assert not (tmp_path / "D").exists() and not list(tmp_path.glob("*partial*"))


# ---- hostile input ---------------------------------------------------------------------------------------------------


def test_ids_that_are_none(both):
    ours, _ = both
    for wrong, error in (
        ([1.0, 2.0], TypeError),
        (np.array([1.5], np.float32), TypeError),
        (["a"], TypeError),
        ([True], TypeError),
        ([len(ours)], errors.ArgumentError),
        ([-1], errors.ArgumentError),
        ([2**31], errors.ArgumentError),
        (np.array([2**63 - 1]), errors.ArgumentError),
        (np.array([2**64 - 1], np.uint64), errors.ArgumentError),
        ([2**70], (TypeError, OverflowError)),
        ([[1, 2], [3, 4]], errors.ArgumentError),
        (np.zeros((1, 1, 1), int), errors.ArgumentError),
        ([[1], [2, 3]], (TypeError, ValueError)),
        (None, TypeError),
    ):
        with pytest.raises(error):
            ours.decode(wrong)
    assert ours.decode([]) == ours.decode(np.empty(0)) == ""
    strided = np.arange(8, dtype=np.int64)[::2]
    assert ours.decode(strided) == ours.decode(strided.tolist()) == ours.decode(strided.astype(np.uint8))
    for id in (-1, len(ours), 2**31, 2**40, -(2**40)):
        with pytest.raises(errors.ArgumentError, match=str(id)):
            ours.token(id)


def test_text_that_is_none(both):
    ours, _ = both
    with pytest.raises(errors.DiffusionLMError):
        ours.encode(b"\xff\xfe")
    with pytest.raises(UnicodeEncodeError):
        ours.encode("\ud800")
    with pytest.raises(TypeError):
        ours.encode(3.5)


def test_files_that_are_none(golden, tmp_path):
    (tmp_path / "tokenizer.json").write_text('{"model": 3}')
    for wrong, error in (
        (lambda: Tokenizer.load(tmp_path / "absent"), FileNotFoundError),
        (lambda: Tokenizer.load(tmp_path), errors.FormatError),
        (lambda: Tokenizer.load("a\0b"), errors.ArgumentError),
        (lambda: Tokenizer.load(3), TypeError),
        (lambda: Tokenizer.parse("{"), errors.FormatError),
        (lambda: Tokenizer.parse("", "the name"), errors.FormatError),
        (lambda: Tokenizer.train(tmp_path / "absent"), errors.NotFound),
        (lambda: Tokenizer.train([]), errors.DiffusionLMError),
        (lambda: Tokenizer.train(tmp_path / "tokenizer.json", vocab_size=3), errors.ArgumentError),
        (lambda: Tokenizer.train(tmp_path / "tokenizer.json", format="xml"), errors.ArgumentError),
        (lambda: Tokenizer.train(tmp_path / "tokenizer.json", vocabsize=300), TypeError),
    ):
        with pytest.raises(error):
            wrong()
    with pytest.raises(errors.FormatError, match="the name"):
        Tokenizer.parse("", "the name")


def test_a_name_that_is_no_utf8(golden, tmp_path):
    folder = pathlib.Path(str(tmp_path) + "/\udcff name")
    Tokenizer.load(golden / "tokenizer" / "exhausted").save(folder)
    assert Tokenizer.load(folder).hash == Tokenizer.load(golden / "tokenizer" / "exhausted").hash


def test_it_keeps_what_it_belongs_to(small_model):
    """The tokenizer of a model, or of data, lives on when nothing else holds that."""
    ids = Tokenizer.load(small_model / "tokenizer").encode("A dog.").tolist()
    of_model, of_data = Model.load(small_model).tokenizer, Data(small_model / "data").tokenizer
    for _ in range(3):
        gc.collect()
        np.zeros(1 << 20).fill(7)
        assert of_model.encode("A dog.").tolist() == of_data.encode("A dog.").tolist() == ids

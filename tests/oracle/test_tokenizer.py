"""Tokenizers held against the Hugging Face libraries: classes of characters, ids, texts, training, and what is saved.

The shared library is called through ctypes, since the command would be started thousands of times."""

import ctypes
import itertools
import json
import os
import random

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

SPECIAL = ["[PAD]", "[UNK]", "[MASK]", "<|endoftext|>"]
ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
SEPARATED, LINES, JSONL, WHOLE = range(4)


# ---- the library ---------------------------------------------------------------------------------------------------


class Error(ctypes.Structure):
    _fields_ = [("status", ctypes.c_int), ("message", ctypes.c_char * 500)]


class TextOptions(ctypes.Structure):
    _fields_ = [
        ("format", ctypes.c_int),
        ("field", ctypes.c_char_p),
        ("replace_invalid", ctypes.c_bool),
        ("max_bytes", ctypes.c_size_t),
    ]


class BpeOptions(ctypes.Structure):
    _fields_ = [
        ("vocab_size", ctypes.c_size_t),
        ("min_frequency", ctypes.c_uint64),
        ("progress", ctypes.c_void_p),
        ("user", ctypes.c_void_p),
        ("max_token_length", ctypes.c_size_t),
    ]


class Ours:
    """A tokenizer of this project, with the methods of the other that are compared."""

    library = None

    def __init__(self, handle):
        self.handle = handle

    def __del__(self):
        self.library.dlm_tokenizer_free(self.handle)

    @classmethod
    def call(cls, name, *arguments):
        error = Error()
        if getattr(cls.library, name)(*arguments, ctypes.byref(error)) != 0:
            raise ValueError(error.message.decode())

    @classmethod
    def parse(cls, text):
        data, handle = text.encode(), ctypes.c_void_p()
        cls.call("dlm_tokenizer_parse", b"tokenizer.json", data, ctypes.c_size_t(len(data)), ctypes.byref(handle))
        return cls(handle)

    @classmethod
    def train(cls, path, text_format, vocab_size, min_frequency, max_token_length=0):
        paths, documents, handle = (ctypes.c_char_p * 1)(str(path).encode()), ctypes.c_void_p(), ctypes.c_void_p()
        text = TextOptions(text_format, b"text", False, 0)
        options = BpeOptions(vocab_size, min_frequency, None, None, max_token_length)
        cls.call("dlm_documents_open", paths, ctypes.c_size_t(1), ctypes.byref(text), ctypes.byref(documents))
        try:
            cls.call("dlm_tokenizer_train", documents, ctypes.byref(options), ctypes.byref(handle))
        finally:
            cls.library.dlm_documents_close(documents)
        return cls(handle)

    def encode(self, text, added_tokens=True):
        data, ids, n = text.encode(), ctypes.POINTER(ctypes.c_int32)(), ctypes.c_size_t()
        self.call(
            "dlm_tokenizer_encode", self.handle, data, ctypes.c_size_t(len(data)), ctypes.c_bool(added_tokens),
            ctypes.byref(ids), ctypes.byref(n),
        )  # fmt: skip
        result = ids[: n.value]
        self.library.dlm_free(ids)
        return result

    def decode(self, ids, skip_special_tokens=True):
        array, text, n = (ctypes.c_int32 * len(ids))(*ids), ctypes.c_void_p(), ctypes.c_size_t()
        self.call(
            "dlm_tokenizer_decode", self.handle, array, ctypes.c_size_t(len(ids)), ctypes.c_bool(skip_special_tokens),
            ctypes.byref(text), ctypes.byref(n),
        )  # fmt: skip
        result = ctypes.string_at(text, n.value).decode()
        self.library.dlm_free(text)
        return result

    def save(self, folder):
        self.call("dlm_tokenizer_save", self.handle, str(folder).encode())


@pytest.fixture(scope="module", autouse=True)
def library():
    path = os.path.join(os.environ.get("OUT", ""), "libdiffusionlm.so")
    if not os.path.isfile(path):
        pytest.fail("OUT does not name the folder of libdiffusionlm.so: run `make test-oracles`")
    Ours.library = ctypes.CDLL(path)
    for name in ("dlm_tokenizer_free", "dlm_documents_close", "dlm_free"):
        getattr(Ours.library, name).restype = None
        getattr(Ours.library, name).argtypes = [ctypes.c_void_p]


# ---- texts ---------------------------------------------------------------------------------------------------------

PIECES = [" ", "  ", "\n", "\t", "\r\n", "\u00a0", "\u3000", "\u0085", "\u200b", "\x1c", "'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'",
          "'S", "a", "the", "Once", "day", "1", "23", "\u0663", "\u2167", "\u00bd", "!", "...", "\u2014", "_", "\x00", "\x7f",
          "\u00e9", "e\u0301", "\u00df", "\u4e2d\u6587", "\ud55c", "\u0e01\u0e33", "\U0001f600", "\U0001d504", "\U0010ffff",
          "[MASK]", "[PAD]", "<|endoftext|>", "[MAS", "<|", "\ufeff", "\ufffd"]  # fmt: skip


def random_text(rng, pieces=PIECES, longest=40):
    parts = []
    for _ in range(rng.randint(0, longest)):
        if rng.random() < 0.8:
            parts.append(rng.choice(pieces))
        else:
            c = rng.randrange(0x110000 if rng.random() < 0.3 else 0x3000)
            parts.append("" if 0xD800 <= c <= 0xDFFF else chr(c))
    return "".join(parts)


def same_everywhere(theirs, rng, texts, decodes=100):
    """Compares ids and texts of a tokenizer of the library with ours, which is made from its file."""
    ours = Ours.parse(theirs.to_str())
    for text in texts:
        ids = theirs.encode(text).ids
        assert ours.encode(text) == ids, text
        for skip in (True, False):
            assert ours.decode(ids, skip) == theirs.decode(ids, skip_special_tokens=skip), text
    size = theirs.get_vocab_size()
    for _ in range(decodes):
        ids = [rng.randrange(size) for _ in range(rng.randint(0, 12))]
        for skip in (True, False):
            assert ours.decode(ids, skip) == theirs.decode(ids, skip_special_tokens=skip), ids


# ---- characters ----------------------------------------------------------------------------------------------------


def code_points():
    return [chr(c) for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF]


def test_class_of_every_code_point():
    """Merges of "a", "1" and "!" with each byte show whether a character is in one word with them."""
    vocab = {c: i for i, c in enumerate(ALPHABET)}
    merges = list(itertools.product("a1!", ALPHABET))
    for a, b in merges:
        vocab[a + b] = len(vocab)
    theirs = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    theirs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    theirs.decoder = decoders.ByteLevel()
    ours = Ours.parse(theirs.to_str())
    points = code_points()
    for at in range(0, len(points), 4096):
        text = "".join(f"a{c}1{c}!{c}" for c in points[at : at + 4096])
        assert ours.encode(text) == theirs.encode(text).ids, f"from U+{ord(points[at]):04X} on"


def test_word_characters_of_every_code_point():
    theirs = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(ALPHABET)}, merges=[]))
    theirs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    theirs.decoder = decoders.ByteLevel()
    theirs.add_tokens([AddedToken("<w>", single_word=True)])
    ours = Ours.parse(theirs.to_str())
    points = code_points()
    for at in range(0, len(points), 16):
        text = "".join(f"{c}<w> <w>{c}" for c in points[at : at + 16])
        assert ours.encode(text) == theirs.encode(text).ids, f"from U+{ord(points[at]):04X} on"


# ---- encoding and decoding -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["stories_1024", "stories_min5", "unicode_1500", "exhausted"])
def test_random_texts(golden, name):
    rng = random.Random(name)
    theirs = Tokenizer.from_file(str(golden / "tokenizer" / name / "tokenizer.json"))
    same_everywhere(theirs, rng, [random_text(rng) for _ in range(2000)], 500)


def test_long_words(golden):
    """Words beyond the length to which all neighbours are looked through."""
    rng = random.Random(1)
    for name in ("exhausted", "stories_1024"):
        theirs = Tokenizer.from_file(str(golden / "tokenizer" / name / "tokenizer.json"))
        texts = ["".join(rng.choice("ab") for _ in range(n)) for n in (47, 48, 49, 50, 1000, 30000)]
        texts += ["a" * n for n in (47, 48, 49, 1000, 20000)] + ["theonce" * 3000, "\u4e2d" * 5000, " " * 3000]
        same_everywhere(theirs, rng, texts, 0)


def random_tokenizer(rng, unknown):
    """Small, of unusual parts: merges of random pieces, and, where unknown, bytes without a symbol."""
    symbols = [c for c in ALPHABET if not unknown or rng.random() < 0.6]
    vocab, merges = {}, []
    if unknown and rng.random() < 0.7:
        vocab["[UNK]"] = 0
    for c in symbols:
        vocab[c] = len(vocab)
    frequent = [c for c in "abcde'\u0120\u010a\u00c3\u00a9" if c in vocab] + (["[UNK]"] if "[UNK]" in vocab else [])
    for _ in range(rng.randint(0, 80)):
        a, b = rng.choice(frequent), rng.choice(frequent)
        if len(a + b) < 12:
            if a + b not in vocab:
                vocab[a + b] = len(vocab)
                frequent.append(a + b)
            merges.append((a, b))
    rng.shuffle(merges)
    theirs = Tokenizer(
        models.BPE(
            vocab=vocab,
            merges=merges,
            unk_token="[UNK]" if "[UNK]" in vocab else None,
            fuse_unk=rng.random() < 0.5,
            ignore_merges=rng.random() < 0.3,
        )
    )
    theirs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=rng.random() < 0.5, use_regex=rng.random() < 0.7)
    theirs.decoder = decoders.ByteLevel()
    return theirs


def random_added(rng):
    contents = ["ab", "abc", "b", " c", "c ", "a b", "<x>", "<x", "x>", "\u00e9", "\u0120a", "d\n", "\n", "  ", "[UNK]", "_"]
    return [
        AddedToken(
            content,
            single_word=rng.random() < 0.3,
            lstrip=rng.random() < 0.3,
            rstrip=rng.random() < 0.3,
            normalized=rng.random() < 0.5,
            special=rng.random() < 0.5,
        )
        for content in rng.sample(contents, rng.randint(1, 6))
    ]


@pytest.mark.parametrize("unknown", [False, True])
@pytest.mark.parametrize("added", [False, True])
def test_unusual_tokenizers(unknown, added):
    rng = random.Random(f"{unknown} {added}")
    pieces = list("abcdeabcde ' \n\u00e9<>x_") + ["abc", "  ", " c", "<x>", "'s", "[UNK]"]
    for _ in range(150):
        theirs = random_tokenizer(rng, unknown)
        if added:
            theirs.add_tokens(random_added(rng))
        same_everywhere(theirs, rng, [random_text(rng, pieces, 25) for _ in range(60)], 20)


def test_both_ways_of_writing_merges(golden):
    rng = random.Random(2)
    theirs = Tokenizer.from_file(str(golden / "tokenizer" / "stories_1024" / "tokenizer.json"))
    tree = json.loads(theirs.to_str())
    tree["model"]["merges"] = ["#version: 0.2"] + [" ".join(pair) for pair in tree["model"]["merges"]]
    old = Ours.parse(json.dumps(tree))
    assert Tokenizer.from_str(json.dumps(tree)).to_str() == theirs.to_str()
    for _ in range(300):
        text = random_text(rng)
        assert old.encode(text) == theirs.encode(text).ids


def test_added_tokens_as_plain_text(golden):
    """What our callers ask for when a text is only text: the ids without any added token in the tokenizer."""
    rng = random.Random(3)
    text = (golden / "tokenizer" / "stories_1024" / "tokenizer.json").read_text()
    tree = json.loads(text)
    tree["added_tokens"] = []
    ours, plain = Ours.parse(text), Tokenizer.from_str(json.dumps(tree))
    for _ in range(500):
        text = random_text(rng)
        assert ours.encode(text, added_tokens=False) == plain.encode(text).ids


# ---- training ------------------------------------------------------------------------------------------------------


def train_theirs(corpus, vocab_size, min_frequency, max_token_length=None):
    theirs = Tokenizer(models.BPE(unk_token="[UNK]"))
    theirs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    theirs.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=SPECIAL,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        max_token_length=max_token_length,
    )
    theirs.train_from_iterator(iter(corpus), trainer)
    return theirs


def train_ours(folder, corpus, vocab_size, min_frequency, max_token_length=0):
    path = folder / "corpus.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in corpus))
    return Ours.train(path, JSONL, vocab_size, min_frequency, max_token_length)


def random_corpus(rng):
    kind = rng.randrange(4)
    if kind == 0:  # few letters: the same token arises from many pairs
        letters = "abc"[: rng.randint(1, 3)]
        words = ["".join(rng.choice(letters) for _ in range(rng.randint(1, 14))) for _ in range(rng.randint(1, 60))]
        return [" ".join(rng.choice(words) for _ in range(rng.randint(0, 30))) for _ in range(8)]
    if kind == 1:  # runs
        return ["".join(rng.choice("ab ") * rng.randint(1, 20) for _ in range(20)) for _ in range(6)]
    pieces = PIECES if kind == 2 else ["a", "b", "ab", "ba", " ", "'s", "1", "11", "!", "\u00e9", "\n\n"]
    return [random_text(rng, pieces, 60) for _ in range(20)]


def check_training(folder, corpus, vocab_size, min_frequency, theirs_longest=None, ours_longest=0):
    theirs = json.loads(train_theirs(corpus, vocab_size, min_frequency, theirs_longest).to_str())
    train_ours(folder, corpus, vocab_size, min_frequency, ours_longest).save(folder / "saved")
    saved = json.loads((folder / "saved" / "tokenizer.json").read_text())
    assert saved == theirs, (corpus if len(str(corpus)) < 10000 else "", vocab_size, min_frequency, theirs_longest)
    return theirs


def test_training_on_random_texts(tmp_path):
    rng = random.Random(4)
    for _ in range(400):
        corpus = random_corpus(rng)
        check_training(tmp_path, corpus, rng.choice([260, 264, 300, 400, 1000]), rng.choice([0, 0, 1, 2, 3, 7]))


def test_training_with_bounded_tokens(tmp_path):
    rng = random.Random(6)
    for longest in [2, 3, 4, 5, 6, 7, 9, 12, 16] * 20:
        corpus = random_corpus(rng)
        check_training(tmp_path, corpus, rng.choice([300, 400, 1000]), rng.choice([0, 0, 1, 2]), longest, longest)


def test_tokens_are_bounded_without_being_told(tmp_path):
    """A run of one character: every merge doubles it, up to the bound that we have and the other library has not."""
    corpus = ["a" * 140_000]
    vocabulary = check_training(tmp_path, corpus, 300, 0, 1 << 16)["model"]["vocab"]
    assert 1 << 15 < max(map(len, vocabulary)) < 1 << 16


# ---- what is saved -------------------------------------------------------------------------------------------------


def test_saved_tokenizer_loads_in_both_libraries(tmp_path, golden):
    transformers = pytest.importorskip("transformers")
    rng = random.Random(5)
    corpus = [random_text(rng) for _ in range(200)]
    for folder, ours in (
        ("trained", train_ours(tmp_path, corpus, 600, 0)),
        ("loaded", Ours.parse((golden / "tokenizer" / "stories_1024" / "tokenizer.json").read_text())),
    ):
        ours.save(tmp_path / folder)
        plain = Tokenizer.from_file(str(tmp_path / folder / "tokenizer.json"))
        fast = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path / folder)
        assert (fast.pad_token_id, fast.unk_token_id, fast.mask_token_id, fast.eos_token_id) == (0, 1, 2, 3)
        for _ in range(300):
            text = random_text(rng)
            ids = ours.encode(text)
            assert plain.encode(text).ids == ids
            assert fast.encode(text) == ids, text
            assert fast.decode(ids, skip_special_tokens=True) == ours.decode(ids)
        fast.save_pretrained(tmp_path / "again")  # which puts a template around texts that adds nothing
        same_everywhere(fast.backend_tokenizer, rng, [random_text(rng) for _ in range(100)], 0)
        again = Ours.parse((tmp_path / "again" / "tokenizer.json").read_text())
        assert again.encode(text) == ids


def test_saved_options_are_kept(tmp_path):
    """A tokenizer that is not of our own kind comes back as it was."""
    transformers = pytest.importorskip("transformers")
    rng = random.Random(6)
    for i in range(30):
        theirs = random_tokenizer(rng, rng.random() < 0.5)
        theirs.add_tokens(random_added(rng))
        theirs.post_processor = processors.ByteLevel(trim_offsets=rng.random() < 0.5)
        folder = tmp_path / str(i)
        Ours.parse(theirs.to_str()).save(folder)
        assert json.loads((folder / "tokenizer.json").read_text()) == json.loads(theirs.to_str())
        fast = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
        for _ in range(20):
            text = random_text(rng, list("abc d'\n<x>"), 20)
            assert fast.encode(text) == theirs.encode(text).ids, text

"""Statistics of texts: plain Python on the same texts, and the command's figures."""

import collections
import json
import math
import random

import numpy as np
import pytest

from diffusionlm import Data, errors, statistics


def ngrams(text, n):
    return [tuple(text[i : i + n]) for i in range(len(text) - n + 1)]


@pytest.fixture(scope="module")
def texts():
    """Lists of ids that repeat themselves, of 0 to 40."""
    rng = random.Random(3)
    return [[rng.choice((5, 6, 7, 8, 9)) for _ in range(rng.randint(0, 40))] for _ in range(30)] + [[], [5]]


def test_how_varied_texts_are(texts):
    got = statistics.measure(texts)
    assert (got.texts, got.tokens) == (len(texts), sum(map(len, texts)))
    for i in range(3):
        grams = [gram for text in texts for gram in ngrams(text, i + 1)]
        assert got.distinct[i] == pytest.approx(len(set(grams)) / len(grams))
        shares = [1 - len(set(g)) / len(g) for g in (ngrams(text, i + 2) for text in texts) if g]
        assert got.repeated[i] == pytest.approx(sum(shares) / len(shares))
    counts = collections.Counter(id for text in texts for id in text)
    entropy = -sum(c / got.tokens * math.log(c / got.tokens) for c in counts.values())
    assert got.entropy == pytest.approx(entropy)


def test_shapes_of_texts(texts):
    array = np.random.default_rng(1).integers(4, 9, (6, 12))
    assert statistics.measure(array) == statistics.measure(list(array)) == statistics.measure(array.tolist())
    assert statistics.measure(array[0]).texts == 1
    short = statistics.measure([[5]])
    assert short.distinct[0] == 1 and math.isnan(short.distinct[1]) and math.isnan(short.repeated[0])
    empty = statistics.measure([])
    assert empty.texts == 0 and math.isnan(empty.distinct[0])
    for wrong in ([[1.5]], [[-1]], np.zeros((2, 2, 2), int), [[2**40]]):
        with pytest.raises((TypeError, errors.ArgumentError)):
            statistics.measure(wrong)


def test_lengths():
    numbers = np.random.default_rng(2).integers(0, 300, 101)
    got = statistics.lengths(numbers)
    assert got.mean == pytest.approx(numbers.mean()) and got.standard_deviation == pytest.approx(numbers.std(ddof=1))
    ranks = [0, *(math.ceil(q * 101 / 100) - 1 for q in (5, 25, 50, 75, 95)), 100]
    assert got.quantiles == tuple(np.sort(numbers)[ranks])
    assert math.isnan(statistics.lengths([7]).standard_deviation) and statistics.lengths([7]).quantiles == (7,) * 7
    for wrong in ([], [-1], [1.5], [[1]], ["a"]):
        with pytest.raises(errors.ArgumentError):
            statistics.lengths(wrong)


# ---- copies ----------------------------------------------------------------------------------------------------------


def longest_spans(text, documents):
    """For each token how many, it and those before it, stand in one of the documents: by plain search."""
    joined = [",".join(map(str, document)) + "," for document in documents]
    spans = []
    for end in range(1, len(text) + 1):
        n = 0
        while n < end:
            part = ",".join(map(str, text[end - n - 1 : end])) + ","
            if not any(f",{part}" in "," + document for document in joined):
                break
            n += 1
        spans.append(n)
    return spans


@pytest.fixture(scope="module")
def corpus(small_model, stories):
    """DATA, its documents' ids, and texts that copy from them."""
    data = Data(small_model / "data")
    documents = [
        data.tokenizer.encode(text).tolist() for text in stories.read_text().split("\n<|endoftext|>\n") if text.strip()
    ]
    assert len(documents) == len(data)
    rng = random.Random(4)
    texts = []
    for _ in range(12):
        part = rng.choice(documents)
        at = rng.randrange(len(part))
        texts.append([rng.randrange(4, 500) for _ in range(8)] + part[at : at + rng.randint(3, 40)])
    return data, documents, texts


def test_copies_are_those_of_a_plain_search(corpus):
    data, documents, texts = corpus
    spans = statistics.find(texts, data)
    assert [one.tolist() for one in spans] == [longest_spans(text, documents) for text in texts]
    assert all(one.dtype == np.uint32 for one in spans)
    got = statistics.copying(spans)
    longest = [int(one.max()) for one in spans]
    assert got.longest == statistics.lengths(longest)
    assert got.n == max(longest) and longest[got.text] == got.n
    copied = texts[got.text][got.first : got.first + got.n]
    assert any(copied == d[i : i + got.n] for d in documents for i in range(len(d)))
    grams = [one[i] for one in spans for i in range(7, len(one))]
    assert got.seen == pytest.approx(sum(span >= 8 for span in grams) / len(grams))


def test_copies_are_the_commands(run, corpus, small_model, tmp_path):
    data, documents, texts = corpus
    lines = "".join(json.dumps({"ids": text, "text": data.tokenizer.decode(text)}) + "\n" for text in texts)
    (tmp_path / "samples.jsonl").write_text(lines)
    want = json.loads(run("eval", "--samples", tmp_path / "samples.jsonl", "-d", small_model / "data", "--train-data",
                          small_model / "data", "--json"))["samples"]  # fmt: skip
    got, copying = statistics.measure(texts), statistics.copying(statistics.find(texts, str(small_model / "data")))
    assert got.distinct == (want["distinct_1"], want["distinct_2"], want["distinct_3"])
    assert got.repeated == (want["repeated_2grams"], want["repeated_3grams"], want["repeated_4grams"])
    assert got.entropy == want["unigram_entropy_nats"]
    assert copying.seen == want["copied"]["seen_8grams"] and copying.n == want["copied"]["span"]["tokens"]
    assert copying.longest.mean == want["copied"]["longest_span"]["mean"]


def test_progress_and_stopping(corpus):
    data, _, texts = corpus
    seen = []
    statistics.find(texts, data, progress=lambda *told: seen.append(told))
    assert seen and {told[0] for told in seen} == {"training texts"} and seen[-1][1] <= seen[-1][2] == len(data)
    with pytest.raises(errors.Cancelled):
        statistics.find(texts, data, progress=lambda *told: True)
    with pytest.raises(KeyboardInterrupt):
        statistics.find(texts, data, progress=lambda *told: (_ for _ in ()).throw(KeyboardInterrupt()))


def test_spans_that_are_none():
    for wrong in ([], [[2]], [[0, 3]], [[1.5]], [[-1]], [[[1]]]):
        with pytest.raises(errors.ArgumentError):
            statistics.copying(wrong)
    none = statistics.copying([[0, 0], []])
    assert none.n == 0 and math.isnan(none.seen)

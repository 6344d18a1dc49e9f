"""Every figure of `eval --samples --json`, counted anew in plain Python from the same files with the Hugging Face
tokenizer. Documents beside the samples are drawn by the program; here there are as many as samples and all of them
shorter, so that each is taken, whole."""

import json
import math
import random
from fractions import Fraction

import pytest
from tokenizers import Tokenizer

WORDS = "once upon a time there was the little dog Tom saw ran big red ball park happy day and they said\n, . !".split(" ")
END = "<|endoftext|>"


def story(rng, words):
    return " ".join(rng.choice(WORDS) for _ in range(words)).strip()


class Scene:
    """A training corpus, held-out documents, and samples that copy from the first."""

    def __init__(self, folder, tokenizer, seed):
        rng = random.Random(seed)
        self.folder = folder
        self.tokenizer = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
        self.end = self.tokenizer.token_to_id(END)
        self.train = [story(rng, rng.randint(5, 60)) for _ in range(150)]
        self.held_out = [story(rng, rng.randint(1, 20)) for _ in range(40)]
        # Some held-out documents are, or hold, parts of training documents.
        self.held_out[3] = self.train[7][:60].strip()
        self.held_out[9] = self.train[9][:30].strip() + " " + self.held_out[9]
        longest = max(len(self.encode(text)) for text in self.held_out)
        self.samples = []
        for i in range(len(self.held_out)):
            ids = self.encode(story(rng, 2 * longest))
            copied = self.encode(rng.choice(self.train))
            at = rng.randint(0, 20)
            ids[at : at + len(copied)] = copied
            ids += [rng.randrange(4, 1000) for _ in range(5)]
            # The end token, and whatever a model left behind it.
            self.samples.append((ids, [self.end] * rng.randint(0, 3) if i % 4 else [self.end, 70, self.end, 71]))
            assert len(ids) >= longest
        for name in ("train", "held_out"):
            (folder / f"{name}.txt").write_text(f"\n{END}\n".join(getattr(self, name)))

    def encode(self, text):
        return self.tokenizer.encode(text).ids


@pytest.fixture(scope="module", params=["stories_1024", "unicode_1500"])
def scene(request, golden, run, tmp_path_factory):
    tokenizer = golden / "tokenizer" / request.param
    scene = Scene(tmp_path_factory.mktemp("statistics"), tokenizer, request.param)
    for name in ("train", "held_out"):
        run("prepare", scene.folder / f"{name}.txt", "-t", tokenizer, "-o", scene.folder / name, "--quiet")
    return scene


# ---- the same figures ------------------------------------------------------------------------------------------------


def ngrams(text, n):
    return [tuple(text[i : i + n]) for i in range(len(text) - n + 1)]


def mean(values):
    return math.fsum(values) / len(values) if values else None


def spread(lengths):
    ordered = sorted(lengths)
    names = {"min": 0, "p5": 5, "p25": 25, "median": 50, "p75": 75, "p95": 95, "max": 100}
    # The smallest length that at least this share of the lengths are not above.
    quantiles = {
        name: next(x for x in ordered if Fraction(sum(y <= x for y in ordered), len(ordered)) >= Fraction(percent, 100))
        for name, percent in names.items()
    }
    average = mean(lengths)
    variance = math.fsum((x - average) ** 2 for x in lengths) / (len(lengths) - 1) if len(lengths) > 1 else None
    deviation = None if variance is None else math.sqrt(variance)
    return {"mean": average, "standard_deviation": deviation, **quantiles}


def copied_spans(texts, corpus):
    """For each token of each text the longest span up to it that a document of the corpus has."""
    as_string = lambda ids: "".join(chr(0x10000 + i) for i in ids)  # noqa: E731
    everything = "|".join(map(as_string, corpus))
    spans = []
    for text in map(as_string, texts):
        spans.append([])
        for t in range(len(text)):
            # What ends one token later is longer by one at most.
            most = spans[-1][-1] + 1 if t > 0 else 1
            spans[-1].append(next(n for n in range(most, -1, -1) if text[t + 1 - n : t + 1] in everything))
    return spans


def figures(texts, corpus):
    want = {"texts": len(texts), "tokens": sum(map(len, texts))}
    for n in (1, 2, 3):
        all_of_them = [gram for text in texts for gram in ngrams(text, n)]
        want[f"distinct_{n}"] = len(set(all_of_them)) / len(all_of_them) if all_of_them else None
    for n in (2, 3, 4):
        want[f"repeated_{n}grams"] = mean([1 - len(set(g)) / len(g) for g in (ngrams(text, n) for text in texts) if g])
    tokens = [token for text in texts for token in text]
    shares = [tokens.count(token) / len(tokens) for token in set(tokens)]
    want["unigram_entropy_nats"] = -math.fsum(p * math.log(p) for p in shares) if tokens else None
    spans = copied_spans(texts, corpus)
    long = [n >= 8 for text in spans for t, n in enumerate(text) if t >= 7]
    want["copied"] = {
        "longest_span": spread([max(text, default=0) for text in spans]),
        "seen_8grams": sum(long) / len(long) if long else None,
    }
    return want, spans


def check(got, want, where=""):
    for key, value in want.items():
        if isinstance(value, dict):
            check(got[key], value, f"{where}{key}.")
        elif value is None:
            assert got[key] is None, where + key
        else:
            assert got[key] == pytest.approx(value, rel=1e-12, abs=1e-14), where + key


def check_lengths(got, lengths):
    check(got, {"texts": len(lengths), **spread(lengths)})
    width, counts = got["histogram"]["width"], got["histogram"]["counts"]
    assert [sum(width * i <= n < width * (i + 1) for n in lengths) for i in range(len(counts))] == counts
    assert sum(counts) == len(lengths) and len(counts) <= 32


def check_span(scene, span, text, spans):
    """The longest span is one that is there, and its text is that of its tokens."""
    first, n = span["first"], span["tokens"]
    assert spans[first + n - 1] >= n
    assert span["text"] == scene.tokenizer.decode(text[first : first + n], skip_special_tokens=False)


# ---- tests -----------------------------------------------------------------------------------------------------------


def test_figures_of_json_lines(run, scene, tmp_path):
    lines = [{"text": None, "ids": ids + rest, "seed": 1, "index": i} for i, (ids, rest) in enumerate(scene.samples)]
    (tmp_path / "samples").write_text("".join(json.dumps(line) + "\n" for line in lines))
    got = json.loads(
        run("eval", "--samples", tmp_path / "samples", "-d", scene.folder / "held_out", "--train-data",
            scene.folder / "train", "--json").stdout
    )  # fmt: skip
    corpus = [scene.encode(text) for text in scene.train]
    samples = [ids for ids, _ in scene.samples]
    documents = [scene.encode(text) for text in scene.held_out]
    window = max(len(ids) + len(rest) for ids, rest in scene.samples)

    want, spans = figures(samples, corpus)
    assert want["copied"]["seen_8grams"] > 0.1
    check(got["samples"], {**want, "ended": sum(bool(rest) for _, rest in scene.samples) / len(samples)})
    check_lengths(got["samples"]["lengths"], [len(ids) for ids in samples])
    span = got["samples"]["copied"]["span"]
    assert span["tokens"] == want["copied"]["longest_span"]["max"]
    check_span(scene, span, samples[span["index"]], spans[span["index"]])

    want, spans = figures(documents, corpus)
    check(got["held_out"], {**want, "ended": sum(len(ids) + 1 <= window for ids in documents) / len(documents)})
    check_lengths(got["held_out"]["lengths"], [len(ids) for ids in documents])
    span = got["held_out"]["copied"]["span"]
    assert span["tokens"] == want["copied"]["longest_span"]["max"]
    check_span(scene, span, documents[span["document"]], spans[span["document"]])

    assert got["window"] == window
    assert got["training"]["documents"] == len(corpus) and got["training"]["tokens"] == sum(map(len, corpus))


def test_figures_of_plain_texts(run, scene, tmp_path):
    """Texts as generate writes them; those that are shorter than every n-gram count as well."""
    rng = random.Random(3)
    texts = [scene.train[5], "a", *(story(rng, rng.randint(1, 40)) for _ in range(30)), scene.train[5], "dog"]
    texts = [text for text in texts if text.strip()]
    (tmp_path / "samples").write_text("".join(f"{text}\n{END}\n" for text in texts))
    got = json.loads(
        run("eval", "--samples", tmp_path / "samples", "-d", scene.folder / "held_out", "--train-data",
            scene.folder / "train", "--json").stdout
    )  # fmt: skip
    ids = [scene.encode(text) for text in texts]
    want, spans = figures(ids, [scene.encode(text) for text in scene.train])
    check(got["samples"], {**want, "ended": None})
    check_lengths(got["samples"]["lengths"], list(map(len, ids)))
    check_span(scene, got["samples"]["copied"]["span"], ids[got["samples"]["copied"]["span"]["index"]],
               spans[got["samples"]["copied"]["span"]["index"]])  # fmt: skip
    assert got["window"] == max(map(len, ids)) + 1


@pytest.mark.parametrize("texts", [[[5]], [[]], [[5, 6, 7]], [[9] * 8], [[5], [6]]])
def test_few_tokens(run, scene, tmp_path, texts):
    (tmp_path / "samples").write_text("".join(json.dumps({"ids": ids}) + "\n" for ids in texts))
    got = json.loads(
        run("eval", "--samples", tmp_path / "samples", "-d", scene.folder / "held_out", "--train-data",
            scene.folder / "train", "--json").stdout
    )  # fmt: skip
    want, _ = figures(texts, [scene.encode(text) for text in scene.train])
    check(got["samples"], {**want, "ended": 0.0})
    check_lengths(got["samples"]["lengths"], list(map(len, texts)))

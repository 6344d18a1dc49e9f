"""eval against PyTorch: the NELBO by all masks, without the end token's part and by mask ratio; and its plot, read as
XML."""

import collections
import itertools
import json
import math
import os
import pathlib
import sys
import xml.etree.ElementTree as ET

import pytest
from safetensors.torch import load_file
from tokenizers import Tokenizer

TINY = "--hidden 16 --depth 1 --heads 2 --seq-len 32 --batch 4 --threads 1 --vocab-size 320 --eval-every 0".split()
SHORT = ["The cat saw", "a dog", "and", "The cat number 3", "7 birds."]
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def trained(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("eval")
    text = folder / "text.txt"
    text.write_text("\n<|endoftext|>\n".join(f"The cat number {i} saw a dog and {i * 7} birds." for i in range(300)))
    run("train", text, "-o", folder / "run", *TINY, "--steps", 200, "--sample-every", 0, "--seed", 5)
    return folder / "run"


@pytest.fixture(scope="module")
def shorts(run, trained):
    """DATA of the short texts."""
    text = trained.parent / "short.txt"
    text.write_text("".join(f"{one}\n<|endoftext|>\n" for one in SHORT))
    run("prepare", text, "-t", trained / "tokenizer", "-o", trained.parent / "shorts")
    return trained.parent / "shorts"


@pytest.fixture(scope="module")
def model(run, trained, shared):
    """The reference model with the run's weights."""
    pytest.importorskip("torch")
    sys.path.insert(0, str(shared / "reference"))
    reference = pytest.importorskip("torch_dit")
    config = json.loads(run("info", trained, "--json").stdout)
    names = ("vocab_size", "max_seq_len", "hidden_size", "depth", "num_heads", "mlp_ratio", "time", "position")
    model = reference.DiT(reference.Config(*(config[name] for name in names))).eval()
    model.load_state_dict(load_file(config["source"]))
    return model


def sequences(trained):
    tokenizer = Tokenizer.from_file(str(trained / "tokenizer/tokenizer.json"))
    return [tokenizer.encode(one).ids + [tokenizer.token_to_id("<|endoftext|>")] for one in SHORT]


def shares(model, ids, k):
    """What each position adds to the mean cross-entropy over k masked ones, by all sets of k: n numbers."""
    import torch

    sets = list(itertools.combinations(range(len(ids)), k))
    clean = torch.tensor(ids).repeat(len(sets), 1)
    masked = torch.zeros_like(clean, dtype=torch.bool)
    for row, positions in zip(masked, sets):
        row[list(positions)] = True
    t = torch.full((len(sets),), 2 / math.pi * math.acos(1 - k / len(ids)))
    with torch.no_grad():
        logits = model(torch.where(masked, 2, clean), t).double()
    ce = torch.nn.functional.cross_entropy(logits.flatten(0, 1), clean.flatten(), reduction="none").view_as(clean)
    return ((ce * masked).sum(0) / k / len(sets)).tolist()


def test_all_masks(run, trained, shorts, model):
    got = json.loads(run("eval", "-m", trained, "-d", shorts, "--exact", "--json", "--precision", "f32").stdout)
    everything = text = tokens = 0
    for ids in sequences(trained):
        by_count = [shares(model, ids, k) for k in range(1, len(ids) + 1)]
        everything += sum(map(sum, by_count))
        text += sum(sum(one[:-1]) for one in by_count)
        tokens += len(ids)
    size, without = sum(len(one.encode()) for one in SHORT), got["without_end_token"]
    assert got["exact"] is True and got["tokens"] == tokens and got["bytes"] == size
    assert math.isclose(got["nelbo_nats_per_token"], everything / tokens, rel_tol=1e-5)
    assert math.isclose(got["bits_per_byte"], everything / math.log(2) / size, rel_tol=1e-5)
    assert without["tokens"] == tokens - len(SHORT)
    assert math.isclose(without["nelbo_nats_per_token"], text / (tokens - len(SHORT)), rel_tol=1e-5)
    assert math.isclose(without["bits_per_byte"], text / math.log(2) / size, rel_tol=1e-5)
    assert got["standard_error"] == 0 and got["interval_95"] == [got["nelbo_nats_per_token"]] * 2

    drawn = json.loads(run("eval", "-m", trained, "-d", shorts, "--json", "--draws", 512, "--precision", "f32").stdout)
    assert abs(drawn["nelbo_nats_per_token"] - everything / tokens) < 5 * drawn["standard_error"] < 0.2
    wrong = abs(drawn["without_end_token"]["nelbo_nats_per_token"] - text / (tokens - len(SHORT)))
    assert wrong < 5 * drawn["without_end_token"]["standard_error"]


def test_curve(run, trained, shorts, model):
    got = json.loads(run("eval", "-m", trained, "-d", shorts, "--curve", "--json", "--draws", 200, "--precision", "f32").stdout)
    assert [point["ratio"] for point in got["curve"]] == pytest.approx([i / 20 for i in range(1, 21)])
    for point in got["curve"]:
        ce = masked = 0
        for ids in sequences(trained):
            k = max(1, math.floor(point["ratio"] * len(ids) + 0.5))
            ce += k * sum(shares(model, ids, k))
            masked += k
        assert abs(point["cross_entropy"] - ce / masked) < 5 * point["standard_error"] + 1e-4, point
        assert point["interval_95"][0] <= point["cross_entropy"] <= point["interval_95"][1]


# ---- 8 bits ----------------------------------------------------------------------------------------------------------


def test_int8_of_stories(run, tmp_path):
    """A model that has learned to go by what stands around a token loses less than half a percent in 8 bits."""
    corpus = pathlib.Path(__file__).parents[2] / "corpus"
    options = "--preset tiny --vocab-size 512 --seq-len 128 --steps 450 --warmup 50 --ema 0.98 --quiet".split()
    run("train", corpus / "tinystories-train.txt.zst", "-o", tmp_path / "run", *options, "--sample-every", 0)
    stories = (corpus / "tinystories-valid.txt.zst", "-t", tmp_path / "run/tokenizer", "--format", "separated")
    run("prepare", *stories, "-o", tmp_path / "data", "--quiet")
    counts = collections.Counter(run("tokenizer", "encode", *stories).stdout.split())
    unigrams = -sum(n / counts.total() * math.log(n / counts.total()) for n in counts.values())
    measure = ("eval", "-m", tmp_path / "run", "-d", tmp_path / "data", "--documents", 100, "--draws", 4, "--json")
    full, small = (json.loads(run(*measure, "--precision", type).stdout) for type in ("f32", "int8"))
    nelbo, moved = (one["nelbo_nats_per_token"] for one in (full, small))
    print(f"unigrams {unigrams}, {nelbo} in float32, {moved} in int8")
    assert nelbo < 0.85 * unigrams
    assert nelbo != moved == pytest.approx(nelbo, rel=0.005)


# ---- the plot --------------------------------------------------------------------------------------------------------


def scale(root, kind, at):
    """Of an axis: from a coordinate to the value there, by its first and last tick."""
    ticks = root.find(f".//{SVG}g[@class='{kind}']").findall(f"{SVG}text")
    (a, x), (b, y) = ((float(tick.get(at)), float(tick.text)) for tick in (ticks[0], ticks[-1]))
    for tick in ticks:
        assert float(tick.text) == pytest.approx(x + (float(tick.get(at)) - a) / (b - a) * (y - x), abs=1e-2 * (y - x))
    return lambda value: x + (value - a) / (b - a) * (y - x)


def check_plot(path, models):
    root = ET.parse(path).getroot()
    assert root.tag == SVG + "svg"
    assert not [name for element in root.iter() for name in element.attrib if "href" in name], "needs another file"
    x, y = scale(root, "x-ticks", "x"), scale(root, "y-ticks", "y")
    drawn = root.findall(f".//{SVG}g[@class='series']")
    names = [text.text for text in root.findall(f".//{SVG}text[@class='name']")]
    assert len(drawn) == len(names) == len(models)
    for series, points in zip(drawn, models):
        dots = [(float(dot.get("cx")), float(dot.get("cy"))) for dot in series.iter(f"{SVG}circle")]
        line = [tuple(map(float, pair.split(","))) for pair in series.find(f"{SVG}polyline").get("points").split()]
        band = [tuple(map(float, pair.split(","))) for pair in series.find(f"{SVG}polygon").get("points").split()]
        assert dots == line and len(dots) == len(points) and len(band) == 2 * len(points)
        for (px, py), (hx, high), (lx, low), point in zip(dots, band, band[::-1], points):
            assert px == hx == lx
            assert x(px) == pytest.approx(point["ratio"], abs=1e-4)
            assert y(py) == pytest.approx(point["cross_entropy"], abs=5e-3)
            assert [y(low), y(high)] == pytest.approx(point["interval_95_documents"], abs=5e-3)
            assert 0 <= px <= float(root.get("width")) and 0 < high <= py <= low < float(root.get("height"))
    return names


def test_plot(run, trained, shorts, tmp_path):
    model = trained.parent / 'a<b>&"c" é'
    model.symlink_to(trained)
    options = ["-d", shorts, "--json", "--svg", tmp_path / "plot.svg", "--draws", 3]
    one = json.loads(run("eval", "-m", trained, *options).stdout)
    check_plot(tmp_path / "plot.svg", [one["curve"]])
    two = json.loads(run("eval", "-m", trained, "-m", model, *options).stdout)
    names = check_plot(tmp_path / "plot.svg", [each["curve"] for each in two["models"]])
    assert 'a<b>&"c" é' in names[1]
    assert [path.name for path in tmp_path.iterdir()] == ["plot.svg"]


def test_plot_of_a_name_that_is_no_text(run, trained, shorts, tmp_path):
    model = bytes(trained.parent) + b"/\xff\x01 run"


    os.symlink(bytes(trained), model)
    run("eval", "-m", os.fsdecode(model), "-d", shorts, "--svg", tmp_path / "plot.svg", "--quiet")
    names = ET.parse(tmp_path / "plot.svg").getroot().findall(f".//{SVG}text[@class='name']")
    assert "\ufffd\ufffd run" in names[0].text

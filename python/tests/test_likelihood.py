"""Likelihoods: against PyTorch's values and exact enumeration, and the command's figures."""

import itertools
import json
import math
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from diffusionlm import Config, Data, Documents, Model, errors, evaluate_pair

FOLDERS = ["tiny", "odd", "plain", "halfway"]


def scaled(golden, folder, scale, schedule, tmp_path):
    """The fixtures' model as their likelihoods were computed: the last weights are scaled."""
    there = tmp_path / "scaled"
    there.mkdir()
    (there / "config.json").write_bytes((golden / folder / "config.json").read_bytes())
    weights = load_file(golden / folder / "model.safetensors")
    weights["final_layer.linear.weight"] *= np.float32(scale)
    save_file(weights, there / "model.safetensors")
    return Model.load(there, precision="f32", schedule=schedule)


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
@pytest.mark.parametrize("folder", FOLDERS)
def test_likelihoods_are_pytorchs(golden, tmp_path, folder, schedule):
    told = json.loads((golden / folder / "likelihood.json").read_text())
    want = told["schedule"][schedule]
    model = scaled(golden, folder, told["head_scale"], schedule, tmp_path)
    ids = told["sequences"]
    exact = model.nelbo(ids, exact=True)
    np.testing.assert_allclose(exact.nats, want["nelbo_nats"], atol=1e-4)
    assert (exact.standard_errors == 0).all() and list(exact.tokens) == [len(one) for one in ids]
    np.testing.assert_allclose(exact.nats_per_token, np.array(want["nelbo_nats"]) / exact.tokens, atol=1e-5)
    drawn = model.nelbo(np.array(ids), draws=256)
    assert (np.abs(drawn.nats - exact.nats) < 5 * drawn.standard_errors).all()
    for per_step, values in want["order_confidence_loglik_nats"].items():
        got = model.score(ids, order="confidence", reveals_per_step=int(per_step))
        np.testing.assert_allclose(got.log_likelihood, values, atol=1e-3)
        assert list(got.forwards) == [math.ceil(len(one) / int(per_step)) for one in ids]


# ---- enumeration of what a small model can write ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def little(tmp_path_factory):
    """A model of 4 tokens that it can draw, and sequences of 3, with weights of all sizes."""
    folder = tmp_path_factory.mktemp("little") / "model"
    config = Config(vocab_size=7, max_seq_len=3, hidden_size=8, depth=1, num_heads=2, mlp_ratio=2)
    Model.random(config, seed=3).save(folder)
    draw = np.random.default_rng(1).normal
    weights = load_file(folder / "model.safetensors")
    save_file(
        {name: draw(size=w.shape).astype(np.float32) for name, w in weights.items()}, folder / "model.safetensors"
    )
    return Model.load(folder, precision="f32")


@pytest.mark.parametrize("order", ["confidence", "margin", "entropy", "left_to_right"])
@pytest.mark.parametrize("reveals", [1, 2])
def test_the_likelihoods_of_all_sequences_sum_up_to_one(little, order, reveals):
    every = np.array(list(itertools.product([3, 4, 5, 6], repeat=3)), np.int32)
    got = little.score(every, order=order, reveals_per_step=reveals, temperature=0.8)
    assert math.isclose(np.exp(got.log_likelihood).sum(), 1, rel_tol=1e-5)
    # given the second token, the others' likelihood sums up to 1 for each of its values
    fixed = np.zeros_like(every, bool)
    fixed[:, 1] = True
    given = little.score(every, fixed=fixed, order=order, reveals_per_step=reveals)
    for token in (3, 4, 5, 6):
        assert math.isclose(np.exp(given.log_likelihood[every[:, 1] == token]).sum(), 1, rel_tol=1e-5)
    assert (given.forwards == math.ceil(2 / reveals)).all()


def test_options_of_the_sampler_count(little):
    every = np.array(list(itertools.product([3, 4, 5, 6], repeat=3)), np.int32)
    for options in (
        {"banned": [4]},
        {"top_k": 2},
        {"top_p": 0.6},
        {"min_p": 0.9},
        {"repetition_penalty": 1.5},
        {"confidence_threshold": 0.3},
        {"entropy_bound": 3.0},
        {"steps": 2, "reveal": "linear"},
        {"allow": lambda sequence, position, ids, allowed: allowed.__setitem__(3 + position, False)},
    ):
        plain, got = little.score(every), little.score(every, **options)
        assert math.isclose(np.exp(got.log_likelihood).sum(), 1, rel_tol=1e-5), options
        assert not np.allclose(plain.log_likelihood, got.log_likelihood), options
    banned = little.score(every, banned=[4])
    assert (np.isneginf(banned.log_likelihood) == (every == 4).any(axis=1)).all()
    guided = little.score(every, fixed=every == 5, guidance=1.0)
    assert not np.allclose(guided.log_likelihood, little.score(every, fixed=every == 5).log_likelihood)


def test_bound_by_plain_loops(little):
    """The definition of the NELBO, over logits of the package."""
    ids = np.array([4, 6, 5], np.int32)
    total = 0.0
    for k in (1, 2, 3):
        sets = list(itertools.combinations(range(3), k))
        for masked in sets:
            x = ids.copy()
            x[list(masked)] = little.mask_id
            logits = little.logits(x).astype(np.float64)
            log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
            total -= sum(log_p[i, ids[i]] for i in masked) / k / len(sets)
    got = little.nelbo(ids, exact=True)
    assert got.nats.shape == (1,) and math.isclose(got.nats[0], total, rel_tol=1e-5)


# ---- as the command --------------------------------------------------------------------------------------------------


def near(figure, value):
    """A figure of the command's JSON, which has 17 digits or null."""
    return math.isnan(value) if figure is None else math.isclose(figure, value, rel_tol=1e-12, abs_tol=1e-15)


def check_evaluation(got, want):
    assert near(want["eval_ce"], got.eval_ce) and near(want["perplexity"], got.perplexity)
    check_bound(got.all, want)
    assert (want["bytes"], want["exact"]) == (got.bytes, got.exact)
    if want["without_end_token"] is not None:
        check_bound(got.text, want["without_end_token"])


def check_bound(got, want):
    assert near(want["nelbo_nats_per_token"], got.nelbo) and near(want["standard_error"], got.standard_error)
    assert near(want["standard_error_documents"], got.standard_error_documents)
    assert all(near(a, b) for a, b in zip(want["interval_95"], got.interval))
    assert all(near(a, b) for a, b in zip(want["interval_95_documents"], got.interval_documents))
    assert near(want["bits_per_byte"], got.bits_per_byte) and want["tokens"] == got.tokens


@pytest.mark.parametrize("kind", ["small_model", "original_model"])
def test_evaluation_is_the_commands(request, run, small_model, kind):
    path = request.getfixturevalue(kind)
    model, data = Model.load(path, precision="f32"), small_model / "data"
    common = ("eval", "-m", path, "-d", data, "--json", "--precision", "f32")
    want = json.loads(run(*common, "--seed", 5, "--draws", 4, "--documents", 60))
    got = model.evaluate(data, seed=5, draws=4, max_documents=60)
    check_evaluation(got, want)
    assert got.documents == 60 and got.end_token == model.config.end_token and got.seconds > 0
    want = json.loads(
        run(*common, "--masks", "independent", "--draws", 4, "--seq-len", 20, "--documents", 9, "--curve")
    )
    check_evaluation(model.evaluate(Data(data), draws=4, masks="independent", seq_len=20, max_documents=9), want)
    curve = model.curve(data, draws=4, seq_len=20, max_documents=9)
    assert len(curve) == len(want["curve"]) == 20
    for point, figure in zip(curve, want["curve"]):
        assert near(figure["ratio"], point.ratio) and near(figure["cross_entropy"], point.cross_entropy)
        assert near(figure["standard_error"], point.standard_error)
        assert all(near(a, b) for a, b in zip(figure["interval_95_documents"], point.interval_documents))


def test_pairs_are_the_commands(run, small_model):
    data = small_model / "data"
    first = Model.load(small_model, precision="f32")
    second = Model.load(small_model, precision="f32", weights="raw")
    assert pathlib.Path(second.source).name == "raw.safetensors"
    pair = evaluate_pair(first, second, data, draws=4, max_documents=40, seed=2)
    alone = second.evaluate(data, draws=4, max_documents=40, seed=2)
    assert alone.all == pair.second.all and pair.first.all != alone.all
    difference = pair.second.all.nelbo - pair.first.all.nelbo
    assert math.isclose(pair.difference.all.nelbo, difference, abs_tol=1e-9)
    assert 0 < pair.difference.all.standard_error < pair.first.all.standard_error
    named = evaluate_pair(str(small_model), second, data, draws=4, max_documents=9)
    assert named.second.all == evaluate_pair(first, second, data, draws=4, max_documents=9).second.all
    told = run("eval", "-m", small_model, "-m", small_model, "-d", data, "--json", "--draws", 4, "--documents", 40,
               "--precision", "f32", "--seed", 2)  # fmt: skip
    check_evaluation(pair.first, json.loads(told)["models"][0])


def test_texts_are_scored_as_by_the_command(run, model, small_model, stories):
    with Documents(stories) as documents:
        texts = [text for text, _ in zip(documents, range(6))]
    assert max(len(model.tokenizer.encode(text)) for text in texts) > 2 * model.config.max_seq_len
    common = ("score", "-m", small_model, "--json", "--precision", "f32", "--seed", 4, "--draws", 8, "--documents", 6)
    want = [json.loads(line) for line in run(*common, stories).splitlines()]
    bound = model.nelbo(texts, seed=4, draws=8)
    assert [one["text"] for one in want] == texts
    np.testing.assert_allclose(bound.nats, [one["nelbo_nats"] for one in want], rtol=1e-12)
    np.testing.assert_allclose(bound.standard_errors, [one["standard_error"] for one in want], rtol=1e-12)
    assert list(bound.tokens) == [one["tokens"] for one in want]
    for order in ("confidence", "margin", "entropy", "left_to_right"):
        got = model.score(texts, order=order)
        np.testing.assert_allclose(got.log_likelihood, [one["orders"][order] for one in want], rtol=1e-9)
        assert (got.tokens == bound.tokens).all() and (got.forwards == got.tokens).all()
    one = model.score(texts[0])
    assert one.log_likelihood.shape == (1,) and one.log_likelihood[0] == pytest.approx(want[0]["orders"]["confidence"])
    np.testing.assert_allclose(one.nats_per_token, -one.log_likelihood / one.tokens)


def test_texts_are_their_ids(model, original_model):
    text = "Once upon a time, [MASK] was a dog."
    ids = model.tokenizer.encode(text, added_tokens=False)
    with_end = np.append(ids, model.tokenizer.end_id)
    assert model.nelbo(text).nats == model.nelbo(with_end).nats == model.nelbo([with_end]).nats
    assert model.nelbo(text.encode()).nats == model.nelbo([text]).nats
    assert model.score(text).log_likelihood == model.score(with_end).log_likelihood
    original = Model.load(original_model, precision="f32")
    assert not original.config.end_token and original.nelbo(text).nats == original.nelbo(ids).nats


# ---- what it refuses -------------------------------------------------------------------------------------------------


def test_refusals(model, little, small_model, golden):
    data = small_model / "data"
    for wrong, error in (
        (lambda: model.evaluate(data, masks="all"), errors.ArgumentError),
        (lambda: model.evaluate(data, draws=-1), errors.ArgumentError),
        (lambda: model.evaluate(data, draws=2.5), TypeError),
        (lambda: model.evaluate(data, draw=2), TypeError),
        (lambda: model.evaluate(data, exact=True), errors.ArgumentError),
        (lambda: model.evaluate(small_model / "absent"), errors.NotFound),
        (lambda: little.evaluate(data), errors.MismatchError),
        (lambda: model.curve(data, [0.0]), errors.ArgumentError),
        (lambda: model.curve(data, [[0.5]]), errors.ArgumentError),
        (lambda: model.nelbo([[5, 6], [7, model.mask_id]]), errors.ArgumentError),
        (lambda: model.nelbo(np.array([4.5, 6])), TypeError),
        (lambda: model.nelbo(np.array([2**40])), errors.ArgumentError),
        (lambda: model.nelbo(np.zeros((2, 2, 2), int)), errors.ArgumentError),
        (lambda: model.nelbo(np.full(500, 5)), errors.ArgumentError),
        (lambda: model.nelbo(["one", 3]), TypeError),
        (lambda: model.nelbo(["one", ""]), errors.ArgumentError),
        (lambda: model.nelbo("one", draws=0), errors.ArgumentError),
        (lambda: little.nelbo("text"), errors.ArgumentError),
        (lambda: model.score("one", order="random"), errors.ArgumentError),
        (lambda: model.score("one", temperature=0), errors.ArgumentError),
        (lambda: model.score("one", fixed=[True]), errors.ArgumentError),
        (lambda: model.score([5, 6], fixed=[True]), errors.ArgumentError),
        (lambda: model.score([5, 6], guidance=1.0), errors.ArgumentError),
    ):
        with pytest.raises(error) as caught:
            wrong()
        assert str(caught.value)
    with pytest.raises(errors.ArgumentError, match="text 1 is empty"):
        model.nelbo(["one", ""])


def test_nothing_is_scored_of_nothing(model):
    for empty in ([], np.empty((0, 5), np.int32)):
        assert model.nelbo(empty).nats.shape == (0,)
        assert model.score(empty).log_likelihood.shape == (0,)


# ---- progress, and Ctrl-C --------------------------------------------------------------------------------------------


def test_progress_and_stopping(model, small_model):
    data = Data(small_model / "data")
    calls = {
        "nelbo": lambda progress: model.nelbo(np.full((4, 60), 9), draws=40, progress=progress),
        "eval": lambda progress: model.evaluate(data, progress=progress),
        "score": lambda progress: model.score(np.full((2, 60), 9), progress=progress),
    }
    for stage, measure in calls.items():
        seen = []
        measure(lambda *told, seen=seen: seen.append(told))
        assert seen and {told[0] for told in seen} == {stage}
        assert all(0 <= done <= total for _, done, total, _ in seen)
        with pytest.raises(errors.Cancelled):
            measure(lambda *told: True)
        with pytest.raises(ZeroDivisionError):
            measure(lambda *told: 1 / 0)


CODE = """
import sys, numpy as np
from diffusionlm import Model, Data
model = Model.load(sys.argv[1], precision="f32")
data = Data(sys.argv[1] + "/data")
ids = np.full((4, 60), 9)
print("begun", flush=True)
try:
    {call}
except KeyboardInterrupt:
    print("interrupted", flush=True)
    print(len(model.nelbo(ids).nats))
"""


@pytest.mark.parametrize(
    "call",
    [
        "model.evaluate(data, draws=100000)",
        "model.nelbo(ids, draws=100000)",
        "model.curve(data, draws=100000)",
        "[model.score(ids) for _ in range(100000)]",
        # Enough of them that a thousand passes, which are the most it makes, take longer than the test waits.
        "model.measure_speed('forward', seconds=1000, sequences=200)",
        "model.measure_speed('sample', seconds=1000, sequences=200)",
        "model.measure_speed('train', seconds=1000, sequences=200)",
    ],
)
def test_interrupts(small_model, call):
    process = subprocess.Popen(
        [sys.executable, "-c", CODE.format(call=call), small_model], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "begun\n"
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        begun = time.monotonic()
        assert process.stdout.read() == "interrupted\n4\n"
        assert process.wait(60) == 0 and time.monotonic() - begun < 20
    finally:
        process.kill()

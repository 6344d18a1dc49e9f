"""Streams: what they say is what sampling does, and nothing of them stays behind."""

import gc
import itertools
import json
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from diffusionlm import DiffusionLM, errors, set_threads
from diffusionlm._library import threads


@pytest.fixture(scope="module")
def lm(model):
    return DiffusionLM(model)


@pytest.fixture(autouse=True)
def nothing_stays_behind():
    before = threading.active_count()
    yield
    gc.collect()
    assert threading.active_count() == before


def followed(steps, start, mask_id):
    """start with every change made to it, one after the other, and the last step."""
    ids = [np.array(text) for text in start]
    last = None
    for last in steps:
        positions, new = last
        assert len(positions) == len(new) and new.dtype == np.int32
        for at, id in zip(positions.tolist(), new.tolist()):
            sequence, place = at if isinstance(at, list) else (0, at)
            before, ids[sequence][place] = ids[sequence][place], mask_id if id < 0 else id
            assert (id < 0) == (before != mask_id), "a token is lost before another comes"
        now = [last.x] if len(ids) == 1 else last.x
        assert all((a == b).all() for a, b in zip(ids, now))
    return ids, last


SAMPLERS = [
    dict(),
    dict(order="confidence_weighted", steps=7),
    dict(order="random", reveal="linear"),
    dict(order="margin", temperature=0.5),
    dict(order="entropy", top_k=20),
    dict(order="left_to_right", reveals_per_step=3),
    dict(order="ancestral", steps=12),
    dict(order="first_hitting"),
    dict(confidence_threshold=0.05),
    dict(entropy_bound=3.0),
    dict(corrector_frac=0.3, corrector_every=1),
    dict(corrector_frac=0.2, corrector_mode="low_confidence"),
    dict(remask="cap", steps=40, eta=0.1),
    dict(remask="loop", steps=40, eta=0.1),
]


@pytest.mark.parametrize("options", SAMPLERS, ids=str)
def test_followed_it_ends_with_what_sample_gives(model, options):
    for n in (1, 3):
        start = model.masks(n, 18)
        want = model.sample(start, seed=6, details=True, **options)
        ids, last = followed(model.stream(start, seed=6, **options), start, model.mask_id)
        assert (np.array(ids) == want.ids).all()
        assert last.forwards == want.forwards
        confidence = last.confidence if n > 1 else last.confidence[None]
        assert (confidence == want.confidence).all()
    remasks = "remask" in options or "corrector_frac" in options
    lost = [ids for _, ids in model.stream(model.masks(3, 18), seed=6, **options) if (ids < 0).any()]
    assert bool(lost) == remasks


def test_what_a_step_is(model):
    steps = list(model.stream(model.masks(2, 10), seed=1, steps=5))
    assert [step.step for step in steps] == [1, 2, 3, 4, 5] and {step.steps for step in steps} == {5}
    positions, ids = steps[0]
    assert isinstance(steps[0], tuple) and len(steps[0]) == 2
    assert positions.shape == (len(ids), 2) and positions is steps[0].positions and ids is steps[0].ids
    assert set(positions[:, 0].tolist()) == {0, 1}
    assert steps[0].x.shape == (2, 10) and steps[0].times.shape == (2,) and (steps[0].times == 1).all()
    assert steps[0].forwards == 1
    one = next(iter(model.stream(model.masks(1, 10), seed=1, steps=5)))
    assert one.positions.ndim == 1 and one.x.shape == (10,)
    uneven = list(model.stream([np.full(4, model.mask_id), np.full(7, model.mask_id)], seed=1))[-1]
    assert [len(ids) for ids in uneven.x] == [4, 7]


def test_given_ids_are_no_change(model):
    start = model.masks(2, 12)
    start[:, 4:8] = 90
    fixed = start == 90
    for marks in (fixed, None):
        options = dict(seed=3, fixed=marks, corrector_frac=0.3)
        ids, _ = followed(model.stream(start, **options), start, model.mask_id)
        assert (np.array(ids) == model.sample(start, **options)).all()


def test_what_a_callback_changes_is_followed_too(model):
    def meddle(step):
        if step.step == 3:
            step.ids[2] = 80
        step.ids[0] = 81  # fixed: undone

    start = np.full(12, model.mask_id)
    start[0] = 70
    fixed = start == 70
    want = model.sample(start, seed=2, fixed=fixed, on_step=meddle)
    ids, _ = followed(model.stream(start, seed=2, fixed=fixed, on_step=meddle), [start], model.mask_id)
    assert (ids[0] == want).all() and want[0] == 70


@pytest.mark.parametrize(
    "options, typed",
    [
        (dict(temperature=0, corrector_frac=0.3), ["--temperature", 0, "--corrector-frac", 0.3]),
        (dict(order="ancestral", remask="cap", eta=0.2, steps=30), ["--remask", "cap", "--eta", 0.2, "--steps", 30]),
        (dict(prompt="Once upon a time"), ["--prompt", "Once upon a time"]),
    ],
    ids=str,
)
def test_its_steps_are_those_that_the_command_writes(lm, small_model, run, tmp_path, options, typed):
    """generate --trace. At temperature 0 most tokens that are drawn anew are the same again, and count as a change."""
    trace = tmp_path / "trace"
    run(
        "generate",
        "-m",
        small_model,
        "-n",
        2,
        "--length",
        20,
        "--seed",
        4,
        "--precision",
        "f32",
        "--trace",
        trace,
        *typed,
    )
    lines = [json.loads(line) for line in trace.read_text().splitlines()[1:]]
    want = [
        [(line["step"], line["changes"]) for line in lines if line["index"] == i and "changes" in line] for i in (0, 1)
    ]
    got = [[], []]
    for step in lm.stream(n=2, seq_len=20, seed=4, **options):
        for i in (0, 1):
            places, ids = step.positions[step.positions[:, 0] == i, 1], step.ids[step.positions[:, 0] == i]
            sure = [step.confidence[i, at] if id >= 0 else 0.0 for at, id in zip(places, ids)]
            if len(places) > 0:
                got[i].append((step.step, [list(change) for change in zip(places.tolist(), ids.tolist(), sure)]))
    for i in (0, 1):
        changed = [(step, [change[:2] for change in changes]) for step, changes in want[i] if changes]
        assert [(step, [change[:2] for change in changes]) for step, changes in got[i]] == changed
        sure = [change[2] for _, changes in got[i] for change in changes]
        np.testing.assert_allclose(sure, [change[2] for _, changes in want[i] for change in changes], rtol=1e-6)


# ---- DiffusionLM.stream ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", SAMPLERS, ids=str)
def test_followed_it_ends_with_what_generate_gives(lm, options):
    want = lm.generate(n=2, seq_len=20, seed=8, return_ids=True, **options)
    ids, _ = followed(lm.stream(n=2, seq_len=20, seed=8, **options), lm.model.masks(2, 20), lm.model.mask_id)
    assert (np.array(ids) == want).all()


@pytest.mark.parametrize(
    "given",
    [
        dict(seq_len=150),
        dict(seq_len="auto"),
        dict(prompt="Once upon a time", seq_len=40),
        dict(prompt="Once upon a time", suffix="The end.", seq_len=150),
        dict(template="The [MASK:3] cat [MASK] home."),
    ],
    ids=str,
)
def test_texts_of_all_kinds(lm, given):
    want = lm.generate(n=2, seed=8, return_ids=True, **given)
    masks = [np.full(len(ids), lm.model.mask_id) for ids in want]
    ids, _ = followed(lm.stream(n=2, seed=8, **given), masks, lm.model.mask_id)
    assert all((a == b).all() for a, b in zip(ids, want))


# ---- its end ---------------------------------------------------------------------------------------------------


def long(model, **options):
    return model.stream(model.masks(8, 64), steps=10**6, corrector_frac=0.5, **options)


def test_closing_ends_the_thread(model):
    before = threading.active_count()
    steps = long(model)
    assert threading.active_count() == before, "nothing runs before it is asked for"
    assert [step.step for step in itertools.islice(steps, 3)] == [1, 2, 3]
    assert threading.active_count() == before + 1
    started = time.monotonic()
    steps.close()
    assert threading.active_count() == before and time.monotonic() - started < 5


def test_abandoning_ends_the_thread(model):
    for step in long(model):
        if step.step == 2:
            break
    del step
    gc.collect()
    assert not [thread for thread in threading.enumerate() if thread.name == "diffusionlm stream"]


def test_an_exception_of_who_reads_ends_the_thread(model):
    with pytest.raises(KeyError, match="mine"):
        for _ in long(model):
            raise KeyError("mine")


def test_the_model_works_at_most_one_step_ahead(model):
    done = []
    steps = model.stream(model.masks(1, 20), on_step=lambda step: done.append(step.step))
    next(steps)
    time.sleep(0.3)
    # 0 and 1 are handed over, 2 waits to be taken, 3 for room
    assert done == [0, 1, 2, 3]
    steps.close()


def test_errors_come_out(model, lm):
    with pytest.raises(errors.ArgumentError, match="temperature"):
        list(model.stream(model.masks(1, 5), temperature=-1))
    with pytest.raises(TypeError, match="no option 'tries'"):
        lm.stream(tries=3)

    def fail(step):
        if step.step == 2:
            raise ZeroDivisionError("mine")

    got = []
    with pytest.raises(ZeroDivisionError, match="mine"):
        for step in model.stream(model.masks(1, 9), on_step=fail):
            got.append(step.step)
    assert got == [1]
    stopped = list(model.stream(model.masks(1, 9), on_step=lambda step: step.step == 4))
    assert [step.step for step in stopped] == [1, 2, 3, 4]


def test_the_thread_has_the_callers_threads(model):
    inherited = []
    set_threads(1)
    try:
        steps = model.stream(model.masks(1, 4), on_step=lambda step: inherited.append(threads()))
        other = threading.Thread(target=lambda: list(steps))
        other.start()
        other.join()
    finally:
        set_threads(0)
    assert set(inherited) == {1}


def test_a_stream_left_open_does_not_hold_the_process():
    program = """
from diffusionlm import Config, Model
model = Model.random(Config(50, 64, 8, 1, 2))
steps = model.stream(model.masks(1, 64), steps=10**6, corrector_frac=0.5)
print(next(steps).step)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "")

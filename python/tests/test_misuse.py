"""What goes wrong with the caller: numbers and texts of wrong kinds, objects used where they cannot be, forks."""

import copy
import decimal
import fractions
import gc
import os
import pickle
import signal
import subprocess
import sys
import threading
import weakref

import numpy as np
import pytest

import diffusionlm
from diffusionlm import Config, Data, DiffusionLM, Documents, Model, Template, Tokenizer, Trainer, errors


@pytest.mark.parametrize("steps", [4.5, np.float32(4.5), decimal.Decimal("4.5"), fractions.Fraction(9, 2), "4", b"4",
                                   float("nan"), float("inf"), np.array([4, 5])])  # fmt: skip
def test_numbers_are_never_cut_off(model, steps):
    with pytest.raises(TypeError, match="steps: a whole number is wanted"):
        model.sample(model.masks(1, 8), steps=steps)


@pytest.mark.parametrize("steps", [4, 4.0, np.int8(4), np.float32(4), decimal.Decimal(4), np.array(4)])
def test_whole_numbers_of_any_type_do(model, steps):
    masks = model.masks(1, 8)
    assert np.array_equal(model.sample(masks, steps=steps), model.sample(masks, steps=4))


@pytest.mark.parametrize("number", [-1, 2**64])
def test_numbers_beyond_64_bits_are_named(model, small_model, number):
    for name, call in {
        "first": lambda: model.sample(model.masks(1, 8), first=number),
        "seed": lambda: Model.random(Config(300, 16, 8, 1, 1), seed=number),
        "n": lambda: DiffusionLM(model).generate(n=number),
        "index": lambda: model.sample_length(0, number),
    }.items():
        with pytest.raises(errors.ArgumentError, match=f"{name} is {number}"):
            call()
    with pytest.raises(errors.ArgumentError, match=f"seed is {number}"):
        Data(small_model / "data").match([3], seed=number)
    with pytest.raises(errors.ArgumentError, match=f"n is {number}"):
        diffusionlm.set_threads(number)


def test_more_texts_than_can_be_counted(model):
    with pytest.raises(errors.ArgumentError, match="at most 2\\^32 - 1"):
        model.fill("a [MASK]", n=2**40)


def test_texts_are_texts(model):
    tokenizer = model.tokenizer
    for wrong in (5, True, None, [97, 98]):
        for call in (tokenizer.encode, Tokenizer.parse, model.fill, lambda text: model.fill(prompt=text or 0)):
            if call != model.fill or wrong is not None:
                with pytest.raises(TypeError, match="it is a text"):
                    call(wrong)
    with pytest.raises(TypeError, match="text 1 is 5"):
        DiffusionLM(model).refine(["a", 5])
    with pytest.raises(TypeError, match="id: a whole number"):
        tokenizer.token("1")
    assert np.array_equal(tokenizer.encode(bytearray(b"a cat")), tokenizer.encode("a cat"))


def test_what_is_the_librarys_cannot_be_pickled(model, small_model, stories):
    data, documents = Data(small_model / "data"), Documents(stories)
    for one in (model, model.tokenizer, DiffusionLM(model), data, documents, Template.around(model, "a")):
        with pytest.raises(TypeError, match="cannot be copied or pickled"):
            pickle.dumps(one)
        with pytest.raises(TypeError, match="cannot be copied or pickled"):
            copy.deepcopy(one)
    with pytest.raises(TypeError, match="Documents cannot be copied"):
        copy.copy(documents)


def test_what_a_call_reads_cannot_be_closed_in_it(stories):
    documents = Documents(stories)
    with pytest.raises(RuntimeError, match="the documents are in use"):
        Tokenizer.train(documents, vocab_size=300, progress=lambda *_: documents.close())
    documents.close()
    for call in (lambda: Tokenizer.train(documents), lambda: documents.position):
        with pytest.raises(ValueError, match="the documents are closed"):
            call()


def test_a_trainer_is_used_by_one_thread_at_a_time(small_model, tmp_path):
    trainer = Trainer(small_model / "data", tmp_path / "run", hidden_size=32, depth=2, num_heads=2, steps=200, batch=8)
    refused = []

    def disturb():
        for use in (trainer.step, trainer.save, trainer.close, lambda: trainer.config):
            with pytest.raises(RuntimeError, match="the trainer is in use") as error:
                use()
            refused.append(error)

    with trainer.using():  # as a step does
        thread = threading.Thread(target=disturb)
        thread.start()
        thread.join()
    assert len(refused) == 4
    assert trainer.step().step == 1
    trainer.close()
    trainer.close()


def test_callbacks_are_let_go_of_at_once(model):
    def calls():
        def see(step):
            return False

        def refuse(step):
            raise KeyError(1)

        model.sample(model.masks(1, 4), on_step=see, allow=lambda *_: see and None)
        model.nelbo([5, 6, 7], draws=2, progress=lambda *_: see and None)
        with pytest.raises(KeyError):
            model.sample(model.masks(1, 4), on_step=refuse)
        for _ in model.stream(model.masks(1, 4), on_step=see):
            pass
        return weakref.ref(see)

    gc.collect()
    gc.disable()
    try:
        assert calls()() is None
    finally:
        gc.enable()


def test_logits_of_many_sequences_are_those_of_each(model, monkeypatch):
    ids = np.random.default_rng(1).integers(4, 512, (7, 12))
    every = [model.logits(row) for row in ids]
    mixed = [row[: 3 + i] for i, row in enumerate(ids)]
    apart = [model.logits(row) for row in mixed]
    for tokens in (1, 12, 30, 10**6):
        monkeypatch.setattr("diffusionlm.model._TOKENS_OF_LOGITS", tokens)
        np.testing.assert_allclose(model.logits(ids), every, atol=2e-5)
        for one, other in zip(model.logits(mixed), apart):
            np.testing.assert_allclose(one, other, atol=2e-5)


def test_ctrl_c_ends_logits(model):
    ids = np.full((3000, 64), 7)
    out = np.full((ids.size, 512), np.nan, np.float32)

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        with pytest.raises(KeyboardInterrupt):
            model.logits(ids, out=out)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert np.isnan(out[-1]).all()


def test_allow_of_a_template_keeps_to_its_array(model):
    allow = Template.parse(model, "a [MASK:2] b").allow()
    ids = np.full(5, model.mask_id, np.int32)
    for wrong in (np.ones(511, np.bool_), np.ones(512, np.uint8), [True] * 512):
        with pytest.raises(errors.ArgumentError, match="an array of 512 bools"):
            allow(0, 1, ids, wrong)
    fixed = np.ones(512, np.bool_)
    fixed.setflags(write=False)
    with pytest.raises(errors.ArgumentError, match="cannot be written"):
        allow(0, 1, ids, fixed)


FORKED = """
import os, sys, threading, diffusionlm
model = diffusionlm.Model.load(sys.argv[1])
diffusionlm.set_threads(2)
model.logits([5] * 64)
child = os.fork()
if child == 0:
    a = model.sample(model.masks(8, 32), seed=1)
    b = [step.x for step in model.stream(model.masks(8, 32), seed=1)][-1]
    found = []
    thread = threading.Thread(target=lambda: (diffusionlm.set_threads(2), found.append(model.logits([5] * 64))))
    thread.start()
    thread.join()
    try:
        diffusionlm.set_threads(2)
    except diffusionlm.errors.Unsupported as error:
        os._exit(7 if (a == b).all() and found and "forked" in str(error) else 1)
    os._exit(2)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_goes_on(small_model):
    done = subprocess.run([sys.executable, "-c", FORKED, small_model], capture_output=True, timeout=60)
    assert done.returncode == 7, done.stderr.decode()

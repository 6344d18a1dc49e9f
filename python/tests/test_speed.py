"""How speed is measured."""

import time

import pytest

from diffusionlm import Config, Model, errors


@pytest.fixture(scope="module")
def random_model():
    return Model.random(Config(vocab_size=70, max_seq_len=48, hidden_size=32, depth=2, num_heads=2, end_token=True))


@pytest.mark.parametrize("work", ["forward", "sample", "train"])
def test_speeds(random_model, work):
    begun = time.perf_counter()
    before = {name: values.copy() for name, values in random_model.parameters.items()}
    speed = random_model.measure_speed(work, sequences=3, length=20, seconds=0.05, seed=1)
    took = time.perf_counter() - begun
    assert speed.tokens == 60 and speed.forwards == (20 if work == "sample" else 1) and speed.threads >= 1
    assert speed.repetitions >= 3 and 0 < speed.fastest <= speed.seconds
    assert speed.repetitions * speed.fastest <= took and (took >= 0.05 or speed.repetitions >= 1000)
    assert speed.tokens_per_second == pytest.approx(60 / speed.seconds)
    assert all((random_model.parameters[name] == values).all() for name, values in before.items())


def test_defaults(random_model):
    speed = random_model.measure_speed(seconds=0)
    assert speed.tokens == 48 and speed.repetitions == 3  # as long as the model takes, at most 80


def test_progress_and_stopping(random_model):
    for work in ("forward", "sample", "train"):
        seen = []
        random_model.measure_speed(work, seconds=0.25, progress=lambda *told, seen=seen: seen.append(told))
        assert seen and {told[0] for told in seen} == {"speed"} and {told[2] for told in seen} == {0}
        with pytest.raises(errors.Cancelled):
            random_model.measure_speed(work, seconds=1000, progress=lambda *told: True)


def test_refusals(random_model):
    for wrong, says in (
        ({"work": "sleep"}, "forward, sample, train"),
        ({"length": 49}, "length 49 is not from 1 to 48"),
        ({"sequences": 0}, "0 sequences"),
        ({"seconds": -1}, "-1 seconds"),
    ):
        with pytest.raises(errors.ArgumentError, match=says):
            random_model.measure_speed(**wrong)

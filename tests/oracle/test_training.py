"""What a run leaves behind, as PyTorch and the Hugging Face libraries see it, and its optimiser against PyTorch's:
from the weights and moments of one checkpoint and a gradient recovered from the next, torch's own update."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file
from tokenizers import Tokenizer

TINY = "--hidden 16 --depth 1 --heads 2 --seq-len 32 --batch 4 --threads 1 --precision f32".split()


@pytest.fixture(scope="module")
def data(run, golden, tmp_path_factory):
    folder = tmp_path_factory.mktemp("training")
    text = "\n<|endoftext|>\n".join(f"The cat number {i} saw a dog and {i * 7} birds." for i in range(200))
    (folder / "text.txt").write_text(text)
    run("prepare", folder / "text.txt", "-t", golden / "tokenizer/stories_1024", "-o", folder / "data")
    return folder / "data"


def checkpoint(folder, step):
    return folder / f"checkpoints/step-{step:08d}"


@pytest.fixture(scope="module")
def trained(run, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "run"
    run("train", "-d", data, "-o", folder, *TINY, "--steps", 6, "--warmup", 2, "--lr", 0.01, "--optimizer", "adamw",
        "--save-every", 1, "--keep", 0, "--eval-every", 0, "--sample-every", 0)
    return folder


def learning_rate(step, warmup=2, total=6, lr=0.01):
    if step < warmup:
        return lr * step / warmup
    return lr * (0.1 + 0.45 * (1 + np.cos(np.pi * (step - warmup) / (total - warmup))))


def test_files(trained, golden):
    folder = checkpoint(trained, 6)
    weights, raw = load_file(folder / "model.safetensors"), load_file(folder / "raw.safetensors")
    moments = load_file(folder / "optimizer.safetensors")
    assert weights.keys() == raw.keys()
    assert set(moments) == {f"{kind}.{name}" for kind in "mv" for name in weights}
    for name in weights:
        assert weights[name].dtype == raw[name].dtype == np.float32
        assert weights[name].shape == raw[name].shape == moments[f"m.{name}"].shape
    config = json.loads((folder / "config.json").read_text())
    assert weights["tok_embed.weight"].shape == (config["vocab_size"], config["hidden_size"])
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    want = Tokenizer.from_file(str(golden / "tokenizer/stories_1024/tokenizer.json"))
    assert tokenizer.encode("The cat saw a dog.").ids == want.encode("The cat saw a dog.").ids


def test_updates_are_those_of_adamw(trained):
    """Of each step: m tells the gradient (clipped), from which v and the weights follow by AdamW's formulas."""
    for step in range(2, 7):
        before, after = checkpoint(trained, step - 1), checkpoint(trained, step)
        p0, p1 = load_file(before / "raw.safetensors"), load_file(after / "raw.safetensors")
        m0, m1 = load_file(before / "optimizer.safetensors"), load_file(after / "optimizer.safetensors")
        lr = learning_rate(step - 1)
        squares = 0.0
        for name in p0:
            m, v = m1[f"m.{name}"].astype(np.float64), m1[f"v.{name}"].astype(np.float64)
            g = (m - 0.9 * m0[f"m.{name}"]) / 0.1
            squares += (g**2).sum()
            want_v = 0.999 * m0[f"v.{name}"] + 0.001 * g**2
            np.testing.assert_allclose(v, want_v, rtol=1e-3, atol=1e-6 * v.max() + 1e-30)
            update = (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
            want = p0[name] * (1 - lr * 0.01) - lr * update
            np.testing.assert_allclose(p1[name], want, rtol=1e-5, atol=2e-6)
        assert squares <= 1.0 + 1e-4  # clipped by the norm of all


def test_average(trained):
    """ema = d ema + (1 - d) p with d = min(0.999, (1 + s) / (10 + s)) at step s from 0."""
    for step in range(2, 7):
        old = load_file(checkpoint(trained, step - 1) / "model.safetensors")
        new = load_file(checkpoint(trained, step) / "model.safetensors")
        raw = load_file(checkpoint(trained, step) / "raw.safetensors")
        d = min(0.999, step / (9 + step))
        for name in old:
            np.testing.assert_allclose(new[name], d * old[name] + (1 - d) * raw[name], rtol=1e-5, atol=1e-7)

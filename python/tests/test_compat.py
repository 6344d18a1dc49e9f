"""The import name diffusionlm_from_scratch: the original's examples as they stand, from a server that behaves as the
Hub does and a checkpoint that torch.save wrote; DiT, scheduler and functions against the PyTorch reference."""

import importlib.metadata
import io
import json
import os
import subprocess
import sys

import diffusionlm_from_scratch
import numpy as np
import pytest
from diffusionlm_from_scratch import AbsorbingScheduler, DiffusionLM, DiT, DiTConfig, refine, sample
from diffusionlm_from_scratch.inference import DEFAULT_REPO

import diffusionlm
from diffusionlm import errors

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def folder(original_model, tmp_path_factory):
    """final.pt as the original writes it, by torch.save itself, of the weights that were trained here; the tokenizer's
    two files beside it."""
    path = tmp_path_factory.mktemp("repo")
    trained = diffusionlm.Model.load(original_model)
    state = {name: torch.from_numpy(values.copy()) for name, values in trained.parameters.items()}
    raw = {name: value + 0.01 for name, value in state.items()}
    sizes = ("vocab_size", "max_seq_len", "hidden_size", "depth", "num_heads", "mlp_ratio")
    config = {name: getattr(trained.config, name) for name in sizes}
    torch.save({"model": state, "raw": raw, "config": config}, path / "final.pt")
    trained.tokenizer.save(path)
    return path


@pytest.fixture(scope="module")
def lm(folder):
    return DiffusionLM.from_pretrained(folder)


# ---- the examples ----------------------------------------------------------------------------------------------

README = """
from diffusionlm_from_scratch import DiffusionLM
lm = DiffusionLM.from_pretrained("tchauffi/diffusionlm-from-scratch")
for story in lm.generate(n=4, seq_len=80, temperature=0.9):
    print(story)
"""

README_MODEL = """
import torch
from diffusionlm_from_scratch.model import DiT
model = DiT.from_pretrained("tchauffi/diffusionlm-from-scratch", device="cpu").eval()
x = torch.full((2, 16), 2)
with torch.no_grad():
    logits = model(x, torch.ones(2))
print(tuple(logits.shape), logits.dtype, sum(p.numel() for p in model.parameters()))
"""


def test_the_readmes_examples_as_they_stand(folder, original_model, tmp_path):
    import hub_server

    names = ("final.pt", "tokenizer.json", "tokenizer_config.json")
    files = {name: (folder / name).read_bytes() for name in names}
    with hub_server.Hub() as hub:
        hub.add("tchauffi/diffusionlm-from-scratch", files, large=["final.pt"])
        environment = {**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "hf")}
        environment.pop("HF_HUB_OFFLINE", None)
        # seq_len 80 is more than this small model's 64: written block by block
        done = subprocess.run(
            [sys.executable, "-c", README + "import sys\nprint('torch' in sys.modules)"],
            env=environment, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        *stories, torch_loaded = done.stdout.splitlines()
        assert torch_loaded == "False", "torch is not needed, and not imported"
        assert len("\n".join(stories)) > 200
        assert hub.asked("storage", "GET"), "final.pt came from where large files are"

        done = subprocess.run([sys.executable, "-c", README_MODEL], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        count = sum(values.size for values in diffusionlm.Model.load(original_model).parameters.values())
        assert done.stdout == f"(2, 16, 512) torch.float32 {count}\n"

        # a tokenizer of the Hub's for a model of one's own
        program = """
import diffusionlm, sys
lm = diffusionlm.DiffusionLM.from_pretrained(sys.argv[1], "tchauffi/diffusionlm-from-scratch")
print(lm.tokenizer.vocab_size, len(lm.generate(n=1, seq_len=10)))
"""
        bare = tmp_path / "final.pt"
        bare.write_bytes(files["final.pt"])
        done = subprocess.run(
            [sys.executable, "-c", program, str(bare)], env=environment, capture_output=True, text=True
        )
        assert (done.returncode, done.stdout) == (0, "512 1\n"), done.stderr


def test_names_and_defaults():
    assert diffusionlm_from_scratch.model.DiT is DiT
    assert diffusionlm_from_scratch.scheduler.AbsorbingScheduler is AbsorbingScheduler
    assert diffusionlm_from_scratch.inference.sample is sample
    assert DEFAULT_REPO == "tchauffi/diffusionlm-from-scratch"
    assert DiTConfig() == DiTConfig(50258, 128, 384, 12, 6, 4.0)
    version = importlib.metadata.version
    assert version("diffusionlm-from-scratch") == version("diffusionlm") == diffusionlm.__version__


# ---- DiT -------------------------------------------------------------------------------------------------------


def test_logits_of_the_golden_models(golden):
    from safetensors.torch import load_file

    for file, weights, expected in (
        ("tiny/final.pt", "ema", "logits"),
        ("tiny/final.pt", "raw", "raw.logits"),
        ("tiny/bf16.pt", None, None),
        ("odd/model.safetensors", None, "logits"),
    ):
        want = load_file((golden / file).with_name("forward.safetensors"))
        model = DiT.from_pretrained(golden / file, device=torch.device("cpu"), weights=weights)
        logits = model(want["x_t"], want["t"])
        assert torch.is_tensor(logits) and logits.dtype == torch.float32
        assert torch.equal(model(want["x_t"].long(), want["t"]), logits)
        as_arrays = model(want["x_t"].numpy(), want["t"].numpy())
        assert type(as_arrays) is np.ndarray and (as_arrays == logits.numpy()).all()
        if expected is not None:
            torch.testing.assert_close(logits, want[expected], atol=1e-4, rtol=0)


def test_a_dit_of_ones_own(shared, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(shared / "reference"))
    import torch_dit

    config = DiTConfig(vocab_size=40, max_seq_len=16, hidden_size=16, depth=2, num_heads=2)
    model = DiT(config)
    assert model.config == config and model.eval() is model.train().to("cpu").to(torch.float32).cpu() is model
    x, t = torch.randint(0, 40, (3, 9)), torch.rand(3)
    assert (model(x, t) == 0).all(), "training begins with a final layer of zeros"
    assert (model.state_dict()["tok_embed.weight"] != DiT(config).state_dict()["tok_embed.weight"]).any()
    # the names and shapes are the original's: the reference takes them
    reference = torch_dit.DiT(torch_dit.Config(**vars(config)))
    state = {name: torch.from_numpy(values.copy()) for name, values in model.state_dict().items()}
    reference.load_state_dict(state)
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in reference.parameters())
    assert [name for name, _ in model.named_parameters()] == list(model.state_dict())
    assert not any(p.requires_grad for p in model.parameters())


def test_what_a_dit_refuses(lm):
    model = lm.model
    for wrong in (lambda: model.to("cuda"), lambda: model.to(torch.bfloat16), lambda: model.to(dtype=torch.float16)):
        with pytest.raises(errors.Unsupported):
            wrong()
    with pytest.raises(errors.Unsupported, match="gradients"):
        model.requires_grad_()
    assert model.requires_grad_(False) is model
    with pytest.raises(errors.Unsupported, match="CPU"):
        DiT.from_pretrained("x", device="cuda")


# ---- the scheduler ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_scheduler_as_in_pytorch(golden, schedule):
    want = json.loads((golden / "schedule.json").read_text())
    t = torch.tensor(want["t"])
    for mode in ("uniform", "inv_sigma"):
        scheduler = AbsorbingScheduler(2, schedule=schedule, weight_mode=mode)
        for kind in (t, t.numpy()):
            weight = scheduler.loss_weight(kind)
            assert type(weight) is type(kind)
            np.testing.assert_allclose(weight, want[f"{schedule}.{mode}"], rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(scheduler.mask_prob(kind), want[f"{schedule}.sigma"], rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(scheduler.t_from_mask_prob(kind), want[f"{schedule}.inverse"], rtol=1e-5)
    by_sigma = AbsorbingScheduler(2, schedule, weight_mode="sigma")
    assert (by_sigma.loss_weight(t) == by_sigma.mask_prob(t)).all()
    assert isinstance(scheduler.mask_prob(0.5), float)
    default = AbsorbingScheduler(mask_id=2)
    assert (default.schedule, default.eps, default.max_weight, default.weight_mode) == (
        "cosine",
        1e-3,
        10.0,
        "inv_sigma",
    )
    for wrong in (dict(schedule="square"), dict(weight_mode="elbo")):
        with pytest.raises(errors.ArgumentError):
            AbsorbingScheduler(2, **wrong)


@pytest.mark.parametrize("convert", [torch.from_numpy, np.asarray])
def test_corruption(convert):
    scheduler = AbsorbingScheduler(mask_id=2)
    x, t = convert(np.full((3, 20_000), 9)), convert(np.array([0.0, 0.5, 1.0], np.float32))
    real = convert(np.arange(20_000)[None] < np.array([[20_000], [10_000], [20_000]]))
    x_t, masked = scheduler.corrupt(x, t, real)
    assert type(x_t) is type(masked) is type(x) and x_t.dtype == x.dtype
    assert ((x_t == 2) == masked).all() and ((x_t == 9) == ~masked).all()
    shares = np.asarray(masked).mean(1)
    assert shares[0] < 0.003 and shares[2] == 1
    assert abs(shares[1] - 0.5 * (1 - np.cos(np.pi / 4))) < 0.01, "padding is never masked"
    times = scheduler.sample_t(10_000)
    assert times.min() >= 1e-3 and times.max() < 1 and abs(times.mean() - 0.5) < 0.02
    assert scheduler.sample_t(5, device="cpu").shape == (5,)


# ---- sampling --------------------------------------------------------------------------------------------------


def test_sample(lm, folder):
    ids = sample(lm.model, lm.scheduler, lm.tokenizer, 20, n=3, seed=1, return_ids=True)
    assert ids.shape == (3, 20) and not np.isin(ids, [0, 1, 2]).any()
    want = diffusionlm.Model.load(folder, precision=lm.model._model.precision)
    assert (ids == want.sample(want.masks(3, 20), seed=1, steps=64, temperature=1.0)).all()
    texts = sample(lm.model, lm.scheduler, lm.tokenizer, 20, n=3, seed=1)
    transformers = pytest.importorskip("transformers")
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    assert texts == [theirs.decode(row, skip_special_tokens=True) for row in ids]
    assert sample(lm.model, lm.scheduler, theirs, 20, n=3, seed=1) == texts
    options = dict(steps=9, temperature=0.5, reveal_schedule="linear", order="random", corrector_frac=0.2,
                   corrector_every=1, corrector_mode="low_confidence")  # fmt: skip
    assert len(sample(lm.model, None, lm.tokenizer, 20, **options)) == 4
    assert len(sample(lm.model, None, lm.tokenizer, 20, 1, confidence_threshold=0.1)) == 1
    assert (sample(lm.model, None, None, 9, return_ids=True) != sample(lm.model, None, None, 9, return_ids=True)).any()


def test_the_scheduler_tells_the_time(folder, lm):
    """The model's own schedule is cosine; another is what the model is told the time by."""
    ids = {}
    for schedule in ("cosine", "linear"):
        model = DiT.from_pretrained(folder)
        ids[schedule] = sample(model, AbsorbingScheduler(2, schedule), None, 40, n=4, seed=3, return_ids=True)
        want = diffusionlm.Model.load(folder, precision="f32", schedule=schedule)
        assert (ids[schedule] == want.sample(want.masks(4, 40), seed=3, steps=64, temperature=1.0)).all()
    made = DiT(DiTConfig(50, 8, 8, 1, 2))
    weights = made.state_dict()["tok_embed.weight"].copy()
    sample(made, AbsorbingScheduler(2, "linear"), None, 8, return_ids=True)
    assert made._model.config.schedule == "linear"
    assert (made.state_dict()["tok_embed.weight"] == weights).all(), "the weights stay"
    with pytest.raises(errors.ArgumentError, match="mask_id is 5, the model's 2"):
        sample(lm.model, AbsorbingScheduler(5), None, 8, return_ids=True)


def test_refine(lm):
    x = lm.generate(n=2, seq_len=30, return_ids=True)
    tensor = torch.from_numpy(x).long()
    again = refine(lm.model, lm.scheduler, tensor, passes=2, frac=0.2, seed=1)
    assert torch.is_tensor(again) and again.dtype == torch.int64 and again.shape == tensor.shape
    assert (again != tensor).any()
    assert (refine(lm.model, lm.scheduler, x, passes=2, frac=0.2, seed=1) == again.numpy()).all()
    assert (lm.refine(tensor, passes=2, frac=0.2, seed=1) == again).all()
    assert type(lm.refine(x, 2, 0.2, 0.9)) is np.ndarray


def test_diffusion_lm(lm, folder):
    assert isinstance(lm.model, DiT) and lm.scheduler.mask_id == 2 and lm.scheduler.schedule == "cosine"
    ids = lm.generate(n=2, seq_len=12, seed=3, return_ids=True)
    texts = lm.generate(n=2, seq_len=12, seed=3)
    assert texts == [lm.tokenizer.decode(row, skip_special_tokens=True) for row in ids]
    plain = diffusionlm.DiffusionLM.from_pretrained(folder)
    assert [text.removeprefix(" ") for text in texts] == plain.generate(n=2, seq_len=12, seed=3)
    tokenizer = lm.tokenizer
    assert (tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.mask_token_id) == (0, 1, 2)
    assert tokenizer.decode([2, 90]).startswith("[MASK]") and len(tokenizer) == 512
    other = DiffusionLM(DiT.from_pretrained(folder), tokenizer, AbsorbingScheduler(2, "linear"))
    assert len(other.generate(n=1, seq_len=12)) == 1 and other._model().config.schedule == "linear"
    assert [step.step for step in lm.stream(seq_len=5)] == [1, 2, 3, 4, 5]


def test_saved_it_is_the_originals_file(lm, tmp_path, shared, monkeypatch):
    monkeypatch.syspath_prepend(str(shared / "reference"))
    import torch_dit

    lm.save_pretrained(tmp_path / "final.pt")
    saved = torch.load(io.BytesIO((tmp_path / "final.pt").read_bytes()), weights_only=True)
    reference = torch_dit.DiT(torch_dit.Config(**saved["config"]))
    reference.load_state_dict(saved["model"])
    x, t = torch.randint(0, 512, (2, 30)), torch.rand(2)
    model = DiT.from_pretrained(tmp_path / "final.pt")
    with torch.no_grad():
        torch.testing.assert_close(model(x, t), reference(x, t), atol=1e-4, rtol=0)

"""The comparison with other programs (bench/side_by_side): that its competitor is the original's model and works, that
its formulas count what is computed, and that rows run, in seconds and on a tiny model. What it measures is no test."""

import json
import os
import pathlib
import statistics
import subprocess
import sys

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

BENCH = pathlib.Path(__file__).resolve().parents[2] / "bench/side_by_side"
sys.path.insert(0, str(BENCH))
import rows  # noqa: E402
import torch_model as tm  # noqa: E402
import torch_recipe  # noqa: E402
from compare import Line, in_turn, ratio_line  # noqa: E402
from sides import Side  # noqa: E402


@pytest.fixture(scope="module")
def measure():
    path = pathlib.Path(os.environ.get("OUT", "/nonexistent")) / "bench/measure"
    if not path.is_file():
        pytest.fail(f"{path} is not built: run `make test-oracles`")
    return path


@pytest.fixture(scope="module")
def harness(measure, program, golden, tmp_path_factory):
    output = tmp_path_factory.mktemp("bench")

    def harness(chosen, program=program, status=0):
        line = [sys.executable, BENCH, "--mode", "test", "--rows", chosen, "--program", program, "--measure", measure]
        done = subprocess.run(
            [*line, "--golden", golden, "--output", output], capture_output=True, text=True, timeout=600
        )
        assert done.returncode == status, done.stderr
        return done, json.loads((output / "results.json").read_text()) if status != 2 else None

    return harness


@pytest.mark.parametrize("time, position", [("adaln", "learned"), ("none", "both")])
def test_the_competitor_is_the_references_model(shared, time, position):
    sys.path.insert(0, str(shared / "reference"))
    import torch_dit as reference

    config = tm.preset("tiny", vocab_size=500, max_seq_len=48, time=time, position=position)
    model = tm.stirred(config)
    other = reference.DiT(reference.Config(500, 48, 128, 4, 4, time=time, position=position))
    other.load_state_dict(model.state_dict())
    ids, t = torch.randint(0, 500, (3, 40)), torch.tensor([0.001, 0.4, 1.0])
    with torch.no_grad():
        torch.testing.assert_close(model(ids, t), other(ids, t), rtol=1e-4, atol=1e-5)
    fresh, twin = tm.Denoiser(config).state_dict(), reference.DiT(other.config).state_dict()
    for name, value in fresh.items():
        assert value.shape == twin[name].shape
        assert float(value.std()) == pytest.approx(float(twin[name].std()), rel=0.1, abs=1e-4), name


def test_a_saved_competitor_is_a_model_of_ours(run, tmp_path):
    """Both sides run on the same weights."""
    model = tm.stirred(tm.preset("tiny"))
    tm.save(model, tmp_path / "model")
    about = json.loads(run("info", tmp_path / "model", "--json").stdout)
    assert about["parameters"] == sum(p.numel() for p in model.parameters())
    assert (about["time"], about["position"]) == ("adaln", "learned")


def test_the_competitors_sampler_reveals_all_and_nothing_banned():
    passes = []
    model = tm.stirred(tm.preset("tiny", vocab_size=64))

    def counted(ids, t):
        passes.append(((ids == tm.MASK).sum(1).tolist(), t.tolist()))
        return model(ids, t)

    ids = tm.sample(counted, 3, 20, 8)
    assert ids.shape == (3, 20) and int(ids.min()) > tm.MASK and len(passes) == 8
    # 20 (1 - cos(pi/2 i/8)) rounded, at least one a step
    assert [masked for masked, _ in passes] == [[left] * 3 for left in (20, 19, 18, 17, 14, 11, 8, 4)]
    assert passes[0][1] == [pytest.approx(1.0)] * 3


@pytest.mark.parametrize("recipe", torch_recipe.RECIPES)
def test_the_competitor_learns(recipe, golden):
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(golden / "tokenizer/stories_1024/tokenizer.json"))
    stories = ["Once upon a time there was a cat. The cat sat on the mat.", "The dog ran."] * 8
    torch.manual_seed(0)
    options = {"batch": 8, "steps": 60, "precision": "f32", "compile": False, "lr": 5e-3, "warmup": 2}
    # torch.optim.Muon multiplies in bfloat16, which is slow without such a unit: one step must do.
    assert torch_recipe.training("default", "tiny", 24, stories, tokenizer, **options).step() > 0
    work = torch_recipe.training(recipe, "tiny", 24, stories, tokenizer, **options, optimizer="adamw")
    before = torch_recipe.nelbo(work.model, stories, tokenizer)
    assert before == pytest.approx(
        torch.log(torch.tensor(1024.0)).item(), abs=1e-4
    )  # the untrained model knows nothing
    lengths = [min(24, len(e.ids) + (recipe == "default")) for e in tokenizer.encode_batch(stories)]
    assert 8 * min(lengths) <= work.step() <= 8 * 24
    for _ in range(59):
        work.step()
    assert torch_recipe.nelbo(work.model, stories, tokenizer) < 0.8 * before


def test_formulas_count_what_is_computed():
    """The useful operations of a pass by PyTorch's own counter; without the time's embedding, which is under 1 %."""
    for preset, sequences, length in (("tiny", 2, 64), ("small", 4, 80)):
        model = tm.stirred(tm.preset(preset))
        # Attention's fused kernel is one that the counter does not know.
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
            model(torch.randint(0, 8192, (sequences, length)), torch.rand(sequences))
        expected = rows.forward_flop(preset, sequences, length, sequences * length)
        assert counter.get_total_flops() == pytest.approx(expected, rel=0.01)
    shapes = rows.step_shapes("small", 16)
    forward = (
        sum(2 * n * m * c * k for n, (m, c, k, ta, _) in shapes if not ta) / 2
    )  # of three alike products of a layer
    logits = max(m for n, (m, c, k, ta, _) in shapes if n == 1 and not ta)
    blocks = rows.forward_flop("small", 16, 256, logits) - 8 * (16 * 256 * 4 * 256 * 256 + 16 * 12 * 256**2)
    assert forward == pytest.approx(blocks, rel=1e-9)


def test_sides_take_turns_and_the_slow_are_left_out():
    asked = []

    class Fake(Side):
        def __init__(self, name, seconds):
            super().__init__(name, lambda: asked.append(name) or (None if seconds is None else {"seconds": seconds}))

    ours = Fake("here", 1.0)
    theirs = [Fake("near", 2.2), Fake("best", 2.0), Fake("slow", 9.0), Fake("broken", None)]
    figures = in_turn([ours], theirs, 3, "seconds", False)
    assert asked == ["here", "near", "best", "slow", "broken", "best", "near", "here", "here", "near", "best"]
    assert figures == {"here": [1.0] * 3, "near": [2.2] * 3, "best": [2.0] * 3, "slow": [9.0], "broken": []}
    line = ratio_line("row", "what", "here", figures, [s.name for s in theirs], "s", False, 2)
    assert (line.ratio, line.met, line.theirs.split(":")[0]) == (2.0, True, "best")
    assert ratio_line("row", "what", "here", figures, [s.name for s in theirs], "s", False, 2.1).met is False


def test_rows_run(harness):
    done, results = harness("encode,generate-small,start")
    by_row = {}
    for line in results["lines"]:
        by_row.setdefault(line["row"], []).append(Line(**line))
        assert f"| {line['row']} | {line['what']} |" in done.stdout
    assert set(by_row) == {"encode", "generate-small", "start"} and len(by_row["encode"]) == 2
    for line in by_row["encode"]:
        here, there = line.figures["here"], line.figures["tokenizers"]
        assert len(here) == len(there) == results["rounds"] == 2 and min(here + there) > 0
        assert line.ratio == pytest.approx(statistics.median(here) / statistics.median(there))
        assert line.met is (line.ratio >= 10)
    assert {line.ours.split(":")[0] for line in by_row["generate-small"]} >= {"here f32", "here bf16"}
    assert all(line.theirs.startswith("PyTorch") and line.ratio > 0 for line in by_row["generate-small"])
    assert (
        results["machine"]["class"] in ("amx", "avx512", "plain") and results["machine"]["torch"] == torch.__version__
    )


def test_failures_are_told_of(harness):
    done, results = harness("start,nonsense", status=2)
    assert "no row nonsense" in done.stderr
    broken = pathlib.Path(__file__).with_name("broken_program.sh")
    done, results = harness("start,encode", program=broken, status=1)
    assert [line["what"] for line in results["lines"]][0] == "failed"
    assert [line["row"] for line in results["lines"]][1:] == ["encode", "encode"]  # which does not need it

"""The comparison with other programs (bench/side_by_side): that its competitor is the original's model and works, that
what it counts is what is computed, that its verdicts are right, and that rows run, in seconds and on a tiny model. What
it measures is no test."""

import collections
import importlib.util
import json
import os
import pathlib
import runpy
import statistics
import subprocess
import sys

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

BENCH = pathlib.Path(__file__).resolve().parents[2] / "bench/side_by_side"
sys.path.insert(0, str(BENCH))
import compare  # noqa: E402
import counts  # noqa: E402
import rows  # noqa: E402
import setting as harness_setting  # noqa: E402
import sides  # noqa: E402
import torch_model as tm  # noqa: E402
import torch_recipe  # noqa: E402
from compare import Line, in_turn, ratio_line  # noqa: E402
from sides import Side  # noqa: E402


def built(name):
    path = pathlib.Path(os.environ.get("OUT", "/nonexistent")) / "bench" / name
    if not path.is_file():
        pytest.fail(f"{path} is not built: run `make test-oracles`")
    return path


@pytest.fixture(scope="session")
def measure():
    return built("measure")


@pytest.fixture(scope="session")
def counted():
    return built("counted")


@pytest.fixture(scope="module")
def harness(measure, counted, program, golden, tmp_path_factory):
    """harness("encode,start"): runs these rows; the process and what it wrote."""
    output = tmp_path_factory.mktemp("bench")

    def harness(chosen, *others, program=program, status=0, mode="test"):
        programs = ["--program", program, "--measure", measure, "--counted", counted]
        where = [*programs, "--golden", golden, "--output", output, "--original-limit", "2"]
        line = [sys.executable, BENCH, "--mode", mode, "--rows", chosen, *where, *others]
        done = subprocess.run(line, capture_output=True, text=True, timeout=600)
        assert done.returncode == status, done.stderr
        return done, json.loads((output / "results.json").read_text()) if status != 2 else None

    return harness


def lines_of(results):
    """The lines of each row."""
    return {row["row"]: [Line(**line) for line in row["lines"]] for row in results["rows"]}


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


# ---- what is counted -------------------------------------------------------------------------------------------------


def test_formulas_count_the_whole_model():
    """The operations of a pass by PyTorch's own counter; without the time's embedding, which is under 1 %."""
    for preset, sequences, length in (("tiny", 2, 64), ("small", 4, 80)):
        model = tm.stirred(tm.preset(preset))
        # Attention's fused kernel is one that the counter does not know.
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
            model(torch.randint(0, 8192, (sequences, length)), torch.rand(sequences))
        expected = rows.forward_flop(preset, sequences, length, sequences * length, sequences)
        assert counter.get_total_flops() == pytest.approx(expected, rel=0.01)


CHANNELS, DEPTH, HIDDEN, LENGTH, VOCABULARY = 128, 4, 512, 256, 8192  # of preset tiny


def eighths(n):
    """As products of oneDNN round their rows: to one of eight sizes for each doubling."""
    unit = 16
    while n // 16 >= unit:
        unit *= 2
    return -(-n // unit) * unit


def products_of_a_step(passes, of_rows, of_times):
    """How often training calls each product (M, N, K, A and B transposed, adding): forward, of the input and of the
    weight, of every linear layer, passes being (positions, masked ones, sequences). By hand, from the model."""
    calls = collections.Counter()

    def linear(n, inputs, outputs, times=1, to_input=True, adds=0):
        calls[n, outputs, inputs, 0, 1, 0] += times
        calls[outputs, inputs, n, 1, 0, 1] += times
        if to_input:
            calls[n, inputs, outputs, 0, 0, adds] += times

    for positions, masked, sequences in passes:
        t, r, s = of_rows(positions), of_rows(masked), of_times(sequences)
        linear(s, 256, CHANNELS, to_input=False)  # the embedding of times
        linear(s, CHANNELS, CHANNELS)
        linear(s, CHANNELS, 6 * CHANNELS, DEPTH, adds=1)  # modulations
        linear(s, CHANNELS, 2 * CHANNELS, adds=1)
        for n, times in ((t, DEPTH - 1), (r, 1)):  # of the last block only masked rows are read
            linear(n, CHANNELS, CHANNELS, times)  # what follows attention
            linear(n, CHANNELS, HIDDEN, times)
            linear(n, HIDDEN, CHANNELS, times)
        linear(t, CHANNELS, 3 * CHANNELS, DEPTH - 1)  # queries, keys, values
        linear(t, CHANNELS, 2 * CHANNELS)  # of the last block keys and values of all
        linear(r, CHANNELS, CHANNELS)  # and queries of some
        for first in range(0, masked, 512):
            linear(of_rows(min(512, masked - first)), CHANNELS, VOCABULARY)
    return calls


def bytes_of_a_step(passes, size, parameters, copied):
    """What is read and written beside products, attention and the tables of embeddings, by the table of
    docs/performance.md, size being an operand's: of every token's C channels in a full block, and so on. copied:
    whether bfloat16 weights are copies, not rounded by the products."""
    kept = size == 2  # bfloat16 operands are conversions
    forward = 48 + 6 * size + kept * (4 + 5 * size)
    backward = 72 + 26 * size + kept * 3 * (4 + size)
    full = forward + backward
    # the last block: of all tokens its keys' norm, both ways, their sums and conversion; of masked rows all else
    tokens = (4 + size) + (16 + size) + 2 * size + kept * 2 * (4 + size)
    masked_forward = 8 + (4 + size) + 12 + (4 + size) + 4 * (4 + size + kept * size) + 12 + kept * (4 + size)
    masked_backward = 20 + (4 + 2 * size) + 4 * (4 + 3 * size) + 5 * size + 16 + size + (8 + size) + size
    masked_backward += kept * (4 + size) + (8 + 4 + size) + size + 2 * 12
    final = (4 + size) + 16
    total = 0
    for t, r, _ in passes:
        total += CHANNELS * (t * ((DEPTH - 1) * full + tokens) + r * (masked_forward + masked_backward + final))
        total += r * VOCABULARY * (4 + 2 * size)  # cross-entropy, and the sum of its gradient
    embeddings = (VOCABULARY + LENGTH) * CHANNELS  # which nothing multiplies
    return total + 44 * parameters + copied * 6 * (parameters - embeddings)  # AdamW with the average 36, clearing, norm


class Place:
    """What counts.training asks of a setting."""

    def __init__(self, work, counted, data):
        self.work, self.counted, self.threads, self.prepared, self.counts = work, counted, 2, data, {}
        self.size = harness_setting.SIZES["test"]

    fresh = harness_setting.Setting.fresh

    def data(self, *_):
        return self.prepared

    def run(self, line, **options):
        return subprocess.run(list(map(str, line)), check=True, text=True, **options)


@pytest.fixture(scope="module")
def place(run, golden, counted, tmp_path_factory):
    work = tmp_path_factory.mktemp("counted")
    words = [f"Tom the {a} has a {b}. " * (2 + i % 40) for i, (a, b) in enumerate(zip("abcdefgh" * 8, "stuvwxyz" * 8))]
    (work / "stories.txt").write_text("<|endoftext|>".join(words))
    tokenizer = golden / "tokenizer/stories_8192"
    run("prepare", work / "stories.txt", "-t", tokenizer, "-o", work / "data", "--seq-len", str(LENGTH), "-q")
    return Place(work, counted, work / "data")


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_steps_are_counted(place, precision, monkeypatch):
    """Every product of a step of two passes, and the bytes of all else, are what the model asks for."""
    original = counts.train_command
    monkeypatch.setattr(
        counts, "train_command", lambda *line: [w if w != "auto" else precision for w in original(*line)]
    )
    place.counts.clear()
    count = counts.training(place, "tiny", 12)
    passes = [(c["M"], c["N"], c["K"]) for c in count.calls if c["call"] == "pass" for _ in range(c["count"])]
    assert [(t, s) for t, _, s in passes] == [(8 * LENGTH, 8), (4 * LENGTH, 4)]
    found = {tuple(product.words()[:6]): n for n, product in count.products()}
    same = int  # the identity: rows are rounded for oneDNN alone
    ways = [(same, same), (same, eighths), (eighths, eighths)]
    assert any(found == products_of_a_step(passes, *way) for way in ways), sorted(found)
    rights = {product.right for _, product in count.products() if not product.ta}
    assert all(product.right == "rows" for _, product in count.products() if product.ta)
    # Own products read panels forward, where a small model has them, and round the weights on the way back.
    assert rights == {"rows"} or (precision == "bf16" and rights == {"panels", "float"})
    assert all((product.right == "panels") == product.tb for _, product in count.products() if product.right != "rows")
    attention = 14 * CHANNELS * LENGTH * sum(((DEPTH - 1) * t + r) for t, r, _ in passes)
    assert count.flop("attention") == attention
    assert count.flop() == attention + sum(n * product.flop for n, product in count.products())
    weights = count.bytes("clear_gradients") / 4
    half = precision == "bf16"
    expected = bytes_of_a_step(passes, 2 if half else 4, weights, half and rights == {"rows"})
    others = count.names() - {"product", "attention", "embed", "embed_backward"}
    assert count.bytes(*others) == pytest.approx(expected, rel=0.01)
    whole = rows.training_flop("tiny", 12, 12 * LENGTH)
    assert 0.8 * whole < count.flop() < 1.1 * whole


def test_steps_that_are_timed_are_those_counted(place):
    """Not the first, which is not timed, nor what follows the last."""
    count = counts.training(place, "tiny", 2)
    assert count.steps == 1 and {call["step"] for call in count.calls} == {2}
    norm, adamw = count.bytes("sum_of_squares"), count.bytes("adamw")
    assert 0 < norm == pytest.approx(adamw / 9)
    calls = count.names() - {"pass", "clear_gradients"}
    assert all(count.seconds(name) > 0 for name in calls) and count.seconds(*calls) < count.step_seconds < 60


def test_products_of_many_sizes_are_timed_in_few():
    """Masked rows differ from pass to pass: the work stays."""
    gradient = counts.Product(512, 128, 2048, 1, 0, 1, "rows")
    some = [(3, counts.Product(2048, 512, 128)), (1, counts.Product(700, 512, 128)), (2, counts.Product(500, 512, 128))]
    some += [(3, gradient), (1, gradient.of_rows(300)), (1, counts.Product(700, 128, 512))]
    some += [(4, counts.Product(16, 512, 128))]
    few = counts.alike(some)
    assert sum(n * product.flop for n, product in few) == pytest.approx(sum(n * p.flop for n, p in some))
    assert [(p.M, p.N, p.K) for _, p in few] == [
        (2048, 512, 128),
        (16, 512, 128),  # of times, not of masked rows
        (567, 512, 128),
        (512, 128, 2048),
        (512, 128, 300),
        (700, 128, 512),
    ]
    assert few[0][0] == 3 and few[2][0] == pytest.approx(1700 / 567)


def test_products_are_measured_in_three_types(measure):
    def ask(kind, asked, status=0):
        line = [measure, "--threads", "1", "products", kind, "0.001"]
        done = subprocess.run(line, input=asked, capture_output=True, text=True)
        assert done.returncode == status, done.stderr
        return [json.loads(row) for row in done.stdout.splitlines()], done.stderr

    shapes = "".join(f"{m} 64 32 0 1 0 {right}\n" for m, right in ((16, "rows"), (7, "float"), (7, "panels")))
    for kind in ("f32", "bf16", "int8"):
        rates, _ = ask(kind, shapes)
        assert len(rates) == 3 and all(rate["gflops"] > 0 and rate["seconds"] > 0 for rate in rates)
    assert len(ask("bf16", "64 32 7 1 0 1 rows\n7 32 64 0 0 0 float\n")[0]) == 2
    assert "'fp8' is no type" in ask("fp8", shapes, 2)[1]
    for bad in ("8 8 8 1 0 1 rows\n", "8 8 8 0 1 0\n", "8 8 0 0 1 0 rows\n", "8 8 8 0 1 0 columns\n"):
        assert "usage:" in ask("int8", bad, 2)[1]


# ---- verdicts --------------------------------------------------------------------------------------------------------


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
    assert [len(side.answers) for side in [ours, *theirs]] == [3, 3, 3, 1, 0]
    line = ratio_line("row", "what", "here", figures, [s.name for s in theirs], "s", False, 2)
    assert (line.ratio, line.met, line.theirs.split(":")[0]) == (2.0, True, "best")
    assert ratio_line("row", "what", "here", figures, [s.name for s in theirs], "s", False, 2.1).met is False


def test_rounds_end_when_time_is_up():
    def lasting(turns):
        left = iter([{"seconds": 1.0}] * turns)

        def once():
            try:
                return next(left)
            except StopIteration:
                raise compare.OutOfTime from None

        return once

    figures = in_turn([Side("here", lasting(2))], [Side("there", lasting(9))], 5, "seconds", False)
    assert figures == {"here": [1.0] * 2, "there": [1.0] * 2}
    with pytest.raises(compare.OutOfTime):
        in_turn([Side("here", lasting(2))], [Side("there", lasting(0))], 5, "seconds", False)


def test_a_competitor_that_time_overtakes_has_not_failed(tmp_path, golden):
    size = harness_setting.SIZES["quick"]
    setting = harness_setting.Setting(size, 1, *[tmp_path] * 5, original_limit=0, begin=-1e9)
    tokenizer = str(golden / "tokenizer/stories_1024/tokenizer.json")
    worker = sides.Worker(setting, "late", {"job": "encode", "tokenizer": tokenizer, "stories": tokenizer})
    with pytest.raises(compare.OutOfTime):
        worker.measure()
    assert worker.process.returncode is not None


@pytest.mark.parametrize("here, there, required", [([], [1.0], ()), ([1.0], [], ()), ([1.0], [1.0], ("other",))])
def test_a_missing_figure_meets_no_goal(here, there, required):
    figures = {"here": here, "there": there, "other": []}
    line = ratio_line("row", "what", "here", figures, ["there", "other"], "s", False, 1, required=required)
    assert line.failed and line.met is False and line.goal == "1 x" and "no figure of" in line.note
    context = ratio_line("row", "what", "here", figures, ["there", "other"], "s", False, None, required=required)
    assert context.failed and context.met is None


def test_the_rest_of_a_step_is_held_against_its_bytes():
    """10 of 25 GB/s and attention's 400 GFLOP at 800: 0.9 s, of which a step of 5 s that multiplies 3.2 has twice. Of
    two steps that were counted."""

    class Here:
        facts, size, native_bf16 = {"bandwidth": 25.0, "peak_bf16": 800.0}, harness_setting.SIZES["test"], True

    def rest(products, attention=(8e11, 2e9)):
        some = {"product": (9e12, 0), "attention": attention, "adamw": (0, 12e9), "gelu": (0, 8e9), "pass": (0, 0)}
        calls = [
            {"call": name, "flop": flop, "bytes": size, "seconds": 2 * products if name == "product" else 0.1}
            for name, (flop, size) in some.items()
        ]
        return rows.rest_of_step(Here(), counts.Count(calls, 2, 5.0))

    line = rest(3.2)
    assert (line.ratio, line.met, line.goal) == (pytest.approx(2.0), False, "at most 1.5 x")
    assert rest(3.8).met is True
    assert rest(3.6, (8e10, 50e9)).ratio == pytest.approx(1.0)  # now its bytes take longer


def run_of(*points):
    return {"points": [{"step": i, "seconds": s, "nelbo": n} for i, (s, n) in enumerate(points)], "cpu_seconds": 60.0}


def test_likelihoods_are_reached_or_not():
    """The first time below counts, on both sides; time that only ended the other's run says nothing against us."""
    ours = run_of((10, 4.0), (20, 3.4), (30, 3.2))
    there = {"reached": run_of((50, 3.9), (110, 3.15), (200, 3.6)), "over": run_of((50, 3.9), (90, 3.8))}

    def line(name, goal, here=ours):
        return rows.likelihood_line(
            {"here": here, f"PyTorch, {name} recipe": there[name]}, f"PyTorch, {name} recipe", goal
        )

    assert line("reached", 4.4).ratio == pytest.approx(4.5) and line("reached", 4.4).met is True
    assert line("reached", 4.6).met is False
    assert line("over", 4.4).met is True and "more than" in line("over", 4.4).theirs
    assert line("over", 4.6).met is None and line("over", 4.6).goal == "4.6 x"
    assert line("over", 1, run_of((10, 3.5))).met is False
    assert "processor's minutes" in line("over", 1).note and "1 here, 1 there" in line("over", 1).note


def test_the_first_crossing_is_looked_for(monkeypatch):
    """Of many saved weights some are judged, then those before the first of them that is good enough."""
    judged = []

    def judge(_, weights, recipe):
        judged.append(weights)
        return [4.0 if w < 57 else 3.0 if w < 70 else 5.0 for w in weights]

    monkeypatch.setattr(rows, "judge", judge)
    points = rows.judged(None, [{"seconds": float(i)} for i in range(200)], list(range(200)), "original")
    assert rows.reached(points) == pytest.approx(56.6) and points[-1]["nelbo"] == 5.0
    assert judged[0] == list(range(9, 200, 10)) and judged[1] == list(range(50, 59))
    assert rows.spread(range(7)) == list(range(7)) and rows.spread(range(1000))[-1] == 999


# ---- rows ------------------------------------------------------------------------------------------------------------


def test_rows_run(harness):
    """All of them, but for `forward`, whose competitor may not be installed."""
    chosen = [name for name in rows.ROWS if name != "forward"]
    done, results = harness(",".join(chosen))
    by_row = lines_of(results)
    assert list(by_row) == chosen
    for row in results["rows"]:
        assert row["started"] and row["load"] >= 0 and row["seconds"] > 0
        for line in row["lines"]:
            assert f"| {line['row']} | {line['what']} |" in done.stdout and not line["failed"], line
    kinds = {line.what.split(", ")[1] for line in by_row["machine"] if line.what.startswith("products")}
    assert kinds == {"f32", "bf16", "int8"} and all(line.figures["here"] > 0 for line in by_row["machine"])
    for line in by_row["encode"]:
        here, there = line.figures["here"], line.figures["tokenizers"]
        assert len(here) == len(there) == results["options"]["rounds"] == 2 and min(here + there) > 0
        assert line.ratio == pytest.approx(statistics.median(here) / statistics.median(there))
        assert line.met is (line.ratio >= 10)
    for name in ("generate-small", "generate-base"):
        assert {line.ours.split(":")[0] for line in by_row[name]} >= {"here f32", "here bf16"}
        assert all(line.theirs.startswith("PyTorch") and line.ratio > 0 for line in by_row[name])
        assert all("GFLOP executed" in line.note for line in by_row[name])
    if results["machine"]["class"] != "plain":
        assert [bool(line.goal) for line in by_row["generate-small"]].count(True) == 1  # the best of ours
        assert [bool(line.goal) for line in by_row["generate-base"]] == [False, True, True]
    for name in ("train-small", "train-base"):
        seconds = by_row[name][0].figures["seconds of a step"]
        assert min(seconds["here"]) > 0 and "GFLOP executed" in by_row[name][0].note
    *parts, rest = by_row["products"]
    assert [bool(line.goal) for line in parts].count(True) <= 1 and rest.ratio > 0
    for line in parts:  # of each size the best side's, so no more than any of them
        (best,) = line.figures.pop("the best of each size")
        assert len(line.figures.pop("products")) > 10
        assert 0 < best <= 1.001 * min(statistics.median(took) for took in line.figures.values())
    assert 0 < float(rest.ours.split()[0]) < float(rest.ours.split()[-1])
    assert len(by_row["likelihood"]) == 2 and all("processor" in line.note for line in by_row["likelihood"])
    assert "likelihood, PyTorch, original recipe: {" in done.stderr
    machine = results["machine"]
    assert machine["class"] in ("amx", "avx512", "plain") and machine["torch"] == torch.__version__


def test_the_forward_row_runs(harness):
    missing = [name for name in ("onnx", "onnxruntime", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed: the row `forward` has no competitor")
    lines = lines_of(harness("forward")[1])["forward"]
    assert all(line.theirs and line.ratio > 0 and not line.failed for line in lines)
    assert [line.ours.split(":")[0] for line in lines if line.goal] in ([], ["here int8"])


def test_quick_mode_says_nothing_of_goals(harness):
    done, results = harness("encode", mode="quick")
    lines = lines_of(results)["encode"]
    assert all(line.met is None and line.goal == "" and line.ratio > 0 for line in lines)
    assert "No verdicts" in done.stdout and "goals met" not in done.stdout


def test_finished_rows_are_taken_up_again(harness):
    first = harness("encode")[1]["rows"][0]
    done, results = harness("encode", "--resume")
    assert results["rows"] == [first] and done.stdout.count(f"kept from {first['started']}") == 2
    done, results = harness("encode", "--resume", "--rounds", "1")
    assert "kept from" not in done.stdout and "to resume" in done.stderr
    assert results["rows"][0]["lines"] != first["lines"]


@pytest.fixture
def pretended(monkeypatch, tmp_path, program, measure, counted, golden):
    """pretended({"a": function}, "--resume"): the command with these rows in place of its own; its results."""

    def pretended(table, *others):
        monkeypatch.setattr(rows, "ROWS", {name: (work, {}) for name, work in table.items()})
        where = {"program": program, "measure": measure, "counted": counted, "golden": golden, "output": tmp_path}
        options = [str(word) for name, path in where.items() for word in (f"--{name}", path)]
        monkeypatch.setattr(sys, "argv", ["side_by_side", *options, *others])
        try:
            runpy.run_path(str(BENCH / "__main__.py"), run_name="__main__")
        except (SystemExit, KeyboardInterrupt) as end:
            return end, json.loads((tmp_path / "results.json").read_text())

    return pretended


def test_a_run_that_is_cut_keeps_its_rows(pretended):
    calls = []

    def fine(name):
        return lambda setting, goal: calls.append(name) or [Line(name, "work", figures={"n": len(calls)})]

    def cut(setting, goal):
        raise KeyboardInterrupt

    def fails(setting, goal):
        raise ValueError("no such thing")

    end, results = pretended({"a": fine("a"), "b": fails, "c": cut})
    assert isinstance(end, KeyboardInterrupt)
    assert [(row["row"], row["lines"][0]["failed"]) for row in results["rows"]] == [("a", False), ("b", True)]
    end, results = pretended({"a": fine("a"), "b": fine("b"), "c": fine("c")}, "--resume")
    assert calls == ["a", "b", "c"] and end.code == 0  # what failed is run again
    assert [row["lines"][0]["figures"]["n"] for row in results["rows"]] == [1, 2, 3]


def test_quick_mode_ends_in_time(pretended, monkeypatch):
    """Rows that would not fit are left out, and so is one that time overtakes."""
    monkeypatch.setattr(harness_setting.SIZES["quick"], "deadline", 45)
    asked = []

    def row(name, end=None):
        def work(setting, goal):
            asked.append((name, setting.left()))
            if end:
                raise end
            return [Line(name, "work")]

        return work

    table = {name: row(name) for name in rows.ROWS} | {"start": row("start", compare.OutOfTime())}
    end, results = pretended(table, "--mode", "quick")
    assert end.code == 0 and all(0 < left <= 45 for _, left in asked)
    done = [row["row"] for row in results["rows"]]
    assert {"machine", "train-small", "generate-small", "encode"} <= set(done) and done[:2] == [
        "machine",
        "train-small",
    ]
    assert "start" in results["left_out"] and "likelihood" in results["left_out"]


def test_failures_are_told_of(harness):
    done, results = harness("start,nonsense", status=2)
    assert "no row nonsense" in done.stderr
    broken = pathlib.Path(__file__).with_name("broken_program.sh")
    done, results = harness("start,encode", program=broken, status=1)
    by_row = lines_of(results)
    assert by_row["start"][0].what == "failed" and "failed |" in done.stdout
    assert len(by_row["encode"]) == 2 and not by_row["encode"][0].failed  # which does not need it

"""Logits, sampling and refining: against PyTorch's golden files, the PyTorch reference itself and the command."""

import inspect
import json
import os
import re
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import diffusionlm
from diffusionlm import Config, Model, errors
from diffusionlm._library import Options, ffi, lib
from diffusionlm.sampling import RefineOptions, SampleOptions, SampleWatch, fill_options

safetensors = pytest.importorskip("safetensors.numpy")


def golden_models(golden):
    """Every folder of fixtures, and what is only in the shared folder."""
    folders = [golden]
    if os.path.isdir(os.environ.get("SHARED", "")):
        folders.insert(0, type(golden)(os.environ["SHARED"]) / "golden")
    found = {path.parent.name: path.parent for folder in folders for path in folder.glob("*/forward.safetensors")}
    assert {"tiny", "odd", "plain", "halfway"} <= set(found)
    return found


# ---- logits ----------------------------------------------------------------------------------------------------


def test_logits_of_golden_models(golden):
    assert (golden / "tiny" / "final.pt").exists()
    for name, folder in golden_models(golden).items():
        want = safetensors.load_file(folder / "forward.safetensors")
        for file, weights, expected in (
            ("final.pt", "ema", "logits"),
            ("final.pt", "raw", "raw.logits"),
            ("model.safetensors", "ema", "logits"),
        ):
            if not (folder / file).exists():  # not every one is in the repository
                continue
            loaded = Model.load(folder / file, weights=weights, precision="f32")
            logits = loaded.logits(want["x_t"], want["t"])
            assert logits.shape == want[expected].shape and logits.dtype == np.float32
            np.testing.assert_allclose(logits, want[expected], atol=1e-4, rtol=0, err_msg=f"{name}/{file} {weights}")
        shorter = loaded.logits(want["short.x_t"], want["t"][: len(want["short.x_t"])])
        np.testing.assert_allclose(shorter, want["short.logits"], atol=1e-4, rtol=0, err_msg=name)


@pytest.mark.parametrize("time_, position", [("adaln", "learned"), ("none", "both"), ("adaln", "both")])
def test_logits_of_the_pytorch_reference(shared, tmp_path, monkeypatch, time_, position):
    torch = pytest.importorskip("torch")
    monkeypatch.syspath_prepend(str(shared / "reference"))
    import torch_dit

    torch.manual_seed(3)
    config = torch_dit.Config(97, 30, 48, 3, 4, 3.0, time_, position)
    reference = torch_dit.DiT(config)
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    known, ours = torch_dit.config_dict(config)
    path = tmp_path / "final.pt"
    torch.save({"model": reference.state_dict(), "config": known, "diffusionlm": ours}, path)
    x, t = torch.randint(0, 97, (5, 23)), torch.rand(5)
    with torch.no_grad():
        want = reference(x, t).numpy()
    # torch tensors are arrays to the package
    np.testing.assert_allclose(Model.load(path, precision="f32").logits(x, t), want, atol=1e-4, rtol=0)


@pytest.mark.parametrize("first, second", [("torch", "diffusionlm"), ("diffusionlm", "torch")])
def test_beside_torch_in_one_process(golden, first, second):
    """oneDNN and OpenMP are in both; whichever comes first, each computes with its own, before and after the other."""
    pytest.importorskip("torch")
    program = f"""
import {first}, {second}, sys
import numpy as np
from safetensors.numpy import load_file
want = load_file(sys.argv[1] + "/forward.safetensors")
model = diffusionlm.Model.load(sys.argv[1] + "/final.pt", precision="f32")
a = torch.arange(64.0).reshape(8, 8)
for _ in range(3):
    np.testing.assert_allclose(model.logits(want["x_t"], want["t"]), want["logits"], atol=1e-4, rtol=0)
    assert torch.equal(a @ torch.eye(8), a)
    layer = torch.nn.Conv1d(8, 8, 3).requires_grad_(False)
    y = torch.nn.functional.linear(torch.ones(256, 512), torch.ones(512, 512))
    assert y.shape == (256, 512) and bool((y == 512).all()) and layer(a[None]).shape == (1, 8, 6)
print(diffusionlm.backend())
"""
    done = subprocess.run([sys.executable, "-c", program, str(golden / "tiny")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == diffusionlm.backend()


# ---- sampling, greedily ----------------------------------------------------------------------------------------


def scaled(folder, scale, path, schedule):
    """The model with its head scaled, which greedy.json is about."""
    parameters = dict(safetensors.load_file(folder / "model.safetensors"))
    parameters["final_layer.linear.weight"] = parameters["final_layer.linear.weight"] * np.float32(scale)
    path.mkdir(exist_ok=True)
    safetensors.save_file(parameters, path / "model.safetensors")
    (path / "config.json").write_text((folder / "config.json").read_text())
    return Model.load(path, precision="f32", schedule=schedule)


def test_greedy_runs_as_in_pytorch(golden, tmp_path):
    seen = 0
    for name, folder in golden_models(golden).items():
        if not (folder / "greedy.json").exists():
            continue
        greedy = json.loads((folder / "greedy.json").read_text())
        for number, run in enumerate(greedy["runs"]):
            loaded = scaled(folder, greedy["head_scale"], tmp_path / name, run.get("schedule"))
            frames = []

            def keep(step, frames=frames):
                if step.step > 0:
                    frames.append((step.ids.copy(), step.confidence.copy()))

            ids, confidence, forwards = loaded.sample(
                loaded.masks(1, run["length"]),
                steps=run["steps"],
                temperature=run["temperature"],
                reveal=run.get("reveal"),
                confidence_threshold=run.get("threshold"),
                corrector_frac=run.get("corrector_frac"),
                corrector_every=run.get("corrector_every"),
                corrector_mode=run.get("corrector_mode"),
                on_step=keep,
                details=True,
            )
            assert len(frames) == len(run["frames"]), (name, number)
            for (got, sure), want in zip(frames, run["frames"]):
                assert got.tolist() == want["ids"][0], (name, number)
                np.testing.assert_allclose(sure, want["conf"][0], atol=5e-5, rtol=0)
            assert ids.tolist() == run["frames"][-1]["ids"]
            np.testing.assert_allclose(confidence, run["frames"][-1]["conf"], atol=5e-5, rtol=0)
            assert forwards >= len(frames)
            seen += 1
    assert seen >= 24


# ---- shapes ----------------------------------------------------------------------------------------------------


def test_ids_come_back_in_the_shape_that_came_in(model):
    torch = pytest.importorskip("torch")
    two = model.masks(2, 12)
    before = two.copy()
    both = model.sample(two, seed=7)
    assert both.shape == (2, 12) and both.dtype == np.int32
    assert (two == before).all(), "the ids given are not written to"
    assert (both != model.mask_id).all()
    assert (model.sample(two[0], seed=7) == both[0]).all()
    as_list = model.sample([two[0], two[1][:5]], seed=7)
    assert isinstance(as_list, list) and [len(ids) for ids in as_list] == [12, 5]
    assert (as_list[0] == both[0]).all()
    assert (model.sample(torch.full((2, 12), model.mask_id), seed=7) == both).all()
    assert (model.sample(two.tolist(), seed=7) == both).all()
    assert model.sample(two[:0]).shape == (0, 12) and model.sample([]) == []


def test_first_is_the_index_of_the_first(model):
    all_three = model.sample(model.masks(3, 9), seed=4)
    assert (model.sample(model.masks(1, 9), seed=4, first=2)[0] == all_three[2]).all()


def test_details(model):
    fixed = np.zeros((2, 10), bool)
    fixed[:, 3] = True
    ids = model.masks(2, 10)
    ids[:, 3] = 50
    found = model.sample(ids, fixed=fixed, details=True)
    assert found.ids.shape == found.confidence.shape == (2, 10) and found.forwards == 9
    assert (found.ids[:, 3] == 50).all() and (found.confidence[:, 3] == 1).all()
    assert ((found.confidence > 0) & (found.confidence <= 1)).all()


def test_blocks_as_the_command_writes_them(model, small_model, generated):
    [wanted] = generated(small_model, "--length", 150, "--seed", 5, "--precision", "f32")
    ids = model.sample_blocks(model.masks(1, 150)[0], seed=5)
    assert ids.tolist() == wanted["ids"]
    with pytest.raises(errors.ArgumentError, match="2 sequences"):
        model.sample_blocks(model.masks(2, 150))
    with pytest.raises(errors.ArgumentError, match="150"):
        model.sample(model.masks(1, 150))


def test_lengths_and_texts(model, small_model, generated):
    wanted = generated(small_model, "-n", 3, "--seed", 11, "--precision", "f32")
    lengths = [model.sample_length(11, i) for i in range(3)]
    assert lengths == [len(one["ids"]) for one in wanted]
    assert [model.sample_text(one["ids"]) for one in wanted] == [one["text"] for one in wanted]
    ids = model.sample([model.masks(1, length)[0] for length in lengths], seed=11)
    assert [one.tolist() for one in ids] == [one["ids"] for one in wanted]


# ---- refining --------------------------------------------------------------------------------------------------


def test_refine(model):
    start = model.sample(model.masks(2, 40), seed=1)
    again = model.refine(start, seed=2, passes=3, frac=0.2)
    assert again.shape == start.shape and (again != start).any() and (again == start).any()
    assert (again == model.refine(list(start), seed=2, passes=3, frac=0.2)).all()
    fixed = np.zeros(start.shape, bool)
    fixed[:, ::2] = True
    kept = model.refine(start, fixed=fixed, seed=2, frac=1.0)
    assert (kept[:, ::2] == start[:, ::2]).all() and (kept != start).any()
    unsure = model.refine(start, seed=2, passes=1, frac=0.1, low_confidence=True)
    assert 1 <= (unsure != start).sum() <= 8
    longer = np.tile(start[0], 4)
    assert model.refine(longer, seed=2, context=10).shape == (160,)


# ---- options ---------------------------------------------------------------------------------------------------


#: A value of each option that is not the library's default.
OTHERS = dict(
    seed=9, steps=5, max_seconds=60.0, temperature=0.5, top_k=7, top_p=0.5, min_p=0.1, repetition_penalty=1.5,
    guidance=0.5, banned=[5, 6], order="random", reveal="linear", reveals_per_step=3, confidence_threshold=0.5,
    entropy_bound=0.5, corrector_frac=0.1, corrector_every=3, corrector_mode="low_confidence", remask="cap", eta=0.3,
    on_step=print, allow=print, passes=3, frac=0.3, low_confidence=True, context=8,
)  # fmt: skip


@pytest.mark.parametrize(
    "kind, struct, defaults",
    [
        (SampleOptions, "dlm_sample_options", "dlm_sample_defaults"),
        (RefineOptions, "dlm_refine_options", "dlm_refine_defaults"),
    ],
)
def test_every_option_reaches_its_field(kind, struct, defaults):
    fields = [name for name, _ in ffi.typeof(struct).fields]
    assert set(fields) - set(kind.__annotations__) == {"banned_n", "allow_user", "user"}  # set with what they belong to
    for name in kind.__annotations__:
        before = getattr(lib, defaults)()
        options = Options(struct, before)
        given = {name: OTHERS[name]}
        watch = SampleWatch(given, 512)
        fill_options(options, options.struct, given, watch)
        changed = {field for field in fields if getattr(options.struct, field) != getattr(before, field)}
        expected = {"banned": {"banned", "banned_n"}, "allow": {"allow", "allow_user"}, "remask": {"remask", "order"}}
        assert changed == expected.get(name, {name}) | {"on_step", "user"}
        value = getattr(options.struct, name)
        if not isinstance(OTHERS[name], (list, str)) and not callable(OTHERS[name]):
            assert value == OTHERS[name]


def test_options_that_are_none(model):
    with pytest.raises(TypeError, match="'temprature'; did you mean 'temperature'"):
        model.sample(model.masks(1, 4), temprature=1.0)
    with pytest.raises(TypeError, match="no option 'passes'"):
        model.sample(model.masks(1, 4), passes=3)
    with pytest.raises(TypeError, match="banned_n"):
        model.sample(model.masks(1, 4), banned_n=3)
    with pytest.raises(errors.ArgumentError, match="order is 'best', and it is one of confidence, "):
        model.sample(model.masks(1, 4), order="best")
    with pytest.raises(errors.ArgumentError, match="temperature"):
        model.sample(model.masks(1, 4), temperature=-1)
    with pytest.raises(errors.ArgumentError, match="seed is -1"):
        model.sample(model.masks(1, 4), seed=-1)
    with pytest.raises(errors.ArgumentError, match="first is -1"):
        model.sample(model.masks(1, 4), first=-1)
    with pytest.raises(errors.ArgumentError, match="512"):
        model.sample(np.array([512]))
    with pytest.raises(errors.ArgumentError, match="fixed has shape"):
        model.sample(model.masks(1, 4), fixed=[True])
    signature = inspect.signature(model.sample)
    assert set(SampleOptions.__annotations__) <= set(signature.parameters)
    assert "corrector_every: after so many steps" in Model.sample.__doc__


def test_every_call_and_every_option_has_its_twin():
    """Whoever adds a call or an option to the header adds it here, too."""
    package = os.path.dirname(diffusionlm.__file__)
    sources = {
        name: open(os.path.join(package, name), encoding="utf-8").read()
        for name in os.listdir(package)
        if name.endswith(".py")
    }
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    header = open(os.path.join(root, "include", "diffusionlm.h"), encoding="utf-8").read()
    calls = set(re.findall(r"^DLM_API [^;]*?\b(dlm_\w+)\(", header, re.MULTILINE))
    assert len(calls) > 70
    text = "\n".join(sources.values())
    missing = {name for name in calls if not re.search(rf"\b{name}\b", text)}
    assert missing == {"dlm_model_parameter"}  # dlm_model_describe_parameter and dlm_model_values at once

    internal = {
        "user": "the handle of what watches",
        "progress_user": "likewise",
        "allow_user": "likewise",
        "banned_n": "the length of banned",
        "model": "of dlm_convert_options: its fields are keywords of convert",
        "save": "likewise",
        "sample": "of dlm_fill_options: its fields are keywords of fill",
        "sampler": "of dlm_score_options: its fields are keywords of score",
        "kind": "of dlm_hub_options: download's dataset",
    }
    structs = re.findall(r"^} (dlm_\w+_options);", header, re.MULTILINE)
    assert len(structs) >= 14
    lost = []
    for struct in structs:
        modules = [name[:-3] for name, source in sources.items() if f'"{struct}"' in source]
        keywords = {word for name in modules for word in keywords_of(name)}
        for name, _ in ffi.typeof(struct).fields:
            if name not in keywords and name not in internal:
                lost.append(f"{struct}.{name}")
    assert lost == []


def keywords_of(module):
    """The parameters of the public functions and methods of a module."""
    members = vars(__import__(f"diffusionlm.{module}", fromlist=["*"])).values()
    found = set()
    for member in members:
        functions = [member]
        if inspect.isclass(member):
            functions = [getattr(member, name) for name in dir(member) if name == "__init__" or name[0] != "_"]
            found |= set(getattr(member, "__annotations__", {}))
        for function in functions:
            if inspect.isroutine(function) and not inspect.isbuiltin(function):
                try:
                    found |= set(inspect.signature(function).parameters)
                except ValueError:
                    pass
    return found


# ---- callbacks -------------------------------------------------------------------------------------------------


def test_a_step_callback_sees_and_changes(model):
    seen = []

    def force(step):
        assert step.n == 2 and step.offsets.tolist() == [0, 6, 10] and step.first == 3 and step.tries == 1
        assert step.ids.shape == step.confidence.shape == step.fixed.shape == (10,) and step.times.shape == (2,)
        assert not step.fixed.flags.writeable and not step.times.flags.writeable
        assert step.mask_id == model.mask_id
        seen.append((step.step, int((step.ids == step.mask_id).sum()), step.forwards))
        one, two = step.split(step.ids)
        one[0], two[3] = 77, 78  # views of views
        step.ids[5] = 99  # fixed: undone
        step.confidence[0] = 0.5
        if step.step == 2:
            step.ids[1] = step.mask_id

    ids = [np.full(6, model.mask_id), np.full(4, model.mask_id)]
    ids[0][5] = 60
    fixed = [np.array([0, 0, 0, 0, 0, 1]), np.zeros(4)]
    found = model.sample(ids, fixed=fixed, first=3, on_step=force, details=True)
    assert found.ids[0][0] == 77 and found.ids[1][3] == 78 and found.ids[0][5] == 60
    assert found.confidence[0][0] == 0.5
    assert found.ids[0][1] != model.mask_id, "what was masked at a step is drawn anew"
    assert seen[0] == (0, 9, 0) and seen[1][0] == 1 and seen[-1][2] == found.forwards


def test_a_step_is_the_memory_of_the_library(model):
    addresses = set()

    def look(step):
        addresses.add((step.ids.ctypes.data, step.ids.ctypes.data))
        step.ids[2] = 70
        assert step.ids[2] == 70, "another view sees it"

    assert model.sample(model.masks(1, 8), on_step=look)[0, 2] == 70
    assert len(addresses) == 1


def test_arrays_that_are_kept_are_an_error(model):
    kept = []
    with pytest.raises(RuntimeError, match="keep a copy"):
        model.sample(model.masks(1, 8), on_step=lambda step: kept.append(step.ids[2:4]))
    kept.clear()
    with pytest.raises(RuntimeError, match="keep a copy"):
        model.sample(model.masks(1, 8), allow=lambda s, p, ids, allowed: kept.append(allowed))
    kept.clear()
    model.sample(model.masks(1, 8), on_step=lambda step: kept.append(step) and None)
    with pytest.raises(RuntimeError, match="the step is over"):
        kept[0].ids  # noqa: B018


def test_a_true_value_stops(model):
    ids = model.sample(model.masks(1, 20), steps=20, order="random", reveal="linear", on_step=lambda s: s.step == 5)
    assert (ids != model.mask_id).sum() == 5


def test_exceptions_come_out(model):
    class Private(Exception):
        pass

    def fail(*arguments):
        raise Private(len(arguments))

    ids = model.masks(2, 30)
    for call in (
        lambda **given: model.sample(ids, **given),
        lambda **given: model.refine(ids, **given),
        lambda **given: model.sample_blocks(np.full(90, model.mask_id), **given),
        lambda **given: model.fill("A [MASK:3-9] cat", **given),
    ):
        with pytest.raises(Private, match="1"):
            call(on_step=fail)
        with pytest.raises(Private, match="4"):
            call(allow=fail)
    with pytest.raises(Private, match="4"):
        model.fill("A [MASK:3-9] cat", progress=fail)


def test_allowed_tokens(model):
    seen = []

    def allow(sequence, position, ids, allowed):
        assert ids.shape == ((6, 4)[sequence],) and not ids.flags.writeable and ids[position] == model.mask_id
        assert allowed.shape == (512,) and allowed.dtype == bool and allowed.all()
        seen.append((sequence, position))
        allowed[:] = False
        allowed[100 + 10 * sequence + position] = True
        allowed[300] = True

    ids = [np.full(6, model.mask_id), np.full(4, model.mask_id)]
    found = model.sample(ids, allow=allow, banned=[300])
    assert found[0].tolist() == [100, 101, 102, 103, 104, 105] and found[1].tolist() == [110, 111, 112, 113]
    assert {(0, 5), (1, 3)} <= set(seen)
    assert (model.refine(ids, allow=lambda s, p, i, a: a.__setitem__(slice(None, 400), False))[1] >= 400).all()
    with pytest.raises(errors.ArgumentError, match="no token is allowed at position"):
        model.sample(model.masks(1, 3), allow=lambda s, p, i, a: a.fill(False))


# ---- threads and signals ---------------------------------------------------------------------------------------


def test_other_threads_run_during_a_call(model):
    """The interpreter's lock is not held: a thread counts on while a call lasts."""
    done = threading.Event()
    ticks = []

    def tick():
        while not done.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0.001)

    thread = threading.Thread(target=tick)
    thread.start()
    times = []
    try:
        ids = np.full((400, 64), 7)
        started = time.perf_counter()
        model.logits(ids)  # has no callback at all
        times = [t for t in ticks if started < t < time.perf_counter()]
        lasted = time.perf_counter() - started
    finally:
        done.set()
        thread.join()
    assert len(times) > 5, f"{len(times)} ticks in {lasted:.3f} s"
    assert times[-1] - times[0] > lasted / 2


def test_two_models_in_two_threads(model, original_model):
    models = [model, Model.load(original_model, precision="f32")]
    alone = [one.sample(one.masks(3, 40), seed=i) for i, one in enumerate(models)]
    together = [None, None]

    def work(i):
        diffusionlm.set_threads(1)
        for _ in range(3):
            together[i] = models[i].sample(models[i].masks(3, 40), seed=i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all((a == b).all() for a, b in zip(alone, together))


INTERRUPTED = """
import sys, time, numpy as np, diffusionlm
model = diffusionlm.Model.load(sys.argv[1], precision="f32")
def endless(ids):
    for step in model.stream(ids, steps=10**6, corrector_frac=0.5):
        pass
calls = {
    "sample": lambda: model.sample(model.masks(8, 64), steps=10**6, corrector_frac=0.5),
    "refine": lambda: model.refine(model.masks(8, 64), passes=10**6),
    "blocks": lambda: model.sample_blocks(np.full(10**5, model.mask_id)),
    "score": lambda: model.fill("A [MASK:3-9] cat", tries=7, draws=10**6),
    "stream": lambda: endless(model.masks(8, 64)),
}
print("ready", flush=True)
try:
    calls[sys.argv[2]]()
except KeyboardInterrupt:
    print("interrupted", flush=True)
import threading
print(threading.active_count(), model.sample(model.masks(1, 5), seed=1).shape)
"""


@pytest.mark.parametrize("what", ["sample", "refine", "blocks", "score", "stream"])
def test_ctrl_c_ends_a_long_call(small_model, what):
    import signal

    child = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(small_model), what],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert child.stdout.readline() == "ready\n"
        time.sleep(0.5)
        assert child.poll() is None
        child.send_signal(signal.SIGINT)
        sent = time.monotonic()
        out, err = child.communicate(timeout=60)
    finally:
        child.kill()
    assert time.monotonic() - sent < 10
    assert (child.returncode, out) == (0, "interrupted\n1 (1, 5)\n"), err


def test_a_random_model_samples_too():
    made = Model.random(Config(50, 16, 8, 1, 2), seed=1)
    ids = made.sample(made.masks(4, 16), seed=1)
    assert not np.isin(ids, [0, 1, 2]).any()
    with pytest.raises(errors.ArgumentError, match="tokenizer"):
        made.sample_text(ids[0])

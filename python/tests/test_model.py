"""Models: files that torch and safetensors wrote and read, memory without copies, and hostile arguments."""

import collections
import ctypes
import gc
import json
import os
import shutil
import sys
import threading
import weakref

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from safetensors.torch import load_file as load_torch

from diffusionlm import Config, Model, convert, errors, train

FOLDERS = ["tiny", "odd", "plain", "halfway"]


@pytest.fixture
def tiny(golden):
    return Model.load(golden / "tiny", precision="f32")


# ---- parameters are the files' ------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("file", ["", "model.safetensors", "final.pt"])
def test_parameters_are_those_of_the_file(request, golden, folder, file):
    if not (golden / folder / file).exists():
        golden = request.getfixturevalue("shared") / "golden"
    model = Model.load(golden / folder / file)
    if file == "final.pt":
        want = {name: tensor.numpy() for name, tensor in torch.load(golden / folder / file)["model"].items()}
    else:
        want = load_file(golden / folder / "model.safetensors")
    got = model.parameters
    assert set(got) == set(want) and len(got) == len(want)
    for name, values in want.items():
        assert got[name].dtype == np.float32 and got[name].shape == values.shape == got.shape(name)
        assert np.array_equal(got[name], values), name
    told = json.loads((golden / folder / "config.json").read_text())
    config = model.config
    assert all(getattr(config, name) == value for name, value in told.items() if name in vars(config))
    assert model.source and str(golden / folder) in model.source
    assert str(config.hidden_size) in repr(model) and model.mask_id == 2


def test_parameters_come_from_the_file_when_they_are_asked_for(golden, tmp_path):
    """In bf16 matrices are not in memory: they come from the file, whatever has its name now, if it is unchanged."""
    path = tmp_path / "model.safetensors"
    want = load_file(golden / "tiny" / "model.safetensors")
    shutil.copy(golden / "tiny" / "model.safetensors", path)
    shutil.copy(golden / "tiny" / "config.json", tmp_path)
    replaced = Model.load(path, precision="bf16")
    other = tmp_path / "other.safetensors"
    save_file({name: values + 1 for name, values in want.items()}, other)
    os.replace(other, path)
    assert all(np.array_equal(replaced.parameters[name], values) for name, values in want.items())
    assert not np.array_equal(Model.load(path).parameters["pos_embed"], want["pos_embed"])
    changed = Model.load(path, precision="bf16")
    with path.open("r+b") as file:
        file.truncate(10000)
    name = "final_layer.linear.weight"
    for wrong in (lambda: changed.parameters[name], lambda: changed.save(tmp_path / "saved")):
        with pytest.raises(errors.InputOutputError, match="model.safetensors has been written to since it was opened"):
            wrong()
    assert changed.parameters.shape(name) == want[name].shape and changed.parameters.stored(name) == "float32"
    assert np.isfinite(changed.logits([5, 6], 0.5)).all()


def test_raw_weights_and_overrides(golden):
    raw = torch.load(golden / "tiny" / "final.pt")["raw"]
    model = Model.load(golden / "tiny" / "final.pt", weights="raw", schedule="linear")
    assert all(np.array_equal(model.parameters[name], tensor.numpy()) for name, tensor in raw.items())
    assert model.config.schedule == "linear" and Model.load(golden / "tiny").config.schedule == "cosine"
    assert Model.load(golden / "tiny", precision="bf16").precision == "bf16"
    with_tokenizer = Model.load(golden / "tiny", tokenizer=None)
    assert with_tokenizer.tokenizer is None and with_tokenizer.lengths is None


def test_what_a_run_has(small_model):
    model = Model.load(small_model)
    assert model.tokenizer.vocab_size == 512 and model.config.end_token
    lengths = model.lengths
    assert lengths.shape == (65,) and 0 < lengths.sum() <= 400 and lengths.dtype == np.uint64


def test_the_mask_is_the_tokenizers(golden, tmp_path):
    """Of a model without tokenizer it is id 2; else where the tokenizer has it."""
    written = json.loads((golden / "tokenizer/stories_1024/tokenizer.json").read_text())
    vocab = written["model"]["vocab"]
    vocab["[MASK]"], vocab["<|endoftext|>"] = 3, 2
    for token in written["added_tokens"]:
        token["id"] = vocab[token["content"]]
    (tmp_path / "tokenizer.json").write_text(json.dumps(written))
    config = Config(vocab_size=1024, max_seq_len=16, hidden_size=16, depth=1, num_heads=2)
    Model.random(config).save(tmp_path / "model")
    assert Model.load(tmp_path / "model").mask_id == 2
    model = Model.load(tmp_path / "model", tokenizer=tmp_path)
    assert model.mask_id == 3
    assert (model.masks(2, 5) == 3).all() and not (model.sample(model.masks(2, 5)) == 3).any()


def test_inspected_it_has_no_weights(small_model):
    model, loaded = Model.inspect(small_model), Model.load(small_model)
    assert model.config == loaded.config and list(model.parameters) == list(loaded.parameters)
    assert all(model.parameters.shape(name) == values.shape for name, values in loaded.parameters.items())
    with pytest.raises(errors.ArgumentError, match="was read without its weights"):
        model.parameters["pos_embed"]
    for wrong in (
        lambda: model.parameters["blocks.0.attn.qkv.weight"],
        lambda: model.parameters["pos_embed"],
        lambda: model.logits([5, 6]),
        lambda: model.nelbo([5, 6]),
        lambda: model.evaluate(small_model / "data"),
        lambda: model.measure_speed(),
        lambda: model.save("/nonexistent/model"),
    ):
        with pytest.raises(errors.DiffusionLMError):
            wrong()


def test_random_models():
    config = Config(vocab_size=70, max_seq_len=64, hidden_size=32, depth=2, num_heads=2)
    a, b, c = (Model.random(config, seed=seed, precision="f32") for seed in (5, 5, 6))
    for name in a.parameters:
        assert np.array_equal(a.parameters[name], b.parameters[name])
    assert not np.array_equal(a.parameters["tok_embed.weight"], c.parameters["tok_embed.weight"])
    assert a.config == config and a.tokenizer is None and a.source == "memory"
    with pytest.raises(errors.ArgumentError, match="num_heads"):
        Model.random(Config(70, 64, 32, 2, 3))
    with pytest.raises(errors.ArgumentError):
        Model.random(Config(70, 64, 32, 2, -1))
    with pytest.raises(TypeError):
        Model.random(Config(70, 64, 32.5, 2, 2))


# ---- files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("numbers,dtype", [("f32", torch.float32), ("bf16", torch.bfloat16), ("f16", torch.float16)])
@pytest.mark.parametrize("folder", FOLDERS)
def test_saved_it_is_read_by_torch_and_safetensors(golden, tmp_path, folder, numbers, dtype):
    model = Model.load(golden / folder)
    want = {name: torch.tensor(values.copy()).to(dtype) for name, values in model.parameters.items()}
    for name in ("model.pt", "model.pth", "model.safetensors", "folder"):
        model.save(tmp_path / name, numbers=numbers)
    checkpoint = torch.load(tmp_path / "model.pt", weights_only=True)
    assert checkpoint["config"]["hidden_size"] == model.config.hidden_size
    for got in (checkpoint["model"], load_torch(tmp_path / "model.safetensors"),
                load_torch(tmp_path / "folder" / "model.safetensors")):  # fmt: skip
        assert set(got) == set(want)
        assert all(got[name].dtype == dtype and torch.equal(got[name], tensor) for name, tensor in want.items())
    for name in ("model.pt", "model.pth", "model.safetensors", "folder"):
        again = Model.load(tmp_path / name)
        assert again.config == model.config
        assert all(np.array_equal(again.parameters[n], tensor.float().numpy()) for n, tensor in want.items())


def test_what_torch_saves_is_read(golden, tmp_path):
    """A checkpoint of torch.save, a state dict alone, half precision, tensors that are views."""
    model = Model.load(golden / "tiny")
    tensors = {name: torch.tensor(values.copy()) for name, values in model.parameters.items()}
    config = {name: getattr(model.config, name) for name in
              ("vocab_size", "max_seq_len", "hidden_size", "depth", "num_heads", "mlp_ratio")}  # fmt: skip
    views = {name: torch.cat([tensor, tensor])[: len(tensor)] for name, tensor in tensors.items()}
    for name, saved in (
        ("plain", {"model": tensors, "config": config}),
        ("views", {"model": views, "raw": tensors, "config": config}),
        ("ordered", {"model": collections.OrderedDict(tensors), "config": config}),
    ):
        torch.save(saved, tmp_path / f"{name}.pt")
        again = Model.load(tmp_path / f"{name}.pt")
        assert all(np.array_equal(again.parameters[n], values) for n, values in model.parameters.items()), name
    torch.save(tensors, tmp_path / "alone.pt")
    with pytest.raises(errors.DiffusionLMError, match="heads"):
        Model.load(tmp_path / "alone.pt")
    alone = Model.load(tmp_path / "alone.pt", heads=model.config.num_heads)
    assert alone.config.depth == model.config.depth and alone.config.num_heads == model.config.num_heads
    torch.save({"model": {n: t.half() for n, t in tensors.items()}, "config": config}, tmp_path / "half.pt")
    half = Model.load(tmp_path / "half.pt")
    assert all(np.array_equal(half.parameters[n], t.half().float().numpy()) for n, t in tensors.items())

    class Evil:
        def __reduce__(self):
            return (sys.exit, (3,))

    torch.save({"model": tensors, "config": config, "evil": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(errors.Unsupported, match="exit"):
        Model.load(tmp_path / "evil.pt")


def test_a_model_trained_here_runs_in_pytorch(small_model, shared, stories, tmp_path, monkeypatch):
    """Trained through the package, saved as final.pt, loaded into the PyTorch reference: the same logits."""
    monkeypatch.syspath_prepend(str(shared / "reference"))
    reference = pytest.importorskip("torch_dit")
    for kind in ("default", "original"):
        run = tmp_path / kind
        train(small_model / "data", run, recipe=kind, hidden_size=48, depth=2, num_heads=4, seq_len=40, batch=8,
              steps=60, warmup=5, lr=0.01, ema=0.9, eval_every=0, sample_every=0, progress=False)  # fmt: skip
        model = Model.load(run, precision="f32")
        model.save(tmp_path / f"{kind}.pt")
        checkpoint = torch.load(tmp_path / f"{kind}.pt", weights_only=True)
        config = {**checkpoint["config"], "time": model.config.time, "position": model.config.position}
        theirs = reference.DiT(reference.Config(**config)).eval()
        theirs.load_state_dict(checkpoint["model"])
        ids = np.random.default_rng(1).integers(2, 512, (3, 29)).astype(np.int32)
        times = np.array([0.1, 0.5, 1.0], np.float32)
        with torch.no_grad():
            want = theirs(torch.tensor(ids).long(), torch.tensor(times)).numpy()
        np.testing.assert_allclose(model.logits(ids, times), want, atol=1e-4)
        assert np.abs(want).max() > 0.5


def test_convert(golden, tmp_path, run):
    source = golden / "tiny" / "final.pt"
    convert(source, tmp_path / "ours.pt", both=True)
    (tmp_path / "theirs").mkdir()
    run("convert", source, tmp_path / "theirs" / "ours.pt")  # the archive's folder is named after the file
    assert (tmp_path / "ours.pt").read_bytes() == (tmp_path / "theirs" / "ours.pt").read_bytes()
    convert(source, tmp_path / "raw.safetensors", weights="raw", numbers="bf16", schedule="linear")
    raw = torch.load(source)["raw"]
    got = load_torch(tmp_path / "raw.safetensors")
    assert all(torch.equal(got[name], tensor.bfloat16()) for name, tensor in raw.items())
    assert Model.inspect(tmp_path / "raw.safetensors").config.schedule == "linear"
    with pytest.raises(FileExistsError):
        convert(source, tmp_path / "ours.pt")
    convert(golden / "odd", tmp_path / "ours.pt", overwrite=True)
    assert Model.inspect(tmp_path / "ours.pt").config.vocab_size == 101


def test_nothing_is_overwritten_unasked(tiny, tmp_path):
    tiny.save(tmp_path / "model.pt")
    with pytest.raises(errors.AlreadyExists):
        tiny.save(tmp_path / "model.pt")
    tiny.save(tmp_path / "model.pt", overwrite=True, numbers="f16")
    with pytest.raises(errors.DiffusionLMError):
        tiny.save(tmp_path / "absent" / "folder" / "model.pt")
    inspected = Model.inspect(tmp_path / "model.pt")
    assert inspected.stored == inspected.parameters.stored("pos_embed") == "float16"


def test_int8(small_model, tmp_path, stories):
    """As the command has it; and nearly the same likelihood."""
    model, exact = Model.load(small_model, precision="int8"), Model.load(small_model, precision="f32")
    assert (model.precision, exact.precision) == ("int8", "f32")
    exact.save(tmp_path / "folder", numbers="int8")
    again = Model.load(tmp_path / "folder")
    assert again.precision == "int8"
    ids = model.tokenizer.encode(stories.read_text(encoding="utf-8"))[:32]
    ids[::2] = model.mask_id
    assert np.array_equal(again.logits(ids), model.logits(ids))
    assert 0 < np.abs(exact.logits(ids) - model.logits(ids)).max() < 0.5
    with pytest.raises(errors.Unsupported, match="int8|8 bits|8-bit"):
        exact.save(tmp_path / "m.pt", numbers="int8")


def test_values_too_large_for_f16(golden, tmp_path):
    weights = load_file(golden / "tiny" / "model.safetensors")
    weights["pos_embed"].flat[3] = 1e6
    save_file(weights, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((golden / "tiny" / "config.json").read_bytes())
    with pytest.raises(errors.DiffusionLMError, match="pos_embed"):
        Model.load(tmp_path).save(tmp_path / "out.pt", numbers="f16")
    assert not (tmp_path / "out.pt").exists()
    weights["pos_embed"].flat[3] = np.nan
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(errors.DiffusionLMError, match="pos_embed"):
        Model.load(tmp_path)


# ---- memory -------------------------------------------------------------------------------------------------------


def address(array):
    return array.__array_interface__["data"][0]


def test_parameters_are_the_models_memory(tiny):
    """The same addresses each time, of one block; what they show is read there by ctypes."""
    first, second = tiny.parameters["tok_embed.weight"], tiny.parameters["tok_embed.weight"]
    assert address(first) == address(second) and np.shares_memory(first, second)
    assert not first.flags.writeable and not first.flags.owndata
    seen = (ctypes.c_float * first.size).from_address(address(first))
    assert np.array_equal(np.frombuffer(seen, np.float32), first.reshape(-1))
    with pytest.raises(ValueError, match="read-only"):
        first[0, 0] = 1
    with pytest.raises(ValueError):
        first.flags.writeable = True
    spans = sorted((address(values), values.nbytes) for values in tiny.parameters.values())
    assert all(a + n <= b for (a, n), (b, _) in zip(spans, spans[1:]))


def test_views_keep_the_model_alive(golden):
    model = Model.load(golden / "tiny", precision="f32")
    view = model.parameters["tok_embed.weight"]
    before = view.copy()
    gone = weakref.ref(model)
    part = view[3:5].T
    del model, view
    for _ in range(4):
        gc.collect()
        junk = [Model.load(golden / "odd") for _ in range(3)]
        assert np.array_equal(part, before[3:5].T)
    assert gone() is not None
    del part, junk
    gc.collect()
    assert gone() is None


def test_the_model_outlives_its_views(tiny):
    names = list(tiny.parameters)
    for name in names:
        del_me = tiny.parameters[name]
        del del_me
    gc.collect()
    assert np.isfinite(tiny.logits(np.full((2, 9), 5), 0.5)).all()


def test_logits_are_written_where_they_are_wanted(tiny):
    ids = np.random.default_rng(3).integers(3, 67, (4, 11)).astype(np.int32)
    times = np.full(4, 0.5)
    want = tiny.logits(ids, times)
    assert want.shape == (4, 11, 67) and want.dtype == np.float32
    room = np.full((5, 44, 67), 7, np.float32)
    got = tiny.logits(ids, times, out=room[2])
    assert address(got) == address(room[2]) and np.array_equal(got, want)
    assert (room[[0, 1, 3, 4]] == 7).all()
    flat = np.empty(44 * 67, np.float32)
    assert np.array_equal(tiny.logits(ids, times, out=flat).reshape(-1), flat)
    one = tiny.logits(ids[0], 0.5)
    assert one.shape == (11, 67)
    np.testing.assert_allclose(one, want[0], atol=1e-5)
    parts = tiny.logits([ids[0, :5], ids[1].tolist(), ids[2, :1]], [0.5, 0.5, 0.5])
    assert [part.shape for part in parts] == [(5, 67), (11, 67), (1, 67)]
    np.testing.assert_allclose(parts[1], want[1], atol=1e-5)
    # a torch tensor of ids, and one as the place for logits
    place = torch.empty(4, 11, 67)
    assert np.array_equal(tiny.logits(torch.tensor(ids), torch.tensor(times), out=place.numpy()), want)
    assert np.array_equal(place.numpy(), want)
    read_only = np.empty((44, 67), np.float32)
    read_only.flags.writeable = False
    for wrong in (
        read_only,
        np.empty((44, 66), np.float32),
        np.empty((44, 67)),
        np.empty((44, 134), np.float32)[:, ::2],
        np.empty((67, 44), np.float32).T,
    ):
        with pytest.raises(errors.ArgumentError, match="out"):
            tiny.logits(ids, times, out=wrong)


# ---- hostile arguments ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "dtype", [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64, ">i4"]
)
def test_ids_of_any_whole_type(tiny, dtype):
    ids = np.array([[3, 2, 60, 5], [9, 2, 2, 66]])
    want = tiny.logits(ids, 0.5)
    assert np.array_equal(tiny.logits(ids.astype(dtype), 0.5), want)
    assert np.array_equal(tiny.logits(np.asfortranarray(ids.astype(dtype)), 0.5), want)
    wide = np.zeros((2, 8), dtype)
    wide[:, ::2] = ids
    assert np.array_equal(tiny.logits(wide[:, ::2], 0.5), want)
    assert np.array_equal(tiny.logits(wide[::-1, ::2][::-1], 0.5), want)
    assert np.array_equal(tiny.logits(ids.tolist(), 0.5), want)


def test_ids_that_are_none(tiny):
    for wrong, error in (
        (np.array([[1.0, 2.0]]), TypeError),
        ([[1.0, 2.0]], TypeError),
        ([[1, 2.5]], TypeError),
        (np.array([[True, False]]), TypeError),
        ([["a", "b"]], TypeError),
        ("text", TypeError),
        (np.array([[1 + 2j]]), TypeError),
        (np.array([[2**40, 1]]), errors.ArgumentError),
        (np.array([[2**64 - 1]], np.uint64), errors.ArgumentError),
        ([[2**31]], errors.ArgumentError),
        ([[67]], errors.ArgumentError),
        ([[-1]], errors.ArgumentError),
        (np.zeros((2, 2, 2), int), errors.ArgumentError),
        ([[[1]], [[2]]], errors.ArgumentError),
        ([np.zeros((2, 2), int)], errors.ArgumentError),
        (np.array(5), errors.ArgumentError),
        (np.zeros((1, 25), int), errors.ArgumentError),  # one more than the model takes
        (np.zeros((2, 0), int), errors.ArgumentError),
        ([[1, 2], []], errors.ArgumentError),
        (None, TypeError),
        (5, TypeError),
        ({"ids": 1}, (TypeError, KeyError)),
    ):
        with pytest.raises(error):
            tiny.logits(wrong, 0.5)
    for wrong in ([0.5, 0.5], [[0.5]], 1.5, -0.1, np.nan):
        with pytest.raises((ValueError, errors.ArgumentError)):
            tiny.logits([[3, 4], [5, 6], [7, 8]], wrong)
    with pytest.raises(errors.ArgumentError, match="times"):
        tiny.logits([[3, 4]])


def test_nothing_of_nothing(tiny):
    assert tiny.logits(np.empty((0, 7), np.int32), 0.5).shape == (0, 7, 67)
    assert tiny.logits([], 0.5) == [] or tiny.logits([], 0.5).size == 0


def test_paths_that_are_none(golden, tiny, tmp_path):
    (tmp_path / "bad.pt").write_bytes(b"no archive")
    (tmp_path / "bad.safetensors").write_bytes(b"\xff" * 40)
    for wrong, error in (
        (lambda: Model.load(tmp_path / "absent" / "folder"), errors.DiffusionLMError),
        (lambda: Model.load("a\0b"), errors.ArgumentError),
        (lambda: Model.load(str(golden / "tiny") + "\0"), errors.ArgumentError),
        (lambda: Model.load(7), TypeError),
        (lambda: Model.load(None), TypeError),
        (lambda: Model.load(tmp_path), errors.DiffusionLMError),
        (lambda: Model.load(tmp_path / "bad.pt"), errors.FormatError),
        (lambda: Model.load(tmp_path / "bad.safetensors"), errors.FormatError),
        (lambda: Model.load(golden / "tiny", weights="mean"), errors.ArgumentError),
        (lambda: Model.load(golden / "tiny", weights=1), errors.ArgumentError),
        (lambda: Model.load(golden / "tiny", heads=-1), errors.ArgumentError),
        (lambda: Model.load(golden / "tiny", heads=2**70), errors.ArgumentError),
        (lambda: Model.load(golden / "tiny", tokenizer=tmp_path / "absent"), errors.NotFound),
        (lambda: Model.load(golden / "tiny", weight="raw"), TypeError),
        (lambda: tiny.save("a\0b.pt"), errors.ArgumentError),
        (lambda: tiny.save(tmp_path / "a.pt", numbers="f8"), errors.ArgumentError),
        (lambda: tiny.parameters["absent"], KeyError),
        (lambda: tiny.parameters[3], KeyError),
        (lambda: tiny.parameters.shape(None), KeyError),
    ):
        with pytest.raises(error):
            wrong()
    assert "absent" not in tiny.parameters and 3 not in tiny.parameters and "pos_embed" in tiny.parameters
    name = tmp_path / "\udcff\n model"
    tiny.save(name)
    assert Model.load(name).config == Model.load(str(name)).config == tiny.config


def test_many_threads_use_one_model(tiny):
    ids = np.random.default_rng(5).integers(3, 67, (3, 20)).astype(np.int32)
    want, wrong = tiny.logits(ids, 0.4), []

    def work():
        for _ in range(20):
            if not np.array_equal(tiny.logits(ids, 0.4), want) or tiny.nelbo(ids, draws=2).nats.shape != (3,):
                wrong.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong

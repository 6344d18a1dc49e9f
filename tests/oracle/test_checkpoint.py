"""Checkpoints held against PyTorch, both ways: what torch.save writes is read, whatever its form, and what is written is
what torch.load (weights_only) and the safetensors library read; a model trained here runs in the PyTorch reference."""

import collections
import io
import json
import os
import pickle
import subprocess
import sys
import time
import zipfile

import pytest
import torch
from safetensors.torch import load_file

from test_model import SHAPES, library, lively, logits_of, reference  # noqa: F401

FORMS = ["final", "model_only", "bf16"]


def golden_files(golden, shared):
    """Every checkpoint among the fixtures, those that are only in SHARED too."""
    paths = {p.relative_to(d): p for d in (shared / "golden", golden) for p in d.glob("*/*.pt")}
    assert len(paths) >= 5
    return sorted(paths.values())


def load(path):
    return torch.load(path, weights_only=True)


def same(a, b):
    """Two state dicts: names in their order, types, shapes, strides, values."""
    assert type(a) is type(b) and list(a) == list(b)
    for name in a:
        assert a[name].dtype == b[name].dtype and a[name].stride() == b[name].stride(), name
        assert torch.equal(a[name], b[name]), name


# ---- what PyTorch wrote, and what it reads of ours -------------------------------------------------------------------


def test_golden_files_both_ways(run, golden, shared, tmp_path):
    for path in golden_files(golden, shared):
        theirs = load(path)
        out = tmp_path / f"{path.parent.name}-{path.name}"
        precision = "bf16" if path.stem == "bf16" else "f32"
        said = run("convert", path, out, "--precision", precision).stderr.decode()
        ours = load(out)
        assert set(ours) == set(theirs) | {"diffusionlm"}
        for key in ("model", "raw"):
            if key in theirs:
                want = theirs[key] if path.stem != "bf16" else collections.OrderedDict(theirs[key])
                same(ours[key], want)
        assert ours["config"] == theirs["config"] and type(ours["config"]) is dict
        assert [type(v) for v in ours["config"].values()] == [int] * 5 + [float]
        kind = theirs.get("diffusionlm", {"time": "adaln", "position": "learned"})
        assert {k: ours["diffusionlm"][k] for k in kind} == kind
        assert ("cannot run this model" in said) == (kind != {"time": "adaln", "position": "learned"})
        with zipfile.ZipFile(out) as archive:
            assert archive.testzip() is None
            assert all(e.compress_type == zipfile.ZIP_STORED for e in archive.infolist())
        mapped = torch.load(out, weights_only=True, mmap=True)
        assert all(t.data_ptr() % 64 == 0 for t in mapped["model"].values())


def test_int8(run, golden, tmp_path):
    """The safetensors library reads matrices of tokens in 8 bits, within half a step of the values, each row reaching 127."""
    want = load(golden / "tiny/final.pt")["model"]
    run("convert", golden / "tiny/final.pt", tmp_path / "out.safetensors", "--precision", "int8")
    got = load_file(tmp_path / "out.safetensors")
    tokens = [k for k in want if k.endswith(("qkv.weight", "proj.weight", "fc1.weight", "fc2.weight", "final_layer.linear.weight"))]
    assert got.keys() == want.keys() | {f"{k}.scale" for k in tokens} and len(tokens) > 4
    for name, value in want.items():
        if name not in tokens:
            assert torch.equal(got[name], value)
            continue
        q, scale = got[name], got[f"{name}.scale"]
        assert q.dtype == torch.int8 and scale.dtype == torch.float32 and scale.shape == (len(value),)
        assert torch.equal(scale, value.abs().amax(1) / 127)
        assert (q.abs().amax(1) == 127).all() and q.min() >= -127
        assert ((q * scale[:, None] - value).abs() <= scale[:, None] * 0.5001).all()


@pytest.mark.parametrize("precision,dtype", [("f32", torch.float32), ("bf16", torch.bfloat16), ("f16", torch.float16)])
def test_precisions(run, golden, tmp_path, precision, dtype):
    """In each format the values are those that PyTorch rounds to."""
    want = {k: v.to(dtype) for k, v in load(golden / "tiny/final.pt")["model"].items()}
    for name in ("out.pt", "out.safetensors", "folder"):
        run("convert", golden / "tiny/final.pt", tmp_path / name, "--precision", precision)
    same(load(tmp_path / "out.pt")["model"], collections.OrderedDict(want))
    for path in (tmp_path / "out.safetensors", tmp_path / "folder/model.safetensors"):
        got = load_file(path)
        assert got.keys() == want.keys()
        assert all(got[k].dtype == dtype and torch.equal(got[k], want[k]) for k in want)


def test_rounding_of_many_values(run, golden, tmp_path):
    """Values of every size, ties and the smallest ones among them."""
    checkpoint = load(golden / "tiny/model_only.pt")
    torch.manual_seed(3)
    for tensor in checkpoint["model"].values():
        bits = torch.randint(-(2**31), 2**31, tensor.shape).to(torch.int32)
        values = bits.view(torch.float32)
        values = torch.where(values.abs() < 6e4, values, torch.full_like(values, 1.5))
        half = (torch.randint(0, 0x7B00, tensor.shape) + torch.randint(0, 2, tensor.shape) / 2)
        ties = (half.floor().to(torch.int16).view(torch.float16).float() +
                (half.floor().to(torch.int16) + 1).view(torch.float16).float()) / 2
        tensor.copy_(torch.where(torch.rand(tensor.shape) < 0.5, values.nan_to_num(1.0), ties))
    torch.save(checkpoint, tmp_path / "in.pt")
    for precision, dtype in (("f16", torch.float16), ("bf16", torch.bfloat16)):
        run("convert", tmp_path / "in.pt", tmp_path / f"{precision}.pt", "--precision", precision)
        got = load(tmp_path / f"{precision}.pt")["model"]
        for name, tensor in checkpoint["model"].items():
            assert torch.equal(got[name], tensor.to(dtype)), name


# ---- other forms of file ---------------------------------------------------------------------------------------------


def repacked(data, change=lambda name, content: content, **how):
    """The same archive by Python's zipfile."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as theirs, zipfile.ZipFile(out, "w", **how) as ours:
        for name in theirs.namelist():
            ours.writestr(name, change(name, theirs.read(name)))
    return out.getvalue()


def zip64(data):
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as theirs, zipfile.ZipFile(out, "w") as ours:
        for name in theirs.namelist():
            with ours.open(zipfile.ZipInfo(name), "w", force_zip64=True) as entry:
                entry.write(theirs.read(name))
    return out.getvalue()


def big_endian(data, size):
    def swap(name, content):
        if "/data/" in name:
            return b"".join(content[i : i + size][::-1] for i in range(0, len(content), size))
        return b"big" if name.endswith("/byteorder") else content

    return repacked(data, swap)


def saved(checkpoint, **how):
    out = io.BytesIO()
    torch.save(checkpoint, out, **how)
    return out.getvalue()


def without_checksums(checkpoint):
    torch.serialization.set_crc32_options(False)
    try:
        return saved(checkpoint)
    finally:
        torch.serialization.set_crc32_options(True)


def with_tensors(checkpoint, change):
    return {**checkpoint, "model": {k: change(k, v) for k, v in checkpoint["model"].items()}}


def one_storage(checkpoint):
    """All tensors as views of one storage, every second one transposed in it."""
    model, flat, at = checkpoint["model"], torch.cat([v.flatten() for v in checkpoint["model"].values()]), 3
    flat = torch.cat([torch.zeros(3), flat])
    views = {}
    for i, (name, tensor) in enumerate(model.items()):
        part = flat[at : at + tensor.numel()]
        if i % 2 and tensor.ndim == 2:
            view = part.view(tensor.shape[1], tensor.shape[0]).t()
            view.copy_(tensor)
        else:
            view = part.view(tensor.shape)
        views[name] = view
        at += tensor.numel()
    return {**checkpoint, "model": views}


def with_metadata(checkpoint):
    model = collections.OrderedDict(checkpoint["model"])
    model._metadata = collections.OrderedDict({"": {"version": 1}, "blocks": {"version": 2, "note": None}})
    return {**checkpoint, "model": model}


ODD = {
    "deflated": lambda c: repacked(saved(c), compression=zipfile.ZIP_DEFLATED),
    "stored by another": lambda c: repacked(saved(c)),
    "zip64": lambda c: zip64(saved(c)),
    "big-endian": lambda c: big_endian(saved(c), 4),
    **{
        f"big-endian, {name}": lambda c, name=name, size=size: big_endian(
            saved(with_tensors(c, lambda k, v: v.to(getattr(torch, name)))), size
        )
        for name, size in (("float16", 2), ("bfloat16", 2), ("float64", 8))
    },
    "float16": lambda c: saved(with_tensors(c, lambda k, v: v.half())),
    "float64": lambda c: saved(with_tensors(c, lambda k, v: v.double())),
    "bfloat16": lambda c: saved(with_tensors(c, lambda k, v: v.bfloat16())),
    "mixed": lambda c: saved(with_tensors(c, lambda k, v: v.half() if "mlp" in k else v)),
    "parameters": lambda c: saved(with_tensors(c, lambda k, v: torch.nn.Parameter(v))),
    "one storage": lambda c: saved(one_storage(c)),
    "part of a storage": lambda c: saved(
        with_tensors(c, lambda k, v: torch.cat([torch.ones_like(v)[:1], v, v[:1]])[1:-1])
    ),
    "transposed": lambda c: saved(with_tensors(c, lambda k, v: v.t().contiguous().t() if v.ndim == 2 else v)),
    "expanded": lambda c: saved(with_tensors(c, lambda k, v: torch.tensor(0.25).expand(v.shape) if v.ndim == 1 else v)),
    "metadata": lambda c: saved(with_metadata(c)),
    "no checksums": without_checksums,
    "only raw": lambda c: saved({"raw": c["model"], "config": c["config"]}),
    **{f"protocol {p}": lambda c, p=p: saved(with_metadata(c), pickle_protocol=p) for p in (3, 4, 5)},
}


def reference_model(reference, checkpoint, which="model"):
    ours = checkpoint.get("diffusionlm", {})
    config = reference.Config(**checkpoint["config"], **{k: ours[k] for k in ("time", "position") if k in ours})
    model = reference.DiT(config).eval()
    model.load_state_dict({k: v.float() for k, v in checkpoint[which].items()})
    return model


def batch(model):
    """ids, lengths, times, and what the reference says."""
    torch.manual_seed(1)
    lengths = [model.config.max_seq_len, 3]
    ids = [torch.randint(0, model.config.vocab_size, (n,)) for n in lengths]
    times = torch.rand(len(lengths))
    with torch.no_grad():
        want = torch.cat([model(x[None], t[None])[0] for x, t in zip(ids, times)])
    return torch.cat(ids), lengths, times, want


def assert_logits(library, path, model, **how):
    ids, lengths, times, want = batch(model)
    got = logits_of(library, path, ids, lengths, times, model.config.vocab_size, **how)
    assert (got - want).abs().max() < 2e-5 * max(1, want.abs().max().item())


@pytest.mark.parametrize("form", ODD)
def test_other_forms(library, reference, golden, run, tmp_path, form):
    """Read as PyTorch reads it: the same values, and the same logits."""
    checkpoint = load(golden / "tiny/model_only.pt")
    path = tmp_path / "odd.pt"
    path.write_bytes(ODD[form](checkpoint))
    if form.startswith("big-endian"):  # which this PyTorch does not swap on this machine
        dtype = getattr(torch, form.partition(", ")[2] or "float32")
        expected = with_tensors(checkpoint, lambda k, v: v.to(dtype))
    else:
        expected = torch.load(path, weights_only=form not in ("protocol 4", "protocol 5"))
    which = "raw" if form == "only raw" else "model"
    assert_logits(library, path, reference_model(reference, expected, which))
    run("convert", path, tmp_path / "out.pt")
    again = load(tmp_path / "out.pt")["model"]
    for name, tensor in expected[which].items():
        assert torch.equal(again[name], tensor.float()), name
    told = json.loads(run("info", path, "--json").stdout)
    types = {k: str(v.dtype).removeprefix("torch.") for k, v in expected[which].items()}
    assert {t["name"]: t["stored"] for t in told["tensors"]} == types
    assert told["stored"] == (types["pos_embed"] if len(set(types.values())) == 1 else "mixed")


def test_state_dicts_without_config(library, reference, golden, run, tmp_path):
    checkpoint = load(golden / "tiny/model_only.pt")
    model = reference_model(reference, checkpoint)
    torch.save(model.state_dict(), tmp_path / "bare.pt")
    torch.save({"model": model.state_dict()}, tmp_path / "model.pt")
    for name in ("bare.pt", "model.pt"):
        for command in (["generate", "-m", tmp_path / name], ["convert", tmp_path / name, tmp_path / "x.pt"]):
            assert b"number of heads, which has to be given (option heads)" in run(*command, status=1).stderr
        told = json.loads(run("info", tmp_path / name, "--json").stdout)
        assert told == {**json.loads(run("info", tmp_path / name, "--json", "--heads", 4).stdout), "num_heads": None}
        assert b"heads not told (--heads)" in run("info", tmp_path / name).stdout
        assert_logits(library, tmp_path / name, model, heads=checkpoint["config"]["num_heads"])
    (tmp_path / "config.json").write_text(json.dumps(checkpoint["config"]))
    assert_logits(library, tmp_path / "bare.pt", model)


def test_training_goes_on_from_a_state_dict(library, run, reference, golden, tmp_path):  # noqa: F811
    """A bare one too: the heads are those of the model that is trained. Without a step it stays as it is."""
    run("prepare", "-", "-t", golden / "tokenizer/stories_1024", "-o", tmp_path / "data", input=b"The cat saw birds.")
    config = reference.Config(vocab_size=1024, max_seq_len=16, hidden_size=32, depth=1, num_heads=4, mlp_ratio=4.0)
    torch.manual_seed(5)
    model = reference.DiT(config).eval()
    torch.save(model.state_dict(), tmp_path / "bare.pt")
    command = ["train", "-d", tmp_path / "data", "--hidden", 32, "--depth", 1, "--seq-len", 16,
               "--time", "adaln", "--position", "learned", "--steps", 1, "--lr", 1e-30, "--weight-decay", 0, "--warmup", 0,
               "--eval-every", 0, "--sample-every", 0, "--init", tmp_path / "bare.pt"]  # fmt: skip
    run(*command, "--heads", 4, "-o", tmp_path / "run")
    assert_logits(library, tmp_path / "run", model, weights=1)
    command[-1] = golden / "tiny/final.pt"
    refused = run(*command, "--heads", 2, "-o", tmp_path / "other", status=1).stderr
    assert b"its config has 4 heads, not 2" in refused


# ---- beyond 4 GiB ----------------------------------------------------------------------------------------------------


def test_a_file_of_pytorch_beyond_four_gigabytes(reference, run, tmp_path):  # noqa: F811
    """As it is written without its values (skip_data), it is nearly all one hole; the sizes and places in it take more
    than 32 bits, and info needs no more. tests/unit/test_zip64.c reads and writes such files as a whole."""
    rows, small = (1 << 20) + 4096, 997
    model = reference.DiT(reference.Config(vocab_size=small, max_seq_len=4, hidden_size=1024, depth=1, num_heads=4))
    shapes = {k: torch.Size(rows if n == small else n for n in v.shape) for k, v in model.state_dict().items()}
    hole, path = tmp_path / "hole", tmp_path / "large.pt"
    with open(hole, "wb") as file:
        file.truncate(rows * 4096)

    def mapped(shape):
        size = 4 * shape.numel()
        storage = torch.UntypedStorage.from_file(str(hole), False, size)
        return torch.tensor([]).set_(storage, 0, shape)

    with torch.serialization.skip_data():
        torch.save({k: mapped(shape) for k, shape in shapes.items()}, path)
    if path.stat().st_blocks * 512 > 1 << 30:
        pytest.skip("this file system has no holes in files")
    with zipfile.ZipFile(path) as archive:
        assert max(e.file_size for e in archive.infolist()) > 1 << 32 < max(e.header_offset for e in archive.infolist())
    told = json.loads(run("info", path, "--json").stdout)
    assert {t["name"]: torch.Size(t["shape"]) for t in told["tensors"]} == shapes
    os.truncate(path, path.stat().st_size - 1)
    assert b"no zip archive, or a damaged one" in run("info", path, status=1).stderr


# ---- ours in PyTorch -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [("none", "both"), ("adaln", "learned")])
def test_a_model_trained_here(library, reference, golden, run, tmp_path, kind):
    """Its average and its raw weights, in the reference, give the logits that they give here."""
    (tmp_path / "text").write_text("\n<|endoftext|>\n".join(f"The cat number {i} saw {i * 7} birds." for i in range(99)))
    run("prepare", tmp_path / "text", "-t", golden / "tokenizer/stories_1024", "-o", tmp_path / "data")
    run("train", "-d", tmp_path / "data", "-o", tmp_path / "run", "--hidden", 32, "--depth", 2, "--heads", 2, "--seq-len",
        32, "--batch", 4, "--steps", 20, "--time", kind[0], "--position", kind[1], "--eval-every", 0,
        "--sample-every", 0)  # fmt: skip
    run("convert", tmp_path / "run", tmp_path / "final.pt")
    checkpoint = load(tmp_path / "final.pt")
    ours = checkpoint["diffusionlm"]
    assert (ours["time"], ours["position"]) == kind
    assert ours["recipe"] == "default" and ours["end_token"] is True and ours["padded"] is False
    assert len(ours["lengths"]) == 33 and sum(ours["lengths"]) > 90
    for which, weights in (("model", 0), ("raw", 1)):
        model = reference_model(reference, checkpoint, which)
        assert_logits(library, tmp_path / "final.pt", model, weights=weights)
        assert_logits(library, tmp_path / "run", model, weights=weights)
    assert not torch.equal(checkpoint["model"]["pos_embed"], checkpoint["raw"]["pos_embed"])
    config = json.loads(next((tmp_path / "run/checkpoints").glob("step-*/config.json")).read_text())
    assert config["diffusion"]["lengths"] == ours["lengths"]


@pytest.mark.parametrize("shape", SHAPES)
def test_other_shapes(library, reference, run, tmp_path, shape):
    config, model = lively(reference, shape)
    known, ours = reference.config_dict(config)
    torch.save({"model": model.state_dict(), "config": known, "diffusionlm": ours}, tmp_path / "in.pt")
    assert_logits(library, tmp_path / "in.pt", model)
    run("convert", tmp_path / "in.pt", tmp_path / "out.pt")
    assert_logits(library, tmp_path / "out.pt", model)
    same(load(tmp_path / "out.pt")["model"], model.state_dict())


# ---- what is refused -------------------------------------------------------------------------------------------------


class Executed:
    def __reduce__(self):
        return os.system, ("touch executed",)


def nan(checkpoint):
    checkpoint["model"]["pos_embed"][0, 1, 2] = float("nan")
    return checkpoint


def without(checkpoint, name):
    return {**checkpoint, "model": {k: v for k, v in checkpoint["model"].items() if k != name}}


def of_type(name):
    return lambda c: saved(with_tensors(c, lambda k, v: v.to(getattr(torch, name))))


def one_tensor(change):
    """tok_embed.weight, and nothing else, changed."""
    return lambda c: saved(with_tensors(c, lambda k, v: change(v) if k == "tok_embed.weight" else v))


def script(checkpoint):
    out = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), out)
    return out.getvalue()


def quantized(tensor):
    return torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8)


def with_attribute(tensor):
    parameter = torch.nn.Parameter(tensor)
    parameter.mine = 1
    return parameter


def value(number):
    def change(checkpoint):
        checkpoint["model"]["blocks.1.mlp.fc1.bias"][3] = number
        return saved(checkpoint)

    return change


def traversing(checkpoint):
    return repacked(saved(checkpoint), lambda name, content: content if "data.pkl" not in name else b"\x80\x02N.")


WRONG = {
    **{
        name: (of_type(name), "asks for torch." + storage)
        for name, storage in {
            "int8": "CharStorage",
            "uint8": "ByteStorage",
            "bool": "BoolStorage",
            "complex64": "ComplexFloatStorage",
            "uint16": "_utils._rebuild_tensor_v3",
            "float8_e4m3fn": "_utils._rebuild_tensor_v3",
        }.items()
    },
    "quantized": (one_tensor(quantized), "asks for torch._utils._rebuild_qtensor"),
    "sparse": (one_tensor(torch.Tensor.to_sparse), "asks for torch._utils._rebuild_sparse_tensor"),
    "sparse rows": (one_tensor(torch.Tensor.to_sparse_csr), "asks for torch._utils._rebuild_sparse_tensor"),
    "on no device": (one_tensor(lambda v: v.to("meta")), "asks for torch._utils._rebuild_meta_tensor_no_storage"),
    "with attributes": (one_tensor(with_attribute), "asks for torch._utils._rebuild_parameter_with_state"),
    "arrays": (one_tensor(torch.Tensor.numpy), "multiarray._reconstruct, which no state dict needs"),
    "a script": (script, "asks for __torch__.torch.nn.modules.linear.Linear"),
    "infinite": (value(float("inf")), "value 3 of tensor blocks.1.mlp.fc1.bias is inf"),
    "too large": (
        lambda c: saved(with_tensors(c, lambda k, v: v.double() * (1e300 if k == "pos_embed" else 1))),
        "of tensor pos_embed is inf as float32",
    ),
    "no pickle of it": (traversing, "neither a state dict nor a dict with one"),
    "text": (lambda c: b"<!DOCTYPE html>\n<html>", "no zip archive"),
    "executed": (lambda c: saved({**c, "hook": Executed()}), "asks for posix.system, which no state dict needs"),
    "a class": (lambda c: saved({**c, "hook": collections.Counter()}), "asks for collections.Counter"),
    "a whole module": (lambda c: saved(torch.nn.Linear(2, 2)), "asks for torch.nn.modules.linear.Linear"),
    "integers": (lambda c: saved(with_tensors(c, lambda k, v: v.long())), "asks for torch.LongStorage"),
    "missing": (lambda c: saved(without(c, "pos_embed")), "tensor pos_embed, which its config wants, is missing"),
    "extra": (lambda c: saved({**c, "model": {**c["model"], "x": torch.ones(1)}}), "tensor x is none of this config's"),
    "shape": (
        lambda c: saved(with_tensors(c, lambda k, v: v.t() if k == "tok_embed.weight" else v)),
        "tensor tok_embed.weight is (32, 67), config wants (67, 32)",
    ),
    "not a number": (lambda c: saved(nan(c)), "value 34 of tensor pos_embed is nan"),
    "unknown key": (lambda c: saved({**c, "config": {**c["config"], "dropout": 0.1}}), "unknown key dropout"),
    "no count": (lambda c: saved({**c, "config": {**c["config"], "depth": "3"}}), "depth is not a count"),
    "huge": (lambda c: saved({**c, "config": {**c["config"], "hidden_size": 2**40}}), "hidden_size is 1099511627776"),
    "a list": (lambda c: saved([1, 2]), "neither a state dict nor a dict with one"),
    "old format": (lambda c: saved(c, _use_new_zipfile_serialization=False), "PyTorch before 1.6"),
    "a pickle": (lambda c: pickle.dumps({"model": 1}), "no zip archive"),
    "cut off": (lambda c: saved(c)[:-100], "no zip archive, or a damaged one"),
    "another zip": (lambda c: repacked(saved(c), compression=zipfile.ZIP_BZIP2), "neither stored nor deflated"),
    "damaged": (lambda c: saved(c).replace(c["model"]["pos_embed"].numpy().tobytes()[:64], bytes(64)), "is damaged"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_refused(run, golden, tmp_path, what):
    make, says = WRONG[what]
    (tmp_path / "wrong.pt").write_bytes(make(load(golden / "tiny/model_only.pt")))
    done = run("convert", tmp_path / "wrong.pt", tmp_path / "out.pt", status=1, cwd=tmp_path)
    assert says in done.stderr.decode() and done.stderr.count(b"\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["wrong.pt"]


# ---- the published size ----------------------------------------------------------------------------------------------

MEASURE = """
import ctypes, os, sys, time
sys.path.insert(0, sys.argv[1])
from test_model import Error, ModelOptions
lib = ctypes.CDLL(os.path.join(os.environ["OUT"], "libdiffusionlm.so"))
lib.dlm_model_defaults.restype = ModelOptions
lib.dlm_model_free.argtypes = [ctypes.c_void_p]
error = Error()

def memory(field):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(field))

def load(path):
    options, model = lib.dlm_model_defaults(), ctypes.c_void_p()
    options.precision = 1
    assert lib.dlm_model_load(path, ctypes.byref(options), ctypes.byref(model), ctypes.byref(error)) == 0, error.message
    lib.dlm_model_free(model)

def read(path):
    data = open(path, "rb").read()

def seconds(work, path):
    start = time.perf_counter()
    work(path)
    return time.perf_counter() - start

path, out = map(os.fsencode, sys.argv[2:4])
before = memory("VmRSS")
assert lib.dlm_model_convert(path, out, None, ctypes.byref(error)) == 0, error.message
converting = memory("VmHWM") - before
load(path)
loading = memory("VmHWM") - before
times = [(seconds(read, path), seconds(load, path)) for _ in range(5)]
print(converting, loading, *map(min, zip(*times)))
"""


def test_the_published_size(reference, tmp_path):
    """142 million parameters twice: load time against reading the warm file into memory, in turns, each the best of five;
    memory at its peak, of loading and of convert."""
    torch.manual_seed(1)
    config = reference.Config()
    model = reference.DiT(config).state_dict()
    path, out = tmp_path / "final.pt", tmp_path / "out.pt"
    raw = {k: v + 1 for k, v in model.items()}
    torch.save({"model": model, "raw": raw, "config": reference.config_dict(config)[0]}, path)
    size = path.stat().st_size
    here = os.path.dirname(os.path.abspath(__file__))
    env = {**os.environ, "GOMP_SPINCOUNT": "1000"}  # as the command sets it (docs/decisions.md)
    done = subprocess.run([sys.executable, "-c", MEASURE, here, path, out], check=True, capture_output=True, text=True,
                          env=env)  # fmt: skip
    converting, loading, reading_s, loading_s = map(float, done.stdout.split())
    print(f"\nnote: {size / 1e6:.0f} MB read in {reading_s:.2f} s, loaded in {loading_s:.2f} s and {loading / 1e6:.0f} MB, "
          f"converted in {converting / 1e6:.0f} MB")  # fmt: skip
    assert loading < 1.3 * size
    assert converting < 0.2 * size
    assert loading_s < 1.5 * reading_s
    ours = torch.load(out, weights_only=True, mmap=True)
    same(ours["model"], model)
    same(ours["raw"], collections.OrderedDict(raw))

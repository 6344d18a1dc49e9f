"""Models held against PyTorch and safetensors: files written by either are read by the other, malformed ones are
refused by both, and models of other shapes than the fixtures' give PyTorch's logits."""

import ctypes
import json
import os
import pathlib
import random
import shlex
import struct
import subprocess
import sys

import pytest
import torch
from safetensors import SafetensorError, deserialize, safe_open
from safetensors.torch import load_file, save_file

HERE = pathlib.Path(__file__).resolve().parent


@pytest.fixture(scope="session")
def tool(tmp_path_factory):
    """safetensors_tool.c, built on the library as it was built for the tests."""
    out = os.environ["OUT"]
    path = tmp_path_factory.mktemp("tool") / "safetensors_tool"
    root = HERE.parent.parent
    subprocess.run(
        [
            *shlex.split(os.environ.get("CC", "cc")), "-std=c17", "-fopenmp", f"-I{root}/include", f"-I{root}/src",
            str(HERE / "safetensors_tool.c"), f"{out}/libdiffusionlm.a", *shlex.split(os.environ["LDLIBS"]),
            "-o", str(path),
        ],
        check=True,
    )  # fmt: skip
    return path


# ---- files -----------------------------------------------------------------------------------------------------------

TYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.uint8, torch.int32, torch.int64]


def test_files_of_each_are_read_by_the_other(tool, tmp_path):
    torch.manual_seed(1)
    tensors = {f"t.{i}": (torch.randn(3, i + 1, 5) * 50).to(t) for i, t in enumerate(TYPES)}
    tensors |= {"none": torch.zeros(0, 4), "one": torch.tensor(2.5), "é\n\"": torch.ones(2, 1, 1, 1, 1, 1, 1, 1)}
    metadata = {"config": json.dumps({"vocab_size": 67, "text": "é \" \\ \n"}), "note": "x\ty"}
    save_file(tensors, tmp_path / "theirs", metadata=metadata)
    subprocess.run([tool, "copy", tmp_path / "theirs", tmp_path / "ours"], check=True)
    again = load_file(tmp_path / "ours")
    assert set(again) == set(tensors)
    for name, tensor in tensors.items():
        assert again[name].dtype == tensor.dtype and torch.equal(again[name], tensor), name
    with safe_open(tmp_path / "ours", "pt") as file:
        assert file.metadata() == metadata


def packed(header, data=b""):
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + data


def tensor(dtype="U8", shape=(1,), offsets=(0, 1), **more):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets), **more}


FILES = [
    b"", b"1234567", struct.pack("<Q", 2**64 - 1) + b"{}", struct.pack("<Q", 3) + b"{}", packed({}), packed(b"{}   "),
    packed(b"[]"), packed(b"\xff\xfe"), packed(b"{} x"), packed(b""), packed({}, b"x"),
    packed({"a": tensor()}, b"x"), packed({"a": tensor()}, b""), packed({"a": tensor()}, b"xx"),
    packed({"a": tensor(offsets=(1, 2))}, b"xx"), packed({"a": tensor(offsets=(1, 0))}, b"x"),
    packed({"a": tensor(shape=(2,), offsets=(0, 2)), "b": tensor(shape=(2,), offsets=(1, 3))}, b"xxx"),
    packed({"a": tensor(shape=(2,), offsets=(2, 4)), "b": tensor(shape=(2,), offsets=(0, 2))}, b"xxxx"),
    packed({"a": tensor("F32")}, b"x"), packed({"a": tensor("F32", (1,), (0, 4))}, b"xxxx"),
    packed({"a": tensor("F64", (2**32, 2**32), (0, 8))}, b"x" * 8), packed({"a": tensor("F64", (2**61,), (0, 0))}),
    packed({"a": tensor(shape=(-1,))}, b"x"), packed({"a": tensor(shape=(1.5,))}, b"x"),
    packed({"a": tensor(shape=(2**64,))}, b"x"), packed({"a": tensor(shape=("1",))}, b"x"),
    packed({"a": tensor("F33")}, b"x"), packed({"a": tensor("F4", (2,))}, b"x"),
    packed({"a": tensor("F4", (3,), (0, 2))}, b"xx"), packed({"a": tensor("C64", (1,), (0, 8))}, b"x" * 8),
    packed({"a": tensor(more=1)}, b"x"), packed({"a": {"dtype": "U8", "shape": [1]}}, b"x"), packed({"a": []}),
    packed({"__metadata__": {"a": "b"}}), packed({"__metadata__": {"a": 1}}), packed({"__metadata__": []}),
    packed({"__metadata__": None}), packed({"a": tensor("F32", (0, 7), (0, 0)), "b": tensor()}, b"x"),
    packed({"a": tensor("F32", (0,), (1, 1)), "b": tensor()}, b"x"),
]  # fmt: skip


def accepted_by_library(data):
    try:
        deserialize(data)
        return True
    except SafetensorError:
        return False


def verdicts(tool, tmp_path, files):
    """Ours and theirs on each file: True where it is accepted."""
    paths = []
    for i, data in enumerate(files):
        paths.append(tmp_path / f"{i}.safetensors")
        paths[-1].write_bytes(data)
    said = subprocess.run([tool, "check", *paths], check=True, capture_output=True, text=True).stdout.splitlines()
    assert len(said) == len(files)
    return [(line == "ok", accepted_by_library(data), line, data) for line, data in zip(said, files)]


def test_the_same_files_are_refused(tool, tmp_path):
    for ours, theirs, said, data in verdicts(tool, tmp_path, FILES):
        assert ours == theirs, (said, data)


def test_only_ours_refuses_what_is_ambiguous(tool, tmp_path):
    """Duplicate names, which the format's description forbids; NUL in names; more than eight dimensions."""
    one = json.dumps(tensor()).encode()
    files = [
        packed(b'{"a":' + one + b',"a":' + one + b"}", b"x"),
        packed(b'{"a\\u0000b":' + one + b"}", b"x"),
        packed({"a": tensor(shape=[1] * 9)}, b"x"),
    ]
    for ours, theirs, said, data in verdicts(tool, tmp_path, files):
        assert theirs and not ours, (said, data)


def test_changed_files(tool, tmp_path):
    """Whatever a byte or two become: what the library refuses is refused."""
    rng = random.Random(1)
    whole = packed({"__metadata__": {"k": "v"}, "a": tensor("F32", (2, 2), (0, 16)), "b": tensor("I8", (3,), (16, 19))},
                   bytes(19))  # fmt: skip
    files = []
    for _ in range(2000):
        data = bytearray(whole)
        for _ in range(rng.randint(1, 2)):
            data[rng.randrange(len(data) - 19)] = rng.choice(b'0123456789",:[]{}abFI \x00\xff')
        files.append(bytes(data[: rng.randrange(len(data))] if rng.random() < 0.1 else data))
    refused = 0
    for ours, theirs, said, data in verdicts(tool, tmp_path, files):
        assert theirs or not ours, (said, data)
        refused += not ours
    assert 0 < refused < len(files)


# ---- models ----------------------------------------------------------------------------------------------------------


class Error(ctypes.Structure):
    _fields_ = [("status", ctypes.c_int), ("message", ctypes.c_char * 500)]


class ModelOptions(ctypes.Structure):
    _fields_ = [
        ("weights", ctypes.c_int),
        ("precision", ctypes.c_int),
        ("tokenizer", ctypes.c_char_p),
        ("schedule", ctypes.c_int),
        ("heads", ctypes.c_size_t),
    ]


F32, BF16 = 1, 2


@pytest.fixture(scope="session")
def library():
    lib = ctypes.CDLL(os.path.join(os.environ["OUT"], "libdiffusionlm.so"))
    lib.dlm_model_defaults.restype = ModelOptions
    lib.dlm_model_free.argtypes = [ctypes.c_void_p]
    lib.dlm_model_logits.argtypes = [ctypes.c_void_p] * 3 + [ctypes.c_size_t] + [ctypes.c_void_p] * 3
    return lib


def logits_of(library, path, ids, lengths, times, vocab_size, precision=F32, **how):
    """(T,V) of packed sequences."""
    options, model, error = library.dlm_model_defaults(), ctypes.c_void_p(), Error()
    options.precision = precision
    for field, value in how.items():
        setattr(options, field, value)
    status = library.dlm_model_load(os.fsencode(path), ctypes.byref(options), ctypes.byref(model), ctypes.byref(error))
    assert status == 0, error.message
    try:
        ids = ids.to(torch.int32).contiguous()
        lengths = torch.tensor(lengths, dtype=torch.int64)
        times = times.float().contiguous()
        out = torch.empty(len(ids), vocab_size)
        status = library.dlm_model_logits(model, ids.data_ptr(), lengths.data_ptr(), len(lengths), times.data_ptr(),
                                          out.data_ptr(), ctypes.byref(error))  # fmt: skip
        assert status == 0, error.message
        return out
    finally:
        library.dlm_model_free(model)


@pytest.fixture(scope="session")
def reference(shared):
    sys.path.insert(0, str(shared / "reference"))
    return pytest.importorskip("torch_dit")


SHAPES = [  # V, L, C, depth, heads, mlp ratio, time, position
    (300, 70, 64, 1, 1, 1.3, "none", "both"),
    (1001, 33, 90, 2, 3, 3.7, "adaln", "both"),
    (97, 130, 160, 2, 2, 2.0, "adaln", "learned"),
    (515, 300, 128, 3, 2, 4.0, "none", "learned"),
]


def lively(reference, shape, seed=1):
    """A model in which nothing is zero, of values such as training gives."""
    torch.manual_seed(seed)
    config = reference.Config(*shape)
    model = reference.DiT(config).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(std=0.7 / p.shape[-1] ** 0.5 if p.ndim == 2 else 0.2)
    return config, model


def case(reference, shape, folder, dtype=torch.float32):
    """Writes a model and returns its path, a packed batch, and what PyTorch says of it."""
    config, model = lively(reference, shape)
    weights = {k: v.to(dtype) for k, v in model.state_dict().items()}
    model.load_state_dict({k: v.float() for k, v in weights.items()})
    known, ours = reference.config_dict(config)
    path = folder / "model.safetensors"
    save_file(weights, path, metadata={"config": json.dumps({**known, **ours})})
    n = config.max_seq_len
    lengths = [n, 1, n // 2, n - 1]
    ids = [torch.randint(0, config.vocab_size, (k,)) for k in lengths]
    times = torch.rand(len(lengths))
    with torch.no_grad():
        want = torch.cat([model(x[None], t[None])[0] for x, t in zip(ids, times)])
    return path, torch.cat(ids), lengths, times, want


@pytest.mark.parametrize("shape", SHAPES)
def test_logits(library, reference, tmp_path, shape):
    path, ids, lengths, times, want = case(reference, shape, tmp_path)
    got = logits_of(library, path, ids, lengths, times, shape[0])
    assert want.abs().max() > 0.5
    assert (got - want).abs().max() < 2e-5 * max(1, want.abs().max().item())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_stored_types(library, reference, tmp_path, dtype):
    path, ids, lengths, times, want = case(reference, SHAPES[1], tmp_path, dtype)
    got = logits_of(library, path, ids, lengths, times, SHAPES[1][0])
    assert (got - want).abs().max() < 2e-5 * max(1, want.abs().max().item())


def test_bfloat16_products_as_autocast(library, reference, tmp_path):
    """PyTorch's autocast rounds the operands too (and more: what products give); each is as near to float32 as
    test_bf16.c derives, so neither is further from the other than both together."""
    path, ids, lengths, times, want = case(reference, SHAPES[2], tmp_path)
    got = logits_of(library, path, ids, lengths, times, SHAPES[2][0], BF16)
    limit = (1 / 256) * ((36 * SHAPES[2][3] + 8) / 3) ** 0.5
    assert 1 / 1024 < (got - want).norm() / want.norm() < limit

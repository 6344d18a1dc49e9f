"""Downloads: what we fetched is read by the real huggingface_hub, from a server that behaves as the Hub."""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys

import numpy as np
import pytest
from hub_server import Hub

from diffusionlm import Model, download, errors

LARGE = random.Random(1).randbytes(3_000_000)
FILES = {"config.json": b'{"a": 1}', "model.safetensors": LARGE, "deep/er/a file+1%.txt": b"inside folders"}
ID = "org/some-model.v1"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The server, and an environment in which it is the Hub, with a cache of its own."""
    for name in list(os.environ):
        if name.startswith(("HF_", "XDG_")) or name.upper().endswith("_PROXY"):
            monkeypatch.delenv(name)
    with Hub() as made:
        monkeypatch.setenv("HF_ENDPOINT", made.endpoint)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
        monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
        monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
        yield made


def theirs(call, *arguments, **variables):
    """What huggingface_hub returns, in a process of its own, offline."""
    code = (
        "import huggingface_hub as h, json, sys; name, a, o = json.loads(sys.argv[1]); print(getattr(h, name)(*a, **o))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps([call, *arguments])],
        env={**os.environ, "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("dataset", [False, True])
def test_what_we_fetched_is_theirs(hub, dataset):
    repo = hub.add(ID, FILES, ["model.safetensors"], "datasets" if dataset else "models")
    got = download(ID, dataset=dataset, progress=False)
    assert set(got.paths) == set(FILES) and got.commit == repo.find("main") and got.folder.name == got.commit
    for name, content in FILES.items():
        assert isinstance(got.paths[name], pathlib.Path) and got.paths[name].read_bytes() == content
        assert got.paths[name] == got.folder / name
        kind = {"repo_type": "dataset" if dataset else "model"}
        assert theirs("hf_hub_download", [ID, name], kind) == str(got.paths[name])
    assert theirs("snapshot_download", [ID], kind) == str(got.folder)


def test_some_files_of_a_revision(hub):
    repo = hub.add(ID, FILES, ["model.safetensors"])
    repo.commit({**FILES, "config.json": b"of a tag"}, ["model.safetensors"], "v2")
    hub.requests.clear()
    got = download(ID, "config.json", revision="v2", progress=False)
    assert list(got.paths) == ["config.json"] and got.paths["config.json"].read_bytes() == b"of a tag"
    assert got.commit == repo.find("v2") and not hub.asked("storage")
    assert download(ID + "@v2", ["config.json"], progress=False) == got
    assert download(ID, ["model.safetensors", "config.json"], progress=False).commit == repo.find("main")


def test_offline(hub, monkeypatch):
    hub.add(ID, FILES, ["model.safetensors"])
    first = download(ID, progress=False)
    hub.requests.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert download(ID, list(FILES), progress=False) == download(ID, list(FILES), progress=False)
    assert download(ID, list(FILES), progress=False).paths == first.paths and not hub.requests
    with pytest.raises(errors.DiffusionLMError):
        download("org/never-seen", progress=False)


def test_a_model_of_the_hub(hub, golden):
    names = ("config.json", "model.safetensors")
    hub.add(ID, {name: (golden / "tiny" / name).read_bytes() for name in names}, ["model.safetensors"])
    seen = []
    model = Model.load(ID, precision="f32", progress=lambda *told: seen.append(told))
    here = Model.load(golden / "tiny", precision="f32")
    assert all(np.array_equal(model.parameters[name], values) for name, values in here.parameters.items())
    assert model.source.startswith(str(pathlib.Path(os.environ["HF_HOME"]).resolve())) or "snapshots" in model.source
    assert {told[0] for told in seen} == {ID, *names}  # the list of files, then each


# ---- errors ----------------------------------------------------------------------------------------------------------


def test_errors_are_classes(hub, tmp_path, monkeypatch):
    hub.add(ID, FILES, ["model.safetensors"])
    hub.add("org/secret", FILES, ["model.safetensors"], token="hf_right", gated=True)
    for repo, files, error, builtin, says in (
        ("org/none", None, (errors.NotFound, errors.AccessDenied), (FileNotFoundError, PermissionError), "org/none"),
        (ID, "absent.txt", errors.NotFound, FileNotFoundError, "absent.txt"),
        (ID + "@no-such", None, errors.NotFound, FileNotFoundError, "no-such"),
        ("org/secret", None, errors.AccessDenied, PermissionError, "org/secret"),
        ("org/a/b", None, errors.DiffusionLMError, Exception, "org/a/b"),
        ("", None, errors.DiffusionLMError, Exception, "."),
        (ID, "../outside", errors.DiffusionLMError, Exception, "outside"),
    ):
        with pytest.raises(error, match=says) as caught:
            download(repo, files, progress=False)
        assert isinstance(caught.value, builtin)
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    assert set(download("org/secret", progress=False).paths) == set(FILES)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(errors.NetworkError) as caught:
        download("org/other", progress=False)
    assert isinstance(caught.value, ConnectionError)


def test_a_wrong_hash(hub):
    hub.add(ID, FILES, ["model.safetensors"])
    hub.damage = True
    with pytest.raises(errors.FormatError):
        download(ID, "model.safetensors", progress=False)


def test_arguments(hub):
    for wrong, error in (
        (lambda: download("a\0b"), errors.ArgumentError),
        (lambda: download(ID, ["a\0b"]), errors.ArgumentError),
        (lambda: download(ID, []), errors.ArgumentError),
        (lambda: download(ID, [3]), TypeError),
        (lambda: download(7), TypeError),
        (lambda: download(ID, progress="loud"), errors.ArgumentError),
    ):
        with pytest.raises(error):
            wrong()
    assert not hub.requests


# ---- progress, and stopping ------------------------------------------------------------------------------------------


def test_progress(hub, capfd):
    hub.add(ID, FILES, ["model.safetensors"])
    hub.slow = 0.02
    seen = []
    download(ID, progress=lambda *told: seen.append(told))
    large = [told for told in seen if told[0] == "model.safetensors"]
    assert len(large) >= 2 and all(total in (0, len(LARGE)) and 0 <= done <= len(LARGE) for _, done, total, _ in large)
    assert [told[1] for told in large] == sorted(told[1] for told in large)
    assert capfd.readouterr() == ("", "")
    download(ID, progress=True)  # nothing to transfer: only the Hub is asked
    assert capfd.readouterr().err == f"{ID}\n"


def test_stopped_and_gone_on_with(hub):
    hub.add(ID, FILES, ["model.safetensors"])
    hub.slow = 0.02
    with pytest.raises(errors.Cancelled):
        download(ID, "model.safetensors", progress=lambda name, done, total, seconds: done > 300_000)
    with pytest.raises(ZeroDivisionError):
        download(ID, "model.safetensors", progress=lambda name, done, total, seconds: done > 900_000 and 1 / 0)
    hub.slow = 0.0
    hub.requests.clear()
    got = download(ID, "model.safetensors", progress=False)
    assert got.paths["model.safetensors"].read_bytes() == LARGE
    ranges = [r.headers.get("Range") for r in hub.asked("storage", "GET")]
    assert len(ranges) == 1 and int(ranges[0].split("=")[1].rstrip("-")) > 300_000


def test_interrupts(hub):
    hub.add(ID, FILES, ["model.safetensors"])
    hub.slow = 0.2
    code = (
        "import diffusionlm, sys\n"
        "def told(name, done, total, seconds):\n"
        "    if done > 100000: print('begun', flush=True)\n"
        "try: diffusionlm.download(sys.argv[1], progress=told)\n"
        "except KeyboardInterrupt: print('interrupted')\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, ID], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.read().endswith("interrupted\n") and process.wait(30) == 0
    finally:
        process.kill()
    hub.slow = 0.0
    assert download(ID, progress=False).paths["model.safetensors"].read_bytes() == LARGE

"""A server that behaves as the Hub, and homes for ours and theirs: what the tests of the Hub share."""

import hashlib
import json
import os
import random
import subprocess
import sys

import pytest
from hub_server import Hub

LARGE = random.Random(1).randbytes(3_000_000)
ID = "org/some-model.v1"


@pytest.fixture
def hub():
    with Hub() as made:
        yield made


@pytest.fixture
def home(tmp_path):
    """Folders of an own home: what HF_HOME would be is at .cache/huggingface below it."""
    return tmp_path / "home"


def environment(home, hub=None, **more):
    kept = {k: v for k, v in os.environ.items() if not k.upper().endswith("_PROXY") and not k.startswith(("HF_", "XDG_"))}
    kept |= {"HOME": str(home), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1"}
    if hub is not None:
        kept["HF_ENDPOINT"] = hub.endpoint
    return kept | more


@pytest.fixture
def ours(run, home, hub):
    """ours("download", ...): the command, with the server as its Hub and an own home."""

    def ours(*arguments, at=home, status=0, to=hub, **variables):
        done = run(*arguments, status=status, env=environment(at, to, **variables), timeout=60)
        return done.stdout.decode().splitlines() if status == 0 else done.stderr.decode()

    return ours


@pytest.fixture
def theirs(home, hub):
    """theirs([("hf_hub_download", (ID, FILE), {"revision": ...}), ...]): calls of the Python library, in one process of
    their own; what each returned."""

    def theirs(calls, at=home, to=hub, **variables):
        code = (
            "import huggingface_hub as h, json, sys\n"
            "for call, arguments, options in json.loads(sys.argv[1]): print(getattr(h, call)(*arguments, **options))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, json.dumps(calls)],
            env=environment(at, to, **variables), capture_output=True, timeout=120, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    return theirs


def files_of(kind, name, wanted):
    return [("hf_hub_download", (name, f), {"revision": r, "repo_type": kind[:-1]}) for f, r in wanted]


def cache(home):
    return home / ".cache" / "huggingface" / "hub"


def tree(folder):
    """Each file below: its content, a link's target; a folder: None."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = ("link", os.readlink(path))
        elif path.is_dir():
            found[name] = None
        else:
            found[name] = ("file", b"" if name == "CACHEDIR.TAG" else path.read_bytes())
    return found


def no_final_names(home):
    """Nothing but incomplete files, and nothing that names one."""
    names = [p.name for p in cache(home).rglob("*") if p.is_file() and ".locks" not in p.parts]
    return all(n.endswith(".incomplete") or n == "CACHEDIR.TAG" for n in names)


def blob(home, content, repo="models--org--some-model.v1", end=""):
    return cache(home) / repo / "blobs" / (hashlib.sha256(content).hexdigest() + end)


FILES = {
    "config.json": b'{"a": 1}',
    "empty.txt": b"",
    "model.safetensors": LARGE,
    "deep/er/a file+1%.txt": b"inside folders",
    "deep/\u00e9.txt": b"not ASCII",
    "odd ?a=b&c#d+%2e%2e%2f.txt": b"what addresses have",
}


@pytest.fixture
def model(golden):
    return {p.name: p.read_bytes() for p in (golden / "tiny").iterdir() if p.name in MODEL_FILES}


MODEL_FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")

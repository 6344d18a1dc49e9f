"""What the tests of the package share. They run against the installed package, wherever pytest is started.

`make test-python` says by the environment which command (PROGRAM), which fixtures (GOLDEN) and which folder of shared
files (SHARED; may be absent) they are about; without PROGRAM it is the command inside the package.
"""

import json
import os
import pathlib
import subprocess
import sys

import pytest

import diffusionlm
from diffusionlm import Documents, Model

sys.dont_write_bytecode = True

root = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(root / "tests" / "oracle"))  # hub_server.py


def folder(variable):
    path = pathlib.Path(os.environ.get(variable, "/nonexistent"))
    return path if path.is_dir() else None


@pytest.fixture(scope="session")
def golden():
    """Folder of the fixtures."""
    path = folder("GOLDEN")
    if path is None:
        pytest.fail("GOLDEN does not name the folder of the fixtures: run `make test-python`")
    return path


@pytest.fixture(scope="session")
def shared():
    """Folder of what is shared but not in the repository; a test that needs it is skipped where it is absent."""
    path = folder("SHARED")
    if path is None:
        pytest.skip("no shared folder")
    return path


@pytest.fixture(scope="session")
def program():
    """Path of the command."""
    inside = pathlib.Path(diffusionlm.__file__).with_name("command")
    return os.environ.get("PROGRAM") or str(inside)


@pytest.fixture(scope="session")
def run(program):
    """run("tokenizer", "info", DIR, input=b""): runs the command, which has to succeed; its standard output, bytes."""

    def run(*arguments, input=b"", timeout=600):
        done = subprocess.run([program, *map(str, arguments)], input=input, capture_output=True, timeout=timeout)
        assert done.returncode == 0, f"{arguments}: {done.stderr.decode(errors='replace')}"
        return done.stdout

    return run


@pytest.fixture(scope="session")
def generated(run):
    """generated(MODEL, "--seed", 3, ...): what `generate --json` writes, one dict a text."""

    def generated(model, *arguments):
        return [json.loads(line) for line in run("generate", "-m", model, "--json", *arguments).splitlines()]

    return generated


@pytest.fixture(scope="session")
def stories(tmp_path_factory):
    """Path of a text file with 400 stories of the corpus."""
    path = tmp_path_factory.mktemp("stories") / "stories.txt"
    with Documents(root / "corpus" / "tinystories-valid.txt.zst") as documents:
        some = [story for story, _ in zip(documents, range(400))]
    path.write_text("\n<|endoftext|>\n".join(some) + "\n<|endoftext|>\n", encoding="utf-8")
    return path


def trained(run, stories, path, *options):
    run("train", stories, "-o", path, "--vocab-size", 512, "--hidden", 64, "--depth", 2, "--heads", 4,
        "--seq-len", 64, "--batch", 16, "--log-every", 0, "--eval-every", 0, "--sample-every", 0, *options)  # fmt: skip
    return path


@pytest.fixture(scope="session")
def small_model(run, stories, tmp_path_factory):
    """Path of a run folder: 64 channels, 2 blocks, sequences of 64 of 512 tokens, with end token and lengths, trained
    for 120 steps by the default recipe. RUN/tokenizer and RUN/data are what it was made of."""
    return trained(run, stories, tmp_path_factory.mktemp("small") / "run", "--steps", 120)


@pytest.fixture(scope="session")
def original_model(run, stories, tmp_path_factory):
    """The same with the original's model and recipe: time conditioned, padded, no end token."""
    path = tmp_path_factory.mktemp("original") / "run"
    options = ("--recipe", "original", "--time", "adaln", "--position", "learned")
    return trained(run, stories, path, "--steps", 40, *options)


@pytest.fixture(scope="session")
def model(small_model):
    """small_model, loaded, with products in float32."""
    return Model.load(small_model, precision="f32")


def pytest_unconfigure(config):
    """The last line, which scripts read."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None:
        return
    passed = len(reporter.stats.get("passed", []))
    failed = len(reporter.stats.get("failed", [])) + len(reporter.stats.get("error", []))
    print(f"{passed} passed, {failed} failed")

"""What the oracle tests share: where things are, and how to run the command.

`make test-oracles` says by the environment which command (PROGRAM), which fixtures (GOLDEN) and which folder of shared
files (SHARED; may be absent) they are about.
"""

import os
import pathlib
import subprocess
import sys

import pytest
from hub_support import home, hub, model, ours, theirs  # noqa: F401  fixtures

sys.dont_write_bytecode = True


def folder(variable):
    path = pathlib.Path(os.environ.get(variable, "/nonexistent"))
    return path if path.is_dir() else None


@pytest.fixture(scope="session")
def program():
    """Path of the built command."""
    path = os.environ.get("PROGRAM", "")
    if not os.path.isfile(path):
        pytest.fail("PROGRAM does not name the built command: run `make test-oracles`")
    return path


@pytest.fixture(scope="session")
def golden():
    """Folder of the fixtures."""
    path = folder("GOLDEN")
    if path is None:
        pytest.fail("GOLDEN does not name the folder of the fixtures: run `make test-oracles`")
    return path


@pytest.fixture(scope="session")
def shared():
    """Folder of what is shared but not in the repository; a test that needs it is skipped where it is absent."""
    path = folder("SHARED")
    if path is None:
        pytest.skip("no shared folder")
    return path


@pytest.fixture(scope="session")
def run(program):
    """run("tokenizer", "info", DIR, input=b"", status=0): runs the command, checks its exit status, returns what
    subprocess.run does, with stdout and stderr in bytes."""

    def run(*arguments, input=b"", status=0, timeout=600, **options):
        done = subprocess.run(
            [program, *map(str, arguments)], input=input, capture_output=True, timeout=timeout, **options
        )
        said = done.stderr.decode(errors="replace")
        assert done.returncode == status, f"{arguments}: exit status {done.returncode}, not {status}: {said}"
        return done

    return run


def pytest_unconfigure(config):
    """The last line, which scripts read."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None:
        return
    passed = len(reporter.stats.get("passed", []))
    failed = len(reporter.stats.get("failed", [])) + len(reporter.stats.get("error", []))
    print(f"{passed} passed, {failed} failed")

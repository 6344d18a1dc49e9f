"""Ranks, of which a package that was built without MPI knows one."""

import subprocess
import sys

import pytest
from test_training import QUIET, TINY, data, same_state, text  # noqa: F401

from diffusionlm import Ranks, Trainer, errors, train


def test_one_rank():
    with Ranks() as ranks:
        assert (ranks.rank, ranks.size) == (0, 1)
        assert ranks.threads >= 0
        assert ranks.max(-7) == -7
        with pytest.raises(errors.ArgumentError, match="2147483648 does not fit"):
            ranks.max(2**31)
    ranks.close()
    with pytest.raises(ValueError, match="closed"):
        _ = ranks.size


def test_a_run_with_one_rank_is_a_run(data, tmp_path):  # noqa: F811
    train(data, tmp_path / "alone", steps=6, **TINY, **QUIET)
    with Ranks() as ranks:
        seen = []
        train(data, tmp_path / "ranks", steps=6, ranks=ranks, callback=seen.append, **TINY, **QUIET)
        assert len(seen) == 6
        same_state(tmp_path / "alone", tmp_path / "ranks")
        stopped = train(data, tmp_path / "stopped", steps=6, ranks=ranks, callback=lambda _: True, **TINY, **QUIET)
        assert stopped.step == 1
        with Trainer(data, tmp_path / "stopped", resume=True, ranks=ranks) as trainer:
            assert [report.step for report in trainer] == [2, 3, 4, 5, 6]
    same_state(tmp_path / "alone", tmp_path / "stopped")


def test_one_of_several_without_mpi():
    """mpirun tells each process how many they are by its environment."""
    program = "import diffusionlm\ntry:\n    diffusionlm.Ranks()\nexcept diffusionlm.errors.Unsupported as e: print(e)"
    environment = {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0", "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "MPI" in done.stdout, done.stderr

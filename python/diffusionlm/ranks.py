"""Several processes that train one model together, over MPI (docs/distributed.md)."""

from __future__ import annotations

from typing import Any

from ._library import Owner, call, errors, ffi, lib


class Ranks(Owner):
    """The processes that train one model together, as mpirun started them: `mpirun -np 4 python program.py`.

        with Ranks() as ranks:
            train(data="data", run="run", steps=1000, ranks=ranks)

    A package that was built with MPI (`MPI=1 pip install ./python`) joins them; any other knows one rank, itself, and
    raises Unsupported where mpirun started several. Every rank makes the same calls in the same order, with the same
    options. Where one is gone the others' calls raise NetworkError, and should end soon. MPI cannot be begun again in a
    process that closed it.
    """

    def __init__(self) -> None:
        made = ffi.new("dlm_ranks **")
        call(lib.dlm_ranks_open, made)
        self._memory: Any = made[0]

    @property
    def _pointer(self) -> Any:
        if self._memory is None:
            raise ValueError("the ranks are closed")
        return self._memory

    @property
    def rank(self) -> int:
        """Which of them this process is, from 0. Rank 0 logs and saves."""
        return int(lib.dlm_ranks_rank(self._pointer))

    @property
    def size(self) -> int:
        """How many they are."""
        return int(lib.dlm_ranks_size(self._pointer))

    @property
    def threads(self) -> int:
        """Threads for this rank, as set_threads takes them: ranks on one machine share its processors."""
        return int(lib.dlm_ranks_threads(self._pointer))

    def max(self, value: int) -> int:
        """The largest of all ranks' values (of 32 bits), for each of them: so all learn what one knows."""
        if not -(2**31) <= value < 2**31:
            raise errors.ArgumentError(f"{value} does not fit 32 bits")
        shared = ffi.new("int *", value)
        call(lib.dlm_ranks_max, self._pointer, shared)
        return int(shared[0])

    def close(self) -> None:
        """Waits for the others to close too; also at the end of a with block."""
        if self._memory is not None:
            memory, self._memory = self._memory, None
            lib.dlm_ranks_close(memory)

    def __enter__(self) -> Ranks:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

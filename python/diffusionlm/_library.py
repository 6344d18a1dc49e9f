"""How the package calls the C library: statuses to exceptions, options to structs, arrays without copies, callbacks.

cffi lets go of the interpreter's lock for the length of every call and takes it back for a callback, so other threads
run on. Ctrl-C reaches Python only where Python runs: every call that can take long is given a callback, even when the
caller asked for none, and the exception that is raised there ends the call and comes out of it.
"""

from __future__ import annotations

import contextlib
import difflib
import operator
import os
import threading
from typing import Any, Callable, Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import errors as errors

Ids = NDArray[np.int32]

# How OpenMP's threads wait is read from the environment when its library is loaded. By default they spin for
# milliseconds, which makes everything slow where anything else runs.
_spin = "GOMP_SPINCOUNT"
_ours = not {_spin, "OMP_WAIT_POLICY"} & set(os.environ)
if _ours:
    os.environ[_spin] = "1000"
from ._native import ffi as ffi, lib as lib  # noqa: E402

if _ours:
    del os.environ[_spin]


# ---- statuses ----------------------------------------------------------------------------------------------


def call(function: Callable[..., int], *arguments: Any) -> None:
    """function(*arguments, err): raises what the status says."""
    err = ffi.new("dlm_error *")
    _of_this_thread.called = True
    raise_status(function(*arguments, err), err)


def raise_status(status: int, err: Any) -> None:
    if status == lib.DLM_OK:
        return
    message = text_of(err.message) or text_of(lib.dlm_status_text(status))
    name = ffi.typeof("dlm_status").elements.get(status, "")
    raise errors.by_status.get(name, errors.DiffusionLMError)(message)


def text_of(pointer: Any) -> str:
    """A C string, "" for NULL."""
    return "" if pointer == ffi.NULL else bytes(ffi.string(pointer)).decode("utf-8", "replace")


def take_text(pointer: Any, count: int) -> str:
    """Text of count bytes that the library allocated; frees it."""
    try:
        return bytes(ffi.buffer(pointer, count)).decode("utf-8")
    finally:
        lib.dlm_free(pointer)


def take_ids(pointer: Any, count: int) -> Ids:
    """A copy of count ids that the library allocated; frees them."""
    try:
        return np.frombuffer(ffi.buffer(pointer, 4 * count), np.int32).copy() if count else np.empty(0, np.int32)
    finally:
        lib.dlm_free(pointer)


def path_bytes(path: str | os.PathLike[str]) -> bytes:
    name = os.fsencode(path)
    if b"\0" in name:
        raise errors.ArgumentError(f"the path {path!r} has a NUL character in it")
    return name


def text_bytes(value: Any, what: str) -> bytes:
    """A text as UTF-8: that of a str, or bytes as they are."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    if not isinstance(value, str):
        raise TypeError(f"{what} is {value!r}, and it is a text")
    return value.encode("utf-8")


# ---- numbers -------------------------------------------------------------------------------------------------


def whole(value: Any, what: str) -> int:
    """A whole number, of whatever type; one that would have to be cut off is a TypeError."""
    try:
        return operator.index(value)
    except TypeError:
        pass
    try:
        if not isinstance(value, (str, bytes, bytearray)) and value == int(value):
            return int(value)
    except (TypeError, ValueError, OverflowError):
        pass
    raise TypeError(f"{what}: a whole number is wanted, not {value!r}")


def count(value: Any, what: str) -> int:
    """A number that C takes as size_t or uint64_t."""
    number = whole(value, what)
    if not 0 <= number < 2**64:
        raise errors.ArgumentError(f"{what} is {value}, and it is a whole number from 0 to 2^64 - 1")
    return number


# ---- enums ---------------------------------------------------------------------------------------------------


def names_of(enum: str) -> dict[str, int]:
    """The values of an enum by the names that Python has for them: those of C, without what all have in common, in
    lower case ("confidence" for DLM_ORDER_CONFIDENCE)."""
    found = ffi.typeof(enum).relements
    shared = os.path.commonprefix(list(found))
    shared = shared[: shared.rindex("_") + 1]
    return {name[len(shared) :].lower(): found[name] for name in sorted(found, key=found.__getitem__)}


def to_enum(enum: str, name: str, what: str) -> int:
    known = names_of(enum)
    if not isinstance(name, str) or name not in known:
        raise errors.ArgumentError(f"{what} is {name!r}, and it is one of {', '.join(known)}")
    return known[name]


def from_enum(enum: str, value: int) -> str:
    return next(name for name, known in names_of(enum).items() if known == value)


# ---- options -------------------------------------------------------------------------------------------------


class Options:
    """An options struct: the library's defaults, changed field by field by the keywords that are not None.

    Text and arrays that its pointers point to are kept as long as this is.
    """

    def __init__(self, struct: str, defaults: Any, values: dict[str, Any] | None = None) -> None:
        self.struct = ffi.new(f"{struct} *", defaults)
        self._kept: list[Any] = []
        for name, value in (values or {}).items():
            self.set(name, value)

    def set(self, name: str, value: Any, struct: Any = None) -> None:
        """Sets one field, unless value is None. Raises TypeError for an unknown one."""
        struct = self.struct if struct is None else struct
        kind = ffi.typeof(struct)
        fields = dict((kind.item if kind.kind == "pointer" else kind).fields)
        if name not in fields:
            near = difflib.get_close_matches(name, fields, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise TypeError(f"there is no option {name!r}{hint}")
        if value is None:
            return
        kind = fields[name].type
        try:
            if kind.kind == "enum":
                value = to_enum(kind.cname, value, name)
            elif kind.kind == "pointer" and kind.item.cname == "char":
                value = self.keep(ffi.new("char[]", path_bytes(value)))
            elif kind.kind == "primitive" and kind.cname not in ("double", "float", "_Bool"):
                value = whole(value, name)
            setattr(struct, name, value)
        except OverflowError:
            raise errors.ArgumentError(f"{name} is {value}, which is out of range") from None
        except TypeError as error:
            sentence = str(error)
            raise TypeError(sentence if sentence.startswith(f"{name}: ") else f"{name}: {sentence}") from None

    def keep(self, value: Any) -> Any:
        """Keeps value alive as long as the options, and returns it."""
        self._kept.append(value)
        return value

    def set_ids(self, name: str, count: str, values: ArrayLike | None, struct: Any = None) -> None:
        """A pointer to ids and how many they are."""
        struct = self.struct if struct is None else struct
        if values is None:
            return
        ids = as_ids(values, name)
        if ids.ndim != 1:
            raise errors.ArgumentError(f"{name} has {ids.ndim} dimensions, and it is a list of ids")
        setattr(struct, name, self.keep(pointer(ids)))
        self.keep(ids)
        setattr(struct, count, len(ids))

    def watch(self, watch: Watch, struct: Any = None) -> None:
        """Progress goes to watch."""
        struct = self.struct if struct is None else struct
        struct.progress = lib.dlm_python_progress
        struct.user = watch.handle


def structure(value: Any) -> dict[str, Any]:
    """The fields of a C struct: numbers and bools as Python's, enums as their names, arrays as tuples, structs in it
    likewise, C strings as str or None."""
    found: dict[str, Any] = {}
    for name, field in ffi.typeof(value).fields:
        item = getattr(value, name)
        kind = field.type
        if kind.kind == "struct":
            item = structure(item)
        elif kind.kind == "enum":
            item = from_enum(kind.cname, item)
        elif kind.kind == "array":
            item = tuple(item)
        elif kind.kind == "pointer" and kind.item.cname == "char":
            item = None if item == ffi.NULL else text_of(item)
        found[name] = item
    return found


# ---- arrays --------------------------------------------------------------------------------------------------

_ctypes = {
    "int32": "int32_t *",
    "float32": "float *",
    "float64": "double *",
    "uint8": "uint8_t *",
    "uint32": "uint32_t *",
}


def pointer(array: NDArray[Any] | None) -> Any:
    """The memory of a contiguous array, which must outlive its use; NULL for None."""
    if array is None:
        return ffi.NULL
    if not array.flags.c_contiguous:
        raise ValueError("the array is not contiguous")
    kind = "size_t *" if array.dtype == np.uintp else _ctypes[array.dtype.name]
    return ffi.cast(kind, array.ctypes.data)


def as_ids(values: ArrayLike, what: str = "ids") -> Ids:
    """Token ids as a contiguous int32 array, without a copy where they are one. Numbers that are no int32 are an error,
    never cut off. What offers __array__ (a torch tensor) will do."""
    array = np.asarray(values)
    if array.size == 0:
        return np.empty(array.shape, np.int32)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{what} are whole numbers, not {array.dtype}")
    if array.dtype != np.int32:
        low, high = int(array.min()), int(array.max())
        if low < -(2**31) or high >= 2**31:
            raise errors.ArgumentError(f"{what} are from {low} to {high}, which do not fit 32 bits")
    return np.ascontiguousarray(array, np.int32).reshape(array.shape)  # a number alone stays one


def as_lengths(values: ArrayLike, what: str = "lengths") -> NDArray[np.uintp]:
    """Numbers of tokens (n), none of them negative."""
    array = np.asarray(values)
    if array.ndim != 1 or (array.size and (array.dtype.kind not in "iu" or int(array.min()) < 0)):
        raise errors.ArgumentError(f"{what} are a list of whole numbers, none of them negative")
    return np.ascontiguousarray(array, np.uintp)


class _Borrowed:
    """Memory that belongs to another object, as numpy takes it; keeps that object alive."""

    def __init__(self, address: int, shape: tuple[int, ...], dtype: np.dtype[Any], owner: Any, writeable: bool) -> None:
        self.owner = owner
        self.__array_interface__ = {
            "data": (address, not writeable),
            "shape": shape,
            "typestr": dtype.str,
            "version": 3,
        }


def view_of(
    memory: Any, size: int, dtype: np.dtype[Any], owner: Any = None, *, writeable: bool = False
) -> NDArray[Any]:
    """An array of `size` bytes at `memory`, which belongs to owner, without a copy. Views of it share its base."""
    address = int(ffi.cast("uintptr_t", memory))
    return np.asarray(_Borrowed(address, (size // dtype.itemsize,), dtype, owner, writeable))


class Packed:
    """Sequences one after the other, as the library takes them: ids (T), lengths (n).

    From an (n, L) array, or a sequence of n sequences of any lengths. A one-dimensional array is one sequence.
    """

    def __init__(self, sequences: Any, what: str = "ids") -> None:
        self.shape: tuple[int, ...] | None = None
        array = sequences if hasattr(sequences, "__array__") else None
        if array is None and len(sequences) > 0 and isinstance(sequences[0], (int, np.integer)):
            array = sequences
        if array is not None:
            ids = as_ids(array, what)
            if ids.ndim not in (1, 2):
                raise errors.ArgumentError(f"{what} has {ids.ndim} dimensions, and it has (n, L) or (L)")
            self.shape = ids.shape
            n, length = (1, *ids.shape) if ids.ndim == 1 else ids.shape
            self.lengths = np.full(n, length, np.uintp)
            self.ids = ids.reshape(-1)
            return
        parts = [as_ids(part, f"{what}[{i}]") for i, part in enumerate(sequences)]
        for i, part in enumerate(parts):
            if part.ndim != 1:
                raise errors.ArgumentError(f"{what}[{i}] has {part.ndim} dimensions, and it has one")
        self.lengths = np.array([len(part) for part in parts], np.uintp)
        self.ids = np.concatenate(parts) if parts else np.empty(0, np.int32)

    def __len__(self) -> int:
        return len(self.lengths)

    def split(self, values: NDArray[Any]) -> list[NDArray[Any]]:
        """Views of values (T, ...) by sequence."""
        return np.split(values, np.cumsum(self.lengths)[:-1].astype(np.intp)) if len(self) else []

    def marks(self, marks: Any, what: str) -> NDArray[np.uint8] | None:
        """Marks of the positions (T), from the shape that the sequences came in; None stays None."""
        if marks is None:
            return None
        if hasattr(marks, "__array__") or self.shape is not None:
            array = np.asarray(marks)
            if self.shape is not None and array.shape != self.shape:
                raise errors.ArgumentError(f"{what} has shape {array.shape}, and ids {self.shape}")
            array = array.reshape(-1)
        else:
            array = np.concatenate([np.asarray(part) for part in marks])
        if array.shape != self.ids.shape:
            raise errors.ArgumentError(f"{what} has {array.size} positions, and ids {self.ids.size}")
        return np.ascontiguousarray(array != 0, np.uint8)


# ---- objects ---------------------------------------------------------------------------------------------------


class Owner:
    """What has an object of the library: it cannot be copied or pickled, only saved and loaded."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        name = type(self).__name__
        raise TypeError(
            f"a {name} cannot be copied or pickled: its memory is the library's; save it, and load it there"
        )


class Exclusive(Owner):
    """What has an object that one call at a time may use, and that can be closed."""

    def __init__(self, pointer: Any, free: Any, what: str, busy: Any) -> None:
        """busy: a Lock, or an RLock where no callback can come from a call: then one that Ctrl-C left held, at some
        moment beside the call, does not keep this thread out."""
        self._owned: Any = ffi.gc(pointer, free)
        self._what = what
        self._busy = busy

    @contextlib.contextmanager
    def using(self) -> Iterator[Any]:
        """The object, for the length of a with block. Raises where it is closed, or in use already, be it by another
        thread or by the call that a callback comes from."""
        if not self._busy.acquire(blocking=False):
            raise RuntimeError(f"{self._what} in use, by another thread or the call that this callback is of")
        try:
            if self._owned is None:
                raise ValueError(f"{self._what} closed")
            yield self._owned
        finally:
            self._busy.release()

    @property
    def closed(self) -> bool:
        return self._owned is None

    def close(self) -> None:
        """Ends it; a second time does nothing. What is not saved is lost; a with block closes at its end."""
        if self.closed:
            return
        with self.using() as pointer:
            ffi.release(pointer)
            self._owned = None


# ---- callbacks -----------------------------------------------------------------------------------------------

Progress = Callable[[str, int, int, float], Any]


class Watch:
    """What sees a long call: the user's functions, and the exception that ended it.

    progress(stage, done, total, seconds): a true value stops the call, which raises Cancelled.
    """

    def __init__(
        self,
        progress: Progress | None = None,
        step: Callable[[Any], Any] | None = None,
        allow: Callable[[int, int, Any, Any], Any] | None = None,
    ) -> None:
        self.progress = progress
        self.step = step
        self.allow = allow
        self.exception: BaseException | None = None
        self.handle: Any = ffi.new_handle(self)

    @contextlib.contextmanager
    def watching(self) -> Iterator[Watch]:
        """The call is made inside this; what a callback raised comes out of it in place of the call's own error."""
        try:
            yield self
        except errors.DiffusionLMError:
            if self.exception is None:
                raise
        finally:
            # The handle holds this object, and what it sees the functions: they would stay until the next collection.
            self.progress = self.step = self.allow = self.handle = None
        if self.exception is not None:
            exception, self.exception = self.exception, None
            try:
                raise exception
            finally:
                del exception  # which has this frame in its traceback


def _stop(kind: Any, exception: BaseException, traceback: Any) -> None:
    """A callback raised, at whatever point: keep it for the caller (the frame of the callback has the handle)."""
    while traceback is not None:
        user = traceback.tb_frame.f_locals.get("user")
        if isinstance(user, ffi.CData):
            watch = ffi.from_handle(user)
            watch.exception = watch.exception or exception
            return
        traceback = traceback.tb_next


@ffi.def_extern(error=True, onerror=_stop)
def dlm_python_progress(user: Any, stage: Any, done: int, total: int, seconds: float) -> bool:
    watch = ffi.from_handle(user)
    return watch.exception is not None or bool(watch.progress and watch.progress(text_of(stage), done, total, seconds))


@ffi.def_extern(error=True, onerror=_stop)
def dlm_python_step(user: Any, step: Any) -> bool:
    watch = ffi.from_handle(user)
    return watch.exception is not None or bool(watch.step and watch.step(step))


@ffi.def_extern(onerror=_stop)
def dlm_python_allow(user: Any, sequence: int, position: int, ids: Any, allowed: Any) -> None:
    watch = ffi.from_handle(user)
    if watch.exception is None:
        watch.allow(sequence, position, ids, allowed)


# ---- the machine -----------------------------------------------------------------------------------------------


def set_threads(n: int = 0) -> None:
    """The threads that calls from this Python thread use: n (at most 256, or the processors if they are more), or all
    processors for 0, as at first."""
    n = count(n, "n")
    if n != 1 and getattr(_of_this_thread, "forked", False):
        raise errors.Unsupported(
            f"{n or 'all'} threads: this process was forked after calls of this package, whose threads are not in it; "
            "start it by multiprocessing's 'spawn' or 'forkserver', or call from a new thread"
        )
    lib.dlm_set_threads(n)
    _of_this_thread.threads = n


_of_this_thread = threading.local()


def _after_fork() -> None:
    """OpenMP's threads are not in a forked process, and a thread that had them would wait for them for ever."""
    if getattr(_of_this_thread, "called", False):
        set_threads(1)
        _of_this_thread.forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def threads() -> int:
    """What set_threads was last told in this Python thread, or 0."""
    return getattr(_of_this_thread, "threads", 0)


def instruction_set() -> str:
    """What the kernels run with on this machine: "avx512", "avx2", "baseline" or "reference"."""
    return text_of(lib.dlm_instruction_set())


def backend() -> str:
    """What multiplies matrices, with its version, such as "oneDNN 2.6.3"."""
    return text_of(lib.dlm_backend())


def version() -> str:
    """The version of the library inside."""
    return text_of(lib.dlm_version())

"""One class of exception for each status of the library, with the library's sentence as its text.

Each is also the built-in exception that Python programs would expect: `except FileNotFoundError` catches NotFound.
"""

from __future__ import annotations


class DiffusionLMError(Exception):
    """What every error of the library is. `status` is its name in C, such as "DLM_IO"."""

    status = ""


class ArgumentError(DiffusionLMError, ValueError):
    """An argument or option is out of range."""

    status = "DLM_ARGUMENT"


class OutOfMemory(DiffusionLMError, MemoryError):
    """Memory could not be had."""

    status = "DLM_MEMORY"


class InputOutputError(DiffusionLMError, OSError):
    """Reading or writing failed."""

    status = "DLM_IO"


class NotFound(DiffusionLMError, FileNotFoundError):
    """There is no such file, folder or repository."""

    status = "DLM_NOT_FOUND"


class AlreadyExists(DiffusionLMError, FileExistsError):
    """It is there, and is not overwritten."""

    status = "DLM_EXISTS"


class FormatError(DiffusionLMError, ValueError):
    """A file is malformed, cut off or inconsistent."""

    status = "DLM_FORMAT"


class MismatchError(DiffusionLMError, ValueError):
    """Files that do not belong together."""

    status = "DLM_MISMATCH"


class Unsupported(DiffusionLMError, NotImplementedError):
    """What the library does not do."""

    status = "DLM_UNSUPPORTED"


class Cancelled(DiffusionLMError):
    """A callback asked to stop."""

    status = "DLM_CANCELLED"


class NotFinite(DiffusionLMError, ArithmeticError):
    """A value became infinite or not a number."""

    status = "DLM_NOT_FINITE"


class ComputeError(DiffusionLMError, RuntimeError):
    """A compute primitive failed."""

    status = "DLM_COMPUTE"


class NetworkError(DiffusionLMError, ConnectionError):
    """A server could not be reached, or failed."""

    status = "DLM_NETWORK"


class AccessDenied(DiffusionLMError, PermissionError):
    """A server refused access."""

    status = "DLM_DENIED"


by_status = {kind.status: kind for kind in DiffusionLMError.__subclasses__()}

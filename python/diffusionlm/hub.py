"""Files of the Hugging Face Hub, in the cache that the Python library huggingface_hub uses too."""

from __future__ import annotations

import os
import pathlib
from dataclasses import dataclass
from typing import Sequence

from ._library import Options, Watch, call, errors, ffi, lib, path_bytes, to_enum
from .progress import Shown, showing


@dataclass(frozen=True)
class Downloaded:
    """Files in the cache, all of one commit."""

    folder: pathlib.Path  #: of the snapshot, which has the files by their names in the repository
    commit: str  #: 40 hexadecimal digits
    paths: dict[str, pathlib.Path]  #: by name in the repository


def _text(value: str | os.PathLike[str], what: str) -> bytes:
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(f"{what} is {value!r}, and it is a name")
    return path_bytes(value)


def download(
    repo: str,
    files: str | Sequence[str] | None = None,
    *,
    revision: str | None = None,
    dataset: bool = False,
    progress: Shown = "auto",
) -> Downloaded:
    """Downloads files of a repository "org/name", "name" or either with "@revision" into the cache.

    files: a name or several; all that the repository has if not given. revision: a branch, a tag or a commit; "main" if
    neither says another. dataset: of a repository of data. progress: "auto" (a bar on a terminal and in a notebook),
    True, False, or a function(file, done, total, seconds), in bytes, whose true value stops with Cancelled.

    What is in the cache is not transferred again, a transfer that broke off goes on where it ended, and no file has its
    name before its hash is right. Where the Hub cannot be asked: the files as they were last downloaded. The
    environment variables of huggingface_hub count (HF_ENDPOINT, HF_HOME, HF_TOKEN, HF_HUB_OFFLINE and others). Raises
    NetworkError, AccessDenied, NotFound, FormatError for a wrong hash.
    """
    wanted = [files] if isinstance(files, (str, os.PathLike)) else list(files) if files is not None else []
    if files is not None and not wanted:
        raise errors.ArgumentError("files is an empty list; None is all that the repository has")
    options = Options("dlm_hub_options", lib.dlm_hub_defaults(), {"revision": revision})
    options.struct.kind = to_enum("dlm_repo_kind", "dataset" if dataset else "model", "the kind of the repository")
    names = [ffi.new("char[]", _text(name, "a file")) for name in wanted]
    got = ffi.new("dlm_hub_files *")
    with showing(progress) as shown:
        watch = Watch(shown)
        options.watch(watch)
        try:
            with watch.watching():
                call(
                    lib.dlm_hub_download,
                    _text(repo, "repo"),
                    options.struct,
                    ffi.new("char *[]", names),
                    len(names),
                    got,
                )
            return Downloaded(
                folder=_path(got.folder),
                commit=ffi.string(got.commit).decode("ascii"),
                paths={_name(got.names[i]): _path(got.paths[i]) for i in range(got.n)},
            )
        finally:
            lib.dlm_hub_files_free(got)


def _name(pointer: object) -> str:
    return os.fsdecode(ffi.string(pointer))


def _path(pointer: object) -> pathlib.Path:
    return pathlib.Path(_name(pointer))

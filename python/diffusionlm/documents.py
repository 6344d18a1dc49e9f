"""Documents: the texts of files, one after the other."""

from __future__ import annotations

import contextlib
import os
import threading
from typing import Any, Iterator, Sequence, Union

from ._library import Exclusive, Options, call, ffi, lib, path_bytes

Paths = Union[str, "os.PathLike[str]", Sequence[Union[str, "os.PathLike[str]"]]]


class Documents(Exclusive):
    """The documents of text files, read one after the other in bounded memory; iterate over it for each as str.

    files: a path or several; "-" is standard input. .gz and .zst are decompressed, whatever their name.
    format: "separated" (between lines <|endoftext|>, white space around a document dropped), "lines" (one a line),
    "jsonl" (the string `field` of each line's object, exactly as it stands), "whole" (each file is one).
    replace_invalid: bytes that are no UTF-8 become U+FFFD; else they are an error that names file and offset.
    max_bytes: a longer document is an error; 2**30 if not given.
    """

    def __init__(
        self,
        files: Paths,
        *,
        format: str | None = None,
        field: str | None = None,
        replace_invalid: bool | None = None,
        max_bytes: int | None = None,
    ) -> None:
        several = [files] if isinstance(files, (str, os.PathLike)) else list(files)
        self._options = Options(
            "dlm_text_options",
            lib.dlm_text_defaults(),
            {"format": format, "field": field, "replace_invalid": replace_invalid, "max_bytes": max_bytes},
        )
        self._paths = [ffi.new("char[]", path_bytes(path)) for path in several]
        self._list = ffi.new("char *[]", self._paths)
        made = ffi.new("dlm_documents **")
        call(lib.dlm_documents_open, self._list, len(several), self._options.struct, made)
        super().__init__(made[0], lib.dlm_documents_close, "the documents are", threading.Lock())

    def __iter__(self) -> Iterator[str]:
        text, count = ffi.new("char **"), ffi.new("size_t *")
        while not self.closed:
            with self.using() as pointer:
                call(lib.dlm_documents_next, pointer, text, count)
                if text[0] == ffi.NULL:
                    return
                document = bytes(ffi.buffer(text[0], count[0])).decode("utf-8")
            yield document

    @property
    def position(self) -> tuple[int, int]:
        """Bytes of the files read so far (compressed ones where a file is), and those of all; 0 where a pipe makes that
        unknown."""
        done, total = ffi.new("uint64_t *"), ffi.new("uint64_t *")
        with self.using() as pointer:
            lib.dlm_documents_position(pointer, done, total)
        return done[0], total[0]

    def __enter__(self) -> Documents:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


@contextlib.contextmanager
def opened(files: Paths | Documents, **reading: Any) -> Iterator[Documents]:
    """Documents of files for the length of a with block; Documents that are open already are left so."""
    if isinstance(files, Documents):
        if reading:
            raise TypeError(f"Documents were opened already, without {', '.join(reading)}")
        yield files
        return
    with Documents(files, **reading) as documents:
        yield documents

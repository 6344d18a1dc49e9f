"""Token shards: texts encoded once, for training and evaluation."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._library import (
    Ids,
    Options,
    Owner,
    Progress,
    Watch,
    as_lengths,
    call,
    count,
    errors,
    ffi,
    lib,
    path_bytes,
    pointer,
    structure,
    whole,
)
from .documents import Documents, Paths, opened
from .tokenizer import Tokenizer, tokenizer_of


@dataclass(frozen=True)
class DataInfo:
    """What DATA holds."""

    documents: int
    tokens: int  #: without end tokens
    bytes: int  #: of UTF-8 text
    longest: int  #: tokens of the longest document
    split: int  #: documents of more than one window
    windows: int
    seq_len: int
    shards: int
    vocabulary_hash: int


class Data(Owner):
    """A DATA folder, opened and checked (size, header and checksum of every shard)."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        made = ffi.new("dlm_data **")
        call(lib.dlm_data_open, path_bytes(path), made)
        self._pointer: Any = ffi.gc(made[0], lib.dlm_data_close)
        self.path = os.fspath(path)

    @property
    def info(self) -> DataInfo:
        return DataInfo(**structure(lib.dlm_data_describe(self._pointer)))

    @property
    def tokenizer(self) -> Tokenizer:
        """What the texts were encoded with."""
        return Tokenizer(lib.dlm_data_tokenizer(self._pointer), owner=self)

    def __len__(self) -> int:
        """How many documents."""
        return self.info.documents

    def length(self, document: int) -> int:
        """Tokens of a document, from 0, an end token not counted."""
        document = whole(document, "document")
        if not 0 <= document < len(self):
            raise errors.ArgumentError(f"document {document} is none of the {len(self)} from 0")
        return int(lib.dlm_data_length(self._pointer, document))

    def match(self, lengths: ArrayLike, seed: int = 0) -> tuple[NDArray[np.uint64], list[Ids]]:
        """Documents to hold beside texts of these lengths (n): for each one document, none of them twice, drawn by seed
        among those that have at least so many tokens, and cut to that length; where none is left that is so long, the
        longest that is left. Returns which documents they are (n), from that of the longest text to that of the
        shortest, and the ids of each."""
        wanted = as_lengths(lengths)
        matched = ffi.new("dlm_matched *")
        call(lib.dlm_data_match, self._pointer, pointer(wanted), wanted.size, count(seed, "seed"), matched)
        try:
            n = matched.n
            documents = np.array(ffi.unpack(matched.documents, n) if n else [], np.uint64)
            sizes = ffi.unpack(matched.lengths, n) if n else []
            buffer = ffi.buffer(matched.ids, 4 * sum(sizes)) if sum(sizes) else b""
            ids = np.frombuffer(buffer, np.int32).copy()
        finally:
            lib.dlm_matched_free(matched)
        return documents, np.split(ids, np.cumsum(sizes)[:-1].astype(np.intp)) if n else []

    def __repr__(self) -> str:
        info = self.info
        return f"<diffusionlm.Data {self.path!r}: {info.documents} documents, {info.tokens} tokens>"


def prepare(
    files: Paths | Documents,
    tokenizer: Tokenizer | str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    seq_len: int | None = None,
    shard_tokens: int | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    **reading: Any,
) -> Data:
    """Encodes all documents of text files (see Documents, which takes the further keywords) into a new folder `out`.

    seq_len: 256 if not given; longer documents become consecutive windows of so many tokens. An interrupted call
    leaves nothing under the name. progress(stage, done, total, seconds): a true value stops with Cancelled.
    """
    options = Options(
        "dlm_prepare_options",
        lib.dlm_prepare_defaults(),
        {"seq_len": seq_len, "shard_tokens": shard_tokens, "overwrite": overwrite},
    )
    watch = Watch(progress)
    options.watch(watch)
    with opened(files, **reading) as documents, documents.using() as text, watch.watching():
        call(
            lib.dlm_prepare,
            text,
            tokenizer_of(tokenizer)._pointer,
            path_bytes(out),
            options.struct,
            ffi.NULL,
        )
    return Data(out)


def data_of(value: Data | str | os.PathLike[str]) -> Data:
    """Data, or the folder of it."""
    return value if isinstance(value, Data) else Data(value)

"""Tokenizers: byte-level BPE as Hugging Face `tokenizers` computes it, read from and written to its tokenizer.json."""

from __future__ import annotations

import os
from typing import Any, Iterable, Sequence

from numpy.typing import ArrayLike

from ._library import (
    Ids,
    Options,
    Owner,
    Progress,
    Watch,
    as_ids,
    call,
    errors,
    ffi,
    lib,
    path_bytes,
    pointer,
    structure,
    take_ids,
    take_text,
    text_bytes,
    whole,
)
from .documents import Paths, opened


class Tokenizer(Owner):
    """A tokenizer, constant after it is made, which many threads can use at once.

    Tokenizer.load(path), Tokenizer.parse(json), Tokenizer.train(files, vocab_size=...).
    """

    def __init__(self, pointer: Any, owner: Any = None) -> None:
        """owner: what the tokenizer belongs to, a model or data, or None where it is this object's own."""
        self._owner = owner
        self._pointer = pointer if owner is not None else ffi.gc(pointer, lib.dlm_tokenizer_free)
        self._info = structure(lib.dlm_tokenizer_describe(self._pointer))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Tokenizer:
        """From a tokenizer.json, a folder that holds one or, where no such path exists, an id of the Hugging Face Hub,
        with "@revision" behind it if you like."""
        made = ffi.new("dlm_tokenizer **")
        call(lib.dlm_tokenizer_load, path_bytes(path), made)
        return cls(made[0])

    @classmethod
    def parse(cls, json: str | bytes, name: str = "tokenizer.json") -> Tokenizer:
        """From the text of a tokenizer.json; name is for messages."""
        data = text_bytes(json, "the tokenizer.json")
        made = ffi.new("dlm_tokenizer **")
        call(lib.dlm_tokenizer_parse, path_bytes(name), data, len(data), made)
        return cls(made[0])

    @classmethod
    def train(
        cls,
        files: Paths,
        *,
        vocab_size: int | None = None,
        min_frequency: int | None = None,
        max_token_length: int | None = None,
        progress: Progress | None = None,
        **reading: Any,
    ) -> Tokenizer:
        """Trains on all documents of text files (see Documents, which takes the further keywords), with the merges and
        ids of the Hugging Face trainer.

        vocab_size: 8192 if not given, at least 260. min_frequency: pairs less frequent are not merged. progress(stage,
        done, total, seconds) is called some times a second; a true value stops with Cancelled.
        """
        options = Options("dlm_bpe_options", lib.dlm_bpe_defaults())
        options.set("vocab_size", vocab_size)
        options.set("min_frequency", min_frequency)
        options.set("max_token_length", max_token_length)
        watch = Watch(progress)
        options.watch(watch)
        made = ffi.new("dlm_tokenizer **")
        with opened(files, **reading) as documents, documents.using() as pointer, watch.watching():
            call(lib.dlm_tokenizer_train, pointer, options.struct, made)
        return cls(made[0])

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes tokenizer.json and tokenizer_config.json into folder, which is made when absent."""
        call(lib.dlm_tokenizer_save, self._pointer, path_bytes(folder))

    def encode(self, text: str | bytes, *, added_tokens: bool = True) -> Ids:
        """The ids (T) of a text, int32. added_tokens: "[MASK]" and the like are those tokens, as for the Hugging Face
        library; else they are plain text."""
        data = text_bytes(text, "the text")
        ids, n = ffi.new("int32_t **"), ffi.new("size_t *")
        call(lib.dlm_tokenizer_encode, self._pointer, data, len(data), added_tokens, ids, n)
        return take_ids(ids[0], n[0])

    def encode_batch(self, texts: Iterable[str | bytes], *, added_tokens: bool = True) -> list[Ids]:
        """The ids of each text."""
        return [self.encode(text, added_tokens=added_tokens) for text in texts]

    def decode(self, ids: ArrayLike, *, skip_special: bool = True) -> str:
        """The text of ids (T). Bytes that are no UTF-8 become U+FFFD; the leading space that encoding added stays."""
        ids = as_ids(ids)
        if ids.ndim > 1:
            raise errors.ArgumentError(f"ids have {ids.ndim} dimensions; decode_batch takes several sequences")
        text, count = ffi.new("char **"), ffi.new("size_t *")
        call(lib.dlm_tokenizer_decode, self._pointer, pointer(ids), ids.size, skip_special, text, count)
        return take_text(text[0], count[0])

    def decode_batch(self, sequences: Iterable[ArrayLike], *, skip_special: bool = True) -> list[str]:
        """The text of each sequence of ids."""
        return [self.decode(ids, skip_special=skip_special) for ids in sequences]

    def token(self, id: int) -> bytes:
        """The bytes that an id stands for, not always whole characters."""
        return self._token(id)[0]

    def is_special(self, id: int) -> bool:
        """Whether it is a special token, such as [MASK]."""
        return self._token(id)[1]

    def _token(self, id: int) -> tuple[bytes, bool]:
        id, count, special = whole(id, "id"), ffi.new("size_t *"), ffi.new("bool *")
        # what does not fit 32 bits is outside every vocabulary
        found = lib.dlm_tokenizer_token(self._pointer, id if -1 <= id < 2**31 else -1, count, special)
        if found == ffi.NULL:
            raise errors.ArgumentError(f"id {id} is outside the vocabulary of {self.vocab_size} tokens")
        return bytes(ffi.buffer(found, count[0])), bool(special[0])

    @property
    def vocab_size(self) -> int:
        """Ids run from 0 to vocab_size - 1."""
        return int(self._info["vocab_size"])

    def __len__(self) -> int:
        return self.vocab_size

    @property
    def merges(self) -> int:
        """How many merges it has."""
        return int(self._info["merges"])

    @property
    def added_tokens(self) -> int:
        """How many added tokens it has."""
        return int(self._info["added_tokens"])

    @property
    def add_prefix_space(self) -> bool:
        """Whether encoding puts a space before a text that begins with none."""
        return bool(self._info["add_prefix_space"])

    @property
    def hash(self) -> int:
        """64 bits over tokens, merges and added tokens; the same for tokenizers that do the same."""
        return int(self._info["hash"])

    def _special(self, name: str) -> int | None:
        value = int(self._info[name])
        return None if value < 0 else value

    @property
    def pad_id(self) -> int | None:
        """The id of [PAD]."""
        return self._special("pad_id")

    @property
    def unk_id(self) -> int | None:
        """The id of [UNK]."""
        return self._special("unk_id")

    @property
    def mask_id(self) -> int | None:
        """The id of [MASK]."""
        return self._special("mask_id")

    @property
    def end_id(self) -> int | None:
        """The id of <|endoftext|>."""
        return self._special("end_id")

    def __repr__(self) -> str:
        return f"<diffusionlm.Tokenizer of {self.vocab_size} tokens>"


def tokenizer_of(value: Tokenizer | str | os.PathLike[str]) -> Tokenizer:
    """A tokenizer, or what Tokenizer.load takes."""
    return value if isinstance(value, Tokenizer) else Tokenizer.load(value)


__all__: Sequence[str] = ["Tokenizer"]

"""Statistics of texts: how varied they are, how long, and what of them is copied from a corpus (docs/statistics.md).

Texts are ids: an (n, L) array, one sequence (L), or a list of n sequences of any lengths, without end tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._library import Options, Packed, Watch, as_lengths, call, errors, ffi, lib, pointer, structure
from .data import Data, data_of
from .progress import Shown, showing


@dataclass(frozen=True)
class TextStatistics:
    """How varied texts are. A figure is nan where no text is long enough for it."""

    texts: int
    tokens: int
    distinct: tuple[float, float, float]
    """[i]: of all (i+1)-grams of all texts, the share that are different. It falls as texts are added: compare equal
    numbers of tokens."""
    repeated: tuple[float, float, float]
    """[i]: of the (i+2)-grams of a text, the share that stood earlier in the same text; mean over the texts that have
    any"""
    entropy: float  #: of the tokens' frequencies, in nats; it too depends on the number of tokens


@dataclass(frozen=True)
class LengthStatistics:
    """How numbers of tokens spread."""

    mean: float
    standard_deviation: float  #: with n - 1; nan of one
    quantiles: tuple[int, int, int, int, int, int, int]  #: the least, 5, 25, 50, 75 and 95 %, the largest


@dataclass(frozen=True)
class Copying:
    """How much of texts is copied from a corpus."""

    longest: LengthStatistics  #: of the longest span of each text
    text: int  #: the longest of all is of this text, from 0 on,
    first: int  #: from its token `first` on,
    n: int  #: of so many tokens
    seen: float  #: the share of 8-grams that stand in the corpus; nan where there is none


class _Texts:
    """A dlm_texts, and what it points to, which lives as long as this object."""

    def __init__(self, texts: Any) -> None:
        self.packed = Packed(texts, "texts")
        self._options = Options("dlm_texts", {})
        self.struct = self._options.struct
        self.struct.n = len(self.packed)
        self.struct.lengths = pointer(self.packed.lengths)
        self.struct.ids = pointer(self.packed.ids)


def measure(texts: Any) -> TextStatistics:
    """How varied texts are."""
    given = _Texts(texts)
    measured = ffi.new("dlm_text_statistics *")
    call(lib.dlm_texts_measure, given.struct, measured)
    return TextStatistics(**structure(measured[0]))


def lengths(lengths: ArrayLike) -> LengthStatistics:
    """How numbers of tokens (n) spread."""
    numbers = as_lengths(lengths)
    measured = ffi.new("dlm_length_statistics *")
    call(lib.dlm_lengths_measure, pointer(numbers), numbers.size, measured)
    return LengthStatistics(**structure(measured[0]))


def find(texts: Any, data: Data | Any, *, progress: Shown = None) -> list[NDArray[np.uint32]]:
    """Looks the texts up in a corpus: for each an array (L) that has for each of its tokens how many, it and those
    before it in its text, stand one after the other in one document of data as well.

    Time grows with the corpus, memory with the texts alone (some hundred bytes a token). progress: None, "auto", True,
    or a function(stage, done, total, seconds), in documents, whose true value stops with Cancelled.
    """
    given = _Texts(texts)
    spans = np.zeros(given.packed.ids.size, np.uint32)
    with showing(progress) as shown:
        watch = Watch(shown)
        with watch.watching():
            call(
                lib.dlm_texts_find,
                given.struct,
                data_of(data)._pointer,
                lib.dlm_python_progress,
                watch.handle,
                pointer(spans),
            )
    return given.packed.split(spans)


def copying(spans: Sequence[ArrayLike]) -> Copying:
    """How much of texts is copied, from what find gave for them; at least one text."""
    arrays = [np.ascontiguousarray(one) for one in spans]
    for i, one in enumerate(arrays):
        if one.ndim != 1 or (one.size and one.dtype.kind not in "iu"):
            raise errors.ArgumentError(f"spans[{i}] is {one.dtype} {one.shape}, and it is what find gives for a text")
        if one.size and ((one > np.arange(1, one.size + 1)).any() or int(one.min()) < 0):
            raise errors.ArgumentError(f"spans[{i}] has a span that is longer than the text up to it, or negative")
    texts = _Texts([np.zeros(one.size, np.int32) for one in arrays])
    every = np.concatenate(arrays).astype(np.uint32) if arrays else np.empty(0, np.uint32)
    measured = ffi.new("dlm_copying *")
    call(lib.dlm_copying_measure, texts.struct, pointer(every), measured)
    found = structure(measured[0])
    return Copying(**{**found, "longest": LengthStatistics(**found["longest"])})

"""Templates: texts with blanks, and filling them in."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Sequence, overload

import numpy as np
from numpy.typing import NDArray

from ._library import Ids, Options, Owner, call, count, errors, ffi, lib, pointer, take_ids, text_bytes
from .sampling import AllowInC, FillOptions, SampleWatch, fill_options, known, sample_text, takes

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .model import Model


@dataclass(frozen=True)
class Blank:
    """So many tokens fill a blank; most is None for any number."""

    least: int
    most: int | None
    space: bool  #: the first token begins with a space


class Template(Owner):
    """A text with blanks to fill in, for one model. Its fixed parts come back byte for byte.

    Template.parse(model, "Once [MASK:3-8] cat."), Template.around(model, prompt=..., suffix=...).
    """

    def __init__(self, model: Model, pointer: Any) -> None:
        self.model = model
        self._pointer = ffi.gc(pointer, lib.dlm_template_free)

    @classmethod
    def parse(cls, model: Model, text: str) -> Template:
        """From text in which [MASK] is a blank of one token, [MASK:8] of eight, [MASK:20-60] of any number between."""
        data = text_bytes(text, "the template")
        made = ffi.new("dlm_template **")
        call(lib.dlm_template_parse, model._pointer, data, len(data), made)
        return cls(model, made[0])

    @classmethod
    def around(cls, model: Model, prompt: str | None = None, suffix: str | None = None) -> Template:
        """A prompt, a blank of any number of tokens, a suffix. [MASK] in them is plain text."""
        parts: list[Any] = []
        for name, text in (("prompt", prompt), ("suffix", suffix)):
            if text == "":
                raise errors.ArgumentError(f"the {name} is empty")
            data = ffi.NULL if text is None else text_bytes(text, f"the {name}")
            parts += [data, 0 if text is None else len(data)]
        made = ffi.new("dlm_template **")
        call(lib.dlm_template_around, model._pointer, *parts, made)
        return cls(model, made[0])

    @property
    def blanks(self) -> list[Blank]:
        """Its blanks, in their order."""
        found = ffi.new("dlm_blank **")
        n = lib.dlm_template_blanks(self._pointer, found)
        return [Blank(int(b.least), int(b.most) or None, bool(b.space)) for b in (found[0][i] for i in range(n))]

    def _lengths(self, lengths: Sequence[int] | None) -> NDArray[np.uintp]:
        blanks = self.blanks
        if lengths is None:
            if any(blank.least != blank.most for blank in blanks):
                raise errors.ArgumentError("lengths have to be given: there is a blank of more lengths than one")
            lengths = [blank.least for blank in blanks]
        if len(lengths) != len(blanks):
            raise errors.ArgumentError(f"{len(lengths)} lengths are given, and there are {len(blanks)} blanks")
        return np.array([count(length, "a length") for length in lengths], np.uintp)

    def layout(self, lengths: Sequence[int] | None = None) -> tuple[Ids, NDArray[np.bool_]]:
        """ids (L) with lengths[i] masks for blank i, and fixed (L), as Model.sample takes them. lengths may be left out
        where each blank has just one."""
        sizes = self._lengths(lengths)
        n = lib.dlm_template_layout(self._pointer, pointer(sizes), ffi.NULL, ffi.NULL)
        ids, fixed = np.empty(n, np.int32), np.empty(n, np.uint8)
        lib.dlm_template_layout(self._pointer, pointer(sizes), pointer(ids), pointer(fixed))
        return ids, fixed.view(np.bool_)

    def allow(self, lengths: Sequence[int] | None = None) -> AllowInC:
        """What may stand in its blanks: the allow of Model.sample for sequences that are all of this layout."""
        sizes = self._lengths(lengths)
        choice = ffi.new("dlm_template_choice *", {"text": self._pointer, "lengths": pointer(sizes)})
        function = ffi.addressof(lib, "dlm_template_allow")
        return AllowInC(function, choice, self.model._size, (self, sizes))


@dataclass(frozen=True, eq=False)
class Filled:
    """A text that was filled in."""

    text: str | None  #: None without a tokenizer
    ids: Ids
    candidate: int  #: the one that was kept, from 0
    nats_per_token: float | None  #: its NELBO, up to its first end token; None where there was one candidate
    forwards: int  #: passes of sampling, of the whole call


def template_of(
    model: Model, template: Template | str | None, prompt: str | None = None, suffix: str | None = None
) -> Template | None:
    """The template that is asked for, or None for nothing."""
    if template is not None:
        if prompt is not None or suffix is not None:
            other = "prompt" if prompt is not None else "suffix"
            raise errors.ArgumentError(f"the template is all of a text: what the {other} says belongs in it")
        return template if isinstance(template, Template) else Template.parse(model, template)
    if prompt is None and suffix is None:
        return None
    return Template.around(model, prompt, suffix)


def _at_once(model: Model, length: int | None) -> int:
    """Candidates sampled together: logits are the largest thing that grows with them; at most 2^25 of those, and beyond
    some thousand rows a product of matrices is no faster for each."""
    config = model.config
    rows = min(2**25 // config.vocab_size, 4096)
    return max(rows // max(min(length or config.max_seq_len, config.max_seq_len), 1), 1)


def fill_ids(
    model: Model, template: Template | None, n: int, first: int, options: dict[str, Any]
) -> tuple[list[Ids], Any, int]:
    """What dlm_fill gives: ids of each text, dlm_filled (n), passes. Takes FillOptions."""
    if n >= 2**32:
        raise errors.ArgumentError(f"n is {n}, and texts are at most 2^32 - 1")
    watch = SampleWatch(options, model._size)
    watch.progress = options.pop("progress", None)
    filling = Options("dlm_fill_options", lib.dlm_fill_defaults())
    struct = filling.struct
    struct.progress, struct.progress_user = lib.dlm_python_progress, watch.handle
    for name in ("length", "tries", "draws", "context", "at_once"):
        filling.set(name, options.pop(name, None))
    if not struct.at_once:
        struct.at_once = _at_once(model, struct.length)
    fill_options(filling, struct.sample, options, watch)
    filled = ffi.new("dlm_filled[]", n)
    ids, forwards = ffi.new("int32_t **"), ffi.new("size_t *")
    text = ffi.NULL if template is None else template._pointer
    with watch.watching():
        call(lib.dlm_fill, model._pointer, text, struct, first, n, filled, ids, forwards)
    lengths = [filled[i].length for i in range(n)]
    packed = take_ids(ids[0], sum(lengths))
    return np.split(packed, np.cumsum(lengths)[:-1].astype(np.intp)) if n else [], filled, int(forwards[0])


@overload
def fill(
    model: Model,
    template: Template | str | None = None,
    n: int = 1,
    *,
    prompt: str | None = None,
    suffix: str | None = None,
    first: int = 0,
    details: Literal[False] = False,
    **options: Unpack[FillOptions],
) -> list[str]: ...
@overload
def fill(
    model: Model,
    template: Template | str | None = None,
    n: int = 1,
    *,
    prompt: str | None = None,
    suffix: str | None = None,
    first: int = 0,
    details: Literal[True],
    **options: Unpack[FillOptions],
) -> list[Filled]: ...
@takes(FillOptions)
def fill(
    model: Model,
    template: Template | str | None = None,
    n: int = 1,
    *,
    prompt: str | None = None,
    suffix: str | None = None,
    first: int = 0,
    details: bool = False,
    **options: Unpack[FillOptions],
) -> list[str] | list[Filled]:
    """Writes n texts around what is given: a template ("Once [MASK:3-8] cat."), a prompt, a suffix, or nothing.

    Returns the texts, or with details=True a Filled for each, with ids. Text b is a function of (seed, first + b). A
    step callback sees the candidates that are sampled at once; one that stops raises Cancelled.
    """
    given = known(options, FillOptions)
    n, first = count(n, "n"), count(first, "first")
    readable = model.tokenizer is not None
    if not readable and not details:
        raise errors.ArgumentError("the model has no tokenizer: details=True gives ids")
    found, filled, forwards = fill_ids(model, template_of(model, template, prompt, suffix), n, first, given)
    texts = [sample_text(model, ids) if readable else None for ids in found]
    if not details:
        return [text for text in texts if text is not None]
    nats = [filled[i].nats_per_token for i in range(n)]
    return [
        Filled(texts[i], found[i], int(filled[i].candidate), None if math.isnan(nats[i]) else nats[i], forwards)
        for i in range(n)
    ]

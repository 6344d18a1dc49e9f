"""Sampling and refining: ids with masks in, ids out. The functions here are methods of Model too.

docs/sampling.md says what the options mean, and which go together.
"""

from __future__ import annotations

import difflib
import inspect
import textwrap
import weakref
from typing import TYPE_CHECKING, Any, Callable, Literal, NamedTuple, Sequence, TypedDict, TypeVar, Union, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._library import (
    Ids,
    Options,
    Packed,
    Progress,
    Watch,
    as_ids,
    call,
    count,
    errors,
    ffi,
    lib,
    pointer,
    take_text,
    view_of,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .model import Model

    StepCallback = Callable[["Step"], Any]
    Allow = Callable[[int, int, Ids, NDArray[np.bool_]], Any]

SameShape = Union[Ids, "list[Ids]"]
Function = TypeVar("Function", bound=Callable[..., Any])


class DrawOptions(TypedDict, total=False):
    """What sampling and refining have in common; _documentation has a word on each."""

    seed: int | None
    banned: ArrayLike | None
    allow: Allow | None
    on_step: StepCallback | None


class SamplerOptions(DrawOptions, total=False):
    """Options of the sampler but for the three of SampleOptions."""

    max_seconds: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repetition_penalty: float | None
    guidance: float | None
    reveal: str | None
    reveals_per_step: int | None
    confidence_threshold: float | None
    entropy_bound: float | None
    corrector_frac: float | None
    corrector_every: int | None
    corrector_mode: str | None
    remask: str | None
    eta: float | None


class SampleOptions(SamplerOptions, total=False):
    """Options of the sampler."""

    steps: int | None
    temperature: float | None
    order: str | None


class RewriteOptions(DrawOptions, total=False):
    """Options of refining but for the three of RefineOptions."""

    low_confidence: bool | None
    context: int | None


class RefineOptions(RewriteOptions, total=False):
    """Options of refining."""

    passes: int | None
    frac: float | None
    temperature: float | None


class ChoiceOptions(TypedDict, total=False):
    """Options of filling in: candidates, and the choice among them."""

    tries: int | None
    draws: int | None
    context: int | None
    at_once: int | None
    progress: Progress | None


class FillOptions(SampleOptions, ChoiceOptions, total=False):
    """Options of filling in."""

    length: int | None


class GenerateOptions(SamplerOptions, ChoiceOptions, total=False):
    """Options of DiffusionLM.generate beside its own parameters."""


_documentation = {
    "seed": "the same seed gives the same ids; each sequence depends on the seed and its index alone",
    "steps": "of sampling; as many as a sequence has positions if not given",
    "passes": "of refining; 8 if not given",
    "frac": "each free position is masked with this probability in each pass; 0.15 if not given",
    "low_confidence": "the share frac of the lowest confidence is masked instead",
    "temperature": "0.9 if not given; 0 is the most probable token",
    "max_seconds": "when this time is nearly up, what is left is revealed at once; such ids do not repeat",
    "top_k": "draw from the k most probable tokens alone",
    "top_p": "draw from the fewest most probable tokens that have this share of the probability together",
    "min_p": "draw from tokens at least this times as probable as the first",
    "repetition_penalty": "of the logits of tokens that the sequence has; 1 is none",
    "guidance": "how much more fixed positions count than they would by themselves; takes a second pass each",
    "banned": "ids never drawn, besides [MASK], [PAD] and [UNK]",
    "allow": "allow(sequence, position, ids, allowed) says which tokens may stand at a position, before each draw: "
    "ids (L) is the sequence so far, read-only; allowed (V), bool, is all true, and the function sets to False what "
    "may not be drawn (at least one token other than banned ones is left). Both are views of the library's memory, for "
    "the time of the call. Slow, being Python; that of a Template is C",
    "order": 'which positions are revealed first: "confidence", "confidence_weighted", "random", "margin", "entropy", '
    '"left_to_right", "ancestral" or "first_hitting"',
    "reveal": '"cosine" or "linear": how many positions are revealed after a share of the steps',
    "reveals_per_step": "so many positions in each step instead; steps follows from it",
    "confidence_threshold": "in [0, 1]: a step reveals all positions at least as confident, and at least one",
    "entropy_bound": "in nats: a step reveals those of the lowest entropy while their sum is at most this",
    "corrector_frac": "the share of the revealed positions that is drawn anew now and then; 0 is none",
    "corrector_every": "after so many steps each; 2 if not given",
    "corrector_mode": '"random" or "low_confidence": which positions that are',
    "remask": '"none", "cap", "rescale", "conf" or "loop": how the order "ancestral", which it implies, masks again',
    "eta": 'how much it masks again; 0.02 if not given, with "conf" 1',
    "on_step": "on_step(step) is called with a Step after every step, and once before the first; it may change what it "
    "sees. A true value stops. An exception stops too, and comes out of the call",
    "length": "tokens of the whole text, its end among them, where a blank is of any number; beyond max_seq_len it is "
    "written block by block. Drawn from the lengths seen in training if not given",
    "tries": "so many candidates for each text, of which the one of the least NELBO per token is kept; 8 if not given "
    "where a blank has a range, else 1",
    "draws": "masks of each candidate for its NELBO; 16 if not given",
    "context": "tokens of a window, in a text longer than the model takes, that are seen but not drawn; half of "
    "max_seq_len if not given",
    "at_once": "candidates sampled together; as many as some thousand tokens are if not given",
    "progress": "progress(stage, done, total, seconds) while candidates are scored; a true value stops with Cancelled",
}


def takes(kind: Any, documentation: dict[str, str] = _documentation) -> Callable[[Function], Function]:
    """Shows the options of `kind`, which the function takes as **options, in its signature and its documentation."""

    def shown(function: Function) -> Function:
        signature = inspect.signature(function)
        before = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        options = [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=None,
                annotation=getattr(annotation, "__forward_arg__", annotation),
            )
            for name, annotation in kind.__annotations__.items()
        ]
        function.__signature__ = signature.replace(parameters=[*before, *options])  # type: ignore[attr-defined]
        lines = [f"{name}: {documentation[name]}." for name in kind.__annotations__]
        wrapped = [textwrap.fill(line, 110, initial_indent="    ", subsequent_indent="        ") for line in lines]
        text = inspect.cleandoc(function.__doc__ or "")
        function.__doc__ = "\n".join([text, "", "Options; None is the library's default:", "", *wrapped])
        return function

    return shown


def known(given: Any, kind: Any, also: Sequence[str] = ()) -> dict[str, Any]:
    """A copy of the options given, which are all of `kind`; TypeError for another. also: what else might be meant."""
    names = list(kind.__annotations__)
    for name in given:
        if name not in names:
            near = difflib.get_close_matches(name, [*names, *also], 1)
            raise TypeError(f"there is no option {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    return dict(given)


# ---- callbacks -------------------------------------------------------------------------------------------------


class _Views:
    """Arrays that are views of memory which is the library's, and theirs only for the time of a callback."""

    def __init__(self) -> None:
        self._made: list[weakref.ref[Any]] = []

    def make(self, memory: Any, n: int, dtype: Any, writeable: bool = False) -> NDArray[Any]:
        kind = np.dtype(dtype)
        view = view_of(memory, n * kind.itemsize, kind, writeable=writeable)
        self._made.append(weakref.ref(view.base))
        return view

    def end(self) -> None:
        """The callback returned: that an array is still there is an error, before it shows memory that is gone."""
        if any(made() is not None for made in self._made):
            raise RuntimeError(
                "the callback kept an array of the library's, which is valid for its own time alone: keep a copy"
            )


class Step:
    """What a step callback sees: n sequences packed one after the other, T positions together.

    Its arrays are views of the library's memory, valid until the callback returns; keep copies.

    step, steps: how many are done, of how many. forwards: passes so far. offsets (n + 1): sequence b is positions
    offsets[b] .. offsets[b + 1] - 1. first: the index of the sample that sequence 0 is. tries: of fill: sample i is
    candidate i % tries of text i // tries; elsewhere 1. mask_id: what stands at a masked position.
    """

    def __init__(self, memory: Any) -> None:
        self._memory = memory
        self._views = _Views()
        self.step = int(memory.step)
        self.steps = int(memory.steps)
        self.n = int(memory.n)
        self.forwards = int(memory.forwards)
        self.mask_id = int(memory.mask_id)
        self.first = int(memory.first)
        self.tries = int(memory.tries)
        self.offsets: NDArray[np.intp] = np.array(ffi.unpack(memory.offsets, self.n + 1), np.intp)

    def _view(self, name: str, n: int, dtype: Any, writeable: bool = False) -> NDArray[Any]:
        if self._memory is None:
            raise RuntimeError("the step is over, and its arrays with it")
        return self._views.make(getattr(self._memory, name), n, dtype, writeable)

    @property
    def ids(self) -> Ids:
        """(T) int32. May be changed, to mask_id too; a change at a fixed position is undone."""
        return self._view("ids", self.offsets[-1], np.int32, True)

    @property
    def confidence(self) -> NDArray[np.float32]:
        """(T) of each position when it was revealed, 0 while masked and where given, 1 where fixed. May be changed
        within [0, 1]."""
        return self._view("confidence", self.offsets[-1], np.float32, True)

    @property
    def fixed(self) -> NDArray[np.bool_]:
        """(T) true where given for good."""
        return self._view("fixed", self.offsets[-1], np.bool_)

    @property
    def times(self) -> NDArray[np.float64]:
        """(n) the time t, in [0, 1], at which each sequence last went through the model."""
        return self._view("times", self.n, np.float64)

    def split(self, values: NDArray[Any]) -> list[NDArray[Any]]:
        """Views of values (T) by sequence."""
        return np.split(values, self.offsets[1:-1])

    def _end(self) -> None:
        self._memory = None
        self._views.end()


class SampleWatch(Watch):
    """What sees a sampler at work: the user's callbacks among its options, which are taken out of them.

    vocab_size: of the model. lengths: of the call's sequences; None where the library chooses them, and then they are
    those of the latest step."""

    def __init__(self, options: dict[str, Any], vocab_size: int, lengths: NDArray[np.uintp] | None = None) -> None:
        self._on_step: StepCallback | None = options.pop("on_step", None)
        given = options.pop("allow", None)
        self._in_c: AllowInC | None = given if isinstance(given, AllowInC) else None
        self._allow: Allow | None = None if self._in_c is not None else given
        self._vocab_size = vocab_size
        self._given_lengths = lengths
        self._offsets: Any = None
        super().__init__(step=self._see_step, allow=self._see_allow)

    def fill(self, struct: Any) -> None:
        """Sets the callbacks of a struct of options."""
        struct.on_step = lib.dlm_python_step
        struct.user = self.handle
        if self._in_c is not None:
            struct.allow, struct.allow_user = self._in_c.function, self._in_c.user
        elif self._allow is not None:
            struct.allow, struct.allow_user = lib.dlm_python_allow, self.handle

    def _see_step(self, memory: Any) -> bool:
        if self._on_step is None and self._allow is None:
            return False
        seen = Step(memory)
        self._offsets = seen.offsets
        if self._on_step is None:
            return False
        stop = bool(self._on_step(seen))
        seen._end()
        return stop

    def _length(self, sequence: int) -> int:
        if self._given_lengths is not None:
            return int(self._given_lengths[sequence])
        return int(self._offsets[sequence + 1] - self._offsets[sequence])

    def _see_allow(self, sequence: int, position: int, ids: Any, allowed: Any) -> None:
        if self._allow is None:
            return
        views = _Views()
        self._allow(
            sequence,
            position,
            views.make(ids, self._length(sequence), np.int32),
            views.make(allowed, self._vocab_size, np.bool_, True),
        )
        views.end()


class AllowInC:
    """An allow callback that is a function of the library, with what it is about; can be called from Python too."""

    def __init__(self, function: Any, user: Any, vocab_size: int, keep: Any) -> None:
        self.function, self.user, self._vocab_size, self._keep = function, user, vocab_size, keep

    def __call__(self, sequence: int, position: int, ids: Ids, allowed: NDArray[np.bool_]) -> None:
        if not isinstance(allowed, np.ndarray) or allowed.dtype != np.bool_ or allowed.shape != (self._vocab_size,):
            raise errors.ArgumentError(f"allowed is an array of {self._vocab_size} bools")
        if not allowed.flags.writeable:
            raise errors.ArgumentError("allowed cannot be written to")
        place = count(position, "position")
        self.function(
            self.user, count(sequence, "sequence"), place, pointer(as_ids(ids)), pointer(allowed.view(np.uint8))
        )


def fill_options(options: Options, struct: Any, given: dict[str, Any], watch: SampleWatch) -> None:
    """Fills dlm_sample_options or dlm_refine_options, which is options.struct or a part of it."""
    watch.fill(struct)
    options.keep(watch)
    options.set_ids("banned", "banned_n", given.pop("banned", None), struct)
    if given.get("remask") not in (None, "none") and given.get("order") is None:
        given["order"] = "ancestral"
    for name, value in given.items():
        options.set(name, value, struct)


# ---- calls -----------------------------------------------------------------------------------------------------


class Sampled(NamedTuple):
    """What sample gives with details=True."""

    ids: SameShape  #: in the shape that came in
    confidence: Any  #: float32, likewise: of each position when it was revealed; 1 where fixed
    forwards: int  #: passes through the model


def masks(model: Model, n: int, length: int) -> Ids:
    """(n, length) ids that are all [MASK]: what sampling begins with."""
    return np.full((count(n, "n"), count(length, "length")), model.mask_id, np.int32)


def _shaped(packed: Packed, values: NDArray[Any]) -> Any:
    return values.reshape(packed.shape) if packed.shape is not None else packed.split(values)


@overload
def sample(
    model: Model,
    ids: Any,
    *,
    fixed: Any = None,
    first: int = 0,
    details: Literal[False] = False,
    **options: Unpack[SampleOptions],
) -> SameShape: ...
@overload
def sample(
    model: Model,
    ids: Any,
    *,
    fixed: Any = None,
    first: int = 0,
    details: Literal[True],
    **options: Unpack[SampleOptions],
) -> Sampled: ...
@takes(SampleOptions)
def sample(
    model: Model,
    ids: Any,
    *,
    fixed: Any = None,
    first: int = 0,
    details: bool = False,
    **options: Unpack[SampleOptions],
) -> SameShape | Sampled:
    """Fills the masked positions of sequences, each of 1 to max_seq_len ids; returns new ids in the shape that came in.

    ids: (n, L), one sequence (L), or a list of n sequences of any lengths. fixed: likewise, true where an id is given
    for good; all others that are given may be drawn anew by the corrector. first: the index of the first sequence; b
    draws from (seed, first + b) alone. details: return Sampled(ids, confidence, forwards). Never yields [MASK], [PAD]
    or [UNK].
    """
    given = known(options, SampleOptions)
    packed = Packed(ids)
    x = packed.ids.copy()
    marks = packed.marks(fixed, "fixed")
    watch = SampleWatch(given, model._size, packed.lengths)
    filled = Options("dlm_sample_options", lib.dlm_sample_defaults())
    fill_options(filled, filled.struct, given, watch)
    confidence = np.zeros(x.size, np.float32)
    forwards = ffi.new("size_t *")
    with watch.watching():
        call(
            lib.dlm_sample,
            model._pointer,
            filled.struct,
            count(first, "first"),
            len(packed),
            pointer(packed.lengths),
            pointer(x),
            pointer(marks),
            pointer(confidence),
            forwards,
        )
    if details:
        return Sampled(_shaped(packed, x), _shaped(packed, confidence), int(forwards[0]))
    found: SameShape = _shaped(packed, x)
    return found


@takes(SampleOptions)
def sample_blocks(
    model: Model,
    ids: ArrayLike,
    *,
    fixed: Any = None,
    context: int | None = None,
    index: int = 0,
    **options: Unpack[SampleOptions],
) -> Ids:
    """Fills the masked positions of one sequence (L) of any length, past max_seq_len block by block; returns new ids.

    context: tokens before the first mask that a window begins with; half of max_seq_len if not given. index: the
    sequence draws from (seed, index). fixed: (L). steps is of each block, max_seconds of all.
    """
    given = known(options, SampleOptions)
    packed = Packed(ids)
    if len(packed) != 1:
        raise errors.ArgumentError(f"ids are {len(packed)} sequences, and blocks are written of one")
    x = packed.ids.copy()
    marks = packed.marks(fixed, "fixed")
    watch = SampleWatch(given, model._size, packed.lengths)
    filled = Options("dlm_sample_options", lib.dlm_sample_defaults())
    fill_options(filled, filled.struct, given, watch)
    with watch.watching():
        call(
            lib.dlm_sample_blocks,
            model._pointer,
            filled.struct,
            count(context or 0, "context"),
            count(index, "index"),
            x.size,
            pointer(x),
            pointer(marks),
            ffi.NULL,
        )
    found: Ids = _shaped(packed, x)
    return found


@takes(RefineOptions)
def refine(model: Model, ids: Any, *, fixed: Any = None, first: int = 0, **options: Unpack[RefineOptions]) -> SameShape:
    """Masks parts of sequences and draws them anew, pass after pass; returns new ids in the shape that came in.

    ids, fixed, first: as of sample, but sequences may be of any length. Longer ones than max_seq_len are refined in
    windows, and the texts one by one then. Positions that are masked are filled by the first pass.
    """
    given = known(options, RefineOptions)
    packed = Packed(ids)
    x = packed.ids.copy()
    marks = packed.marks(fixed, "fixed")
    watch = SampleWatch(given, model._size, packed.lengths)
    filled = Options("dlm_refine_options", lib.dlm_refine_defaults())
    fill_options(filled, filled.struct, given, watch)
    with watch.watching():
        call(
            lib.dlm_refine,
            model._pointer,
            filled.struct,
            count(first, "first"),
            len(packed),
            pointer(packed.lengths),
            pointer(x),
            pointer(marks),
        )
    found: SameShape = _shaped(packed, x)
    return found


def sample_length(model: Model, seed: int, index: int = 0) -> int:
    """A length in tokens for sample `index`, drawn from the model's histogram by (seed, index); without one the smaller
    of 80 and max_seq_len."""
    return int(lib.dlm_sample_length(model._pointer, count(seed, "seed"), count(index, "index")))


def sample_text(model: Model, ids: ArrayLike) -> str:
    """The text of a sample (L): up to the first end token where the model knows one, without special tokens and the one
    leading space that encoding adds. Needs the model's tokenizer."""
    array = as_ids(ids)
    if array.ndim != 1:
        raise errors.ArgumentError(f"ids have {array.ndim} dimensions, and a text has one")
    text, size = ffi.new("char **"), ffi.new("size_t *")
    call(lib.dlm_sample_text, model._pointer, pointer(array), array.size, text, size)
    return take_text(text[0], size[0])

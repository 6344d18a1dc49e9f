"""How well a model predicts texts: likelihood bounds, exact likelihoods under a sampler (docs/likelihood.md).

The functions that begin with a model are its methods too.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable, NamedTuple, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._library import Ids, Options, Packed, Watch, call, errors, ffi, lib, pointer, structure
from .data import Data, data_of
from .progress import Shown, showing
from .sampling import SampleWatch, fill_options

if TYPE_CHECKING:
    from .model import Model


@dataclass(frozen=True)
class Bound:
    """NELBO of texts, an upper bound of their negative log-likelihood.

    The standard errors and 95 % intervals are of nelbo: those of the masks tell how far it may be from the NELBO of
    just these documents, because masks were drawn; those of the documents, from that of all documents of which these
    are a sample, masks included. nan where the data do not tell.
    """

    nelbo: float  #: nats per token
    standard_error: float
    interval: tuple[float, float]
    standard_error_documents: float
    interval_documents: tuple[float, float]
    bits_per_byte: float
    tokens: int  #: that are scored


@dataclass(frozen=True)
class Evaluation:
    """What evaluate measured."""

    eval_ce: float  #: the original's: t drawn, cross-entropy over all masked positions; no bound
    perplexity: float  #: of eval_ce
    all: Bound  #: of all tokens, the end token too where the model has one
    text: Bound  #: the same passes without the end tokens' own part; without end tokens as all
    end_token: bool  #: the end token is scored in all
    exact: bool  #: by all masks: standard_error is 0
    documents: int
    windows: int
    bytes: int
    seconds: float


class Pair(NamedTuple):
    """What evaluate_pair measured: of both models, and what the second has more than the first."""

    first: Evaluation
    second: Evaluation
    difference: Evaluation  #: its standard errors are of the difference, much smaller than those of either


@dataclass(frozen=True)
class CurvePoint:
    """Cross-entropy where a share of the tokens is masked, with the two kinds of errors of Bound."""

    ratio: float
    cross_entropy: float  #: nats per masked token
    standard_error: float
    interval: tuple[float, float]
    standard_error_documents: float
    interval_documents: tuple[float, float]


@dataclass(frozen=True)
class Nelbo:
    """NELBO of n texts or sequences."""

    nats: NDArray[np.float64]  #: (n) of each
    standard_errors: NDArray[np.float64]  #: (n) by the masks drawn; 0 where exact, nan of one draw or pair
    tokens: NDArray[np.intp]  #: (n) scored, end tokens too

    @property
    def nats_per_token(self) -> NDArray[np.float64]:
        return self.nats / self.tokens


@dataclass(frozen=True)
class Score:
    """Likelihood of n texts or sequences under a sampler."""

    log_likelihood: NDArray[np.float64]  #: (n) nats; -inf where the sampler cannot write a text
    forwards: NDArray[np.intp]  #: (n) passes that the sampler takes to write each
    tokens: NDArray[np.intp]  #: (n) in each, end tokens too

    @property
    def nats_per_token(self) -> NDArray[np.float64]:
        """(n) minus the log-likelihood of each, per token."""
        return -self.log_likelihood / self.tokens


# ---- data --------------------------------------------------------------------------------------------------------


def _evaluation(result: Any) -> Evaluation:
    found = structure(result)
    return Evaluation(**{**found, "all": Bound(**found["all"]), "text": Bound(**found["text"])})


def evaluate(
    model: Model,
    data: Data | str | os.PathLike[str],
    *,
    seed: int | None = None,
    draws: int | None = None,
    masks: str | None = None,
    exact: bool | None = None,
    seq_len: int | None = None,
    max_documents: int | None = None,
    progress: Shown = None,
) -> Evaluation:
    """Measures the model on the documents of data, made with the same vocabulary.

    seed: of the masks, which are the same for every model; 1 if not given. draws: masks of each window; 2. masks:
    "independent", "complementary" (pairs that together mask every token) or "auto" (pairs where draws are even and at
    least 4). exact: all masks of each window, which may have at most 20 tokens. seq_len: the longest window of a text,
    in tokens; max_seq_len. max_documents: only the first so many. progress: None, "auto", True, or a function(stage,
    done, total, seconds), in windows, whose true value stops with Cancelled.
    """
    options = _eval_options(seed, draws, masks, exact, seq_len, max_documents)
    result = ffi.new("dlm_eval_result *")
    _watched(options, progress, lib.dlm_eval, model._pointer, data_of(data)._pointer, options.struct, result)
    return _evaluation(result[0])


def evaluate_pair(
    first: Model | str | os.PathLike[str],
    second: Model | str | os.PathLike[str],
    data: Data | str | os.PathLike[str],
    *,
    seed: int | None = None,
    draws: int | None = None,
    masks: str | None = None,
    exact: bool | None = None,
    seq_len: int | None = None,
    max_documents: int | None = None,
    progress: Shown = None,
) -> Pair:
    """Measures two models, or what Model.load takes, on the same windows (by default as long as both take) and masks.

    Options are those of evaluate. Raises MismatchError where one scores the end token, or pads, and the other does not.
    """
    from .model import model_of  # which has these functions as methods, and so needs this module first

    options = _eval_options(seed, draws, masks, exact, seq_len, max_documents)
    results, difference = ffi.new("dlm_eval_result[2]"), ffi.new("dlm_eval_result *")
    one, other = model_of(first), model_of(second)
    _watched(
        options,
        progress,
        lib.dlm_eval_pair,
        one._pointer,
        other._pointer,
        data_of(data)._pointer,
        options.struct,
        results,
        difference,
    )
    return Pair(_evaluation(results[0]), _evaluation(results[1]), _evaluation(difference[0]))


def curve(
    model: Model,
    data: Data | str | os.PathLike[str],
    ratios: ArrayLike | None = None,
    *,
    seed: int | None = None,
    draws: int | None = None,
    seq_len: int | None = None,
    max_documents: int | None = None,
    progress: Shown = None,
) -> list[CurvePoint]:
    """The cross-entropy where shares of the tokens are masked: of each window of m tokens round(ratio m), at least one,
    `draws` times.

    ratios: (n), each above 0 and at most 1; 0.05, 0.1 .. 1 if not given. The other options are those of evaluate.
    """
    shares = np.arange(1, 21) / 20 if ratios is None else np.ascontiguousarray(np.asarray(ratios, np.float64))
    if shares.ndim != 1:
        raise errors.ArgumentError(f"ratios have {shares.ndim} dimensions, and they are a list")
    options = _eval_options(seed, draws, None, None, seq_len, max_documents)
    points = ffi.new("dlm_curve_point[]", max(shares.size, 1))
    _watched(
        options,
        progress,
        lib.dlm_eval_curve,
        model._pointer,
        data_of(data)._pointer,
        options.struct,
        shares.size,
        pointer(shares),
        points,
    )
    return [CurvePoint(**structure(points[i])) for i in range(shares.size)]


def _eval_options(
    seed: int | None,
    draws: int | None,
    masks: str | None,
    exact: bool | None,
    seq_len: int | None,
    max_documents: int | None,
) -> Options:
    values = {
        "seed": seed,
        "draws": draws,
        "masks": masks,
        "exact": exact,
        "seq_len": seq_len,
        "max_documents": max_documents,
    }
    return Options("dlm_eval_options", lib.dlm_eval_defaults(), values)


def _watched(options: Options, progress: Shown, function: Callable[..., int], *arguments: Any) -> None:
    """Calls the function, whose options report to what `progress` asks for."""
    with showing(progress) as shown:
        watch = Watch(shown)
        options.watch(watch)
        with watch.watching():
            call(function, *arguments)


# ---- single texts ------------------------------------------------------------------------------------------------


class _Sequences:
    """What is scored: sequences of ids as they are, or texts, each of which is its ids with the end token where the
    model has one, in consecutive windows no longer than the model takes."""

    def __init__(self, model: Model, given: Any) -> None:
        self.is_text = isinstance(given, (str, bytes))
        several = [given] if self.is_text else given
        if not hasattr(several, "__array__") and len(several) > 0 and isinstance(several[0], (str, bytes)):
            self.is_text = True
        if not self.is_text:
            self.packed = Packed(given)
            self.windows = np.ones(len(self.packed), np.intp)
            self.tokens = self.packed.lengths.astype(np.intp)
            return
        texts = [_ids_of_text(model, text, i) for i, text in enumerate(several)]
        most = model.config.max_seq_len
        windows = [[ids[at : at + most] for at in range(0, len(ids), most)] for ids in texts]
        self.packed = Packed([window for one in windows for window in one])
        self.windows = np.array([len(one) for one in windows], np.intp)
        self.tokens = np.array([len(ids) for ids in texts], np.intp)

    def sums(self, values: NDArray[Any]) -> NDArray[Any]:
        """Of values by window their sums by text."""
        if len(self.windows) == 0:
            return values
        return np.add.reduceat(values, np.cumsum(self.windows) - self.windows)


def _ids_of_text(model: Model, text: Any, index: int) -> Ids:
    if not isinstance(text, (str, bytes)):
        raise TypeError(f"text {index} is {type(text).__name__}, and those before it are texts")
    tokenizer = model.tokenizer
    if tokenizer is None:
        raise errors.ArgumentError("this model has no tokenizer: give ids, or load it with tokenizer=")
    ids = tokenizer.encode(text, added_tokens=False)
    if len(ids) == 0:
        raise errors.ArgumentError(f"text {index} is empty")
    end = tokenizer.end_id if model.config.end_token else None
    return ids if end is None else np.append(ids, np.int32(end))


def nelbo(
    model: Model,
    texts: str | bytes | Sequence[str | bytes] | ArrayLike | Sequence[ArrayLike],
    *,
    seed: int | None = None,
    draws: int | None = None,
    masks: str | None = None,
    exact: bool | None = None,
    progress: Shown = None,
) -> Nelbo:
    """NELBO, an upper bound of the negative log-likelihood, of each of n texts or sequences.

    texts: a text or several, which are encoded, with the end token behind them where the model has one; one longer than
    the model is the sum of consecutive windows. Or ids without masks: (n, L), one sequence (L), or a list of sequences
    of 1 to max_seq_len; every id counts. seed: of the masks; 1 if not given. draws: masks of each sequence; 16, good
    standard errors take 8. masks: "auto", "independent" or "complementary". exact: all masks of each sequence, of at
    most 20 tokens. progress: None, "auto", True, or a function(stage, done, total, seconds), in masks, whose true value
    stops with Cancelled.
    """
    given = _Sequences(model, texts)
    n = len(given.packed)
    values = {"seed": seed, "draws": draws, "masks": masks, "exact": exact}
    options = Options("dlm_nelbo_options", lib.dlm_nelbo_defaults(), values)
    nats, standard_errors = np.zeros(n), np.zeros(n)
    _watched(
        options,
        progress,
        lib.dlm_nelbo,
        model._pointer,
        options.struct,
        n,
        pointer(given.packed.lengths),
        pointer(given.packed.ids),
        pointer(nats),
        pointer(standard_errors),
    )
    return Nelbo(given.sums(nats), np.sqrt(given.sums(standard_errors**2)), given.tokens)


def score(
    model: Model,
    texts: str | bytes | Sequence[str | bytes] | ArrayLike | Sequence[ArrayLike],
    *,
    fixed: Any = None,
    order: str | None = None,
    reveal: str | None = None,
    steps: int | None = None,
    reveals_per_step: int | None = None,
    confidence_threshold: float | None = None,
    entropy_bound: float | None = None,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float | None = None,
    guidance: float | None = None,
    banned: ArrayLike | None = None,
    allow: Callable[[int, int, Any, Any], Any] | None = None,
    progress: Shown = None,
) -> Score:
    """The exact log-likelihood, in nats, of each of n texts or sequences under a sampler whose order does not depend on
    what it draws: over all sequences of a length the probabilities sum up to 1.

    texts: as of nelbo. fixed: of ids, in their shape, true where an id is given: the others' likelihood is conditional
    on them. The sampler's options are those of Model.sample, but temperature is 1 if not given, and not 0; order is
    "confidence", "margin", "entropy" or "left_to_right"; steps, reveals_per_step, confidence_threshold and
    entropy_bound say how many positions a step reveals (one if none does). allow must depend on its arguments alone.
    progress: None, "auto", True, or a function(stage, done, total, seconds), in steps, whose true value stops with
    Cancelled.
    """
    given = _Sequences(model, texts)
    packed, n = given.packed, len(given.packed)
    if fixed is not None and given.is_text:
        raise errors.ArgumentError("fixed marks ids, and texts were given: encode them first")
    marks = packed.marks(fixed, "fixed")
    sampler: dict[str, Any] = {
        "order": order,
        "reveal": reveal,
        "steps": steps,
        "reveals_per_step": reveals_per_step,
        "confidence_threshold": confidence_threshold,
        "entropy_bound": entropy_bound,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "repetition_penalty": repetition_penalty,
        "guidance": guidance,
        "banned": banned,
        "allow": allow,
    }
    options = Options("dlm_score_options", lib.dlm_score_defaults())
    likelihood = np.zeros(n)
    forwards = np.zeros(n, np.uintp)
    with showing(progress) as shown:
        watch = SampleWatch(sampler, model._size, packed.lengths)
        watch.progress = shown
        fill_options(options, options.struct.sampler, sampler, watch)
        options.struct.sampler.on_step = ffi.NULL  # refused: the library has one of its own, from which progress comes
        options.watch(watch)
        with watch.watching():
            call(
                lib.dlm_score,
                model._pointer,
                options.struct,
                n,
                pointer(packed.lengths),
                pointer(packed.ids),
                pointer(marks),
                pointer(likelihood),
                pointer(forwards),
            )
    return Score(given.sums(likelihood), given.sums(forwards).astype(np.intp), given.tokens)

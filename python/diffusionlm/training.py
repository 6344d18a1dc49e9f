"""Training: a run, its steps, and what is shown of them (docs/training.md)."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable, Iterator, Literal, TypedDict

from ._library import (
    Exclusive,
    Options,
    Progress,
    Watch,
    call,
    errors,
    ffi,
    from_enum,
    lib,
    path_bytes,
    structure,
    to_enum,
)
from .data import Data, DataInfo
from .documents import Paths
from .model import Config
from .progress import Display, Pace, Shown, choose_display, clock_text, count_text, showing
from .ranks import Ranks
from .sampling import known, takes

if TYPE_CHECKING:
    from typing_extensions import Unpack


class TrainOptions(TypedDict, total=False):
    """Options of training but for where its data and its run are; _documentation has a word on each."""

    resume: bool | None
    eval_data: Data | str | os.PathLike[str] | None
    init: str | os.PathLike[str] | None
    preset: str | None
    hidden_size: int | None
    depth: int | None
    num_heads: int | None
    mlp_ratio: float | None
    time: str | None
    position: str | None
    schedule: str | None
    seq_len: int | None
    minutes: float | None
    steps: int | None
    epochs: float | None
    recipe: str | None
    weight: str | None
    optimizer: str | None
    batch: int | None
    lr: float | None
    min_lr_ratio: float | None
    weight_decay: float | None
    clip: float | None
    warmup: int | None
    ema: float | None
    tail_share: float | None
    precision: str | None
    seed: int | None
    micro_tokens: int | None
    log_every: int | None
    eval_every: int | None
    sample_every: int | None
    save_every: int | None
    eval_documents: int | None
    keep: int | None
    ranks: Ranks | None


class TextOptions(TypedDict, total=False):
    """Options of text files to train on."""

    tokenizer: str | os.PathLike[str] | None
    vocab_size: int | None
    format: str | None
    field: str | None
    replace_invalid: bool | None
    max_bytes: int | None


class RunOptions(TrainOptions, TextOptions, total=False):
    """Options of a run from text files or shards."""


_documentation = {
    "resume": "go on with the run: options are as they were if not given, what it computes cannot change, its length, "
    "the *_every and keep can",
    "eval_data": "shards to evaluate on; one document in 50 of data is held out if not given",
    "init": "a model to begin with the weights of",
    "preset": 'sizes by name: "tiny" (128 channels, 4 blocks, 4 heads), "small" (256, 8, 8) or "base" (768, 12, 12)',
    "hidden_size": "channels; 256",
    "depth": "blocks; 8",
    "num_heads": "attention heads, a divisor of the channels; 8",
    "mlp_ratio": "hidden channels of a block's MLP, in multiples of its channels; 4",
    "time": '"none", or "adaln" as the original learns the time',
    "position": '"both" learned and rotary positions, or "learned"',
    "schedule": 'of masking: "cosine" or "linear"',
    "seq_len": "tokens of the longest sequence; 256",
    "minutes": "how long: by the clock, the learning rate too; such a run does not repeat bit for bit",
    "steps": "or in optimiser steps",
    "epochs": "or in passes over the data; 6",
    "recipe": 'all other defaults: "default", or "original" as the original program',
    "weight": 'of noise levels: "elbo" (the loss is the likelihood bound), "flat", "uniform", "inv_sigma" or "sigma"',
    "optimizer": '"muon" for the blocks\' matrices (the rest stays with AdamW), or "adamw"',
    "batch": "sequences in a step",
    "lr": "the highest learning rate",
    "min_lr_ratio": "the last learning rate, as a share of the highest",
    "weight_decay": "decoupled, of every parameter",
    "clip": "the largest norm of the gradient; 0 is any",
    "warmup": "steps until the learning rate is at its highest",
    "ema": "decay of the moving average of the weights",
    "tail_share": "the share of sequences with end tokens behind their end, from which it learns to end",
    "precision": 'of matrix products: "auto" (bf16 where the processor multiplies it), "f32" or "bf16"',
    "seed": "the same seed, options, data and threads give the same run",
    "micro_tokens": "tokens of one pass; a step of more sums over several",
    "log_every": "steps between rows of log.csv; 0 is none",
    "eval_every": "steps between evaluations; 0 is none",
    "sample_every": "steps between sample texts; 0 is none",
    "save_every": "steps between checkpoints; 0 is only the last",
    "eval_documents": "documents that an evaluation reads at most; 0 is all",
    "keep": "newest checkpoints kept, besides the best; 0 is all",
    "ranks": "the processes that train together; every one has the same options",
    "tokenizer": "with files: a folder or tokenizer.json to use in place of a new tokenizer",
    "vocab_size": "with files: tokens of the new tokenizer; 1024 to 8192 by the size of the text if not given",
    "format": 'with files: "separated", "lines", "jsonl" or "whole", as Documents has it',
    "field": 'with files: of "jsonl", the field that is the document; "text" if not given',
    "replace_invalid": "with files: bytes that are no UTF-8 become U+FFFD; else they are an error",
    "max_bytes": "with files: a longer document is an error",
}


@dataclass(frozen=True)
class Report:
    """What a step did, and where the run is."""

    stepped: bool  #: a step was taken; else the run was complete already, and loss, lr and grad_norm are 0
    step: int  #: steps done,
    steps: int  #: of how many; 0: the run ends by the clock
    share: float  #: of the run that is done, 0 to 1
    epoch: float
    tokens: int  #: trained on so far
    seconds: float  #: of this and earlier parts of the run
    seconds_left: float
    loss: float  #: with the weight "elbo" nats per token
    lr: float
    grad_norm: float  #: before clipping
    tokens_per_second: float
    evaluated: bool  #: then the next three hold
    eval_ce: float
    eval_ppl: float
    eval_nelbo: float  #: nats per token
    saved: bool  #: a checkpoint was written
    sample: str | None  #: a text, when one was drawn at this step
    checkpoint: str | None  #: the newest checkpoint's folder


# ---- options ---------------------------------------------------------------------------------------------------

_length_names = ("minutes", "steps", "epochs")


def _folder(value: Data | str | os.PathLike[str] | None) -> str | os.PathLike[str] | None:
    return value.path if isinstance(value, Data) else value


def _recalled(run: str | os.PathLike[str]) -> Options | None:
    """The options that the run goes on with; None where it has no checkpoint yet."""
    options, paths = Options("dlm_train_options", {}), ffi.new("char **")
    try:
        call(lib.dlm_train_recall, path_bytes(run), options.struct, paths)
    except errors.NotFound:
        return None
    options.keep(ffi.gc(paths[0], lib.dlm_free))
    if options.struct.data != ffi.NULL and not os.path.exists(ffi.string(options.struct.data)):
        # A run that was moved has its own data with it still.
        moved = os.path.join(os.fsdecode(run), "data")
        options.set("data", moved if os.path.exists(moved) else None)
    return options


def _defaults(run: str | os.PathLike[str] | None, given: dict[str, Any]) -> Options:
    """What options begin with: those of the run that is gone on with, or of the recipe."""
    recipe = given.get("recipe")
    wanted = None if recipe is None else to_enum("dlm_recipe", recipe, "recipe")
    found = _recalled(run) if given.get("resume") and run is not None else None
    if run is None or found is None:
        of = lib.DLM_RECIPE_DEFAULT if wanted is None else wanted
        return Options("dlm_train_options", lib.dlm_train_defaults(of))
    if given.get("init") is not None:
        raise errors.ArgumentError("init is for the beginning of a run; this one goes on with its own weights")
    if wanted not in (None, found.struct.recipe):
        # Under another recipe the other options have other bounds, so this comes first.
        was = from_enum("dlm_recipe", found.struct.recipe)
        raise errors.MismatchError(
            f"{os.fsdecode(run)} goes on with other options than it began with: recipe was {was}, is {recipe}"
        )
    return found


def _train_options(data: Any, run: str | os.PathLike[str] | None, given: dict[str, Any]) -> Options:
    """A dlm_train_options from the keywords that were given."""
    given = {name: value for name, value in given.items() if value is not None}
    options = _defaults(run, given)
    preset = given.pop("preset", None)
    if preset is not None:
        call(lib.dlm_train_preset, to_enum("dlm_preset", preset, "preset"), options.struct)
    lengths = [name for name in _length_names if name in given]
    if len(lengths) > 1:
        raise errors.ArgumentError(f"{' and '.join(lengths)} are given, and a run has one length")
    if lengths:
        options.struct.minutes, options.struct.steps, options.struct.epochs = 0, 0, 0
    ranks = given.pop("ranks", None)
    if ranks is not None:
        options.struct.ranks = options.keep(ranks)._pointer
    given["data"], given["run"] = _folder(data), run
    given["eval_data"] = _folder(given.get("eval_data"))
    for name, value in given.items():
        options.set(name, value)
    options.set("resume", bool(given.get("resume")))
    return options


@takes(TrainOptions, _documentation)
def train_check(**options: Unpack[TrainOptions]) -> None:
    """Raises ArgumentError, with a sentence, unless these can be what a run is trained with, before any data is
    there."""
    made = _train_options(None, None, known(options, TrainOptions))
    call(lib.dlm_train_check, made.struct)


# ---- text files ------------------------------------------------------------------------------------------------


def _prepare(
    files: Paths,
    run: str | os.PathLike[str],
    seq_len: int,
    given: dict[str, Any],
    progress: Progress | None,
) -> str:
    """Makes the tokenizer and the shards of a run from text files, as far as they are not there yet; where the shards
    are."""
    paths = [files] if isinstance(files, (str, os.PathLike)) else list(files)
    text = Options("dlm_train_text", lib.dlm_train_text_defaults())
    names = [text.keep(ffi.new("char[]", path_bytes(path))) for path in paths]
    text.struct.files = text.keep(ffi.new("char *[]", names))
    text.struct.n = len(names)
    text.struct.seq_len = seq_len
    for name in ("format", "field", "replace_invalid", "max_bytes"):
        text.set(name, given[name], text.struct.text)
    text.set("tokenizer", given["tokenizer"])
    text.set("vocab_size", given["vocab_size"])
    text.struct.same_format = given["format"] is not None
    text.struct.same_field = given["field"] is not None
    text.struct.same_invalid = given["replace_invalid"] is not None
    text.struct.same_vocab_size = given["vocab_size"] is not None
    watch = Watch(progress)
    text.watch(watch)
    with watch.watching():
        call(lib.dlm_train_prepare, path_bytes(run), text.struct, ffi.NULL)
    return os.path.join(os.fsdecode(run), "data")


def _data_of_run(
    files: Paths | None, run: str | os.PathLike[str], options: Options, text: dict[str, Any], progress: Shown
) -> None:
    """Sets the data to train on: that given, what text files become, or what the run has."""
    idle = [name for name, value in text.items() if value is not None]
    there = os.path.exists(run)
    if files is None:
        own = os.path.join(os.fsdecode(run), "data")
        if idle:
            raise errors.ArgumentError(f"{idle[0]} goes with files; data has its tokenizer and its text already")
        if options.struct.data == ffi.NULL and options.struct.resume and os.path.exists(own):
            options.set("data", own)
        if options.struct.data == ffi.NULL:
            raise errors.ArgumentError("what to train on is missing: data or files")
        return
    if not options.struct.resume and there and (not os.path.isdir(run) or os.listdir(run)):
        raise errors.AlreadyExists(f"{os.fsdecode(run)} is already there; resume=True goes on with it")
    if options.struct.resume and not there:
        raise errors.NotFound(f"{os.fsdecode(run)}: there is no such run to resume")
    call(lib.dlm_train_check, options.struct)
    with showing(progress) as shown:
        options.set("data", _prepare(files, run, options.struct.seq_len, text, shown))


# ---- the run ---------------------------------------------------------------------------------------------------


class Trainer(Exclusive):
    """A run, step by step; iterating over it takes the steps that are left, and gives a Report of each.

        with Trainer(data="data", run="run", preset="tiny", steps=1000) as trainer:
            for report in trainer:
                print(report.step, report.loss)

    Leaving the with block, also by Ctrl-C, saves the state, and the run can be resumed from there exactly; only what
    the library itself says went wrong does not save. Used by one thread at a time. Of several ranks none saves because
    of an exception, which the others know nothing of.
    """

    @takes(RunOptions, _documentation)
    def __init__(
        self,
        data: Data | str | os.PathLike[str] | None = None,
        run: str | os.PathLike[str] | None = None,
        *,
        files: Paths | None = None,
        progress: Shown = None,
        **options: Unpack[RunOptions],
    ) -> None:
        """Opens data and makes or resumes the run.

        data: shards. run: the folder for checkpoints, log.csv, TensorBoard's files and samples.txt; Model.load(run)
        loads its newest checkpoint. files: text files in place of data, of which tokenizer and shards are made in the
        run's folder first, as far as they are not there yet. progress: of that, as of Tokenizer.train.
        """
        given = known(options, RunOptions)
        text = {name: given.pop(name, None) for name in TextOptions.__annotations__}
        if run is None:
            raise errors.ArgumentError("run, the folder for checkpoints and logs, is missing")
        if data is not None and files is not None:
            raise errors.ArgumentError("data and files exclude each other")
        made = _train_options(data, run, given)
        _data_of_run(files, run, made, text, progress)
        self._ranks: Ranks | None = given.get("ranks")
        trainer = ffi.new("dlm_trainer **")
        call(lib.dlm_trainer_create, made.struct, trainer)
        super().__init__(trainer[0], lib.dlm_trainer_free, "the trainer is", threading.RLock())
        self._stepped = False
        #: the run's folder
        self.run = run
        #: whether all steps are taken
        self.finished = False
        #: of the last step, or None
        self.report: Report | None = None

    def step(self) -> Report:
        """One optimiser step, with whatever is due after it (log, evaluation, sample, checkpoint). Of a run that is
        complete: a report that says so. Raises NotFinite where the loss or a gradient became so; nothing is written
        then, and the last good checkpoint is named."""
        memory, finished = ffi.new("dlm_train_report *"), ffi.new("bool *")
        self._stepped = True  # before: a Ctrl-C comes out of the call after the step
        with self.using() as pointer:
            call(lib.dlm_trainer_step, pointer, memory, finished)
            found = structure(memory[0])
            if found["checkpoint"] is not None:
                found["checkpoint"] = os.fsdecode(ffi.string(memory.checkpoint))
        self.report = Report(**found)
        self.finished = bool(finished[0])
        return self.report

    def __iter__(self) -> Iterator[Report]:
        while not self.finished:
            report = self.step()
            if not report.stepped:
                return
            yield report

    def save(self) -> None:
        """Writes a checkpoint now, unless the newest is of this step."""
        with self.using() as pointer:
            call(lib.dlm_trainer_save, pointer)

    @property
    def config(self) -> Config:
        """Of the model being trained."""
        with self.using() as pointer:
            return Config(**structure(lib.dlm_trainer_config(pointer)[0]))

    @property
    def data(self) -> DataInfo:
        """What is trained on."""
        with self.using() as pointer:
            return DataInfo(**structure(lib.dlm_trainer_data(pointer)))

    def __enter__(self) -> Trainer:
        return self

    def __exit__(self, kind: type[BaseException] | None, exception: BaseException | None, traceback: object) -> None:
        alone = self._ranks is None or self._ranks.size == 1
        try:
            if self.closed or not self._stepped or isinstance(exception, errors.DiffusionLMError):
                return
            if exception is None or alone:
                self.save()
        finally:
            self.close()


class _Shown:
    """A run on a display."""

    def __init__(self, display: Display) -> None:
        self._pace = Pace(display)
        self._loss, self._losses = 0.0, 0
        self._evaluated = ""

    def see(self, report: Report, finished: bool) -> None:
        # A step's loss depends much on its masks; a running mean shows where it goes.
        self._losses = min(self._losses + 1, 50)
        self._loss += (report.loss - self._loss) / self._losses
        display = self._pace.display
        if report.evaluated:
            self._evaluated = f"  held-out NELBO {report.eval_nelbo:.4f}"
            display.say(
                f"step {report.step}: held-out NELBO {report.eval_nelbo:.4f} nats per token, "
                f"cross-entropy {report.eval_ce:.4f}, perplexity {report.eval_ppl:.2f}"
            )
        if report.sample is not None:
            display.say(f"step {report.step} writes: {report.sample}")
        self._pace.draw(lambda: report.share, lambda: self._line(report), now=finished)

    def _line(self, report: Report) -> str:
        of = f"/{report.steps}" if report.steps else ""
        return (
            f"step {report.step}{of}  loss {self._loss:.4f}{self._evaluated}  lr {report.lr:.2e}  "
            f"{count_text(report.tokens_per_second)} tokens/s  {clock_text(report.seconds_left)} left"
        )


@takes(RunOptions, _documentation)
def train(
    data: Data | str | os.PathLike[str] | None = None,
    run: str | os.PathLike[str] | None = None,
    *,
    files: Paths | None = None,
    callback: Callable[[Report], Any] | None = None,
    progress: bool | Literal["auto"] | None = "auto",
    **options: Unpack[RunOptions],
) -> Report:
    """Trains a model to the end of its run; returns the last step's report. Model.load(run) loads what came out.

    data: shards that prepare made. run: the folder for checkpoints, log.csv, TensorBoard's files and samples.txt.
    files: text files in place of data, of which tokenizer and shards are made in the run's folder first, as far as they
    are not there yet. callback(report): called after each step; a true value stops (of one rank, all of them).
    progress: "auto" (a bar on a terminal and in a notebook), True (lines elsewhere) or False; rank 0 alone shows it.

    However it is stopped, by the callback, by an exception of its, or by Ctrl-C (which comes out as KeyboardInterrupt),
    the state is saved, and resume=True goes on with the same bytes as a run that was never stopped.
    """
    ranks = options.get("ranks")
    if ranks is not None and ranks.rank > 0:
        progress = False
    display = choose_display(progress)
    try:
        with Trainer(data, run, files=files, progress=progress, **options) as trainer:
            shown = _Shown(display)
            for report in trainer:
                shown.see(report, trainer.finished)
                stop = callback is not None and bool(callback(report))
                if ranks is not None:
                    stop = bool(ranks.max(stop))
                if stop:
                    break
            return trainer.report if trainer.report is not None else trainer.step()
    finally:
        display.close()

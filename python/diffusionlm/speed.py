"""How fast this machine is with a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ._library import Options, Watch, call, ffi, lib, structure
from .progress import Shown, showing

if TYPE_CHECKING:
    from .model import Model


@dataclass(frozen=True)
class Speed:
    """What a measurement gave."""

    seconds: float  #: of one repetition, the median
    fastest: float  #: the least
    repetitions: int  #: that were timed
    tokens: int  #: of one repetition
    forwards: int  #: forward passes of one repetition; a step of training counts as one
    threads: int

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds if self.seconds > 0 else float("inf")


def measure_speed(
    model: Model,
    work: str = "forward",
    *,
    sequences: int | None = None,
    length: int | None = None,
    seconds: float | None = None,
    seed: int | None = None,
    progress: Shown = None,
) -> Speed:
    """Measures a piece of work on random ids; the model stays as it is.

    work: "forward" (the logits of every position), "sample" (Model.sample by its defaults, from masks) or "train" (a
    step by the defaults of the model's recipe). sequences: worked on at once; 1 if not given. length: positions of
    each; 80, or as many as the model takes. seconds: the work is repeated for so long, and three times at least; 1.
    seed: of the ids; 0. progress: None, "auto", True, or a function(stage, done, total, seconds), in repetitions, whose
    true value stops with Cancelled.
    """
    options = Options(
        "dlm_speed_options",
        lib.dlm_speed_defaults(),
        {"work": work, "sequences": sequences, "length": length, "seconds": seconds, "seed": seed},
    )
    if length is None:
        options.struct.length = min(options.struct.length, model.config.max_seq_len)
    speed = ffi.new("dlm_speed *")
    with showing(progress) as shown:
        watch = Watch(shown)
        options.watch(watch)
        with watch.watching():
            call(lib.dlm_speed_measure, model._pointer, options.struct, speed)
    return Speed(**structure(speed[0]))

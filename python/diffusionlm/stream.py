"""Sampling as a generator: each step's changes as they come.

The C call blocks until all is sampled, so it runs in a thread of its own. Steps go from there to the generator one at a
time: the thread is at most one step ahead of who reads. When the generator is closed, by whatever way, the thread is
told to stop, does so at its next step, and is waited for.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Callable, Iterator, Union

import numpy as np
from numpy.typing import NDArray

from ._library import Ids, Packed, set_threads, threads
from .sampling import SampleOptions, Step, known, sample, takes

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .model import Model
    from .sampling import StepCallback

    Changes = tuple[NDArray[np.intp], Ids]
else:
    Changes = tuple

MASKED = -1

Texts = Union[NDArray[Any], "list[NDArray[Any]]"]


class StreamStep(Changes):
    """(positions, ids): what a step changed, in order. First come the positions that lost their token, with id -1, then
    those that got one; a token that was drawn anew is among both.

    positions: (k) where one sequence is sampled, (k, 2) rows (sequence, position) where several are.
    ids: (k) int32.
    step, steps: how many are done, of how many; 0 before the first: what was given.
    x: a copy of the ids so far: (L) of one sequence, (n, L) of several, a list where their lengths differ.
    confidence: float32, likewise: of each position when it was revealed, 0 while masked, 1 where fixed.
    times: (n) the time t at which each sequence of this step last went through the model.
    forwards: passes so far.
    """

    positions: NDArray[np.intp]
    ids: Ids
    step: int
    steps: int
    x: Texts
    confidence: Texts
    times: NDArray[np.float64]
    forwards: int

    def __new__(cls, positions: NDArray[np.intp], ids: Ids, **more: Any) -> StreamStep:
        made = super().__new__(cls, (positions, ids))
        made.positions, made.ids = positions, ids
        for name, value in more.items():
            setattr(made, name, value)
        return made


class Replay:
    """The texts as they were after the last step that was seen, and from that what a step changes.

    texts: the ids that each sequence begins with, where all are known; else a sequence begins as masks. first: the
    index of the first.
    """

    def __init__(self, n: int, first: int, texts: list[Ids] | None = None) -> None:
        self._first = first
        self._ids: list[Ids | None] = [None] * n if texts is None else [text.copy() for text in texts]
        self._confidence = [None if ids is None else np.zeros(ids.size, np.float32) for ids in self._ids]

    def changes(self, seen: Step) -> StreamStep | None:
        """What this step changed; None where it is the begin, and nothing is given that was not known."""
        lost: list[NDArray[np.intp]] = []
        got: list[NDArray[np.intp]] = []
        new: list[Ids] = [np.empty(0, np.int32)]
        parts = zip(seen.split(seen.ids), seen.split(seen.confidence), seen.split(seen.fixed))
        for b, (ids, confidence, fixed) in enumerate(parts):
            at = seen.first - self._first + b
            before, sure = self._ids[at], self._confidence[at]
            if before is None or sure is None:
                before, sure = np.full(ids.size, seen.mask_id, np.int32), np.zeros(ids.size, np.float32)
                now = ids.copy()
            else:
                now = np.where(fixed, before, ids)  # what a callback did to a fixed position is undone
            differs = now != before
            if seen.step > 0:
                differs |= (confidence != sure) & ~fixed
            lost.append(self._places(at, differs & (before != seen.mask_id)))
            got.append(self._places(at, differs & (now != seen.mask_id)))
            new.append(now[differs & (now != seen.mask_id)])
            self._ids[at], self._confidence[at] = now, confidence.copy()
        if seen.step == 0 and not any(len(places) for places in (*lost, *got)):
            return None
        gone = np.full(sum(map(len, lost)), MASKED, np.int32)
        return StreamStep(
            np.concatenate([*lost, *got]),
            np.concatenate([gone, *new]),
            step=seen.step,
            steps=seen.steps,
            x=self._copy(self._ids),
            confidence=self._copy(self._confidence),
            times=seen.times.copy(),
            forwards=seen.forwards,
        )

    def _places(self, sequence: int, chosen: NDArray[np.bool_]) -> NDArray[np.intp]:
        places = np.flatnonzero(chosen)
        if len(self._ids) == 1:
            return places
        return np.column_stack([np.full(len(places), sequence, np.intp), places])

    def _copy(self, parts: list[Any]) -> Texts:
        known = [part.copy() for part in parts if part is not None]
        if len(self._ids) == 1:
            one: NDArray[Any] = known[0]
            return one
        same = len(known) == len(parts) and len({part.size for part in known}) == 1
        return np.stack(known) if same else known


class _Channel:
    """Hands values from one thread to another: there is room for one."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._value: Any = None
        self._closed = False  # by who reads
        self._ended = False  # by who writes

    def put(self, value: Any) -> bool:
        """Waits until there is room; False when nobody reads any more."""
        with self._changed:
            while self._value is not None and not self._closed:
                self._changed.wait()
            if not self._closed:
                self._value = value
            self._changed.notify_all()
            return not self._closed

    def get(self) -> Any:
        """Waits for the next value; None when there will be no other."""
        with self._changed:
            while self._value is None and not self._ended:
                self._changed.wait()
            value, self._value = self._value, None
            self._changed.notify_all()
            return value

    @property
    def closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def end(self) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify_all()


def steps_of(
    run: Callable[[StepCallback], Any], replay: Replay, on_step: StepCallback | None = None
) -> Iterator[StreamStep]:
    """The steps of run(callback), which is called in a thread of its own with the threads that the caller has set. The
    caller's on_step is called there, too, before a step is handed over."""
    return _steps(run, replay, on_step, threads())


def _steps(run: Any, replay: Replay, on_step: StepCallback | None, inherited: int) -> Iterator[StreamStep]:
    channel = _Channel()
    failures: list[BaseException] = []

    def hand_over(step: Step) -> None:
        changes = replay.changes(step)
        if changes is not None:
            channel.put(changes)

    def see(step: Step) -> bool:
        if step.step == 0:
            hand_over(step)  # what is given, before anybody changes it
        stop = on_step is not None and bool(on_step(step))
        if step.step > 0 or on_step is not None:
            hand_over(step)
        return stop or channel.closed

    def work() -> None:
        try:
            set_threads(inherited)
            run(see)
        except BaseException as failure:  # whatever it is, it is raised where the steps are read
            failures.append(failure)
        finally:
            channel.end()

    thread = threading.Thread(target=work, name="diffusionlm stream", daemon=True)
    thread.start()
    try:
        while (changes := channel.get()) is not None:
            yield changes
    finally:
        channel.close()
        thread.join()
    if failures:
        raise failures[0]


@takes(SampleOptions)
def stream(
    model: Model, ids: Any, *, fixed: Any = None, first: int = 0, **options: Unpack[SampleOptions]
) -> Iterator[StreamStep]:
    """As sample, step by step: `for positions, ids in model.stream(model.masks(1, 80)[0]): ...`.

    Each StreamStep has what changed, and further attributes. Followed from the ids that were given, the steps end
    with what sample returns. The model works in a thread of its own, at most one step ahead; closing or leaving the
    generator ends it, and what goes wrong there is raised here. on_step is called in that thread.
    """
    given = known(options, SampleOptions)
    on_step = given.pop("on_step", None)
    packed = Packed(ids)
    texts = packed.split(packed.ids)
    replay = Replay(len(texts), first, texts)
    return steps_of(lambda see: sample(model, ids, fixed=fixed, first=first, on_step=see, **given), replay, on_step)

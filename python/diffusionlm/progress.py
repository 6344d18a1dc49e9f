"""How far long calls are: one line on a terminal, a bar in a notebook, both without anything to install.

A notebook is known by IPython being loaded already, and running in a kernel; it is never imported for this.
"""

from __future__ import annotations

import contextlib
import html
import shutil
import sys
import time
from typing import Any, Callable, Iterator, Literal, Union

from ._library import Progress, errors

#: What `progress` of a call may be: "auto" shows it on a terminal and in a notebook, True elsewhere too, in a line now
#: and then; a function is called as function(stage, done, total, seconds), and its true value stops with Cancelled.
Shown = Union[Progress, bool, Literal["auto"], None]

_BETWEEN = 0.1  # seconds from one drawing to the next
_BETWEEN_LINES = 10.0
_WIDTH = 20  # characters of a bar


def count_text(n: float) -> str:
    """1234567 as "1.2M"."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if n >= size:
            return f"{n / size:.1f}{letter}"
    return f"{n:.0f}"


def clock_text(seconds: float) -> str:
    """3671 as "1:01:11", 71 as "1:11"."""
    whole = max(0, round(seconds))
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def bar_text(share: float) -> str:
    """A share of 0 to 1 as characters."""
    full = round(min(max(share, 0.0), 1.0) * _WIDTH)
    return "[" + "#" * full + "." * (_WIDTH - full) + "]"


def printable(text: str) -> str:
    """Text that cannot command a terminal: nothing but what is seen, and line ends."""
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)


class Display:
    """A line that changes, and lines that stay. This one shows neither."""

    between = float("inf")  #: seconds from one drawing to the next

    def draw(self, share: float | None, text: str) -> None:
        """share: of what is done, 0 to 1, or None where that is not known."""

    def say(self, text: str) -> None:
        """A line that stays."""

    def close(self) -> None:
        """What was drawn last is done with."""


class TerminalDisplay(Display):
    """One line on standard error that is written again and again."""

    between = _BETWEEN

    def draw(self, share: float | None, text: str) -> None:
        line = text if share is None else f"{bar_text(share)} {100 * share:3.0f}%  {text}"
        width = max(1, shutil.get_terminal_size().columns - 1)
        sys.stderr.write("\r" + printable(line)[:width] + "\x1b[K")
        sys.stderr.flush()

    def say(self, text: str) -> None:
        sys.stderr.write("\r\x1b[K" + printable(text) + "\n")
        sys.stderr.flush()

    def close(self) -> None:
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()


class LineDisplay(Display):
    """A line on standard error now and then."""

    between = _BETWEEN_LINES

    def draw(self, share: float | None, text: str) -> None:
        self.say(text if share is None else f"{100 * share:3.0f}%  {text}")

    def say(self, text: str) -> None:
        print(printable(text), file=sys.stderr, flush=True)


class NotebookDisplay(Display):
    """A bar below a notebook's cell, which is updated in place; lines stay under it."""

    between = 0.25

    def __init__(self) -> None:
        self._share: float | None = None
        self._text = ""
        self._lines: list[str] = []
        self._handle: Any = None

    def _repr_html_(self) -> str:
        value = "" if self._share is None else f' value="{self._share:.4f}" max="1"'
        lines = "".join(f"<div>{html.escape(line)}</div>" for line in self._lines)
        return f"<div><progress{value}></progress> <code>{html.escape(self._text)}</code></div>{lines}"

    def __repr__(self) -> str:
        first = self._text if self._share is None else f"{bar_text(self._share)} {self._text}"
        return "\n".join([first, *self._lines])

    def _show(self) -> None:
        if self._handle is None:
            self._handle = sys.modules["IPython"].display.display(self, display_id=True)
        else:
            self._handle.update(self)

    def draw(self, share: float | None, text: str) -> None:
        self._share, self._text = share, text
        self._show()

    def say(self, text: str) -> None:
        self._lines = [*self._lines[-9:], text]
        self._show()


def in_notebook() -> bool:
    """Whether this is a kernel of IPython's."""
    module = sys.modules.get("IPython")
    shell = module.get_ipython() if module is not None and hasattr(module, "get_ipython") else None
    return getattr(shell, "kernel", None) is not None


def choose_display(shown: bool | str | None) -> Display:
    """The display for what `progress` of a call asks for."""
    if shown not in (True, False, None, "auto"):
        raise errors.ArgumentError(f'progress is {shown!r}, and it is "auto", True, False or a function')
    if not shown:
        return Display()
    if in_notebook():
        return NotebookDisplay()
    open_stream = sys.stderr is not None and not sys.stderr.closed
    if open_stream and sys.stderr.isatty():
        return TerminalDisplay()
    return LineDisplay() if shown is True and open_stream else Display()


class Pace:
    """Draws on a display no oftener than that wants."""

    def __init__(self, display: Display) -> None:
        self.display = display
        self._last = float("-inf")

    def draw(self, share: Callable[[], float | None], text: Callable[[], str], *, now: bool = False) -> None:
        """What is drawn is only asked for when it is time. now: it is time."""
        clock = time.monotonic()
        if self.display.between == float("inf") or (not now and clock - self._last < self.display.between):
            return
        self._last = clock
        self.display.draw(share(), text())


@contextlib.contextmanager
def showing(shown: Shown) -> Iterator[Progress | None]:
    """The function that the library reports to, for what `progress` of a call asks for."""
    if callable(shown):
        yield shown
        return
    display = choose_display(shown)
    if type(display) is Display:
        yield None
        return
    pace = Pace(display)
    begun: dict[str, tuple[float, int]] = {}  # of each stage: when it began, and with how much

    def report(stage: str, done: int, total: int, seconds: float) -> None:
        since, first = begun.setdefault(stage, (seconds, done))

        def text() -> str:
            rate = (done - first) / (seconds - since) if seconds > since else 0.0
            amount = f"  {count_text(done)}" + (f"/{count_text(total)}" if total else "") if done or total else ""
            left = f"  {clock_text((total - done) / rate)} left" if total and rate else ""
            speed = f"  {count_text(rate)}/s" if rate else ""
            return f"{stage}{amount}{speed}{left}"

        pace.draw(lambda: done / total if total else None, text)

    try:
        yield report
    finally:
        display.close()

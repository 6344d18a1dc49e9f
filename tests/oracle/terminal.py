"""A terminal for tests: a pseudo terminal to run the command on, and what its user sees there, by pyte."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time

import pyte

MASK = "\u2591"
# All that the command may send: colours, up, erase, cursor off and on; no other control characters than line ends.
FORBIDDEN = re.compile("\x1b(?!\\[[0-9;]*[mKJA]|\\[\\?25[lh])|[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f]")


class Screen(pyte.HistoryScreen):
    """Also breaks lines when it is made narrower, as most terminals do, and keeps what a finished frame (one that ends
    with "erase what is below") looked like."""

    def __init__(self, columns, rows):
        super().__init__(columns, rows, history=10000)
        self.stream = pyte.Stream(self)
        self.frames, self.wraps = [], 0

    def draw(self, data):
        for character in data:
            self.wraps += self.cursor.x == self.columns
            super().draw(character)

    def feed(self, text):
        """What was sent, and where a (columns, rows) stands, a change of size."""
        for part in [text] if isinstance(text, str) else text:
            if isinstance(part, tuple):
                self.change_size(*part)
                continue
            assert not FORBIDDEN.search(part), repr(part)
            for frame in re.split("(?<=\x1b\\[J)", part):
                self.stream.feed(frame)
                if frame.endswith("\x1b[0m\x1b[J"):
                    self.frames.append(Frame(self))

    def cells(self):
        return [[self.buffer[y][x] for x in range(self.columns)] for y in range(self.lines)]

    def change_size(self, columns, rows):
        broken, at = [], None
        for y, row in enumerate(self.cells()):
            width = max((x + 1 for x, cell in enumerate(row) if cell.data != " "), default=1)
            if y == self.cursor.y:
                at = len(broken) + self.cursor.x // columns, self.cursor.x % columns
            broken += [row[x : min(x + columns, width)] for x in range(0, width, columns)]
        last = max([at[0], *(y for y, row in enumerate(broken) if any(cell.data != " " for cell in row))])
        away = max(0, last + 1 - rows)
        for row in broken[:away]:
            self.history.top.append(dict(enumerate(row)))
        self.resize(rows, columns)
        self.buffer.clear()
        for y, row in enumerate(broken[away : away + rows]):
            for x, cell in enumerate(row):
                self.buffer[y][x] = cell
        self.cursor.y, self.cursor.x = at[0] - away, at[1]

    def text(self):
        """Everything that can be read on it, the lines that were scrolled away too, without the spaces behind lines."""
        above = ["".join(row[x].data for x in sorted(row)) for row in self.history.top]
        return "\n".join(line.rstrip() for line in [*above, *self.display]).rstrip("\n")

    @property
    def cursor_shown(self):
        return not self.cursor.hidden


class Frame:
    def __init__(self, screen):
        self.columns, self.rows, self.wraps = screen.columns, screen.lines, screen.wraps
        self.lines = [line.rstrip() for line in screen.display]
        self.cells = screen.cells()
        self.scrolled = len(screen.history.top)
        while self.lines and not self.lines[-1]:
            self.lines.pop()

    def text(self):
        return "\n".join(self.lines)

    def body(self, below=2):
        """The cells of the text, above the empty row and the `below` others."""
        return [cell for row in self.cells[: len(self.lines) - below] for cell in row]


class Typed:
    """What happens when `mark` was sent for the nth time: action(terminal) with its file descriptors and child."""

    def __init__(self, mark, action, times=1):
        self.mark, self.action, self.times = mark.encode(), action, times


class Terminal:
    """A run of the command on a terminal of its own: `sent` has what came, `parts` the same with changes of size."""

    def __init__(self, program, arguments, columns, rows, typed, environment):
        self.controller, self.terminal = pty.openpty()
        self.sent, self.parts = b"", [b""]
        self.resize(columns, rows, first=True)
        self.before = termios.tcgetattr(self.terminal)
        inherited = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLORTERM", "TERM")}
        self.child = subprocess.Popen(
            [program, *map(str, arguments)], stdin=self.terminal, stdout=self.terminal, stderr=self.terminal,
            start_new_session=True, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
            env={**inherited, "TERM": "xterm", **environment},
        )  # fmt: skip
        try:
            self.read(list(typed))
            self.after = termios.tcgetattr(self.terminal)
            self.status = self.child.wait(10)
        finally:
            if self.child.poll() is None:
                self.child.kill()
                self.child.wait()
            os.close(self.controller)
            os.close(self.terminal)
        self.parts = [part if isinstance(part, tuple) else part.decode() for part in self.parts]

    def resize(self, columns, rows, first=False):
        fcntl.ioctl(self.terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        if not first:
            self.parts += [(columns, rows), b""]

    def type(self, text):
        os.write(self.controller, text)

    def read(self, typed, limit=120):
        end = time.monotonic() + limit
        while time.monotonic() < end:
            readable, _, _ = select.select([self.controller], [], [], 0.05)
            if readable:
                came = os.read(self.controller, 65536)
                self.sent += came
                self.parts[-1] += came
            elif self.child.poll() is not None:
                return
            if typed and self.sent.count(typed[0].mark) >= typed[0].times:
                typed.pop(0).action(self)

    def screen(self, columns, rows):
        """What its user saw; sizes are those of the beginning."""
        seen = Screen(columns, rows)
        seen.feed(self.parts)
        return seen


def on_terminal(program, *arguments, columns=60, rows=24, typed=(), interrupt_at=None, term="xterm", **environment):
    """What came of it, a Terminal. interrupt_at: Ctrl-C is typed when that was sent."""
    if interrupt_at is not None:
        typed = [Typed(interrupt_at, lambda terminal: terminal.type(b"\x03"))]
    return Terminal(program, arguments, columns, rows, typed, {"TERM": term, **environment})

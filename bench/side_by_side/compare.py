"""Both sides in turn, round by round, and what comes of it."""

from dataclasses import dataclass, field
from statistics import median

DROPPED = 1.5  # a competitor this much slower than the best of the first round is not asked again


class OutOfTime(Exception):
    """The time for all that is measured is up."""


@dataclass
class Line:
    """One line of the table. met: whether the goal is, or None without a verdict; failed: there is no figure of one
    side."""

    row: str
    what: str
    ours: str = ""
    theirs: str = ""
    ratio: float | None = None
    goal: str = ""
    met: bool | None = None
    failed: bool = False
    note: str = ""
    figures: dict = field(default_factory=dict)

    def say(self, *notes: str) -> None:
        self.note = "; ".join(filter(None, [self.note, *notes]))


def in_turn(ours, theirs, rounds: int, key: str, more_is_better: bool) -> dict[str, list[float]]:
    """Figures of each side by its name; a side keeps all its answers. Of the competitors only those near the best are
    measured in all rounds. When time is up, the rounds until then count, if each side has had its turn."""
    figures: dict[str, list[float]] = {side.name: [] for side in [*ours, *theirs]}
    still = list(theirs)
    try:
        for turn in range(rounds):
            sides = [*ours, *still]
            for side in sides if turn % 2 == 0 else sides[::-1]:
                figure = side.measure()
                if figure is None:
                    still = [other for other in still if other is not side]
                else:
                    figures[side.name].append(figure[key])
                    side.answers.append(figure)
            if turn == 0 and len(still) > 1:
                cost = {s.name: 1 / figures[s.name][0] if more_is_better else figures[s.name][0] for s in still}
                for side in [s for s in still if cost[s.name] > DROPPED * min(cost.values())]:
                    side.close()
                    still.remove(side)
    except OutOfTime:
        if not all(figures[side.name] for side in [*ours, *still]):
            raise
    finally:
        for side in [*ours, *theirs]:
            side.close()
    return figures


def shown(values: list[float], unit: str) -> str:
    """Median and, of several, the spread."""
    if not values:
        return "-"
    text = f"{median(values):,.4g}" if median(values) < 1000 else f"{median(values):,.0f}"
    if len(values) > 1:
        text += f" ({min(values):,.3g} to {max(values):,.3g})"
    return f"{text} {unit}"


def ratio_line(row, what, name, figures, competitors, unit, more_is_better, goal=None, note="", required=()) -> Line:
    """The side `name` beside the best of the competitors. goal: how many times as fast. required: competitors without
    whom the goal says nothing. Where a figure is missing the line has failed, and its goal is not met."""
    mine = figures[name]
    there = {c: figures[c] for c in competitors if figures[c]}
    line = Line(
        row, what, f"{name}: {shown(mine, unit)}", note=note, figures={n: figures[n] for n in [name, *competitors]}
    )
    missing = [c for c in [name, *required] if not figures[c]] or ([] if there else competitors)
    if mine and there:
        best = (max if more_is_better else min)(there, key=lambda c: median(there[c]))
        line.theirs = f"{best}: {shown(there[best], unit)}"
        line.ratio = median(mine) / median(there[best]) if more_is_better else median(there[best]) / median(mine)
    if goal:
        line.goal, line.met = f"{goal:g} x", not missing and line.ratio >= goal
    if missing:
        line.failed = True
        line.say(f"no figure of {', '.join(missing)}")
    return line

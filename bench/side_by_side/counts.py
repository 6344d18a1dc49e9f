"""What our program computes, as bench/counted.c has counted it: the products and the bytes of a step or of texts. The
counts are of what is run. Much of what a formula of the model has is left out: positions whose logits nobody wants in
the last block, a first step that all texts share, modulations that are kept."""

import json
import math
import os
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

from setting import Setting
from sides import generate_command, log_rows, train_command


@dataclass(frozen=True)
class Product:
    """Y (M,N) = op(A) op(B), as training calls it. rows: how many positions or masked positions it is about."""

    M: int
    N: int
    K: int
    ta: int = 0
    tb: int = 1
    accumulate: int = 0
    right: str = "panels"

    @property
    def flop(self) -> float:
        return 2.0 * self.M * self.N * self.K

    @property
    def rows(self) -> int:
        return self.K if self.ta else self.M

    def of_rows(self, rows: int) -> "Product":
        return replace(self, K=rows) if self.ta else replace(self, M=rows)

    def words(self) -> list:
        return [self.M, self.N, self.K, self.ta, self.tb, self.accumulate, self.right]


class Count:
    """Of some calls, shared by `steps` steps, which took so many seconds each."""

    def __init__(self, calls: list[dict], steps: int = 1, step_seconds: float = math.nan):
        self.calls, self.steps, self.step_seconds = calls, steps, step_seconds

    def products(self) -> list[tuple[float, Product]]:
        """(how often in a step, of what sizes)"""
        keys = ("M", "N", "K", "ta", "tb", "accumulate", "right")
        found: dict[Product, float] = {}
        for call in self.calls:
            if call["call"] == "product":
                product = Product(*(call[key] for key in keys))
                found[product] = found.get(product, 0) + call["count"] / self.steps
        return [(n, product) for product, n in found.items()]

    def flop(self, *calls: str) -> float:
        return sum(c["flop"] for c in self.calls if not calls or c["call"] in calls) / self.steps

    def bytes(self, *calls: str) -> float:
        return sum(c["bytes"] for c in self.calls if c["call"] in calls) / self.steps

    def seconds(self, *calls: str) -> float:
        return sum(c["seconds"] for c in self.calls if c["call"] in calls) / self.steps

    def names(self) -> set[str]:
        return {call["call"] for call in self.calls}

    def rest_bytes(self) -> float:
        """Of all but products and attention."""
        return self.bytes(*self.names() - {"product", "attention"})


FEW = 64  # rows: so many a sequence's time has, and no more


def alike(products: list[tuple[float, Product]]) -> list[tuple[float, Product]]:
    """The same work in fewer sizes, to be timed: of products that differ in their rows alone, those with fewer than the
    most (masked rows, of which each pass has another number) become one of their mean. The count keeps the work."""
    families: dict[Product, list[tuple[float, Product]]] = {}
    for n, product in products:
        families.setdefault(product.of_rows(0), []).append((n, product))
    made = []
    for family in families.values():
        most = max(product.rows for _, product in family)
        made += [(n, product) for n, product in family if not FEW <= product.rows < most]
        masked = [(n, product) for n, product in family if FEW <= product.rows < most]
        if masked:
            calls, rows = sum(n for n, _ in masked), sum(n * product.rows for n, product in masked)
            mean = masked[0][1].of_rows(math.ceil(rows / calls))
            made.append((rows / mean.rows, mean))
    return made


def run_counted(setting: Setting, name: str, arguments: list) -> list[dict]:
    to = setting.work / f"counted-{name}.jsonl"
    to.unlink(missing_ok=True)
    environment = os.environ | {"COUNTED_TO": str(to)}
    setting.run([setting.counted, *arguments, "--threads", setting.threads], stdout=subprocess.DEVNULL, env=environment)
    return [json.loads(line) for line in Path(to).read_text().splitlines()]


def training(setting: Setting, preset: str, batch: int) -> Count:
    """A step of those that are timed: all but the first. (One more is run, since the last is followed by a save.)"""
    if (preset, batch) not in setting.counts:
        steps = setting.size.train_steps
        line = train_command(setting, preset, batch, steps + 2, "--recipe", "original", "--precision", "auto")
        calls = run_counted(setting, "training", line)
        log = log_rows(setting.work / "run")
        took = (log[steps]["seconds"] - log[0]["seconds"]) / steps
        setting.counts[preset, batch] = Count([c for c in calls if 2 <= c["step"] <= steps + 1], steps, took)
    return setting.counts[preset, batch]


def texts(setting: Setting, preset: str, precision: str) -> Count:
    return Count(run_counted(setting, "texts", generate_command(setting, preset, precision)))

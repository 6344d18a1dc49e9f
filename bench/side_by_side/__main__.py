"""Runs both sides in turn and prints a table of ratios, as Markdown; all figures go to a file of JSON.

python bench/side_by_side [--rows encode,forward] [--mode full|quick|test] ...     (`make bench` calls it)
"""

import argparse
import json
import sys
import time
import traceback
from dataclasses import asdict
from pathlib import Path

import setting as s
from compare import Line
from rows import ROWS

QUICK_SECONDS = 180
# What a row takes in quick mode, in seconds, at least: to tell which still fit.
QUICK_COST = {
    "machine": 10,
    "encode": 10,
    "tokenizer-train": 12,
    "start": 8,
    "forward": 45,
    "generate-small": 40,
    "train-small": 60,
    "memory": 60,
    "generate-base": 200,
    "train-base": 300,
    "products": 300,
    "likelihood": 1000,
}


def arguments() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--rows", default="", help="separated by commas: " + ", ".join(ROWS))
    p.add_argument("--mode", choices=s.SIZES, default="full")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--rounds", type=int, help="of both sides in turn, in place of the mode's")
    p.add_argument("--original-limit", type=float, default=3600, help="seconds for the original's recipe in PyTorch")
    p.add_argument("--program", type=Path, default=s.ROOT / "build/diffusionlm")
    p.add_argument("--measure", type=Path, required=True, help="the built bench/measure.c")
    p.add_argument("--golden", type=Path, default=s.ROOT / "build/golden")
    p.add_argument("--output", type=Path, default=s.ROOT / "build/bench")
    a = p.parse_args()
    a.chosen = [name for name in a.rows.split(",") if name] or list(ROWS)
    unknown = [name for name in a.chosen if name not in ROWS]
    if unknown:
        p.error(f"no row {', '.join(unknown)}: there are {', '.join(ROWS)}")
    return a


def cells(line: Line) -> list[str]:
    ratio = "" if line.ratio is None else f"{line.ratio:.2f}" if line.ratio < 10 else f"{line.ratio:.0f}"
    met = {True: "met", False: "not met", None: ""}[line.met]
    return [line.row, line.what, line.ours, line.theirs, ratio, line.goal, met, line.note]


def show(line: Line) -> None:
    print("| " + " | ".join(cells(line)) + " |", flush=True)


def head(about: dict) -> None:
    sets = ", ".join(about["instruction_sets"]) or "none of those known"
    print(
        f"{about['cpu']}, {about['cores']} cores ({sets}), {about['threads']} threads, load {about['load']:.1f}; "
        f"{about['diffusionlm']}, PyTorch {about['torch']}, tokenizers {about['tokenizers']}, "
        f"ONNX Runtime {about['onnxruntime'] or 'not installed'}; goals of class {about['class']}\n"
    )
    print(
        "| row | work | here | there | ratio | goal | | |\n| --- | --- | --- | --- | --- | --- | --- | --- |",
        flush=True,
    )


def run_row(name: str, setting: s.Setting, kind: str) -> list[Line]:
    work, goals = ROWS[name]
    try:
        return work(setting, goals.get(kind))
    except Exception as failure:  # a row that fails is told of, and the others go on
        traceback.print_exc(file=sys.stderr)
        return [Line(name, "failed", note=f"{type(failure).__name__}: {failure}".splitlines()[0], met=False)]


def main() -> int:
    a = arguments()
    size = s.SIZES[a.mode]
    size.rounds = a.rounds or size.rounds
    a.output.mkdir(parents=True, exist_ok=True)
    where = {key: value.absolute() for key, value in vars(a).items() if isinstance(value, Path)}
    setting = s.Setting(
        size, a.threads, where["program"], where["measure"], where["golden"], where["output"], a.original_limit
    )
    about = s.describe(setting)
    begin, lines, left_out = time.monotonic(), [], []
    head(about)
    for name in a.chosen:
        if a.mode == "quick" and not a.rows and time.monotonic() - begin + QUICK_COST[name] > QUICK_SECONDS:
            left_out.append(name)
            continue
        for line in run_row(name, setting, about["class"]):
            lines.append(line)
            show(line)
    if left_out:
        print(f"\nLeft out, since they do not fit into three minutes: {', '.join(left_out)}.")
    results = a.output / "results.json"
    results.write_text(
        json.dumps(
            {
                "machine": about,
                "mode": a.mode,
                "rounds": size.rounds,
                "seconds": time.monotonic() - begin,
                "left_out": left_out,
                "lines": [asdict(line) for line in lines],
            },
            indent=1,
        )
        + "\n"
    )
    met, missed = (sum(line.met is verdict for line in lines) for verdict in (True, False))
    print(
        f"\n{met} goals met, {missed} not; all figures "
        f"are in {results}. Ratios are of medians of {size.rounds} rounds in turn; in brackets the least and the most."
    )
    return int(any(line.what == "failed" for line in lines))


if __name__ == "__main__":
    sys.exit(main())

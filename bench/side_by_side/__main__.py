"""Runs both sides in turn and prints a table of ratios, as Markdown; all figures go to a file of JSON, row by row.

python bench/side_by_side [--rows encode,forward] [--mode full|quick|test] ...     (`make bench` calls it)
"""

import argparse
import json
import os
import sys
import time
import traceback
from dataclasses import asdict
from pathlib import Path

import setting as s
from compare import Line, OutOfTime
from rows import ROWS

# In quick mode rows come in this order while time is left. Each with the seconds that it takes there, on two cores with
# nothing else to do, what it prepares included.
QUICK = {
    "machine": 9,
    "train-small": 32,
    "generate-small": 14,
    "forward": 42,
    "start": 5,
    "encode": 5,
    "tokenizer-train": 5,
    "memory": 100,
    "generate-base": 120,
    "train-base": 150,
    "products": 150,
    "likelihood": 1000,
}


def arguments() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--rows", default="", help="separated by commas: " + ", ".join(ROWS))
    p.add_argument("--mode", choices=s.SIZES, default="full")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--rounds", type=int, help="of both sides in turn, in place of the mode's")
    p.add_argument("--original-limit", type=float, default=3600, help="seconds for the original's recipe in PyTorch")
    p.add_argument(
        "--resume",
        action="store_true",
        help="take rows that the last run has finished from its results, if it had this machine, version and options",
    )
    p.add_argument("--program", type=Path, default=s.ROOT / "build/diffusionlm")
    p.add_argument("--measure", type=Path, required=True, help="the built bench/measure.c")
    p.add_argument("--counted", type=Path, required=True, help="the built bench/counted.c")
    p.add_argument("--golden", type=Path, default=s.ROOT / "build/golden")
    p.add_argument("--output", type=Path, default=s.ROOT / "build/bench")
    a = p.parse_args()
    asked = [name for name in a.rows.split(",") if name]
    a.chosen = asked or list(QUICK if a.mode == "quick" else ROWS)
    unknown = [name for name in asked if name not in ROWS]
    if unknown:
        p.error(f"no row {', '.join(unknown)}: there are {', '.join(ROWS)}")
    return a


# ---- the table -------------------------------------------------------------------------------------------------------


def cells(line: Line) -> list[str]:
    ratio = "" if line.ratio is None else f"{line.ratio:.2f}" if line.ratio < 10 else f"{line.ratio:.0f}"
    met = "failed" if line.failed else {True: "met", False: "not met", None: ""}[line.met]
    return [line.row, line.what, line.ours, line.theirs, ratio, line.goal, met, line.note]


def show(line: Line) -> None:
    print("| " + " | ".join(cells(line)) + " |", flush=True)


def head(about: dict) -> None:
    sets = ", ".join(about["instruction_sets"]) or "none of those known"
    print(
        f"{about['cpu']}, {about['cores']} cores ({sets}), {about['threads']} threads, load {os.getloadavg()[0]:.1f}; "
        f"{about['diffusionlm']}, PyTorch {about['torch']}, tokenizers {about['tokenizers']}, "
        f"ONNX Runtime {about['onnxruntime'] or 'not installed'}; goals of class {about['class']}\n"
    )
    print(
        "| row | work | here | there | ratio | goal | | |\n| --- | --- | --- | --- | --- | --- | --- | --- |",
        flush=True,
    )


def foot(results: dict, path: Path, verdicts: bool) -> None:
    lines = [Line(**line) for row in results["rows"] for line in row["lines"]]
    if results["left_out"]:
        print(
            f"\nLeft out, since they do not fit into {s.SIZES['quick'].deadline} s: {', '.join(results['left_out'])}."
        )
    met, missed = (sum(line.met is verdict for line in lines) for verdict in (True, False))
    failed = sum(line.failed for line in lines)
    said = f"{met} goals met, {missed} not" if verdicts else "No verdicts, since the work is less than the goals' here"
    rounds = results["options"]["rounds"]
    ratios = (
        f"of medians of {rounds} rounds in turn; in brackets the least and the most" if rounds > 1 else "of one round"
    )
    print(f"\n{said}{f'; {failed} lines failed' if failed else ''}; all figures are in {path}. Ratios are {ratios}.")


# ---- rows ------------------------------------------------------------------------------------------------------------


def run_row(name: str, setting: s.Setting, kind: str) -> dict:
    """The row with its lines, the load it began at, and what it leaves for others."""
    work, goals = ROWS[name]
    row = {"row": name, "started": time.strftime("%Y-%m-%d %H:%M:%S"), "load": os.getloadavg()[0]}
    begin, known = time.monotonic(), dict(setting.facts)
    try:
        lines = work(setting, goals.get(kind))
    except OutOfTime:
        raise
    except Exception as failure:  # a row that fails is told of, and the others go on
        traceback.print_exc(file=sys.stderr)
        why = f"{type(failure).__name__}: {failure}".splitlines()[0]
        lines = [Line(name, "failed", note=why, met=False, failed=True)]
    if not setting.size.verdicts:
        for line in lines:
            line.goal, line.met = "", None
    row["seconds"] = time.monotonic() - begin
    row["facts"] = {key: value for key, value in setting.facts.items() if known.get(key) != value}
    return row | {"lines": [asdict(line) for line in lines]}


def finished(path: Path, results: dict) -> dict[str, dict]:
    """The rows of an earlier run of the same kind that have no failure, by name."""
    try:
        earlier = json.loads(path.read_text())
        alike = all(earlier[key] == results[key] for key in ("machine", "version", "options"))
        rows = {row["row"]: row for row in earlier["rows"]}
    except (OSError, ValueError, KeyError, TypeError):
        alike, rows = False, {}
    if not alike:
        print(f"{path} has no run of this machine, version and options to resume", file=sys.stderr)
        return {}
    return {name: row for name, row in rows.items() if not any(line["failed"] for line in row["lines"])}


def write(path: Path, results: dict) -> None:
    """Whole or not at all."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(results, indent=1) + "\n")
    partial.replace(path)


def main() -> int:
    a = arguments()
    size = s.SIZES[a.mode]
    size.rounds = a.rounds or size.rounds
    a.output.mkdir(parents=True, exist_ok=True)
    where = {key: value.absolute() for key, value in vars(a).items() if isinstance(value, Path)}
    folders = [where[name] for name in ("program", "measure", "counted", "golden", "output")]
    setting = s.Setting(size, a.threads, *folders, a.original_limit)
    about, path = s.describe(setting), a.output / "results.json"
    results = {
        "machine": about,
        "version": s.version_of(setting),
        "options": {"mode": a.mode, "rounds": size.rounds, "original_limit": a.original_limit},
        "rows": [],
        "left_out": [],
    }
    kept = finished(path, results) if a.resume else {}
    results["rows"] = [row for name, row in kept.items() if name not in a.chosen]
    head(about)
    setting.begin = time.monotonic()
    for name in a.chosen:
        if name in kept:
            row = kept[name]
            setting.facts |= row["facts"]
        elif not a.rows and a.mode == "quick" and setting.left() < QUICK[name]:
            results["left_out"].append(name)
            continue
        else:
            try:
                row = run_row(name, setting, about["class"])
            except OutOfTime:
                results["left_out"].append(name)
                continue
        results["rows"].append(row)
        write(path, results)
        for line in row["lines"]:
            shown = Line(**line)
            shown.say(f"kept from {row['started']}" if name in kept else "")
            show(shown)
    write(path, results)
    foot(results, path, size.verdicts)
    return int(any(line["failed"] for row in results["rows"] for line in row["lines"]))


if __name__ == "__main__":
    sys.exit(main())

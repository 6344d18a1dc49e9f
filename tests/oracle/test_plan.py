"""The plan for 64 machines: docs/distributed.md has the tables that tools/distributed_plan.py prints, and the plan's
models are the program's."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "tools/distributed_plan.py"


def plan():
    spec = importlib.util.spec_from_file_location("distributed_plan", TOOL)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_document_has_what_is_printed():
    printed = subprocess.run([sys.executable, TOOL], check=True, capture_output=True, text=True).stdout
    rows = [line for line in printed.splitlines() if line.startswith("|")]
    assert len(rows) == 4 + 4 + 7 + 4
    there = (ROOT / "docs/distributed.md").read_text().splitlines()
    assert [row for row in rows if row not in there] == []


def test_parameters_are_the_program_s(run):
    said = json.loads(run("bench", "--preset", "tiny", "--json").stdout)
    tiny = plan().Model(128, 4)
    assert tiny.parameters() == said["parameters"]


def test_all_is_owned_once():
    p = plan()
    for model in p.MODELS.values():
        for ranks in (1, 3, 64):
            owned = p.owners(model, ranks)
            assert sum(n for n, _, _ in owned) == model.parameters()
            assert sum(bytes_ for _, _, bytes_ in owned) == 36 * model.rest()
    # The largest matrix alone makes its owner the one that is waited for.
    base = p.MODELS["base"]
    assert p.busiest(base, 64) == 2 * 4 * 4 * 768**2 * 63

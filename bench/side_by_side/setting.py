"""Where things are, how large the work is, and what machine this is."""

import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent


@dataclass
class Size:
    """How much of everything: `full` is what is claimed, `quick` for three minutes, `test` to try the harness."""

    rounds: int
    small: str  # the preset that rows of small are measured with
    base: str
    train_steps: int  # of a round, after one that is not counted
    batches: tuple[int, int]  # of small and base
    texts: int
    length: int
    steps: int
    seconds: float  # of repetitions within a round
    compiled: bool  # PyTorch's compiled variants too
    limit: float  # seconds that one measurement may take, start and compilation included
    corpus: str
    likelihood_steps: int
    judged: int  # validation stories that measure a likelihood
    shapes_scale: int = 1  # divides the sizes of products and copies that tell what the machine can do


SIZES = {
    "full": Size(5, "small", "base", 3, (32, 16), 4, 80, 80, 1.0, True, 1800, "train", 1000, 500),
    "quick": Size(2, "small", "base", 1, (32, 16), 4, 80, 8, 0.2, False, 40, "valid", 0, 0, 4),
    "test": Size(2, "tiny", "tiny", 1, (4, 2), 2, 16, 4, 0.01, False, 120, "valid", 20, 16, 16),
}


@dataclass
class Setting:
    size: Size
    threads: int
    program: Path
    measure: Path
    golden: Path
    work: Path
    original_limit: float  # seconds for the original's recipe
    python: str = sys.executable
    facts: dict = field(default_factory=dict)  # figures of this run that other rows use: peaks, seconds of a step

    def environment(self, threads: int | None = None) -> dict:
        n = str(threads or self.threads)
        # Threads of libgomp spin while they wait; with other work on the machine that ruins both sides, and our command
        # sets this for itself, so PyTorch gets it too.
        return os.environ | {
            "BENCH_THREADS": n,
            "OMP_NUM_THREADS": n,
            "RAYON_NUM_THREADS": n,
            "GOMP_SPINCOUNT": "1000",
            "TOKENIZERS_PARALLELISM": "false" if n == "1" else "true",
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    @property
    def native_bf16(self) -> bool:
        return "avx512_bf16" in cpu_flags()

    def tokenizer(self, name: str) -> Path:
        return self.golden / "tokenizer" / name

    def stories(self, name: str) -> Path:
        """corpus/tinystories-NAME.txt, unpacked once."""
        path = self.work / f"{name}.txt"
        if not path.exists():
            packed = ROOT / f"corpus/tinystories-{name}.txt.zst"
            partial = path.with_suffix(".partial")
            subprocess.run(["zstd", "-dqf", packed, "-o", partial], check=True)
            partial.rename(path)
        return path

    def data(self, corpus: str, tokenizer: str, length: int) -> Path:
        """Token shards, prepared once."""
        path = self.work / f"data-{corpus}-{tokenizer}-{length}"
        if not path.exists():
            self.command(
                "prepare", self.stories(corpus), "-t", self.tokenizer(tokenizer), "-o", path, "--seq-len", length, "-q"
            )
        return path

    def model(self, preset: str) -> Path:
        """A model of the original's kind with weights that both sides read; made by PyTorch, once."""
        path = self.work / f"model-{preset}"
        if not path.exists():
            make = (
                "import sys, pathlib, torch_model as tm; "
                "tm.save(tm.stirred(tm.preset(sys.argv[1])), pathlib.Path(sys.argv[2]))"
            )
            partial = path.with_name(path.name + ".partial")
            subprocess.run([self.python, "-c", make, preset, partial], check=True, cwd=HERE, env=self.environment())
            partial.rename(path)
        return path

    def command(self, *arguments, threads: int | None = None, **options) -> str:
        """Runs ours; its standard output."""
        line = [self.program, *map(str, arguments), "--threads", str(threads or self.threads)]
        return subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True, **options).stdout

    def fresh(self, name: str) -> Path:
        path = self.work / name
        shutil.rmtree(path, ignore_errors=True)
        return path


# ---- the machine -----------------------------------------------------------------------------------------------------


def cpu_flags() -> set[str]:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return set()
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    return set(found.group(1).split()) if found else set()


def machine_class(flags: set[str]) -> str:
    """ "amx", "avx512" (with bf16 and VNNI) or "plain": what goals are set for."""
    if "amx_bf16" in flags and "amx_int8" in flags:
        return "amx"
    return "avx512" if {"avx512_bf16", "avx512_vnni"} <= flags else "plain"


def describe(setting: Setting) -> dict:
    from importlib.metadata import PackageNotFoundError, version

    flags = cpu_flags()
    model = re.search(r"^model name\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    packages = {}
    for name in ("torch", "tokenizers", "onnxruntime"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = None
    interesting = ("avx2", "fma", "avx512f", "avx512_bf16", "avx512_vnni", "amx_tile", "amx_bf16", "amx_int8")
    return {
        "cpu": model.group(1) if model else platform.processor(),
        "cores": os.cpu_count(),
        "threads": setting.threads,
        "instruction_sets": [f for f in interesting if f in flags],
        "class": machine_class(flags),
        "load": os.getloadavg()[0],
        "diffusionlm": subprocess.run(
            [setting.program, "--version"], capture_output=True, text=True, check=True
        ).stdout.strip(),
        **packages,
    }

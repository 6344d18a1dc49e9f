"""Where things are, how large the work is, and what machine this is."""

import hashlib
import math
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from compare import OutOfTime

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent


ALL = tuple((precision, compiled) for compiled in (False, True) for precision in ("f32", "bf16"))


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
    torch: tuple[tuple[str, bool], ...]  # PyTorch's variants: precision, compiled
    limit: float  # seconds that one measurement may take, start and compilation included
    corpus: str
    likelihood_steps: int
    judged: int  # validation stories that measure a likelihood
    shapes_scale: int = 1  # divides the sizes of products and copies that tell what the machine can do
    verdicts: bool = True  # whether this is enough work to say that a goal is met
    deadline: float = math.inf  # seconds for all that is measured


SIZES = {
    "full": Size(5, "small", "base", 3, (32, 16), 4, 80, 80, 1.0, ALL, 1800, "train", 1000, 500),
    "quick": Size(1, "small", "base", 1, (32, 16), 4, 80, 8, 0.2, ALL[:2], 60, "valid", 0, 0, 4, False, 180),
    "test": Size(2, "tiny", "tiny", 1, (4, 2), 2, 16, 4, 0.01, ALL[1:2], 120, "valid", 20, 16, 16),
}


@dataclass
class Setting:
    size: Size
    threads: int
    program: Path
    measure: Path
    counted: Path
    golden: Path
    work: Path
    original_limit: float  # seconds for the original's recipe
    python: str = sys.executable
    facts: dict = field(default_factory=dict)  # figures of this run that other rows use: peaks, seconds of a step
    counts: dict = field(default_factory=dict)  # what was counted of a step (counts.py)
    begin: float = field(default_factory=time.monotonic)

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

    def left(self) -> float:
        """Seconds until the time for all that is measured is up."""
        return self.begin + self.size.deadline - time.monotonic()

    def run(self, line, **options) -> subprocess.CompletedProcess:
        """A process of ours, or a helper, within the time."""
        left = self.left()
        try:
            return subprocess.run(
                list(map(str, line)),
                check=True,
                text=True,
                timeout=None if left == math.inf else max(0, left),
                **options,
            )
        except subprocess.TimeoutExpired as over:
            raise OutOfTime from over

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
            self.run(["zstd", "-dqf", packed, "-o", partial])
            partial.rename(path)
        return path

    def data(self, corpus: str, tokenizer: str, length: int) -> Path:
        """Token shards, prepared once."""
        path = self.work / f"data-{corpus}-{tokenizer}-{length}"
        if not path.exists():
            partial = self.fresh(path.name + ".partial")
            whence = ["-t", self.tokenizer(tokenizer), "--seq-len", length]
            self.command("prepare", self.stories(corpus), *whence, "-o", partial, "-q")
            partial.rename(path)
        return path

    def real_tokens(self, corpus: str, tokenizer: str, length: int) -> float:
        """The mean of what a story of the original's recipe has, which is cut to a length."""
        import stories
        from tokenizers import Tokenizer

        reader = Tokenizer.from_file(str(self.tokenizer(tokenizer) / "tokenizer.json"))
        found = reader.encode_batch_fast(stories.read(self.stories(corpus)))
        return sum(min(len(story.ids), length) for story in found) / len(found)

    def model(self, preset: str) -> Path:
        """A model of the original's kind with weights that both sides read; made by PyTorch, once."""
        path = self.work / f"model-{preset}"
        if not path.exists():
            make = (
                "import sys, pathlib, torch_model as tm; "
                "tm.save(tm.stirred(tm.preset(sys.argv[1])), pathlib.Path(sys.argv[2]))"
            )
            partial = path.with_name(path.name + ".partial")
            self.run([self.python, "-c", make, preset, partial], cwd=HERE, env=self.environment())
            partial.rename(path)
        return path

    def command(self, *arguments, threads: int | None = None, **options) -> str:
        """Runs ours; its standard output."""
        line = [self.program, *arguments, "--threads", threads or self.threads]
        return self.run(line, stdout=subprocess.PIPE, **options).stdout

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
        "diffusionlm": subprocess.run(
            [setting.program, "--version"], capture_output=True, text=True, check=True
        ).stdout.strip(),
        **packages,
    }


def version_of(setting: Setting) -> str:
    """What was measured with: the programs and the harness, as they are."""
    whole = hashlib.sha256()
    for path in [setting.program, setting.measure, setting.counted, *sorted(HERE.glob("*.py"))]:
        whole.update(path.read_bytes())
    return whole.hexdigest()[:16]

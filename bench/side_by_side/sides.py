"""One side of a comparison: something that can be measured again and again. A figure is a dict; None: it cannot."""

import csv
import json
import os
import select
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from compare import OutOfTime
from setting import HERE, Setting


class Side:
    def __init__(self, name: str, measure):
        self.name, self.measure = name, measure
        self.answers: list[dict] = []

    def close(self) -> None:
        pass


class Worker(Side):
    """torch_side.py with one job; started by its first measurement, and ended when that takes too long."""

    def __init__(self, setting: Setting, name: str, job: dict, threads: int | None = None):
        super().__init__(name, self.ask)
        self.setting, self.job, self.process = setting, job, None
        self.environment = setting.environment(threads)
        self.said = ""  # the last of what it had to say when it failed

    def start(self) -> None:
        self.log = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            [self.setting.python, HERE / "torch_side.py", json.dumps(self.job)],
            cwd=HERE,
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            start_new_session=True,
        )

    def ask(self):
        if self.process is None:
            self.start()
        try:
            self.process.stdin.write("\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return self.fail("ended")
        limit = max(0, min(self.setting.size.limit, self.setting.left()))
        ready, _, _ = select.select([self.process.stdout], [], [], limit)
        line = self.process.stdout.readline() if ready else ""
        if line:
            return json.loads(line)
        self.fail("failed" if ready else f"over {limit:.0f} s")
        if self.setting.left() <= 0:
            raise OutOfTime
        return None

    def fail(self, how: str) -> None:
        self.log.seek(0)
        lines = self.log.read().strip().splitlines()
        self.said = f"{how}: {lines[-1]}" if lines and how in ("failed", "ended") else how
        self.close()

    def close(self):
        """Ends it; the most memory it had, in bytes."""
        if self.process is None or self.process.returncode is not None:
            return None
        self.process.stdin.close()
        if self.said:
            os.killpg(self.process.pid, signal.SIGKILL)
        _, status, usage = os.wait4(self.process.pid, 0)
        self.process.returncode = os.waitstatus_to_exitcode(status)
        self.process.stdout.close()
        return usage.ru_maxrss * 1024


# ---- ours ------------------------------------------------------------------------------------------------------------


def train_command(setting: Setting, preset: str, batch: int, steps: int, *others) -> list:
    run = setting.fresh("run")
    data = setting.data(setting.size.corpus, "stories_8192", 256)
    return [
        "train",
        "-d",
        data,
        "-o",
        run,
        "--preset",
        preset,
        "--batch",
        batch,
        "--steps",
        steps,
        "--eval-every",
        0,
        "--sample-every",
        0,
        "--save-every",
        0,
        "--log-every",
        1,
        "-q",
        *others,
    ]


def log_rows(run: Path) -> list[dict]:
    with open(run / "log.csv") as file:
        return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]


def our_training(setting: Setting, preset: str, batch: int, precision: str, recipe: str):
    """Real tokens a second after the first step, by the run's log."""

    def once():
        steps = setting.size.train_steps
        line = train_command(setting, preset, batch, steps + 1, "--recipe", recipe, "--precision", precision)
        setting.command(*line)
        rows = log_rows(setting.work / "run")
        seconds = rows[-1]["seconds"] - rows[0]["seconds"]
        return {"tokens_per_s": (rows[-1]["tokens"] - rows[0]["tokens"]) / seconds, "seconds_per_step": seconds / steps}

    return once


def generate_command(setting: Setting, preset: str, precision: str) -> list:
    size = setting.size
    return [
        "generate",
        "-m",
        setting.model(preset),
        "-n",
        size.texts,
        "--length",
        size.length,
        "--steps",
        size.steps,
        "--precision",
        precision,
        "--json",
        "-q",
    ]


def our_texts(setting: Setting, preset: str, precision: str):
    """Seconds for all texts of a batch, as generate tells them: without the start of the process."""

    def once():
        said = setting.command(*generate_command(setting, preset, precision))
        return {"seconds": json.loads(said.splitlines()[0])["seconds"]}

    return once


def ask_measure(setting: Setting, *arguments, threads: int | None = None, **options) -> list[dict]:
    """What bench/measure.c prints."""
    line = [setting.measure, "--threads", threads or setting.threads, *arguments]
    said = setting.run(line, stdout=subprocess.PIPE, env=setting.environment(threads), **options).stdout
    return [json.loads(line) for line in said.splitlines()]


def our_memory(setting: Setting, preset: str, batch: int) -> int:
    """The most memory, in bytes, of a process that trains."""
    line = [setting.program, *map(str, train_command(setting, preset, batch, 2, "--recipe", "original"))]
    process = subprocess.Popen([*line, "--threads", str(setting.threads)])
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise subprocess.CalledProcessError(process.returncode, line)
    return usage.ru_maxrss * 1024


def our_first_step(setting: Setting, preset: str):
    """Seconds from the start of the process until its trace tells of the first step."""
    line = [
        setting.program,
        "generate",
        "-m",
        setting.model(preset),
        "-t",
        setting.tokenizer("stories_8192"),
        "--length",
        str(setting.size.length),
        "--trace",
        "-",
        "--threads",
        str(setting.threads),
        "-q",
    ]

    def once():
        start = time.perf_counter()
        with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as process:
            seconds = next(
                (time.perf_counter() - start for row in process.stdout if json.loads(row).get("step") == 1), None
            )
            process.kill()
        return None if seconds is None else {"seconds": seconds}

    return once


def precisions(setting: Setting) -> list[str]:
    """What the command multiplies in, but for auto."""
    help_text = setting.command("generate", "--help")
    words = help_text.split("--precision", 1)[1].split()[0].split("|")
    return [word for word in words if word != "auto"]

"""Training: the steps of the command, exact resumption however a run was stopped, and what is shown."""

import csv
import io
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from diffusionlm import Data, Model, Report, Trainer, errors, train, train_check
from diffusionlm.progress import NotebookDisplay, TerminalDisplay, choose_display

TINY = {"hidden_size": 16, "depth": 1, "num_heads": 2, "seq_len": 32, "batch": 4, "seed": 9}
QUIET = {"progress": False, "eval_every": 0, "sample_every": 0}
FLAGS = ["--hidden", 16, "--depth", 1, "--heads", 2, "--seq-len", 32, "--batch", 4, "--seed", 9]
WEIGHTS = ("model.safetensors", "raw.safetensors", "optimizer.safetensors", "trainer.json", "config.json")


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n<|endoftext|>\n".join(f"The cat number {i} saw a dog and {i * 7} birds." for i in range(200)))
    return path


@pytest.fixture(scope="module")
def data(run, golden, text):
    run("prepare", text, "-t", golden / "tokenizer/stories_1024", "-o", text.parent / "data", "--seq-len", 32)
    return text.parent / "data"


def rows(folder):
    with open(folder / "log.csv", newline="") as file:
        return list(csv.DictReader(file))


def checkpoint(folder):
    return folder / "checkpoints" / (folder / "latest").read_text().strip()


def same_state(a, b):
    assert checkpoint(a).name == checkpoint(b).name
    for name in WEIGHTS:
        assert (checkpoint(a) / name).read_bytes() == (checkpoint(b) / name).read_bytes(), name
    clock = ("seconds", "tokens_per_s")
    for one, other in zip(rows(a), rows(b)):
        assert {k: v for k, v in one.items() if k not in clock} == {k: v for k, v in other.items() if k not in clock}
    assert len(rows(a)) == len(rows(b))


# ---- as the command --------------------------------------------------------------------------------------------------


def test_steps_are_the_commands(run, data, tmp_path):
    run("train", "-d", data, "-o", tmp_path / "theirs", *FLAGS, "--steps", 12, "--log-every", 1, "--eval-every", 5,
        "--sample-every", 6, "--save-every", 4)  # fmt: skip
    reports = []
    last = train(data, tmp_path / "ours", **TINY, steps=12, log_every=1, eval_every=5, sample_every=6, save_every=4,
                 callback=reports.append, progress=False)  # fmt: skip
    same_state(tmp_path / "theirs", tmp_path / "ours")
    assert (tmp_path / "theirs/samples.txt").read_bytes() == (tmp_path / "ours/samples.txt").read_bytes()
    assert last is reports[-1] and [r.step for r in reports] == list(range(1, 13))
    for report, row in zip(reports, rows(tmp_path / "theirs")):
        assert isinstance(report, Report) and report.stepped and report.steps == 12
        for name in ("loss", "lr", "grad_norm"):
            assert float(row[name]) == pytest.approx(getattr(report, name), rel=1e-5, abs=1e-9), name
        assert float(row["epoch"]) == pytest.approx(report.epoch, abs=1e-5) and int(row["tokens"]) == report.tokens
        assert report.evaluated == bool(row["eval_nelbo"]) == (report.step in (5, 10, 12))
        if report.evaluated:
            assert float(row["eval_nelbo"]) == pytest.approx(report.eval_nelbo, rel=1e-5)
            assert float(row["eval_ce"]) == pytest.approx(report.eval_ce, rel=1e-5)
            assert float(row["eval_ppl"]) == pytest.approx(report.eval_ppl, rel=1e-4)
        assert (report.sample is not None) == (report.step in (6, 12))
        assert report.share == pytest.approx(report.step / 12)
    assert last.saved and pathlib.Path(last.checkpoint) == checkpoint(tmp_path / "ours")
    assert last.seconds > 0 and last.tokens_per_second > 0


def test_every_option_reaches_the_run(run, data, tmp_path):
    """Each keyword, by what the checkpoint says that it was."""
    options = dict(
        mlp_ratio=2.0, time="adaln", position="learned", schedule="linear", steps=2, epochs=None, recipe="default",
        weight="flat", optimizer="adamw", lr=0.001, min_lr_ratio=0.2, weight_decay=0.1, clip=0.5, warmup=1, ema=0.9,
        tail_share=0.2, precision="f32", micro_tokens=64, log_every=1, eval_every=2, sample_every=0, save_every=2,
        eval_documents=7, keep=1, **TINY)  # fmt: skip
    train(Data(data), tmp_path / "run", **options, eval_data=Data(data), init=None, progress=False)
    told = json.loads((checkpoint(tmp_path / "run") / "trainer.json").read_text())["options"]
    for name, value in options.items():
        if value is not None:
            assert told[name] == (str(value) if name == "seed" else value), name
    assert set(told) <= set(options) | {"minutes", "epochs"}
    model = Model.load(tmp_path / "run")
    assert (model.config.time, model.config.position, model.config.schedule) == ("adaln", "learned", "linear")
    # begun with the weights of a model
    trained = train(data, tmp_path / "init", **{**options, "lr": 0.0}, init=tmp_path / "run", progress=False)
    assert trained.step == 2
    before, after = Model.load(tmp_path / "run"), Model.load(tmp_path / "init", weights="raw")
    moved = max(float(np.abs(before.parameters[n] - after.parameters[n]).max()) for n in before.parameters)
    assert moved < 1e-3


@pytest.mark.parametrize("preset", ["tiny", "small", "base"])
def test_presets(run, data, tmp_path, preset):
    sizes = {"tiny": (128, 4, 4), "small": (256, 8, 8), "base": (768, 12, 12)}[preset]
    with Trainer(data, tmp_path / "ours", preset=preset, seq_len=32, steps=1) as trainer:
        config = trainer.config
    assert (config.hidden_size, config.depth, config.num_heads) == sizes
    if preset == "tiny":
        run("train", "-d", data, "-o", tmp_path / "run", "--preset", preset, "--steps", 1, "--batch", 1, "--save-every",
            0, "--eval-every", 0, "--sample-every", 0)  # fmt: skip
        theirs = Model.inspect(tmp_path / "run").config
        assert (theirs.hidden_size, theirs.depth, theirs.num_heads) == sizes


def test_one_length_replaces_another(data, tmp_path):
    train(data, tmp_path / "run", **TINY, **QUIET, steps=2)
    windows = Data(data).info.windows  # sequences of 32, as the shards were made; some documents are held out
    further = train(run=tmp_path / "run", resume=True, epochs=0.2, progress=False)
    assert 2 < further.step == further.steps <= -(-windows * 0.2 // 4)
    assert train(run=tmp_path / "run", resume=True, steps=further.step + 1, progress=False).step == further.step + 1


def test_recipes(data, tmp_path):
    with Trainer(data, tmp_path / "run", recipe="original", **TINY) as trainer:
        assert trainer.config.padded and not trainer.config.end_token and trainer.config.time == "adaln"
        assert trainer.data.documents == 200 and trainer.report is None and not trainer.finished


# ---- from text files -------------------------------------------------------------------------------------------------


def test_text_files_as_by_the_command(run, text, tmp_path):
    run("train", text, "-o", tmp_path / "theirs", *FLAGS, "--vocab-size", 300, "--steps", 4, "--eval-every", 0,
        "--sample-every", 0)  # fmt: skip
    train(files=text, run=tmp_path / "ours", **TINY, **QUIET, vocab_size=300, steps=4)
    for name in ("text.json", "tokenizer/tokenizer.json"):
        assert (tmp_path / "theirs" / name).read_bytes() == (tmp_path / "ours" / name).read_bytes()
    names = sorted(p.name for p in (tmp_path / "ours/data").iterdir())
    assert names == sorted(p.name for p in (tmp_path / "theirs/data").iterdir())
    for name in names:
        assert (tmp_path / "theirs/data" / name).read_bytes() == (tmp_path / "ours/data" / name).read_bytes()
    for name in WEIGHTS[:3]:
        assert (checkpoint(tmp_path / "theirs") / name).read_bytes() == (
            checkpoint(tmp_path / "ours") / name
        ).read_bytes()
    # each goes on with the other's run
    run("train", "-o", tmp_path / "ours", "--resume", "--steps", 6)
    assert train(run=tmp_path / "theirs", resume=True, steps=6, progress=False).step == 6
    assert train(files=[text], run=tmp_path / "theirs", resume=True, steps=7, progress=False).step == 7
    with pytest.raises(errors.MismatchError, match="vocab_size was 300, is 290"):
        train(files=text, run=tmp_path / "theirs", resume=True, vocab_size=290, steps=8)
    with pytest.raises(errors.MismatchError, match="format was separated, is lines"):
        train(files=text, run=tmp_path / "theirs", resume=True, format="lines", steps=8)
    # a run that was moved has its data with it
    shutil.move(tmp_path / "theirs", tmp_path / "moved")
    assert train(run=tmp_path / "moved", resume=True, steps=8, progress=False).step == 8


def test_a_tokenizer_of_another_place(golden, text, tmp_path):
    options = {**TINY, **QUIET, "steps": 1, "tokenizer": golden / "tokenizer/stories_1024"}
    train(files=[text], run=tmp_path / "run", **options)
    assert not (tmp_path / "run/tokenizer").exists()
    assert Model.load(tmp_path / "run").tokenizer.vocab_size == 1024


def test_text_that_stopped_is_gone_on_with(text, tmp_path):
    def stop(stage, done, total, seconds):
        return stage == "encoding"

    with pytest.raises(errors.Cancelled):
        Trainer(files=text, run=tmp_path / "run", vocab_size=300, steps=1, progress=stop, **TINY)
    assert (tmp_path / "run/tokenizer/tokenizer.json").exists() and not (tmp_path / "run/data").exists()
    with pytest.raises(errors.AlreadyExists, match="resume=True goes on with it"):
        train(files=text, run=tmp_path / "run", vocab_size=300, steps=1, **TINY, **QUIET)
    assert train(files=text, run=tmp_path / "run", vocab_size=300, steps=1, resume=True, **TINY, **QUIET).step == 1


# ---- stopped and resumed ---------------------------------------------------------------------------------------------

LONG = {**TINY, "steps": 40, "log_every": 5, "eval_every": 20, "sample_every": 15, "save_every": 10, "progress": False}


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """A run that was never stopped."""
    path = tmp_path_factory.mktemp("whole") / "run"
    train(data, path, **LONG)
    return path


def test_a_callback_stops(data, whole, tmp_path):
    run = tmp_path / "run"
    stopped = train(data, run, **LONG, callback=lambda report: report.step == 13)
    assert stopped.step == 13 and checkpoint(run).name == "step-00000013"
    assert train(run=run, resume=True, progress=False).step == 40
    same_state(whole, run)
    done = train(run=run, resume=True, progress=False)
    assert not done.stepped and (done.step, done.steps) == (40, 40) and done.loss == 0


def test_steps_by_hand(data, whole, tmp_path):
    run = tmp_path / "run"
    options = {name: value for name, value in LONG.items() if name != "progress"}
    with Trainer(data, run, **options) as trainer:
        losses = [trainer.step().loss for _ in range(7)]
        trainer.save()
        assert checkpoint(run).name == "step-00000007"
        assert trainer.run == run and trainer.report.step == 7
        with pytest.raises(errors.DiffusionLMError):  # one process at a time, and one trainer
            Trainer(run=run, resume=True)
    assert len(set(losses)) == 7
    with Trainer(run=run, resume=True) as trainer:
        for report in trainer:
            if report.step == 22:
                break
    assert checkpoint(run).name == "step-00000022"
    trainer = Trainer(run=run, resume=True)
    assert [report.step for report in trainer] == list(range(23, 41)) and trainer.finished
    assert list(trainer) == []
    trainer.close()
    trainer.close()
    for use in (trainer.step, trainer.save, lambda: trainer.config, lambda: trainer.data):
        with pytest.raises(ValueError, match="closed"):
            use()
    same_state(whole, run)


def test_an_exception_of_the_callback_saves(data, whole, tmp_path):
    run = tmp_path / "run"
    with pytest.raises(ZeroDivisionError):
        train(data, run, **LONG, callback=lambda report: 1 / (17 - report.step) < 0)
    assert checkpoint(run).name == "step-00000017"
    train(run=run, resume=True, progress=False)
    same_state(whole, run)


CODE = """
import sys, json
from diffusionlm import train, Trainer
options = json.loads(sys.argv[3])
try:
    if sys.argv[4] == "train":
        train(sys.argv[1], sys.argv[2], callback=lambda report: print(report.step, flush=True), **options)
    else:
        options.pop("progress")
        with Trainer(sys.argv[1], sys.argv[2], **options) as trainer:
            for report in trainer:
                print(report.step, flush=True)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


@pytest.mark.parametrize("way", ["train", "trainer"])
@pytest.mark.parametrize("after", [1, 9, 30])
def test_interrupts(data, tmp_path, way, after):
    """Ctrl-C at any moment: KeyboardInterrupt comes out, the state is saved, and the run ends as if nothing was."""
    options = {**LONG, "steps": 400, "log_every": 100, "eval_every": 100, "sample_every": 200, "save_every": 150}
    runs = [tmp_path / "whole", tmp_path / "run"]
    arguments = [sys.executable, "-c", CODE, data, runs[1], json.dumps(options), way]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    try:
        while int(process.stdout.readline()) < after:
            pass
        time.sleep(0.003 * after)
        process.send_signal(signal.SIGINT)
        said = process.stdout.read().split()
        assert process.wait(60) == 0 and said[-1] == "interrupted"
    finally:
        process.kill()
    at = int(checkpoint(runs[1]).name[5:])
    assert after <= at < 400 and (len(said) < 2 or at - int(said[-2]) in (0, 1))
    train(run=runs[1], resume=True, progress=False)
    train(data, runs[0], **options)
    same_state(*runs)


# ---- what it refuses -------------------------------------------------------------------------------------------------


def test_refusals(data, text, whole, tmp_path):
    no = tmp_path / "no"
    for wrong, error, says in (
        (lambda: train(data, no, lr=-1), errors.ArgumentError, "lr"),
        (lambda: train(data, no, num_heads=3), errors.ArgumentError, "no multiple of num_heads 3"),
        (lambda: train(data, no, steps=1, epochs=1), errors.ArgumentError, "steps and epochs are given"),
        (lambda: train(data, no, step=1), TypeError, "did you mean 'steps'"),
        (lambda: train(data, no, steps=1.5), TypeError, "whole number"),
        (lambda: train(data, no, steps=2**70), errors.ArgumentError, "steps"),
        (lambda: train(data, no, preset="huge"), errors.ArgumentError, "tiny, small, base"),
        (lambda: train(data, no, weight="nelbo"), errors.ArgumentError, "elbo, flat"),
        (lambda: train(data, no, progress="yes"), errors.ArgumentError, "progress is 'yes'"),
        (lambda: train(data, no, files=text), errors.ArgumentError, "exclude each other"),
        (lambda: train(data, no, vocab_size=300), errors.ArgumentError, "vocab_size goes with files"),
        (lambda: train(files=text, run=no, vocab_size=300, tokenizer=data), errors.ArgumentError, "300"),
        (lambda: train(files=tmp_path / "absent", run=no), errors.NotFound, "absent"),
        (lambda: train(files=[], run=no), errors.ArgumentError, "no text"),
        (lambda: train(files=text, run=no, lr=-1), errors.ArgumentError, "lr"),
        (lambda: train(run=no), errors.ArgumentError, "missing: data or files"),
        (lambda: train(data), errors.ArgumentError, "run"),
        (lambda: train(run=no, resume=True), errors.ArgumentError, "missing"),
        (lambda: train(files=text, run=no, resume=True), errors.NotFound, "no such run"),
        (lambda: train(tmp_path / "absent", no), errors.NotFound, "absent"),
        (lambda: train(data, "a\0b"), errors.ArgumentError, "NUL"),
        (lambda: train(data, whole), errors.AlreadyExists, "holds a run already"),
        (lambda: train(run=whole, resume=True, lr=1.0), errors.MismatchError, "lr was 0.005, is 1"),
        (lambda: train(run=whole, resume=True, recipe="original"), errors.MismatchError, "recipe was default"),
        (lambda: train(run=whole, resume=True, steps=5), errors.ArgumentError, "has done 40 steps"),
        (lambda: train(run=whole, resume=True, init=whole), errors.ArgumentError, "init is for the beginning"),
        (lambda: train_check(depth=0), errors.ArgumentError, "depth"),
        (lambda: train_check(recipe="other"), errors.ArgumentError, "default, original"),
    ):
        with pytest.raises(error, match=says):
            wrong()
    assert not no.exists()
    train_check()
    train_check(preset="base", recipe="original", minutes=5)


def test_values_that_are_not_finite(data, tmp_path):
    """A rate that blows the weights up: the error says where, and nothing is saved after it."""
    run = tmp_path / "run"
    with pytest.raises(errors.NotFinite, match="the last good checkpoint is"):
        train(data, run, **{**LONG, "steps": 3000, "clip": 0.0, "save_every": 1, "eval_every": 0, "sample_every": 0},
              lr=1e6, optimizer="adamw", warmup=0)  # fmt: skip
    state = checkpoint(run).name
    with pytest.raises(errors.NotFinite):
        train(run=run, resume=True, progress=False)
    assert checkpoint(run).name == state


# ---- TensorBoard -----------------------------------------------------------------------------------------------------


def test_tensorboard_reads_it(whole):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(whole), size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    logged = {int(row["step"]): float(row["loss"]) for row in rows(whole)}
    assert {e.step: pytest.approx(e.value, rel=2e-5) for e in events.Scalars("train/loss")} == logged
    evaluated = {int(row["step"]): float(row["eval_nelbo"]) for row in rows(whole) if row["eval_nelbo"]}
    assert {e.step: pytest.approx(e.value, rel=2e-5) for e in events.Scalars("eval/nelbo")} == evaluated != {}
    assert [e.step for e in events.Tensors("samples")] == [15, 30, 40]


# ---- what is shown ---------------------------------------------------------------------------------------------------


class Screen(io.StringIO):
    """A terminal as far as a program asks."""

    def isatty(self):
        return True


def test_on_a_terminal(data, tmp_path, monkeypatch):
    """One line, rewritten; pyte reads it as a terminal would."""
    pyte = pytest.importorskip("pyte")
    monkeypatch.setenv("COLUMNS", "100")
    screen, seen = Screen(), []
    monkeypatch.setattr(sys, "stderr", screen)
    terminal = pyte.Screen(100, 8)
    stream = pyte.Stream(terminal)

    def look(report):
        stream.feed(screen.getvalue().replace("\n", "\r\n"))
        screen.seek(0)
        screen.truncate()
        seen.append([line.rstrip() for line in terminal.display if line.strip()])

    train(data, tmp_path / "run", **{**LONG, "progress": "auto", "sample_every": 0}, callback=look)
    assert seen[0][-1].startswith("[") and "step 1/40  loss 7.0" in seen[0][-1] and seen[0][-1].endswith("left")
    assert seen[0][-1].startswith("[.") and "tokens/s" in seen[0][-1]
    # the bar below it comes with the next step that is not too soon
    said = next(line for line in seen[19] if line.startswith("step 20: held-out NELBO "))
    assert "perplexity" in said
    bound = seen[-1][-2].split()[4]
    assert float(bound) < float(said.split()[4]) < 8
    assert f"held-out NELBO {bound}" in seen[-1][-1] and "step 40/40" in seen[-1][-1]
    assert seen[-1][-1].startswith("[####################] 100%")
    stream.feed(screen.getvalue().replace("\n", "\r\n"))
    assert not terminal.display[2].strip() and len([line for line in terminal.display if line.strip()]) == 2


def test_elsewhere_it_is_silent_or_lines(data, tmp_path, capfd):
    train(data, tmp_path / "a", **{**LONG, "progress": "auto"})
    assert capfd.readouterr() == ("", "")
    train(data, tmp_path / "b", **{**LONG, "progress": True, "sample_every": 0})
    lines = capfd.readouterr().err.splitlines()
    assert 4 <= len(lines) <= 12 and lines[0].startswith("  2%  step 1/40  loss") and "100%  step 40/40" in lines[-1]
    assert sum("held-out NELBO" in line and line.startswith("step") for line in lines) == 2


NOTEBOOK = """
import sys
from IPython.core.interactiveshell import InteractiveShell
from IPython.core.displaypub import CapturingDisplayPublisher
shell = InteractiveShell.instance()
shell.display_pub = publisher = CapturingDisplayPublisher(shell=shell)
from diffusionlm.progress import choose_display, NotebookDisplay
assert type(choose_display("auto")).__name__ == "Display"  # IPython, but no notebook
shell.kernel = object()
assert isinstance(choose_display("auto"), NotebookDisplay)
from diffusionlm import train
shell.user_ns.update(train=train, sys=sys)
done = shell.run_cell("train(sys.argv[1], sys.argv[2], steps=8, hidden_size=16, depth=1, num_heads=2, seq_len=32, "
                      "eval_every=4, sample_every=0)", silent=True)
done.raise_error()
shown = [(out["data"]["text/html"], out.get("update"), out["transient"]["display_id"]) for out in publisher.outputs]
assert len({name for _, _, name in shown}) == 1  # one display
assert [update for _, update, _ in shown][0] in (None, False) and all(update for _, update, _ in shown[1:])
assert len(shown) > 1
html = shown[-1][0]
assert '<progress value="1.0000" max="1">' in html and "step 8/8" in html, html
assert "<div>step 8: held-out NELBO" in html, html
print("shown", len(shown))
"""


def test_in_a_notebook(data, tmp_path):
    """IPython's own shell, as a kernel has it."""
    pytest.importorskip("IPython")
    done = subprocess.run(
        [sys.executable, "-c", NOTEBOOK, data, tmp_path / "run"],
        env={**os.environ, "HOME": str(tmp_path), "IPYTHONDIR": str(tmp_path / "ipython")},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0 and "shown" in done.stdout, done.stderr


def test_no_stderr(data, tmp_path, monkeypatch):
    closed = io.StringIO()
    closed.close()
    for number, stream in enumerate((None, closed)):
        monkeypatch.setattr(sys, "stderr", stream)
        for shown in ("auto", True):
            train(data, tmp_path / f"{number}{shown}", steps=1, eval_every=0, sample_every=0, progress=shown, **TINY)


def test_ipython_is_not_imported(data, tmp_path):
    code = "import sys, diffusionlm as d; d.train(*sys.argv[1:], steps=1, hidden_size=16, depth=1, num_heads=2); " \
           "assert 'IPython' not in sys.modules"  # fmt: skip
    subprocess.run([sys.executable, "-c", code, data, tmp_path / "run"], check=True, timeout=120)


def test_displays_escape(monkeypatch):
    display = NotebookDisplay()
    monkeypatch.setattr(display, "_show", lambda: None)
    display.draw(None, "<script>")
    display.say("a & b")
    html = display._repr_html_()
    assert "&lt;script&gt;" in html and "a &amp; b" in html and "value=" not in html
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    terminal = choose_display("auto")
    assert isinstance(terminal, TerminalDisplay)
    terminal.say("red \x1b[31m text")
    assert screen.getvalue().count("\x1b") == 1  # the one that clears the line

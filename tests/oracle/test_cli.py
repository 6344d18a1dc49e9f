"""The command as people and scripts see it: JSON of tokenizer commands against the Hugging Face library, --watch on a
terminal, the logs of a run, and a trained model in PyTorch."""

import csv
import fcntl
import json
import math
import os
import pty
import random
import re
import select
import struct
import subprocess
import sys
import termios
import time

import pytest
from safetensors.torch import load_file
from tokenizers import Tokenizer

TINY = "--hidden 16 --depth 1 --heads 2 --seq-len 32 --batch 4 --threads 1".split()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("cli") / "text.txt"
    path.write_text("\n<|endoftext|>\n".join(f"The cat number {i} saw a dog and {i * 7} birds." for i in range(300)))
    return path


@pytest.fixture(scope="module")
def trained(run, corpus):
    """A run with few tokens, none of which a terminal would read as a command, once it has learnt a little."""
    folder = corpus.parent / "run"
    run("train", corpus, "-o", folder, *TINY, "--vocab-size", 320, "--steps", 300, "--log-every", 40, "--eval-every", 100,
        "--sample-every", 150, "--seed", 5)  # fmt: skip
    return folder


# ---- tokenizer -------------------------------------------------------------------------------------------------------

TEXTS = ["", " ", "Once upon a time", "a [MASK] b", "foo[MASK]bar<|endoftext|>", "\x00\x01", "é中文\U0001f600", "it's 12 o'clock!\n\n\t x",
         "[PAD][UNK]", "\u2028\u00a0\u0085", " leading and trailing ", '"\\/', "\ufeff\ufffd"]  # fmt: skip


def texts():
    rng = random.Random(1)
    return TEXTS + ["".join(rng.choice(TEXTS + list("ab c'\n")) for _ in range(rng.randint(1, 12))) for _ in range(300)]


@pytest.mark.parametrize("kind", ["trained", "golden"])
def test_json_of_encode_and_decode(run, corpus, golden, tmp_path, kind):
    folder = golden / "tokenizer/unicode_1500"
    if kind == "trained":
        folder = tmp_path / "tokenizer"
        run("tokenizer", "train", corpus, "-o", folder, "--vocab-size", 400)
    theirs = Tokenizer.from_file(str(folder / "tokenizer.json"))
    values = [text if i % 2 else {"text": text, "more": 1} for i, text in enumerate(texts())]
    lines = "".join(json.dumps(value, ensure_ascii=i % 3 == 0) + "\n" for i, value in enumerate(values)).encode()
    coded = run("tokenizer", "encode", "-t", folder, "--json", input=lines).stdout
    ids = [json.loads(line) for line in coded.decode().split("\n")[:-1]]
    assert ids == [{"ids": theirs.encode(text).ids} for text in texts()]
    for options, skip in (([], True), (["--keep-special"], False)):
        back = run("tokenizer", "decode", "-t", folder, "--json", *options, input=coded).stdout
        got = [json.loads(line) for line in back.decode().split("\n")[:-1]]
        assert got == [{"text": theirs.decode(row["ids"], skip_special_tokens=skip)} for row in ids]


def test_facts_of_a_tokenizer(run, golden):
    folder = golden / "tokenizer/stories_1024"
    theirs = Tokenizer.from_file(str(folder / "tokenizer.json"))
    info = json.loads(run("tokenizer", "info", "-t", folder, "--json").stdout)
    assert info["vocab_size"] == theirs.get_vocab_size()
    assert info["merges"] == len(json.loads(theirs.to_str())["model"]["merges"])
    names = {"pad_id": "[PAD]", "unk_id": "[UNK]", "mask_id": "[MASK]", "end_id": "<|endoftext|>"}
    assert {key: info[key] for key in names} == {key: theirs.token_to_id(name) for key, name in names.items()}


# ---- the terminal ----------------------------------------------------------------------------------------------------


class Screen:
    """As much of a terminal as the program uses; anything else it is sent is an error."""

    def __init__(self, columns, rows):
        self.columns, self.rows = columns, rows
        self.lines, self.row, self.column = [[]], 0, 0
        self.cursor, self.erased, self.shown = True, 0, []

    def put(self, character):
        line = self.lines[self.row]
        line.extend(" " * (self.column - len(line)))
        line[self.column : self.column + 1] = character
        self.column += 1
        assert self.column <= self.columns, "a line that is wider than the terminal"

    def escape(self, sequence):
        if re.fullmatch(r"\[[0-9;]*m", sequence):
            return
        up = re.fullmatch(r"\[(\d+)A", sequence)
        if up:
            self.row -= int(up[1])
            assert self.row >= 0
        elif sequence == "[J":
            self.shown.append(self.text())
            self.lines = self.lines[: self.row + 1]
            self.lines[self.row] = self.lines[self.row][: self.column]
            self.erased += 1
        elif sequence == "[K":
            self.lines[self.row] = self.lines[self.row][: self.column]
        else:
            assert sequence in ("[?25l", "[?25h"), repr(sequence)
            self.cursor = sequence == "[?25h"

    def feed(self, text):
        for escape, character in re.findall(r"\x1b(\[[0-9;?]*[A-Za-z])|([\s\S])", text):
            if escape:
                self.escape(escape)
            elif character == "\r":
                self.column = 0
            elif character == "\n":
                self.row += 1  # the driver sends a \r before it
                if self.row == len(self.lines):
                    self.lines.append([])
            else:
                assert character >= " " and not "\x7f" <= character < "\xa0", f"a control character, {character!r}"
                self.put(character)

    def text(self):
        return "\n".join("".join(line) for line in self.lines)


def on_terminal(program, *arguments, columns=60, rows=24, interrupt_at=None, term="xterm"):
    """(exit status, what was sent to the terminal, its settings before and after). interrupt_at: Ctrl-C is typed when
    that was sent."""
    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    before = termios.tcgetattr(terminal)
    child = subprocess.Popen(
        [program, *map(str, arguments)], stdin=terminal, stdout=terminal, stderr=terminal,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0), env={**os.environ, "TERM": term},
    )  # fmt: skip
    sent, typed, limit = b"", False, time.monotonic() + 120
    while time.monotonic() < limit:
        readable, _, _ = select.select([controller], [], [], 0.05)
        if readable:
            sent += os.read(controller, 65536)
        elif child.poll() is not None:
            break
        if interrupt_at is not None and not typed and interrupt_at in sent:
            os.write(controller, b"\x03")
            typed = True
    after = termios.tcgetattr(terminal)
    status = child.wait(10)
    os.close(controller)
    os.close(terminal)
    return status, sent.decode(errors="strict"), before, after


MASK = "\u2591"


def test_watch_redraws_in_place(program, run, trained):
    sample = ["generate", "-m", trained, "--seed", 3, "--length", 24, "-n", 2]
    plain = run(*sample, "--watch").stdout.decode()
    assert "\x1b" not in plain and plain.count("\n<|endoftext|>\n") == 2
    status, sent, before, after = on_terminal(program, *sample, "--watch")
    screen = Screen(60, 24)
    screen.feed(sent)
    texts = plain.split("\n<|endoftext|>\n")[:2]
    safe = [re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "\ufffd", text) for text in texts]
    assert status == 0 and screen.cursor and before == after
    assert MASK not in screen.text() and "hidden" not in screen.text()
    # Nothing of the frames is left, only the texts; the terminal itself breaks what is longer than a line.
    assert [line for line in sent.replace("\r", "").split("\n") if safe[1] in line]
    hidden = [frame.count(MASK) for frame in screen.shown if MASK in frame]
    assert len(hidden) >= 20 and hidden[0] > hidden[-1]
    steps = re.findall(r"step (\d+) of 24, (\d+) of 24 tokens hidden", sent)
    assert steps == [(str(k), str(24 - k)) for k in range(25)] * 2


def test_watch_fits_a_small_terminal(program, trained):
    status, sent, _, _ = on_terminal(program, "generate", "-m", trained, "--length", 32, "--watch", columns=20, rows=6)
    assert status == 0
    screen = Screen(20, 6)
    frames = sent[: sent.rindex("\x1b[J")]
    screen.feed(frames)
    assert all(frame.count("\n") < 6 for frame in screen.shown)


def test_interrupt_restores_the_terminal(program, trained):
    status, sent, before, after = on_terminal(
        program, "generate", "-m", trained, "-n", 1000, "--length", 32, "--watch", interrupt_at=MASK.encode()
    )
    assert status == 130 and before == after
    screen = Screen(60, 24)
    screen.feed(sent.replace("^C", ""))
    assert screen.cursor and MASK not in screen.text()
    assert "diffusionlm: stopped" in screen.text()


def test_no_drawing_on_a_dumb_terminal(program, trained):
    status, sent, _, _ = on_terminal(program, "generate", "-m", trained, "--length", 12, "--watch", term="dumb")
    assert status == 0 and "\x1b" not in sent


def test_progress_on_a_terminal_and_in_a_file(program, run, corpus, tmp_path):
    sizes = [*TINY, "--vocab-size", 320, "--steps", 200, "--eval-every", 0, "--sample-every", 0]
    status, sent, before, after = on_terminal(program, "train", corpus, "-o", tmp_path / "one", *sizes, columns=300)
    assert status == 0 and before == after
    screen = Screen(300, 24)
    screen.feed(sent)
    assert "%" in sent and "%" not in screen.text(), "the bar is gone when the run has ended"
    assert "done: step 200" in screen.text()
    said = run("train", corpus, "-o", tmp_path / "two", *sizes).stderr.decode()
    assert "\x1b" not in said and "\r" not in said and "step 200/200  loss" in said
    assert run("train", corpus, "-o", tmp_path / "three", *sizes, "--quiet").stderr == b""


def test_interrupt_of_training_on_a_terminal(program, run, corpus, tmp_path):
    sizes = [*TINY, "--vocab-size", 320, "--eval-every", 0, "--sample-every", 0]
    status, sent, before, after = on_terminal(
        program, "train", corpus, "-o", tmp_path / "run", *sizes, "--steps", 100000, columns=100, interrupt_at=b"loss"
    )
    assert status == 130 and before == after
    assert "all of it saved" in sent and "go on with:" in sent
    step = int(re.search(r"stopped after step (\d+)", sent)[1])
    assert (tmp_path / "run/latest").read_text() == f"step-{step:08d}\n"
    run("train", "-o", tmp_path / "run", "--resume", "--steps", step + 2, "--quiet")


def test_samples_cannot_command_the_terminal(program, corpus, tmp_path):
    """An untrained model writes any byte; none reaches the terminal as a control character."""
    arguments = ["train", corpus, "-o", tmp_path / "run", *TINY, "--vocab-size", 260, "--steps", 30, "--sample-every", 1,
                 "--eval-every", 0]  # fmt: skip
    status, sent, _, _ = on_terminal(program, *arguments, columns=1000)
    assert status == 0
    samples = (tmp_path / "run/samples.txt").read_bytes()
    assert re.search(rb"[\x01-\x08\x0e-\x1f]", samples), "this run shows nothing"
    assert not re.search("\x1b(?!\\[[0-9;]*[KmJA])|[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f]", sent)
    for options in ([], ["--watch"]):
        status, sent, _, _ = on_terminal(program, "generate", "-m", tmp_path / "run", "-n", 6, "--length", 32, *options)
        assert status == 0
        assert not re.search("\x1b(?!\\[\\??[0-9;]*[KmJAlh])|[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f]", sent)


# ---- a run -----------------------------------------------------------------------------------------------------------


def test_log(trained):
    with open(trained / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["step", "epoch", "tokens", "seconds", "loss", "lr", "grad_norm", "tokens_per_s", "eval_ce",
                             "eval_ppl", "eval_nelbo"]  # fmt: skip
    assert [int(row["step"]) for row in rows] == sorted({*range(40, 301, 40), 100, 200, 300})
    for row in rows:
        measured = int(row["step"]) % 100 == 0
        assert all((row[name] != "") == measured for name in ("eval_ce", "eval_ppl", "eval_nelbo"))
        if measured:
            assert math.isclose(float(row["eval_ppl"]), math.exp(float(row["eval_ce"])), rel_tol=1e-4)
    for name in ("epoch", "tokens", "seconds"):
        values = [float(row[name]) for row in rows]
        assert values == sorted(values) and values[0] > 0
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"]) < math.log(320) + 0.1
    last = float(rows[-1]["lr"])
    assert 0.1 * 5e-3 <= last < 0.11 * 5e-3, "the decay has come to its end"


def test_greedy_text_is_pytorchs(run, trained, shared):
    """The folder loads with safetensors into the reference model, whose own greedy text is the program's: at each step
    the most probable token of the position that it is surest of."""
    torch = pytest.importorskip("torch")
    sys.path.insert(0, str(shared / "reference"))
    reference = pytest.importorskip("torch_dit")
    config = json.loads(run("info", trained, "--json").stdout)
    model_path = trained / "checkpoints" / (trained / "latest").read_text().strip() / "model.safetensors"
    assert os.path.samefile(config["source"], model_path)
    names = ("vocab_size", "max_seq_len", "hidden_size", "depth", "num_heads", "mlp_ratio", "time", "position")
    model = reference.DiT(reference.Config(*(config[name] for name in names))).eval()
    model.load_state_dict(load_file(model_path))
    assert sum(p.numel() for p in model.parameters()) == config["parameters"]
    assert {t["name"]: t["shape"] for t in config["tensors"]} == {n: list(p.shape) for n, p in model.named_parameters()}

    n = 20
    ids = torch.full((1, n), 2)
    while (ids == 2).any():
        t = 2 / math.pi * math.acos(1 - (ids == 2).double().mean().item())
        with torch.no_grad():
            logits = model(ids, torch.tensor([t], dtype=torch.float32))
        logits[..., :3] = -math.inf
        confidence, best = logits.softmax(-1).max(-1)
        at = confidence.masked_fill(ids != 2, -1).argmax()
        ids[0, at] = best[0, at]
    line = run("generate", "-m", trained, "--length", n, "--temperature", 0, "--reveal", "linear", "--precision", "f32",
               "--json").stdout  # fmt: skip
    assert json.loads(line)["ids"] == ids[0].tolist()

"""The command as people and scripts see it: JSON of tokenizer commands against the Hugging Face library, progress on a
terminal, the logs of a run, and a trained model in PyTorch. --watch is in test_watch.py."""

import csv
import json
import math
import os
import random
import re
import sys

import pytest
from safetensors.torch import load_file
from terminal import FORBIDDEN, on_terminal
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


def test_progress_on_a_terminal_and_in_a_file(program, run, corpus, tmp_path):
    sizes = [*TINY, "--vocab-size", 320, "--steps", 200, "--eval-every", 0, "--sample-every", 0]
    ran = on_terminal(program, "train", corpus, "-o", tmp_path / "one", *sizes, columns=300)
    assert ran.status == 0 and ran.before == ran.after
    screen = ran.screen(300, 24)
    assert b"%" in ran.sent and "%" not in screen.text(), "the bar is gone when the run has ended"
    assert "done: step 200" in screen.text()
    said = run("train", corpus, "-o", tmp_path / "two", *sizes).stderr.decode()
    assert "\x1b" not in said and "\r" not in said and "step 200/200  loss" in said
    assert run("train", corpus, "-o", tmp_path / "three", *sizes, "--quiet").stderr == b""


def test_interrupt_of_training_on_a_terminal(program, run, corpus, tmp_path):
    sizes = [*TINY, "--vocab-size", 320, "--eval-every", 0, "--sample-every", 0]
    ran = on_terminal(
        program, "train", corpus, "-o", tmp_path / "run", *sizes, "--steps", 100000, columns=100, interrupt_at="loss"
    )
    sent = ran.sent.decode()
    assert ran.status == 130 and ran.before == ran.after
    assert "all of it saved" in sent and "go on with:" in sent
    step = int(re.search(r"stopped after step (\d+)", sent)[1])
    assert (tmp_path / "run/latest").read_text() == f"step-{step:08d}\n"
    run("train", "-o", tmp_path / "run", "--resume", "--steps", step + 2, "--quiet")


def test_samples_cannot_command_the_terminal(program, corpus, tmp_path):
    """An untrained model writes any byte; none reaches the terminal as a control character."""
    arguments = ["train", corpus, "-o", tmp_path / "run", *TINY, "--vocab-size", 260, "--steps", 30, "--sample-every", 1,
                 "--eval-every", 0]  # fmt: skip
    ran = on_terminal(program, *arguments, columns=1000)
    assert ran.status == 0
    samples = (tmp_path / "run/samples.txt").read_bytes()
    assert re.search(rb"[\x01-\x08\x0e-\x1f]", samples), "this run shows nothing"
    assert not FORBIDDEN.search(ran.sent.decode())
    for options in ([], ["--watch"]):
        ran = on_terminal(program, "generate", "-m", tmp_path / "run", "-n", 6, "--length", 32, *options)
        assert ran.status == 0 and not FORBIDDEN.search(ran.sent.decode())


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

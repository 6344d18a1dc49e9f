"""--watch on a terminal, as its user sees it, and --trace, replayed. What a frame must show is worked out here from the
trace of the same run."""

import json
import os
import re
import resource
import signal
import struct
import subprocess
import time

import pytest
from terminal import MASK, Screen, Typed, on_terminal
from wcwidth import wcswidth, wcwidth

SIZES = "--hidden 16 --depth 1 --heads 2 --batch 4 --threads 1 --eval-every 0 --sample-every 0 --quiet".split()
FLASH = {"bg": "ff5faf", "fg": "000000"}
TRUE = {"term": "xterm-256color", "COLORTERM": "truecolor"}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("watch") / "text.txt"
    path.write_text("\n<|endoftext|>\n".join(f"The cat number {i} saw a dog and {i * 7} birds." for i in range(300)))
    return path


@pytest.fixture(scope="module")
def trained(run, corpus):
    """A model that ends its texts, on letters alone: few of its tokens are parts of characters."""
    folder = corpus.parent / "run"
    run("train", corpus, "-o", folder, *SIZES, "--seq-len", 32, "--vocab-size", 320, "--steps", 300, "--seed", 5)
    return folder


@pytest.fixture(scope="module")
def endless(run, corpus):
    """A model of longer texts, without ends."""
    folder = corpus.parent / "endless"
    run("train", corpus, "-o", folder, *SIZES, "--seq-len", 128, "--vocab-size", 320, "--steps", 40, "--recipe", "original")
    return folder


@pytest.fixture(scope="module")
def wide(run, corpus):
    """A model of wide characters, tabs and line ends."""
    path = corpus.parent / "wide.txt"
    path.write_text("\n<|endoftext|>\n".join(f"\u732b\u3068\u72ac{i} \U0001f600\n\u4e2d\u6587\t\u597d\u5417" * 3 for i in range(200)))
    run("train", path, "-o", corpus.parent / "wide", *SIZES, "--seq-len", 64, "--vocab-size", 340, "--steps", 200)
    return corpus.parent / "wide"


# ---- what a trace says -----------------------------------------------------------------------------------------------


class Sample:
    """A text as the lines of a trace build it up: states[k] is after the k-th of its lines."""

    def __init__(self, start):
        assert start["step"] == 0 and start["forwards"] == 0
        self.length, self.fixed = start["length"], set(start["fixed"])
        self.ids, self.confidence = [-1] * self.length, [0.0] * self.length
        self.lines, self.states, self.done = [], [], None
        self.take(start)

    def take(self, line):
        assert self.done is None, "nothing comes behind the last line"
        if self.lines:
            last = self.lines[-1]
            assert line["step"] > last["step"] and line["changes"]
            reveals = any(token != -1 for _, token, _ in line["changes"])
            assert line["forwards"] > last["forwards"] or (line["forwards"] == last["forwards"] and not reveals)
        again = set()
        for position, token, confidence in line["changes"]:
            if token == -1:
                assert self.ids[position] != -1 and position not in self.fixed and confidence == 0
                again.add(position)
            else:
                assert self.ids[position] == -1 and (line["step"] == 0 or 0 < confidence <= 1)
            self.ids[position], self.confidence[position] = token, confidence
        assert line["masked"] == self.ids.count(-1) and 0 <= line["t"] <= 1
        self.lines.append(line)
        changed = {position for position, _, _ in line["changes"]} if line["step"] else set()
        self.states.append((list(self.ids), list(self.confidence), changed, again))


def read_trace(text):
    lines = [json.loads(line) for line in text.split("\n")[:-1]]
    assert text.endswith("\n") and lines[0]["format"] == "diffusionlm trace" and lines[0]["version"] == 1
    samples = {}
    tries = {}
    for line in lines[1:]:
        one = line["index"], line.get("try", 0)
        if line.get("step") == 0:
            assert one not in tries
            tries[one] = Sample(line)
        elif line.get("done"):
            tries[one].done = line
            samples[line["index"]] = tries[one]
        else:
            tries[one].take(line)
    for one, sample in tries.items():
        samples.setdefault(one[0], sample)
    return lines[0], samples


def result(output):
    return [json.loads(line) for line in output.decode().split("\n")[:-1]]


KINDS = {
    "plain": ["-n", 5],
    "prompt": ["-n", 3, "--prompt", "The cat number", "--length", 30],
    "corrector": ["-n", 3, "--corrector-frac", 0.4, "--corrector-every", 1, "--steps", 12],
    "low confidence": ["-n", 2, "--corrector-frac", 0.2, "--corrector-mode", "low_confidence", "--length", 20],
    "threshold": ["-n", 4, "--confidence-threshold", 0.5, "--corrector-frac", 0.5],
    "remask": ["-n", 4, "--remask", "cap", "--eta", 0.3, "--steps", 20, "--length", 24],
    "loop": ["-n", 3, "--remask", "loop", "--length", 24],
    "first_hitting": ["-n", 4, "--order", "first_hitting"],
    "guidance": ["-n", 2, "--prompt", "The cat number", "--guidance", 0.5, "--reveals", 3, "--length", 20],
    "template": ["-n", 3, "--template", "The cat [MASK:2-5] saw [MASK:3] birds.", "--steps", 4],
    "tries": ["-n", 2, "--tries", 3, "--suffix", "56 birds.", "--length", 20],
    "blocks": ["-n", 2, "--length", 80, "--steps", 7],
    "random": ["-n", 4, "--order", "random", "--reveal", "linear", "--temperature", 0],
}


@pytest.mark.parametrize("kind", KINDS)
def test_trace_replays_to_the_ids(run, trained, tmp_path, kind):
    options = ["generate", "-m", trained, "--seed", 11, *KINDS[kind]]
    wanted = result(run(*options, "--json", "--trace", tmp_path / "trace").stdout)
    text = (tmp_path / "trace").read_text()
    header, samples = read_trace(text)
    assert sorted(samples) == [row["index"] for row in wanted] and os.listdir(tmp_path) == ["trace"]
    for row in wanted:
        sample = samples[row["index"]]
        assert sample.ids == row["ids"] == sample.done["ids"] and sample.done["text"] == row["text"]
        assert sample.lines[-1]["forwards"] <= row["forwards"]
    assert header["seed"] == 11 and header["command"] == "generate"
    assert header["options"]["count"] == len(wanted) and "trace" not in header["options"]
    assert header["tokenizer_hash"] == json.loads(run("info", trained, "--json").stdout)["tokenizer_hash"]
    remasked = any(again for sample in samples.values() for *_, again in sample.states)
    assert remasked == ("--corrector-frac" in options or "--remask" in options)
    assert ('"try"' in text) == (kind in ("template", "tries"))
    if "--prompt" in options:
        prompt = json.loads(run("tokenizer", "encode", "-t", trained / "tokenizer", "--json", input=b'"The cat number"').stdout)
        for sample in samples.values():
            assert sample.fixed == set(range(len(prompt["ids"]))) and sample.states[0][0][: len(sample.fixed)] == prompt["ids"]
            assert all(sample.confidence[p] == 1 for p in sample.fixed)
    # The same run writes the same bytes, beside texts or instead of them.
    plain = run(*options, "--trace", tmp_path / "trace").stdout.decode()
    assert (tmp_path / "trace").read_text() == text and plain.count("\n<|endoftext|>\n") == len(wanted)
    assert run(*options, "--trace", "-").stdout.decode() == text


def test_times_of_a_trace(run, trained):
    """t is sigma^-1 of the masked share with which a sample went through the model."""
    options = ["--length", 16, "--steps", 8, "--schedule", "linear", "--trace", "-"]
    _, samples = read_trace(run("generate", "-m", trained, *options).stdout.decode())
    lines = samples[0].lines
    assert lines[0]["t"] == 1
    assert [line["t"] for line in lines[1:]] == [before["masked"] / 16 for before in lines[:-1]]


def test_trace_of_refine(run, trained, corpus, tmp_path):
    text = corpus.read_bytes()[:250].rpartition(b"\n<|")[0]
    options = ["refine", "-m", trained, "--passes", 5, "--frac", 0.3, "--seed", 4, "--trace", tmp_path / "trace"]
    wanted = result(run(*options, "--json", input=text).stdout)
    header, samples = read_trace((tmp_path / "trace").read_text())
    assert header["command"] == "refine" and header["options"]["passes"] == 5 and header["options"]["frac"] == 0.3
    stories = [story.strip() for story in text.decode().split("<|endoftext|>")]
    assert len(samples) == len(wanted) == len(stories) > 3
    for story, row in zip(stories, wanted):
        sample = samples[row["index"]]
        given = json.loads(run("tokenizer", "encode", "-t", trained / "tokenizer", "--json", input=json.dumps(story).encode()).stdout)
        assert sample.states[0][0] == [*given["ids"], 3] and sample.fixed == {len(given["ids"])}
        assert sample.ids == row["ids"] == sample.done["ids"] and sample.done["text"] == row["text"]
        assert all(masked == 0 for masked in (line["masked"] for line in sample.lines))


def test_trace_of_refined_windows(run, trained, tmp_path):
    """A text that is longer than the model takes is refined window by window, and one text in the trace."""
    text = " ".join(["The cat number 8 saw a dog and 56 birds."] * 8).encode()
    options = ["refine", "-m", trained, "--passes", 3, "--frac", 0.2, "--json", "--trace", tmp_path / "trace"]
    (row,) = result(run(*options, input=text).stdout)
    _, samples = read_trace((tmp_path / "trace").read_text())
    assert len(row["ids"]) > 64 and samples[0].ids == row["ids"] == samples[0].done["ids"]


def test_a_model_without_tokenizer_is_traced(run, trained, tmp_path):
    step = trained / "checkpoints" / (trained / "latest").read_text().strip()
    for name in ("model.safetensors", "config.json"):
        (tmp_path / name).write_bytes((step / name).read_bytes())
    header, samples = read_trace(run("generate", "-m", tmp_path, "--length", 9, "--trace", "-").stdout.decode())
    assert header["tokenizer_hash"] is None and samples[0].done["text"] is None and samples[0].ids == samples[0].done["ids"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_keeps_its_trace(program, trained, tmp_path, number):
    path = tmp_path / "trace"
    child = subprocess.Popen([program, "generate", "-m", trained, "-n", "1000000", "--trace", path],
                             stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)  # fmt: skip
    partial = tmp_path / "trace.partial"
    end = time.monotonic() + 60
    while not (partial.exists() and partial.stat().st_size > 100000) and time.monotonic() < end:
        time.sleep(0.01)
    child.send_signal(number)
    _, said = child.communicate(timeout=60)
    assert child.returncode == 128 + number and b"stopped" in said
    assert os.listdir(tmp_path) == ["trace"]
    _, samples = read_trace(path.read_text())
    assert any(sample.done for sample in samples.values()) or samples
    for sample in samples.values():
        assert sample.done is None or sample.done["ids"] == sample.ids


def test_what_fails_leaves_an_earlier_trace(program, run, trained, tmp_path):
    path = tmp_path / "trace"
    run("generate", "-m", trained, "--trace", path)
    before = path.read_bytes()
    long = tmp_path / "long.txt"
    long.write_text("The cat saw.\n<|endoftext|>\n" + "cat " * 300)
    run("refine", "-m", trained, long, "--keep", "cat saw", "--trace", path, status=1)
    run("generate", "-m", tmp_path, "--trace", path, status=1)
    # No more room, in the middle of it, and at once.
    limit = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, len(before) // 2))}
    said = run("generate", "-m", trained, "-n", 9, "--trace", path, status=1, **limit).stderr.decode()
    assert said == f"diffusionlm: {path}: File too large\n"
    said = run("generate", "-m", trained, "--trace", "/dev/full", status=1).stderr.decode()
    assert said == "diffusionlm: /dev/full: No space left on device\n"
    # A file that was named by mistake.
    said = run("refine", "-m", trained, long, "--trace", long, status=1).stderr.decode()
    assert "there is a file that is no trace" in said and long.read_text().startswith("The cat")
    child = subprocess.Popen([program, "generate", "-m", trained, "-n", "1000000", "--trace", path], stdout=subprocess.DEVNULL)
    time.sleep(0.5)
    child.kill()
    child.wait()
    assert path.read_bytes() == before
    run("generate", "-m", trained, "--trace", path)
    assert path.read_bytes() == before and sorted(os.listdir(tmp_path)) == ["long.txt", "trace"]


# ---- frames ----------------------------------------------------------------------------------------------------------


def token_texts(folder):
    """{id: text} of a byte-level tokenizer.json; special tokens are empty."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    byte_of = {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}
    made = json.loads((folder / "tokenizer/tokenizer.json").read_text())
    texts = {i: bytes(byte_of[c] for c in token) for token, i in made["model"]["vocab"].items() if all(c in byte_of for c in token)}
    return texts | {token["id"]: b"" for token in made["added_tokens"]}


def expected_cells(texts, sample, k, shades, end):
    """(character, fg, bg, bold) of frame k, all but spaces: fixed and given text plain, masks in no colour, others in the
    shade of their confidence, bold in the step that revealed them, pink when they were masked again."""
    ids, confidence, changed, again = sample.states[k]
    cells, run = [], []

    def end_run():
        text = b"".join(texts[ids[p]] for p in run)
        owner = [p for p in run for _ in texts[ids[p]]]
        at = 0
        for character in text.decode(errors="surrogateescape"):
            p = owner[at]
            at += 1 if "\udc80" <= character <= "\udcff" else len(character.encode())
            shown = "\ufffd" if not character.isprintable() and character not in "\n\t" else character
            if p in again:
                look = (FLASH["fg"], FLASH["bg"], False)
            elif p in sample.fixed or confidence[p] == 0:
                look = ("default", "default", False)
            else:
                look = (shades[min(7, int(confidence[p] * 8))], "default", p in changed)
            if shown not in " \n\t":
                cells.append((shown, *look))
        run.clear()

    for p, token in enumerate(ids):
        if token == end:
            break
        if token != -1:
            run.append(p)
            continue
        end_run()
        cells += [(MASK, FLASH["fg"], FLASH["bg"], False) if p in again else (MASK, "default", "default", False)] * 3
    end_run()
    return cells


def contrast(colour):
    """Of a colour (hexadecimal digits) with black and with white, as WCAG 2 has it."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return (luminance + 0.05) / 0.05, 1.05 / (luminance + 0.05)


def legend_of(frame):
    return [cell.fg for cell in frame.cells[len(frame.lines) - 1] if cell.data == "\u2588"]


LOOKS = {
    "generate": ["--length", 30, "--steps", 7],
    "prompt": ["--length", 24, "--steps", 5, "--prompt", "The cat"],
    "corrector": ["--length", 30, "--steps", 8, "--corrector-frac", 0.3],
}


@pytest.mark.parametrize("kind", [*LOOKS, "refine"])
def test_every_frame_shows_its_step(program, trained, endless, corpus, tmp_path, kind):
    model = endless if kind == "corrector" else trained
    if kind == "refine":
        (tmp_path / "text").write_text("The cat number 8 saw a dog and 56 birds.")
        options = ["refine", tmp_path / "text", "--passes", 5, "--frac", 0.3]
    else:
        options = ["generate", *LOOKS[kind]]
    # A flash lasts a quarter of a second: at this pace it is gone in the frame that follows.
    ran = on_terminal(program, *options, "-m", model, "--seed", 6, "--watch", "--fps", 3.9, "--trace", tmp_path / "trace", columns=70, **TRUE)
    assert ran.status == 0
    screen, (_, samples) = ran.screen(70, 24), read_trace((tmp_path / "trace").read_text())
    steps = {line["step"]: k for k, line in enumerate(samples[0].lines)}
    shades, texts = legend_of(screen.frames[0]), token_texts(model)
    assert len(screen.frames) == samples[0].lines[-1]["step"] + 1 and len(set(shades)) == 8
    assert all(min(contrast(shade)) >= 4.5 for shade in shades)
    flashed = 0
    for step, frame in enumerate(screen.frames):
        k = steps[step]
        body = [cell for cell in frame.body() if cell.data not in ("", " ")]
        cells = [(c.data, c.fg, c.bg, c.bold) for c in body]
        assert cells == expected_cells(texts, samples[0], k, shades, -2 if model == endless else 3), (kind, step)
        flashed += sum(c.bg == FLASH["bg"] for c in body)
        status = frame.lines[-2]
        masked = samples[0].lines[k]["masked"] / samples[0].length
        assert status.startswith(f"step {step} of {samples[0].lines[k]['steps']}  masked {100 * masked:3.0f}% ")
        assert f"t {samples[0].lines[k]['t']:.3f}" in status and f"passes {samples[0].lines[k]['forwards']}" in status
        assert status.count("#") == int(masked * 10 + 1e-9) and re.search(r"\d+\.\d s$", status)
        assert frame.lines[-1] == "unsure " + "\u2588" * 8 + " sure  new  masked again"
    assert (flashed > 0) == (kind in ("corrector", "refine"))


def test_a_flash_lasts_for_some_frames(program, trained):
    options = ["generate", "-m", trained, "--length", 30, "--corrector-frac", 1, "--corrector-every", 29, "--seed", 2]
    ran = on_terminal(program, *options, "--watch", "--fps", "30", **TRUE)
    flashing = [any(cell.bg == FLASH["bg"] for cell in frame.body()) for frame in ran.screen(60, 24).frames]
    assert flashing[29:] == [True, True] and not any(flashing[:29])


@pytest.mark.parametrize("environment, colours, least", [
    ({"term": "xterm"}, ["red", "red", "red", "green", "green", "green", "cyan", "cyan"], None),
    ({"term": "screen-256color"}, None, 3.8),
    ({"term": "xterm", "COLORTERM": "24bit", "NO_COLOR": ""}, None, 4.5),
])  # fmt: skip
def test_colours_are_those_of_the_terminal(program, trained, environment, colours, least):
    ran = on_terminal(program, "generate", "-m", trained, "--length", 12, "--steps", 3, "--watch", **environment)
    shades = legend_of(ran.screen(60, 24).frames[0])
    if colours is not None:
        assert shades == colours
    else:
        assert len(set(shades)) == 8 and all(min(contrast(shade)) >= least for shade in shades)
    assert (b"\x1b[0;38;2;" in ran.sent) == ("COLORTERM" in environment) and (b";38;5;" in ran.sent) == (least == 3.8)


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1", **TRUE}, {"term": "vt100", "COLORTERM": "truecolor"}])
def test_without_colours(program, trained, environment):
    ran = on_terminal(program, "generate", "-m", trained, "--length", 20, "--corrector-frac", 0.3, "--watch", **environment)
    assert ran.status == 0
    assert set(re.findall(rb"\x1b\[([0-9;]*)m", ran.sent)) == {b"0", b"0;2"}
    assert "dim: less probable than not" in ran.screen(60, 24).frames[0].text()


# ---- the terminal ----------------------------------------------------------------------------------------------------


def written(text, columns, rows=24, before=""):
    """The screen after texts were written to it."""
    screen = Screen(columns, rows)
    screen.feed((before + text).replace("\n", "\r\n"))
    return screen.text()


def texts_of(run, options):
    """What is left of a watched run: the texts, each with an empty line behind it."""
    plain = run(*options, "--watch").stdout.decode()
    assert "\x1b[" not in plain
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "\ufffd", plain.replace("\n<|endoftext|>\n", "\n\n"))


def fits(frame):
    return len(frame.lines) <= frame.rows and all(wcswidth(line) < frame.columns for line in frame.lines)


def test_frames_give_way_to_the_texts(program, run, trained):
    options = ["generate", "-m", trained, "--seed", 3, "--length", 24, "-n", 2]
    ran = on_terminal(program, *options, "--watch", "--fps", "max")
    screen = ran.screen(60, 24)
    assert ran.status == 0 and ran.before == ran.after and screen.cursor_shown
    assert screen.text() == written(texts_of(run, options), 60)
    steps = re.findall(r"step (\d+) of 24  masked +(\d+)%", ran.sent.decode())
    assert steps == [(str(k), f"{100 * (24 - k) / 24:.0f}") for k in range(25)] * 2
    assert all(fits(frame) for frame in screen.frames)
    assert screen.cursor.attrs == Screen(1, 1).cursor.attrs, "colours are as they were"


def test_the_pace(program, trained):
    def seconds(fps):
        start = time.monotonic()
        ran = on_terminal(program, "generate", "-m", trained, "--length", 20, "--steps", 9, "--watch", "--fps", fps)
        assert ran.status == 0 and ran.sent.count(b"step ") == 10
        return time.monotonic() - start

    quick = seconds("max")
    assert seconds(5) > 10 * 0.2 > quick and seconds(0) < 2


@pytest.mark.parametrize("columns, rows", [(79, 6), (40, 8), (20, 6), (30, 3), (12, 2), (9, 1), (5, 5), (2, 2)])
def test_small_terminals_show_what_changes(program, run, endless, columns, rows):
    options = ["generate", "-m", endless, "--length", 128, "--steps", 40, "--order", "random", "--seed", 1]
    ran = on_terminal(program, *options, "--watch", "--fps", "max", columns=columns, rows=rows, **TRUE)
    screen = ran.screen(columns, rows)
    assert ran.status == 0 and len(screen.frames) == 41
    assert screen.cursor_shown and screen.text() == written(texts_of(run, options), columns, rows)
    frames = screen.frames
    assert all(frame.scrolled == 0 for frame in frames)
    if columns > 4:
        assert all(fits(frame) and frame.wraps == 0 for frame in frames)
        # A token of nothing but a space, or a line's end, is not seen.
        seen = [any(cell.bold for cell in frame.body(1)) for frame in frames[1:]]
        assert sum(seen) >= (40 if rows > 5 else 36 if rows > 1 else 0), "what a step changed is in sight"
    if columns > 60:
        assert all("lines" in frame.lines[-1] for frame in frames[:20])


def test_below_other_text(program, run, endless):
    options = ["generate", "-m", endless, "--length", 128, "--steps", 20, "--seed", 1]
    ran = on_terminal("bash", "-c", 'seq 30; "$@"; echo after', "bash", program, *options, "--watch", "--fps", "max", rows=16, columns=50)
    screen = ran.screen(50, 16)
    before = "".join(f"{i}\n" for i in range(1, 31))
    assert screen.text() == written(texts_of(run, options) + "after\n", 50, 16, before)
    assert max(frame.scrolled for frame in screen.frames) - 15 <= 16 and all(fits(frame) for frame in screen.frames)


def test_wide_characters(program, run, wide):
    def asked(seed):
        return ["generate", "-m", wide, "--length", 60, "--steps", 30, "--seed", seed]

    # what a seed writes depends on the machine: the first that writes such a character
    options = next(asked(seed) for seed in range(50) if any(wcwidth(c) == 2 for c in texts_of(run, asked(seed))))
    ran = on_terminal(program, *options, "--watch", "--fps", "max", columns=23, rows=30)
    screen = ran.screen(23, 30)
    lines = [frame.text().replace("\n", "") for frame in screen.frames]
    assert any(wcswidth(line) > len(line) for line in lines)
    assert all(fits(frame) and frame.wraps == 0 for frame in screen.frames)
    assert screen.text() == written(texts_of(run, options), 23, 30)


SIZES_IN_TURN = [(60, 24), (30, 24), (80, 24), (80, 12), (70, 12), (60, 40)]


def test_changes_of_size(program, run, endless):
    """Narrower, wider, lower, both, larger: each frame fits, nothing but the texts is left."""
    options = ["generate", "-m", endless, "--length", 50, "--steps", 30, "--seed", 1]
    typed = [Typed(f"step {5 * i} of", lambda terminal, size=size: terminal.resize(*size))
             for i, size in enumerate(SIZES_IN_TURN) if i > 0]  # fmt: skip
    ran = on_terminal("bash", "-c", 'echo before; "$@"', "bash", program, *options, "--watch", "--fps", 8, typed=typed)
    screen = ran.screen(60, 24)
    assert ran.status == 0 and [part for part in ran.parts if isinstance(part, tuple)] == SIZES_IN_TURN[1:]
    assert all(fits(frame) and frame.wraps == 0 for frame in screen.frames)
    assert {(frame.columns, frame.rows) for frame in screen.frames} == set(SIZES_IN_TURN)
    assert screen.cursor_shown and screen.text() == written(texts_of(run, options), 60, 40, "before\n")


@pytest.mark.parametrize("how", ["Ctrl-C", "SIGTERM", "SIGQUIT"])
def test_a_stopped_run_restores_the_terminal(program, trained, how):
    act = {"Ctrl-C": lambda terminal: terminal.type(b"\x03"),
           "SIGTERM": lambda terminal: terminal.child.send_signal(signal.SIGTERM),
           "SIGQUIT": lambda terminal: terminal.type(b"\x1c")}[how]  # fmt: skip
    options = ["generate", "-m", trained, "-n", 1000, "--length", 32, "--watch", "--fps", 2]
    start = time.monotonic()
    ran = on_terminal(program, *options, typed=[Typed("step 2 of", act)], **TRUE)
    assert time.monotonic() - start < 60 and ran.before == ran.after
    screen = ran.screen(60, 24)
    assert screen.cursor_shown and screen.cursor.attrs == Screen(1, 1).cursor.attrs
    assert ran.status == {"Ctrl-C": 130, "SIGTERM": 143, "SIGQUIT": -signal.SIGQUIT}[how]
    if how != "SIGQUIT":
        assert screen.text() == "diffusionlm: stopped"


def test_asleep_and_awake(program, run, trained):
    """Ctrl-Z gives the cursor back; after fg the text is drawn below what the shell wrote."""
    options = ["generate", "-m", trained, "--length", 24, "--seed", 3]
    job = '"$@"; echo; echo "asleep $?"; fg > /dev/null; echo "awake $?"'
    ran = on_terminal("bash", "-mc", job, "bash", program, *options, "--watch", "--fps", 10,
                      typed=[Typed("step 5 of", lambda terminal: terminal.type(b"\x1a"))])  # fmt: skip
    sent = ran.sent.decode()
    assert ran.status == 0 and ran.before == ran.after
    asleep = sent.index("asleep")
    assert sent.rindex("\x1b[?25h", 0, asleep) > sent.rindex("\x1b[?25l", 0, asleep)
    assert "\x1b[?25l" in sent[asleep:]
    screen = ran.screen(60, 24)
    lines = screen.text().split("\n")
    assert screen.cursor_shown and lines[-1] == "awake 0"
    at = next(i for i, line in enumerate(lines) if line.startswith("asleep"))
    assert MASK not in "\n".join(lines[at:])
    text = written(texts_of(run, options), 60).split("\n")
    assert lines[at + 1 : at + 1 + len(text)] == text


def test_a_failure_is_read_where_the_frame_was(program, run, trained, tmp_path):
    """A model that fails as soon as it reads a token: what it says is not wiped away, and no frame is left."""
    step = trained / "checkpoints" / (trained / "latest").read_text().strip()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((step / name).read_bytes())
    data = bytearray((step / "model.safetensors").read_bytes())
    size = struct.unpack("<Q", data[:8])[0]
    at, end = json.loads(data[8 : 8 + size])["tok_embed.weight"]["data_offsets"]
    row = (end - at) // json.loads((tmp_path / "config.json").read_text())["vocab_size"]
    for i in range(8 + size + at + 4 * row, 8 + size + end, 4):
        data[i : i + 4] = struct.pack("<f", 3e38)
    (tmp_path / "model.safetensors").write_bytes(data)
    ran = on_terminal(program, "generate", "-m", tmp_path, "--length", 20, "--watch", columns=70)
    screen = ran.screen(70, 24)
    assert ran.status == 1 and len(screen.frames) == 2 and screen.cursor_shown
    assert screen.text().startswith("diffusionlm: ") and "step" not in screen.text() and MASK not in screen.text()


def test_no_drawing_on_a_dumb_terminal(program, trained):
    ran = on_terminal(program, "generate", "-m", trained, "--length", 12, "--watch", term="dumb")
    assert ran.status == 0 and b"\x1b" not in ran.sent

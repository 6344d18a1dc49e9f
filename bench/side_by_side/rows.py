"""The rows of the table: what is measured, on which settings, and what is to be reached on which class of machine.

A goal is by class of machine: "amx", "avx512", and "plain" where there is neither, which has goals only where no matrix
product is the limit; instead the fraction of the roofline is told: useful floating-point operations by formula over the
measured rate of the best product."""

import json
import math
import subprocess
import time
from statistics import median

from compare import Line, in_turn, ratio_line, shown
from setting import HERE, Setting
from sides import Side, Worker, ask_measure, log_rows, our_first_step, our_memory, our_texts, our_training, precisions

PRESETS = {"tiny": (128, 4, 4), "small": (256, 8, 8), "base": (768, 12, 12)}  # channels, depth, heads
VOCABULARY, LENGTH = 8192, 256
MASKED = 1 - 2 / math.pi  # share of masked tokens, the time uniform on the cosine schedule


def everywhere(goal: float) -> dict:
    return {"amx": goal, "avx512": goal, "plain": goal}


# ---- rooflines -------------------------------------------------------------------------------------------------------


def forward_flop(preset: str, sequences: int, length: int, rows: float) -> float:
    """Of a forward pass that computes the logits of `rows` positions."""
    channels, depth, _ = PRESETS[preset]
    tokens = sequences * length
    block = tokens * (24 * channels**2 + 4 * length * channels) + sequences * 12 * channels**2
    return depth * block + 2 * rows * channels * VOCABULARY


def training_flop(preset: str, batch: int, real: float) -> float:
    """Of a step of the original's recipe, which computes its padding too; `real` tokens, of which MASKED have
    logits."""
    return 3 * forward_flop(preset, batch, LENGTH, MASKED * real)


def sampling_flop(preset: str, n: int, length: int, steps: int) -> float:
    masked = sum(math.cos(math.pi / 2 * step / steps) for step in range(steps)) * length
    return steps * forward_flop(preset, n, length, 0) + 2 * n * masked * PRESETS[preset][0] * VOCABULARY


def peak(setting: Setting, precision: str):
    """The best product of the run in this precision, or in float32 where that was not measured."""
    return setting.facts.get(f"peak_{precision}") or setting.facts.get("peak_f32")


def roofline_note(setting: Setting, flop: float, seconds: float, precision: str) -> str:
    rate = peak(setting, precision)
    if not rate:
        return ""
    return f"{flop / 1e9:,.0f} GFLOP, {flop / seconds / 1e9 / rate:.0%} of {rate:.0f} GFLOP/s"


# ---- the machine -----------------------------------------------------------------------------------------------------


def machine(setting: Setting, goal):
    """Peak rates of products and the bandwidth of memory: context for the other rows."""
    n = 2048 // setting.size.shapes_scale
    shapes = [[n, n, n, 0, 1]]
    lines = []
    for precision in ("f32", "bf16", "int8"):
        sides = {}
        if precision in ("f32", "bf16"):
            sides["here"] = rate_here(setting, precision, shapes)[0]["gflops"]
        job = {"job": "products", "precision": precision, "shapes": shapes, "seconds": setting.size.seconds}
        worker = Worker(setting, "PyTorch", job)
        answer = worker.measure()
        worker.close()
        if answer is not None:
            sides["PyTorch"] = answer["products"][0]["gflops"]
        setting.facts[f"peak_{precision}"] = max(sides.values(), default=None)
        rates = [f"{sides[name]:,.0f} GFLOP/s" if name in sides else "" for name in ("here", "PyTorch")]
        what = f"products of {n}, {precision}"
        lines.append(Line("machine", what, *rates, note=said_of([worker]), figures=sides))
    megabytes = 256 // setting.size.shapes_scale
    here = ask_measure(setting, "copy", megabytes)[0]["gbytes_per_s"]
    worker = Worker(setting, "PyTorch", {"job": "copy", "megabytes": megabytes})
    answer = worker.measure() or {}
    worker.close()
    setting.facts["bandwidth"] = max(here, answer.get("gbytes_per_s", 0))
    there = f"{answer['gbytes_per_s']:.1f} GB/s" if answer else ""
    lines.append(
        Line(
            "machine",
            f"copy of {megabytes} MB, read and written",
            f"{here:.1f} GB/s",
            there,
            figures={"here": here, "PyTorch": answer.get("gbytes_per_s")},
        )
    )
    return lines


def rate_here(setting: Setting, precision: str, shapes) -> list[dict]:
    asked = "".join(" ".join(map(str, shape)) + "\n" for shape in shapes)
    return ask_measure(setting, "products", precision, setting.size.seconds / 2, input=asked)


# ---- models ----------------------------------------------------------------------------------------------------------


def four(setting: Setting, job: dict) -> list[Worker]:
    """PyTorch eager and compiled, in float32 and bfloat16."""
    return [
        Worker(
            setting,
            f"PyTorch {precision}{' compiled' if compiled else ''}",
            job | {"precision": precision, "compile": compiled},
        )
        for compiled in ([False, True] if setting.size.compiled else [False])
        for precision in ("f32", "bf16")
    ]


def said_of(workers) -> str:
    return "; ".join(f"{w.name}: {w.said}" for w in workers if w.said)


def training(which: int):
    def row(setting: Setting, goal):
        size = setting.size
        preset, batch = (size.small, size.base)[which], size.batches[which]
        ours = [
            Side("here", our_training(setting, preset, batch, "auto", "original")),
            Side("here, default recipe", our_training(setting, preset, batch, "auto", "default")),
        ]
        theirs = four(
            setting,
            {
                "job": "train",
                "preset": preset,
                "batch": batch,
                "steps": size.train_steps,
                "stories": str(setting.stories(size.corpus)),
                "tokenizer": str(setting.tokenizer("stories_8192") / "tokenizer.json"),
            },
        )
        figures = in_turn(ours, theirs, size.rounds, "tokens_per_s", True)
        name = f"train-{('small', 'base')[which]}"
        real = 200 * batch  # tokens of a step, near enough for its logits
        seconds = real / median(figures["here"])
        setting.facts[name] = seconds
        trained_in = "bf16" if setting.native_bf16 else "f32"
        notes = [roofline_note(setting, training_flop(preset, batch, real), seconds, trained_in), said_of(theirs)]
        rivals = [w.name for w in theirs]
        what = f"training, {preset}, batch {batch}, real tokens/s"
        return [
            ratio_line(name, what, "here", figures, rivals, "tokens/s", True, goal, "; ".join(filter(None, notes))),
            ratio_line(
                name,
                what,
                "here, default recipe",
                figures,
                rivals,
                "tokens/s",
                True,
                None,
                "no padding, another model: not the same work",
            ),
        ]

    return row


def texts(which: int):
    def row(setting: Setting, goals):
        size = setting.size
        preset = (size.small, size.base)[which]
        kinds = precisions(setting)
        ours = [Side(f"here {precision}", our_texts(setting, preset, precision)) for precision in kinds]
        theirs = four(
            setting,
            {
                "job": "generate",
                "preset": preset,
                "model": str(setting.model(preset)),
                "n": size.texts,
                "length": size.length,
                "steps": size.steps,
            },
        )
        figures = in_turn(ours, theirs, size.rounds, "seconds", False)
        flop = sampling_flop(preset, size.texts, size.length, size.steps)
        what = f"generate, {preset}, n = {size.texts}, length {size.length}, {size.steps} steps"
        name = f"generate-{('small', 'base')[which]}"
        lines = []
        for precision in kinds:
            mine = f"here {precision}"
            goal = goals.get(precision) if isinstance(goals, dict) else goals
            lines.append(
                ratio_line(
                    name,
                    what,
                    mine,
                    figures,
                    [w.name for w in theirs],
                    "s",
                    False,
                    goal,
                    roofline_note(setting, flop, median(figures[mine]), precision),
                )
            )
        lines[-1].note += ("; " if said_of(theirs) else "") + said_of(theirs)
        return lines

    return row


def forward(setting: Setting, goal):
    size, preset = setting.size, setting.size.base
    job = {
        "preset": preset,
        "model": str(setting.model(preset)),
        "n": size.texts,
        "length": size.length,
        "seconds": size.seconds,
    }
    kinds = precisions(setting)
    ours = [
        Side(
            f"here {p}",
            lambda p=p: ask_measure(setting, "forward", setting.model(preset), p, size.texts, size.length)[0],
        )
        for p in kinds
    ]
    torch = four(setting, job | {"job": "forward"})
    onnx = [
        Worker(setting, f"ONNX Runtime {p}", job | {"job": "onnx_forward", "precision": p}) for p in ("f32", "int8")
    ]
    figures = in_turn(ours, [*torch, *onnx], size.rounds, "seconds", False)
    flop = forward_flop(preset, size.texts, size.length, size.texts * size.length)
    what = f"bare forward, {preset}, {size.texts} x {size.length}"
    lines = [
        ratio_line(
            "forward",
            what,
            f"here {p}",
            figures,
            [w.name for w in [*torch, *onnx]],
            "s",
            False,
            goal if p == "int8" else None,
            roofline_note(setting, flop, median(figures[f"here {p}"]), p),
        )
        for p in kinds
    ]
    if said_of([*torch, *onnx]):
        lines[-1].note += "; " + said_of([*torch, *onnx])
    return lines


# ---- the parts of a training step ------------------------------------------------------------------------------------


def step_shapes(preset: str, batch: int) -> list[tuple[int, list[int]]]:
    """(how often in a pass, [M, N, K, A transposed, B transposed]) of a pass of 4,096 positions: forward, gradient of
    the input, gradient of the weight of every linear layer; logits of the masked rows."""
    channels, depth, _ = PRESETS[preset]
    tokens = min(4096, batch * LENGTH)
    logits = max(16, round(MASKED * tokens * 0.78 / 16) * 16)  # stories fill 78 % of their positions
    layers = [
        (depth, tokens, channels, 3 * channels),
        (depth, tokens, channels, channels),
        (depth, tokens, channels, 4 * channels),
        (depth, tokens, 4 * channels, channels),
        (1, logits, channels, VOCABULARY),
    ]
    return [
        (n, shape)
        for n, rows, k, out in layers
        for shape in ([rows, out, k, 0, 1], [rows, k, out, 0, 0], [out, k, rows, 1, 0])
    ]


def rest_bytes(preset: str, batch: int) -> float:
    """What a step reads and writes in float32 outside of its products. Of each token of a block, in channels: forward
    14 + 2 x 4 (norms 2 x 2, residuals 2 x 3, attention 4, GELU), backward 31 + 5 x 4 (residual again 3, residuals 2 x
    3, norms 2 x 5, attention 7, column sums 5, GELU); of each parameter 11 numbers (AdamW with the average 9, clearing,
    norm)."""
    channels, depth, _ = PRESETS[preset]
    parameters = depth * 18 * channels**2 + 2 * VOCABULARY * channels
    return 4.0 * (batch * LENGTH * depth * 73 * channels + 11 * parameters)


def products(setting: Setting, goal):
    """Seconds of the products of a pass of training, each alone; and what remains of the step."""
    size, preset, batch = setting.size, setting.size.base, setting.size.batches[1]
    shapes = step_shapes(preset, batch)
    kinds = ["f32", "bf16"]

    def total(rates):
        return {"seconds": sum(n * rate["seconds"] for (n, _), rate in zip(shapes, rates)), "each": rates}

    kept: dict[str, list] = {}

    def once(name, rates):
        kept[name] = rates
        return total(rates)

    listed = [shape for _, shape in shapes]
    ours = [Side(f"here {p}", lambda p=p: once(f"here {p}", rate_here(setting, p, listed))) for p in kinds]
    theirs = []
    for p in kinds:
        worker = Worker(
            setting, f"PyTorch {p}", {"job": "products", "precision": p, "shapes": listed, "seconds": size.seconds / 2}
        )
        worker.measure = lambda w=worker: (lambda a: None if a is None else once(w.name, a["products"]))(w.ask())
        theirs.append(worker)
    figures = in_turn(ours, theirs, min(size.rounds, 3), "seconds", False)
    flop = sum(2.0 * n * s[0] * s[1] * s[2] for n, s in shapes)
    lines = []
    for p in kinds:
        line = ratio_line(
            "products",
            f"products of training, {preset}, {p}",
            f"here {p}",
            figures,
            [w.name for w in theirs],
            "s",
            False,
            goal,
            roofline_note(setting, flop, median(figures[f"here {p}"]), p),
        )
        worst = min(zip(shapes, kept[f"here {p}"]), key=lambda pair: pair[1]["gflops"])
        line.note += f"{'; ' if line.note else ''}slowest {worst[0][1]}: {worst[1]['gflops']:.0f} GFLOP/s"
        line.figures["shapes"] = {
            name: [dict(zip(("shape", "gflops"), (s, r["gflops"]))) for (_, s), r in zip(shapes, rates)]
            for name, rates in kept.items()
        }
        lines.append(line)
    step, bandwidth = (setting.facts.get(k) for k in ("train-base", "bandwidth"))
    rate = peak(setting, "bf16" if setting.native_bf16 else "f32")
    if step and bandwidth and rate:
        passes = max(1, batch * LENGTH // 4096)
        rest = step - passes * min(median(figures[f"here {p}"]) for p in kinds)
        attention = 3.5 * 4 * batch * LENGTH**2 * PRESETS[preset][0] * PRESETS[preset][1] / rate / 1e9
        floor = rest_bytes(preset, batch) / bandwidth / 1e9 + attention
        lines.append(
            Line(
                "products",
                f"the rest of a step, {preset}",
                f"{rest:.3g} s",
                f"{floor:.3g} s by bytes and attention",
                rest / floor,
                "at most 1.5 x",
                rest / floor <= 1.5,
                "ratio: times what bytes over bandwidth ask",
            )
        )
    return lines


# ---- tokenizers ------------------------------------------------------------------------------------------------------


def encode(setting: Setting, goal):
    stories = setting.stories(setting.size.corpus)
    tokenizer = setting.tokenizer("stories_8192")
    megabytes = stories.stat().st_size / 1e6
    lines = []
    for threads in (1, 2):
        ours = Side("here", lambda t=threads: ask_measure(setting, "encode", tokenizer, stories, threads=t)[0])
        job = {"job": "encode", "tokenizer": str(tokenizer / "tokenizer.json"), "stories": str(stories)}
        theirs = Worker(setting, "tokenizers", job, threads=threads)
        figures = in_turn([ours], [theirs], setting.size.rounds, "seconds", False)
        rates = {name: [megabytes / s for s in seconds] for name, seconds in figures.items()}
        lines.append(
            ratio_line(
                "encode",
                f"encode, threads: {threads}",
                "here",
                rates,
                ["tokenizers"],
                "MB/s",
                True,
                goal,
                said_of([theirs]),
            )
        )
    return lines


def tokenizer_train(setting: Setting, goal):
    stories = setting.stories(setting.size.corpus)

    def once():
        start = time.perf_counter()
        setting.command(
            "tokenizer", "train", stories, "-o", setting.fresh("tokenizer"), "--vocab-size", VOCABULARY, "-q"
        )
        return {"seconds": time.perf_counter() - start}

    job = {"job": "tokenizer_train", "stories": str(stories), "vocab_size": VOCABULARY}
    theirs = Worker(setting, "tokenizers", job)
    figures = in_turn([Side("here", once)], [theirs], setting.size.rounds, "seconds", False)
    return [
        ratio_line(
            "tokenizer-train",
            f"tokenizer train, {VOCABULARY:,}",
            "here",
            figures,
            ["tokenizers"],
            "s",
            False,
            goal,
            said_of([theirs]) or "ours with process start, reading and writing; theirs from memory",
        )
    ]


# ---- a given likelihood ----------------------------------------------------------------------------------------------

WANTED = 3.4  # nats per token


def likelihood(setting: Setting, goals):
    """Time in training steps until the weights reach WANTED on the first 128 tokens of validation stories. Both sides
    save their weights on the way, and one program judges them all, with the same masks."""
    if not setting.size.likelihood_steps:
        return [Line("likelihood", "minutes to a given likelihood", note="left out: takes too long")]
    found = {
        "here": our_run(setting),
        "PyTorch, default recipe": their_run(setting, "default"),
        "PyTorch, original recipe": their_run(setting, "original"),
    }
    lines = []
    for rival, goal in zip(list(found)[1:], goals):
        mine, theirs = reached(found["here"]), reached(found[rival])
        over = theirs is None
        seconds = found[rival][-1]["seconds"] if over else theirs
        line = Line(
            "likelihood",
            f"minutes to {WANTED} nats per token, {rival.split(', ')[1]} there",
            figures=found,
            theirs=f"{rival}: {'more than ' if over else ''}{seconds / 60:.3g}, NELBO {found[rival][-1]['nelbo']:.3f}",
        )
        if mine is None:
            line.ours = f"not reached, NELBO {found['here'][-1]['nelbo']:.3f}"
        else:
            line.ours, line.ratio = f"{mine / 60:.3g}", seconds / mine
            line.goal, line.met = f"{goal:g} x", seconds / mine >= goal or (None if over else False)
        lines.append(line)
    return lines


def reached(points):
    return next((p["seconds"] for p in points if p["nelbo"] <= WANTED), None)


def save_every(setting: Setting) -> int:
    return max(1, setting.size.likelihood_steps // 20)


def our_run(setting: Setting) -> list[dict]:
    run = setting.fresh("run-likelihood")
    steps, every = setting.size.likelihood_steps, save_every(setting)
    setting.command(
        "train",
        "-d",
        setting.data(setting.size.corpus, "stories_1024", 128),
        "-o",
        run,
        "--preset",
        "tiny",
        "--seq-len",
        128,
        "--steps",
        steps,
        "--eval-every",
        0,
        "--sample-every",
        0,
        "--save-every",
        every,
        "--keep",
        0,
        "--log-every",
        every,
        "-q",
    )
    points, seconds, before = [], 0.0, 0.0
    for row in log_rows(run):
        seconds += (row["tokens"] - before) / row["tokens_per_s"]  # this rate is without saving
        before = row["tokens"]
        points.append({"step": int(row["step"]), "seconds": seconds})
    return judged(setting, points, lambda step: run / f"checkpoints/step-{step:08}/raw.safetensors", "default")


def their_run(setting: Setting, recipe: str) -> list[dict]:
    out = setting.fresh(f"torch-{recipe}")
    steps = setting.size.likelihood_steps
    line = [
        setting.python,
        HERE / "torch_recipe.py",
        out,
        "--stories",
        setting.stories(setting.size.corpus),
        "--tokenizer",
        setting.tokenizer("stories_1024") / "tokenizer.json",
        "--recipe",
        recipe,
        "--threads",
        setting.threads,
        "--save-every",
        save_every(setting),
        "--precision",
        "bf16" if setting.native_bf16 else "f32",
    ]
    # The original's recipe has its own rate and goes on until the time is up.
    line += (
        ["--steps", steps]
        if recipe == "default"
        else ["--steps", 50 * steps, "--lr", 2e-3, "--warmup", 100, "--seconds", setting.original_limit]
    )
    said = subprocess.run(
        list(map(str, line)), check=True, stdout=subprocess.PIPE, text=True, env=setting.environment()
    ).stdout
    points = [json.loads(row) for row in said.splitlines()]
    if recipe == "original":
        points = points[-1:] if len(points) > 20 else points  # it stays on its plateau: the end is what counts
    return judged(setting, points, lambda step: out / f"step-{step:08}/model.safetensors", recipe)


def judged(setting: Setting, points, weights, recipe: str) -> list[dict]:
    job = {
        "job": "nelbo",
        "recipe": recipe,
        "stories": str(setting.stories("valid")),
        "stories_n": setting.size.judged,
        "tokenizer": str(setting.tokenizer("stories_1024") / "tokenizer.json"),
        "weights": [str(weights(p["step"])) for p in points],
    }
    worker = Worker(setting, "judge", job)
    answer = worker.measure()
    worker.close()
    if answer is None:
        raise RuntimeError(f"the weights could not be judged: {worker.said}")
    return [point | {"nelbo": nelbo} for point, nelbo in zip(points, answer["nelbo"])]


# ---- memory and start ------------------------------------------------------------------------------------------------


def memory(setting: Setting, goals):
    lines = []
    for which, goal in enumerate(goals):
        preset, batch = (setting.size.small, setting.size.base)[which], setting.size.batches[which]
        mine = our_memory(setting, preset, batch)
        worker = Worker(
            setting,
            "PyTorch bf16",
            {
                "job": "train",
                "preset": preset,
                "batch": batch,
                "steps": 1,
                "precision": "bf16",
                "compile": False,
                "stories": str(setting.stories("valid")),
                "tokenizer": str(setting.tokenizer("stories_8192") / "tokenizer.json"),
            },
        )
        answer = worker.measure()
        theirs = worker.close() if answer is not None else None
        line = Line(
            "memory",
            f"peak memory, training {preset}, batch {batch}",
            f"{mine / 1e6:,.0f} MB",
            f"PyTorch bf16: {theirs / 1e6:,.0f} MB" if theirs else "",
            note=worker.said,
            figures={"here": mine, "PyTorch bf16": theirs},
        )
        if theirs:
            line.ratio = mine / theirs
            line.goal, line.met = f"at most {goal:.2g}", line.ratio <= goal
        lines.append(line)
    return lines


def start(setting: Setting, goal):
    preset = setting.size.small
    ours = Side("here", our_first_step(setting, preset))
    ours.measure()  # from now on its files are warm
    figures = in_turn([ours], [], 4 * setting.size.rounds, "seconds", False)
    milliseconds = [1e3 * s for s in figures["here"]]
    worker = Worker(
        setting,
        "PyTorch f32",
        {"job": "first_step", "preset": preset, "model": str(setting.model(preset)), "length": setting.size.length},
    )
    begin = time.perf_counter()
    answer = worker.measure()
    there = f"PyTorch f32: {1e3 * (time.perf_counter() - begin):,.0f} ms" if answer else ""
    worker.close()
    took = median(milliseconds)
    return [
        Line(
            "start",
            f"start of generate to its first step, {preset}",
            shown(milliseconds, "ms"),
            there,
            None,
            f"under {goal:g} ms",
            took < goal,
            figures={"here": milliseconds},
        )
    ]


# ---- the table -------------------------------------------------------------------------------------------------------

# name: (what measures it, its goals by class of machine). In this order; rows of a name may be run alone.
ROWS = {
    "machine": (machine, {}),
    "encode": (encode, everywhere(10)),
    "tokenizer-train": (tokenizer_train, everywhere(5)),
    "start": (start, everywhere(30)),
    "forward": (forward, {"amx": 2, "avx512": 2}),
    "generate-small": (texts(0), {"amx": 10, "avx512": 6}),
    "train-small": (training(0), {"amx": 6, "avx512": 3}),
    "memory": (memory, everywhere((1 / 3, 0.65))),
    "generate-base": (texts(1), {"amx": {"bf16": 4, "int8": 8}, "avx512": {"bf16": 2, "int8": 4}, "plain": {}}),
    "train-base": (training(1), {"amx": 3, "avx512": 1.7}),
    "products": (products, {"amx": 0.9, "avx512": 0.9}),
    "likelihood": (likelihood, everywhere((5, 100))),
}

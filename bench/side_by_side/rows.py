"""The rows of the table: what is measured, on which settings, and what is to be reached on which class of machine.

A goal is by class of machine: "amx", "avx512", and "plain" where there is neither, which has goals only where no matrix
product is the limit. A line tells the fraction of the roofline too: the operations that were executed, by a count of
our own calls (counts.py), over the measured rate of the best product of the run in that precision, ours or
PyTorch's."""

import json
import math
import os
import subprocess
import sys
import time
from statistics import median

import counts
from compare import Line, in_turn, ratio_line, shown
from counts import Product
from setting import HERE, Setting
from sides import Side, Worker, ask_measure, log_rows, our_first_step, our_memory, our_texts, our_training, precisions

PRESETS = {"tiny": (128, 4, 4), "small": (256, 8, 8), "base": (768, 12, 12)}  # channels, depth, heads
VOCABULARY, LENGTH = 8192, 256
MASKED = 1 - 2 / math.pi  # share of masked tokens, the time uniform on the cosine schedule


def everywhere(goal: float) -> dict:
    return {"amx": goal, "avx512": goal, "plain": goal}


# ---- rooflines -------------------------------------------------------------------------------------------------------


def forward_flop(preset: str, sequences: int, length: int, rows: float, times: int) -> float:
    """Of a forward pass of the whole model that computes the logits of `rows` positions; sequences of so many different
    times."""
    channels, depth, _ = PRESETS[preset]
    tokens = sequences * length
    block = tokens * (24 * channels**2 + 4 * length * channels) + times * 12 * channels**2
    return depth * block + 2 * rows * channels * VOCABULARY


def training_flop(preset: str, batch: int, real: float) -> float:
    """Of a step of the original's recipe, which computes its padding too; `real` tokens, of which MASKED have
    logits."""
    return 3 * forward_flop(preset, batch, LENGTH, MASKED * real, batch)


def sampling_flop(preset: str, n: int, length: int, steps: int) -> float:
    masked = sum(math.cos(math.pi / 2 * step / steps) for step in range(steps)) * length
    return steps * forward_flop(preset, n, length, 0, n) + 2 * n * masked * PRESETS[preset][0] * VOCABULARY


def peak(setting: Setting, precision: str):
    """The best product of the run in this precision, or in float32 where that was not measured."""
    return setting.facts.get(f"peak_{precision}") or setting.facts.get("peak_f32")


def roofline_note(setting: Setting, executed: float, seconds: float, precision: str, whole: float = 0) -> str:
    """executed: operations; whole: those of a model of which nothing is left out."""
    rate = peak(setting, precision)
    said = f"{executed / 1e9:,.0f} GFLOP executed" + (f", {whole / 1e9:,.0f} of the whole model" if whole else "")
    return f"{said}; {executed / seconds / 1e9 / rate:.0%} of {rate:.0f} GFLOP/s" if rate else said


# ---- the machine -----------------------------------------------------------------------------------------------------


def machine_shapes(setting: Setting) -> list[list[int]]:
    """A square, and sizes that occur: base's MLP over a pass of training, and over 4 texts of 80 tokens."""
    sizes = [(2048, 2048, 2048), (2048, 3072, 768), (2048, 768, 3072), (320, 3072, 768), (320, 768, 3072)]
    return [[size // setting.size.shapes_scale for size in shape] for shape in sizes]


def machine(setting: Setting, goal):
    """Peak rates of products and the bandwidth of memory: context for the other rows."""
    shapes = machine_shapes(setting)
    kinds = ("f32", "bf16", "int8")
    megabytes = 256 // setting.size.shapes_scale
    job = {"job": "machine", "precisions": kinds, "megabytes": megabytes, "seconds": setting.size.seconds / 2}
    worker = Worker(setting, "PyTorch", job | {"shapes": [[*shape, 0, 1] for shape in shapes]})
    there = worker.measure() or {}
    worker.close()
    lines = []
    for kind in kinds:
        here = rate_here(setting, kind, [Product(*shape) for shape in shapes])
        found = there.get(kind)
        rates = [rate["gflops"] for rate in found] if isinstance(found, list) else []
        for i, shape in enumerate(shapes):
            sides = {"here": here[i]["gflops"]} | ({"PyTorch": rates[i]} if rates else {})
            what = f"products, {kind}, {' x '.join(map(str, shape))}"
            shown_rates = [f"{sides[name]:,.0f} GFLOP/s" if name in sides else "" for name in ("here", "PyTorch")]
            note = found if isinstance(found, str) else worker.said
            lines.append(Line("machine", what, *shown_rates, note=note, figures=sides))
        setting.facts[f"peak_{kind}"] = max([*(rate["gflops"] for rate in here), *rates])
    here = ask_measure(setting, "copy", megabytes)[0]["gbytes_per_s"]
    sides = {"here": here} | ({"PyTorch": there["gbytes_per_s"]} if there else {})
    setting.facts["bandwidth"] = max(sides.values())
    shown_rates = [f"{rate:.1f} GB/s" for rate in sides.values()]
    lines.append(Line("machine", f"copy of {megabytes} MB, read and written", *shown_rates, figures=sides))
    return lines


def rate_here(setting: Setting, precision: str, products: list[Product]) -> list[dict]:
    asked = "".join(" ".join(map(str, product.words())) + "\n" for product in products)
    return ask_measure(setting, "products", precision, setting.size.seconds / 2, input=asked)


# ---- models ----------------------------------------------------------------------------------------------------------


def four(setting: Setting, job: dict) -> list[Worker]:
    """PyTorch eager and compiled, in float32 and bfloat16, as far as this mode has them."""
    return [
        Worker(
            setting,
            f"PyTorch {precision}{' compiled' if compiled else ''}",
            job | {"precision": precision, "compile": compiled},
        )
        for precision, compiled in setting.size.torch
    ]


def all_of(setting: Setting, goal, rivals: list[str]) -> list[str]:
    """Without whom a goal says nothing: the best of four is not that of three."""
    return rivals if goal and setting.size.verdicts else []


def said_of(workers) -> str:
    return "; ".join(f"{w.name}: {w.said}" for w in workers if w.said)


def trained_in(setting: Setting) -> str:
    """What `auto` trains in."""
    return "bf16" if setting.native_bf16 else "f32"


def training(which: int):
    def row(setting: Setting, goal):
        size = setting.size
        preset, batch = (size.small, size.base)[which], size.batches[which]
        recipes = {"here": "original", "here, default recipe": "default"}
        if not size.verdicts:  # for that other work there is no time
            del recipes["here, default recipe"]
        ours = [Side(name, our_training(setting, preset, batch, "auto", recipe)) for name, recipe in recipes.items()]
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
        steps = in_turn(ours, theirs, size.rounds, "seconds_per_step", False)
        name = f"train-{('small', 'base')[which]}"
        seconds = median(steps["here"])
        # Each side draws its own batches, padded to one length: their steps cost the same, however many of the tokens
        # are real, so that the mean counts for both. The default recipe has no padding.
        real = batch * setting.real_tokens(size.corpus, "stories_8192", LENGTH)
        figures = {side: [real / s for s in took] for side, took in steps.items()}
        for side in ours[1:]:
            figures[side.name] = [answer["tokens_per_s"] for answer in side.answers]
        executed = counts.training(setting, preset, batch).flop()
        note = roofline_note(setting, executed, seconds, trained_in(setting), training_flop(preset, batch, real))
        rivals = [w.name for w in theirs]
        what = f"training, {preset}, batch {batch}, real tokens/s"
        line = ratio_line(name, what, "here", figures, rivals, "tokens/s", True, goal, note, all_of(setting, goal, rivals))
        line.say(said_of(theirs))
        line.figures["seconds of a step"] = steps
        other = "no padding, another model: not the same work"
        return [line] + [
            ratio_line(name, what, side.name, figures, rivals, "tokens/s", True, None, other) for side in ours[1:]
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
        whole = sampling_flop(preset, size.texts, size.length, size.steps)
        what = f"generate, {preset}, n = {size.texts}, length {size.length}, {size.steps} steps"
        name = f"generate-{('small', 'base')[which]}"
        rivals = [w.name for w in theirs]
        if not isinstance(goals, dict):  # of no precision in particular: the best of ours
            goals = {min(kinds, key=lambda kind: median(figures[f"here {kind}"])): goals}
        lines = []
        for kind in kinds:
            executed = counts.texts(setting, preset, kind).flop()
            note = roofline_note(setting, executed, median(figures[f"here {kind}"]), kind, whole)
            held = goals.get(kind), note, all_of(setting, goals.get(kind), rivals)
            lines.append(ratio_line(name, what, f"here {kind}", figures, rivals, "s", False, *held))
        lines[-1].say(said_of(theirs))
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
    # Its threads spin while they wait unless it is told not to: which is faster depends on the machine.
    onnx = [
        Worker(
            setting,
            f"ONNX Runtime {p}{'' if spins else ', not spinning'}",
            job | {"job": "onnx_forward", "precision": p, "spins": spins},
        )
        for p in ("f32", "int8")
        for spins in (True, False)
    ]
    figures = in_turn(ours, [*torch, *onnx], size.rounds, "seconds", False)
    flop = forward_flop(preset, size.texts, size.length, size.texts * size.length, 1)
    what = f"bare forward, {preset}, {size.texts} x {size.length}"
    rivals = [w.name for w in [*torch, *onnx]]
    lines = []
    for p in kinds:
        note = roofline_note(setting, flop, median(figures[f"here {p}"]), p)
        held = (goal, note, ["ONNX Runtime int8"]) if p == "int8" else (None, note)
        lines.append(ratio_line("forward", what, f"here {p}", figures, rivals, "s", False, *held))
    lines[-1].say(said_of([*torch, *onnx]))
    return lines


# ---- the parts of a training step ------------------------------------------------------------------------------------


def products(setting: Setting, goal):
    """Seconds of the products of a step of training, each alone; and what remains of the step."""
    size, preset, batch = setting.size, setting.size.base, setting.size.batches[1]
    if "bandwidth" not in setting.facts:
        machine(setting, None)
    count = counts.training(setting, preset, batch)
    work = counts.alike(count.products())
    sizes = [product for _, product in work]
    flops = [n * product.flop for n, product in work]
    kinds = dict.fromkeys(["f32", trained_in(setting)])

    def total(side, rates):
        kept.setdefault(side, []).append([rate["gflops"] for rate in rates])
        return {"seconds": sum(1e-9 * flop / rate["gflops"] for flop, rate in zip(flops, rates))}

    kept: dict[str, list] = {}  # of each side, of each round, GFLOP/s of each size
    ours = [Side(f"here {p}", lambda p=p: total(f"here {p}", rate_here(setting, p, sizes))) for p in kinds]
    theirs = []
    for p in ("f32", "bf16"):
        shapes = [product.words()[:5] for product in sizes]
        job = {"job": "products", "precision": p, "shapes": shapes, "seconds": size.seconds / 2}
        worker = Worker(setting, f"PyTorch {p}", job)
        worker.measure = lambda w=worker: (lambda a: None if a is None else total(w.name, a["products"]))(w.ask())
        theirs.append(worker)
    figures = in_turn(ours, theirs, min(size.rounds, 3), "seconds", False)
    rates = {side: [median(size) for size in zip(*rounds)] for side, rounds in kept.items()}
    best = [max(of_size) for of_size in zip(*rates.values())]
    every, lines = "the best of each size", []
    figures[every] = [sum(1e-9 * flop / rate for flop, rate in zip(flops, best))]
    for p in kinds:
        name, what = f"here {p}", f"products of a step of training, {preset}, {p}"
        note = roofline_note(setting, sum(flops), median(figures[name]), p)
        asked, rivals = goal if p == trained_in(setting) else None, [w.name for w in theirs]
        held = asked, note, all_of(setting, asked, rivals)
        line = ratio_line("products", what, name, figures, [every, *rivals], "s", False, *held)
        worst = min(zip(sizes, rates[name]), key=lambda pair: pair[1] if pair[0].rows >= counts.FEW else math.inf)
        line.say(
            f"slowest of {counts.FEW} rows or more {worst[0].words()[:5]}: {worst[1]:.0f} GFLOP/s",
            ", ".join(f"{w.name} {median(figures[w.name]):.3g} s" for w in theirs if figures[w.name]),
            said_of(theirs),
        )
        line.figures["products"] = [
            {"calls": n, "of": product.words()} | {side: of_side[i] for side, of_side in rates.items()}
            for i, (n, product) in enumerate(work)
        ]
        lines.append(line)
    return [*lines, rest_of_step(setting, count)]


def rest_of_step(setting: Setting, count: counts.Count) -> Line:
    """What of a step is no matrix product, by the clock in the step itself, beside its bytes over the bandwidth; of
    attention the operations over the best product, if these take longer."""
    bandwidth, rate = setting.facts["bandwidth"], peak(setting, trained_in(setting))
    attention = max(count.flop("attention") / rate, count.bytes("attention") / bandwidth) / 1e9
    others = count.rest_bytes() / bandwidth / 1e9
    step = count.step_seconds
    rest = step - count.seconds("product")
    ratio = rest / (others + attention)
    return Line(
        "products",
        f"the rest of a step, {setting.size.base}",
        f"{rest:.3g} s of {step:.3g}",
        f"{others + attention:.3g} s: {others:.3g} by bytes, {attention:.3g} of attention",
        ratio,
        "at most 1.5 x",
        ratio <= 1.5,
        note="ratio: times what its bytes ask",
        figures={name: {"bytes": count.bytes(name), "seconds": count.seconds(name)} for name in sorted(count.names())}
        | {"attention, flop": count.flop("attention")},
    )


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
    found = {"here": our_run(setting)}
    for recipe in ("default", "original"):
        variant = fastest(setting, recipe)
        found[f"{variant.name}, {recipe} recipe"] = their_run(setting, recipe, variant.job)
    return [likelihood_line(found, rival, goal) for rival, goal in zip(list(found)[1:], goals)]


def likelihood_line(found: dict[str, dict], rival: str, goal: float) -> Line:
    """found: of each side its judged points and the processor's seconds. A rival that does not get there has no
    verdict, unless what it took until then is already more than the goal."""
    mine, theirs = reached(found["here"]["points"]), reached(found[rival]["points"])
    last, over = found[rival]["points"][-1], theirs is None
    seconds = last["seconds"] if over else theirs
    line = Line(
        "likelihood",
        f"minutes to {WANTED} nats per token, {rival.split(', ')[1]} there",
        theirs=f"{rival}: {'more than ' if over else ''}{seconds / 60:.3g}, NELBO {last['nelbo']:.3f} at the end",
        goal=f"{goal:g} x",
        note="processor's minutes of the whole runs: "
        + ", ".join(
            f"{found[side]['cpu_seconds'] / 60:.3g} {where}" for side, where in (("here", "here"), (rival, "there"))
        ),
        figures={side: found[side] for side in ("here", rival)},
    )
    if mine is None:
        line.ours, line.met = f"not reached, NELBO {found['here']['points'][-1]['nelbo']:.3f}", False
        return line
    line.ours, line.ratio = f"{mine / 60:.3g}", seconds / mine
    line.met = True if line.ratio >= goal else None if over else False
    return line


def reached(points):
    """The seconds at which a straight line through the points first comes down to WANTED: they lie whole percents of a
    run apart."""
    before = None
    for point in points:
        if point["nelbo"] <= WANTED:
            share = 1 if before is None else (before["nelbo"] - WANTED) / (before["nelbo"] - point["nelbo"])
            start = 0 if before is None else before["seconds"]
            return start + share * (point["seconds"] - start)
        before = point
    return None


def save_every(setting: Setting) -> int:
    return max(1, setting.size.likelihood_steps // 20)


def watched(line: list, name: str, environment=None) -> tuple[list[str], float]:
    """Runs a training to its end; its lines, which are shown on the way, and the processor's seconds it took."""
    said = []
    with subprocess.Popen(list(map(str, line)), stdout=subprocess.PIPE, text=True, env=environment) as process:
        for row in process.stdout:
            said.append(row)
            print(f"likelihood, {name}: {row.strip()}", file=sys.stderr, flush=True)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise subprocess.CalledProcessError(process.returncode, line)
    return said, usage.ru_utime + usage.ru_stime


def our_run(setting: Setting) -> dict:
    run = setting.fresh("run-likelihood")
    steps, every = setting.size.likelihood_steps, save_every(setting)
    data = setting.data(setting.size.corpus, "stories_1024", 128)
    options = ["--preset", "tiny", "--seq-len", 128, "--steps", steps, "--save-every", every, "--log-every", every]
    others = ["--eval-every", 0, "--sample-every", 0, "--keep", 0, "--threads", setting.threads]
    _, cpu = watched([setting.program, "train", "-d", data, "-o", run, *options, *others], "here")
    points, seconds, before = [], 0.0, 0.0
    for row in log_rows(run):
        seconds += (row["tokens"] - before) / row["tokens_per_s"]  # this rate is without saving
        before = row["tokens"]
        points.append({"step": int(row["step"]), "seconds": seconds})
    weights = [run / f"checkpoints/step-{point['step']:08}/raw.safetensors" for point in points]
    return {"points": judged(setting, points, weights, "default"), "cpu_seconds": cpu}


def fastest(setting: Setting, recipe: str) -> Worker:
    """Of PyTorch's variants the one that makes the most of a few steps."""
    job = {
        "job": "train",
        "recipe": recipe,
        "preset": "tiny",
        "length": 128,
        "batch": 32,
        "steps": min(20, setting.size.likelihood_steps),
        "stories": str(setting.stories(setting.size.corpus)),
        "tokenizer": str(setting.tokenizer("stories_1024") / "tokenizer.json"),
    }
    variants = four(setting, job)
    figures = in_turn([], variants, 2, "tokens_per_s", True)
    if not any(figures.values()):
        raise RuntimeError(f"PyTorch did not train: {said_of(variants)}")
    best = max(variants, key=lambda variant: median(figures[variant.name] or [0]))
    rates = ", ".join(f"{name} {shown(rates, 'tokens/s')}" for name, rates in figures.items())
    print(f"likelihood, {recipe} recipe: {rates}", file=sys.stderr, flush=True)
    return best


def their_run(setting: Setting, recipe: str, variant: dict) -> dict:
    out = setting.fresh(f"torch-{recipe}")
    steps = setting.size.likelihood_steps
    line = [setting.python, HERE / "torch_recipe.py", out, "--stories", variant["stories"]]
    line += ["--tokenizer", variant["tokenizer"], "--recipe", recipe, "--precision", variant["precision"]]
    line += ["--threads", setting.threads, "--save-every", save_every(setting)]
    line += ["--compile"] if variant["compile"] else []
    # The original's recipe has its own rate and goes on until the time is up.
    line += (
        ["--steps", steps]
        if recipe == "default"
        else ["--steps", 50 * steps, "--lr", 2e-3, "--warmup", 100, "--seconds", setting.original_limit]
    )
    said, cpu = watched(line, f"PyTorch, {recipe} recipe", setting.environment())
    points = [json.loads(row) for row in said]
    weights = [out / f"step-{point['step']:08}/model.safetensors" for point in points]
    return {"points": judged(setting, points, weights, recipe), "cpu_seconds": cpu}


def judged(setting: Setting, points, weights, recipe: str) -> list[dict]:
    """The points with their likelihoods: of many some that are spread evenly, and where these cross WANTED those
    between, so that the first that is below counts."""
    chosen = spread(range(len(points)))
    nelbo = dict(zip(chosen, judge(setting, [weights[i] for i in chosen], recipe)))
    below = next((at for at, i in enumerate(chosen) if nelbo[i] <= WANTED), 0)
    if below > 0:
        between = spread(range(chosen[below - 1] + 1, chosen[below]))
        if between:
            nelbo |= dict(zip(between, judge(setting, [weights[i] for i in between], recipe)))
    return [points[i] | {"nelbo": nelbo[i]} for i in sorted(nelbo)]


def spread(indices, most: int = 20) -> list[int]:
    """At most so many of them, the last one included."""
    n = len(indices)
    return list(indices) if n <= most else [indices[(i + 1) * n // most - 1] for i in range(most)]


def judge(setting: Setting, weights: list, recipe: str) -> list[float]:
    job = {
        "job": "nelbo",
        "recipe": recipe,
        "stories": str(setting.stories("valid")),
        "stories_n": setting.size.judged,
        "tokenizer": str(setting.tokenizer("stories_1024") / "tokenizer.json"),
        "weights": list(map(str, weights)),
    }
    worker = Worker(setting, "judge", job)
    answer = worker.measure()
    worker.close()
    if answer is None:
        raise RuntimeError(f"the weights could not be judged: {worker.said}")
    return answer["nelbo"]


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
        line.goal, line.met = f"at most {goal:.2g}", False
        if theirs:
            line.ratio = mine / theirs
            line.met = line.ratio <= goal
        else:
            line.failed = True
            line.say("no figure of PyTorch bf16")
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

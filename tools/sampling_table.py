#!/usr/bin/env python3
"""Quality of samples against forward passes, for every order: the table of docs/sampling.md.

Runs the command (build/diffusionlm, or $PROGRAM) and reads its JSON: `generate` writes texts of one length by each
order and number of steps; `score` measures their NELBO under the model, and the exact log-likelihood of held-out
texts under the samplers that have one; `eval --samples` counts what is varied, repeated and copied. Prints Markdown.

    tools/sampling_table.py MODEL -d VALID --train-data TRAIN --held-out valid.txt [-n 96] [--length 128]
"""
import argparse
import json
import os
import subprocess
import tempfile

PROGRAM = os.environ.get("PROGRAM", "build/diffusionlm")
# label, options of generate, does `score` know its likelihood, has it a number of steps
SAMPLERS = [
    ("confidence", ["--order", "confidence"], True, True),
    ("margin", ["--order", "margin"], True, True),
    ("entropy", ["--order", "entropy"], True, True),
    ("left_to_right", ["--order", "left_to_right"], True, True),
    ("confidence_weighted", ["--order", "confidence_weighted"], False, True),
    ("random", ["--order", "random"], False, True),
    ("ancestral", ["--order", "ancestral"], False, True),
    ("first_hitting", ["--order", "first_hitting"], False, False),
    ("threshold 0.9", ["--confidence-threshold", "0.9"], True, False),
    ("threshold 0.6", ["--confidence-threshold", "0.6"], True, False),
    ("entropy bound 0.5", ["--entropy-bound", "0.5"], True, False),
    ("entropy bound 2", ["--entropy-bound", "2"], True, False),
    ("corrector 0.1, random", ["--order", "random", "--corrector-frac", "0.1"], False, True),
    ("remask cap", ["--remask", "cap"], False, True),
    ("remask rescale", ["--remask", "rescale"], False, True),
    ("remask conf", ["--remask", "conf"], False, True),
    ("remask loop", ["--remask", "loop"], False, True),
]
REMASKED = ("remask", "corrector")


def run(arguments):
    return subprocess.run([PROGRAM, *arguments], check=True, capture_output=True, text=True).stdout


def json_lines(text):
    return [json.loads(line) for line in text.splitlines()]


def passes_of(trace):
    """Mean number of steps in which a text still had masks, from a file of --trace."""
    steps = {}
    for line in json_lines(trace):
        if line.get("masked") is not None and "step" in line and line["step"] > 0:
            before = steps.get(line["index"], (0, True))
            if before[1]:
                steps[line["index"]] = (before[0] + 1, line["masked"] > 0)
    return sum(n for n, _ in steps.values()) / max(len(steps), 1)


def nelbo_of(lines):
    return sum(line["nelbo_nats"] for line in lines) / sum(line["tokens"] for line in lines)


def sample(arguments, options, steps, folder):
    """Texts by one sampler: their JSON lines' file, and forward passes for each."""
    path, trace = os.path.join(folder, "samples.jsonl"), os.path.join(folder, "trace.jsonl")
    command = ["generate", "-m", arguments.model, "-n", str(arguments.n), "--length", str(arguments.length), "--json",
               "--temperature", str(arguments.temperature), "--trace", trace, "--quiet", *options]
    if steps is not None:
        command += ["--steps", str(steps)]
    text = run(command)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    lines = json_lines(text)
    if steps is not None:
        return path, lines, lines[0]["forwards"]
    with open(trace, encoding="utf-8") as file:
        return path, lines, passes_of(file.read())


def likelihood(arguments, options, steps):
    """Nats per token of the held-out texts under a sampler that has a likelihood."""
    command = ["score", "-m", arguments.model, arguments.held_out, "--json", "--draws", "1", "--quiet",
               "--temperature", str(arguments.temperature)]
    if "--order" in options:
        command += ["--orders", options[options.index("--order") + 1]]
    else:
        command += ["--orders", "none", *options]
    if steps is not None:
        command += ["--steps", str(steps)]
    lines = json_lines(run(command))
    (name,) = lines[0]["orders"].keys()
    return sum(line["orders"][name] for line in lines) / -sum(line["tokens"] for line in lines)


def row(arguments, label, options, exact, steps, folder):
    path, lines, passes = sample(arguments, options, steps, folder)
    texts = os.path.join(folder, "texts.jsonl")
    with open(texts, "w", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": line["text"]}) + "\n" for line in lines if line["text"])
    scored = json_lines(run(["score", "-m", arguments.model, "--format", "jsonl", "--json", "--draws", "16",
                             "--orders", "none", "--quiet", texts]))
    counted = json.loads(run(["eval", "--samples", path, "-d", arguments.data, "--train-data", arguments.train_data,
                              "--json", "--quiet"]))
    figures = counted["samples"]
    held_out = f"{likelihood(arguments, options, steps):.3f}" if exact else ""
    return counted, [label, f"{passes:.0f}", held_out, f"{nelbo_of(scored):.2f}", f"{figures['distinct_2']:.3f}",
                     f"{100 * figures['repeated_4grams']:.1f} %", f"{figures['unigram_entropy_nats']:.2f}",
                     f"{100 * figures['copied']['seen_8grams']:.1f} %",
                     f"{figures['copied']['longest_span']['mean']:.1f}", f"{100 * figures['ended']:.0f} %"]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("-d", "--data", required=True)
    parser.add_argument("--train-data", required=True)
    parser.add_argument("--held-out", required=True, help="texts whose likelihood is taken")
    parser.add_argument("-n", type=int, default=96)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--budgets", default="8,16,32,64,128")
    parser.add_argument("--samplers", default="", help="labels, separated by ';'; all without")
    arguments = parser.parse_args()
    budgets = [int(budget) for budget in arguments.budgets.split(",")]
    print("| sampler | passes | held-out | NELBO | distinct-2 | repeated | entropy | seen | copied | end |")
    print("| --- | " + "--- | " * 9, flush=True)
    counted = None
    with tempfile.TemporaryDirectory() as folder:
        for label, options, exact, stepped in SAMPLERS:
            if arguments.samplers and label not in arguments.samplers.split(";"):
                continue
            steps = budgets if stepped else [None]
            if label.startswith(REMASKED):
                steps = [budgets[-1], 4 * budgets[-1]]
            for budget in steps:
                counted, cells = row(arguments, label, options, exact, budget, folder)
                print("| " + " | ".join(cells) + " |", flush=True)
    held = counted["held_out"]
    print(f"| held-out texts | | | | {held['distinct_2']:.3f} | {100 * held['repeated_4grams']:.1f} % | "
          f"{held['unigram_entropy_nats']:.2f} | {100 * held['copied']['seen_8grams']:.1f} % | "
          f"{held['copied']['longest_span']['mean']:.1f} | {100 * held['ended']:.0f} % |")


if __name__ == "__main__":
    main()

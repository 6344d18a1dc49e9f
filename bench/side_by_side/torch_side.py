"""PyTorch's side, and those of the Hugging Face tokenizers and ONNX Runtime: a process that does one job again and
again.

The first argument is the job as JSON. Each line of standard input is a round; it is answered by a line of JSON on
standard output. So that what is made once (a model, compiled code, a session) is made once, and stands still while
others run."""

import json
import os
import shutil
import sys
import time
from functools import partial
from pathlib import Path

import stories

THREADS = int(os.environ.get("BENCH_THREADS", "2"))


def timed(work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


# ---- models: torch is imported only by the jobs that use it ----------------------------------------------------------


def prepare_torch():
    import torch

    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    return torch


def train(job):
    """Real tokens a second of `steps` steps; the first one, which compiles, is not counted."""
    prepare_torch()
    import torch_recipe
    from tokenizers import Tokenizer

    texts = stories.read(Path(job["stories"]))
    work = torch_recipe.training(
        job.get("recipe", "original"),
        job["preset"],
        job.get("length", 256),
        texts,
        Tokenizer.from_file(job["tokenizer"]),
        batch=job["batch"],
        steps=10000,
        precision=job["precision"],
        compile=job["compile"],
    )
    work.step()

    def once():
        tokens = 0

        def steps():
            nonlocal tokens
            tokens = sum(work.step() for _ in range(job["steps"]))

        seconds = timed(steps)
        return {"tokens_per_s": tokens / seconds, "seconds_per_step": seconds / job["steps"]}

    return once


def load(job):
    torch = prepare_torch()
    import torch_model as tm
    from safetensors.torch import load_file

    model = tm.Denoiser(tm.preset(job["preset"]))
    model.load_state_dict(load_file(Path(job["model"]) / "model.safetensors"))
    model.eval()
    return torch, tm, torch.compile(model) if job.get("compile") else model


def autocast(torch, job):
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=job["precision"] == "bf16")


def generate(job):
    """Seconds for n texts."""
    torch, tm, model = load(job)

    def once(steps=job["steps"]):
        with autocast(torch, job):
            return {"seconds": timed(lambda: tm.sample(model, job["n"], job["length"], steps))}

    once(steps=2)  # compiles
    return once


def forward(job):
    """Seconds of a forward pass: the median of some."""
    torch, tm, model = load(job)
    ids, t = torch.randint(0, 8192, (job["n"], job["length"])), torch.full((job["n"],), 0.5)

    def passes():
        with torch.inference_mode(), autocast(torch, job):
            model(ids, t)

    return median_of(passes, job["seconds"])


def first_step(job):
    """A first step of sampling: what the process took until now counts."""
    _, tm, model = load(job)
    return lambda: {"seconds": timed(lambda: tm.sample(model, 1, job["length"], 1))}


def nelbo(job):
    """The likelihood bound of models of preset tiny, a list of their weights, in nats per token."""
    prepare_torch()
    import torch_model as tm
    import torch_recipe
    from safetensors.torch import load_file
    from tokenizers import Tokenizer

    tokenizer, texts = Tokenizer.from_file(job["tokenizer"]), stories.read(Path(job["stories"]))[: job["stories_n"]]
    model = tm.Denoiser(
        tm.preset("tiny", vocab_size=1024, max_seq_len=128, **torch_recipe.RECIPES[job["recipe"]][1])
    ).eval()

    def judge(path):
        model.load_state_dict(load_file(path))
        return torch_recipe.nelbo(model, texts, tokenizer)

    return lambda: {"nelbo": [judge(path) for path in job["weights"]]}


LONG = 2.0  # seconds: what takes longer is not repeated within a round


def median_of(work, seconds):
    """Rounds of the median of some repetitions, which fit into the time but are three at least."""
    first = timed(work)

    def once():
        times = [timed(work)]
        while first < LONG and (len(times) < 3 or sum(times) < seconds):
            times.append(timed(work))
        return {"seconds": sorted(times)[len(times) // 2]}

    return once


def onnx_forward(job):
    """The same pass by ONNX Runtime, in float32 or quantised dynamically to int8."""
    import numpy as np
    import onnxruntime

    path = export(job)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if job["spins"] else "0")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    feed = {"ids": rng.integers(0, 8192, (job["n"], job["length"])), "t": np.full(job["n"], 0.5, np.float32)}
    return median_of(lambda: session.run(None, feed), job["seconds"])


def export(job) -> Path:
    """onnx/model.onnx, or onnx-int8/model.onnx, beside the weights; made once."""
    folder = Path(job["model"])
    plain, small = folder / "onnx/model.onnx", folder / "onnx-int8/model.onnx"
    if not plain.exists():
        make_whole(plain.parent, lambda to: export_float(job, to / plain.name))
    if job["precision"] == "f32":
        return plain
    if not small.exists():
        from onnxruntime.quantization import QuantType, quantize_dynamic

        make_whole(small.parent, lambda to: quantize_dynamic(plain, to / small.name, weight_type=QuantType.QInt8))
    return small


def make_whole(folder: Path, write) -> None:
    """A folder that has its name only when all of it is written."""
    unfinished = folder.with_name(folder.name + ".partial")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    write(unfinished)
    unfinished.rename(folder)


def export_float(job, path: Path) -> None:
    torch, _, model = load(job)
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length", max=256)
    example = torch.zeros(2, 80, dtype=torch.long), torch.zeros(2)
    torch.onnx.export(
        model,
        example,
        str(path),
        input_names=["ids", "t"],
        output_names=["logits"],
        dynamo=True,
        dynamic_shapes={"ids": {0: batch, 1: length}, "t": {0: batch}},
        verbose=False,
    )


# ---- tokenizers ------------------------------------------------------------------------------------------------------


def encode(job):
    """Seconds for all stories, without their offsets, which ours does not make either."""
    from tokenizers import Tokenizer

    tokenizer, texts = Tokenizer.from_file(job["tokenizer"]), stories.read(Path(job["stories"]))
    return lambda: {"seconds": timed(lambda: tokenizer.encode_batch_fast(texts))}


def tokenizer_train(job):
    """Seconds to learn a vocabulary from stories in memory."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    texts = stories.read(Path(job["stories"]))

    def once():
        tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=job["vocab_size"],
            show_progress=False,
            special_tokens=["[PAD]", "[UNK]", "[MASK]", "<|endoftext|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        )
        return {"seconds": timed(lambda: tokenizer.train_from_iterator(texts, trainer))}

    return once


# ---- the machine -----------------------------------------------------------------------------------------------------


def time_products(torch, precision: str, shapes, seconds: float) -> list[dict]:
    """Of each (M, N, K, A stored transposed, B stored transposed): the median."""
    kind = {"f32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8}[precision]

    def operand(rows, columns, transposed):
        shape = (columns, rows) if transposed else (rows, columns)
        made = torch.randint(-9, 9, shape, dtype=kind) if kind is torch.int8 else torch.randn(shape).to(kind)
        return made.T if transposed else made

    rates = []
    for m, n, k, ta, tb in shapes:
        product = partial(torch._int_mm if kind is torch.int8 else torch.mm, operand(m, k, ta), operand(k, n, tb))
        took = median_of(product, seconds)()["seconds"]
        rates.append({"seconds": took, "gflops": 2e-9 * m * n * k / took})
    return rates


def products(job):
    torch = prepare_torch()
    return lambda: {"products": time_products(torch, job["precision"], job["shapes"], job["seconds"])}


def machine(job):
    """Products in each precision, and GB/s of a copy. A precision that PyTorch does not multiply in has its error."""
    torch = prepare_torch()
    x, y = torch.rand(job["megabytes"] << 18), torch.empty(job["megabytes"] << 18)

    def once():
        answer = {}
        for precision in job["precisions"]:
            try:
                answer[precision] = time_products(torch, precision, job["shapes"], job["seconds"])
            except RuntimeError as failure:
                answer[precision] = str(failure).splitlines()[0]
        return answer | {"gbytes_per_s": 8e-9 * len(x) / min(timed(lambda: y.copy_(x)) for _ in range(10))}

    return once


JOBS = {
    f.__name__: f
    for f in (train, generate, forward, onnx_forward, first_step, nelbo, encode, tokenizer_train, products, machine)
}


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    job = json.loads(sys.argv[1])
    once = JOBS[job["job"]](job)
    for _ in sys.stdin:
        print(json.dumps(once()), file=answers, flush=True)


if __name__ == "__main__":
    main()

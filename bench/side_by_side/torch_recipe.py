"""Training in PyTorch: the original's recipe and our default one (docs/training.md), on the stories of this repository.

A step is what a careful user would write: autocast, fused AdamW, torch.optim.Muon, foreach clipping and averaging.
Sequences of the original are cut and padded to one length, and it looks at its padding; those of the default recipe
have lengths of their own and stand in a padded batch whose padding attention does not look at.

    torch_recipe.py OUT [--recipe default|original] [--preset tiny] [--length 128] [--steps 1000] [--save-every 0]

trains and writes OUT/step-*/model.safetensors, the last weights and not their average, with a line of JSON for each.
"""

import argparse
import json
import math
import time
from pathlib import Path

import stories as text
import torch
import torch_model as tm
from tokenizers import Tokenizer
from torch.nn import functional as F

TAIL_SHARE = 0.1


def padded(rows: list[list[int]], length: int, padding: int):
    """(N, length) ids and (N,) lengths."""
    ids = torch.full((len(rows), length), padding)
    for to, row in zip(ids, rows):
        to[: len(row)] = torch.tensor(row)
    return ids, torch.tensor([len(row) for row in rows])


def batches(n: int, size: int):
    """Endless: which of n sequences are next, each epoch in an order of its own."""
    order, at = torch.randperm(n), 0
    while True:
        if at + size > n:
            order, at = torch.randperm(n), 0
        yield order[at : at + size]
        at += size


class Training:
    """A model with what a step needs. step() takes the next batch and returns the number of real tokens in it."""

    def __init__(self, config: tm.Config, stories: list[str], tokenizer: Tokenizer, options: argparse.Namespace):
        self.model, self.options = tm.Denoiser(config), options
        self.run = torch.compile(self.model) if options.compile else self.model
        self.optimizers = self.make_optimizers()
        self.plans = [torch.optim.lr_scheduler.LambdaLR(o, self.rate) for o in self.optimizers]
        self.average = [p.detach().clone() for p in self.model.parameters()]
        self.ids, self.lengths = self.sequences(stories, tokenizer)
        self.picks = batches(len(self.ids), options.batch)
        self.steps, self.loss = 0, 0.0

    def make_optimizers(self):
        o = self.options
        muon = [p for name, p in self.model.named_parameters() if name.startswith("blocks.") and p.ndim == 2]
        muon = muon if o.optimizer == "muon" else []
        rest = [p for p in self.model.parameters() if not any(p is other for other in muon)]
        made = [torch.optim.AdamW(rest, lr=o.lr, weight_decay=0.01, fused=True)]
        if muon:
            made.append(torch.optim.Muon(muon, lr=o.lr, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"))
        return made

    def rate(self, step: int) -> float:
        warmup, total = self.options.warmup, self.options.steps
        if step < warmup:
            return step / warmup
        return 0.1 + 0.45 * (1 + math.cos(math.pi * min(1, (step - warmup) / max(1, total - warmup))))

    def gradients(self, pick):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.options.precision == "bf16"):
            loss, tokens = self.batch_loss(self.ids[pick], self.lengths[pick])
        loss.backward()
        return loss, tokens

    def prepare(self) -> None:
        """Compiles, where it does, and learns nothing."""
        self.gradients(torch.arange(self.options.batch))
        for optimizer in self.optimizers:
            optimizer.zero_grad()

    def step(self) -> int:
        loss, tokens = self.gradients(next(self.picks))
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0, foreach=True)
        for stepped in (*self.optimizers, *self.plans):
            stepped.step()
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        self.steps += 1
        with torch.no_grad():
            torch._foreach_lerp_(self.average, [p.detach() for p in self.model.parameters()], 1 - self.decay())
        self.loss = loss.item()
        return tokens


class Original(Training):
    def sequences(self, stories, tokenizer):
        length = self.model.config.max_seq_len
        return padded([e.ids[:length] for e in tokenizer.encode_batch(stories)], length, tm.PAD)

    def batch_loss(self, ids, lengths):
        t = torch.rand(len(ids)).clamp(min=1e-3)
        real = torch.arange(ids.shape[1]) < lengths[:, None]
        mask = (torch.rand(ids.shape) < tm.sigma(t)[:, None]) & real
        logits = self.run(torch.where(mask, tm.MASK, ids), t)
        ce = F.cross_entropy(logits.flatten(0, 1), ids.flatten(), reduction="none").view_as(ids)
        return ((ce * mask).sum(1) / mask.sum(1).clamp(min=1)).mean(), int(lengths.sum())

    def decay(self):
        return 0.999


class Default(Training):
    def sequences(self, stories, tokenizer):
        """Each document with its end token, cut into consecutive windows."""
        length = self.model.config.max_seq_len
        documents = [e.ids + [tm.END] for e in tokenizer.encode_batch(stories)]
        return padded([d[i : i + length] for d in documents for i in range(0, len(d), length)], length, tm.END)

    def draw(self, ids, lengths):
        """Tails, then masks: lengths (B,), the mask (B, L) of exactly k positions of each sequence, and the weights
        (B,) of the sums of their cross-entropies. k = 1 + floor(n sigma(t)), with t from strata of the batch; the
        weight makes up for the chance of k."""
        b, most = ids.shape
        ends = ids.gather(1, lengths[:, None] - 1)[:, 0] == tm.END
        tail = (torch.rand(b) < TAIL_SHARE) & ends & (lengths < most)
        n = torch.where(tail, lengths + 1 + (torch.rand(b) * (most - lengths)).long(), lengths).clamp(max=most)
        t = (torch.randperm(b) + torch.rand(b)) / b
        k = 1 + (n * tm.sigma(t)).long().clamp(max=n - 1)
        chance = [torch.acos(1 - share) / (math.pi / 2) for share in (k.double() / n, (k - 1).double() / n)]
        weight = (1 / (chance[0] - chance[1]) / n.sum() / k).float()
        order = torch.rand(b, most).masked_fill(torch.arange(most) >= n[:, None], 2).argsort(1).argsort(1)
        return n, order < k[:, None], weight

    def batch_loss(self, ids, lengths):
        n, mask, weight = self.draw(ids, lengths)
        visible = (torch.arange(ids.shape[1]) < n[:, None])[:, None, None, :]
        logits = self.run(torch.where(mask, tm.MASK, ids), torch.zeros(len(ids)), visible)
        ce = F.cross_entropy(logits.float().flatten(0, 1), ids.flatten(), reduction="none").view_as(ids)
        return ((ce * mask).sum(1) * weight).sum(), int(n.sum())

    def decay(self):
        return min(0.999, self.steps / (9 + self.steps))  # (1 + s)/(10 + s) at step s, from 0


RECIPES = {
    "original": (Original, {"time": "adaln", "position": "learned"}, {"optimizer": "adamw", "lr": 3e-4, "warmup": 500}),
    "default": (Default, {"time": "none", "position": "both"}, {"optimizer": "muon", "lr": 5e-3, "warmup": 100}),
}


def training(recipe: str, preset: str, length: int, stories: list[str], tokenizer: Tokenizer, **options) -> Training:
    """options: batch, steps, precision "f32" or "bf16", compile; lr and warmup other than the recipe's."""
    kind, variant, defaults = RECIPES[recipe]
    config = tm.preset(preset, vocab_size=tokenizer.get_vocab_size(), max_seq_len=length, **variant)
    return kind(config, stories, tokenizer, argparse.Namespace(**(defaults | options)))


@torch.no_grad()
def nelbo(model: tm.Denoiser, stories: list[str], tokenizer: Tokenizer, seed: int = 1) -> float:
    """Nats per token of the first tokens of stories, as many as the model takes, always with the same masks: of each
    story exactly k positions, k uniform on 1..n (spec 10)."""
    length = model.config.max_seq_len
    ids, lengths = padded([e.ids[:length] for e in tokenizer.encode_batch(stories)], length, tm.PAD)
    g = torch.Generator().manual_seed(seed)
    total = 0.0
    for x, n in zip(ids.split(32), lengths.split(32)):
        k = 1 + (torch.rand(len(n), generator=g) * n).long().clamp(max=n - 1)
        real = torch.arange(length) < n[:, None]
        mask = torch.rand(x.shape, generator=g).masked_fill(~real, 2).argsort(1).argsort(1) < k[:, None]
        visible = real[:, None, None, :] if model.config.time == "none" else None  # the original looks at its padding
        logits = model(torch.where(mask, tm.MASK, x), tm.sigma_inverse(k / n), visible)
        ce = F.cross_entropy(logits.flatten(0, 1), x.flatten(), reduction="none").view_as(x)
        total += ((ce * mask).sum(1) / k * n).sum().item()
    return total / int(lengths.sum())


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("out", type=Path)
    p.add_argument("--stories", type=Path, required=True, help="a text file, <|endoftext|> between its stories")
    p.add_argument("--tokenizer", type=Path, required=True, help="a tokenizer.json")
    p.add_argument("--recipe", choices=RECIPES, default="default")
    p.add_argument("--preset", choices=tm.PRESETS, default="tiny")
    p.add_argument("--precision", choices=("f32", "bf16"), default="bf16")
    p.add_argument("--compile", action="store_true")
    for name, kind, default in (
        ("length", int, 128),
        ("steps", int, 1000),
        ("batch", int, 32),
        ("lr", float, None),
        ("warmup", int, None),
        ("seed", int, 0),
        ("threads", int, 2),
        ("save-every", int, 0),
    ):
        p.add_argument(f"--{name}", type=kind, default=default)
    p.add_argument("--seconds", type=float, default=math.inf, help="stop after so much time in steps")
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(a.seed)
    others = {name: value for name, value in (("lr", a.lr), ("warmup", a.warmup)) if value is not None}
    work = training(
        a.recipe,
        a.preset,
        a.length,
        text.read(a.stories),
        Tokenizer.from_file(str(a.tokenizer)),
        batch=a.batch,
        steps=a.steps,
        precision=a.precision,
        compile=a.compile,
        **others,
    )
    work.prepare()
    seconds = tokens = 0
    while work.steps < a.steps and seconds < a.seconds:
        start = time.perf_counter()
        tokens += work.step()
        seconds += time.perf_counter() - start
        last = work.steps == a.steps or seconds >= a.seconds
        if last or (a.save_every and work.steps % a.save_every == 0):
            tm.save(work.model, a.out / f"step-{work.steps:08}")
            print(json.dumps({"step": work.steps, "seconds": seconds, "tokens": tokens, "loss": work.loss}), flush=True)


if __name__ == "__main__":
    main()

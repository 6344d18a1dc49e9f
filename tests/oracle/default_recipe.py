"""Trains the default recipe in PyTorch, on the same stories as the program, to compare what both reach. Not a test: a
run of 1,000 steps takes minutes. docs/training.md has the commands and the figures.

    default_recipe.py OUT [--steps 1000] [--seed 0]     writes OUT/raw.safetensors and OUT/ema.safetensors

The model and its loss are those of the reference in SHARED; lengths, masks and weights are written here from
docs/training.md: windows of their own length, the end token, tails, stratified mask counts, loss per token. Sequences of
different lengths stand in one padded batch, and attention does not look at the padding.
"""
import argparse
import json
import math
import os
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch.nn import functional as F

SHARED = Path(os.environ.get("SHARED", "../shared"))
sys.path.insert(0, str(SHARED / "reference"))
import torch_dit as ref  # noqa: E402

MASK, L, TAIL_SHARE = 2, 128, 0.1
visible = None  # (B, 1, 1, L) of the batch that goes through the model: True where attention may look


def attend(self, x):
    b, l, c = x.shape
    q, k, v = (y.view(b, l, self.heads, c // self.heads).transpose(1, 2) for y in self.qkv(x).split(c, dim=-1))
    q, k = ref.rotate(q), ref.rotate(k)
    return self.proj(F.scaled_dot_product_attention(q, k, v, attn_mask=visible).transpose(1, 2).reshape(b, l, c))


ref.Attention.forward = attend


def windows(tokenizer, end):
    """(N, L) ids and (N,) lengths: each document with its end token, cut into consecutive windows."""
    texts = [s.strip() for s in (SHARED / "tinystories/train.txt").read_text().split("<|endoftext|>") if s.strip()]
    pieces = [ids[i:i + L] for ids in (e.ids + [end] for e in tokenizer.encode_batch(texts)) for i in range(0, len(ids), L)]
    x = torch.full((len(pieces), L), end)
    for row, piece in zip(x, pieces):
        row[:len(piece)] = torch.tensor(piece)
    return x, torch.tensor([len(piece) for piece in pieces])


def draw(x, n, end):
    """Tails, then masks: (B, L) of exactly k per sequence, k = 1 + floor(n sigma(t)) on the cosine schedule with t from
    strata of the batch; and the weights (B,) of the sequences' mean cross-entropies, which make up for its chance."""
    b = len(n)
    tail = (torch.rand(b) < TAIL_SHARE) & (x.gather(1, n[:, None] - 1)[:, 0] == end) & (n < L)
    n = torch.where(tail, n + 1 + (torch.rand(b) * (L - n)).long(), n).clamp(max=L)
    t = (torch.randperm(b) + torch.rand(b)) / b
    k = 1 + (n * ref.sigma(t, "cosine")).long().clamp(max=n - 1)
    inverse = lambda share: torch.acos(1 - share) / (math.pi / 2)  # noqa: E731
    weight = 1 / (inverse(k.double() / n) - inverse((k - 1).double() / n)) / n.sum()
    real = torch.arange(L) < n[:, None]
    rank = torch.rand(b, L).masked_fill(~real, 2).argsort(1).argsort(1)
    return n, real, rank < k[:, None], (weight / k).float()


def main():
    p = argparse.ArgumentParser()
    p.add_argument("out", type=Path)
    for name, kind, default in (("steps", int, 1000), ("batch", int, 32), ("lr", float, 5e-3), ("warmup", int, 100),
                                ("seed", int, 0), ("threads", int, 2)):
        p.add_argument(f"--{name}", type=kind, default=default)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(a.seed)
    tokenizer = Tokenizer.from_file(str(SHARED / "golden/tokenizer/stories_1024/tokenizer.json"))
    end = tokenizer.token_to_id("<|endoftext|>")
    x, lengths = windows(tokenizer, end)
    model = ref.DiT(ref.Config(1024, L, 128, 4, 4, time="none", position="both"))
    body = [q for name, q in model.named_parameters() if name.startswith("blocks.") and q.ndim == 2]
    rest = [q for q in model.parameters() if not any(q is b for b in body)]
    optimizers = [torch.optim.AdamW(rest, lr=a.lr, weight_decay=0.01, fused=True),
                  torch.optim.Muon(body, lr=a.lr, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")]
    rate = lambda s: (s / a.warmup if s < a.warmup else  # noqa: E731
                      0.1 + 0.45 * (1 + math.cos(math.pi * (s - a.warmup) / max(1, a.steps - a.warmup))))
    plans = [torch.optim.lr_scheduler.LambdaLR(o, rate) for o in optimizers]
    average = [q.detach().clone() for q in model.parameters()]
    order, at, tokens, shown, start = torch.randperm(len(x)), 0, 0, 0.0, time.time()
    global visible
    for step in range(1, a.steps + 1):
        if at + a.batch > len(order):
            order, at = torch.randperm(len(x)), 0
        pick, at = order[at:at + a.batch], at + a.batch
        clean = x[pick]
        n, real, mask, weight = draw(clean, lengths[pick], end)
        visible = real[:, None, None, :]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(torch.where(mask, MASK, clean), torch.zeros(a.batch))
        ce = F.cross_entropy(logits.float().flatten(0, 1), clean.flatten(), reduction="none").view_as(clean)
        loss = ((ce * mask).sum(1) * weight).sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for o in (*optimizers, *plans):
            o.step()
        for o in optimizers:
            o.zero_grad()
        decay = min(0.999, step / (9 + step))  # (1 + s)/(10 + s), s from 0
        with torch.no_grad():
            torch._foreach_lerp_(average, [q.detach() for q in model.parameters()], 1 - decay)
        tokens, shown = tokens + int(n.sum()), shown + loss.item()
        if step % 50 == 0:
            print(json.dumps({"step": step, "tokens": tokens, "loss": round(shown / 50, 4),
                              "minutes": round((time.time() - start) / 60, 1)}), flush=True)
            shown = 0.0
    a.out.mkdir(parents=True, exist_ok=True)
    names = [name for name, _ in model.named_parameters()]
    save_file({name: q.detach().contiguous() for name, q in model.named_parameters()}, a.out / "raw.safetensors")
    save_file({name: q.contiguous() for name, q in zip(names, average)}, a.out / "ema.safetensors")


if __name__ == "__main__":
    main()

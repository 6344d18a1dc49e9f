"""The denoiser as somebody who uses PyTorch would write it: the competitor, not the oracle.

Parameter names are those of the original's checkpoints, so that a state dict saved here is a model of ours, and both
sides run on the same weights. It agrees with the independent reference where that is at hand
(tests/oracle/test_bench.py)."""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

PAD, UNK, MASK, END = 0, 1, 2, 3


@dataclass(frozen=True)
class Config:
    vocab_size: int = 8192
    max_seq_len: int = 256
    hidden_size: int = 256
    depth: int = 8
    num_heads: int = 8
    mlp_ratio: float = 4.0
    time: str = "adaln"  # "none": modulations are learned constants
    position: str = "learned"  # "both": rotary positions as well


PRESETS = {"tiny": (128, 4, 4), "small": (256, 8, 8), "base": (768, 12, 12)}  # channels, depth, heads


def preset(name: str, **others) -> Config:
    channels, depth, heads = PRESETS[name]
    return Config(hidden_size=channels, depth=depth, num_heads=heads, **others)


class Conditioning(nn.Module):
    """n modulation vectors for a layer, from the embedded time or learned as they are."""

    def __init__(self, channels: int, n: int, time: str):
        super().__init__()
        self.n = n
        if time == "adaln":
            self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(channels, n * channels))
        else:
            self.modulation = nn.Parameter(torch.zeros(n * channels))

    def vectors(self, c):
        made = self.modulation[None, None] if c is None else self.adaLN_modulation(c)[:, None]
        return made.chunk(self.n, dim=-1)


def modulate(h, shift, scale):
    return torch.addcmul(shift, F.layer_norm(h, h.shape[-1:], eps=1e-6), 1 + scale)


class Attention(nn.Module):
    def __init__(self, channels: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x, rotary, visible):
        batch, length, channels = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        if rotary is not None:
            q, k = turn(q, *rotary), turn(k, *rotary)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=visible)
        return self.proj(out.transpose(1, 2).reshape(batch, length, channels))


def turn(x, cos, sin):
    """Channels i and i + D/2 of each head by their position's angle."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1).to(x.dtype)


class Mlp(nn.Module):
    def __init__(self, channels: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden)
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class Block(Conditioning):
    def __init__(self, config: Config):
        super().__init__(config.hidden_size, 6, config.time)
        self.attn = Attention(config.hidden_size, config.num_heads)
        self.mlp = Mlp(config.hidden_size, int(config.hidden_size * config.mlp_ratio))

    def forward(self, h, c, rotary, visible):
        shift1, scale1, gate1, shift2, scale2, gate2 = self.vectors(c)
        h = torch.addcmul(h, gate1, self.attn(modulate(h, shift1, scale1), rotary, visible))
        return torch.addcmul(h, gate2, self.mlp(modulate(h, shift2, scale2)))


class FinalLayer(Conditioning):
    def __init__(self, config: Config):
        super().__init__(config.hidden_size, 2, config.time)
        self.linear = nn.Linear(config.hidden_size, config.vocab_size)

    def forward(self, h, c):
        return self.linear(modulate(h, *self.vectors(c)))


class TimeEmbedder(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(256, channels), nn.SiLU(), nn.Linear(channels, channels))
        frequencies = torch.exp(-math.log(10000.0) * torch.arange(128, dtype=torch.float32) / 128)
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, t):
        angles = (t.float() * 1000.0)[:, None] * self.frequencies
        return self.mlp(torch.cat([angles.cos(), angles.sin()], dim=-1))


class Denoiser(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.tok_embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.pos_embed = nn.Parameter(torch.zeros(1, config.max_seq_len, config.hidden_size))
        if config.time == "adaln":
            self.t_embedder = TimeEmbedder(config.hidden_size)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.final_layer = FinalLayer(config)
        half = config.hidden_size // config.num_heads // 2
        angles = torch.arange(config.max_seq_len)[:, None] * 10000.0 ** (-torch.arange(half) / half)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)
        self.initialise()

    @torch.no_grad()
    def initialise(self):
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        small = [self.tok_embed.weight, self.pos_embed]
        closed = [self.final_layer.linear.weight]
        if self.config.time == "adaln":
            small += [self.t_embedder.mlp[0].weight, self.t_embedder.mlp[2].weight]
            closed += [layer.adaLN_modulation[1].weight for layer in [*self.blocks, self.final_layer]]
        else:
            channels = self.config.hidden_size
            for block in self.blocks:
                closed += [block.attn.proj.weight, block.mlp.fc2.weight]
                block.modulation.view(6, channels)[[2, 5]] = 1.0
        for weight in small:
            nn.init.normal_(weight, std=0.02)
        for weight in closed:
            nn.init.zeros_(weight)

    def forward(self, ids, t, visible=None):
        """Logits (B, L, V) of ids (B, L) at times t (B). visible: which positions attention may look at, or all."""
        length = ids.shape[1]
        h = self.tok_embed(ids) + self.pos_embed[:, :length]
        c = self.t_embedder(t) if self.config.time == "adaln" else None
        rotary = (self.cos[:length], self.sin[:length]) if self.config.position == "both" else None
        for block in self.blocks:
            h = block(h, c, rotary, visible)
        return self.final_layer(h, c)


def sigma(t):
    """Share of masked positions at time t, by the cosine schedule."""
    return (1 - torch.cos(math.pi / 2 * t)).clamp(1e-3, 1.0)


def sigma_inverse(share):
    return torch.arccos(1 - share.clamp(1e-3, 1.0)) * (2 / math.pi)


@torch.inference_mode()
def sample(model, n: int, length: int, steps: int, temperature: float = 0.9):
    """n texts by the original's sampler: order `confidence`, reveal schedule `cosine`."""
    ids = torch.full((n, length), MASK)
    for step in range(1, steps + 1):
        masked = ids == MASK
        left = int(masked[0].sum())  # as many in each text
        if left == 0:
            break
        logits = model(ids, sigma_inverse(masked.float().mean(1))).float()
        logits[..., : MASK + 1] = -math.inf
        p = torch.softmax(logits / temperature, dim=-1)
        drawn = torch.multinomial(p.flatten(0, 1), 1).view(n, length)
        confidence = p.amax(-1).masked_fill(~masked, -1.0)
        target = length * (1 - math.cos(math.pi / 2 * step / steps))
        reveal = min(max(1, round(target - (length - left))), left)
        best = confidence.topk(reveal).indices
        ids.scatter_(1, best, drawn.gather(1, best))
    return ids


def stirred(config: Config, seed: int = 0) -> Denoiser:
    """A model whose weights are all away from their initial zeros, so that no logits are alike."""
    torch.manual_seed(seed)
    model = Denoiser(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    return model


def save(model: Denoiser, folder: Path) -> None:
    """A model folder of ours, without a tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(asdict(model.config)))

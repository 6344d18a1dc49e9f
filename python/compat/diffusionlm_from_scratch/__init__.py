"""The interface of the PyTorch program diffusionlm-from-scratch, by the C library diffusionlm."""

from .inference import DEFAULT_REPO, DiffusionLM, refine, sample
from .model import DiT, DiTConfig
from .scheduler import AbsorbingScheduler

__all__ = ["AbsorbingScheduler", "DEFAULT_REPO", "DiffusionLM", "DiT", "DiTConfig", "refine", "sample"]

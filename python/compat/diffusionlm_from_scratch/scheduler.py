"""The masking process: how much of a text is masked at time t, and what the loss there weighs."""

from __future__ import annotations

import sys
from typing import Any, Callable

import numpy as np
from numpy.typing import NDArray

from diffusionlm.errors import ArgumentError

from ._arrays import array_of, is_tensor, like


class AbsorbingScheduler:
    """Times t in [0, 1] and the probability sigma(t) that a token is masked, kept within [eps, 1].

    schedule: "cosine" (1 - cos(pi t/2)) or "linear" (t). weight_mode of the loss: "uniform" (1), "inv_sigma" (1/sigma,
    at most max_weight) or "sigma". Numbers give numbers, arrays arrays, torch tensors tensors.
    """

    def __init__(
        self,
        mask_id: int,
        schedule: str = "cosine",
        eps: float = 1e-3,
        max_weight: float = 10.0,
        weight_mode: str = "inv_sigma",
    ) -> None:
        if schedule not in ("cosine", "linear"):
            raise ArgumentError(f"schedule is {schedule!r}, and it is cosine or linear")
        if weight_mode not in ("uniform", "inv_sigma", "sigma"):
            raise ArgumentError(f"weight_mode is {weight_mode!r}, and it is uniform, inv_sigma or sigma")
        self.mask_id = mask_id
        self.schedule = schedule
        self.eps = eps
        self.max_weight = max_weight
        self.weight_mode = weight_mode

    def mask_prob(self, t: Any) -> Any:
        """sigma(t)."""
        return _each(t, self._sigma)

    def t_from_mask_prob(self, sigma: Any) -> Any:
        """The time at which a share sigma is masked."""
        return _each(sigma, self._time)

    def loss_weight(self, t: Any) -> Any:
        """What the mean cross-entropy of a sequence at time t weighs."""
        return _each(t, self._weight)

    def sample_t(self, n: int, device: Any = None) -> Any:
        """(n) float32 times for training: uniform, at least eps. A tensor where a device is given."""
        if device is None:
            return np.maximum(np.random.default_rng().random(n, np.float32), np.float32(self.eps))
        return sys.modules["torch"].rand(n, device=device).clamp(min=self.eps)

    def corrupt(self, x: Any, t: Any, attention_mask: Any = None) -> tuple[Any, Any]:
        """x (B, L) with each token masked with probability sigma(t), t (B), but for those where attention_mask (B, L)
        is 0; and which ones are masked, (B, L)."""
        ids = array_of(x)
        if is_tensor(x):
            drawn = array_of(sys.modules["torch"].rand(ids.shape))
        else:
            drawn = np.random.default_rng().random(ids.shape)
        masked = drawn < self._sigma(array_of(t).astype(np.float64)).reshape(-1, 1)
        if attention_mask is not None:
            masked &= array_of(attention_mask) != 0
        return like(np.where(masked, ids.dtype.type(self.mask_id), ids), x), like(masked, x)

    def _sigma(self, t: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.clip(t if self.schedule == "linear" else 1 - np.cos(np.pi / 2 * t), self.eps, 1.0)

    def _time(self, sigma: NDArray[np.float64]) -> NDArray[np.float64]:
        kept = np.clip(sigma, self.eps, 1.0)
        return kept if self.schedule == "linear" else 2 / np.pi * np.arccos(1 - kept)

    def _weight(self, t: NDArray[np.float64]) -> NDArray[np.float64]:
        if self.weight_mode == "uniform":
            return np.ones_like(t)
        sigma = self._sigma(t)
        return sigma if self.weight_mode == "sigma" else np.minimum(1 / sigma, self.max_weight)


def _each(values: Any, function: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> Any:
    """function in double, and the result in the kind and precision of what came in."""
    given = array_of(values)
    found = function(given.astype(np.float64))
    if not is_tensor(values) and np.ndim(values) == 0:
        return float(found)
    kind = given.dtype if given.dtype.kind == "f" else np.dtype(np.float32)
    return like(found.astype(kind), values)

"""The denoiser: DiT, a callable (ids, times) -> logits."""

from __future__ import annotations

import os
import secrets
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Callable, Iterator, Union

import numpy as np

from diffusionlm import Config, Model, Tokenizer
from diffusionlm.errors import ArgumentError, Unsupported
from diffusionlm.lm import DEFAULT_REPO, check_device, load_with

from ._arrays import array_of, like

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass
class DiTConfig:
    """The sizes of a model."""

    vocab_size: int = 50258
    max_seq_len: int = 128
    hidden_size: int = 384
    depth: int = 12
    num_heads: int = 6
    mlp_ratio: float = 4.0


class Parameter(np.ndarray):
    """A parameter: the model's own memory, read-only, with what programs ask of a tensor."""

    requires_grad = False

    def numel(self) -> int:
        """How many numbers it has."""
        return int(self.size)


class DiT:
    """A denoiser. DiT(config) has random weights, DiT.from_pretrained(source) those of a file.

    There are no gradients: training is diffusionlm's own.
    """

    def __init__(self, config: DiTConfig | None = None) -> None:
        sizes, seed = asdict(config or DiTConfig()), secrets.randbits(63)

        def load(schedule: str | None) -> Model:
            made = Config(**sizes, time="adaln", position="learned", schedule=schedule or "cosine", padded=True)
            return Model.random(made, seed=seed, precision="f32")

        self._become(load)

    def _become(self, load: Callable[[str | None], Model]) -> None:
        """load(schedule): the model, under its own masking schedule for None."""
        self._load = load
        self._model = load(None)

    @classmethod
    def from_pretrained(
        cls,
        source: Union[str, os.PathLike[str]] = DEFAULT_REPO,
        device: Any = None,
        *,
        tokenizer: Any = None,
        weights: str | None = None,
        precision: str | None = "f32",
    ) -> Self:
        """From a .pt, a model folder or an id of the Hugging Face Hub; see diffusionlm.Model.load."""
        check_device(device)
        made = cls.__new__(cls)
        made._become(
            lambda schedule: load_with(source, tokenizer, weights=weights, precision=precision, schedule=schedule)
        )
        return made

    def under(self, scheduler: Any) -> Model:
        """The model that is told times by this scheduler's schedule."""
        if scheduler is None:
            return self._model
        if scheduler.mask_id != self._model.mask_id:
            raise ArgumentError(f"the scheduler's mask_id is {scheduler.mask_id}, the model's {self._model.mask_id}")
        if scheduler.schedule != self._model.config.schedule:
            self._model = self._load(scheduler.schedule)
        return self._model

    @property
    def config(self) -> DiTConfig:
        config = self._model.config
        return DiTConfig(**{name: getattr(config, name) for name in asdict(DiTConfig())})

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The one that came with the model."""
        return self._model.tokenizer

    def __call__(self, x: Any, t: Any) -> Any:
        """Logits (B, L, V), float32, of ids x (B, L) at times t (B); torch tensors where x or t is one."""
        logits = self._model.logits(array_of(x), array_of(t))
        return like(np.asarray(logits), x, t)

    forward = __call__

    def parameters(self) -> Iterator[Parameter]:
        """Its parameters, float32."""
        return iter(self.state_dict().values())

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        return iter(self.state_dict().items())

    def state_dict(self) -> dict[str, Parameter]:
        return {name: values.view(Parameter) for name, values in self._model.parameters.items()}

    def eval(self) -> Self:
        return self

    def train(self, mode: bool = True) -> Self:
        """Does nothing: there is no dropout, and there are no gradients."""
        return self

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        if requires_grad:
            raise Unsupported("there are no gradients: training is diffusionlm's own")
        return self

    def to(self, *places: Any, device: Any = None, dtype: Any = None) -> Self:
        """Checks that device and number format are those that there are: the CPU, float32."""
        for place in (*places, device, dtype):
            name = str(place)
            if not name.startswith("torch."):
                check_device(place)
            elif name != "torch.float32":
                raise Unsupported(f"the parameters stay float32, and {name} is asked for")
        return self

    def cpu(self) -> Self:
        return self

    def __repr__(self) -> str:
        return f"DiT({self.config})"

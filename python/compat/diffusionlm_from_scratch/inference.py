"""Writing and rewriting texts, as functions and as DiffusionLM."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Union

import numpy as np

import diffusionlm
from diffusionlm.lm import DEFAULT_REPO as DEFAULT_REPO, fresh_seed

from ._arrays import array_of, is_tensor, like
from .model import DiT
from .scheduler import AbsorbingScheduler

if TYPE_CHECKING:
    from typing_extensions import Self


class Tokenizer(diffusionlm.Tokenizer):
    """diffusionlm's tokenizer, with names that the transformers library has."""

    @classmethod
    def of(cls, tokenizer: diffusionlm.Tokenizer) -> Self:
        return cls(tokenizer._pointer, owner=tokenizer)

    def decode(self, ids: Any, *, skip_special_tokens: bool = False, skip_special: bool = False) -> str:
        return super().decode(array_of(ids), skip_special=skip_special_tokens or skip_special)

    @property
    def pad_token_id(self) -> int | None:
        return self.pad_id

    @property
    def unk_token_id(self) -> int | None:
        return self.unk_id

    @property
    def mask_token_id(self) -> int | None:
        return self.mask_id


def _decode(tokenizer: Any, ids: Any) -> str:
    """The text of ids, special tokens left out, by the tokenizer of whichever library."""
    if isinstance(tokenizer, diffusionlm.Tokenizer):
        return Tokenizer.of(tokenizer).decode(ids, skip_special_tokens=True)
    return str(tokenizer.decode(ids.tolist(), skip_special_tokens=True))


def sample(
    model: DiT,
    scheduler: AbsorbingScheduler | None,
    tokenizer: Any,
    seq_len: int,
    n: int = 4,
    steps: int = 64,
    temperature: float = 1.0,
    reveal_schedule: str = "cosine",
    order: str = "confidence",
    return_ids: bool = False,
    corrector_frac: float = 0.0,
    corrector_every: int = 2,
    corrector_mode: str = "random",
    confidence_threshold: float | None = None,
    *,
    seed: int | None = None,
) -> Any:
    """n texts of seq_len tokens: a list of str, or with return_ids an (n, seq_len) array. seed: None draws anew."""
    denoiser = model.under(scheduler)
    ids = denoiser.sample(
        denoiser.masks(n, seq_len),
        seed=fresh_seed(seed),
        steps=steps,
        temperature=temperature,
        reveal=reveal_schedule,
        order=order,
        corrector_frac=corrector_frac,
        corrector_every=corrector_every,
        corrector_mode=corrector_mode,
        confidence_threshold=confidence_threshold,
    )
    return ids if return_ids else [_decode(tokenizer, row) for row in ids]


def refine(
    model: DiT,
    scheduler: AbsorbingScheduler | None,
    x: Any,
    passes: int = 8,
    frac: float = 0.15,
    temperature: float = 0.9,
    *,
    seed: int | None = None,
) -> Any:
    """ids x (n, L) of which parts were hidden and drawn anew, pass after pass; a tensor where x is one."""
    refined = model.under(scheduler).refine(
        array_of(x), passes=passes, frac=frac, temperature=temperature, seed=fresh_seed(seed)
    )
    return like(np.asarray(refined), x)


class DiffusionLM(diffusionlm.DiffusionLM):
    """A model, its tokenizer and its masking process. What diffusionlm.DiffusionLM does beyond the original, such as
    prompt=, seed= and stream(), is here too; texts keep the space that decoding begins them with."""

    def __init__(self, model: DiT, tokenizer: Any = None, scheduler: AbsorbingScheduler | None = None) -> None:
        super().__init__(model._model, tokenizer)
        self.model = model
        self.scheduler = scheduler or AbsorbingScheduler(model._model.mask_id, model._model.config.schedule)
        if tokenizer is not None:
            self.tokenizer = tokenizer
        elif self.tokenizer is not None:
            self.tokenizer = Tokenizer.of(self.tokenizer)

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        source: Union[str, os.PathLike[str]] = DEFAULT_REPO,
        tokenizer: Any = None,
        device: Any = None,
        *,
        weights: str | None = None,
        precision: str | None = None,
    ) -> Self:
        """From a .pt, a model folder or an id of the Hugging Face Hub; tokenizer: instead of the one beside it."""
        model = DiT.from_pretrained(source, device, tokenizer=tokenizer, weights=weights, precision=precision)
        return cls(model)

    def _model(self) -> diffusionlm.Model:
        return self.model.under(self.scheduler)  # type: ignore[no-any-return]

    def _text(self, ids: Any) -> str:
        self._need_tokenizer()
        return _decode(self.tokenizer, self._until_end(ids))

    def refine(self, x: Any, *arguments: Any, **options: Any) -> Any:
        """As diffusionlm.DiffusionLM.refine; a tensor where x is one."""
        if not is_tensor(x):
            return super().refine(x, *arguments, **options)
        return like(np.asarray(super().refine(array_of(x), *arguments, **options)), x)

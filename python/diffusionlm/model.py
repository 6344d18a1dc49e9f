"""Models: loading, what they are made of, logits, saving, converting."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Iterator, Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import likelihood, sampling, speed, stream, templates
from ._library import (
    Options,
    Owner,
    Packed,
    Progress,
    Watch,
    call,
    count,
    errors,
    ffi,
    from_enum,
    lib,
    path_bytes,
    pointer,
    structure,
    text_of,
    to_enum,
    view_of,
)
from .tokenizer import Tokenizer

if TYPE_CHECKING:
    from typing_extensions import Self


_TOKENS_OF_LOGITS = 8192  # of one call: beyond some thousand rows a product of matrices is no faster for each


@dataclass(frozen=True)
class Config:
    """What a model is (docs/model.md), and how it was trained."""

    vocab_size: int
    max_seq_len: int
    hidden_size: int
    depth: int
    num_heads: int
    mlp_ratio: float = 4.0
    time: str = "none"  #: "none", or "adaln" as the original's
    position: str = "both"  #: "both" learned and rotary, or "learned" as the original's
    schedule: str = "cosine"  #: of masking: "cosine" or "linear"
    end_token: bool = False  #: sequences end with the tokenizer's end token
    padded: bool = False  #: trained on sequences padded to one length
    tail_share: float = 0.0  #: share of sequences that were longer than their document, the rest end tokens
    recipe: str = "default"  #: of training: "default" or "original"


class Parameters(Mapping[str, NDArray[np.float32]]):
    """The parameters of a model by name: float32 arrays that are the model's own memory, read-only, without a copy.

    Those that matrix products read in another precision take no memory until they are asked for here: then they are
    read from the model's file, which is kept open. That is an error where it has been written to meanwhile.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self._index = {
            text_of(lib.dlm_model_describe_parameter(model._pointer, i).name): i
            for i in range(lib.dlm_model_parameters(model._pointer))
        }

    def _parameter(self, name: str) -> Any:
        return lib.dlm_model_describe_parameter(self._model._pointer, self._index[name])

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a parameter, known also of an inspected model."""
        found = self._parameter(name)
        return tuple(found.shape[0 : found.ndim])

    def stored(self, name: str) -> str | None:
        """How its file has a parameter: "float32", "bfloat16", "float16" or "float64"; None: it is from no file."""
        return text_of(self._parameter(name).stored) or None

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        values = ffi.new("const float **")
        call(lib.dlm_model_values, self._model._pointer, self._index[name], values)
        size = 4 * self._parameter(name).count
        return view_of(values[0], size, np.dtype(np.float32), self._model).reshape(self.shape(name))

    def __contains__(self, name: object) -> bool:  # what Mapping has would read the values
        return name in self._index

    def __iter__(self) -> Iterator[str]:
        return iter(self._index)

    def __len__(self) -> int:
        return len(self._index)


class Model(Owner):
    """A denoiser with its tokenizer, constant after it is made: many threads can use it at once.

    Model.load(path), Model.random(config), Model.inspect(path).
    """

    def __init__(self, pointer: Any) -> None:
        self._pointer = ffi.gc(pointer, lib.dlm_model_free)
        self._size = lib.dlm_model_config(self._pointer).vocab_size

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        weights: str | None = None,
        precision: str | None = None,
        tokenizer: str | os.PathLike[str] | None = None,
        schedule: str | None = None,
        heads: int | None = None,
        progress: Progress | None = None,
    ) -> Self:
        """From a model folder, a run folder (its newest checkpoint), a .safetensors file, a checkpoint of torch.save
        (.pt; nothing in it is executed) or, where no such path exists, an id of the Hugging Face Hub, with "@revision"
        behind it if you like.

        weights: "ema" or "raw". precision of matrix products: "auto" (bf16 where the processor multiplies it), "f32",
        "bf16" or "int8" (docs/performance.md). tokenizer: a folder, tokenizer.json or id of the Hub instead of the one
        beside the model. schedule: "cosine" or "linear" instead of the model's own. heads: of a state dict that comes
        without config. progress(stage, done, total, seconds): of a download.
        """
        return cls._read(
            lib.dlm_model_load,
            path,
            progress,
            {"weights": weights, "precision": precision, "tokenizer": tokenizer, "heads": heads},
            schedule,
        )

    @classmethod
    def inspect(
        cls,
        path: str | os.PathLike[str],
        *,
        weights: str | None = None,
        tokenizer: str | os.PathLike[str] | None = None,
        schedule: str | None = None,
        heads: int | None = None,
        progress: Progress | None = None,
    ) -> Self:
        """As load, but without the weights: config, shapes and tokenizer."""
        return cls._read(
            lib.dlm_model_inspect,
            path,
            progress,
            {"weights": weights, "tokenizer": tokenizer, "heads": heads},
            schedule,
        )

    @classmethod
    def _read(
        cls, function: Any, path: Any, progress: Progress | None, values: dict[str, Any], schedule: str | None
    ) -> Self:
        options = Options("dlm_model_options", lib.dlm_model_defaults())
        fill_model_options(options, options.struct, values, schedule)
        watch = Watch(progress)
        options.watch(watch)
        made = ffi.new("dlm_model **")
        with watch.watching():
            call(function, path_bytes(path), options.struct, made)
        return cls(made[0])

    @classmethod
    def random(cls, config: Config, *, seed: int = 0, precision: str = "auto") -> Self:
        """A model with the random weights that training begins with, and no tokenizer."""
        struct = Options("dlm_config", {}, vars(config))
        made = ffi.new("dlm_model **")
        call(
            lib.dlm_model_random,
            struct.struct,
            to_enum("dlm_precision", precision, "precision"),
            count(seed, "seed"),
            made,
        )
        return cls(made[0])

    # ---- what it is ----

    @property
    def config(self) -> Config:
        return Config(**structure(lib.dlm_model_config(self._pointer)[0]))

    @property
    def tokenizer(self) -> Tokenizer | None:
        """None when it has none."""
        found = lib.dlm_model_tokenizer(self._pointer)
        return None if found == ffi.NULL else Tokenizer(found, owner=self)

    @property
    def precision(self) -> str:
        """Of matrix products: "f32", "bf16" or "int8"."""
        return from_enum("dlm_precision", lib.dlm_model_precision(self._pointer))

    @property
    def source(self) -> str | None:
        """The file that the weights came from; "memory" for random ones."""
        return text_of(lib.dlm_model_source(self._pointer)) or None

    @property
    def stored(self) -> str | None:
        """How that file has the parameters: "float32", "bfloat16", "float16" or "float64" where all are alike, else
        "mixed". None for random ones."""
        return text_of(lib.dlm_model_stored(self._pointer)) or None

    @property
    def lengths(self) -> NDArray[np.uint64] | None:
        """Documents seen in training by length: [i] of i tokens, the end token counted, i = 0 .. max_seq_len (which
        counts longer ones too). None when the model has none."""
        n = ffi.new("size_t *")
        found = lib.dlm_model_lengths(self._pointer, n)
        if found == ffi.NULL:
            return None
        return view_of(found, 8 * n[0], np.dtype(np.uint64), self).copy()

    @property
    def parameters(self) -> Parameters:
        """Parameters by name, as the original names them."""
        return Parameters(self)

    @property
    def mask_id(self) -> int:
        """The id of [MASK]: the tokenizer's, or 2."""
        tokenizer = self.tokenizer
        found = None if tokenizer is None else tokenizer.mask_id
        return 2 if found is None else found

    # ---- the forward pass ----

    def logits(
        self, ids: Any, times: ArrayLike | None = None, *, out: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32] | list[NDArray[np.float32]]:
        """Logits, float32, of sequences with masks: (B, L, V) of ids (B, L), (L, V) of ids (L), or a list of (L_b, V)
        of a list of sequences, which go through the model together without padding.

        times: (B), or one for all, in [0, 1]: how much of each sequence is masked (docs/model.md); a model without
        time conditioning does not read them. out: float32, contiguous, of that many elements; the result is a view of
        it. The array is written by the library itself: nothing is copied.
        """
        packed = Packed(ids)
        shape = (packed.ids.size, self._size)
        if out is None:
            out = np.empty(shape, np.float32)
        elif out.dtype != np.float32 or out.size != shape[0] * shape[1] or not out.flags.c_contiguous:
            raise errors.ArgumentError(f"out is {out.dtype} {out.shape}; float32 {shape} in one piece is needed")
        elif not out.flags.writeable:
            raise errors.ArgumentError("out cannot be written to")
        when = None
        if times is not None:
            when = np.ascontiguousarray(np.broadcast_to(np.asarray(times, np.float32), (len(packed),)))
        elif self.config.time == "adaln":
            raise errors.ArgumentError("this model is told the time: times has to be given")
        self._write_logits(packed, when, out.reshape(shape))
        if packed.shape is not None:
            return out.reshape(*packed.shape, self._size)
        return packed.split(out.reshape(shape))

    def _write_logits(self, packed: Packed, times: NDArray[np.float32] | None, out: NDArray[np.float32]) -> None:
        """Sequences that have many tokens together go in several calls, between which Ctrl-C ends it."""
        ends = np.cumsum(packed.lengths)
        first = 0
        while first < len(packed):
            begin = int(ends[first] - packed.lengths[first])
            last = max(int(np.searchsorted(ends, begin + _TOKENS_OF_LOGITS, "right")), first + 1)
            call(
                lib.dlm_model_logits,
                self._pointer,
                pointer(packed.ids[begin:]),
                pointer(packed.lengths[first:]),
                last - first,
                ffi.NULL if times is None else pointer(times[first:]),
                pointer(out[begin:]),
            )
            first = last

    # ---- sampling ----

    masks = sampling.masks
    sample = sampling.sample
    sample_blocks = sampling.sample_blocks
    refine = sampling.refine
    sample_length = sampling.sample_length
    sample_text = sampling.sample_text
    stream = stream.stream
    fill = templates.fill

    # ---- measuring ----

    evaluate = likelihood.evaluate
    curve = likelihood.curve
    nelbo = likelihood.nelbo
    score = likelihood.score
    measure_speed = speed.measure_speed

    # ---- files ----

    def save(self, path: str | os.PathLike[str], *, numbers: str | None = None, overwrite: bool = False) -> None:
        """Writes the model: a .pt or .pth that torch.load reads as the original's, a .safetensors file, or under any
        other name a model folder with the tokenizer. numbers: "f32", "bf16", "f16" or "int8" (not in a .pt). Nothing
        half-written ever has that name."""
        options = Options("dlm_save_options", lib.dlm_save_defaults(), {"numbers": numbers, "overwrite": overwrite})
        call(lib.dlm_model_save, self._pointer, path_bytes(path), options.struct)

    def __repr__(self) -> str:
        config = self.config
        return (
            f"<diffusionlm.Model of {config.hidden_size} channels, {config.depth} blocks, {config.num_heads} heads, "
            f"vocabulary {config.vocab_size}, sequences up to {config.max_seq_len}>"
        )


def fill_model_options(options: Options, struct: Any, values: dict[str, Any], schedule: str | None) -> None:
    """Fills a dlm_model_options, which keeps -1 for the schedule of the model's own."""
    for name, value in values.items():
        options.set(name, value, struct)
    if schedule is not None:
        struct.schedule = to_enum("dlm_schedule", schedule, "schedule")


def convert(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    weights: str | None = None,
    both: bool = False,
    tokenizer: str | os.PathLike[str] | None = None,
    schedule: str | None = None,
    heads: int | None = None,
    numbers: str | None = None,
    overwrite: bool = False,
) -> None:
    """Reads what Model.load reads and writes what Model.save writes, with one tensor at a time in memory.

    both: raw weights beside the average go along, where the target can hold them (all but .safetensors).
    """
    options = Options("dlm_convert_options", lib.dlm_convert_defaults(), {"both": both})
    values = {"weights": weights, "tokenizer": tokenizer, "heads": heads}
    fill_model_options(options, options.struct.model, values, schedule)
    options.set("numbers", numbers, options.struct.save)
    options.set("overwrite", overwrite, options.struct.save)
    watch = Watch()
    options.watch(watch, options.struct.model)
    with watch.watching():
        call(lib.dlm_model_convert, path_bytes(source), path_bytes(target), options.struct)


def model_of(value: Model | str | os.PathLike[str]) -> Model:
    """A model, or what Model.load takes."""
    return value if isinstance(value, Model) else Model.load(value)

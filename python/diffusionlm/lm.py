"""DiffusionLM: a model that writes texts, with the interface that people know from PyTorch."""

from __future__ import annotations

import os
import re
import secrets
import tempfile
from typing import TYPE_CHECKING, Any, Iterator, Literal, Sequence, Union, overload

import numpy as np

from . import stream as streams
from ._library import Ids, count, errors
from .hub import download
from .model import Model
from .progress import Shown, showing
from .sampling import FillOptions, GenerateOptions, RewriteOptions, SamplerOptions, known, takes
from .templates import Filled, Template, fill_ids, template_of
from .tokenizer import Tokenizer

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

DEFAULT_REPO = "tchauffi/diffusionlm-from-scratch"

Path = Union[str, "os.PathLike[str]"]

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@.+)?")


def check_device(device: Any) -> None:
    """None, or what str() makes "cpu"; else an error."""
    if device is not None and str(device).split(":")[0] != "cpu":
        raise errors.Unsupported(f"device is {str(device)!r}: diffusionlm runs on the CPU alone")


def tokenizer_from(value: Any) -> Tokenizer:
    """A Tokenizer, what Tokenizer.load takes, or a tokenizer of the Hugging Face libraries (by its JSON)."""
    if isinstance(value, Tokenizer):
        return value
    if isinstance(value, (str, os.PathLike)):
        return Tokenizer.load(value)
    backend = getattr(value, "backend_tokenizer", value)
    if not hasattr(backend, "to_str"):
        raise TypeError(f"tokenizer is a {type(value).__name__}; a path, a Tokenizer or one of Hugging Face is needed")
    return Tokenizer.parse(backend.to_str())


def fresh_seed(seed: int | None) -> int:
    """The seed, or where that is None another one each time."""
    return secrets.randbits(63) if seed is None else seed


class DiffusionLM:
    """A model and its tokenizer: DiffusionLM.from_pretrained("run").generate(n=4).

    model: Model. tokenizer: Tokenizer, or None where there is none.
    """

    def __init__(self, model: Model, tokenizer: Any = None) -> None:
        """tokenizer: another one than the model's own: as tokenizer_from takes it."""
        self.model: Model = model
        self._tokenizer = self._tokenizer_for(model, tokenizer)
        self.tokenizer: Any = self._tokenizer

    @staticmethod
    def _tokenizer_for(model: Model, tokenizer: Any) -> Tokenizer | None:
        if tokenizer is None:
            return model.tokenizer
        own = tokenizer_from(tokenizer)
        if own.vocab_size > model.config.vocab_size:
            raise errors.MismatchError(
                f"the tokenizer has {own.vocab_size} tokens, and the model {model.config.vocab_size}"
            )
        return own

    @classmethod
    def from_pretrained(
        cls,
        source: Path = DEFAULT_REPO,
        tokenizer: Any = None,
        device: Any = None,
        *,
        weights: str | None = None,
        precision: str | None = None,
        schedule: str | None = None,
        heads: int | None = None,
        progress: Shown = "auto",
    ) -> Self:
        """From what Model.load takes: a model or run folder, a .pt or .safetensors file, an id of the Hugging Face Hub.

        tokenizer: instead of the one beside the model: a folder or tokenizer.json, an id of the Hub, a Tokenizer, or
        one of the Hugging Face libraries. device: None or "cpu". progress: of a download, as of download. The others as
        of Model.load.
        """
        check_device(device)
        options: dict[str, Any] = dict(weights=weights, precision=precision, schedule=schedule, heads=heads)
        return cls(load_with(source, tokenizer, progress=progress, **options))

    # ---- what sampling needs ----

    def _model(self) -> Model:
        """The model that samples."""
        return self.model

    def _end_id(self) -> int | None:
        """The id that ends a text, where the model knows one."""
        if not self._model().config.end_token:
            return None
        return 3 if self._tokenizer is None else self._tokenizer.end_id

    def _need_tokenizer(self) -> Tokenizer:
        if self._tokenizer is None:
            raise errors.ArgumentError("there is no tokenizer beside the model: name one, or ask for ids")
        return self._tokenizer

    def _text(self, ids: Ids) -> str:
        """The text of a sample, up to its end, without the space that encoding adds."""
        tokenizer, own = self._need_tokenizer(), self._model().tokenizer
        if own is not None and own.hash == tokenizer.hash:
            return self._model().sample_text(ids)
        text = tokenizer.decode(self._until_end(ids))
        return text[1:] if tokenizer.add_prefix_space and text.startswith(" ") else text

    def _until_end(self, ids: Ids) -> Ids:
        end = self._end_id()
        ends = np.flatnonzero(ids == (-1 if end is None else end))
        return ids[: ends[0]] if len(ends) else ids

    # ---- writing ----

    @overload
    def generate(
        self,
        n: int = 4,
        seq_len: int | str | None = 80,
        steps: int | None = None,
        temperature: float = 0.9,
        order: str = "confidence",
        return_ids: Literal[False] = False,
        *,
        prompt: str | None = None,
        suffix: str | None = None,
        template: Template | str | None = None,
        reveal_schedule: str | None = None,
        **options: Unpack[GenerateOptions],
    ) -> list[str]: ...
    @overload
    def generate(
        self,
        n: int = 4,
        seq_len: int | str | None = 80,
        steps: int | None = None,
        temperature: float = 0.9,
        order: str = "confidence",
        *,
        return_ids: Literal[True],
        prompt: str | None = None,
        suffix: str | None = None,
        template: Template | str | None = None,
        reveal_schedule: str | None = None,
        **options: Unpack[GenerateOptions],
    ) -> Ids | list[Ids]: ...
    @takes(GenerateOptions)
    def generate(
        self,
        n: int = 4,
        seq_len: int | str | None = 80,
        steps: int | None = None,
        temperature: float = 0.9,
        order: str = "confidence",
        return_ids: bool = False,
        *,
        prompt: str | None = None,
        suffix: str | None = None,
        template: Template | str | None = None,
        reveal_schedule: str | None = None,
        **options: Unpack[GenerateOptions],
    ) -> Any:
        """Writes n texts: a list of str, or with return_ids an (n, seq_len) int32 array.

        seq_len: tokens of each text, what is given and the end among them; past the model's length it is written block
        by block. None or "auto": drawn from the lengths of the texts that the model was trained on; return_ids gives a
        list of arrays then, and with a template, which says itself how long it is (seq_len is not read).
        prompt, suffix: what the texts begin and end with. template: all of a text, with masks to fill in: "Once
        [MASK:3-8] cat." steps: as many as positions if not given. reveal_schedule: reveal, by the original's name.
        seed: None draws anew in each call. remask makes "ancestral" of the default order.
        """
        given = self._given(
            options, steps=steps, temperature=temperature, order=order, reveal_schedule=reveal_schedule, seq_len=seq_len
        )
        if not return_ids:
            self._need_tokenizer()
        found, _, _ = fill_ids(self._model(), self._template(given, template, prompt, suffix), count(n, "n"), 0, given)
        if not return_ids:
            return [self._text(ids) for ids in found]
        if template is not None or seq_len in (None, "auto"):
            return found
        return np.array(found, np.int32).reshape(len(found), int(seq_len or 0))

    def _given(
        self, options: Any, *, order: str, reveal_schedule: str | None, seq_len: Any, **more: Any
    ) -> dict[str, Any]:
        """All options, as fill takes them."""
        given = {**known(options, GenerateOptions, ("order", "reveal_schedule", "seq_len", *more)), **more}
        given["seed"] = fresh_seed(given.get("seed"))
        if order != "confidence" or given.get("remask") in (None, "none"):
            given["order"] = order
        if reveal_schedule is not None:
            given["reveal"] = reveal_schedule
        given["length"] = None if seq_len in (None, "auto") else seq_len
        if seq_len == 0:
            raise errors.ArgumentError("seq_len is 0, which leaves nothing to write")
        return given

    def _template(
        self, given: dict[str, Any], template: Template | str | None, prompt: str | None, suffix: str | None
    ) -> Template | None:
        if template is not None:
            given["length"] = None
        return template_of(self._model(), template, prompt, suffix)

    @takes(SamplerOptions)
    def stream(
        self,
        n: int = 1,
        seq_len: int | str | None = 80,
        steps: int | None = None,
        temperature: float = 0.9,
        order: str = "confidence",
        *,
        prompt: str | None = None,
        suffix: str | None = None,
        template: Template | str | None = None,
        reveal_schedule: str | None = None,
        context: int | None = None,
        **options: Unpack[SamplerOptions],
    ) -> Iterator[streams.StreamStep]:
        """As generate, step by step: `for positions, ids in lm.stream(): ...`.

        Each StreamStep has what changed, and further attributes. Followed from nothing but masks, the steps end with
        what generate gives for the same seed (and tries=1). The model works in a thread of its own, at most one step
        ahead; closing or leaving the generator ends it, and what goes wrong there is raised here.
        """
        given = self._given(
            known(options, SamplerOptions),
            steps=steps, temperature=temperature, order=order, reveal_schedule=reveal_schedule, seq_len=seq_len,
        )  # fmt: skip
        n, model = count(n, "n"), self._model()
        parsed = self._template(given, template, prompt, suffix)
        on_step = given.pop("on_step", None)
        given.update(tries=1, at_once=max(n, 1), context=context)
        texts = None
        if given["length"] is not None and parsed is None:
            texts = list(model.masks(n, given["length"]))

        def run(see: Any) -> None:
            fill_ids(model, parsed, n, 0, {**given, "on_step": see})

        return streams.steps_of(run, streams.Replay(n, 0, texts), on_step)

    @takes(FillOptions)
    def fill(
        self, template: Template | str, n: int = 1, *, details: bool = False, **options: Unpack[FillOptions]
    ) -> list[str] | list[Filled]:
        """Fills the masks of a template: fill("Once [MASK:3-8] cat.", n=2). Returns n texts, or with details=True a
        Filled for each. seed: None draws anew in each call."""
        given: Any = known(options, FillOptions)
        given["seed"] = fresh_seed(given.get("seed"))
        if not details:
            self._need_tokenizer()
        return self._model().fill(template, n, details=details, **given)  # type: ignore[call-overload,no-any-return]

    # ---- rewriting ----

    @takes(RewriteOptions)
    def refine(
        self,
        x: Any,
        passes: int = 8,
        frac: float = 0.15,
        temperature: float = 0.9,
        *,
        fixed: Any = None,
        **options: Unpack[RewriteOptions],
    ) -> Any:
        """Hides parts of texts and draws them anew, pass after pass. Gives what came in: a str or a list of str for
        texts, int32 arrays of the same shapes for ids, as Model.refine takes them.

        A text keeps its number of tokens, and its end where it is. fixed: of ids alone. seed: None draws anew in each
        call.
        """
        given: Any = known(options, RewriteOptions)
        given.update(passes=passes, frac=frac, temperature=temperature, seed=fresh_seed(given.get("seed")))
        if isinstance(x, str):
            return self._refine_texts([x], fixed, given)[0]
        if not hasattr(x, "__array__") and len(x) > 0 and isinstance(x[0], str):
            return self._refine_texts(x, fixed, given)
        return self._model().refine(x, fixed=fixed, **given)

    def _refine_texts(self, texts: Sequence[str], fixed: Any, given: Any) -> list[str]:
        if fixed is not None:
            raise errors.ArgumentError("fixed marks positions of ids, and x is text")
        tokenizer, end = self._need_tokenizer(), self._end_id()
        encoded = [self._encode(text, i) for i, text in enumerate(texts)]
        marks = [np.zeros(len(ids), np.bool_) for ids in encoded]
        if end is not None:
            encoded = [np.append(ids, np.int32(end)) for ids in encoded]
            marks = [np.append(mark, True) for mark in marks]
        # a text ends where it ended
        if tokenizer.end_id is not None:
            given["banned"] = [*np.asarray(given.get("banned", ()), np.int32).tolist(), tokenizer.end_id]
        refined = self._model().refine(encoded, fixed=marks, **given)
        return [self._text(ids) for ids in refined]

    def _encode(self, text: str, number: int) -> Ids:
        """Encoding puts a space before a text that begins with none; one that has its own gets another, so that just
        the one is dropped again."""
        if not isinstance(text, str):
            raise TypeError(f"text {number} is {text!r}, and those before it are str")
        tokenizer = self._need_tokenizer()
        own = tokenizer.add_prefix_space and text.startswith(" ")
        ids = tokenizer.encode(" " + text if own else text, added_tokens=False)
        if len(ids) == 0:
            raise errors.ArgumentError(f"text {number} is empty")
        return ids

    # ---- files ----

    def save_pretrained(self, path: Path, *, numbers: str | None = None, overwrite: bool = False) -> None:
        """Writes the model as Model.save does: a .pt, a .safetensors file, or a folder with the tokenizer."""
        model, tokenizer = self._model(), self._tokenizer
        model.save(path, numbers=numbers, overwrite=overwrite)
        own = model.tokenizer
        if tokenizer is not None and os.path.isdir(path) and (own is None or own.hash != tokenizer.hash):
            tokenizer.save(path)

    def __repr__(self) -> str:
        return f"<diffusionlm.{type(self).__name__} of {self.model!r}>"


def load_with(source: Path, tokenizer: Any, *, progress: Shown = "auto", **options: Any) -> Model:
    """Model.load with any tokenizer: one that is no path goes through a folder of its own."""
    with showing(progress) as shown, tempfile.TemporaryDirectory() as folder:
        if not (tokenizer is None or isinstance(tokenizer, (str, os.PathLike))):
            tokenizer_from(tokenizer).save(folder)
            tokenizer = folder
        elif isinstance(tokenizer, str) and _HUB_ID.fullmatch(tokenizer) and not os.path.exists(tokenizer):
            tokenizer = download(tokenizer, "tokenizer.json", progress=progress).folder
        return Model.load(source, tokenizer=tokenizer, progress=shown, **options)

"""DiffusionLM: its texts are the command's, its ways of loading, its refining and saving."""

import json
import pathlib

import numpy as np
import pytest

import diffusionlm
from diffusionlm import DiffusionLM, Model, Tokenizer, errors


@pytest.fixture(scope="module")
def lm(small_model):
    return DiffusionLM.from_pretrained(small_model, precision="f32")


@pytest.mark.parametrize(
    "given, options",
    [
        (dict(), ["--length", 80]),  # past the model's 64: block by block
        (dict(seq_len=40), ["--length", 40]),
        (dict(seq_len=None), []),
        (dict(seq_len="auto", order="random"), ["--order", "random"]),
        (dict(seq_len=30, steps=9, temperature=0.4), ["--length", 30, "--steps", 9, "--temperature", 0.4]),
        (dict(seq_len=30, reveal_schedule="linear"), ["--length", 30, "--reveal", "linear"]),
        (dict(seq_len=30, remask="cap", steps=60), ["--length", 30, "--remask", "cap", "--steps", 60]),
        (
            dict(seq_len=30, corrector_frac=0.2, corrector_every=1, corrector_mode="low_confidence"),
            ["--length", 30, "--corrector-frac", 0.2, "--corrector-every", 1, "--corrector-mode", "low_confidence"],
        ),
        (dict(seq_len=30, confidence_threshold=0.1), ["--length", 30, "--confidence-threshold", 0.1]),
        (dict(prompt="Once upon", guidance=1.0), ["--prompt", "Once upon", "--guidance", 1, "--length", 80]),
        (dict(template="The [MASK:2-9] cat."), ["--template", "The [MASK:2-9] cat."]),
    ],
    ids=str,
)
def test_the_same_seed_gives_what_the_command_writes(lm, small_model, generated, given, options):
    wanted = generated(small_model, "-n", 3, "--seed", 13, "--precision", "f32", *options)
    ids = lm.generate(n=3, seed=13, return_ids=True, **given)
    assert [one.tolist() for one in ids] == [one["ids"] for one in wanted]
    assert lm.generate(n=3, seed=13, **given) == [one["text"] for one in wanted]
    array = given.get("seq_len", 80) not in (None, "auto") and "template" not in given
    assert isinstance(ids, np.ndarray) == array
    if array:
        assert ids.shape == (3, given.get("seq_len", 80)) and ids.dtype == np.int32


def test_the_defaults_are_the_originals(lm):
    texts = lm.generate()
    assert isinstance(texts, list) and len(texts) == 4 and all(isinstance(text, str) for text in texts)
    assert lm.generate(2, 10, 5, 0.5, "random", True).shape == (2, 10)
    assert lm.generate(n=0, return_ids=True).shape == (0, 80)
    assert (lm.generate(n=1, return_ids=True) != lm.generate(n=1, return_ids=True)).any(), "drawn anew each time"


def test_what_generate_refuses(lm, golden):
    with pytest.raises(TypeError, match="'temprature'; did you mean"):
        lm.generate(temprature=1)
    with pytest.raises(TypeError, match="'length'"):
        lm.generate(length=10)
    with pytest.raises(errors.ArgumentError, match="seq_len is 0"):
        lm.generate(seq_len=0)
    with pytest.raises(errors.ArgumentError, match="temperature"):
        lm.generate(temperature=-1)
    bare = DiffusionLM.from_pretrained(golden / "tiny" / "final.pt")
    assert bare.tokenizer is None
    with pytest.raises(errors.ArgumentError, match="no tokenizer beside the model"):
        bare.generate(on_step=lambda step: pytest.fail("sampled before it was said"))
    assert bare.generate(n=2, seq_len=20, return_ids=True).shape == (2, 20)


def test_on_step(lm):
    steps = []
    lm.generate(n=2, seq_len=10, on_step=lambda step: steps.append((step.step, step.n)))
    assert steps[0] == (0, 2) and steps[-1] == (10, 2)
    with pytest.raises(errors.Cancelled):
        lm.generate(n=2, seq_len=10, on_step=lambda step: step.step == 3)


def test_fill(lm, model):
    assert lm.fill("A [MASK:2-4] cat.", n=2, seed=3) == model.fill("A [MASK:2-4] cat.", n=2, seed=3)
    [filled] = lm.fill("A [MASK:2] cat.", details=True)
    assert filled.text.startswith("A ") and filled.text.endswith(" cat.")


# ---- refining --------------------------------------------------------------------------------------------------


def test_refined_texts_are_the_commands(lm, small_model, run):
    texts = ["Once upon a time there was a cat.", " Two spaces  stay.", "A long one. " * 30]
    given = b"".join(json.dumps({"text": text}).encode() + b"\n" for text in texts)
    options = ["--passes", 3, "--frac", 0.3, "--seed", 4, "--precision", "f32", "--format", "jsonl", "--json"]
    lines = run("refine", "-m", small_model, *options, input=given).splitlines()
    wanted = [json.loads(line)["text"] for line in lines]
    assert lm.refine(texts, passes=3, frac=0.3, seed=4) == wanted
    assert lm.refine(texts[0], passes=3, frac=0.3, seed=4) == wanted[0]
    assert wanted != texts
    with pytest.raises(errors.ArgumentError, match="text 1 is empty"):
        lm.refine(["a", ""])
    with pytest.raises(errors.ArgumentError, match="fixed marks positions of ids"):
        lm.refine("a", fixed=[True])


def test_refined_ids_come_back_as_they_came(lm):
    torch = pytest.importorskip("torch")
    x = lm.generate(n=2, seq_len=30, return_ids=True)
    again = lm.refine(x, seed=1)
    assert again.shape == x.shape and again.dtype == np.int32 and (again != x).any()
    assert (lm.refine(torch.from_numpy(x).long(), seed=1) == again).all()
    assert isinstance(lm.refine(list(x), seed=1), list)
    assert (lm.refine(x) != lm.refine(x)).any()


# ---- loading and saving ----------------------------------------------------------------------------------------


def test_devices(small_model):
    torch = pytest.importorskip("torch")
    for device in (None, "cpu", torch.device("cpu"), "cpu:0"):
        DiffusionLM.from_pretrained(small_model, device=device)
    for device in ("cuda", torch.device("cuda:1"), "mps"):
        with pytest.raises(errors.Unsupported, match="CPU"):
            DiffusionLM.from_pretrained(small_model, device=device)


def test_tokenizers(lm, small_model, tmp_path):
    """A path, a Tokenizer, one of the Hugging Face libraries: for a file that has none beside it."""
    path = tmp_path / "final.pt"
    lm.model.save(path)
    text = lm.generate(n=1, seq_len=20, seed=1)
    folder = pathlib.Path(small_model) / "tokenizer"
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    kinds = [
        folder,
        str(folder / "tokenizer.json"),
        Tokenizer.load(folder),
        tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")),
        transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json")),
    ]
    for kind in kinds:
        other = DiffusionLM.from_pretrained(path, kind, precision="f32")
        assert other.generate(n=1, seq_len=20, seed=1) == text
        assert other.tokenizer.hash == lm.tokenizer.hash
        assert other.model.tokenizer is not None, "templates need it there"
    with pytest.raises(TypeError, match="tokenizer is a int"):
        DiffusionLM.from_pretrained(path, 3)
    with pytest.raises(errors.NotFound):
        DiffusionLM.from_pretrained(path, tmp_path / "nothing")
    bare = Model.load(path, precision="f32")
    assert bare.tokenizer is None
    beside = DiffusionLM(bare, kinds[-1])
    assert beside.generate(n=1, seq_len=20, seed=1) == text
    assert beside.refine("A cat.", seed=1) == lm.refine("A cat.", seed=1)


@pytest.mark.parametrize("name", ["folder", "final.pt", "all.safetensors"])
def test_saved_and_loaded(lm, tmp_path, name):
    path = tmp_path / name
    lm.save_pretrained(path)
    with pytest.raises(errors.AlreadyExists):
        lm.save_pretrained(path)
    lm.save_pretrained(path, overwrite=True)
    again = DiffusionLM.from_pretrained(path, tokenizer=None if name == "folder" else lm.tokenizer, precision="f32")
    assert again.generate(n=2, seq_len=20, seed=1) == lm.generate(n=2, seq_len=20, seed=1)
    assert again.model.config == lm.model.config


def test_a_tokenizer_of_its_own_is_saved_beside(lm, golden, tmp_path):
    model = Model.random(diffusionlm.Config(512, 16, 8, 1, 2))
    DiffusionLM(model, lm.tokenizer).save_pretrained(tmp_path / "made")
    assert DiffusionLM.from_pretrained(tmp_path / "made").tokenizer.hash == lm.tokenizer.hash
    with pytest.raises(errors.MismatchError, match="1024 tokens, and the model 512"):
        DiffusionLM(model, golden / "tokenizer" / "stories_1024")

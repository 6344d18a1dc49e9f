"""Templates and filling in, beside the command."""

import numpy as np
import pytest

from diffusionlm import Blank, Config, Model, Template, errors


def test_blanks(model):
    template = Template.parse(model, "Once [MASK:3] cat [MASK:2-5] the[MASK]")
    assert template.blanks == [Blank(3, 3, True), Blank(2, 5, True), Blank(1, 1, False)]
    assert Template.around(model, "Once upon a time").blanks == [Blank(1, None, False)]
    assert Template.around(model, suffix=" The end.").blanks[0].most is None


def test_layout(model):
    template = Template.parse(model, "Once [MASK:3] cat [MASK:2-5] home.")
    ids, fixed = template.layout([3, 4])
    assert ids.dtype == np.int32 and fixed.dtype == bool and ids.shape == fixed.shape
    assert ((ids == model.mask_id) == ~fixed).all() and (~fixed).sum() == 7
    tokenizer = model.tokenizer
    assert tokenizer.decode(ids[fixed]) == " Once cat home."
    assert ids[-1] == tokenizer.end_id, "the end of a whole text is fixed"
    whole, _ = Template.parse(model, "A [MASK] cat").layout()
    assert (whole == model.mask_id).sum() == 1
    with pytest.raises(errors.ArgumentError, match="lengths have to be given"):
        template.layout()
    with pytest.raises(errors.ArgumentError, match="1 lengths are given, and there are 2 blanks"):
        template.layout([3])


@pytest.mark.parametrize("wrapped", [False, True])
def test_sampled_by_hand_it_is_what_fill_gives(model, wrapped):
    """layout and allow are what dlm_fill does itself; also when the allow is called by one in Python."""
    template = Template.parse(model, "Once upon [MASK:6] there was [MASK:3] cat.")
    ids, fixed = template.layout()
    allow = template.allow()
    if wrapped:

        def allow(sequence, position, so_far, allowed, inner=allow):
            inner(sequence, position, so_far, allowed)
            assert not allowed.all()

    found = model.sample(ids, fixed=fixed, allow=allow, seed=5)
    [filled] = model.fill(template, seed=5, details=True)
    assert (found == filled.ids).all()
    assert model.sample_text(found) == filled.text
    assert filled.text.startswith("Once upon ") and " there was " in filled.text and filled.text.endswith(" cat.")


@pytest.mark.parametrize(
    "given, options",
    [
        (dict(template="Once upon [MASK:2-20] cat."), ["--template", "Once upon [MASK:2-20] cat."]),
        (dict(prompt="Once upon", tries=3, length=30), ["--prompt", "Once upon", "--tries", 3, "--length", 30]),
        (dict(suffix=" happy.", top_k=30, length=40), ["--suffix", " happy.", "--top-k", 30, "--length", 40]),
        (dict(order="random"), ["--order", "random"]),
        (dict(prompt="A", length=150, context=20), ["--prompt", "A", "--length", 150, "--context", 20]),
    ],
    ids=str,
)
def test_as_the_command(model, small_model, generated, given, options):
    wanted = generated(small_model, "-n", 3, "--seed", 21, "--precision", "f32", *options)
    found = model.fill(n=3, seed=21, details=True, **given)
    assert [one.ids.tolist() for one in found] == [one["ids"] for one in wanted]
    assert [one.text for one in found] == [one["text"] for one in wanted] == model.fill(n=3, seed=21, **given)
    for one, want in zip(found, wanted):
        if one.nats_per_token is None:
            assert "nelbo_per_token" not in want
        else:
            assert one.nats_per_token == pytest.approx(want["nelbo_per_token"])
    assert (found[0].nats_per_token is not None) == ("tries" in given or "2-20" in str(given))
    [last] = model.fill(n=1, first=2, seed=21, details=True, **given)
    assert last.text == found[2].text


def test_more_texts_than_are_sampled_at_once(model):
    together = model.fill(n=7, length=10, seed=1, at_once=7)
    assert model.fill(n=7, length=10, seed=1, at_once=2) == together
    sizes = []
    model.fill(n=200, length=64, steps=1, on_step=lambda step: sizes.append(step.n))
    assert max(sizes) == 64, "4,096 tokens"
    assert model.fill(n=0) == []


def test_the_callbacks_see_candidates(model):
    seen, lengths = set(), set()

    def look(step):
        seen.add((step.first, step.n, step.tries))

    def allow(sequence, position, ids, allowed):
        lengths.add(len(ids))
        allowed[400:] = False

    [one] = model.fill("A [MASK:2-4] cat", tries=3, on_step=look, allow=allow, banned=[50], details=True)
    assert seen == {(0, 3, 3)} and len(lengths) == 3 and len(one.ids) in lengths
    assert 0 <= one.candidate < 3


def test_what_is_refused(model):
    for template, said in (
        ("A [MASK:3 cat", "malformed|\\[MASK"),
        ("no mask", "no .MASK."),
        ("A [MASK] <|endoftext|>", "endoftext"),
        ("", "empty"),
        ("A [MASK:70] cat", "64"),
    ):
        with pytest.raises(errors.ArgumentError, match=said):
            model.fill(template)
    with pytest.raises(errors.ArgumentError, match="prompt is empty"):
        model.fill(prompt="")
    with pytest.raises(errors.ArgumentError, match="what the prompt says belongs in it"):
        model.fill("A [MASK] cat", prompt="Once")
    with pytest.raises(errors.ArgumentError, match="length"):
        model.fill("A [MASK] cat", length=20)
    with pytest.raises(TypeError, match="'pattern'"):
        model.fill(pattern="A [MASK]")
    with pytest.raises(errors.Cancelled):
        model.fill("A [MASK] cat", on_step=lambda step: True)
    with pytest.raises(errors.Cancelled):
        model.fill("A [MASK:2-5] cat", progress=lambda *_: True)
    other = Model.random(Config(512, 64, 8, 1, 2))
    with pytest.raises(errors.ArgumentError, match="another model"):
        other.fill(Template.parse(model, "A [MASK] cat"), details=True)
    with pytest.raises(errors.ArgumentError, match="no tokenizer"):
        other.fill(length=5)
    assert other.fill(length=5, details=True)[0].text is None

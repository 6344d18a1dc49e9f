"""score against the reference model: a walk through PyTorch's logits, written from the definition."""

import json
import math
import sys

import pytest
from safetensors.torch import load_file
from tokenizers import Tokenizer

TINY = ("--preset", "tiny", "--hidden", 32, "--depth", 2, "--heads", 2, "--seq-len", 32, "--batch", 8)
TEXT = "A cat saw a dog. It ran to the cat, and the dog sat. Then 12 dogs ran to 7 cats, and it saw what the cat saw."


@pytest.fixture(scope="module")
def trained(run, tmp_path_factory):
    """A run that has learnt a little, in float32."""
    folder = tmp_path_factory.mktemp("score")
    (folder / "text").write_text(
        "\n<|endoftext|>\n".join(f"A cat saw {i} dogs. It ran to dog {i * 7 % 31}, and the cat sat." for i in range(200))
    )
    run("train", folder / "text", "-o", folder / "run", *TINY, "--vocab-size", 300, "--steps", 120, "--eval-every", 0,
        "--sample-every", 0, "--seed", 3)  # fmt: skip
    return folder / "run"


def reference_model(run, trained, shared):
    pytest.importorskip("torch")
    sys.path.insert(0, str(shared / "reference"))
    reference = pytest.importorskip("torch_dit")
    config = json.loads(run("info", trained, "--json").stdout)
    names = ("vocab_size", "max_seq_len", "hidden_size", "depth", "num_heads", "mlp_ratio", "time", "position")
    model = reference.DiT(reference.Config(*(config[name] for name in names))).eval()
    model.load_state_dict(load_file(config["source"]))
    return reference, model


def certainty(p, name):
    """How sure each row of probabilities is."""
    if name in ("confidence", "threshold"):
        return p.max(-1).values
    if name == "margin":
        best = p.topk(2, dim=-1).values
        return best[:, 0] - best[:, 1]
    return (p * p.clamp_min(1e-300).log()).sum(-1)  # minus the entropy


def walk(torch, model, ids, name, temperature, reveals=1, threshold=None, bound=None):
    """Log-likelihood and passes: all masked at first, in each step the tokens of the surest positions."""
    n = len(ids)
    state, masked = torch.full((n,), 2), torch.ones(n, dtype=torch.bool)
    total, passes = 0.0, 0
    while masked.any():
        t = torch.tensor([2 / math.pi * math.acos(1 - masked.double().mean().item())], dtype=torch.float32)
        with torch.no_grad():
            logits = model(state[None], t)[0].double() / temperature
        logits[:, :3] = -math.inf
        p = logits.softmax(-1)
        sure = -torch.arange(n).double() if name == "left_to_right" else certainty(p, name)
        order = [i for i in sure.argsort(descending=True, stable=True).tolist() if masked[i]]
        count = reveals
        if threshold is not None:
            count = sum(sure[i].item() >= threshold for i in order)
        if bound is not None:
            spent = (-sure[order]).cumsum(0)
            count = int((spent <= bound).sum())
        if passes + 1 == n:
            count = n
        for i in order[: max(count, 1)]:
            total += p[i, ids[i]].log().item()
            state[i] = ids[i]
            masked[i] = False
        passes += 1
    return total, passes


@pytest.mark.parametrize("temperature", [1, 0.7])
def test_likelihoods_are_the_reference_models(run, trained, shared, temperature):
    torch = pytest.importorskip("torch")
    _, model = reference_model(run, trained, shared)
    tokenizer = Tokenizer.from_file(str(trained / "tokenizer" / "tokenizer.json"))
    ids = [*tokenizer.encode(TEXT).ids, 3]
    windows = [torch.tensor(ids[i : i + 32]) for i in range(0, len(ids), 32)]
    assert len(windows) > 1
    options = ("score", "-m", trained, "--json", "--precision", "f32", "--temperature", temperature)

    def check(names, arguments, **how):
        got = json.loads(run(*options, *arguments, input=TEXT.encode()).stdout)
        assert got["tokens"] == len(ids) and got["bytes"] == len(TEXT.encode()) and set(got["orders"]) == set(names)
        for name in names:
            walks = [walk(torch, model, window, name, temperature, **how) for window in windows]
            assert math.isclose(got["orders"][name], sum(w[0] for w in walks), abs_tol=2e-3), (name, how)
        return sum(w[1] for w in walks)

    orders = ["confidence", "margin", "entropy", "left_to_right"]
    check(orders, ())
    check(orders, ("--reveals", 3), reveals=3)
    thresholded = ("--orders", "none", "--confidence-threshold", 0.4)
    passes = check(["threshold"], thresholded, threshold=0.4)
    assert len(windows) < passes < len(ids)
    row = json.loads(run(*options, "--table", *thresholded, input=TEXT.encode()).stdout)["rows"][0]
    assert row["forwards_per_text"] == passes
    check(["entropy_bound"], ("--orders", "none", "--entropy-bound", 2.5), bound=2.5)


def test_bound_is_the_reference_models(run, trained, shared):
    """--exact, of a text short enough, and the draws within their error."""
    torch = pytest.importorskip("torch")
    reference, model = reference_model(run, trained, shared)
    tokenizer = Tokenizer.from_file(str(trained / "tokenizer" / "tokenizer.json"))
    ids = torch.tensor([*tokenizer.encode("A cat.").ids, 3])
    assert 3 < len(ids) < 12
    want = float(reference.nelbo_exact(model, ids, 2, "cosine"))
    options = ("score", "-m", trained, "--json", "--precision", "f32", "--orders", "none")
    got = json.loads(run(*options, "--exact", input=b"A cat.").stdout)
    assert math.isclose(got["nelbo_nats"], want, abs_tol=1e-3) and got["standard_error"] == 0
    drawn = json.loads(run(*options, "--draws", 400, input=b"A cat.").stdout)
    assert abs(drawn["nelbo_nats"] - want) < 5 * drawn["standard_error"]


def test_table_follows_from_the_lines(run, trained):
    """Ratios of sums over texts, and their standard errors, as computed here from what is told of each text."""
    texts = [f"A cat saw {i} dogs." + " It ran to the dog." * (i % 4) for i in range(7)]
    options = ("score", "-m", trained, "--json", "--precision", "f32", "--format", "lines", "--reveals", 2)
    lines = [json.loads(line) for line in run(*options, input="\n".join(texts).encode()).stdout.splitlines()]
    table = json.loads(run(*options, "--table", input="\n".join(texts).encode()).stdout)
    assert [line["text"] for line in lines] == texts and table["texts"] == len(texts)
    tokens, bytes_ = [line["tokens"] for line in lines], sum(len(text) for text in texts)
    assert (table["tokens"], table["bytes"]) == (sum(tokens), bytes_)

    def ratio(nats):
        mean = sum(nats) / sum(tokens)
        squares = sum((x - mean * m) ** 2 for x, m in zip(nats, tokens, strict=True))
        return mean, math.sqrt(squares * len(nats) / (len(nats) - 1)) / sum(tokens)

    def check(row, nats, first):
        got = [row["nats_per_token"], row["standard_error"], row["more_nats_per_token"], row["standard_error_of_more"],
               row["bits_per_byte"], row["perplexity"]]  # fmt: skip
        mean, error = ratio(nats)
        want = [mean, error, *ratio([a - b for a, b in zip(nats, first, strict=True)]),
                sum(nats) / math.log(2) / bytes_, math.exp(mean)]  # fmt: skip
        assert got == pytest.approx(want, rel=1e-6, abs=1e-9)

    first = [-line["orders"]["confidence"] for line in lines]
    assert [row["order"] for row in table["rows"]] == list(lines[0]["orders"])
    for row in table["rows"]:
        check(row, [-line["orders"][row["order"]] for line in lines], first)
        assert row["forwards_per_text"] == sum(math.ceil(n / 2) for n in tokens) / len(texts)
    check(table["nelbo"], [line["nelbo_nats"] for line in lines], first)
    masks = math.sqrt(sum(line["standard_error"] ** 2 for line in lines)) / sum(tokens)
    assert table["nelbo"]["standard_error_masks"] == pytest.approx(masks)

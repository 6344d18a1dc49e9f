"""TensorBoard's own reader on the event files of a run: the values of log.csv, the samples, and a resumed run."""

import csv

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

COLUMNS = {
    "train/loss": "loss",
    "train/lr": "lr",
    "train/grad_norm": "grad_norm",
    "train/tokens_per_s": "tokens_per_s",
    "eval/ce": "eval_ce",
    "eval/ppl": "eval_ppl",
    "eval/nelbo": "eval_nelbo",
}
TINY = "--hidden 16 --depth 1 --heads 2 --seq-len 32 --batch 4 --threads 1".split()


@pytest.fixture(scope="module")
def data(run, golden, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tensorboard")
    text = "\n<|endoftext|>\n".join(f"The cat number {i} saw a dog and {i * 7} birds." for i in range(200))
    (folder / "text.txt").write_text(text)
    run("prepare", folder / "text.txt", "-t", golden / "tokenizer/stories_1024", "-o", folder / "data")
    return folder / "data"


def check_events(folder):
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    with open(folder / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows
    assert set(events.Tags()["scalars"]) == set(COLUMNS)
    for tag, column in COLUMNS.items():
        want = {int(row["step"]): float(row[column]) for row in rows if row[column]}
        got = {event.step: event.value for event in events.Scalars(tag)}
        assert got.keys() == want.keys(), tag
        assert len(events.Scalars(tag)) == len(want), tag
        for step, value in want.items():
            assert got[step] == pytest.approx(value, rel=2e-5, abs=0.06 if column == "tokens_per_s" else 1e-6)
    return events, rows


def check_samples(events, folder, steps):
    texts = {event.step: event.tensor_proto.string_val[0].decode() for event in events.Tensors("samples")}
    assert sorted(texts) == steps
    written = (folder / "samples.txt").read_text()
    assert written == "".join(f"---- step {step}\n{texts[step]}\n\n" for step in steps)
    metadata = events.SummaryMetadata("samples")
    assert metadata.plugin_data.plugin_name == "text"


def test_values_and_texts(run, data, tmp_path):
    folder = tmp_path / "run"
    run("train", "-d", data, "-o", folder, *TINY, "--steps", 12, "--log-every", 2, "--eval-every", 5,
        "--sample-every", 6, "--save-every", 4)
    events, rows = check_events(folder)
    assert [int(row["step"]) for row in rows] == [2, 4, 5, 6, 8, 10, 12]
    check_samples(events, folder, [6, 12])


def test_steps_done_twice_show_once(run, data, tmp_path):
    """A run that lost the steps behind its checkpoint: TensorBoard shows the later ones."""
    folder = tmp_path / "run"
    options = [*TINY, "--log-every", 1, "--eval-every", 4, "--sample-every", 4]
    run("train", "-d", data, "-o", folder, *options, "--steps", 8, "--save-every", 4, "--keep", 0)
    (folder / "latest").write_text("step-00000004\n")
    run("train", "-o", folder, "--resume", "--steps", 12)
    assert len(list(folder.glob("events.out.tfevents.*"))) == 2
    events, rows = check_events(folder)
    assert [int(row["step"]) for row in rows] == list(range(1, 13))
    check_samples(events, folder, [4, 8, 12])

"""The stories of a text file, as lists of strings, without PyTorch."""

from pathlib import Path


def read(path: Path) -> list[str]:
    return [story.strip() for story in path.read_text().split("<|endoftext|>") if story.strip()]

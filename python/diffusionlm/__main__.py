"""`python -m diffusionlm`: the command, as it was built with this package."""

import os
import pathlib
import sys


def main() -> None:
    """Becomes the command; its arguments are this process'."""
    command = pathlib.Path(__file__).with_name("command")
    os.execv(command, ["diffusionlm", *sys.argv[1:]])


if __name__ == "__main__":
    main()

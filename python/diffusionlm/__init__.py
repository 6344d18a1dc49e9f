"""Masked (absorbing-state) diffusion language models on the CPU: the C library diffusionlm with numpy arrays."""

from . import errors
from ._library import backend, instruction_set, set_threads, version
from .data import Data, DataInfo, prepare
from .documents import Documents
from .model import Config, Model, Parameters, convert
from .tokenizer import Tokenizer

__version__ = version()

__all__ = [
    "backend",
    "Config",
    "convert",
    "Data",
    "DataInfo",
    "Documents",
    "errors",
    "instruction_set",
    "Model",
    "Parameters",
    "prepare",
    "set_threads",
    "Tokenizer",
    "version",
]

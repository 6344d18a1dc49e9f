"""Masked (absorbing-state) diffusion language models on the CPU: the C library diffusionlm with numpy arrays."""

from . import errors
from ._library import backend, instruction_set, set_threads, version
from .data import Data, DataInfo, prepare
from .documents import Documents
from .lm import DiffusionLM
from .model import Config, Model, Parameters, convert
from .sampling import FillOptions, RefineOptions, Sampled, SampleOptions, Step
from .stream import StreamStep
from .templates import Blank, Filled, Template
from .tokenizer import Tokenizer

__version__ = version()

__all__ = [
    "backend",
    "Blank",
    "Config",
    "convert",
    "Data",
    "DataInfo",
    "DiffusionLM",
    "Documents",
    "errors",
    "Filled",
    "FillOptions",
    "instruction_set",
    "Model",
    "Parameters",
    "prepare",
    "RefineOptions",
    "Sampled",
    "SampleOptions",
    "set_threads",
    "Step",
    "StreamStep",
    "Template",
    "Tokenizer",
    "version",
]

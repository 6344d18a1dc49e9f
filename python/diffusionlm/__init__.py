"""Masked (absorbing-state) diffusion language models on the CPU: the C library diffusionlm with numpy arrays."""

from . import errors, statistics
from ._library import backend, instruction_set, set_threads, version
from .data import Data, DataInfo, prepare
from .documents import Documents
from .hub import Downloaded, download
from .likelihood import Bound, CurvePoint, Evaluation, Nelbo, Pair, Score, evaluate_pair
from .lm import DiffusionLM
from .model import Config, Model, Parameters, convert
from .ranks import Ranks
from .sampling import FillOptions, RefineOptions, Sampled, SampleOptions, Step
from .speed import Speed
from .stream import StreamStep
from .templates import Blank, Filled, Template
from .tokenizer import Tokenizer
from .training import Report, Trainer, TrainOptions, train, train_check

__version__ = version()

__all__ = [
    "backend",
    "Blank",
    "Bound",
    "Config",
    "convert",
    "CurvePoint",
    "Data",
    "DataInfo",
    "DiffusionLM",
    "Documents",
    "download",
    "Downloaded",
    "errors",
    "evaluate_pair",
    "Evaluation",
    "Filled",
    "FillOptions",
    "instruction_set",
    "Model",
    "Nelbo",
    "Pair",
    "Parameters",
    "prepare",
    "Ranks",
    "RefineOptions",
    "Report",
    "Sampled",
    "SampleOptions",
    "Score",
    "set_threads",
    "Speed",
    "statistics",
    "Step",
    "StreamStep",
    "Template",
    "Tokenizer",
    "train",
    "train_check",
    "Trainer",
    "TrainOptions",
    "version",
]

"""Parameters, FLOPs and memory of models, by part and by convention, and hardware peaks.

    shapes.py       sizes of a model's stacks and matrices, which all counts are made from
    params.py       parameters by part
    flops.py        training FLOPs, counted from the matrix products
    conventions.py  training FLOPs by the conventions of the literature
    memory.py       memory of a training step
    runs.py, run_memory.py
                    FLOPs and memory of a run, with the generator or teacher of its objective
    hardware.py     accelerators: peak FLOP/s and memory
"""

from scaling.accounting.conventions import flops_by_convention
from scaling.accounting.flops import (
    flops_6nd,
    forward_flops_per_sequence,
    forward_flops_per_token,
    training_flops_per_token,
)
from scaling.accounting.memory import training_memory
from scaling.accounting.params import ParameterCounts, count_parameters
from scaling.accounting.runs import run_flops_per_sequence, run_flops_per_token
from scaling.accounting.trained import trained_parameters

__all__ = [
    "ParameterCounts",
    "count_parameters",
    "flops_6nd",
    "flops_by_convention",
    "forward_flops_per_sequence",
    "forward_flops_per_token",
    "run_flops_per_sequence",
    "run_flops_per_token",
    "trained_parameters",
    "training_flops_per_token",
    "training_memory",
]

"""Parameters and FLOPs, by part and by convention, and the peaks of hardware."""

from scaling.accounting.flops import flops_6nd, training_flops_per_token
from scaling.accounting.params import Parameters, count_parameters

__all__ = ["Parameters", "count_parameters", "flops_6nd", "training_flops_per_token"]

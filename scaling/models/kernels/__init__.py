"""Kernels: interchangeable implementations of attention and of the cross-entropy of a vocabulary.

    attention.py      ATTENTION: plain, blocked
    cross_entropy.py  CROSS_ENTROPY: plain, blocked

A kernel is chosen by its name (`execution.attention`, `execution.cross_entropy`), and computes the
same values and gradients as the plain one, up to rounding. To add one, write a function with the
signature that is documented at the head of its file, enter it in the table there, and enter its
name and its traits (what it cannot compute, and how much it stores) in scaling/config/kernels.py.
"""

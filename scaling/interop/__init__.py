"""Weights from and to the formats of other libraries, with the same logits on both sides.

`from_hf` and `to_hf` (hf.py) are tables (family.py, families/) under one engine (convert.py).
"""

from scaling.interop.hf import from_hf, save_hf, to_hf

__all__ = ["from_hf", "save_hf", "to_hf"]

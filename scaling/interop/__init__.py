"""Conversion of weights from and to the formats of other libraries, with equal logits.

`from_hf` and `to_hf` (hf.py) convert models of Hugging Face's `transformers`. Each class there is
described by tables (architecture.py, families/), which one engine (convert.py) applies in both
directions. Files are read by tensor_file.py and gguf_file.py, which check every count in a file and
run no code from it.
"""

from scaling.interop.hf import from_hf, save_hf, to_hf

__all__ = ["from_hf", "save_hf", "to_hf"]

"""Conversion of weights from and to the formats of other libraries, with equal logits.

`from_hf` and `to_hf` (hf.py) convert models of Hugging Face's `transformers`. Each class there is
described by tables (architecture.py, families/), which one engine (convert.py) applies in both
directions. Files are read by tensor_file.py and gguf_file.py, which check every count in a file and
run no code from it. describe.py tells what model is in a folder, without JAX.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scaling.interop.hf import from_hf, save_hf, to_hf

__all__ = ["from_hf", "save_hf", "to_hf"]


def __getattr__(name: str) -> Any:
    """The functions of hf.py, which import JAX, when they are first used: planning reads only
    describe.py."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from scaling.interop import hf

    return getattr(hf, name)

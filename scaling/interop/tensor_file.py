"""Reader of safetensors files, which have a JSON header with the position of each tensor.

The format is described in github.com/huggingface/safetensors (README, "Format"). It is read here
with numpy, so that float8 types are supported, and so that every claim of a header is checked
against the size of the file before memory is allocated for it.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeGuard

import ml_dtypes
import numpy as np

from scaling.errors import UserError
from scaling.files import blame, open_regular, parse_json
from scaling.interop.layouts import NumpyArray

LARGEST_HEADER = 100_000_000
"""Largest header in bytes, as in the format's own library."""

_METADATA = "__metadata__"
_MOST_AXES = 16

TYPES: dict[str, Any] = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16,
    "F8_E5M2": ml_dtypes.float8_e5m2, "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2FNUZ": ml_dtypes.float8_e5m2fnuz, "F8_E4M3FNUZ": ml_dtypes.float8_e4m3fnuz,
    "F8_E8M0": ml_dtypes.float8_e8m0fnu, "BOOL": np.bool_, "I64": np.int64, "I32": np.int32,
    "I16": np.int16, "I8": np.int8, "U64": np.uint64, "U32": np.uint32, "U16": np.uint16,
    "U8": np.uint8,
}
"""Types of the format with a whole number of bytes, except the complex one."""


class _Entry(NamedTuple):
    """The type, shape and position of a tensor."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    start: int
    """Offset in bytes from the end of the header."""
    stop: int


def read_tensors(path: Path) -> dict[str, NumpyArray]:
    """The tensors of a file by name: floating-point tensors as float32, others unchanged.

    Raises:
        UserError: it is not a complete safetensors file, or has an unsupported type.
        OSError: it cannot be read; the error names it.
    """
    tensors = {}
    with open_regular(path) as file, blame(path):
        header, data = _header(path, file)
        for entry in _entries(path, header, data):
            content = np.fromfile(file, np.uint8, entry.stop - entry.start)
            if len(content) != entry.stop - entry.start:
                raise _damaged(path, "it ends too early")
            tensors[entry.name] = as_float32(content.view(entry.dtype).reshape(entry.shape))
    return tensors


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata in the header of a file.

    Raises:
        UserError: it is not a safetensors file.
        OSError: it cannot be read; the error names it.
    """
    with open_regular(path) as file, blame(path):
        metadata = _header(path, file)[0].get(_METADATA)
    return {name: value for name, value in metadata.items() if isinstance(value, str)} if (
        isinstance(metadata, dict)) else {}


def as_float32(tensor: Any) -> Any:
    """A floating-point tensor as float32; integers and booleans unchanged."""
    if tensor.dtype.kind in "iub":
        return tensor
    return tensor.astype(np.float32, copy=False)


def _header(path: Path, file: BinaryIO) -> tuple[dict[str, Any], int]:
    """The header, and the number of bytes after it. The file is left at the end of the header."""
    size = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or not 2 <= length <= min(size - 8, LARGEST_HEADER):
        raise _damaged(path, f"its header would have {length:,} bytes")
    try:
        header = parse_json(file.read(length), str(path))
    except UserError:
        header = None
    if not isinstance(header, dict):
        raise _damaged(path, "its header is not a JSON object")
    return header, size - 8 - length


def _entries(path: Path, header: dict[str, Any], data: int) -> list[_Entry]:
    """The tensors in order of their positions, which must fill the file without gaps."""
    entries = sorted((_entry(path, name, info) for name, info in header.items()
                      if name != _METADATA), key=lambda entry: (entry.start, entry.stop))
    end = 0
    for entry in entries:
        if entry.start != end:
            raise _damaged(path, f"{entry.name:.100} begins at byte {entry.start:,}, where the one "
                                 f"before it ends at {end:,}")
        end = entry.stop
    if end != data:
        raise _damaged(path, f"its tensors have {end:,} bytes, and the file has {data:,}")
    return entries


def _entry(path: Path, name: str, info: Any) -> _Entry:
    if not isinstance(info, dict):
        raise _damaged(path, f"{name:.100} has no description")
    kind, shape, ends = info.get("dtype"), info.get("shape"), info.get("data_offsets")
    if not isinstance(kind, str) or kind not in TYPES:
        raise UserError(f"{path}: {name:.100} is of type {kind!r:.40}, which is not supported; "
                        f"convert the model to one of {', '.join(TYPES)}")
    if not _are_sizes(shape) or len(shape) > _MOST_AXES or not _are_sizes(ends) or len(ends) != 2:
        raise _damaged(path, f"{name:.100} has no valid shape or position")
    dtype = np.dtype(TYPES[kind]).newbyteorder("<")
    if ends[1] - ends[0] != math.prod(shape) * dtype.itemsize:
        raise _damaged(path, f"{name:.100} has {ends[1] - ends[0]:,} bytes, which do not match its "
                             "shape")
    if math.prod(max(size, 1) for size in shape) >= 2**48:  # also if an axis is empty
        raise _damaged(path, f"{name:.100} is larger than any memory")
    return _Entry(name, dtype, tuple(shape), *ends)


def _are_sizes(numbers: Any) -> TypeGuard[list[int]]:
    return isinstance(numbers, list) and all(
        type(number) is int and 0 <= number < 2**63 for number in numbers)


def _damaged(path: Path, problem: str) -> UserError:
    return UserError(f"{path}: not a complete safetensors file ({problem}); copy it again")

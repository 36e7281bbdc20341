"""Reader of GGUF files, which have typed metadata fields and then tensors that may be quantised.

The format is described in github.com/ggml-org/ggml, docs/gguf.md. Its library `gguf` dequantises
each type. The file itself is read here, since the library does not check the counts in it: a count
of 2**60 makes it run until memory is full.
"""

from __future__ import annotations

import math
import os
import struct
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from scaling.errors import UserError
from scaling.files import blame, open_regular

MISSING_LIBRARIES = ("reading GGUF needs the gguf and tokenizers libraries; pip install "
                     "'scaling[interop]'")
"""Error message if a library is missing."""

LARGEST_HEADER = 64 * 2**20
"""Largest number of bytes before the tensors; a vocabulary of 256,000 tokens takes about 10 MB."""

_MAGIC, _VERSIONS = b"GGUF", (2, 3)
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q",
            12: "d"}
_STRING, _ARRAY = 8, 9
_ALIGNMENT, _ALIGNMENTS = 32, [2**power for power in range(21)]
_MOST_AXES, _MOST_NESTED = 4, 4


class _TensorInfo(NamedTuple):
    """The description of a tensor in a file."""

    name: str
    shape: tuple[int, ...]
    """Shape in numpy's order: the contiguous axis is last."""
    kind: Any
    """The library's GGMLQuantizationType."""
    start: int
    """Offset in bytes from the beginning of the file."""
    size: int
    """Size in bytes."""


def read_gguf(path: Path) -> tuple[dict[str, Any], dict[str, NDArray[np.float32]]]:
    """The metadata fields of a file, and its dequantised tensors.

    Raises:
        UserError: the library is missing, or the file is damaged or inconsistent.
        OSError: it cannot be read; the error names it.
    """
    try:
        from gguf import quants
    except ImportError:
        raise UserError(MISSING_LIBRARIES) from None
    tensors = {}
    with open_regular(path) as file, blame(path):
        size = os.fstat(file.fileno()).st_size
        reader = _HeaderReader(path, file.read(min(size, LARGEST_HEADER)))
        fields, infos = reader.read(size)
        for tensor in infos:
            try:
                tensors[tensor.name] = _values(path, file, tensor, quants)
            except NotImplementedError:
                raise UserError(f"{path}: {tensor.name:.100} is quantised as {tensor.kind.name}, "
                                "which is not supported; convert the model to another type"
                                ) from None
    return fields, tensors


def _values(path: Path, file: BinaryIO, tensor: _TensorInfo, quants: Any) -> NDArray[np.float32]:
    file.seek(tensor.start)
    content = np.fromfile(file, np.uint8, tensor.size)
    if len(content) != tensor.size:
        raise _damaged(path, "it ends too early")
    rows = content.reshape(*tensor.shape[:-1], -1) if tensor.size else content
    with np.errstate(all="ignore"):  # scales may not be finite
        values = np.asarray(quants.dequantize(rows, tensor.kind), np.float32)
    return values.reshape(tensor.shape)


class _HeaderReader:
    """Reads the header of a file field by field, and never past its end."""

    def __init__(self, path: Path, content: bytes) -> None:
        self._path, self._content, self._offset = path, content, 0

    def read(self, size: int) -> tuple[dict[str, Any], list[_TensorInfo]]:
        """The metadata fields and the tensor descriptions of a file of the given size."""
        if self._read_bytes(4) != _MAGIC:
            raise _damaged(self._path, "it does not begin with GGUF")
        version = self._number("I")
        if version not in _VERSIONS:
            raise _damaged(self._path, f"its version is {version:,}, or its byte order is that of "
                                       "another machine")
        n_tensors, n_fields = self._count(24), self._count(13)
        fields: dict[str, Any] = {}
        for _ in range(n_fields):
            name = self._text()
            if name in fields:
                raise _damaged(self._path, f"it has {name:.100} twice")
            fields[name] = self._value(self._number("I"))
        infos = [self._tensor() for _ in range(n_tensors)]
        return fields, self._placed(infos, self._alignment(fields), size)

    def _alignment(self, fields: dict[str, Any]) -> int:
        alignment = fields.get("general.alignment", _ALIGNMENT)
        if not isinstance(alignment, int) or alignment not in _ALIGNMENTS:
            raise _damaged(self._path, f"its general.alignment is {alignment!r:.40}")
        return alignment

    def _placed(self, infos: list[_TensorInfo], alignment: int, size: int) -> list[_TensorInfo]:
        """The tensors with their offsets in the file, which must not overlap."""
        begin = -(-self._offset // alignment) * alignment
        placed = [tensor._replace(start=begin + tensor.start) for tensor in infos]
        end = begin
        for tensor in sorted(placed, key=lambda tensor: tensor.start):
            if tensor.start % alignment or tensor.start < end or tensor.start + tensor.size > size:
                raise _damaged(self._path, f"{tensor.name:.100} would be at byte "
                                           f"{tensor.start:,}, where it does not fit")
            end = tensor.start + tensor.size
        if len({tensor.name for tensor in placed}) < len(placed):
            raise _damaged(self._path, "it has two tensors with one name")
        return placed

    def _tensor(self) -> _TensorInfo:
        """A tensor description, whose offset is relative to the first tensor."""
        from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

        name, axes = self._text(), self._number("I")
        if axes > _MOST_AXES:
            raise _damaged(self._path, f"{name:.100} has {axes:,} axes")
        shape = tuple(self._number("Q") for _ in range(axes))[::-1]
        number, start = self._number("I"), self._number("Q")
        try:
            kind = GGMLQuantizationType(number)
            block, size = GGML_QUANT_SIZES[kind]
        except (ValueError, KeyError):
            raise UserError(f"{self._path}: {name:.100} is of type {number:,}, which the installed "
                            "gguf library does not support; update it, or convert the model to "
                            "another type") from None
        numbers = math.prod(shape)
        if numbers >= 2**48 or 0 in shape or (shape and shape[-1] % block) or (
                not shape and block > 1):
            raise _damaged(self._path, f"{name:.100} has the shape {list(shape)} as {kind.name}")
        return _TensorInfo(name, shape, kind, start, numbers // block * size)

    def _value(self, kind: int, depth: int = 0) -> Any:
        if kind in _SCALARS:
            return self._number(_SCALARS[kind])
        if kind == _STRING:
            return self._text()
        if kind != _ARRAY or depth == _MOST_NESTED:
            raise _damaged(self._path, f"it has a field of type {kind:,}")
        kind = self._number("I")
        if kind in _SCALARS:
            letter = _SCALARS[kind]
            count = self._count(struct.calcsize(f"<{letter}"))
            return list(struct.unpack(f"<{count}{letter}",
                                      self._read_bytes(count * struct.calcsize(f"<{letter}"))))
        return [self._value(kind, depth + 1) for _ in range(self._count(8))]

    def _text(self) -> str:
        content = self._read_bytes(self._count(1))
        try:
            return content.decode("utf-8")
        except UnicodeDecodeError:
            raise _damaged(self._path, "it has a string that is not UTF-8") from None

    def _count(self, min_bytes: int) -> int:
        """A number of items that follow, each of at least `min_bytes` bytes."""
        count: int = self._number("Q")
        if count * min_bytes > len(self._content) - self._offset:
            raise _damaged(self._path, f"{count:,} items should follow, and it ends before them")
        return count

    def _number(self, letter: str) -> Any:
        (number,) = struct.unpack(f"<{letter}", self._read_bytes(struct.calcsize(f"<{letter}")))
        return number

    def _read_bytes(self, size: int) -> bytes:
        content = self._content[self._offset:self._offset + size]
        if len(content) < size:
            raise _damaged(self._path, "it ends too early")
        self._offset += size
        return content


def _damaged(path: Path, problem: str) -> UserError:
    return UserError(f"{path}: not a valid GGUF file ({problem}); give a complete .gguf file of "
                     "version 2 or 3")

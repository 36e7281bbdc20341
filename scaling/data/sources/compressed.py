"""Files opened as a stream of bytes, decompressed according to their suffix.

Input is not trusted: only regular files are opened, a truncated or damaged compressed file is an
error, and decompression uses bounded memory.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast, runtime_checkable

from scaling.errors import UserError
from scaling.files import blame, open_regular

_MEMORY_BYTES = 2**29
"""Memory limit: the strongest preset of xz needs 65 MiB, and zstd without --long 8 MiB."""
_WINDOW_LOG = 27  # largest window of zstd, the default limit of its command
_BUFFER = 2**16

COMPRESSIONS = {".gz": "gzip", ".xz": "xz", ".bz2": "bzip2", ".zst": "zstd"}
"""Suffixes of compressed files, and the name of each format."""


@runtime_checkable
class _Stream(Protocol):
    """A decompressor of one stream, with the interface of `lzma` and `bz2`."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = -1, /) -> bytes: ...


def is_compressed(path: Path) -> bool:
    """Whether a file is compressed, and can therefore only be read from its start."""
    return path.suffix in COMPRESSIONS


@contextmanager
def open_decompressed(path: Path) -> Iterator[BinaryIO]:
    """Open a file for reading its decompressed bytes.

    Raises:
        UserError: It is a pipe, a device or a folder, or a compressed file that is damaged or
            truncated, or needs a library that is missing. Also raised while the body of the
            `with` statement reads.
        OSError: It cannot be read; the error has its name.
    """
    try:
        with open_regular(path) as file, blame(path):
            if path.suffix == ".gz":
                yield cast(BinaryIO, gzip.GzipFile(fileobj=file))
            elif path.suffix in COMPRESSIONS:
                make, step = _decompressor(path)
                streams = _Streams(file, make, step)
                yield cast(BinaryIO, io.BufferedReader(streams, _BUFFER))
            else:
                yield file
    except lzma.LZMAError as error:
        raise _too_large(path) if "emory" in str(error) else _damaged(path) from None
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise _damaged(path) from None
    except OSError as error:
        if error.errno is None:  # raised by bz2 for damaged data
            raise _damaged(path) from None
        raise
    except Exception as error:
        if type(error).__name__ != "ZstdError":  # of a library that may not be installed
            raise
        large = "memory" in str(error) or "indow" in str(error)
        raise _too_large(path) if large else _damaged(path) from None


def _damaged(path: Path) -> UserError:
    return UserError(f"{path}: not a complete {COMPRESSIONS[path.suffix]} file; download or "
                     "compress it again")


def _too_large(path: Path) -> UserError:
    return UserError(f"{path}: needs more than {_MEMORY_BYTES / 1e6:.0f} MB of memory to "
                     "decompress; compress it again without the long window or dictionary")


class _Streams(io.RawIOBase):
    """The decompressed content of all streams of a file, concatenated."""

    def __init__(self, file: BinaryIO, make: Callable[[], _Stream], step: int) -> None:
        self._file, self._make, self._step = file, make, step
        self._stream, self._left = make(), b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        view = memoryview(buffer)
        while True:
            if self._stream.eof and not self._next_stream():
                return 0
            data = b""
            if self._stream.needs_input and not (data := self._next_input()):
                raise EOFError
            content = self._stream.decompress(data, len(view))
            if content:
                view[:len(content)] = content
                return len(content)

    def _next_input(self) -> bytes:
        data = self._left or self._file.read(self._step)
        data, self._left = data[:self._step], data[self._step:]
        return data

    def _next_stream(self) -> bool:
        """Advance to the next stream; False if there is none. Zeros between streams are padding."""
        self._left = (self._stream.unused_data + self._left).lstrip(b"\0")
        while not self._left:
            if not (more := self._file.read(self._step)):
                return False
            self._left = more.lstrip(b"\0")
        self._stream = self._make()
        return True


def _decompressor(path: Path) -> tuple[Callable[[], _Stream], int]:
    """A constructor of a decompressor for one stream, and the bytes to feed it at a time."""
    if path.suffix == ".xz":
        return lambda: lzma.LZMADecompressor(memlimit=_MEMORY_BYTES), _BUFFER
    if path.suffix == ".bz2":
        return bz2.BZ2Decompressor, _BUFFER
    try:
        zstd = import_module("compression.zstd")  # in the standard library since Python 3.14
    except ImportError:
        return _with_zstandard(path), _Zstandard.STEP
    options = {zstd.DecompressionParameter.window_log_max: _WINDOW_LOG}
    return lambda: cast(_Stream, zstd.ZstdDecompressor(options=options)), _BUFFER


def _with_zstandard(path: Path) -> Callable[[], _Stream]:
    try:
        library = import_module("zstandard")
    except ImportError:
        raise UserError(f"{path}: reading zstd needs Python 3.14 or the zstandard library, which "
                        "is not installed; install it with: pip install 'scaling[zstd]'") from None
    return lambda: _Zstandard(library)


class _Zstandard:
    """Decompressor of one frame by the library `zstandard`, whose output has no size limit."""

    STEP = 2**11
    """Bytes to feed at a time: they expand to at most 2**26 bytes, 2**17 for every 4."""

    def __init__(self, library: Any) -> None:
        decompressor = library.ZstdDecompressor(max_window_size=2**_WINDOW_LOG)
        self._frame = decompressor.decompressobj()
        self._content = memoryview(b"")

    @property
    def needs_input(self) -> bool:
        return not self._content

    @property
    def eof(self) -> bool:
        return bool(self._frame.eof) and not self._content

    @property
    def unused_data(self) -> bytes:
        return bytes(self._frame.unused_data)

    def decompress(self, data: bytes, max_length: int = -1, /) -> bytes:
        if data:
            self._content = memoryview(self._frame.decompress(data))
        content, self._content = self._content[:max_length], self._content[max_length:]
        return bytes(content)

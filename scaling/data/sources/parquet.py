"""Parquet files: every row is a document; parts are ranges of row groups."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from scaling.data.sources.base import Decode, Part, Source, group_by_size
from scaling.data.sources.files import (
    LARGEST_TEXT,
    corpus_name,
    match_files,
    split_field,
    suggest_field,
)
from scaling.errors import UserError
from scaling.files import open_regular

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

_ROWS = 1024  # per batch, which bounds the memory


def find_parquet(source: str) -> Source:
    """`parquet:GLOB#FIELD`: a document per row, taken from one column."""
    pattern, field = split_field(source)
    files = match_files(pattern, source)
    _open(files[0], field).close()
    return Source(source, corpus_name(pattern, "parquet"), f"parquet#{field}", files,
                  partial(_rows, field), partial(_by_row_groups, field))


def _open(path: Path, field: str) -> ParquetFile:
    """Open a file and check that it has the field, and that the field is text.

    Raises:
        UserError: It has no such field, the field is not text, or the file is damaged.
    """
    try:
        import pyarrow as pa
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise UserError(f"{path}: reading Parquet needs pyarrow, which is not installed; install "
                        "it with: pip install pyarrow") from None
    open_regular(path).close()  # refuses pipes and devices
    with _damage_reported(path, "not a complete Parquet file"):
        file = ParquetFile(path)
        schema = file.schema_arrow
    if field not in schema.names:
        file.close()
        raise UserError(f"{path}: has no field {field!r}; {suggest_field(field, schema.names)}")
    kind = schema.field(field).type
    if isinstance(kind, pa.DictionaryType):
        kind = kind.value_type
    if not any(is_text(kind) for is_text in (pa.types.is_string, pa.types.is_large_string,
                                             pa.types.is_binary, pa.types.is_large_binary)):
        file.close()
        raise UserError(f"{path}: {field!r} is of type {kind}, but text is expected")
    return file


def _by_row_groups(field: str, files: tuple[Path, ...], target_bytes: int) -> list[Part]:
    parts = []
    for path in files:
        with _open(path, field) as file:
            groups = range(file.metadata.num_row_groups)
            sizes = (file.metadata.row_group(group).total_byte_size for group in groups)
            parts += [Part(path, *run) for run in group_by_size(sizes, target_bytes)]
    return parts


def _rows(field: str, part: Part, decode: Decode) -> Iterator[str | None]:
    import pyarrow as pa

    with _open(part.path, field) as file:
        stop = file.metadata.num_row_groups if part.stop is None else part.stop
        number = sum(file.metadata.row_group(group).num_rows for group in range(part.start))
        problem = f"damaged in a row group that begins after row {number:,}"
        with _damage_reported(part.path, problem):
            for batch in file.iter_batches(_ROWS, range(part.start, stop), [field]):
                column = batch.column(0)
                if isinstance(column, pa.DictionaryArray):
                    column = column.dictionary_decode()
                # As bytes: pyarrow does not check that they are UTF-8.
                for content in column.cast(pa.large_binary()).to_pylist():
                    number += 1
                    if content is None:
                        raise UserError(f"{part.path}: {field!r} of row {number:,} is null, but "
                                        "text is expected")
                    if len(content) > LARGEST_TEXT:
                        raise UserError(f"{part.path}: row {number:,} contains more than "
                                        f"{LARGEST_TEXT / 1e6:,.0f} MB of text, which is too much "
                                        "for one document; split it into several")
                    yield decode(content, f"{part.path}: row {number:,}")


@contextmanager
def _damage_reported(path: Path, problem: str) -> Iterator[None]:
    """Turn pyarrow's errors about the content of a file into a UserError."""
    import pyarrow as pa

    try:
        yield
    except UserError:
        raise  # which says what is wrong
    except (pa.ArrowException, ValueError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of the file system
        raise UserError(f"{path}: {problem}; download it again") from None

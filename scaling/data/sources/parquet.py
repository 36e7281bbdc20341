"""Parquet files, as data sets are published today: a row a document, read by row groups."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from scaling.data.sources.base import Decode, Part, Source, runs
from scaling.data.sources.files import corpus_name, field_of, match, nearest_field
from scaling.errors import UserError

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

_ROWS = 1024  # at a time: what bounds the memory


def find_parquet(source: str) -> Source:
    """`parquet:GLOB#FIELD`."""
    pattern, field = field_of(source)
    files = match(pattern, source)
    _open(files[0], field).close()
    return Source(source, corpus_name(pattern, "parquet"), f"parquet#{field}", files,
                  partial(_rows, field), partial(_by_row_groups, field))


def _open(path: Path, field: str) -> ParquetFile:
    """The file, if it has the field, and text in it."""
    try:
        import pyarrow as pa
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise UserError(f"{path}: reading Parquet takes pyarrow, which is not installed; install "
                        "it with: pip install pyarrow") from None
    try:
        file = ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise UserError(f"{path}: not a whole Parquet file ({error}); fetch it again") from None
    schema = file.schema_arrow
    if field not in schema.names:
        file.close()
        raise UserError(f"{path}: has no field {field!r}; {nearest_field(field, schema.names)}")
    kind = schema.field(field).type
    if isinstance(kind, pa.DictionaryType):
        kind = kind.value_type
    if not any(is_text(kind) for is_text in (pa.types.is_string, pa.types.is_large_string,
                                             pa.types.is_binary, pa.types.is_large_binary)):
        file.close()
        raise UserError(f"{path}: {field!r} is of type {kind}, where text is expected")
    return file


def _by_row_groups(field: str, files: tuple[Path, ...], target_bytes: int) -> list[Part]:
    parts = []
    for path in files:
        with _open(path, field) as file:
            groups = range(file.metadata.num_row_groups)
            sizes = (file.metadata.row_group(group).total_byte_size for group in groups)
            parts += [Part(path, *run) for run in runs(sizes, target_bytes)]
    return parts


def _rows(field: str, part: Part, decode: Decode) -> Iterator[str | None]:
    import pyarrow as pa

    with _open(part.path, field) as file:
        stop = file.metadata.num_row_groups if part.stop is None else part.stop
        number = sum(file.metadata.row_group(group).num_rows for group in range(part.start))
        try:
            for batch in file.iter_batches(_ROWS, range(part.start, stop), [field]):
                column = batch.column(0)
                if isinstance(column, pa.DictionaryArray):
                    column = column.dictionary_decode()
                # As bytes: pyarrow does not check that they are UTF-8.
                for content in column.cast(pa.large_binary()).to_pylist():
                    number += 1
                    if content is None:
                        raise UserError(f"{part.path}: {field!r} of row {number:,} is null, where "
                                        "text is expected")
                    yield decode(content, f"{part.path}: row {number:,}")
        except (pa.ArrowInvalid, OSError) as error:
            raise UserError(f"{part.path}: damaged after row {number:,} ({error}); fetch it "
                            "again") from None

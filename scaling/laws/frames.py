"""Read a user's CSV or Parquet file as a data frame.

The file is checked before pandas parses it, so that errors name the line and the number of cells
instead of a state of the parser.
"""

from __future__ import annotations

import csv
import io
import warnings
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pandas as pd

from scaling.errors import UserError
from scaling.files import read_bytes

LARGEST_BYTES = 128 * 2**20
LARGEST_ROW = 2**18
"""Most characters of one row, far more than a row of a runs table has."""
MOST_ROWS = 1_000_000
MOST_COLUMNS = 10_000

_PARQUET = b"PAR1"  # begins every Parquet file
_MAGIC = {
    b"\x1f\x8b": "is compressed with gzip; decompress it (gunzip)",
    b"BZh": "is compressed with bzip2; decompress it (bunzip2)",
    b"\xfd7zXZ\0": "is compressed with xz; decompress it (unxz)",
    b"\x28\xb5\x2f\xfd": "is compressed with zstd; decompress it (unzstd)",
    b"PK\x03\x04": "is a zip archive or a spreadsheet; save the table in it as CSV",
    b"\xd0\xcf\x11\xe0": "is a spreadsheet; save the table in it as CSV",
    _PARQUET: "is a Parquet file; give it a name that ends in .parquet",
    b"\xff\xfe": "is text in UTF-16; save it as UTF-8",
    b"\xfe\xff": "is text in UTF-16; save it as UTF-8",
}
_OTHER_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "vertical bars"}
_INSTALL = "pip install pyarrow"


def table_path(path: Path) -> Path:
    """The path of the table: the path itself, or the runs table inside a results folder.

    Raises:
        UserError: the file is absent, or the folder holds no runs table.
    """
    if path.is_dir():
        for name in ("runs.csv", "runs.parquet"):
            if (path / name).is_file():
                return path / name
        raise UserError(f"{path}: holds no runs.csv, where a results folder is expected, which "
                        "`scaling sweep export` writes; or give a CSV or Parquet file")
    if not path.exists():
        raise UserError(f"{path}: no such file; a runs table (CSV or Parquet) is expected, or a "
                        "results folder that holds runs.csv")
    return path


def read_frame(path: Path) -> pd.DataFrame:
    """Any CSV or Parquet file as a data frame; duplicate column names are kept.

    Raises:
        UserError: the file is not such a table.
        OSError: the file is absent or cannot be read.
    """
    content = read_bytes(path, LARGEST_BYTES)
    if not content:
        raise UserError(f"{path}: is empty; a table with a header and rows is expected")
    if path.suffix == ".parquet":
        return _parquet(content, str(path))
    return _csv(content, str(path))


def _parquet(content: bytes, source: str) -> pd.DataFrame:
    if not (content.startswith(_PARQUET) and content.endswith(_PARQUET)):
        needs = "" if find_spec("pyarrow") else f" (reading Parquet also needs `{_INSTALL}`)"
        raise UserError(f"{source}: is not a Parquet file, or is truncated; write it again, or "
                        f"give the table as CSV in a file that ends in .csv{needs}")
    try:
        return pd.read_parquet(io.BytesIO(content))
    except ImportError:
        raise UserError(f"{source}: reading Parquet needs pyarrow; `{_INSTALL}`, or give the table "
                        "as CSV") from None
    except MemoryError:
        raise
    except Exception:  # pyarrow's errors have no common class outside pyarrow
        raise UserError(f"{source}: is not readable as Parquet; write it again, or give the table "
                        "as CSV") from None


def _csv(content: bytes, source: str) -> pd.DataFrame:
    _check_text(content, source)
    names = _check_rows(content, source)
    text_columns = [i for i, name in enumerate(names) if name == "run_id"]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            frame = pd.read_csv(
                io.BytesIO(content), encoding="utf-8-sig", header=0, names=range(len(names)),
                index_col=False, low_memory=False,
                dtype=dict.fromkeys(text_columns, str))  # a run called 1e5 or 007 keeps its name
    except (ValueError, OverflowError):  # pandas' parser errors are ValueErrors
        raise UserError(f"{source}: is not readable as CSV; write it again, with commas between "
                        "cells and one line per row") from None
    frame.columns = pd.Index(names, dtype=object)
    return frame


def _check_text(content: bytes, source: str) -> None:
    for magic, problem in _MAGIC.items():
        if content.startswith(magic):
            raise UserError(f"{source}: {problem}, and give that file")
    at = content.find(b"\0")
    if at >= 0:
        raise UserError(f"{source}: is not a text file (byte {at:,} is zero); a CSV or Parquet "
                        "table is expected")
    try:
        content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{source}: is not text in UTF-8 (line {line:,}); save it as CSV in UTF-8"
                        ) from None


def _check_rows(content: bytes, source: str) -> list[str]:
    """Check that every row has as many cells as the header, and return the column names.

    Raises:
        UserError: the content is not a comma-separated table.
    """
    lines = _Lines(content, source)
    records = csv.reader(lines, strict=True)
    names: list[str] | None = None
    rows = 0
    try:
        for record in records:
            lines.row_chars = 0
            if not record:  # an empty line
                continue
            if names is None:
                names = _column_names(record, source)
                continue
            rows += 1
            if len(record) != len(names):
                raise UserError(
                    f"{source}: line {records.line_num:,} has {len(record):,} "
                    f"cell{'s' * (len(record) != 1)}, where the header has {len(names):,}; write "
                    "one cell per column, and quote cells that contain a comma")
            if rows > MOST_ROWS:
                raise UserError(f"{source}: has more than {MOST_ROWS:,} rows, the most that a "
                                "runs table may have; keep only the rows that are needed")
    except csv.Error as error:
        if "field larger" in str(error):
            raise lines.too_long() from None
        raise UserError(f"{source}: line {records.line_num:,}: a quotation mark is never closed, "
                        "or is inside an unquoted cell; quote such a cell and double the "
                        'quotation marks inside it, as in "a ""word"""') from None
    if names is None:
        raise UserError(f"{source}: holds empty lines only; a table with a header and rows is "
                        "expected")
    return names


def _column_names(record: list[str], source: str) -> list[str]:
    for separator, name in _OTHER_SEPARATORS.items():
        if len(record) == 1 and separator in record[0]:
            raise UserError(f"{source}: its columns are separated by {name}, where commas are "
                            "expected, and points in numbers; save it as CSV with commas (in R: "
                            "write.csv; in pandas: to_csv with sep=',' and decimal='.')")
    if len(record) > MOST_COLUMNS:
        raise UserError(f"{source}: has {len(record):,} columns, where a runs table may have "
                        f"{MOST_COLUMNS:,}; keep only the columns that are needed")
    return [name or f"Unnamed: {i}" for i, name in enumerate(record)]


class _Lines(Iterator[str]):
    """The lines of a file, with a bound on the length of a row that spans lines.

    The caller sets `row_chars` to zero after each row.
    """

    def __init__(self, content: bytes, source: str) -> None:
        self._lines = io.TextIOWrapper(io.BytesIO(content), encoding="utf-8-sig", newline="")
        self._source = source
        self._lines_read = self.row_chars = 0

    def __next__(self) -> str:
        line = self._lines.readline(LARGEST_ROW + 1)
        if not line:
            raise StopIteration
        self._lines_read += 1
        self.row_chars += len(line)
        if self.row_chars > LARGEST_ROW:
            raise self.too_long()
        return line

    def too_long(self) -> UserError:
        """The error of a row or a cell that is too long."""
        return UserError(f"{self._source}: line {self._lines_read:,} is longer than a row of a "
                         "table may be; one line per row is expected, and every quotation mark "
                         "closed")


def duplicate_columns(frame: pd.DataFrame) -> set[str]:
    """Names that more than one column has."""
    return {name for name, times in Counter(map(str, frame.columns)).items() if times > 1}

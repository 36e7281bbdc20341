"""Output files of commands: none overwrites an input, or a file that the command did not write.

Like files.py, this module is below every package. A file that a command may overwrite is recognised
by its content: each format has a place for the name of the command that wrote it.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaling.errors import UserError, option
from scaling.files import parse_json, read_bytes, write_atomically

if TYPE_CHECKING:
    import pandas as pd

COMMAND = "command"
"""Key of a JSON file whose value is the name of the command that wrote it."""


@dataclass(frozen=True)
class Output:
    """An output file. Call `check` before the work begins, so that an unusable path is reported
    before the user waits for results; `write` checks again."""

    path: Path
    command: str
    """The command that writes it, such as `scaling fit`."""
    is_ours: Callable[[bytes], bool]
    """Whether the content was written by this command, so that it may be overwritten."""
    inputs: Iterable[Path] = field(default_factory=tuple)
    """Files that the command reads."""
    function: str = ""
    """The Python function that writes it too, if there is one."""

    def check(self) -> None:
        """Check that the file may be written.

        Raises:
            UserError: it is one of the inputs, a folder, or a file that another program wrote.
            OSError: it cannot be created, or the existing file cannot be read.
        """
        self._existing()

    def write(self, content: str | bytes) -> None:
        """Write the file, unless it already has this content: its modification time then stays, and
        files derived from it remain up to date.

        Raises:
            UserError, OSError: as `check` does.
        """
        data = content.encode("utf-8") if isinstance(content, str) else content
        if self._existing() != data:
            write_atomically(self.path, data)

    def _existing(self) -> bytes | None:
        """The present content; None if the file does not exist."""
        for path in self.inputs:
            if _same(self.path, path):
                raise UserError(f"{self.path}: is an input or another output of this command; "
                                "give the output another name")
        try:
            content = read_bytes(self.path)
        except FileNotFoundError:
            if os.path.islink(self.path):
                raise UserError(f"{self.path}: is a dangling link; give the output another name"
                                ) from None
            check_place(self.path)
            return None
        if not self.is_ours(content):
            writer = option(self.function or self.command, self.command)
            raise UserError(f"{self.path}: was not written by `{writer}` and is not "
                            "overwritten; give the output another name, or move that file away")
        return content


def json_output(path: Path, command: str, inputs: Iterable[Path] = ()) -> Output:
    """A JSON file whose content comes from `with_command`."""
    return Output(path, command, lambda data: json_command(data) == command, inputs)


def with_command(content: dict[str, Any], command: str) -> str:
    """JSON text of an object, with the name of the command that wrote it."""
    return json.dumps({COMMAND: command} | finite(content), indent=2, allow_nan=False) + "\n"


def finite(content: Any) -> Any:
    """A copy in which NaN and infinity, which JSON does not have, are None."""
    if isinstance(content, Mapping):
        return {key: finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite(value) for value in content]
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content


def json_command(data: bytes) -> str | None:
    """The command that wrote a JSON file; None if the file does not name one."""
    with suppress(UserError):
        content = parse_json(data, "")
        if isinstance(content, dict) and isinstance(content.get(COMMAND), str):
            return str(content[COMMAND])
    return None


def csv_output(
    path: Path, command: str, columns: Iterable[str], inputs: Iterable[Path] = ()
) -> Output:
    """A CSV file, which may overwrite a file with exactly the same columns."""
    header = ",".join(columns).encode("utf-8")
    return Output(path, command, lambda data: data.split(b"\n", 1)[0].rstrip() == header, inputs)


def csv_text(table: pd.DataFrame, **options: Any) -> str:
    """A table as CSV in which no text cell is a formula to a spreadsheet: a cell that begins like a
    formula is prefixed with an apostrophe. Numbers are unchanged.

    Args:
        table: written without its index.
        **options: passed to `DataFrame.to_csv`.
    """
    return str(table.map(_escape_cell).to_csv(index=False, **options))


def _escape_cell(cell: Any) -> Any:
    if not isinstance(cell, str):
        return cell
    text = f"'{cell}" if cell.startswith(_FORMULA) else cell
    return re.sub("\r\n?", "\n", text)  # to_csv does not quote a bare CR, which would end the row


def escape_formula(cell: str) -> str:
    """A text cell, escaped as `csv_text` does; one that reads as a number is unchanged."""
    if cell == cell.strip():
        with suppress(ValueError):
            float(cell)
            return cell
    return str(_escape_cell(cell))


_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""First characters of a formula (OWASP, CSV injection)."""


def _same(output: Path, path: Path) -> bool:
    if os.path.realpath(output) == os.path.realpath(path):  # also true of links to themselves
        return True
    with suppress(OSError):  # one of them does not exist
        return output.samefile(path)
    return False


def check_place(path: Path) -> None:
    """Check that a new file can be created, in a folder that may have to be created first.

    Raises:
        OSError: it cannot; the error names the path.
    """
    folder = path.parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    number = (errno.ENOTDIR if not folder.is_dir() else
              errno.EACCES if not os.access(folder, os.W_OK | os.X_OK) else 0)
    if number:
        raise OSError(number, os.strerror(number), str(path))

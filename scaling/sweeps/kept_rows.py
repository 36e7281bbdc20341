"""Rows of earlier tables of a sweep: measured rows are kept even if the sweep changes."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from scaling.errors import UserError
from scaling.files import read_text
from scaling.outputs import escape_formula
from scaling.runs.files import is_run_id
from scaling.runs.planned import FORMER

CsvRow = dict[str, str]

FINISHED = ("done", "diverged")
"""Status of a measured row, which cannot be reproduced without training."""


def rows_of(path: Path, columns: Sequence[str]) -> list[CsvRow]:
    """The rows of a CSV table, each with all of `columns`; empty if the file does not exist.

    Raises:
        UserError: it is not such a table; the message names the line.
        OSError: it cannot be read.
    """
    try:
        text = read_text(path)
    except FileNotFoundError:
        return []
    return parse(text, str(path), columns)


def parse(text: str, source: str, columns: Sequence[str]) -> list[CsvRow]:
    """The rows of a CSV text, each with all of `columns`.

    Raises:
        UserError: as `rows_of`.
    """
    reader = csv.DictReader(io.StringIO(text, newline=""))
    rows = []
    try:
        for row in reader:
            if None in row or None in row.values():
                raise UserError(f"{source}: line {reader.line_num} has another number of cells "
                                "than the first; correct it, or move the table away to have it "
                                "written again")
            rows.append({name: row.get(name, "") for name in columns})
    except csv.Error as error:
        raise UserError(f"{source}: line {reader.line_num} is not CSV ({error}); correct it, or "
                        "move the table away to have it written again") from None
    return rows


def runs_of(path: Path, columns: Sequence[str]) -> list[CsvRow]:
    """The rows of a runs table, with distinct run_ids.

    Raises:
        UserError: a run_id is invalid or repeated, or as `rows_of`.
        OSError: as `rows_of`.
    """
    rows = rows_of(path, columns)
    seen: set[str] = set()
    for row in rows:
        run_id = row["run_id"]
        if not is_run_id(run_id) or run_id in seen:
            problem = "occurs twice" if run_id in seen else "is not the identity of a run"
            raise UserError(f"{path}: the run_id {run_id!r:.40} {problem}; correct the table, or "
                            "move it away to have it written again")
        seen.add(run_id)
    return rows


def text_of(rows: Iterable[CsvRow], columns: Sequence[str]) -> str:
    """A CSV table in which no text cell is a formula to a spreadsheet."""
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: escape_formula(cell) for name, cell in row.items()} for row in rows)
    return buffer.getvalue()


def with_kept_runs(
    now: Sequence[CsvRow], before: Sequence[CsvRow]
) -> tuple[list[CsvRow], dict[str, CsvRow]]:
    """The runs table with those finished rows of the earlier table that are not finished now.

    Args:
        now: rows of the plan's runs, from their folders.
        before: rows of the earlier table.

    Returns:
        All rows sorted by role, size, tokens and seed; and the kept rows by run_id. A kept row of a
        run in the plan has the plan's role; any other has the role `former`, which fits exclude and
        count.
    """
    rows = {row["run_id"]: row for row in now}
    kept: dict[str, CsvRow] = {}
    for old in before:
        new = rows.get(old["run_id"])
        if old["status"] in FINISHED and (new is None or new["status"] not in FINISHED):
            kept[old["run_id"]] = old | {"role": FORMER if new is None else new["role"]}
            rows[old["run_id"]] = kept[old["run_id"]]
    return sorted(rows.values(), key=_sort_key), kept


def with_kept_curves(
    now: Sequence[CsvRow], before: Sequence[CsvRow], kept: Collection[str],
    finished: Collection[str],
) -> list[CsvRow]:
    """The learning curves, with those of the earlier table for runs whose rows are kept and for
    finished runs whose metrics are gone."""
    present = {row["run_id"] for row in now}
    earlier = {row["run_id"] for row in before}
    old = {run_id for run_id in earlier if run_id in kept}
    old |= {run_id for run_id in earlier - present if run_id in finished}
    return [*(row for row in now if row["run_id"] not in old),
            *(row for row in before if row["run_id"] in old)]


def _sort_key(row: CsvRow) -> tuple[str, float, float, float]:
    return (row["role"], _number(row["params_non_embedding"]), _number(row["tokens"]),
            _number(row["seed"]))


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        return math.inf
    return math.inf if math.isnan(number) else number

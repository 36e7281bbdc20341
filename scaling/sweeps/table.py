"""The runs table and the learning curves of a sweep, which fits and figures read."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pandas as pd

from scaling.errors import UserError
from scaling.file_lock import file_lock
from scaling.outputs import Output, csv_text
from scaling.runs.folder import join_names
from scaling.runs.planned import FORMER
from scaling.runs.state import UNREADABLE, readable_metrics, run_state, status_and_record
from scaling.sweeps.kept_rows import (
    FINISHED,
    CsvRow,
    parse,
    rows_of,
    runs_of,
    text_of,
    with_kept_curves,
    with_kept_runs,
)
from scaling.sweeps.plan import CLAIM, Plan, check_results, claim_results

COLUMNS = (
    "run_id", "sweep", "role", "mode", "family", "objective", "corpus", "params_total",
    "params_non_embedding", "tokens", "unique_tokens", "epochs", "batch_tokens", "lr",
    "warmup_fraction", "decay_fraction", "seed", "flops_6nd", "flops_counted", "loss", "loss_se",
    "bits_per_byte", "status",
)
"""Losses are held-out, in nats per token; flops_6nd is 6 N D with N = params_total; flops_counted
counts matrix products; the warm-up and the decay of the learning rate are fractions of the run;
status is done, diverged, failed or planned; role is grid, heldout, or former for a finished run
that is no longer in the sweep."""

CURVE_COLUMNS = ("run_id", "tokens", "loss")

CURVE_POINTS = 100
"""Most points of a learning curve."""

_WRITER = "scaling sweep export"


def runs_table(plan: Plan) -> pd.DataFrame:
    """One row for each run, sorted by role, size, tokens and seed."""
    rows = []
    for planned in plan.runs:
        status, record = status_and_record(planned.folder)
        known = planned.facts | {k: record.get(k) for k in ("loss", "loss_se", "bits_per_byte")}
        rows.append({"sweep": plan.sweep.name, "role": planned.role, "status": status} | known)
    order = ["role", "params_non_embedding", "tokens", "seed"]
    return pd.DataFrame(rows, columns=list(COLUMNS)).sort_values(order, ignore_index=True)


def curves_table(plan: Plan) -> pd.DataFrame:
    """Training losses of each run: run_id, tokens, loss (nats per token, the mean since the
    previous point)."""
    rows: list[dict[str, object]] = []
    for planned in plan.runs:
        lines = [line for line in readable_metrics(planned.folder) if "loss" in line]
        every = -(-len(lines) // CURVE_POINTS) or 1
        for line in _last_of_each(lines, every):
            rows.append({"run_id": planned.run_id, "tokens": line["tokens"], "loss": line["loss"]})
    return pd.DataFrame(rows, columns=list(CURVE_COLUMNS))


def _last_of_each(lines: list[dict[str, float]], every: int) -> Iterable[dict[str, float]]:
    return [lines[min(i + every, len(lines)) - 1] for i in range(0, len(lines), every)]


def export(
    plan: Plan, folder: Path, *, parquet: bool = False,
    notify: Callable[[str], None] = lambda notice: None,
) -> list[Path]:
    """Write runs.csv and curves.csv (and runs.parquet) to the results folder.

    Measured rows are kept: the rows of a finished run stay in the tables even if its folder is
    gone, or if it is no longer in the sweep. Several processes may export at the same time; a lock
    serialises them.

    Args:
        plan: of the sweep.
        folder: its results folder.
        parquet: also write runs.parquet.
        notify: called with a message about kept rows.

    Returns:
        The paths of the files.

    Raises:
        UserError: the folder belongs to another sweep, or a file there is not such a table.
        OSError: a file cannot be written.
    """
    claim_results(plan, folder)
    runs, curves = _tables(folder)
    outputs = [runs, curves, *([_parquet(folder / "runs.parquet")] if parquet else [])]
    with file_lock(folder / CLAIM):
        for output in outputs:
            output.check()
        rows, kept = _rows_and_kept(plan, runs.path)
        finished = {row["run_id"] for row in rows if row["status"] in FINISHED}
        lines = with_kept_curves(
            parse(csv_text(curves_table(plan)), "", CURVE_COLUMNS),
            rows_of(curves.path, CURVE_COLUMNS), kept, finished)
        table = text_of(rows, COLUMNS)
        contents: list[str | bytes] = [table, text_of(lines, CURVE_COLUMNS)]
        if parquet:
            contents.append(_to_parquet(table))
        for output, content in zip(outputs, contents, strict=True):
            output.write(content)
    for notice in _notices(plan, runs.path, kept):
        notify(notice)
    return [output.path for output in outputs]


def known_runs(plan: Plan, folder: Path) -> pd.DataFrame:
    """The runs table that `export` would write, without writing it.

    Raises:
        UserError, OSError: as `export`.
    """
    check_results(plan, folder)
    rows, _ = _rows_and_kept(plan, folder / "runs.csv")
    return pd.read_csv(io.StringIO(text_of(rows, COLUMNS)), dtype={"run_id": str},
                       float_precision="round_trip")


def _rows_and_kept(plan: Plan, path: Path) -> tuple[list[CsvRow], dict[str, CsvRow]]:
    return with_kept_runs(parse(csv_text(runs_table(plan)), "", COLUMNS), runs_of(path, COLUMNS))


def check_tables(folder: Path) -> set[str]:
    """Check that the tables of a results folder can be read and overwritten.

    Returns:
        Identities of the finished runs in them.

    Raises:
        UserError, OSError: as `export`.
    """
    runs, curves = _tables(folder)
    for output in (runs, curves):
        output.check()
    rows_of(curves.path, CURVE_COLUMNS)
    return {row["run_id"] for row in runs_of(runs.path, COLUMNS) if row["status"] in FINISHED}


def _tables(folder: Path) -> tuple[Output, Output]:
    return _csv(folder / "runs.csv", COLUMNS), _csv(folder / "curves.csv", CURVE_COLUMNS)


def _notices(plan: Plan, path: Path, kept: Iterable[str]) -> Iterable[str]:
    planned_ids = {planned.run_id for planned in plan.runs}
    missing = [run_id for run_id in kept if run_id in planned_ids]
    former = [run_id for run_id in kept if run_id not in planned_ids]
    if missing:
        yield (f"{path}: {len(missing)} finished run(s) cannot be found or read in "
               f"{plan.runs[0].folder.path.parent} and keep their rows: {join_names(missing)}")
    for planned in plan.runs:
        if planned.run_id in missing and (now := run_state(planned)).state == UNREADABLE:
            yield f"{planned.run_id} is not readable: {now.note}"
    if former:
        yield (f"{path}: {len(former)} finished run(s) that are no longer in {plan.sweep.name} "
               f"keep their rows, with the role {FORMER}, which fits exclude: {join_names(former)}")


def _csv(path: Path, columns: Sequence[str]) -> Output:
    """A table with these columns, or with those of an earlier version."""
    needed = {"run_id", "status"} & set(columns) | {columns[0]}

    def is_ours(content: bytes) -> bool:
        header = content.split(b"\n", 1)[0].decode("utf-8", "replace").rstrip("\r").split(",")
        return needed <= set(header) <= set(columns)

    return Output(path, _WRITER, is_ours)


def _parquet(path: Path) -> Output:
    def is_ours(content: bytes) -> bool:
        # The column names are in the footer, whose length precedes the final magic number.
        length = int.from_bytes(content[-8:-4], "little")
        footer = content[-8 - length : -8]
        return content[-4:] == b"PAR1" and all(name.encode() in footer for name in COLUMNS)

    return Output(path, _WRITER, is_ours)


def _to_parquet(table: str) -> bytes:
    buffer = io.BytesIO()
    frame = pd.read_csv(io.StringIO(table), float_precision="round_trip")
    try:
        frame.to_parquet(buffer, index=False)
    except ImportError:
        raise UserError("Parquet needs pyarrow; pip install 'scaling[parquet]'") from None
    return buffer.getvalue()

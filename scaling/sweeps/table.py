"""The runs table and the learning curves of a sweep: what fits and figures read."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from scaling.errors import UserError
from scaling.files import write_atomically, write_if_changed
from scaling.sweeps.ledger import result, standing
from scaling.sweeps.plan import Plan

COLUMNS = (
    "run_id", "sweep", "role", "mode", "family", "objective", "corpus", "params_total",
    "params_non_embedding", "tokens", "unique_tokens", "epochs", "batch_tokens", "lr", "seed",
    "flops_6nd", "flops_counted", "loss", "loss_se", "bits_per_byte", "status",
)
"""Losses are held-out, in nats per token; flops_6nd is 6 N D with N = params_total; flops_counted
counts matrix products; status is done, diverged, failed or planned."""

CURVE_POINTS = 100
"""Points kept of each learning curve."""


def runs_table(plan: Plan) -> pd.DataFrame:
    """One row a run, by role, size, tokens and seed."""
    rows = []
    for planned in plan.runs:
        now = standing(planned)
        status = now.state if now.over else "planned"
        record = result(planned.folder) or {}
        known = planned.facts | {k: record.get(k) for k in ("loss", "loss_se", "bits_per_byte")}
        rows.append({"sweep": plan.sweep.name, "role": planned.role, "status": status} | known)
    order = ["role", "params_non_embedding", "tokens", "seed"]
    return pd.DataFrame(rows, columns=list(COLUMNS)).sort_values(order, ignore_index=True)


def curves_table(plan: Plan) -> pd.DataFrame:
    """Training losses along the way: run_id, tokens, loss (nats per token, each the mean since the
    point before)."""
    rows: list[dict[str, object]] = []
    for planned in plan.runs:
        lines = [line for line in planned.folder.metrics() if "loss" in line]
        every = -(-len(lines) // CURVE_POINTS) or 1
        for line in _last_of_each(lines, every):
            rows.append({"run_id": planned.run_id, "tokens": line["tokens"], "loss": line["loss"]})
    return pd.DataFrame(rows, columns=["run_id", "tokens", "loss"])


def _last_of_each(lines: list[dict[str, float]], every: int) -> Iterable[dict[str, float]]:
    return [lines[min(i + every, len(lines)) - 1] for i in range(0, len(lines), every)]


def export(plan: Plan, folder: Path, *, parquet: bool = False) -> list[Path]:
    """Write runs.csv and curves.csv (and runs.parquet) into the results folder.

    Returns:
        The files.
    """
    written = []
    table = runs_table(plan)
    for name, frame in (("runs.csv", table), ("curves.csv", curves_table(plan))):
        write_if_changed(folder / name, frame.to_csv(index=False))
        written.append(folder / name)
    if parquet:
        buffer = io.BytesIO()
        try:
            table.to_parquet(buffer, index=False)
        except ImportError:
            raise UserError("Parquet needs pyarrow; pip install 'scaling[parquet]'") from None
        write_atomically(folder / "runs.parquet", buffer.getvalue())
        written.append(folder / "runs.parquet")
    return written

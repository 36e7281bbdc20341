"""Warm-up and cool-down of runs, as fractions of the run, from the columns of a table."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scaling.laws.columns import RowIndices, parse_numbers
from scaling.laws.frames import duplicate_columns
from scaling.laws.health.findings import Finding
from scaling.laws.table import RunsTable

Array = NDArray[np.float64]

LONGEST_WARMUP = 0.25
"""Largest healthy warm-up, as a fraction of the run. In runs of 14k and 56k parameters and 150k
tokens, the loss was 0.4% higher than with a warm-up of a tenth if it was 20% or 40% of the run,
which is less than the difference between seeds, 1.7% at 60% and 3.0% at 80%."""
SHORTEST_COOLDOWN = 0.05
"""Smallest healthy cool-down, as a fraction of the run. In runs of 14k and 56k parameters and 300k
and 600k tokens, the loss was 0.6% higher than with a cool-down of a fifth if it was 10% of the run,
1.6% at 5%, 2.5% at 3% and 4.0% at 1%; at 40% it was 0.1% higher. Haegele et al. 2024 find 10% to
20% enough."""
SIBLING_RATIO = 0.5
"""Smallest healthy ratio of a cool-down to the median one of the table."""

_COLUMNS = {
    "warmup": (("warmup_fraction", "warmup_ratio"), ("warmup_tokens",), ("warmup_steps",)),
    "cooldown": (("cooldown_fraction", "decay_fraction"), ("cooldown_tokens", "decay_tokens"),
                 ("cooldown_steps", "decay_steps")),
}
"""Names of columns of fractions of the run, of tokens and of steps."""
_STEPS = ("steps", "total_steps", "train_steps", "max_steps")


def schedule_fractions(frame: pd.DataFrame, rows: RowIndices, d: Array) -> dict[str, Array]:
    """The warm-up and the cool-down of runs as fractions of the run, by "warmup" and "cooldown",
    [R] each; NaN where the table does not tell, and no entry if it tells nothing.

    They are in columns of fractions, of tokens, or of steps; the latter need a column of all steps,
    or of the tokens of a batch.

    Args:
        frame: the table.
        rows: the rows of the runs, [R].
        d: tokens of each run, [R]; NaN if unknown.
    """
    ambiguous = duplicate_columns(frame)

    def column(names: tuple[str, ...]) -> Array | None:
        found = next((name for name in names if name in frame and name not in ambiguous), None)
        return None if found is None else parse_numbers(frame[found].iloc[rows])

    steps, batch = column(_STEPS), column(("batch_tokens",))
    if steps is None and batch is not None:
        steps = np.divide(d, batch, out=np.full(len(d), np.nan), where=batch > 0)
    totals = (np.ones(len(d)), d, np.full(len(d), np.nan) if steps is None else steps)
    found: dict[str, Array] = {}
    for part, units in _COLUMNS.items():
        known = np.full(len(d), np.nan)
        for names, total in zip(units, totals, strict=True):
            values = column(names)
            if values is None:
                continue
            fraction = np.divide(values, total, out=np.full(len(d), np.nan), where=total > 0)
            valid = (fraction >= 0) & (fraction <= 1)
            # A fraction of zero beside a number of steps means that the steps are used.
            known = np.where(valid & ~(known > 0), fraction, known)
        if not np.isnan(known).all():
            found[part] = known
    return found


def schedule_findings(table: RunsTable) -> Iterator[Finding]:
    """The runs whose cool-down is too short, then those whose warm-up is too long."""
    cooldown = fractions(table, "cooldown")
    usual = float(np.median(cooldown[~np.isnan(cooldown)])) if np.isfinite(cooldown).any() else 0.0
    for run in np.flatnonzero(cooldown < max(SHORTEST_COOLDOWN, SIBLING_RATIO * usual)):
        yield Finding(table.run_id[run], "short_cooldown", (
            f"cools down for {cooldown[run]:.1%} of its length, where at least "
            f"{max(SHORTEST_COOLDOWN, SIBLING_RATIO * usual):.1%} are expected (the median is "
            f"{usual:.1%})"), float(cooldown[run]))
    warmup = fractions(table, "warmup")
    for run in np.flatnonzero(warmup > LONGEST_WARMUP):
        yield Finding(table.run_id[run], "long_warmup", (
            f"warms up for {warmup[run]:.0%} of its length, where at most {LONGEST_WARMUP:.0%} are "
            "expected"), float(warmup[run]))


def fractions(table: RunsTable, part: str) -> Array:
    """The "warmup" or "cooldown" of each run, [R]; NaN where it is unknown."""
    return table.schedule.get(part, np.full(table.loss.size, np.nan))

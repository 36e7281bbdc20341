"""The health of the runs of a table, and the table with warnings about them or without them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scaling.laws.columns import parse_numbers, require_column
from scaling.laws.frames import read_frame
from scaling.laws.health.collapse import (
    DEVIATIONS,
    MIN_CURVES,
    NormalisedCurve,
    deviations,
    normalised_curve,
)
from scaling.laws.health.findings import KINDS, Finding, Health, Kind
from scaling.laws.health.late_divergence import MIN_POINTS, late_rise
from scaling.laws.health.schedule import fractions, schedule_findings
from scaling.laws.table import RunsTable

Array = NDArray[np.float64]

CURVES = "curves.csv"
"""Name of the file of training curves, beside the runs table."""
CURVE_COLUMNS = ("run_id", "tokens", "loss")

_ALIKE = 0.05     # difference between cool-downs, as fractions of the run, that are alike
_COMPLETE = 0.05  # largest distance of the last point of a curve from the run's end, as a fraction


def curves_beside(runs: Path) -> pd.DataFrame | None:
    """The training curves beside a runs table; None if there are none.

    Raises:
        UserError: the file cannot be read, or has a column twice.
    """
    path = runs.parent / CURVES
    if path == runs or not path.is_file():
        return None
    frame = read_frame(path)
    if not set(CURVE_COLUMNS) <= set(map(str, frame.columns)):
        return None
    return with_curve_columns(frame, str(path))


def with_curve_columns(frame: pd.DataFrame, source: str) -> pd.DataFrame:
    """The table, if it has each column of training curves, once.

    Args:
        frame: one row per point of the curves.
        source: name of the table in messages.

    Raises:
        UserError: it lacks a column, or has it twice.
    """
    for column in CURVE_COLUMNS:
        require_column(frame, source, column, "another name")
    return frame


def screened(table: RunsTable, curves: pd.DataFrame | None, strict: bool) -> RunsTable:
    """The table with warnings about unhealthy runs, or without these runs.

    Args:
        table: the runs to be fitted.
        curves: their training curves, as for `health_of`.
        strict: leave unhealthy runs out, and count them as excluded.
    """
    health = health_of(table, curves)
    if not strict:
        return replace(table, warnings=(*table.warnings, *health.warnings))
    reasons = health.reasons
    kept = table.take(np.flatnonzero([name not in reasons for name in table.run_id]))
    counts = Counter(reasons.values())
    return replace(kept, excluded={
        **table.excluded, **{kind: counts[kind] for kind in KINDS if counts[kind]}})


def health_of(table: RunsTable, curves: pd.DataFrame | None, floor: float = 0.0) -> Health:
    """The health of the runs of a table.

    Args:
        table: the runs.
        curves: one row per point of the training curves: `run_id`, `tokens` seen so far, and `loss`
            in nats per token, each once. None if there are none.
        floor: L_0, the irreducible loss in nats per token.
    """
    losses = {} if curves is None else _curves_by_run(table, curves)
    findings = [*_late_divergence(losses), *schedule_findings(table)]
    found = {each.run_id for each in findings}
    groups = list(_comparable(table, {name: curve for name, curve in losses.items()
                                      if name not in found}, floor))
    figures: dict[str, float] = {}
    for group in groups:
        figure, largest = deviations([*group.values()], _log_sizes(table, [*group]))
        figures |= zip([table.run_id[run] for run in group], figure.tolist(), strict=True)
        findings += _no_collapse([table.run_id[run] for run in group], figure, largest)
    place = {name: run for run, name in enumerate(table.run_id)}
    order = {kind: at for at, kind in enumerate(KINDS)}
    checked: dict[Kind, int] = {
        "late_divergence": sum(len(loss) >= MIN_POINTS for _, loss in losses.values()),
        "short_cooldown": int(np.isfinite(fractions(table, "cooldown")).sum()),
        "long_warmup": int(np.isfinite(fractions(table, "warmup")).sum()),
        "no_collapse": sum(map(len, groups)),
    }
    findings.sort(key=lambda each: (order[each.kind], place[each.run_id]))
    return Health(tuple(findings), int(table.loss.size), checked, figures)


def _curves_by_run(table: RunsTable, curves: pd.DataFrame) -> dict[str, tuple[Array, Array]]:
    """Tokens and losses of the curve of each run that has one, sorted by tokens. Of several losses
    at one number of tokens, the last is kept."""
    tokens, loss = parse_numbers(curves["tokens"]), parse_numbers(curves["loss"])
    names = curves["run_id"].astype(str).to_numpy(dtype=str)
    valid = np.isfinite(tokens) & (tokens > 0)
    names, tokens, loss = names[valid], tokens[valid], loss[valid]
    order = np.lexsort((tokens, names))
    names, tokens, loss = names[order], tokens[order], loss[order]
    last = np.ones(len(names), dtype=bool)
    last[:-1] = (names[1:] != names[:-1]) | (tokens[1:] != tokens[:-1])
    names, tokens, loss = names[last], tokens[last], loss[last]
    begin = np.searchsorted(names, table.run_id, side="left")
    end = np.searchsorted(names, table.run_id, side="right")
    return {name: (tokens[first:after], loss[first:after])
            for name, first, after in zip(table.run_id, begin, end, strict=True) if after > first}


def _late_divergence(curves: dict[str, tuple[Array, Array]]) -> Iterator[Finding]:
    for name, (_, loss) in curves.items():
        rise = late_rise(loss)
        if rise is not None:
            figure, sentence = rise
            yield Finding(name, "late_divergence", sentence, figure)


def _comparable(
    table: RunsTable, curves: dict[str, tuple[Array, Array]], floor: float
) -> Iterator[dict[int, NormalisedCurve]]:
    """Groups of normalised curves, by the index of the run, that should be alike: those of one
    cool-down, which changes the end of a curve; and enough of them."""
    cooldown = np.round(np.nan_to_num(fractions(table, "cooldown"), nan=-1.0) / _ALIKE)
    groups: dict[float, dict[int, NormalisedCurve]] = {}
    for run, name in enumerate(table.run_id):
        tokens, loss = curves.get(name, (np.empty(0), np.empty(0)))
        length = float(table.d[run])
        finite = np.isfinite(loss)
        if not finite.any() or not abs(tokens[-1] / length - 1) <= _COMPLETE:
            continue
        curve = normalised_curve(tokens[finite] / tokens[-1], loss[finite], floor)
        if curve is not None:
            groups.setdefault(float(cooldown[run]), {})[run] = curve
    yield from (group for group in groups.values() if len(group) >= MIN_CURVES)


def _log_sizes(table: RunsTable, runs: list[int]) -> Array:
    """Logarithms of N and D of runs, [R, 2]; of those that the table has."""
    variables = np.log(np.stack([table.n[runs], table.d[runs]], axis=1))
    return np.asarray(variables[:, np.isfinite(variables).all(axis=0)])


def _no_collapse(names: list[str], figures: Array, largest: Array) -> Iterator[Finding]:
    for name, figure, (excess, at) in zip(names, figures, largest, strict=True):
        if figure > DEVIATIONS:
            yield Finding(name, "no_collapse", (
                f"is {abs(excess):.1%} {'above' if excess > 0 else 'below'} what the others "
                f"predict for its N and D at {at:.0%} of its length, {figure:.1f} standard "
                "deviations over the whole curve"), float(figure))

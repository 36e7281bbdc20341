"""`schedule_law`: laws of the whole loss curves of runs with given learning rate schedules."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from scaling.errors import UserError, option
from scaling.files import named
from scaling.laws.arguments import checked
from scaling.laws.columns import numeric_column, require_column
from scaling.laws.fitted import Fit
from scaling.laws.forms.form import Form
from scaling.laws.forms.schedule_laws import SCHEDULE_FORMS, add_schedules, how_to_give
from scaling.laws.forms.schedules import MOST_SCHEDULES, Schedule, schedule
from scaling.laws.read import frame_of

_COLUMNS = ("schedule", "step", "rate")


@checked
def schedule_law(
    name: str, schedules: Mapping[str, Any] | pd.DataFrame | str | Path,
    warmup: int | None = None,
) -> Form:
    """A law of the loss at every step of learning rate schedules, for `fit`.

    `fit(curves, schedule_law("multi-power", {"cosine": rates, "wsd": [(1, 3e-4), (9000, 0.0)]}))`
    reads the columns `step`, counted from 1 with the warm-up, and `schedule`, a name, of the table.

    Args:
        name: "multi-power" (Luo et al. 2025) or "functional" (after Li et al. 2025).
        schedules: by name the rate of each step, or pairs of a step and its rate, between which the
            rate is linear; or a table of pairs with the columns schedule, step and rate.
        warmup: number of warm-up steps, whose changes of the rate are no drops; by default those at
            the start of each schedule at which the rate rises.

    Raises:
        UserError: the name is unknown, or these are no schedules.
    """
    if name not in SCHEDULE_FORMS:
        near = difflib.get_close_matches(name, SCHEDULE_FORMS, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UserError(f"{name}: is no law of learning rate schedules; {hint}They are "
                        f"{', '.join(SCHEDULE_FORMS)}")
    if warmup is not None and warmup < 0:
        raise UserError(f"warmup={warmup}: a non-negative number of steps is expected")
    read = schedules_from(schedules)
    if not read:
        raise UserError(f"{name}: no schedules; {how_to_give()}")
    return add_schedules(SCHEDULE_FORMS[name], read, warmup)


@checked
def with_schedules(fit: Fit, schedules: Mapping[str, Any] | pd.DataFrame | str | Path) -> Fit:
    """A fit whose law has further schedules, to predict their loss curves:
    `with_schedules(fit, {"two-stage": rates}).predict(step=24000, schedule="two-stage")`.

    Args:
        fit: of a law of learning rate schedules.
        schedules: as for `schedule_law`.

    Raises:
        UserError: the law has no schedules, or others of the same name, or these are none.
    """
    form = add_schedules(fit.law.form, schedules_from(schedules))
    return replace(fit, law=replace(fit.law, form=form))


def schedules_from(
    given: Mapping[str, Any] | pd.DataFrame | str | Path
) -> dict[str, Schedule]:
    """Schedules by name from rates or pairs by name, or from a table of pairs.

    Raises:
        UserError: these are no schedules, or there are too many.
    """
    if isinstance(given, Mapping):
        return _by_name(given)
    if not isinstance(given, pd.DataFrame) and not Path(given).is_file():
        problem = "is a folder" if Path(given).is_dir() else "no such file"
        raise UserError(f"{given}: {problem}; a table of learning rate schedules (CSV or "
                        f"Parquet) with the columns {', '.join(_COLUMNS)} is expected")
    frame, source = frame_of(given)
    pairs = _of_frame(frame, source)
    with named(source):
        return _by_name(pairs)


def _by_name(given: Mapping[str, Any]) -> dict[str, Schedule]:
    if len(given) > MOST_SCHEDULES:
        raise UserError(f"{len(given):,} schedules, where at most {MOST_SCHEDULES:,} are allowed")
    return {str(name): schedule(str(name), each) for name, each in given.items()}


def _of_frame(frame: pd.DataFrame, source: str) -> dict[str, Any]:
    """Pairs of step and rate by schedule, [K, 2] each, in the order of the table."""
    if frame.empty:
        raise UserError(f"{source}: has no rows; the columns {', '.join(_COLUMNS)} are expected, "
                        "with one row for each pair of a step and its rate")
    for column in _COLUMNS:
        require_column(frame, source, column, option("another name", "another table: --schedules"))
    rows = np.arange(len(frame))
    pairs = np.stack([numeric_column(frame, source, column, rows, None, zero=True)
                      for column in ("step", "rate")], axis=-1)
    missing = frame["schedule"].isna().to_numpy()
    if missing.any():
        raise UserError(f"{source}: row {int(np.argmax(missing)) + 1}, column schedule: empty, "
                        "where the name of a schedule is expected")
    names = frame["schedule"].astype(str).str.strip().to_numpy()
    return {str(name): pairs[names == name] for name in dict.fromkeys(names)}

"""`check_health`: which runs of a table should not be in a fit."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from scaling.errors import UserError
from scaling.laws.arguments import checked
from scaling.laws.health.findings import Health
from scaling.laws.health.screen import health_of
from scaling.laws.read import curves_of, read
from scaling.laws.table import RunsTable


@checked
def check_health(
    runs: RunsTable | pd.DataFrame | str | Path,
    curves: pd.DataFrame | str | Path | None = None,
    *,
    n: str | None = None,
    d: str | None = None,
    c: str | None = None,
    loss: str | None = None,
    floor: float = 0.0,
) -> Health:
    """Which runs should not be in a fit, and why.

    `sl.check_health("results/quickstart")` prints what was checked and found. Four kinds of
    findings are made:

    - `late_divergence`: the loss rises beyond its noise until the end of the run, or for more than
      a fourth of it.
    - `short_cooldown`: the learning rate decays for less than a twentieth of the run, or for less
      than half of the fraction that is the median of the table.
    - `long_warmup`: the warm-up is longer than a fourth of the run.
    - `no_collapse`: the training curve, normalised by its end, is far from what the curves of the
      other runs predict for its N and D (Qiu et al. 2025, arXiv 2507.02119). At least twelve curves
      of one cool-down are needed.

    The first and the last need training curves; the others need columns of the schedule, such as
    `warmup_fraction` and `decay_fraction`, `warmup_steps` and `steps`, or `warmup_tokens`.

    Args:
        runs: a table of runs from `read`, or what `read` takes: a data frame or a file with the
            columns below, or a results folder.
        curves: the training curves, with the columns `run_id`, `tokens` seen so far, and `loss` in
            nats per token; by default those of `curves.csv` beside the runs, if there are any.
        n: column of parameters, here and below by default that of this package's tables.
        d: column of training tokens.
        c: column of training FLOPs.
        loss: column of the losses.
        floor: L_0, the irreducible loss in nats per token, which is subtracted from all losses
            before curves are normalised. Without a law it is unknown, and 0 by default.

    Raises:
        UserError: a file cannot be read, a column is missing, or the floor is negative or infinite.
    """
    if not 0 <= floor < float("inf"):
        raise UserError(f"floor={floor:g}: a loss from 0 nats per token on is expected")
    if isinstance(runs, RunsTable):
        for name, column in {"n": n, "d": d, "c": c, "loss": loss}.items():
            if column is not None:
                raise UserError(f"{name}=: the runs were read already; give it to read")
        read_from: pd.DataFrame | str = (
            runs.source if Path(runs.source).is_file() else pd.DataFrame())
        return health_of(runs, curves_of(read_from, curves), floor)
    return health_of(read(runs, n=n, d=d, c=c, loss=loss), curves_of(runs, curves), floor)

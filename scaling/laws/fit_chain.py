"""`fit_chain`: from model and data size to the loss on a task, and from that loss to accuracy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from scaling.errors import UserError
from scaling.laws.allocation.chain import chain
from scaling.laws.arguments import checked
from scaling.laws.fit_runs import columns_read, fit
from scaling.laws.fitted import Fit
from scaling.laws.fitting.fit_law import RESAMPLES, form_named
from scaling.laws.forms.form import Form
from scaling.laws.forms.variables import Counting
from scaling.laws.prediction import columns_of, inputs_of, interval_asked_for
from scaling.laws.read import frame_of, from_frame
from scaling.laws.table import RunsTable

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ChainFit:
    """Two laws fitted to the same runs: of the task's loss, and of its accuracy given that loss.

    Attributes:
        first: the law of the loss on the task.
        second: the law of the accuracy, or of another outcome, as a function of that loss.
    """

    first: Fit
    second: Fit

    @checked
    def predict(
        self, *data: pd.DataFrame, interval: bool | Literal["confidence"] = False,
        level: float | None = None, **values: ArrayLike,
    ) -> Any:
        """The predicted outcome: `fit.predict(n=7e9, d=4e12, interval=True)`.

        Args:
            data: a table, instead of `values`.
            interval: also give the interval of the chained laws, by refits of both to the same
                resamples of the runs. It is not the interval of a new run.
            level: coverage of the interval, 0.9 by default; given alone it asks for one.
            values: the first law's variables by name, numbers or arrays.

        Returns:
            A float for numbers, an array for arrays; with `interval` a `Prediction`, or a data
            frame with `value`, `low` and `high`.

        Raises:
            UserError: a variable is missing or impossible, or there are no resamples.
        """
        kind, level = interval_asked_for(interval, level)
        law = self.first.law
        inputs = inputs_of(law.form, columns_of(law, self.first.table), data, values)
        found = chain(law, self.second.law, inputs.values, level)
        if kind is None:
            return inputs.result(found.outcome, None)
        if found.low is None or found.high is None:
            raise UserError("predict: has no intervals, since the laws were fitted without "
                            "resamples; fit them with resamples=1000")
        return inputs.result(found.outcome, (found.low, found.high))


@checked
def fit_chain(
    runs: pd.DataFrame | str | Path,
    first: str | Form = "chinchilla",
    second: str | Form = "olmo-accuracy",
    *,
    loss: str,
    outcome: str,
    ideal: Sequence[tuple[float, float]] = (),
    n: str | None = None,
    d: str | None = None,
    c: str | None = None,
    counting: Counting | None = None,
    where: str | None = None,
    cluster: str | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    watch: Callable[[int], None] = lambda done: None,
) -> ChainFit:
    """Fit a law of a task's loss, and one of its accuracy given the loss, to the same runs.

    `sl.fit_chain(frame, loss="arc_loss", outcome="arc_accuracy", n="params", d="tokens",
    ideal=[(0, 1)])`

    Bhagia et al. 2024 (arXiv:2412.04403, section 3) predict tasks in these two steps, with the loss
    of the correct answer, and add ideal points to the second one. Resamples draw the same runs for
    both laws, and include the ideal points once.

    Args:
        runs: a data frame or a file of runs.
        first: the law of the loss.
        second: the law of the outcome as a function of the loss alone.
        loss: column of the loss on the task.
        outcome: column of the outcome, such as the accuracy as a fraction of one.
        ideal: points (loss, outcome) that are known without a run: (0, 1), a perfect accuracy at no
            loss, and chance at the loss of a guess.
        n: column of parameters.
        d: column of training tokens.
        c: column of training FLOPs.
        counting: which parameters N counts; by default those of the first law's paper.
        where: a condition on the table's columns.
        cluster: column that tells which rows are of one run.
        resamples: bootstrap resamples; 0 for no intervals.
        seed: seed of the resamples.
        watch: called with the number of resamples done for each of the laws.

    Raises:
        UserError: a name is unknown, the columns are not those of runs, or a law does not fit the
            place that it has in the chain.
        DataError: there are too few runs for a law.
    """
    first = form_named(first) if isinstance(first, str) else first
    second = form_named(second) if isinstance(second, str) else second
    if second.variables != ("l",) or not first.outcome.startswith("loss"):
        raise UserError("fit_chain: a law of the loss and one of the loss alone are expected, such "
                        f"as chinchilla and olmo-accuracy, not {first.name} and {second.name}")
    frame, source = frame_of(runs)
    common: dict[str, Any] = {
        "n": n, "d": d, "c": c, "where": where, "cluster": cluster,
        "counting": counting or (first.counting if n is None else None),
        "needs": columns_read(first, frame)}
    table = from_frame(frame, source, loss=loss, **common, extra={
        v: None for v in first.variables if v not in ("n", "d", "c")})
    outcomes = from_frame(frame, source, loss=outcome, extra={"l": loss}, **common)
    # Runs of both tables in one order, so that equal draws are of equal runs.
    place = {int(row): i for i, row in enumerate(outcomes.rows)}
    outcomes = _with_ideal(outcomes.take(np.array([place[int(row)] for row in table.rows])), ideal)
    options: dict[str, Any] = {"resamples": resamples, "seed": seed, "watch": watch}
    return ChainFit(fit(table, first, **options), fit(outcomes, second, **options))


def _with_ideal(table: RunsTable, points: Sequence[tuple[float, float]]) -> RunsTable:
    """The runs followed by ideal points, of a loss and an outcome each."""
    if not len(points):
        return table
    try:
        loss, outcome = np.array(points, dtype=float).reshape(len(points), -1).T
    except (TypeError, ValueError):
        raise UserError(f"ideal={points!r:.60}: pairs of a loss and an outcome are expected, such "
                        "as [(0, 1)]") from None
    if not (np.isfinite(loss) & np.isfinite(outcome) & (loss >= 0)).all():
        raise UserError(f"ideal={points!r:.60}: a loss of at least zero and a finite outcome are "
                        "expected for each point, such as [(0, 1)]")
    unknown, last = np.full(len(loss), np.nan), -np.ones(len(loss), dtype=np.intp)
    return replace(
        table, n=np.append(table.n, unknown), d=np.append(table.d, unknown),
        c=np.append(table.c, unknown), loss=np.append(table.loss, outcome),
        run_id=(*table.run_id, *(f"ideal point {i + 1}" for i in range(len(loss)))),
        extra={"l": np.append(table.extra["l"], loss)}, rows=np.append(table.rows, last),
        cluster=np.append(table.cluster, last) if len(table.cluster) else table.cluster,
        flops={}, ideal=np.append(table.ideal, np.ones(len(loss), dtype=np.bool_)))

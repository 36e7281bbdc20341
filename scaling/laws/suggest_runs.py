"""`suggest`: from runs, or a fit to them, to the runs to train next in one call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from scaling.errors import UserError, option
from scaling.laws.arguments import checked
from scaling.laws.design import suggest as design
from scaling.laws.design.candidates import candidates_from_frame, max_run_flops
from scaling.laws.design.fisher import Noise, target_named
from scaling.laws.fit_runs import as_form, check_read_already, columns_read
from scaling.laws.fitted import Fit
from scaling.laws.fitting.bootstrap import check_resamples
from scaling.laws.fitting.fit_law import RESAMPLES, fit_law
from scaling.laws.forms.form import Form
from scaling.laws.forms.variables import FLOPS_PER_PARAMETER_TOKEN, Counting
from scaling.laws.law import Interval
from scaling.laws.read import frame_of, from_frame
from scaling.laws.table import RunsTable


@checked
def suggest(
    runs: Fit | RunsTable | pd.DataFrame | str | Path,
    target: str,
    budget: float,
    *,
    at: float | Mapping[str, float] | None = None,
    candidates: pd.DataFrame | str | Path | None = None,
    cost: str | None = None,
    max_flops_per_run: float | None = None,
    sizes: Sequence[float] | None = None,
    ratios: Interval | None = None,
    max_tokens: float | None = None,
    max_runs: int = design.DEFAULT_RUNS,
    seeds: int = 1,
    noise: float | Noise | None = None,
    law: str | Form | Callable[..., object] | None = None,
    n: str | None = None,
    d: str | None = None,
    c: str | None = None,
    loss: str | None = None,
    counting: Counting | None = None,
    resamples: int = RESAMPLES,
    watch: Callable[[int], None] = lambda done: None,
) -> design.Suggestion:
    """The runs to train next: those that together minimise the expected variance of a target
    within a budget, given the runs so far.

    `sl.suggest(frame, "loss", 1e20, at={"n": 1e9, "d": 2e10}, candidates=planned)`

    Args:
        runs: the runs so far: a fit, whose law and runs are used; a table of runs from `read`; or a
            data frame or a file, which is read with the columns below as by `read`.
        target: the quantity whose variance is minimised: `n-star` (N* at a budget), `loss` (there,
            or of a run), `a` (d log N* / d log C), or a parameter of the law.
        budget: cost of the new runs together, in FLOPs or in the unit of `cost`.
        at: FLOPs of the target; for `loss` also a run, such as {"n": 1e9, "d": 2e10}. Every
            suggested run takes fewer FLOPs.
        candidates: a table of the runs to choose from, in the columns of `runs`; of its rows those
            whose status is planned, if it has statuses. By default a grid of sizes and tokens.
        cost: column of the candidates with the cost of each; FLOPs by default.
        max_flops_per_run: largest FLOPs of one run.
        sizes: values of N of the default grid.
        ratios: smallest and largest tokens per parameter of the default grid.
        max_tokens: largest number of tokens of one run of the default grid.
        max_runs: largest number of runs.
        seeds: largest number of runs at the same point.
        noise: standard deviation of the log-loss of runs around the law; by default that of the
            residuals.
        law: the law to fit, as in `fit`; "chinchilla" by default.
        n: column of parameters.
        d: column of training tokens.
        c: column of training FLOPs.
        loss: column of the losses.
        counting: which parameters N counts; by default those of the law's paper.
        resamples: bootstrap resamples, for a second interval; 0 for none.
        watch: called with the number of resamples done.

    Raises:
        UserError: a limit is impossible, a column is missing, or the target is undefined.
        DataError: there are too few runs for the law.
    """
    if isinstance(runs, Fit) and law is not None:
        raise UserError("law=: the fit has its law already; give its runs instead, fit.runs")
    form = runs.law.form if isinstance(runs, Fit) else as_form(law or "chinchilla")
    quantity = target_named(form, target, at)
    check_resamples(resamples, 0)
    design.check_counts(max_runs, seeds)
    if cost is not None and candidates is None:
        named = option(f"cost={cost!r}", f"--cost {cost}")
        raise UserError(f"{named}: is a column of the candidates; give them with "
                        f"{option('candidates=', '--candidates')}")
    run_noise = noise if noise is None or isinstance(noise, Noise) else Noise(noise)
    columns = {"n": n, "d": d, "c": c, "loss": loss, "counting": counting}
    if isinstance(runs, Fit | RunsTable):
        check_read_already(columns)
        table = runs.runs if isinstance(runs, Fit) else runs
    else:
        frame, source = frame_of(runs)
        table = from_frame(
            frame, source, n=n, d=d, c=c, loss=loss,
            counting=counting or (form.counting if n is None else None),
            extra=dict.fromkeys(v for v in form.variables if v not in ("n", "d", "c")),
            needs=columns_read(form, frame))
    chosen_from = None
    if candidates is not None:
        design.check_budget(budget)
        frame, source = frame_of(candidates)
        chosen_from = candidates_from_frame(frame, source, table, form.variables, cost)
    at_flops = _flops(at)
    # Wrong values are reported before the fit, which takes longest.
    max_run_flops(table, budget if candidates is None else None, at_flops, max_flops_per_run)
    fitted = runs.law if isinstance(runs, Fit) else fit_law(
        table, form, resamples=resamples, watch=watch)
    return design.suggest(
        fitted, table, quantity, budget, candidates=chosen_from, at=at_flops,
        max_flops_per_run=max_flops_per_run, sizes=sizes, ratios=ratios, max_tokens=max_tokens,
        runs=max_runs, seeds=seeds, noise=run_noise)


def _flops(at: float | Mapping[str, float] | None) -> float | None:
    """FLOPs of a target: its budget, or those of its run; None if they are unknown."""
    if not isinstance(at, Mapping):
        return at
    if "c" in at or not {"n", "d"} <= {*at}:
        return at.get("c")
    return FLOPS_PER_PARAMETER_TOKEN * at["n"] * at["d"]

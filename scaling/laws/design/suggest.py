"""The runs to train next: those that narrow the interval of a target the most for their compute.

A c-optimal design (Elfving 1952; Atkinson, Donev and Tobias 2007, section 10.4), local to the
fitted law: every candidate run adds its J J^T to the information of the runs so far about theta,
and the variance of the target follows by the delta method (`fisher`). Runs are chosen greedily and
then exchanged one by one until no exchange improves the choice.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scaling.errors import UserError
from scaling.laws import show
from scaling.laws.design.candidates import (
    Candidates,
    candidate_runs,
    candidates_of_design,
    max_run_flops,
)
from scaling.laws.design.exchange import CandidateSet
from scaling.laws.design.fisher import (
    Noise,
    Target,
    estimate_noise,
    fisher_information,
    gradient_and_moments,
    target_gradient,
)
from scaling.laws.law import Interval, Law
from scaling.laws.table import RunsTable

Array = NDArray[np.float64]

DEFAULT_RUNS = 8
MAX_SUGGESTED = 100
"""Largest number of suggested runs, and of seeds of one run."""

_UNDETERMINED_FACTOR = 10.0  # upper end over value, above which a target counts as undetermined
_LARGE_SHARE = 0.5           # of the cost in one run, above which a warning is added
_MOST_SHOWN = 20              # runs in a repr
_DISAGREEMENT = 1.5          # ratio of the bootstrap's interval to the linear one, either way


@dataclass(frozen=True)
class NextRun:
    """A suggested run: N parameters, D tokens, C FLOPs, its seed at that point (from 0), and the
    expected standard deviation and interval of the target after it and the runs before it. Its cost
    is in the unit of the budget, by default C."""

    n: float
    d: float
    c: float
    seed: int
    sd: float
    interval: Interval
    cumulative_flops: float
    cost: float
    cumulative_cost: float
    run_id: str | None = None
    """The name of the run among the candidates, if they have names."""

    def to_json(self) -> dict[str, Any]:
        """JSON-serialisable data."""
        named = {} if self.run_id is None else {"run_id": self.run_id}
        return named | {
            "n": self.n, "d": self.d, "flops": self.c, "seed": self.seed, "sd": self.sd,
            "interval": list(self.interval), "cumulative_flops": self.cumulative_flops,
            "cost": self.cost, "cumulative_cost": self.cumulative_cost}


@dataclass(frozen=True, repr=False)
class Suggestion:
    """The suggested runs, in decreasing order of gain per cost."""

    law: str
    counting: str
    target: Target
    value: float
    noise: Noise
    sd: float
    """Standard deviation of the target from the runs so far, on its own scale."""
    interval: Interval
    """Interval of the target from the runs so far, by the linear theory, as for `runs`."""
    bootstrap_interval: Interval | None
    runs: tuple[NextRun, ...]
    candidates: int
    """Number of runs that they are chosen from."""
    warnings: tuple[str, ...]

    def __repr__(self) -> str:
        columns = ("run", "N", "D", "FLOPs", "total FLOPs", "90% interval after")
        rows = [("now", "", "", "", "", show.span(self.interval)), *(
            (str(place), show.short(run.n), show.short(run.d), f"{run.c:.3g}",
             f"{run.cumulative_flops:.3g}", show.span(run.interval))
            for place, run in enumerate(self.runs[:_MOST_SHOWN], start=1))]
        more = len(self.runs) - _MOST_SHOWN
        return "\n".join([
            f"{self.target.name} by {self.law}: {show.number(self.value)}; {len(self.runs)} of "
            f"{self.candidates:,} candidates, N counts {self.counting}",
            show.TextTable(columns, tuple(rows), ("run",)).text(),
            *([f"and {more} more, in .to_frame()"] if more > 0 else []),
            *(f"warning: {warning}" for warning in self.warnings)])

    @property
    def flops(self) -> float:
        """Total C of the suggested runs."""
        return self.runs[-1].cumulative_flops if self.runs else 0.0

    @property
    def cost(self) -> float:
        """Total cost of the suggested runs, in the unit of the budget."""
        return self.runs[-1].cumulative_cost if self.runs else 0.0

    def to_frame(self) -> pd.DataFrame:
        """The suggested runs as a data frame, one row each."""
        rows = [run.to_json() for run in self.runs]
        return pd.DataFrame([{**row, "low": row["interval"][0], "high": row["interval"][1]}
                             for row in rows]).drop(columns="interval", errors="ignore")

    def to_json(self) -> dict[str, Any]:
        """JSON-serialisable data."""
        return {
            "law": self.law, "n_counts": self.counting, "target": self.target.name,
            "value": self.value, "relative": self.target.log, "noise": self.noise.sd,
            "now": {"sd": self.sd, "interval": list(self.interval),
                    "bootstrap_interval": self.bootstrap_interval and
                    list(self.bootstrap_interval)},
            "candidates": self.candidates, "runs": [run.to_json() for run in self.runs],
            "flops": self.flops, "cost": self.cost, "warnings": list(self.warnings),
        }


def suggest(
    law: Law,
    table: RunsTable,
    target: Target,
    budget: float,
    *,
    candidates: Candidates | None = None,
    at: float | None = None,
    max_flops_per_run: float | None = None,
    sizes: Sequence[float] | None = None,
    ratios: Interval | None = None,
    max_tokens: float | None = None,
    runs: int = DEFAULT_RUNS,
    seeds: int = 1,
    noise: Noise | None = None,
) -> Suggestion:
    """The runs that narrow the target's interval the most within a budget.

    Args:
        law: a law fitted to `table`; the suggestion is valid if it is approximately right.
        table: the runs so far, and the held-out ones.
        target: the quantity whose interval is narrowed.
        budget: cost of all new runs together; in FLOPs, at C = 6 N D, for runs of the default grid.
        candidates: the runs to choose from, instead of a grid of `sizes` and `ratios`.
        at: FLOPs at which the target is evaluated; every run takes fewer.
        max_flops_per_run: largest FLOPs of one run; by default the budget, if it is in FLOPs.
        sizes: values of N that can be trained; by default from the smallest so far upwards, a
            factor of sqrt(2) apart.
        ratios: smallest and largest tokens per parameter; by default those of the runs so far,
            widened fourfold on either side.
        max_tokens: largest number of tokens of one run.
        runs: largest number of runs.
        seeds: largest number of runs of the same N and D.
        noise: noise of the runs; estimated from the table by default.

    Raises:
        UserError: the law is fitted to an envelope, or has other variables than N, D and C, which
            the candidates do not give; a limit is not positive, no run satisfies the limits, or
            the target is undefined.
    """
    form = law.form
    known = {"n", "d", "c"} if candidates is None else {*candidates.values}
    if form.envelope is not None or not {*form.variables} <= known:
        raise UserError(f"{law.name}: runs can be suggested only for laws of N, D and C, or of the "
                        "variables of given candidates, that are fitted to every run, such as "
                        "chinchilla")
    if candidates is not None and (sizes, ratios, max_tokens) != (None, None, None):
        raise UserError("sizes, ratios, max_tokens: limit the grid that is searched without "
                        "candidates; drop them, or the candidates")
    check_counts(runs, seeds)
    value = float(target.evaluate(law.point)[0])
    if not np.isfinite(target.transform(np.array([value]))[0]):
        raise UserError(f"{target.name}: undefined under the fitted law {law.name}, because its "
                        "loss rises with N or with D; train one size on several token counts, and "
                        "one token count at several sizes")
    if candidates is None:
        max_flops = max_run_flops(table, budget, at, max_flops_per_run)
        candidates = candidates_of_design(
            candidate_runs(table, max_flops, sizes, ratios, max_tokens))
    else:
        check_budget(budget)
        candidates = candidates.affordable(
            max_run_flops(table, None, at, max_flops_per_run), budget)
    noise = noise or Noise(estimate_noise(law, table))
    robust, theta = law.residual_loss, form.from_params(law.point)[0]
    information = fisher_information(
        *gradient_and_moments(form, theta, table.values, noise, robust))
    gradient = target_gradient(form, theta, target)
    if not np.isfinite(gradient).all():
        raise UserError(f"{target.name}: has no finite derivative at the fitted law; choose "
                        "another target")
    choice = CandidateSet.from_runs(
        information, gradient, gradient_and_moments(form, theta, candidates.values, noise, robust),
        candidates.cost)
    chosen = choice.order_by_gain(choice.choose(budget, runs, seeds))
    next_runs, flops, spent = [], 0.0, 0.0
    for i, k in enumerate(chosen):
        n, d, c = (float(candidates.values[v][k]) for v in ("n", "d", "c"))
        cost, sd = float(candidates.cost[k]), float(np.sqrt(choice.variance(chosen[:i + 1])))
        flops, spent = flops + c, spent + cost
        next_runs.append(NextRun(n, d, c, chosen[:i].count(k), sd, target.interval(value, sd),
                                 flops, cost, spent,
                                 candidates.names[k] if candidates.names else None))
    sd_now = float(np.sqrt(choice.variance([])))
    bootstrap_interval = _bootstrap_interval(law, target)
    warnings = (*_warnings(law, target, value, sd_now, bootstrap_interval),
                *_concentration_warnings(next_runs))
    return Suggestion(law.name, str(law.convention["n"]), target, value, noise, sd_now,
                      target.interval(value, sd_now), bootstrap_interval, tuple(next_runs),
                      len(candidates.cost), warnings)


def check_counts(runs: int, seeds: int) -> None:
    """Check the number of suggested runs and seeds.

    Raises:
        UserError: one is zero or above `MAX_SUGGESTED`.
    """
    for name, count in (("runs", runs), ("seeds", seeds)):
        if not 1 <= count <= MAX_SUGGESTED:
            raise UserError(f"{name} {count:,}: a whole number from 1 to {MAX_SUGGESTED} is "
                            "expected; train the first few, fit again, and repeat the suggestion")


def check_budget(budget: float) -> None:
    """Check a budget in any unit of cost.

    Raises:
        UserError: it is not a positive number.
    """
    if not 0 < budget < np.inf:
        raise UserError(f"budget {budget:g}: a positive number is expected, in the unit of the "
                        "candidates' cost")


def _bootstrap_interval(law: Law, target: Target) -> Interval | None:
    ends = law.band(lambda params_BP: target.evaluate(params_BP)[:, None])
    if ends is None or not np.isfinite(ends).all():
        return None
    return float(ends[0][0]), float(ends[1][0])


def _concentration_warnings(runs: Sequence[NextRun]) -> Iterable[str]:
    for number, run in enumerate(runs, start=1):
        if len(runs) > 1 and run.cost > _LARGE_SHARE * runs[-1].cumulative_cost:
            yield (f"run {number} takes {run.cost / runs[-1].cumulative_cost:.0%} of the cost, so "
                   "the gain depends on this one run; a lower limit on the FLOPs of a run spreads "
                   "the risk")


def _warnings(
    law: Law, target: Target, value: float, sd: float, bootstrap_interval: Interval | None
) -> Iterable[str]:
    if not law.converged:
        yield ("the fit did not converge, so the suggestion is not reliable; fix the fit first")
    low, high = target.interval(value, sd)
    spread = high / value if target.log else 1 + (high - value) / abs(value)
    if spread > _UNDETERMINED_FACTOR or (not target.log and low < 0 < high):
        yield (f"these runs do not determine {target.name}: its interval is {low:.3g} to "
               f"{high:.3g}. The suggestion is based on one of many laws that fit; train its first "
               "runs, fit again, and repeat the suggestion")
    elif bootstrap_interval is not None:
        a, b = (float(target.transform(np.array([end]))[0]) for end in bootstrap_interval)
        c, d = (float(target.transform(np.array([end]))[0]) for end in (low, high))
        ratio = max((b - a) / (d - c), (d - c) / (b - a)) if b > a else np.inf
        if ratio > _DISAGREEMENT:
            yield (f"the bootstrap interval of {target.name} is {bootstrap_interval[0]:.4g} to "
                   f"{bootstrap_interval[1]:.4g}, that of the linear theory {low:.4g} to "
                   f"{high:.4g}: with few or noisy runs the intervals below are approximate")
    yield from law.warnings

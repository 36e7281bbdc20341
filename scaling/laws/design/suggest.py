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
from numpy.typing import NDArray

from scaling.errors import UserError
from scaling.laws.design.exchange import CandidateSet
from scaling.laws.design.fisher import (
    Noise,
    Target,
    estimate_noise,
    fisher_information,
    gradient_and_moments,
    target_gradient,
)
from scaling.laws.design.grid import Design
from scaling.laws.forms.variables import FLOPS_PER_PARAMETER_TOKEN, check_amount
from scaling.laws.law import Interval, Law
from scaling.laws.table import RunsTable

Array = NDArray[np.float64]

DEFAULT_RUNS = 8
MAX_SUGGESTED = 100
"""Largest number of suggested runs, and of seeds of one run."""
RATIO_MARGIN = 4.0
"""Factor by which the tokens per parameter of a new run may exceed those of the runs so far."""

_STEPS_PER_OCTAVE = 2        # of the grid of candidates, in N and in D/N
_RATIOS = (1e-6, 1e9)        # tokens per parameter that are accepted
_MAX_CANDIDATES = 20_000
_SIGNIFICANT_DIGITS = 3      # of a candidate's N and D
_UNDETERMINED_FACTOR = 10.0  # upper end over value, above which a target counts as undetermined
_LARGE_SHARE = 0.5           # of the compute in one run, above which a warning is added
_DISAGREEMENT = 1.5          # ratio of the bootstrap's interval to the linear one, either way


@dataclass(frozen=True)
class NextRun:
    """A suggested run: N parameters, D tokens, C = 6 N D, its seed at that point (from 0), and the
    expected standard deviation and interval of the target after it and the runs before it."""

    n: float
    d: float
    c: float
    seed: int
    sd: float
    interval: Interval
    cumulative_flops: float


@dataclass(frozen=True)
class Suggestion:
    """The suggested runs, in decreasing order of gain per FLOP."""

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
    warnings: tuple[str, ...]

    @property
    def flops(self) -> float:
        """Total C of the suggested runs."""
        return self.runs[-1].cumulative_flops if self.runs else 0.0

    def to_json(self) -> dict[str, Any]:
        """JSON-serialisable data."""
        return {
            "law": self.law, "n_counts": self.counting, "target": self.target.name,
            "value": self.value, "relative": self.target.log, "noise": self.noise.sd,
            "now": {"sd": self.sd, "interval": list(self.interval),
                    "bootstrap_interval": self.bootstrap_interval and
                    list(self.bootstrap_interval)},
            "runs": [{"n": run.n, "d": run.d, "flops": run.c, "seed": run.seed, "sd": run.sd,
                      "interval": list(run.interval),
                      "cumulative_flops": run.cumulative_flops} for run in self.runs],
            "flops": self.flops, "warnings": list(self.warnings),
        }


def suggest(
    law: Law,
    table: RunsTable,
    target: Target,
    budget: float,
    *,
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
        budget: FLOPs of all new runs together, at C = 6 N D.
        at: the budget at which the target is evaluated; every run costs less.
        max_flops_per_run: largest FLOPs of one run; by default the budget.
        sizes: values of N that can be trained; by default from the smallest so far upwards, a
            factor of sqrt(2) apart.
        ratios: smallest and largest tokens per parameter; by default those of the runs so far,
            widened fourfold on either side.
        max_tokens: largest number of tokens of one run.
        runs: largest number of runs.
        seeds: largest number of runs of the same N and D.
        noise: noise of the runs; estimated from the table by default.

    Raises:
        UserError: the law has other variables than N, D and C or is fitted to an envelope, a limit
            is not positive, no run satisfies the limits, or the target is undefined.
    """
    form = law.form
    if form.envelope is not None or not {*form.variables} <= {"n", "d", "c"}:
        raise UserError(f"{law.name}: runs can be suggested only for laws of N, D and C that are "
                        "fitted to every run, such as chinchilla")
    check_counts(runs, seeds)
    value = float(target.evaluate(law.point)[0])
    if not np.isfinite(target.transform(np.array([value]))[0]):
        raise UserError(f"{target.name}: undefined under the fitted law {law.name}, because its "
                        "loss rises with N or with D; train one size on several token counts, and "
                        "one token count at several sizes")
    max_flops = max_run_flops(table, budget, at, max_flops_per_run)
    design = candidate_runs(table, max_flops, sizes, ratios, max_tokens)
    noise = noise or Noise(estimate_noise(law, table))
    robust, theta = law.residual_loss, form.from_params(law.point)[0]
    information = fisher_information(
        *gradient_and_moments(form, theta, table.values, noise, robust))
    gradient = target_gradient(form, theta, target)
    if not np.isfinite(gradient).all():
        raise UserError(f"{target.name}: has no finite derivative at the fitted law; choose "
                        "another target")
    candidates = CandidateSet.from_runs(
        information, gradient, gradient_and_moments(form, theta, design.values, noise, robust),
        design.c)
    chosen = candidates.order_by_gain(candidates.choose(budget, runs, seeds))
    next_runs, spent = [], 0.0
    for i, k in enumerate(chosen):
        spent += float(design.c[k])
        sd = float(np.sqrt(candidates.variance(chosen[:i + 1])))
        next_runs.append(NextRun(float(design.n[k]), float(design.d[k]), float(design.c[k]),
                                 chosen[:i].count(k), sd, target.interval(value, sd), spent))
    sd_now = float(np.sqrt(candidates.variance([])))
    bootstrap_interval = _bootstrap_interval(law, target)
    warnings = (*_warnings(law, target, value, sd_now, bootstrap_interval),
                *_concentration_warnings(next_runs))
    return Suggestion(law.name, str(law.convention["n"]), target, value, noise, sd_now,
                      target.interval(value, sd_now), bootstrap_interval, tuple(next_runs),
                      warnings)


def check_counts(runs: int, seeds: int) -> None:
    """Check the number of suggested runs and seeds.

    Raises:
        UserError: one is zero or above `MAX_SUGGESTED`.
    """
    for name, count in (("runs", runs), ("seeds", seeds)):
        if not 1 <= count <= MAX_SUGGESTED:
            raise UserError(f"{name} {count:,}: a whole number from 1 to {MAX_SUGGESTED} is "
                            "expected; train the first few, fit again, and repeat the suggestion")


def max_run_flops(
    table: RunsTable, budget: float, at: float | None = None, max_flops_per_run: float | None = None
) -> float:
    """Largest FLOPs of one run: the minimum of the budget and `max_flops_per_run`, and below both
    the target's budget `at` and the first held-out run beyond the grid, which would otherwise no
    longer test an extrapolation.

    Raises:
        UserError: an amount is not positive.
    """
    for name, amount in (("budget", budget), ("most FLOPs of a run", max_flops_per_run),
                         ("the target's budget", at)):
        if amount is not None:
            check_amount(name, amount, "c", "1e20")
    below = [run.c for run in table.heldout if run.c > table.c.max()]
    below += [] if at is None else [at]
    upper = min((float(np.nextafter(c, 0)) for c in below), default=np.inf)
    return min(budget, upper, np.inf if max_flops_per_run is None else max_flops_per_run)


def candidate_runs(
    table: RunsTable,
    max_flops_per_run: float,
    sizes: Sequence[float] | None = None,
    ratios: Interval | None = None,
    max_tokens: float | None = None,
) -> Design:
    """Runs that could be trained: a grid of N and D/N in factors of about sqrt(2), rounded to three
    digits.

    No candidate has fewer parameters, tokens or FLOPs than the smallest run so far, where it is
    unknown whether the law holds, or costs more than `max_flops_per_run`.

    Raises:
        UserError: a limit is invalid, or there are no candidates or too many.
    """
    ratio = table.d / table.n
    low, high = ratios or (ratio.min() / RATIO_MARGIN, ratio.max() * RATIO_MARGIN)
    if not _RATIOS[0] <= low <= high <= _RATIOS[1]:
        raise UserError(f"tokens per parameter {low:g}:{high:g}: two positive numbers are "
                        f"expected, the lower one first, from {_RATIOS[0]:g} to {_RATIOS[1]:g}")
    for size in sizes or ():
        check_amount("sizes", size, "n", "1e8")
    if max_tokens is not None:
        check_amount("most tokens of a run", max_tokens, "d", "1e11")
    top = float(np.sqrt(max_flops_per_run / (FLOPS_PER_PARAMETER_TOKEN * low)))
    n = (np.array(sorted(set(sizes)), dtype=float) if sizes is not None
         else _geometric_grid(float(table.n.min()), top))
    n_NR, ratio_NR = np.meshgrid(n, _geometric_grid(low, high), indexing="ij")
    d = _round((n_NR * ratio_NR).ravel())
    n = n_NR.ravel()
    c = FLOPS_PER_PARAMETER_TOKEN * n * d
    min_c, min_d = table.c.min() * (1 - 1e-9), table.d.min() * (1 - 1e-9)
    allowed = (c <= max_flops_per_run) & (c >= min_c) & (d >= min_d)
    if max_tokens is not None:
        allowed &= d <= max_tokens
    if not allowed.any():
        raise UserError(f"no run of {low:.3g} to {high:.3g} tokens per parameter satisfies the "
                        f"limits: one costs at least {table.c.min():.3g} FLOP, as the smallest so "
                        f"far, and at most {max_flops_per_run:.3g}; raise a limit, or widen the "
                        "sizes or the tokens")
    if allowed.sum() > _MAX_CANDIDATES:
        raise UserError(f"{allowed.sum()} candidates, where at most {_MAX_CANDIDATES} are "
                        "expected; narrow the sizes or the tokens per parameter")
    return Design(n[allowed], d[allowed])


def _geometric_grid(low: float, high: float) -> Array:
    """Numbers from low to high, a factor of about sqrt(2) apart, both ends included."""
    if high <= low:
        return np.array([low])
    steps = int(np.ceil(_STEPS_PER_OCTAVE * np.log2(high / low))) + 1
    inner = _round(np.geomspace(low, high, max(steps, 2))[1:-1])
    return np.concatenate([[low], inner, [high]])


def _round(values: Array) -> Array:
    return np.array([float(f"{value:.{_SIGNIFICANT_DIGITS}g}") for value in values])


def _bootstrap_interval(law: Law, target: Target) -> Interval | None:
    ends = law.band(lambda params_BP: target.evaluate(params_BP)[:, None])
    if ends is None or not np.isfinite(ends).all():
        return None
    return float(ends[0][0]), float(ends[1][0])


def _concentration_warnings(runs: Sequence[NextRun]) -> Iterable[str]:
    for number, run in enumerate(runs, start=1):
        if len(runs) > 1 and run.c > _LARGE_SHARE * runs[-1].cumulative_flops:
            yield (f"run {number} takes {run.c / runs[-1].cumulative_flops:.0%} of the compute, so "
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

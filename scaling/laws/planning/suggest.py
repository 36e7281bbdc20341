"""Which runs to train next: those that narrow one interval the most for their compute.

A c-optimal design (Elfving 1952; Atkinson, Donev and Tobias 2007, section 10.4), local to the
law as fitted: every run that could be trained adds its J J^T to what the runs so far say about
theta, and the variance of the target follows by the delta method (`fisher`). Runs are chosen
greedily and then exchanged one by one until no exchange helps.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaling.errors import UserError
from scaling.laws.law import Interval, Law
from scaling.laws.planning.choose import Choice
from scaling.laws.planning.design import Design
from scaling.laws.planning.fisher import (
    Noise,
    Target,
    information,
    measured_noise,
    of_runs,
    robust_of,
    slope,
)
from scaling.laws.runs.table import FLOPS_PER_PARAMETER_TOKEN, RunsTable

Array = NDArray[np.float64]

RUNS = 8
WIDEN = 4.0
"""How far beyond the tokens per parameter of the runs so far a new run may lie, as a factor."""

_STEPS_PER_OCTAVE = 2      # of the grid of candidates, in N and in D/N
_MOST_CANDIDATES = 20_000
_DIGITS = 3                # of a candidate's N and D
_UNDETERMINED = 10.0       # factor either side of the value: an interval that says nothing
_ALONE = 0.5               # of the compute in one run: all eggs in one basket
_DISAGREE = 1.5            # between the widths of the bootstrap's interval and of the linear one


@dataclass(frozen=True)
class NextRun:
    """A run to train: N parameters, D tokens, its C = 6 N D, which of the seeds at that point it
    is (from 0), and what the target's interval would be with it and those before it."""

    n: float
    d: float
    c: float
    seed: int
    sd: float
    interval: Interval
    cumulative_flops: float


@dataclass(frozen=True)
class Suggestion:
    """The next runs, in the order in which they pay."""

    law: str
    counting: str
    target: Target
    value: float
    noise: Noise
    sd: float
    """Of the target now, on its own scale."""
    interval: Interval
    """Of the target now, by the linear theory, as all that follow."""
    bootstrap_interval: Interval | None
    runs: tuple[NextRun, ...]
    warnings: tuple[str, ...]

    @property
    def flops(self) -> float:
        """C of the runs together."""
        return self.runs[-1].cumulative_flops if self.runs else 0.0

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
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
    aim: Target,
    budget: float,
    *,
    at: float | None = None,
    most: float | None = None,
    sizes: Sequence[float] | None = None,
    ratios: Interval | None = None,
    max_tokens: float | None = None,
    runs: int = RUNS,
    seeds: int = 1,
    noise: Noise | None = None,
) -> Suggestion:
    """The runs that narrow the target's interval the most within a budget.

    Args:
        law: fitted to `table`; the suggestion holds where it is about right.
        table: the runs so far, and the held-out ones.
        aim: what is to be known.
        budget: FLOPs of all new runs together, at C = 6 N D.
        at: the budget that the target is about; no run costs as much.
        most: FLOPs of one run.
        sizes: the N that can be trained; by default from the smallest so far upwards, sqrt(2)
            apart.
        ratios: least and most tokens per parameter; by default those of the runs so far, widened
            fourfold on either side.
        max_tokens: the most tokens of one run.
        runs: how many at most.
        seeds: how many runs of the same N and D at most.
        noise: of the runs; measured on the table by default.

    Raises:
        UserError: the law is about more than N, D and C or is fitted to an envelope, a limit is
            none, no run fits within the limits, or the law gives the target no value.
    """
    form = law.form
    if form.envelope is not None or not {*form.variables} <= {"n", "d", "c"}:
        raise UserError(f"{law.name}: runs are suggested for laws of N, D and C that are fitted to "
                        "every run, such as chinchilla")
    if runs < 1 or seeds < 1:
        raise UserError("runs and seeds: at least one of each is expected")
    value = float(aim.of(law.point)[0])
    if not np.isfinite(aim.linear(np.array([value]))[0]):
        raise UserError(f"{aim.name}: the law {law.name} as fitted gives it no value, since its "
                        "loss rises with N or with D; train some size on several token counts, and "
                        "some token count at several sizes")
    design = candidates(table, limit(table, budget, at, most), sizes, ratios, max_tokens)
    noise = noise or Noise(measured_noise(law, table))
    robust, theta = robust_of(law), form.internal(law.point)[0]
    known = information(*of_runs(form, theta, table.values, noise, robust))
    gradient = slope(form, theta, aim)
    if not np.isfinite(gradient).all():
        raise UserError(f"{aim.name}: has no derivative at the law as fitted; another target is "
                        "needed")
    choice = Choice.of(known, gradient, of_runs(form, theta, design.values, noise, robust),
                          design.c)
    chosen = choice.ordered(choice.best(budget, runs, seeds))
    rows, spent = [], 0.0
    for place, k in enumerate(chosen):
        spent += float(design.c[k])
        sd = float(np.sqrt(choice.variance(chosen[:place + 1])))
        rows.append(NextRun(float(design.n[k]), float(design.d[k]), float(design.c[k]),
                            chosen[:place].count(k), sd, aim.interval(value, sd), spent))
    now = float(np.sqrt(choice.variance([])))
    boot = _bootstrap(law, aim)
    return Suggestion(law.name, str(law.convention["n"]), aim, value, noise, now,
                      aim.interval(value, now), boot, tuple(rows),
                      (*_warnings(law, aim, value, now, boot), *_risky(rows)))


def limit(
    table: RunsTable, budget: float, at: float | None = None, most: float | None = None
) -> float:
    """What one run may cost, FLOP: the least of the budget, of `most`, and of what lies just below
    the target's budget `at` and below the first held-out run beyond the grid, which would test
    no extrapolation any more.

    Raises:
        UserError: an amount is not positive.
    """
    for name, amount in (("budget", budget), ("most FLOPs of a run", most)):
        if amount is not None and not 0 < amount < np.inf:
            raise UserError(f"{name} {amount:g}: a positive number of FLOPs is expected")
    below = [run.c for run in table.heldout if run.c > table.c.max()]
    below += [] if at is None else [at]
    upper = min((float(np.nextafter(c, 0)) for c in below), default=np.inf)
    return min(budget, upper, np.inf if most is None else most)


def candidates(
    table: RunsTable,
    most: float,
    sizes: Sequence[float] | None = None,
    ratios: Interval | None = None,
    max_tokens: float | None = None,
) -> Design:
    """Runs that could be trained: N by D on a grid of powers of sqrt(2), each to three digits.

    None is smaller, on fewer tokens, or cheaper than the least so far, where nobody knows whether
    the law holds; none costs more than `most`.

    Raises:
        UserError: there is none.
    """
    ratio = table.d / table.n
    low, high = ratios or (ratio.min() / WIDEN, ratio.max() * WIDEN)
    if not 0 < low <= high < np.inf:
        raise UserError(f"tokens per parameter {low:g}:{high:g}: two positive numbers are "
                        "expected, the lower one first")
    if sizes is not None and not all(0 < n < np.inf for n in sizes):
        raise UserError(f"sizes {', '.join(f'{n:g}' for n in sizes)}: positive numbers are "
                        "expected")
    top = float(np.sqrt(most / (FLOPS_PER_PARAMETER_TOKEN * low)))
    n = (np.array(sorted(set(sizes)), dtype=float) if sizes is not None
         else _ladder(float(table.n.min()), top))
    steps = _ladder(low, high)
    n_NR, ratio_NR = np.meshgrid(n, steps, indexing="ij")
    d = _rounded((n_NR * ratio_NR).ravel())
    n = n_NR.ravel()
    c = FLOPS_PER_PARAMETER_TOKEN * n * d
    fine = (c <= most) & (c >= table.c.min() * (1 - 1e-9)) & (d >= table.d.min() * (1 - 1e-9))
    if max_tokens is not None:
        fine &= d <= max_tokens
    if not fine.any():
        raise UserError(f"no run of {low:.3g} to {high:.3g} tokens per parameter fits: one costs "
                        f"at least {table.c.min():.3g} FLOP, as the smallest so far, and may cost "
                        f"{most:.3g}; raise a limit, or widen the sizes or the tokens")
    if fine.sum() > _MOST_CANDIDATES:
        raise UserError(f"{fine.sum()} candidates, where {_MOST_CANDIDATES} are enough; narrow the "
                        "sizes or the tokens per parameter")
    return Design(n[fine], d[fine])


def _ladder(low: float, high: float) -> Array:
    """Numbers from low to high, about sqrt(2) apart, both ends included."""
    if high <= low:
        return np.array([low])
    steps = int(np.ceil(_STEPS_PER_OCTAVE * np.log2(high / low))) + 1
    inner = _rounded(np.geomspace(low, high, max(steps, 2))[1:-1])
    return np.concatenate([[low], inner, [high]])


def _rounded(values: Array) -> Array:
    return np.array([float(f"{value:.{_DIGITS}g}") for value in values])


def _bootstrap(law: Law, aim: Target) -> Interval | None:
    ends = law.band(lambda params_BP: aim.of(params_BP)[:, None])
    if ends is None or not np.isfinite(ends).all():
        return None
    return float(ends[0][0]), float(ends[1][0])


def _risky(rows: Sequence[NextRun]) -> Iterable[str]:
    for place, run in enumerate(rows, start=1):
        if len(rows) > 1 and run.c > _ALONE * rows[-1].cumulative_flops:
            yield (f"run {place} takes {run.c / rows[-1].cumulative_flops:.0%} of the compute, and "
                   "what is gained hangs on it; a lower most for one run spreads the risk")


def _warnings(
    law: Law, aim: Target, value: float, sd: float, boot: Interval | None
) -> Iterable[str]:
    if not law.converged:
        yield ("the fit did not converge, so the suggestion rests on a law that is none; mend the "
               "fit first")
    low, high = aim.interval(value, sd)
    spread = high / value if aim.log else 1 + (high - value) / abs(value)
    if spread > _UNDETERMINED or (not aim.log and low < 0 < high):
        yield (f"these runs do not determine {aim.name}: its interval is {low:.3g} to {high:.3g}. "
               "The suggestion rests on one law among many that fit; train its first runs, fit, "
               "and ask again")
    elif boot is not None:
        a, b = (float(aim.linear(np.array([end]))[0]) for end in boot)
        c, d = (float(aim.linear(np.array([end]))[0]) for end in (low, high))
        wider = max((b - a) / (d - c), (d - c) / (b - a)) if b > a else np.inf
        if wider > _DISAGREE:
            yield (f"the bootstrap's interval of {aim.name} is {boot[0]:.4g} to {boot[1]:.4g}, and "
                   f"the linear theory's {low:.4g} to {high:.4g}: with so few or such noisy runs "
                   "the intervals below are rough")
    yield from law.warnings

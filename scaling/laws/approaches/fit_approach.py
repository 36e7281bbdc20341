"""Fit the compute-optimal frontier to a table of runs or to training curves."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from scaling.errors import DataError, UserError, option
from scaling.laws.approaches import akima, parabola
from scaling.laws.approaches.envelope import POINTS, envelope
from scaling.laws.approaches.frontier import APPROACHES, Frontier
from scaling.laws.approaches.isoflop import (
    TOLERANCE,
    IsoFlopProfile,
    group_by_budget,
    in_shared_budgets,
)
from scaling.laws.approaches.line import Line, fit_log_line
from scaling.laws.approaches.optima import (
    LossNoise,
    Optima,
    ProfileMinimum,
    Screen,
    screen_optima,
    seed_noise,
)
from scaling.laws.arguments import checked
from scaling.laws.fitting.bootstrap import check_resamples
from scaling.laws.forms.variables import SIX_ND
from scaling.laws.table import RunsTable
from scaling.laws.training_curves import Curves

_MAX_LISTED = 3  # budgets in an error message
_DEGREES: dict[str, parabola.Degree] = {"approach-2": 2, "approach-2-cubic": 3}
_LEAST_SIZES = {"approach-2-akima": akima.MIN_SIZES,
                **{name: parabola.least_sizes(degree) for name, degree in _DEGREES.items()}}


@checked
def fit_approach(
    table: RunsTable | Curves,
    name: str,
    *,
    budgets: Sequence[float] | float | None = None,
    tolerance: float = TOLERANCE,
    within: float | None = None,
    target: parabola.ParabolaTarget = "loss",
    noise: LossNoise | None = None,
    weighted: bool | None = None,
    screen: Screen | None = None,
    points: int = POINTS,
    smooth: float = 0.0,
    resamples: int = 1000,
    seed: int = 0,
    watch: Callable[[int], None] = lambda done: None,
) -> Frontier:
    """Fit N* and D* as power laws of C by one of Hoffmann's approaches without a law of the loss.

    Args:
        table: finished runs for approach 2 and its variants; `Curves` for approach 1.
        name: approach-1, approach-2, approach-2-cubic or approach-2-akima.
        budgets: approach 2: FLOPs of the budgets; None groups the runs by C. Where runs do not
            share budgets in the C of the table, C is the column of FLOPs, or 6 N D with the N, in
            which they do; the result's convention names it.
        tolerance: approach 2: largest difference of ln C between a run and its budget.
        within: approach 2: leaves out sizes further than this factor from the size with the
            lowest loss of their budget, since distant sizes skew a parabola; None for all sizes.
        target: approach-2, approach-2-cubic: whether the polynomials are fitted to the loss or to
            its logarithm.
        noise: approach 2: standard deviation of the log-loss between runs, a number or a function
            of the budget in FLOP. By default approach-2 and approach-2-cubic estimate it from the
            scatter about the polynomials, and approach-2-akima from runs of the same size and
            budget.
        weighted: approach 2: whether optima are weighted by 1/n_se^2; by default only in
            approach-2-akima, as in Porian et al.
        screen: approach 2: criteria for using an optimum.
        points: approach-1: number of values of C at which the envelope is evaluated.
        smooth: approach-1: half-width in ln D over which curves are smoothed.
        resamples: draws of the noise in approach-2-akima, subsamples in approach-1.
        seed: seed of the resamples.
        watch: called with the number of resamples done.

    Raises:
        DataError: fewer than two budgets have an optimum that can be used; the message lists the
            reasons.
        UserError: the approach is unknown, or needs another kind of table.
    """
    if name not in APPROACHES:
        near = difflib.get_close_matches(name, APPROACHES, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UserError(f"{name}: no approach of that name; {hint}The approaches are "
                        f"{', '.join(APPROACHES)}")
    check_resamples(resamples, seed)
    if name == "approach-1":
        if not isinstance(table, Curves):
            raise UserError("approach-1 needs training curves, with many points per run (columns "
                            "run_id, n, d and loss), but a table of finished runs was given; fit "
                            "that with approach-2")
        return _approach_1(table, points, smooth, resamples, seed, watch)
    if isinstance(table, Curves):
        raise UserError(f"{name} needs a table of finished runs, but training curves were given; "
                        "fit those with approach-1")
    several = None if budgets is None else np.atleast_1d(np.asarray(budgets, dtype=float)).tolist()
    return _approach_2(table, name, several, tolerance, within, target, noise, weighted,
                       screen or Screen(), resamples, seed, watch)


def _approach_1(
    curves: Curves, points: int, smooth: float, resamples: int, seed: int,
    watch: Callable[[int], None],
) -> Frontier:
    result = envelope(curves, points=points, smooth=smooth, resamples=resamples, seed=seed,
                      watch=watch)
    convention = {
        "n": "column of the curves", "d": "tokens seen", "c": SIX_ND, "loss": "nats per token",
        "points": points, "smooth": smooth, "range": _range(result.optima.kept),
    }
    digest = hashlib.sha256()
    for values in (curves.run.astype(np.int64), curves.n, curves.d, curves.loss):
        digest.update(np.ascontiguousarray(values).tobytes())
    return Frontier("approach-1", convention, result.n, result.d, result.optima,
                    len(curves.run_id), warnings=result.warnings, data_sha256=digest.hexdigest())


def _approach_2(
    table: RunsTable, name: str, budgets: Sequence[float] | None, tolerance: float,
    within: float | None, target: parabola.ParabolaTarget, noise: LossNoise | None,
    weighted: bool | None, screen: Screen, resamples: int, seed: int,
    watch: Callable[[int], None],
) -> Frontier:
    table, warnings = in_shared_budgets(table, _LEAST_SIZES[name], budgets, tolerance)
    profiles, outside = group_by_budget(table, budgets, tolerance)
    warnings += outside
    if not profiles:
        raise DataError(
            f"{name}: none of the {table.loss.size} runs is within {tolerance:.2g} in ln C of a "
            f"given budget; they have {table.c.min():.4g} to {table.c.max():.4g} FLOP (C "
            f"{table.convention['c']}). Give other {option('budgets=', '--budgets')}, or a larger "
            f"{option('tolerance=', '--tolerance')}")
    n_grouped = int(sum(p.loss.size for p in profiles))
    if within is not None:
        if not within > 1:
            raise UserError(f"{name}: within {within:g}: a factor above 1 is expected, such as 4")
        profiles = [p.near_minimum(within) for p in profiles]
    convention: dict[str, Any] = {
        **table.convention, "loss": "nats per token", "budgets": len(profiles),
        "tolerance": tolerance, **({} if within is None else {"within": within}),
    }
    minima: list[ProfileMinimum]
    if name in _DEGREES:
        if _DEGREES[name] == 3:  # an off-centre grid biases parabolas, but hardly cubics
            screen = Screen(screen.edge, np.inf)
        minima = parabola.polynomial_minima(profiles, target, noise, _DEGREES[name])
        convention |= {"cubic" if _DEGREES[name] == 3 else "parabola": f"{target} in ln N"}
    else:
        # An off-centre grid biases parabolas, but not the interpolation.
        screen = Screen(screen.edge, np.inf)
        noise = noise if noise is not None else seed_noise(profiles)
        if noise is None and resamples:
            raise UserError("approach-2-akima: needs the noise, a standard deviation of the "
                            "log-loss between runs such as 0.002, since no two runs have the same "
                            "size and budget; give it with "
                            f"{option('noise=', '--noise')}, or train a second seed")
        minima = akima.akima_minima(profiles, noise or 0.0, resamples=resamples, seed=seed,
                                    watch=watch)
        convention |= {"interpolation": "Akima, log-loss in ln N", "resamples": resamples}
    optima = screen_optima(profiles, minima, screen)
    grouped = np.mean([p.sizes.size >= _LEAST_SIZES[name] for p in profiles]) >= 0.5
    _check_enough_optima(name, optima, table.convention["c"], bool(grouped), outside)
    kept = optima.kept
    weighted = (name == "approach-2-akima" and resamples > 0) if weighted is None else weighted
    n, d = _lines(name, kept, weighted)
    warnings += optima.warnings + _few_budgets(kept)
    if name == "approach-2":
        warnings += _skewed(profiles, minima, optima, target)
    n_fitted = int(sum(p.loss.size for p, ok in zip(profiles, optima.used, strict=True) if ok))
    n_near = int(sum(p.loss.size for p in profiles))
    return Frontier(
        name, convention | {"weights": "1/n_se^2" if weighted else "equal",
                            "range": _range(kept)},
        n, d, optima, n_fitted,
        excluded={**table.excluded, "in_no_budget": int(table.loss.size) - n_grouped,
                  "far_from_the_lowest": n_grouped - n_near,
                  "in_budgets_left_out": n_near - n_fitted},
        warnings=warnings, data_sha256=table.sha256,
    )


def _lines(name: str, kept: Optima, weighted: bool) -> tuple[Line, Line]:
    weights = None
    if weighted:
        if not (np.isfinite(kept.n_se) & (kept.n_se > 0)).all():
            raise UserError(f"{name}: cannot weight by standard errors, since that of some budget "
                            "is unknown or zero; give the noise, or weight all budgets equally")
        weights = kept.n_se**-2.0
    return fit_log_line(kept.c, kept.n, weights), fit_log_line(kept.c, kept.d, weights)


def _check_enough_optima(
    name: str, optima: Optima, counting: str, grouped: bool, warnings: tuple[str, ...]
) -> None:
    n_used = int(optima.used.sum())
    if n_used >= 2:
        return
    reasons = (*optima.warnings, *warnings)
    listed = "; ".join(reasons[:_MAX_LISTED])
    more = f"; and {len(reasons) - _MAX_LISTED} more" if len(reasons) > _MAX_LISTED else ""
    budgets = "" if grouped else (
        f"; budgets that are not found can be given with {option('budgets=', '--budgets')}")
    raise DataError(f"{name}: {n_used} of {len(optima.c)} budgets (C {counting}) have an optimum "
                    f"that can be used, where at least 2 are needed: {listed}{more}. Runs that are "
                    f"not grouped by budget can be fitted with the law chinchilla{budgets}")


def _few_budgets(kept: Optima) -> tuple[str, ...]:
    count = len(kept.c)
    if count == 2:
        return ("two budgets: a straight line passes through both, and there are no intervals",)
    if count < 5:
        return (f"{count} budgets: the intervals are valid, but wide, because the scatter of the "
                f"optima is estimated from only {count} points",)
    return ()


def _skewed(
    profiles: list[IsoFlopProfile], minima: list[ProfileMinimum], optima: Optima,
    target: parabola.ParabolaTarget,
) -> tuple[str, ...]:
    used = np.flatnonzero(optima.used)
    warning = parabola.skew_warning([profiles[i] for i in used], [minima[i] for i in used], target)
    return (warning,) if warning else ()


def _range(kept: Optima) -> dict[str, list[float]]:
    return {name: [float(values.min()), float(values.max())]
            for name, values in (("n", kept.n), ("d", kept.d), ("c", kept.c))}

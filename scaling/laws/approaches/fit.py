"""From a table of runs, or of training curves, to the compute-optimal frontier."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from scaling.errors import UserError
from scaling.laws.approaches import akima, parabola
from scaling.laws.approaches.budgets import TOLERANCE, Budget, group
from scaling.laws.approaches.envelope import POINTS, Curves, envelope
from scaling.laws.approaches.frontier import APPROACHES, Frontier
from scaling.laws.approaches.line import Line, log_line
from scaling.laws.approaches.optima import Minimum, Noise, Optima, Screen, noise_of_seeds, screened
from scaling.laws.runs.table import SIX_ND, RunsTable

_SHOWN = 3  # budgets that an error names


def fit_approach(
    table: RunsTable | Curves,
    name: str,
    *,
    budgets: Sequence[float] | None = None,
    tolerance: float = TOLERANCE,
    within: float | None = None,
    of: parabola.Of = "loss",
    noise: Noise | None = None,
    weighted: bool | None = None,
    screen: Screen | None = None,
    points: int = POINTS,
    smooth: float = 0.0,
    resamples: int = 1000,
    seed: int = 0,
) -> Frontier:
    """Fit N* and D* as power laws of C by one of Hoffmann's approaches without a law of the loss.

    Args:
        table: finished runs for the two of approach 2; `Curves` for approach 1.
        name: approach-1, approach-2 or approach-2-akima.
        budgets: approach 2: FLOPs of the budgets; None groups the runs by C.
        tolerance: approach 2: how far a run's ln C may be from its budget's.
        within: approach 2: leaves out sizes that are further than this factor from the size with
            the lowest loss of its budget; None takes all. Far sizes skew a parabola.
        of: approach-2: whether the parabolas are of the loss or of its logarithm.
        noise: approach 2: standard deviation of the log-loss from run to run, a number or a
            function of the budget in FLOP. Without it approach-2 takes the scatter about the
            parabolas, and approach-2-akima that of runs of the same size and budget.
        weighted: approach 2: whether an optimum counts by 1/n_se^2; by default in
            approach-2-akima, as Porian et al. do, and not in approach-2.
        screen: approach 2: which optima count.
        points: approach-1: values of C at which the envelope is looked up.
        smooth: approach-1: half-width in ln D over which curves are smoothed.
        resamples: draws of noise of approach-2-akima, subsamples of approach-1.
        seed: of the resamples.

    Raises:
        UserError: there is no approach of that name, it needs another kind of table, or too few
            budgets have an optimum that counts; the message says why.
    """
    if name not in APPROACHES:
        near = difflib.get_close_matches(name, APPROACHES, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UserError(f"{name}: no approach of that name; {hint}There are "
                        f"{', '.join(APPROACHES)}")
    if resamples < 0 or seed < 0:
        raise UserError(f"{name}: {resamples} resamples from seed {seed}: whole numbers from zero "
                        "on are expected")
    if name == "approach-1":
        if not isinstance(table, Curves):
            raise UserError("approach-1 needs training curves, many points a run (columns run_id, "
                            "n, d and loss), and a table of finished runs was given; approach-2 "
                            "takes that")
        return _first(table, points, smooth, resamples, seed)
    if isinstance(table, Curves):
        raise UserError(f"{name} needs a table of finished runs, and training curves were given; "
                        "approach-1 takes those")
    return _second(table, name, budgets, tolerance, within, of, noise, weighted,
                   screen or Screen(), resamples, seed)


def _first(curves: Curves, points: int, smooth: float, resamples: int, seed: int) -> Frontier:
    found = envelope(curves, points=points, smooth=smooth, resamples=resamples, seed=seed)
    convention = {
        "n": "column of the curves", "d": "tokens seen", "c": SIX_ND, "loss": "nats per token",
        "points": points, "smooth": smooth, "range": _range(found.optima.kept),
    }
    digest = hashlib.sha256()
    for values in (curves.run.astype(np.int64), curves.n, curves.d, curves.loss):
        digest.update(np.ascontiguousarray(values).tobytes())
    return Frontier("approach-1", convention, found.n, found.d, found.optima, len(curves.run_id),
                    warnings=found.warnings, data_sha256=digest.hexdigest())


def _second(
    table: RunsTable, name: str, budgets: Sequence[float] | None, tolerance: float,
    within: float | None, of: parabola.Of, noise: Noise | None, weighted: bool | None,
    screen: Screen, resamples: int, seed: int,
) -> Frontier:
    groups, warnings = group(table, budgets, tolerance)
    grouped = int(sum(g.loss.size for g in groups))
    if within is not None:
        if not within > 1:
            raise UserError(f"{name}: within {within:g}: a factor above 1 is expected, such as 4")
        groups = [g.near(within) for g in groups]
    convention: dict[str, Any] = {
        **table.convention, "loss": "nats per token", "budgets": len(groups),
        "tolerance": tolerance, **({} if within is None else {"within": within}),
    }
    found: list[Minimum]
    if name == "approach-2":
        found = parabola.parabolas(groups, of, noise)
        convention |= {"parabola": f"{of} in ln N"}
    else:
        # No parabola, no bias of one: a grid may be off-centre.
        screen = Screen(screen.edge, np.inf)
        known = noise if noise is not None else noise_of_seeds(groups)
        if known is None and resamples:
            raise UserError("approach-2-akima: needs the noise, a standard deviation of the "
                            "log-loss from run to run such as 0.002, since no two runs share "
                            "their size and budget; give it, or train a second seed")
        found = akima.akima_optima(groups, known or 0.0, resamples=resamples, seed=seed)
        convention |= {"interpolation": "Akima, log-loss in ln N", "resamples": resamples}
    optima = screened(groups, found, screen)
    _check(name, optima)
    kept = optima.kept
    weighted = (name != "approach-2" and resamples > 0) if weighted is None else weighted
    n, d = _lines(name, kept, weighted)
    warnings += optima.warnings + _few(kept)
    if name == "approach-2":
        warnings += _skewed(groups, found, optima, of)
    fitted = int(sum(g.loss.size for g, ok in zip(groups, optima.used, strict=True) if ok))
    sizes = int(sum(g.loss.size for g in groups))
    return Frontier(
        name, convention | {"weights": "1/n_se^2" if weighted else "equal",
                            "range": _range(kept)},
        n, d, optima, fitted,
        excluded={**table.excluded, "in_no_budget": int(table.loss.size) - grouped,
                  "far_from_the_lowest": grouped - sizes,
                  "in_budgets_left_out": sizes - fitted},
        warnings=warnings, data_sha256=table.sha256,
    )


def _lines(name: str, kept: Optima, weighted: bool) -> tuple[Line, Line]:
    weights = None
    if weighted:
        if not (np.isfinite(kept.n_se) & (kept.n_se > 0)).all():
            raise UserError(f"{name}: cannot weight by standard errors, since some budget has "
                            "none, or has no noise at all; give the noise, or weight all alike")
        weights = kept.n_se**-2.0
    return log_line(kept.c, kept.n, weights), log_line(kept.c, kept.d, weights)


def _check(name: str, optima: Optima) -> None:
    there = int(optima.used.sum())
    if there >= 2:
        return
    reasons = optima.warnings
    shown = "; ".join(reasons[:_SHOWN])
    more = f"; and {len(reasons) - _SHOWN} more" if len(reasons) > _SHOWN else ""
    raise UserError(f"{name}: {there} of {len(optima.c)} budgets have an optimum that counts, "
                    f"where at least 2 are needed: {shown}{more}. Runs that are not grouped by "
                    "budget can be fitted with the law chinchilla")


def _few(kept: Optima) -> tuple[str, ...]:
    there = len(kept.c)
    if there == 2:
        return ("two budgets: a straight line passes through both, and there are no intervals",)
    if there < 5:
        return (f"{there} budgets: the intervals hold, and are wide because nothing but "
                f"{there} points says how much optima scatter",)
    return ()


def _skewed(
    groups: list[Budget], found: list[Minimum], optima: Optima, of: parabola.Of
) -> tuple[str, ...]:
    rows = np.flatnonzero(optima.used)
    warning = parabola.skew([groups[row] for row in rows], [found[row] for row in rows], of)
    return (warning,) if warning else ()


def _range(kept: Optima) -> dict[str, list[float]]:
    return {name: [float(values.min()), float(values.max())]
            for name, values in (("n", kept.n), ("d", kept.d), ("c", kept.c))}

"""Sweeps that were never trained: runs drawn from a law, and what fits of them would find."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scaling.errors import UserError
from scaling.laws.fitting.minimise import minimise
from scaling.laws.fitting.robust import Robust
from scaling.laws.law import Interval, Law, interval
from scaling.laws.planning.design import Design
from scaling.laws.planning.fisher import Noise, Target, expected_sd, robust_of
from scaling.laws.runs.table import FLOPS_PER_PARAMETER_TOKEN
from scaling.laws.variables import VARIABLES

Array = NDArray[np.float64]

_OTHER_STARTS = (0.25, 0.75)  # places in the list of starts, as parts of it
_BLOCK = 100        # sweeps fitted at once, between two words of progress
_IDENTIFIED = 1e-3  # of a parameter: what a fit of runs without noise may be off by


@dataclass(frozen=True)
class Faults:
    """What goes wrong with some runs: a share `outliers` ends too high, by an amount of the linked
    outcome that is exponentially distributed with mean `outlier_size`; a share `diverged` has no
    loss."""

    outliers: float = 0.0
    outlier_size: float = 0.1
    diverged: float = 0.0

    def __post_init__(self) -> None:
        for name, share in (("outliers", self.outliers), ("diverged", self.diverged)):
            if not 0 <= share < 1:
                raise UserError(f"{name} {share:g}: a share of the runs is expected, from 0 to "
                                "below 1")
        if not 0 <= self.outlier_size < np.inf:
            raise UserError(f"outlier size {self.outlier_size:g}: a number from zero on is "
                            "expected")

    def draw(
        self, rng: np.random.Generator, shape: tuple[int, ...]
    ) -> tuple[Array, NDArray[np.bool_]]:
        """How much too high each run ends, and whether it ends at all."""
        high, lost, size = rng.uniform(size=(3, *shape))
        amount = -self.outlier_size * np.log1p(-size)
        return np.where(high < self.outliers, amount, 0.0), lost >= self.diverged


NO_FAULTS = Faults()


def simulate(
    law: Law,
    design: Design,
    noise: Noise,
    *,
    seeds: int = 1,
    draw: int = 0,
    faults: Faults = NO_FAULTS,
    source: str = "",
) -> pd.DataFrame:
    """A runs table drawn from a law, in the columns that `scaling fit` reads.

    The noise of a run depends on `draw`, its seed and its place in the design alone: more seeds
    leave the losses of the first ones as they are.

    Args:
        law: the truth.
        design: sizes and tokens.
        noise: of the linked outcome: of log-loss, in most laws.
        seeds: runs of each point of the design.
        draw: seed of the draws.
        faults: outliers and diverged runs.
        source: what to call the law in the table; its own name by default.

    Raises:
        UserError: there are no seeds, or the law needs a variable that the design lacks.
    """
    if seeds < 1 or draw < 0:
        raise UserError("seeds: at least one is expected, and the seed of the draws is a whole "
                        "number from zero on")
    truth = _prediction(law, design)
    sd = noise.of(design.c)
    parts = []
    for seed in range(seeds):
        rng = np.random.default_rng((draw, seed))
        scatter = sd * rng.standard_normal(len(truth))
        raised, done = faults.draw(rng, truth.shape)
        outcome = law.form.unlinked(truth + scatter + raised)
        total = design.columns.get("params_total", design.n)
        held = np.zeros(len(sd), dtype=bool) if design.heldout is None else design.heldout
        parts.append(pd.DataFrame({
            "run_id": [f"{place:04d}-seed{seed}" for place in range(len(sd))],
            "sweep": "simulated", "role": np.where(held, "heldout", "grid"),
            "corpus": f"simulated from {source or law.name}",
            "params_total": total,
            "params_non_embedding": design.columns.get("params_non_embedding", design.n),
            "tokens": design.d,
            **{VARIABLES[v].column or v: x for v, x in design.others.items()},
            "seed": seed,
            "flops_6nd": FLOPS_PER_PARAMETER_TOKEN * total * design.d,
            "loss": np.where(done, outcome, np.nan),
            "loss_se": np.where(done, sd * (outcome if law.form.link == "log" else 1.0), np.nan),
            "status": np.where(done, "done", "diverged"),
        }))
    return pd.concat(parts, ignore_index=True)


def _prediction(law: Law, design: Design) -> Array:
    """The law's linked outcome of every run."""
    for variable in law.form.variables:
        if variable not in design.values:
            raise UserError(f"{law.name}: needs {VARIABLES[variable].symbol} "
                            f"({VARIABLES[variable].unit}) of every run, which a grid of N and D "
                            "does not give; take the design from a runs table that has it")
    return np.asarray(law.form.linked(law.loss(design.values)))


@dataclass(frozen=True)
class Found:
    """One target over the simulated sweeps. `estimates` [B] are those of the sweeps whose fit
    converged and gave it a value; `lost` is the share of the others."""

    target: Target
    truth: float
    estimates: Array
    lost: float
    expected_sd: float
    """By the linear theory of `fisher`, on the target's own scale."""

    @property
    def sd(self) -> float:
        """Standard deviation of the estimates on the target's own scale, from the central 68%,
        so that a few sweeps gone astray do not decide it."""
        low, high = np.quantile(self.target.linear(self.estimates), [0.158655, 0.841345])
        return float((high - low) / 2)

    @property
    def interval(self) -> Interval:
        """Where 90% of the sweeps would put the target."""
        return interval(self.estimates)

    @property
    def width(self) -> float:
        """Of the interval: the ratio of its ends where the target's errors are relative, their
        difference otherwise."""
        low, high = self.interval
        return high / low if self.target.log else high - low


@dataclass(frozen=True)
class Study:
    """Many fits of one design: what its intervals will be before a run is paid for."""

    sweeps: int
    converged: int
    found: tuple[Found, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"sweeps": self.sweeps, "converged": self.converged, "targets": [
            {"target": f.target.name, "truth": f.truth, "interval": list(f.interval),
             "median": float(np.median(f.estimates)), "relative": f.target.log, "sd": f.sd,
             "expected_sd": f.expected_sd, "lost": f.lost} for f in self.found]}


def simulate_study(
    law: Law,
    design: Design,
    noise: Noise,
    repeats: int,
    targets: Sequence[Target],
    *,
    faults: Faults = NO_FAULTS,
    robust: Robust | None = None,
    draw: int = 0,
    watch: Callable[[int], None] = lambda done: None,
) -> Study:
    """Fit many simulated sweeps of one design with the form that they were drawn from.

    Args:
        law: the truth.
        design: sizes and tokens; `design.times(seeds)` for several seeds.
        noise: of the linked outcome.
        repeats: sweeps.
        targets: what is wanted of each.
        faults: outliers and diverged runs, of which the linear theory knows nothing.
        robust: the objective of the fits; the law's own by default.
        draw: seed of the draws.
        watch: told how many sweeps are fitted.

    Raises:
        UserError: the design does not determine the law even without noise.
    """
    robust = robust or robust_of(law)
    design = design.fitted()
    truth = _prediction(law, design)
    sd = noise.of(design.c)
    rng = np.random.default_rng(draw)
    scatter = sd * rng.standard_normal((repeats, len(truth)))
    raised, done = faults.draw(rng, scatter.shape)
    params = refit(law, design.values, truth + scatter + raised, done.astype(float), robust, watch)
    found = []
    for aim in targets:
        with np.errstate(all="ignore"):
            estimates = aim.of(params)
        fine = np.isfinite(aim.linear(estimates))
        if not fine.any():
            raise UserError(f"{aim.name}: no fit of {repeats} simulated sweeps gives it a value; "
                            "the design does not determine it")
        found.append(Found(aim, float(aim.of(law.point)[0]), estimates[fine],
                           1 - fine.sum() / repeats,
                           expected_sd(law, design.values, noise, aim, robust)))
    return Study(repeats, len(params), tuple(found))


def refit(
    law: Law, values: Mapping[str, Array], y_BR: Array, w_BR: Array,
    robust: Robust | None = None, watch: Callable[[int], None] = lambda done: None,
) -> Array:
    """Printed parameters of the sweeps whose fit converged, [B', P].

    Each is fitted from the law itself and from a few of the form's other starts, and the lowest
    end counts.

    Args:
        law: near which the fits are expected.
        values: arrays [R] of the form's variables, the same for all sweeps.
        y_BR: linked outcomes.
        w_BR: weight of each run in each sweep; 0 for one that there is not.
        robust: the objective; the law's own by default.
        watch: told how many sweeps are fitted.

    Raises:
        UserError: the runs do not determine the law even without noise.
    """
    form, robust = law.form, robust or robust_of(law)
    x = form.coordinates(values)
    centre = x.mean(axis=0) if form.centred else np.zeros(x.shape[1])
    x = x - centre
    exact = form.linked(law.loss(values))
    starts = form.starts(x, form.unlinked(exact))
    ones = np.ones((len(starts), len(exact)))
    noiseless = minimise(form, x, np.tile(exact, (len(starts), 1)), ones, starts, robust)
    truth = noiseless.theta[np.argmin(noiseless.value)]
    with np.errstate(over="ignore"):  # where a fit without noise has run away
        again = form.report(truth[None], centre)
    if len(exact) < len(form.parameters) or not np.allclose(again, law.point, rtol=_IDENTIFIED):
        raise UserError(f"{law.name}: {len(exact)} runs of this design do not determine its "
                        f"{len(form.parameters)} parameters even without noise; give more sizes, "
                        "and several token counts for each")
    begin = [truth, *(starts[int(part * (len(starts) - 1))] for part in _OTHER_STARTS)]
    parts = []
    for first in range(0, len(y_BR), _BLOCK):
        y, w = (np.tile(rows[first:first + _BLOCK], (len(begin), 1)) for rows in (y_BR, w_BR))
        sweeps = len(y) // len(begin)
        ends = minimise(form, x, y, w, np.repeat(begin, sweeps, axis=0), robust)
        best = np.argmin(ends.value.reshape(len(begin), sweeps), axis=0)
        place = best * sweeps + np.arange(sweeps)
        parts.append(ends.theta[place][ends.converged[place]])
        watch(min(first + _BLOCK, len(y_BR)))
    return np.asarray(form.report(np.concatenate(parts), centre))

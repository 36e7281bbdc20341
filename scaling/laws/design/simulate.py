"""Simulated sweeps: runs drawn from a law, and the distribution of fits to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scaling.errors import UserError
from scaling.laws.design.fisher import Noise, Target, expected_sd
from scaling.laws.design.grid import Design
from scaling.laws.fitting.minimise import minimise
from scaling.laws.forms.losses import ResidualLoss
from scaling.laws.forms.variables import FLOPS_PER_PARAMETER_TOKEN, VARIABLES
from scaling.laws.law import Interval, Law, percentile_interval

Array = NDArray[np.float64]

MAX_SWEEPS, MAX_SIMULATED_RUNS = 100_000, 20_000_000
"""Largest number of sweeps that are simulated and fitted, and of runs in all of them."""

_MAX_OUTLIER_SIZE = 5.0  # in log-loss: a factor of 150
_OTHER_STARTS = (0.25, 0.75)  # positions in the list of starts, as fractions of its length
_BLOCK = 100  # sweeps fitted at once, between two progress updates
_CORPUS = "simulated from "
_TOLERANCE = 1e-3  # relative error of the parameters that a fit without noise may have
_EXACT = 1e-12     # error of the linked outcomes of a law through all runs


@dataclass(frozen=True)
class Faults:
    """Faulty runs: a share `outliers` ends too high, by an exponentially distributed amount of the
    linked outcome with mean `outlier_size`; a share `diverged` has no loss."""

    outliers: float = 0.0
    outlier_size: float = 0.1
    diverged: float = 0.0

    def __post_init__(self) -> None:
        for name, share in (("outliers", self.outliers), ("diverged", self.diverged)):
            if not 0 <= share < 1:
                raise UserError(f"{name} {share:g}: a share of the runs is expected, from 0 to "
                                "below 1")
        if not 0 <= self.outlier_size <= _MAX_OUTLIER_SIZE:
            raise UserError(f"outlier size {self.outlier_size:g}: a number from 0 to "
                            f"{_MAX_OUTLIER_SIZE:g} is expected, such as 0.1")

    def draw(
        self, rng: np.random.Generator, shape: tuple[int, ...]
    ) -> tuple[Array, NDArray[np.bool_]]:
        """The outlier error of each run, and whether the run finishes."""
        u_outlier, u_diverged, u_size = rng.uniform(size=(3, *shape))
        error = -self.outlier_size * np.log1p(-u_size)
        return np.where(u_outlier < self.outliers, error, 0.0), u_diverged >= self.diverged


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

    The noise of a run depends only on `draw`, its seed and its position in the design: adding
    seeds does not change the losses of the first ones.

    Args:
        law: the true law.
        design: sizes and tokens.
        noise: noise of the linked outcome, which is the log-loss in most laws.
        seeds: number of runs of each point of the design.
        draw: seed of the random draws.
        faults: outliers and diverged runs.
        source: name of the law in the table; its own name by default.

    Raises:
        UserError: there are no seeds, or the law needs a variable that the design lacks.
    """
    design.check_runs(seeds)
    if draw < 0:
        raise UserError(f"seed {draw}: a whole number of at least zero is expected")
    truth = _linked_prediction(law, design)
    sd = noise.sd_at(design.c)
    frames = []
    for seed in range(seeds):
        rng = np.random.default_rng((draw, seed))
        errors = sd * rng.standard_normal(len(truth))
        outlier_errors, done = faults.draw(rng, truth.shape)
        outcome = law.form.invert_link(truth + errors + outlier_errors)
        total = design.columns.get("params_total", design.n)
        heldout = np.zeros(len(sd), dtype=bool) if design.heldout is None else design.heldout
        frames.append(pd.DataFrame({
            "run_id": [f"{index:04d}-seed{seed}" for index in range(len(sd))],
            "sweep": "simulated", "role": np.where(heldout, "heldout", "grid"),
            "corpus": _CORPUS + (source or law.name),
            "params_total": total,
            "params_non_embedding": design.columns.get("params_non_embedding", design.n),
            "tokens": design.d,
            **{VARIABLES[v].column or v: x for v, x in design.extra_variables.items()},
            "seed": seed,
            "flops_6nd": FLOPS_PER_PARAMETER_TOKEN * total * design.d,
            "loss": np.where(done, outcome, np.nan),
            "loss_se": np.where(done, sd * (outcome if law.form.link == "log" else 1.0), np.nan),
            "status": np.where(done, "done", "diverged"),
        }))
    return pd.concat(frames, ignore_index=True)


def _linked_prediction(law: Law, design: Design) -> Array:
    """The law's linked outcome of every run, [R]."""
    for variable in law.form.variables:
        if variable not in design.values:
            raise UserError(f"{law.name}: needs {VARIABLES[variable].symbol} "
                            f"({VARIABLES[variable].unit}) of every run, which a grid of N and D "
                            "lacks; take the design from a runs table that has it")
    with np.errstate(all="ignore"):
        outcome = np.asarray(law.form.apply_link(law.loss(design.values)))
    finite = np.isfinite(outcome)
    if not finite.all():
        at = int(np.argmin(finite))
        raise UserError(f"{law.name}: has no finite outcome for a run of {design.n[at]:.3g} "
                        f"parameters and {design.d[at]:.3g} tokens; choose another law or design")
    return outcome


@dataclass(frozen=True)
class TargetEstimates:
    """Estimates of one target over the simulated sweeps. `estimates` [B] are from the sweeps whose
    fit converged and determined the target; `lost` is the share of the other sweeps."""

    target: Target
    truth: float
    estimates: Array
    lost: float
    expected_sd: float
    """Standard deviation by the linear theory of `fisher`, on the target's own scale."""

    @property
    def sd(self) -> float:
        """Standard deviation of the estimates on the target's own scale, from the central 68% to
        be robust to outliers."""
        low, high = np.quantile(self.target.transform(self.estimates), [0.158655, 0.841345])
        return float((high - low) / 2)

    @property
    def interval(self) -> Interval:
        """The interval that contains the central 90% of the estimates."""
        return percentile_interval(self.estimates)

    @property
    def width(self) -> float:
        """Width of the interval: the ratio of its ends if the target's errors are relative, else
        their difference."""
        low, high = self.interval
        return high / low if self.target.log else high - low


@dataclass(frozen=True)
class Study:
    """Fits of many simulated sweeps of one design: the intervals to expect before training."""

    sweeps: int
    converged: int
    targets: tuple[TargetEstimates, ...]

    def to_json(self) -> dict[str, Any]:
        """JSON-serialisable data."""
        return {"sweeps": self.sweeps, "converged": self.converged, "targets": [
            {"target": t.target.name, "truth": t.truth, "interval": list(t.interval),
             "median": float(np.median(t.estimates)), "relative": t.target.log, "sd": t.sd,
             "expected_sd": t.expected_sd, "lost": t.lost} for t in self.targets]}


def check_sweeps(design: Design, repeats: int) -> None:
    """Check the number of simulated sweeps of a design.

    Raises:
        UserError: there are none, more than `MAX_SWEEPS`, or more than `MAX_SIMULATED_RUNS` runs
            in them.
    """
    runs = len(design.n) * repeats
    if not 0 < repeats <= MAX_SWEEPS or runs > MAX_SIMULATED_RUNS:
        raise UserError(f"{repeats:,} sweeps of {len(design.n):,} runs: from 1 to {MAX_SWEEPS:,} "
                        f"sweeps, and at most {MAX_SIMULATED_RUNS:,} runs in all of them, are "
                        "expected; a few hundred sweeps suffice")


def simulate_study(
    law: Law,
    design: Design,
    noise: Noise,
    repeats: int,
    targets: Sequence[Target],
    *,
    faults: Faults = NO_FAULTS,
    robust: ResidualLoss | None = None,
    draw: int = 0,
    watch: Callable[[int], None] = lambda done: None,
) -> Study:
    """Simulate many sweeps of one design from a law, and fit the law's form to each.

    Args:
        law: the true law.
        design: sizes and tokens; `design.with_seeds(seeds)` for several seeds.
        noise: noise of the linked outcome.
        repeats: number of sweeps.
        targets: quantities that are estimated from each sweep.
        faults: outliers and diverged runs, which the linear theory does not include.
        robust: the objective of the fits; the law's own by default.
        draw: seed of the random draws.
        watch: called with the number of sweeps fitted so far.

    Raises:
        UserError: the design does not determine the law even without noise.
    """
    check_sweeps(design, repeats)
    robust = robust or law.residual_loss
    design = design.fitted()
    truth = _linked_prediction(law, design)
    sd = noise.sd_at(design.c)
    robust = robust.adapted(float(np.median(sd)))
    rng = np.random.default_rng(draw)
    errors = sd * rng.standard_normal((repeats, len(truth)))
    outlier_errors, done = faults.draw(rng, errors.shape)
    params = refit_sweeps(law, design.values, truth + errors + outlier_errors,
                          done.astype(float), robust, watch)
    results = []
    for target in targets:
        with np.errstate(all="ignore"):
            estimates = target.evaluate(params)
        finite = np.isfinite(target.transform(estimates))
        if not finite.any():
            raise UserError(f"{target.name}: undefined in every fit of {repeats} simulated sweeps; "
                            "the design does not determine it")
        results.append(TargetEstimates(
            target, float(target.evaluate(law.point)[0]), estimates[finite],
            1 - finite.sum() / repeats, expected_sd(law, design.values, noise, target, robust)))
    return Study(repeats, len(params), tuple(results))


def refit_sweeps(
    law: Law, values: Mapping[str, Array], y_BR: Array, w_BR: Array,
    robust: ResidualLoss | None = None, watch: Callable[[int], None] = lambda done: None,
) -> Array:
    """Printed parameters of the sweeps whose fit converged, [B', P].

    Each sweep is fitted from the law itself and from a few of the form's other starts, and the
    lowest optimum is kept.

    Args:
        law: the true law, at which the fits start.
        values: arrays [R] of the form's variables, the same for all sweeps.
        y_BR: linked outcomes.
        w_BR: weight of each run in each sweep; 0 for missing runs.
        robust: the objective; the law's own by default.
        watch: called with the number of sweeps fitted so far.

    Raises:
        UserError: the runs do not determine the law even without noise.
    """
    form, robust = law.form, robust or law.residual_loss
    x = form.coordinates(values)
    centre = x.mean(axis=0) if form.centred else np.zeros(x.shape[1])
    x = x - centre
    exact = form.apply_link(law.loss(values))
    starts = form.starts(x, form.invert_link(exact))
    ones = np.ones((len(starts), len(exact)))
    noiseless = minimise(form, x, np.tile(exact, (len(starts), 1)), ones, starts, robust)
    truth = noiseless.theta[np.argmin(noiseless.value)]
    with np.errstate(over="ignore", invalid="ignore"):  # a fit without noise may diverge
        off = np.abs(form.predict(noiseless.theta, x) - exact).max(axis=-1)
        # Every law through all runs has to be the true one: with one ratio of N and D, the two
        # terms may also change places.
        recovered = form.to_params(
            np.concatenate([truth[None], noiseless.theta[off <= _EXACT]]), centre)
    if (len(exact) < len(form.parameters)
            or not np.allclose(recovered, law.point, rtol=_TOLERANCE)):
        raise UserError(f"{law.name}: {len(exact)} runs of this design do not determine its "
                        f"{len(form.parameters)} parameters even without noise; give more sizes, "
                        "and several token counts for each")
    begin = [truth, *(starts[int(part * (len(starts) - 1))] for part in _OTHER_STARTS)]
    thetas = []
    for first in range(0, len(y_BR), _BLOCK):
        y, w = (np.tile(rows[first:first + _BLOCK], (len(begin), 1)) for rows in (y_BR, w_BR))
        sweeps = len(y) // len(begin)
        ends = minimise(form, x, y, w, np.repeat(begin, sweeps, axis=0), robust)
        best = np.argmin(ends.value.reshape(len(begin), sweeps), axis=0)
        index = best * sweeps + np.arange(sweeps)
        thetas.append(ends.theta[index][ends.converged[index]])
        watch(min(first + _BLOCK, len(y_BR)))
    return np.asarray(form.to_params(np.concatenate(thetas), centre))

"""Two laws in a chain from sizes to accuracy, and the speedup of one recipe over another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import scaling.laws as sl
from scaling.errors import DataError, UserError
from scaling.laws.fit_chain import _with_ideal
from scaling.laws.fitting import bootstrap
from scaling.laws.law import paired_samples

E, A, B, ALPHA, BETA = 1.7, 400.0, 1500.0, 0.34, 0.3


def _law(form: str = "chinchilla", **changes: float) -> sl.Law:
    """A law without runs."""
    params = {"E": E, "A": A, "B": B, "alpha": ALPHA, "beta": BETA} | changes
    known = sl.published()["besiroglu2024"].law
    assert known is not None
    return replace(known, form=sl.FORMS[form], params=params)


@pytest.fixture(scope="module")
def sweep() -> pd.DataFrame:
    """Task losses and accuracies of two runs of each size, whose loss is too high or low by up to a
    percent, which their accuracy follows."""
    n, d, _ = (each.ravel() for each in np.meshgrid(
        np.geomspace(1e7, 1e9, 4), np.geomspace(1e9, 1e11, 4), range(2)))
    noise = np.random.default_rng(1).standard_normal(n.size)
    loss = (0.4 + 60 * n**-0.3 + 200 * d**-0.3) * np.exp(3e-3 * noise)
    accuracy = 0.25 + 0.75 / (1 + np.exp(4 * (loss - 0.7)))
    return pd.DataFrame({"n": n, "d": d, "task": loss, "accuracy": accuracy})


def _chained(frame: pd.DataFrame, **options: object) -> sl.ChainFit:
    return sl.fit_chain(frame, loss="task", outcome="accuracy", n="n", d="d",
                        **{"resamples": 0} | options)  # type: ignore[arg-type]


def test_a_chain_gives_back_the_laws_behind_the_runs(sweep: pd.DataFrame) -> None:
    clean = sweep.assign(task=0.4 + 60 * sweep.n**-0.3 + 200 * sweep.d**-0.3)
    clean["accuracy"] = 0.25 + 0.75 / (1 + np.exp(4 * (clean.task - 0.7)))
    fit = _chained(clean.sample(frac=1, random_state=0))
    assert fit.first.params == pytest.approx(
        {"E": 0.4, "A": 60, "B": 200, "alpha": 0.3, "beta": 0.3}, rel=1e-6)
    assert fit.second.params == pytest.approx(
        {"best": 1.0, "span": 0.75, "k": 4.0, "L_0": 0.7}, rel=1e-6)
    loss = 0.4 + 60 * 7e9**-0.3 + 200 * 4e12**-0.3
    assert fit.predict(n=7e9, d=4e12) == pytest.approx(0.25 + 0.75 / (1 + np.exp(4 * (loss - 0.7))))
    with pytest.raises(UserError, match="has no intervals"):
        fit.predict(n=7e9, d=4e12, interval=True)


def test_resamples_of_a_chain_draw_the_same_runs(sweep: pd.DataFrame) -> None:
    """Where the accuracy follows the loss exactly, every resample of the second law is the law
    itself, and the interval is that of the loss alone."""
    fit = _chained(sweep, resamples=60, ideal=[(0.0, 1 - 0.75 / (1 + np.exp(2.8)))])
    first, second = paired_samples(fit.first.law, fit.second.law)
    assert len(first) == len(second) > 40
    np.testing.assert_allclose(second, np.tile([1.0, 0.75, 4.0, 0.7], (len(second), 1)), rtol=1e-5)
    found = fit.predict(n=7e9, d=[1e12, 4e12], interval=True)
    losses = fit.first.law.form.loss(first, {"n": np.full(2, 7e9), "d": np.array([1e12, 4e12])})
    ends = 0.25 + 0.75 / (1 + np.exp(4 * (np.quantile(losses, [0.95, 0.05], axis=0) - 0.7)))
    np.testing.assert_allclose([found.low, found.high], ends, rtol=1e-3)
    # Runs of one size are in one order, that of their loss, though better ones are more accurate.
    assert fit.second.runs.rows.tolist() == [*fit.first.runs.rows, -1]
    assert fit.second.law.n_runs == fit.first.law.n_runs == 32


def test_an_ideal_point_decides_what_the_runs_leave_open(sweep: pd.DataFrame) -> None:
    """Runs above the middle of the sigmoid say little of the best accuracy."""
    poor = sweep[sweep.task > 0.75]
    noise = 0.01 * np.random.default_rng(0).standard_normal(len(poor))
    poor = poor.assign(accuracy=poor.accuracy + noise)
    without, ideal = (_chained(poor, ideal=points) for points in ([], [(0.0, 1.0)]))
    best = [float(fit.second.law.loss({"l": np.array([0.0])})[0]) for fit in (without, ideal)]
    assert abs(best[1] - 1) < 0.02 < abs(best[0] - 1)
    table = ideal.second.runs
    assert table.run_id[-1] == "ideal point 1"
    assert table.ideal.tolist() == [False] * len(poor) + [True]
    assert ideal.second.law.n_runs == len(poor)


def test_every_resample_has_the_ideal_points_once() -> None:
    """And runs are drawn as often as there are runs."""
    unit = np.array([0, 1, 2, 0, -1, -1])
    problem = bootstrap.BootstrapProblem(
        sl.FORMS["m1-d"], np.zeros((6, 1)), np.zeros(6), unit, np.zeros(2), np.zeros((1, 2)),
        sl.ResidualLoss("squared"))
    _, weights = bootstrap._draw(problem, "case", 50, np.random.default_rng(0))
    assert (weights[:, 4:] == 1).all()
    assert (weights[:, :3].sum(axis=1) == 3).all()
    assert (weights[:, 0] == weights[:, 3]).all()


def test_mistakes_in_a_chain(sweep: pd.DataFrame) -> None:
    for options, message in (
        ({"second": "chinchilla"}, "a law of the loss and one of the loss alone are expected"),
        ({"ideal": [(0.0, float("nan"))]}, "a finite outcome"),
        ({"ideal": [(-1.0, 1.0)]}, "at least zero"),
    ):
        with pytest.raises(UserError, match=message):
            _chained(sweep, **options)
    runs = sl.read(sweep, n="n", d="d", loss="task")
    assert _with_ideal(runs, ()) is runs


@pytest.mark.parametrize("c", [1e18, 1e22])
def test_a_recipe_worth_more_parameters_and_tokens(c: float) -> None:
    """L(s N, s D) instead of L(N, D) is worth s^2 of the compute, at every budget."""
    better = _law(A=A * 1.5**-ALPHA, B=B * 1.5**-BETA)
    found = sl.speedup(_law(), better, compute=c)
    assert found.factor == pytest.approx(2.25, rel=1e-4)
    assert found.needed == pytest.approx(2.25 * c, rel=1e-4)
    assert found.loss == pytest.approx(sl.allocate(better, c).loss)
    assert found.interval is None
    assert sl.speedup(better, _law(), compute=c).factor == pytest.approx(1 / 2.25, rel=1e-4)
    assert "2.25 times the training FLOPs" in repr(found)


def test_a_recipe_worth_more_tokens() -> None:
    better = _law(B=B * 3**-BETA)
    for n, d in ((1e8, 1e10), (1e9, 1e12)):
        assert sl.speedup(_law(), better, tokens=d, n=n).factor == pytest.approx(3, rel=1e-4)
    # Another exponent is worth the more, the more tokens there are: D^1.1 instead of D.
    steep = _law(beta=1.1 * BETA)
    for d in (1e10, 1e12):
        assert sl.speedup(_law(), steep, tokens=d, n=1e9).factor == pytest.approx(d**0.1, rel=1e-4)


def _runs(seeds: np.ndarray, better: float, seed_noise: np.ndarray, own: float) -> pd.DataFrame:
    """Runs on a grid, each of which has the noise of its seed under any recipe."""
    rng = np.random.default_rng(int(10 * better))
    n, d, k = (each.ravel() for each in np.meshgrid(
        np.geomspace(1e7, 1e9, 4), np.geomspace(1e9, 1e11, 4), np.arange(len(seeds))))
    loss = E + A * n**-ALPHA + B * (better * d)**-BETA
    noise = seed_noise.ravel() + own * rng.standard_normal(n.size)
    return pd.DataFrame({"n": n, "d": d, "seed": seeds[k], "loss": loss * np.exp(noise)})


@pytest.fixture(scope="module")
def recipes() -> Callable[..., tuple[sl.RunsTable, sl.RunsTable]]:
    noise = 4e-3 * np.random.default_rng(2).standard_normal((4, 4, 2))

    def both(extra: dict[str, None] | None) -> tuple[sl.RunsTable, sl.RunsTable]:
        old, new = (_runs(np.array([0, 1]), better, noise, 4e-4) for better in (1.0, 2.0))
        return tuple(sl.read(frame.sample(frac=1, random_state=0), n="n", d="d", extra=extra)
                     for frame in (old, new))  # type: ignore[return-value]

    return both


def test_noise_of_a_seed_cancels_between_recipes(
    recipes: Callable[..., tuple[sl.RunsTable, sl.RunsTable]],
) -> None:
    """With a common noise ten times as large as the own one, pairs of runs know the factor better
    than two independent sweeps do; both intervals have the true one."""
    at = {"tokens": 3e10, "n": 3e8, "floor": E, "resamples": 150}
    apart, paired = (sl.speedup(*recipes(extra), **at) for extra in (None, {"seed": None}))
    assert (apart.paired, paired.paired) == (False, True)
    assert paired.factor == pytest.approx(apart.factor, rel=1e-6)
    assert paired.interval is not None
    assert apart.interval is not None
    for low, high in (apart.interval, paired.interval):
        assert low < 2 < high
    ratio = np.log(paired.interval[1] / paired.interval[0]) / np.log(
        apart.interval[1] / apart.interval[0])
    assert ratio < 0.4
    assert paired.floor == E
    assert paired.baseline.params["E"] == paired.improved.params["E"] == E


def test_the_floor_is_the_baselines(
    recipes: Callable[..., tuple[sl.RunsTable, sl.RunsTable]],
) -> None:
    old, new = recipes(None)
    found = sl.speedup(old, new, compute=1e20, resamples=0)
    assert found.floor == sl.fit(old, "chinchilla", resamples=0).params["E"]
    assert found.warnings == ("there is no interval, since a law has no resamples",)
    # Fits with one fixed irreducible loss are compared as they are.
    fits = [sl.fit(table, "chinchilla", fix={"E": found.floor}, resamples=0)
            for table in (old, new)]
    assert sl.speedup(*fits, compute=1e20).factor == pytest.approx(found.factor, rel=1e-9)


def test_mistakes_in_a_speedup(
    recipes: Callable[..., tuple[sl.RunsTable, sl.RunsTable]],
) -> None:
    old, new = recipes(None)
    law = _law()
    error = sl.published()["gadre2024-error-c4"].law
    for arguments, options, message in (
        ((law, law), {}, "compute= or tokens= is expected"),
        ((law, law), {"compute": 1e20, "n": 1e9}, "n= goes with tokens="),
        ((law, law), {"compute": -1.0}, "a positive number"),
        ((law, law), {"tokens": 1e10}, "needs N for a number of tokens"),
        ((law, _law(E=1.6)), {"compute": 1e20}, r"irreducible losses are 1.7 and 1.6"),
        ((law, new), {"compute": 1e20}, "two tables of runs, or two laws"),
        ((error, error), {"compute": 1e20}, "a law of the loss is expected"),
        ((old, new), {"compute": 1e20, "law": "kaplan-nd", "floor": 1.0}, "no irreducible loss"),
    ):
        with pytest.raises(UserError, match=message):
            sl.speedup(*arguments, **options)
    with pytest.raises(DataError, match="at no tokens within a factor"):
        sl.speedup(_law(A=4000.0), law, tokens=1e12, n=1e7)

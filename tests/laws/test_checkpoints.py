"""Tables whose rows are checkpoints of fewer runs, and resamples of whole runs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from scaling.errors import UserError
from scaling.laws import ResidualLoss, fit, fit_law, read


def _loss(n: np.ndarray, d: np.ndarray) -> np.ndarray:
    return np.asarray(1.69 + 406.4 * n**-0.34 + 410.7 * d**-0.28)


def _checkpoints(seeds: int = 1, noise: float = 0.0, points: int = 10) -> pd.DataFrame:
    """Rows at even steps of 4 sizes x 3 lengths x seeds."""
    rows = []
    draw = np.random.default_rng(0)
    for run, (n, d, seed) in enumerate(
            (n, d, seed) for n in np.geomspace(1e7, 1e9, 4) for d in (1e10, 3e10, 9e10)
            for seed in range(seeds)):
        for step in range(1, points + 1):
            rows.append((f"run {run}", n, d * step / points, step, seed))
    frame = pd.DataFrame(rows, columns=["run", "n", "tokens", "step", "seed"])
    frame["loss"] = _loss(frame["n"].to_numpy(), frame["tokens"].to_numpy()) * np.exp(
        noise * draw.standard_normal(len(frame)))
    return frame


Change = Callable[[pd.DataFrame], pd.DataFrame]
TOLD: dict[str, Change] = {
    "by the run": lambda f: f.drop(columns="step"),
    "in another order": lambda f: f.sample(frac=1, random_state=0).drop(columns="step"),
    "by the step": lambda f: f.drop(columns="run"),
}


@pytest.mark.parametrize("noise", [0.0, 0.004])
@pytest.mark.parametrize("change", TOLD)
@pytest.mark.parametrize("seeds", [1, 2])
def test_checkpoints_are_recognised(noise: float, change: str, seeds: int) -> None:
    frame = TOLD[change](_checkpoints(seeds, noise))
    table = read(frame, n="n", d="tokens")
    (said,) = (text for text in table.warnings if "like checkpoints of one run" in text)
    assert "final=True" in said
    runs = 4 if "run" not in frame else 12 * seeds  # without names, all rows of one size
    assert len(np.unique(table.cluster)) == runs


def test_even_steps_of_one_size_are_checkpoints() -> None:
    """Without any column that says so, and with two seeds beside each other."""
    n, d = (axis.ravel() for axis in np.meshgrid(
        np.geomspace(1e7, 1e9, 4), np.linspace(1e9, 1e10, 8)))
    frame = pd.DataFrame({"n": np.tile(n, 2), "tokens": np.tile(d, 2)})
    frame["loss"] = _loss(frame["n"].to_numpy(), frame["tokens"].to_numpy()) * np.exp(
        0.002 * np.random.default_rng(1).standard_normal(64))
    assert any("rows of equal N" in text for text in read(frame, n="n", d="tokens").warnings)


@pytest.mark.parametrize("points", [6, 16])
def test_a_grid_is_no_table_of_checkpoints(points: int) -> None:
    n, d = (axis.ravel() for axis in np.meshgrid(
        np.geomspace(1e7, 1e9, 5), np.geomspace(1e9, 1e11, points)))
    loss = _loss(n, d) * np.exp(0.01 * np.random.default_rng(2).standard_normal(n.size))
    table = read(pd.DataFrame({"n": n, "tokens": d, "loss": loss}), n="n", d="tokens")
    assert table.warnings == ()
    assert not table.cluster.size


@pytest.mark.parametrize("smooth", [1, 3])
def test_the_last_rows_of_each_run(smooth: int) -> None:
    frame = _checkpoints(noise=0.004).sample(frac=1, random_state=1)
    table = read(frame, n="n", d="tokens", final=True, smooth=smooth)
    ordered = frame.sort_values("tokens").groupby("run")
    expected = pd.DataFrame({"d": ordered["tokens"].last(), "n": ordered["n"].last(),
                             "loss": ordered["loss"].apply(lambda each: each.tail(smooth).mean())
                             }).sort_values(["n", "d"])
    np.testing.assert_allclose(table.n, expected["n"])
    np.testing.assert_allclose(table.d, expected["d"])
    np.testing.assert_allclose(table.loss, expected["loss"], rtol=1e-14)
    assert table.excluded["earlier_rows"] == 108
    assert not table.cluster.size
    assert table.warnings == ()


def test_repeated_rows_of_one_run_tell_no_more_than_one() -> None:
    """Eight copies of every row: resamples of runs are those of the runs alone, to the last bit of
    the draws. Resamples of rows are narrower by the square root of eight, and less widened for the
    parameters."""
    n, d = (axis.ravel() for axis in np.meshgrid(
        np.geomspace(1e7, 1e9, 5), np.geomspace(1e9, 1e11, 5)))
    loss = _loss(n, d) * np.exp(0.004 * np.random.default_rng(3).standard_normal(25))
    alone = pd.DataFrame({"n": n, "d": d, "loss": loss, "trial_name": np.arange(25)})
    copies = pd.concat([alone] * 8, ignore_index=True)
    robust = ResidualLoss("huber", 0.008)
    once = fit_law(read(alone, n="n", d="d"), "chinchilla", robust=robust, resamples=60)
    whole = fit(copies, "chinchilla", n="n", d="d", cluster="trial_name", resamples=60,
                objective=robust).law
    assert whole.bootstrap is not None
    assert whole.bootstrap.by == "cluster"
    by_row = fit(copies, "chinchilla", n="n", d="d", resamples=60, objective=robust).law
    for name in ("E", "alpha", "beta"):
        assert whole.se[name] == pytest.approx(once.se[name], rel=1e-6)
        assert whole.se[name] == pytest.approx(  # type: ignore[operator]
            (8 * 195 / 200 * 25 / 20)**0.5 * by_row.se[name], rel=0.35)
        assert whole.intervals[name] == pytest.approx(once.intervals[name], rel=1e-6)


def test_few_clusters_are_told() -> None:
    fitted = fit(_checkpoints(), "chinchilla", n="n", d="tokens", cluster="n",
                 resamples=10)
    assert any("draw from 4 clusters" in text for text in fitted.warnings)


@pytest.mark.parametrize(("change", "said"), [
    ({"cluster": "rum"}, "no column rum; did you mean run"),
    ({"smooth": 3}, "final=True"),
    ({"final": True, "smooth": 0}, "smooth=0: a number of rows from 1 on"),
])
def test_mistakes_are_told(change: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        read(_checkpoints(), n="n", d="tokens", **change)  # type: ignore[arg-type]


def test_nothing_that_tells_runs_apart() -> None:
    frame = _checkpoints(points=1)[["n", "tokens", "loss"]]
    with pytest.raises(UserError, match="nothing tells which rows are of one run"):
        read(frame, n="n", d="tokens", final=True)
    frame.loc[3, "group"] = "a"
    with pytest.raises(UserError, match=r"row 1, column group: empty"):
        read(frame, n="n", d="tokens", cluster="group")


def test_resamples_of_sizes_need_sizes() -> None:
    frame = pd.DataFrame({"d": np.geomspace(1e8, 1e11, 8), "n": 1e7})
    frame["loss"] = 30 * frame["d"] ** -0.1 * (1 + 0.01 * np.arange(8) % 3)
    for columns, said in (({"n": "n"}, "all runs have one size"), ({}, "needs N of every run")):
        table = read(frame, d="d", needs=("d",), **columns)  # type: ignore[arg-type]
        with pytest.raises(UserError, match=said):
            fit_law(table, "kaplan-d", resamples=10, by="size")


@pytest.mark.parametrize("column", ["status", "State", "STATUS"])
def test_the_words_of_trackers_are_statuses(column: str) -> None:
    frame = _checkpoints(points=1)[["n", "tokens", "loss"]]
    frame[column] = ["finished", "crashed", "Killed", "running", "preempted", "FAILED",
                     "completed", "diverged", "queued", "done", "success", "error"]
    table = read(frame, n="n", d="tokens")
    assert table.rows.tolist() == [0, 6, 9, 10]
    assert table.excluded == {"diverged": 1, "failed": 5, "planned": 2, "heldout": 0}


def test_a_state_of_another_kind_is_no_status() -> None:
    frame = _checkpoints(points=1)[["n", "tokens", "loss"]].assign(State="Nevada")
    assert read(frame, n="n", d="tokens").loss.size == 12

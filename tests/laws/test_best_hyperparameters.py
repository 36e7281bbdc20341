"""The best learning rate and batch of each N and D: by hand, against SciPy, on grids whose optimum
is known, and on grids that do not determine it."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from scipy.optimize import curve_fit

import scaling.laws as sl
from scaling.errors import DataError, UserError

SIZES, RATIOS = (5e7, 2e8, 8e8), (10.0, 40.0, 160.0)
COLUMNS = {"n": "n", "d": "d", "lr": "lr", "batch": "batch"}


def best_lr(n: float, d: float) -> float:
    """The Step law."""
    return float(1.79 * n**-0.713 * d**0.307)


def best_batch(d: float) -> float:
    """The Step law."""
    return float(0.58 * d**0.571)


def grid(noise: float = 0.0, seed: int = 0, tilt: float = 0.02, side: int = 5) -> pd.DataFrame:
    """A square of rates and batches for each N and D, in factors of two from near the best ones."""
    rows, draw = [], np.random.default_rng(seed)
    steps = 2.0 ** (np.arange(side) - side // 2)
    for n in SIZES:
        for d in (n * ratio for ratio in RATIOS):
            floor = 1.7 + 400 / n**0.34 + 900 / d**0.3
            for lr in 1.2 * best_lr(n, d) * steps:
                for batch in 0.9 * best_batch(d) * steps:
                    u, v = np.log(lr / best_lr(n, d)), np.log(batch / best_batch(d))
                    loss = floor + 0.03 * u * u + 0.015 * v * v - tilt * u * v
                    rows.append((n, d, lr, batch, loss + noise * draw.standard_normal()))
    return pd.DataFrame(rows, columns=["n", "d", "lr", "batch", "loss"])


def one(frame: pd.DataFrame) -> pd.DataFrame:
    """The runs of the smallest N and D."""
    return frame[(frame["n"] == frame["n"].min()) & (frame["d"] == frame["d"].min())]


def test_a_parabola_by_hand() -> None:
    """Four points of 3 + (x - 1)^2 / 100, with rates of 2^x thousandths: lowest at x = 1."""
    x = np.array([-1.0, 0.0, 1.5, 2.5])
    frame = pd.DataFrame({"n": 1e8, "d": 1e9, "lr": 1e-3 * 2**x, "loss": 3 + (x - 1) ** 2 / 100})
    found = sl.best_hyperparameters(frame, n="n", d="d", lr="lr", resamples=0)
    (row,) = found.to_frame().to_dict("records")
    assert row["lr"] == pytest.approx(2e-3)
    assert row["loss"] == pytest.approx(3)
    assert not found.laws  # one optimum
    assert any("step-lr" in warning or "deepseek-lr" in warning for warning in found.warnings)


def test_exact_grids_give_the_laws_back() -> None:
    found = sl.best_hyperparameters(grid(), **COLUMNS, resamples=0)
    frame = found.to_frame()
    assert frame["used"].all()
    np.testing.assert_allclose(frame["lr"], [*map(best_lr, frame["n"], frame["d"])])
    np.testing.assert_allclose(frame["batch"], [*map(best_batch, frame["d"])])
    np.testing.assert_allclose(
        [*found.laws["lr"].params.values()], [1.79, 0.713, 0.307], rtol=1e-6)
    np.testing.assert_allclose([*found.laws["batch"].params.values()], [0.58, 0.571], rtol=1e-6)
    planned = found.predict(1e9, 1e11)
    assert planned["lr"] == pytest.approx(best_lr(1e9, 1e11))
    assert planned["batch"] == pytest.approx(best_batch(1e11))
    assert found.predict([1e9, 2e9], 1e11)["lr"].shape == (2,)


def test_the_standard_error_is_scipys() -> None:
    """Of the vertex, as a parameter of the quadratic itself."""
    runs = one(grid(noise=0.001))
    (row,) = sl.best_hyperparameters(runs, **COLUMNS, within=None, resamples=0).to_frame().to_dict(
        "records")

    def valley(x: np.ndarray, *p: float) -> np.ndarray:
        u, v = x[0] - p[4], x[1] - p[5]
        return np.asarray(p[0] + p[1] * u * u + p[2] * v * v + p[3] * u * v)

    x = np.log(runs[["lr", "batch"]].to_numpy().T)
    start = (runs["loss"].min(), 0.03, 0.02, 0.0, *x.mean(axis=1))
    best, covariance = curve_fit(valley, x, runs["loss"], p0=start)
    np.testing.assert_allclose(np.log([row["lr"], row["batch"]]), best[4:], rtol=1e-6)
    np.testing.assert_allclose([row["lr_se"], row["batch_se"]],
                               np.sqrt(np.diagonal(covariance))[4:], rtol=1e-3)


def test_intervals_cover_the_optimum() -> None:
    """90% of them, over 108 optima of either variable."""
    inside = []
    for seed in range(12):
        row = sl.best_hyperparameters(grid(0.002, seed), **COLUMNS, resamples=0).to_frame()
        assert row["used"].all()
        for name, truth in (("lr", [*map(best_lr, row["n"], row["d"])]),
                            ("batch", [*map(best_batch, row["d"])])):
            inside += list((row[f"{name}_low"] < truth) & (truth < row[f"{name}_high"]))
    assert 0.83 < np.mean(inside) < 0.96


def test_laws_have_intervals_with_the_truth() -> None:
    found = sl.best_hyperparameters(grid(0.001), **COLUMNS, resamples=200)
    lr, batch = found.predict(2e9, 1e11, level=0.99).values()
    assert lr.low < best_lr(2e9, 1e11) < lr.high
    assert batch.low < best_batch(1e11) < batch.high
    assert found.laws["lr"].law.name == "step-lr"
    assert len(repr(found).splitlines()) < 25


@pytest.mark.parametrize(("keep", "reason"), [
    (lambda f: f["lr"] < 0.9 * f["lr"].median(), "larger learning rates at this N and D"),
    (lambda f: f["lr"] > 1.3 * f["lr"].median(), "smaller learning rates at this N and D"),
    (lambda f: f["batch"] > 1.3 * f["batch"].median(), "smaller batches at this N and D"),
    (lambda f: f["lr"] <= sorted(f["lr"].unique())[1], "2 distinct learning rates, where 3"),
    (lambda f: (f["lr"] == f["lr"].median()) | (f["batch"] == f["batch"].median()),
     "train every learning rate with several batches"),
])
def test_a_grid_without_an_optimum_is_named_and_left_out(keep, reason: str) -> None:
    frame = grid(0.0005, side=7)
    first = one(frame)
    found = sl.best_hyperparameters(pd.concat([first[keep(first)], frame.drop(first.index)]),
                                    **COLUMNS, within=None, resamples=0)
    row = found.to_frame().iloc[0]
    assert not row["used"]
    assert np.isnan(row["lr"])
    assert reason in row["reason"]
    named = "N = 50M, D = 500M is left out: "
    assert sum(warning.startswith(named) for warning in found.warnings) == 1
    assert found.laws["lr"].law.n_runs == len(SIZES) * len(RATIOS) - 1
    assert named in " ".join(found.laws["lr"].warnings)
    with pytest.raises(DataError, match=f"^no N and D has an optimum .*{named}"):
        sl.best_hyperparameters(first[keep(first)], **COLUMNS, within=None)


def test_a_ridge_and_a_flat_valley_are_no_optima() -> None:
    runs = one(grid())
    for losses, reason in ((2 * runs["loss"].max() - runs["loss"], "edge of the grid"),
                           (3 + 0.001 * np.random.default_rng(1).standard_normal(len(runs)), "")):
        with pytest.raises(DataError, match=reason or "flat|edge|outside|not positive"):
            sl.best_hyperparameters(runs.assign(loss=losses), **COLUMNS, within=None)


def test_runs_that_diverge_do_not_move_the_optimum() -> None:
    frame = grid()
    frame.loc[frame["lr"] > 3 * frame.groupby(["n", "d"])["lr"].transform("median"), "loss"] = 7.0
    found = sl.best_hyperparameters(frame, **COLUMNS, resamples=0).to_frame()
    np.testing.assert_allclose(found["lr"], [*map(best_lr, found["n"], found["d"])])
    assert (found["fitted"] < found["runs"]).all()


def test_the_same_n_and_d_up_to_rounding() -> None:
    frame = grid()
    frame["d"] *= 1 + 0.005 * np.resize([-1, 0, 1], len(frame))
    found = sl.best_hyperparameters(frame, **COLUMNS, resamples=0).to_frame()
    assert found["runs"].tolist() == [25] * 9
    many = pd.DataFrame({"n": 1e8, "d": 1e9 * 1.01 ** np.arange(30), "lr": 1e-3, "loss": 3.0})
    with pytest.raises(DataError, match="several runs of the same N and D"):
        sl.best_hyperparameters(many, n="n", d="d", lr="lr")


def test_one_batch_is_a_parabola_of_the_rate() -> None:
    frame = grid(tilt=0.0)
    middle = frame.groupby(["n", "d"])["batch"].transform("median")
    found = sl.best_hyperparameters(frame[frame["batch"] == middle], **COLUMNS, resamples=0)
    assert found.variables == ("lr",)
    assert "batch does not vary" in found.warnings[0]
    assert [*found.laws["lr"].params.values()] == pytest.approx([1.79, 0.713, 0.307])
    with pytest.raises(UserError, match="step-batch: needs runs with several batch"):
        sl.best_hyperparameters(frame[frame["batch"] == middle], **COLUMNS, laws=["step-batch"])


def test_one_ratio_of_d_to_n_is_a_law_of_compute() -> None:
    frame = grid()
    found = sl.best_hyperparameters(frame[frame["d"] == 40 * frame["n"]], **COLUMNS, resamples=0)
    assert found.laws["lr"].law.name == "deepseek-lr"
    assert found.laws["batch"].law.name == "step-batch"
    assert found.predict(4e8, 1.6e10)["lr"] == pytest.approx(best_lr(4e8, 1.6e10))


@pytest.mark.parametrize(("given", "said"), [
    ({"within": 1.0}, "within=1: a factor above 1"), ({"noise": 2.0}, "noise=2: a standard"),
    ({"lr": "rate"}, "has no column rate"), ({"laws": ["chinchilla"]}, "chinchilla: predicts loss"),
    ({"laws": ["step-lr", "deepseek-lr"]}, "are both of the learning rate"),
])
def test_wrong_arguments_are_named(given: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        sl.best_hyperparameters(grid(), **{**COLUMNS, "resamples": 0, **given})
    with pytest.raises(UserError, match="no column of learning rates or batches"):
        sl.best_hyperparameters(grid().drop(columns=["lr", "batch"]), n="n", d="d")


def test_a_figure_has_the_minima() -> None:
    with mpl.rc_context({"backend": "Agg"}):
        found = sl.best_hyperparameters(grid(), **COLUMNS, resamples=0)
        axes = found.plot("batch")
        crosses = [line for line in axes.lines if line.get_marker() == "X"]
        assert [float(line.get_xdata()[0]) for line in crosses] == pytest.approx(
            found.to_frame()["batch"].tolist())
        with pytest.raises(UserError, match="variable='d'"):
            found.plot("d")
        import matplotlib.pyplot as plt

        plt.close("all")


def test_the_command_prints_and_saves_them(command, tmp_path: Path) -> None:
    frame = grid(0.001).rename(columns={"lr": "eta", "batch": "bs"})
    frame.to_csv(tmp_path / "grid.csv", index=False)
    words = ("fit", "grid.csv", "--optima", "--n", "n", "--d", "d", "--column", "lr=eta",
             "--column", "batch=bs", "--bootstrap", 0)
    done = command(*words, "--save", "laws.json", cwd=tmp_path)
    assert done.code == 0, done.err
    assert "step-batch: batch*(D) = k D^beta" in done.out
    found = sl.best_hyperparameters(frame, n="n", d="d", lr="eta", batch="bs", resamples=0)
    saved = sl.load(tmp_path / "laws.json")
    assert {name: law.params for name, law in saved.items()} == {
        fit.law.name: fit.params for fit in found.laws.values()}
    printed = json.loads(command(*words, "--json").out)
    assert [row["lr"] for row in printed["optima"]] == pytest.approx(
        found.to_frame()["lr"].tolist())
    for more, changed in ((("--within", 2.1), "optima"), (("--law", "deepseek-lr"), "laws"),
                          (("--noise", 0.01), "optima")):
        other = json.loads(command(*words, "--json", *more).out)
        assert other[changed] != printed[changed], more


@pytest.mark.parametrize(("more", "said"), [
    (["--optima", "--compare"], "--compare: is not used with --optima"),
    (["--optima", "--law", "approach-2"], "--law approach-2: is not used"),
    (["--within", "3"], "--within 3: an option of --optima"),
    (["--optima", "--law", "chinchilla"], "chinchilla: predicts loss"),
    (["--optima", "--column", "lr=rate"], "has no column rate"),
    (["--optima", "--within", "0.5"], "--within 0.5: a factor above 1"),
])
def test_the_command_refuses(command, tmp_path: Path, more: list[str], said: str) -> None:
    grid().to_csv(tmp_path / "grid.csv", index=False)
    done = command("fit", "grid.csv", "--n", "n", "--d", "d", *more, cwd=tmp_path)
    assert done.code == 2
    assert said in done.err
    assert done.err.count("error:") == 1


@pytest.mark.parametrize(("first", "used"), [(-0.3, False), (-0.7, True)])
@pytest.mark.parametrize("side", [1, -1])
def test_the_edge_is_half_a_step_wide(first: float, used: bool, side: int) -> None:
    """Rates in steps of two, of which the best is 0.3 or 0.7 of a step from the first."""
    x = side * (first + np.arange(4))
    frame = pd.DataFrame({"n": 1e8, "d": 1e9, "lr": 1e-3 * 2**x, "loss": 3 + x**2 / 100})
    more = frame.assign(n=4e8, lr=1e-3 * 2 ** (x - x.mean()), loss=3 + (x - x.mean())**2 / 100)
    found = sl.best_hyperparameters(pd.concat([frame, more]), n="n", d="d", lr="lr", within=None,
                                    resamples=0).to_frame()
    assert found["used"].tolist() == [used, True]
    wanted = f"train {'smaller' if side > 0 else 'larger'} learning rates"
    assert used or wanted in found["reason"][0]

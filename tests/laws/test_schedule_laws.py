"""Laws of whole loss curves, whose sums over a schedule depend on fitted parameters."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.optimize

import scaling.laws as sl
from scaling.errors import DataError, UserError
from scaling.laws.forms.form import Form
from scaling.laws.forms.formula import Formula
from scaling.laws.forms.schedules import history, schedule
from tests.laws.test_command import _run

LUO = {"L_0": 3.040, "A": 0.525, "alpha": 0.508, "B": 363.788, "C": 2.066, "beta": 0.583,
       "gamma": 0.641}
"""The 25M model of Luo et al. 2025, in a copy of the authors' README."""
FUNCTIONAL = {"L_0": 3.0, "A": 0.5, "s": 0.5, "B": 3e3, "kappa": 2e3, "gamma": 0.8}
TRUTH = {"multi-power": LUO, "functional": FUNCTIONAL}
PEAK, WARMUP, STEPS = 3e-4, 200, 6000
RISE = PEAK * np.arange(1, WARMUP + 1) / WARMUP
AFTER = np.arange(STEPS - WARMUP) / (STEPS - WARMUP)
SCHEDULES = {
    "cosine": np.concatenate([RISE, PEAK * (0.55 + 0.45 * np.cos(np.pi * AFTER))]),
    "wsd": np.concatenate([RISE, PEAK * 0.1 ** (np.maximum(AFTER - 0.8, 0) / 0.2)]),
    "two-stage": np.concatenate([RISE, np.where(AFTER < 0.5, PEAK, 0.3 * PEAK)]),
}


def exact(name: str, p: dict[str, float], rates: np.ndarray, t: int) -> float:
    """The law by a sum over every step of the schedule, in the notation of its paper."""
    eta = np.concatenate([[np.nan], rates[:t]])  # eta[k] is the rate of step k
    area, noise = eta[1:].sum(), 0.0
    for k in range(1, t + 1):
        if name == "functional":
            noise += eta[k] ** 2 * (1 + p["kappa"] * eta[k + 1:].sum()) ** -p["gamma"]
        elif k > WARMUP + 1 or (len(rates) < WARMUP and k > 1):
            x = p["C"] * eta[k] ** -p["gamma"] * eta[k:].sum()
            noise -= (eta[k - 1] - eta[k]) * (1 - (x + 1) ** -p["beta"])
    return p["L_0"] + p["A"] * area ** -p.get("alpha", p.get("s")) + p["B"] * noise


def point(name: str) -> np.ndarray:
    return np.array([[*TRUTH[name].values()]])


def values(step: list[float] | np.ndarray, index: float) -> dict[str, np.ndarray]:
    return {"step": np.asarray(step, dtype=float), "schedule": np.full(len(step), index)}


def curves(name: str, schedules: tuple[str, ...] = ("cosine", "wsd"), noise: float = 0.0,
           rows: int = 60) -> pd.DataFrame:
    form, rng = sl.schedule_law(name, SCHEDULES), np.random.default_rng(0)
    step = np.linspace(WARMUP + 20, STEPS, rows).round()
    return pd.concat([pd.DataFrame({
        "step": step.astype(int), "schedule": each,
        "loss": form.loss(point(name), values(step, [*SCHEDULES].index(each)))[0]
        * np.exp(noise * rng.normal(size=rows))}) for each in schedules], ignore_index=True)


def test_three_steps_by_hand() -> None:
    rates = [4.0, 4.0, 1.0]
    p = {"L_0": 2.0, "A": 3.0, "alpha": 1.0, "B": 0.5, "C": 2.0, "beta": 1.0, "gamma": 1.0}
    form = sl.schedule_law("multi-power", {"x": rates}, warmup=0)
    # S_1 is 4, 8 and 9. Step 3 drops by 3 with S_3 = 1: G = 1 - 1 / (2 x 1 + 1) = 2/3.
    np.testing.assert_allclose(
        form.loss(np.array([[*p.values()]]), values([1, 2, 3], 0))[0],
        [2 + 3 / 4, 2 + 3 / 8, 2 + 3 / 9 - 0.5 * 3 * (2 / 3)])
    p = {"L_0": 2.0, "A": 3.0, "s": 1.0, "B": 0.5, "kappa": 1.0, "gamma": 1.0}
    form = sl.schedule_law("functional", {"x": rates})
    # T is 4, 8 and 9; at step 3 the squares 16, 16 and 1 are 5, 1 and 0 behind.
    np.testing.assert_allclose(
        form.loss(np.array([[*p.values()]]), values([1, 2, 3], 0))[0],
        [2 + 3 / 4 + 8, 2 + 3 / 8 + 0.5 * (16 / 5 + 16),
         2 + 3 / 9 + 0.5 * (16 / 6 + 16 / 2 + 1)])


@pytest.mark.parametrize(("name", "bound"), [("multi-power", 1e-5), ("functional", 1e-4)])
def test_nodes_replace_the_sum_over_every_step(name: str, bound: float) -> None:
    """The error is in nats, far below the noise of training losses, which is above 1e-3."""
    form = sl.schedule_law(name, SCHEDULES)
    for i, rates in enumerate(SCHEDULES.values()):
        steps = [WARMUP + 1, WARMUP + 2, 1000, 3101, 4901, STEPS]
        expected = [exact(name, TRUTH[name], rates, t) for t in steps]
        found = form.loss(point(name), values(steps, i))[0]
        np.testing.assert_allclose(found, expected, rtol=0, atol=bound)


def test_rising_rates_and_a_rate_of_zero() -> None:
    rates = PEAK * np.array([3.0, 1.0, 2.0, 1.0, 0.0, 0.0])
    form = sl.schedule_law("multi-power", {"x": rates}, warmup=0)
    for t in range(1, 5):
        assert form.loss(point("multi-power"), values([t], 0))[0, 0] == pytest.approx(
            exact("multi-power", LUO, rates, t), rel=1e-9)
    after = form.loss(point("multi-power"), values([4, 5, 6], 0))[0]
    assert after[1] == after[0] == after[2]  # nothing is learnt at a rate of zero


def test_the_warmup_is_the_rise_at_the_start() -> None:
    for rates in SCHEDULES.values():
        assert schedule("x", rates).warmup in (WARMUP - 1, WARMUP)
    assert schedule("x", [3.0, 3.0, 2.0, 4.0]).warmup == 0
    measured = history([schedule("x", [1.0, 2.0, 3.0, 3.0, 1.0])], None, "drops",
                       np.array([5.0]), np.array([0.0]))
    assert measured.weight.sum() == pytest.approx(2)  # no rise counts


def test_rates_become_few_knots() -> None:
    for rates in SCHEDULES.values():
        knots = schedule("x", rates)
        assert len(knots.steps) < 300
        np.testing.assert_allclose(
            np.interp(np.arange(1, STEPS + 1), knots.steps, knots.rates), rates, atol=1.1e-5 * PEAK)
    assert schedule("x", [(0, 1.0), (10, 1.0), (20, 0.0)]) == schedule(
        "x", np.interp(np.arange(21), [0, 10, 20], [1, 1, 0])[:, None] * [0, 1]
        + np.arange(21)[:, None] * [1, 0])


@pytest.mark.parametrize("name", TRUTH)
def test_derivatives_are_those_of_complex_steps(name: str) -> None:
    form = sl.schedule_law(name, SCHEDULES)
    assert isinstance(form, Formula)
    x = form.coordinates(values(np.linspace(WARMUP + 50, STEPS, 9), 0))
    theta = form.from_params(np.vstack([point(name), 1.3 * point(name)]))
    prediction, j_BRP = form.gradient(theta, x)
    expected, expected_j = Formula.gradient(form, theta, x)
    np.testing.assert_allclose(prediction, expected, rtol=1e-12)
    np.testing.assert_allclose(j_BRP, expected_j, rtol=1e-9, atol=1e-13)
    w = np.random.default_rng(0).normal(size=prediction.shape)
    np.testing.assert_allclose(form.hessian(theta, x, w, j_BRP),
                               Form.hessian(form, theta, x, w, j_BRP), atol=1e-4)


@pytest.mark.parametrize("name", TRUTH)
def test_a_third_schedule_is_predicted_from_two(name: str) -> None:
    given = {each: SCHEDULES[each] for each in ("cosine", "wsd")}
    fit = sl.fit(curves(name), sl.schedule_law(name, given), resamples=0)
    for parameter, value in TRUTH[name].items():
        assert fit.params[parameter] == pytest.approx(value, rel=1e-4), parameter
    with pytest.raises(UserError, match=r"schedule 'two-stage': the schedules of this law are"):
        fit.predict(step=STEPS, schedule="two-stage")
    wider = sl.with_schedules(fit, {"two-stage": SCHEDULES["two-stage"]})
    assert wider.predict(step=STEPS, schedule="two-stage") == pytest.approx(
        exact(name, TRUTH[name], SCHEDULES["two-stage"], STEPS), abs=1e-4)
    frame = curves(name, ("two-stage",), rows=5)
    np.testing.assert_allclose(wider.predict(frame), frame["loss"], rtol=1e-6)


def test_scipy_finds_no_lower_objective() -> None:
    frame = curves("multi-power", noise=3e-4, rows=40)
    form = sl.schedule_law("multi-power", SCHEDULES)
    fit = sl.fit(frame, form, objective="squared", resamples=0)
    rows = [(name, step) for name, step in zip(frame["schedule"], frame["step"], strict=True)]
    cumulative = {name: np.concatenate([[0], np.cumsum(r)]) for name, r in SCHEDULES.items()}

    def residuals(logs: np.ndarray) -> np.ndarray:
        l_0, a, alpha, b, c, beta, gamma = np.exp(logs)
        predicted = []
        for name, t in rows:
            rates, total = SCHEDULES[name], cumulative[name]
            k = np.arange(WARMUP + 2, t + 1)
            x = c * rates[k - 1] ** -gamma * (total[t] - total[k - 1])
            drop = ((rates[k - 2] - rates[k - 1]) * (1 - (1 + x) ** -beta)).sum()
            predicted.append(l_0 + a * total[t] ** -alpha - b * drop)
        return np.log(np.maximum(predicted, 1e-9)) - np.log(frame["loss"].to_numpy())

    start = np.log([*LUO.values()])
    other = scipy.optimize.least_squares(residuals, start, max_nfev=15)
    ours = (residuals(np.log([*fit.params.values()]))**2).sum()
    assert ours <= 2 * other.cost * (1 + 1e-4)
    assert ours < (residuals(start)**2).sum()


def test_saved_laws_have_their_schedules(tmp_path: Path) -> None:
    form = sl.constrain(sl.schedule_law("multi-power", SCHEDULES), {"gamma": 0.641})
    fit = sl.fit(curves("multi-power", noise=1e-4, rows=30), form, resamples=20)
    fit.save(tmp_path / "laws.json")
    (loaded,) = sl.load(tmp_path / "laws.json").values()
    asked = {"step": [1000, STEPS], "schedule": ["cosine", "two-stage"]}
    np.testing.assert_allclose(loaded.predict(**asked), fit.predict(**asked), rtol=1e-6)
    new = sl.with_schedules(loaded, {"constant": [(1, PEAK), (9000, PEAK)]})
    low, high = new.predict(step=9000, schedule="constant", interval=True)[1:]
    assert low < exact("multi-power", LUO, np.full(9000, PEAK), 9000) < high
    with pytest.raises(UserError, match=r"schedule cosine: the law has other rates"):
        sl.with_schedules(loaded, {"cosine": [(1, PEAK), (9000, PEAK)]})
    assert (tmp_path / "laws.json").stat().st_size < 60_000

    content = json.loads((tmp_path / "laws.json").read_text())
    content["laws"][0]["schedules"]["cosine"]["rates"][0] = -1.0
    (tmp_path / "laws.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"laws.json: schedule cosine: a learning rate of -1"):
        sl.load(tmp_path / "laws.json")


def test_schedules_are_the_runs_that_are_resampled() -> None:
    knots = {f"s{i}": [(1, PEAK), (1000, PEAK), (2000 + 500 * i, 1e-5)] for i in range(5)}
    form = sl.schedule_law("functional", knots)
    steps = np.linspace(100, 2000, 12).round()
    frame = pd.concat([pd.DataFrame({
        "step": steps, "schedule": name,
        "loss": form.loss(point("functional"), values(steps, i))[0]})
        for i, name in enumerate(knots)])
    extra = {"step": "step", "schedule": "schedule"}
    table = sl.read(frame, extra=extra, labels=form.labels, needs=())
    assert len(np.unique(table.cluster)) == 5
    assert not table.warnings
    few = sl.read(frame[frame["schedule"] < "s2"], extra=extra, labels=form.labels, needs=())
    assert not few.cluster.size
    assert "the rows are of 2 schedules, fewer than the 5" in few.warnings[0]


@pytest.mark.parametrize(("given", "message"), [
    ([1.0], "schedule x: the learning rate of each step, or pairs"),
    ([1.0, -2.0], "schedule x: a learning rate of -2 at step 2, where a non-negative number"),
    ([1.0, float("nan")], "schedule x: a learning rate of nan"),
    ([0.0, 0.0], "schedule x: all learning rates are zero"),
    ([(5, 1.0), (9, 1.0)], "schedule x: begins at step 5, where 0 or 1 is expected"),
    ([(1, 1.0), (1, 1.0)], "schedule x: step 1 comes after step 1"),
    ([(1, 1.0), (2.5, 1.0)], "schedule x: step 2.5, where an integer"),
    ("text", "schedule x: the learning rate of each step, or pairs"),
])
def test_wrong_schedules(given: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        sl.schedule_law("multi-power", {"x": given})


def test_wrong_tables_and_names(tmp_path: Path) -> None:
    form = sl.schedule_law("multi-power", {"cosine": SCHEDULES["cosine"][:5000]})
    frame = curves("multi-power")
    with pytest.raises(UserError, match=r"row 61 .*column schedule: 'wsd', where one of cosine"):
        sl.fit(frame, form)
    with pytest.raises(UserError, match=r"step 6000 of schedule cosine, where a step from 1 to 5"):
        sl.fit(frame[:60], form)
    with pytest.raises(UserError, match=r"multi-power: is a law of learning rate schedules"):
        sl.fit(frame, "multi-power")
    with pytest.raises(UserError, match=r"did you mean multi-power"):
        sl.schedule_law("multipower", SCHEDULES)
    with pytest.raises(UserError, match=r"rates.csv: no such file; a table of learning rate"):
        sl.schedule_law("multi-power", tmp_path / "rates.csv")
    (tmp_path / "rates.csv").write_text("schedule,step,rate\na,1,0.1\na,2,-0.1\n")
    with pytest.raises(UserError, match=r"rates.csv: row 2, column rate: '-0.1', where a non-neg"):
        sl.schedule_law("multi-power", tmp_path / "rates.csv")
    (tmp_path / "rates.csv").write_text("schedule,step,lr\na,1,0.1\n")
    with pytest.raises(UserError, match=r"rates.csv: has no column rate"):
        sl.schedule_law("multi-power", tmp_path / "rates.csv")
    constant = sl.schedule_law("multi-power", {n: np.full(STEPS, PEAK) for n in ("cosine", "wsd")})
    with pytest.raises(DataError, match=r"no schedule changes its rate"):
        sl.fit(frame, constant)


def test_the_command_fits_saves_and_predicts(tmp_path: Path) -> None:
    def rates(*names: str) -> pd.DataFrame:
        return pd.concat([pd.DataFrame({
            "schedule": name, "step": np.arange(1, STEPS + 1), "rate": SCHEDULES[name]})
            for name in names])

    curves("functional").rename(columns={"schedule": "run"}).to_csv(
        tmp_path / "curves.csv", index=False)
    rates("cosine", "wsd").to_csv(tmp_path / "rates.csv", index=False)
    rates("two-stage").to_csv(tmp_path / "new.csv", index=False)
    fit = ("fit", tmp_path / "curves.csv", "--law", "functional", "--column", "schedule=run",
           "--schedules", tmp_path / "rates.csv", "--bootstrap", "0")
    _run(*fit, "--save", tmp_path / "laws.json")
    printed = _run("predict", tmp_path / "laws.json", "--schedules", tmp_path / "new.csv",
                   "--given", "schedule=two-stage", "--given", f"step={STEPS}", "--json")
    (row,) = json.loads(printed)["predictions"]
    assert row["predicted"] == pytest.approx(
        exact("functional", FUNCTIONAL, SCHEDULES["two-stage"], STEPS), abs=1e-4)
    with pytest.raises(UserError, match=r"rates.csv"):  # an input
        _run(*fit, "--save", tmp_path / "rates.csv")
    with pytest.raises(UserError, match=r"--schedules .*: no fitted law is of learning rate"):
        _run("fit", tmp_path / "curves.csv", "--law", "chinchilla", "--schedules",
             tmp_path / "rates.csv")
    with pytest.raises(UserError, match=r"give them with --schedules"):
        _run(*fit[:4])

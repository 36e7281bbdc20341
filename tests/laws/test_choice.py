"""The choice between forms by predictions of larger runs, and their average."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

import scaling.laws as sl
from scaling.laws.choice import SHARES

FORMS = ("chinchilla", "kaplan-nd", "q-family")


def _runs(q: float, noise: float = 0.002, sizes: int = 6, heldout: bool = False) -> pd.DataFrame:
    """Runs of E + [(A/N^alpha)^(1/q) + (B/D^beta)^(1/q)]^q."""
    n, d = (axis.ravel() for axis in np.meshgrid(
        np.geomspace(1e7, 1e9, sizes), np.geomspace(2e8, 2e10, sizes)))
    if heldout:
        n, d = np.append(n, 4e9), np.append(d, 8e10)
    terms = (300 * n**-0.3) ** (1 / q) + (350 * d**-0.28) ** (1 / q)
    loss = (1.5 + terms**q) * np.exp(noise * np.random.default_rng(3).standard_normal(len(n)))
    frame = pd.DataFrame({"n": n, "d": d, "loss": loss, "role": "grid",
                          "run_id": [f"run{i}" for i in range(len(n))]})
    frame.loc[frame["n"] == 4e9, "role"] = "heldout"
    return frame


def _fits(frame: pd.DataFrame, resamples: int = 0, forms: tuple[str, ...] = FORMS) -> list[sl.Fit]:
    table = sl.read(frame, n="n", d="d")
    return [sl.fit(table, form, resamples=resamples) for form in forms]


@pytest.fixture(scope="module", params=[
    (0.35, "q-family", "chinchilla"), (1.0, "chinchilla", "kaplan-nd")], ids=lambda case: case[1])
def case(request: Any) -> tuple[sl.FormChoice, str, str]:
    """The choice for runs of a form, and the forms that have to predict best and worst."""
    q, best, worst = request.param
    return sl.choose(_fits(_runs(q, sizes=5), 30)), best, worst


def test_the_form_of_the_runs_predicts_best(case) -> None:
    found, best, worst = case
    assert found.best.law.name == best
    assert min(found.weights, key=found.weights.__getitem__) == worst
    assert f"{best} predicts best" in repr(found)
    assert f"of {worst}" in repr(found)


def test_what_the_runs_do_not_support_is_said(case) -> None:
    found, best, _ = case
    assert ("terms of N and D that add" in repr(found)) == (best == "q-family")
    assert "a loss that falls without limit" in repr(found)  # both have a limit of 1.5 nats


def test_weights_are_of_predictions_beyond_the_runs_of_least_compute() -> None:
    """Against fits of a table that never had the larger runs."""
    frame = _runs(0.6, noise=0.01)
    forms = ("chinchilla", "kaplan-nd")
    found = sl.choose(_fits(frame, forms=forms))
    assert found.judged == len(SHARES) - 1
    frame = frame.assign(c=frame["n"] * frame["d"]).sort_values("c").reset_index(drop=True)
    expected = {}
    for name in forms:
        for i, share in enumerate(SHARES):
            cut = frame["c"][int(share * (len(frame) - 1))]
            past, future = frame[frame["c"] <= cut], frame[frame["c"] > cut]
            law = sl.fit(past, name, n="n", d="d", resamples=0)
            error = np.abs(law.predict(n=future["n"].to_numpy(), d=future["d"].to_numpy())
                           / future["loss"].to_numpy() - 1).mean()
            if found.errors[name][i] is not None:
                assert found.errors[name][i] == pytest.approx(error, rel=1e-4)
        expected[name] = error**-2
    total = sum(expected.values())
    assert found.weights == pytest.approx({k: v / total for k, v in expected.items()}, rel=1e-3)
    assert found.reach[-1] == pytest.approx(frame["c"].iloc[-1] / cut, rel=1e-3)


def test_the_average_and_its_interval() -> None:
    """Of logarithms; the interval is of draws from the forms in proportion to their weights."""
    fits = _fits(_runs(0.6, noise=0.01, heldout=True), 60, ("chinchilla", "kaplan-nd"))
    found = sl.choose(fits)
    by_hand = np.exp(sum(found.weights[f.law.name] * np.log(f.predict(n=4e9, d=8e10))
                         for f in fits))
    assert found.predict(n=4e9, d=8e10) == pytest.approx(by_hand, rel=1e-12)
    value, low, high = found.predict(n=4e9, d=8e10, interval=True)
    draw = np.random.default_rng(0)
    outcomes: list[Any] = []
    for each in fits:
        boot = each.law.bootstrap
        assert boot is not None
        count = int(200_000 * found.weights[each.law.name])
        at = each.law.form.loss(boot.samples, {"n": np.array([4e9]), "d": np.array([8e10])})[:, 0]
        outcomes.append(draw.choice(at, count) * np.exp(draw.choice(boot.residuals, count)))
    expected = np.quantile(np.concatenate(outcomes), [0.05, 0.95])
    assert (low, high) == pytest.approx(tuple(expected), rel=2e-3)
    assert low < value < high
    row = found.heldout["run36"]
    assert (row["predicted"], row["interval"]) == (pytest.approx(by_hand), pytest.approx(
        (low, high)))
    frame = found.predict(n=[1e8, 4e9], d=8e10, interval=True)
    assert frame["value"][1] == pytest.approx(by_hand)


def test_few_runs_judge_no_form() -> None:
    found = sl.choose(_fits(_runs(1.0, sizes=3), forms=("chinchilla", "kaplan-nd")))
    assert found.judged is None
    assert set(found.weights.values()) == {0.5}
    assert "too few to judge" in repr(found)


@pytest.mark.parametrize(("fits", "said"), [
    (lambda a, b: [a], "at least two fits"),
    (lambda a, b: [a, sl.fit(a.runs, "henighan-n", resamples=0)], "an envelope of the runs"),
    (lambda a, b: [a, sl.fit(_runs(1.0, sizes=4), "kaplan-nd", n="n", d="d", resamples=0)],
     "to other runs"),
    (lambda a, b: [a, sl.fit(_runs(1.0, noise=0.01), "kaplan-nd", n="n", d="d", resamples=0)],
     "to other runs"),  # of the same sizes, with other losses
])
def test_what_cannot_be_chosen_from_is_told(fits, said) -> None:
    a, b = _fits(_runs(1.0), forms=("chinchilla", "kaplan-nd"))
    with pytest.raises(sl.UserError, match=said):
        sl.choose(fits(a, b))


def test_fit_without_a_law_shows_the_choice(command, tmp_path) -> None:
    _runs(0.35, sizes=5, heldout=True).rename(columns={"n": "params_total", "d": "tokens"}).assign(
        params_non_embedding=lambda f: f["params_total"] * 0.9).to_csv(
        tmp_path / "runs.csv", index=False)
    done = command("fit", tmp_path, "--bootstrap", 4)
    assert done.code == 0, done.err
    assert "q-family predicts best" in done.out
    assert "average of forms" in done.out
    assert "predicts best" not in command("fit", tmp_path, "--bootstrap", 0, "--law", "chinchilla",
                                          "--law", "kaplan-nd").out


def test_a_data_frame_is_predicted_row_by_row() -> None:
    frame = _runs(1.0, sizes=4)
    choice = sl.choose(_fits(frame, 40, ("chinchilla", "kaplan-nd")))
    rows = frame.iloc[[3, 5]]
    found = choice.predict(rows, level=0.5)
    assert list(found.index) == [3, 5]
    for place, row in rows.iterrows():
        one = choice.predict(n=row["n"], d=row["d"], level=0.5)
        assert tuple(found.loc[place]) == pytest.approx(one)
    assert choice.predict(rows).name == "predicted"
    with pytest.raises(sl.UserError, match="one data frame, or values by name"):
        choice.predict(rows, n=1e9)

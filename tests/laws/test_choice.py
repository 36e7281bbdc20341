"""The choice between forms by predictions of larger runs, and their average."""

from __future__ import annotations

import json
from dataclasses import replace
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
    assert found.best == best
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


@pytest.fixture(scope="module")
def chosen() -> sl.Fit:
    """The best of three forms, none of which was named."""
    return sl.fit(_runs(0.6, noise=0.01, sizes=5, heldout=True), n="n", d="d", resamples=30)


def test_a_fit_without_a_law_is_the_one_that_predicts_best(chosen) -> None:
    by_hand = sl.choose(_fits(_runs(0.6, noise=0.01, sizes=5, heldout=True), 30))
    assert chosen.law.name == chosen.choice.best == by_hand.best
    assert chosen.choice.weights == by_hand.weights
    assert f"{chosen.law.name} predicts best" in repr(chosen)
    assert "predicts best" in chosen._repr_html_()
    assert "average of forms" in chosen.summary()


def test_its_interval_covers_the_choice_of_the_form(chosen) -> None:
    value, low, high = chosen.predict(n=4e9, d=8e10, interval=True)
    alone = replace(chosen, choice=None).predict(n=4e9, d=8e10, interval=True)
    assert value == alone.value
    assert (low, high) == chosen.choice.predict(n=4e9, d=8e10, interval=True)[1:]
    assert (low, high) != alone[1:]
    assert chosen.predict(n=4e9, d=8e10, interval="confidence")[1:] == replace(
        chosen, choice=None).predict(n=4e9, d=8e10, interval="confidence")[1:]


def test_laws_that_count_other_parameters_are_not_in_the_interval() -> None:
    fits = _fits(_runs(0.6, noise=0.01, sizes=5), 30)
    choice = sl.choose(fits)
    other = next(fit for fit in fits if fit.law.name != choice.best)
    law = replace(other.law, convention=other.law.convention | {"n": "non-embedding"})
    mixed = replace(choice, laws=dict(choice.laws) | {law.name: law})
    assert set(mixed.alike().laws) == set(mixed.laws) - {law.name}
    assert sum(mixed.alike().weights.values()) == pytest.approx(1)
    with pytest.raises(sl.UserError, match="count N in different ways"):
        mixed.predict(n=1e9, d=1e10)


def test_the_choice_is_saved_with_its_laws(chosen, tmp_path) -> None:
    chosen.save(tmp_path / "laws.json")
    loaded = sl.load(tmp_path / "laws.json")
    assert [*loaded] == [*chosen.choice.laws]
    assert [name for name, fit in loaded.items() if fit.choice] == [chosen.law.name]
    again = loaded[chosen.law.name].choice
    assert (again.errors, again.weights, again.aic, again.reach) == (
        chosen.choice.errors, chosen.choice.weights, chosen.choice.aic, chosen.choice.reach)
    assert repr(again) == repr(chosen.choice)
    assert again.predict(n=1e9, d=1e10) == pytest.approx(chosen.choice.predict(n=1e9, d=1e10))


@pytest.mark.parametrize(("change", "said"), [
    (lambda c: c["laws"].update({"chinchilla": 3}), "the number of a law of the file"),
    (lambda c: c.update(laws={}), "the number of each law"),
    (lambda c: c["weights"].update({"chinchilla": 2.0}), "numbers from 0 to 1"),
    (lambda c: c["errors"].update({"chinchilla": [0.1]}), "a list of 3 values"),
    (lambda c: c["aic"].pop("q-family"), "a number"),
    (lambda c: c.update(reach="far"), "a list"),
])
def test_a_changed_choice_is_refused(chosen, tmp_path, change, said) -> None:
    path = tmp_path / "laws.json"
    chosen.save(path)
    content = json.loads(path.read_text())
    change(content["choice"])
    path.write_text(json.dumps(content))
    with pytest.raises(sl.UserError, match=f"choice.*{said}"):
        sl.load(path)


def test_criterion_of_akaike() -> None:
    """Against its definition for normal residuals."""
    fits = [sl.fit(_runs(1.0, noise=0.01), form, n="n", d="d", objective="squared", resamples=0)
            for form in ("chinchilla", "kaplan-nd")]
    found = sl.choose(fits)
    by_hand = {}
    for fit in fits:
        squares = np.mean(np.log(fit.runs.loss / fit.law.loss(fit.runs.values)) ** 2)
        by_hand[fit.law.name] = len(fit.runs.loss) * np.log(squares) + 2 * len(fit.params)
    difference = by_hand["kaplan-nd"] - by_hand["chinchilla"]
    assert found.aic["kaplan-nd"] - found.aic["chinchilla"] == pytest.approx(difference)
    assert min(found.aic.values()) == 0


def test_parameters_need_a_law_that_is_named() -> None:
    with pytest.raises(sl.UserError, match="parameters of which law"):
        sl.fit(_runs(1.0), n="n", d="d", fix={"E": 1.5})


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

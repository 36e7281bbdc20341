"""Fits of runs whose law is known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from scaling.errors import UserError
from scaling.laws import ResidualLoss, fit_law, from_frame

pytestmark = pytest.mark.quick


def test_noise_free_runs_give_their_constants_back(grid, constants) -> None:
    law = fit_law(from_frame(grid(), "runs"), "chinchilla", resamples=0)
    for name, value in constants.items():
        assert law.params[name] == pytest.approx(value, rel=1e-6)
    a = constants["beta"] / (constants["alpha"] + constants["beta"])
    assert law.exponents["a"] == pytest.approx(a, rel=1e-6)
    assert law.exponents["a"] + law.exponents["b"] == pytest.approx(1)
    assert law.convergence["converged"]
    assert law.convergence["start_agreement"] == 1.0
    assert law.warnings == ()


def test_kaplan_laws_recover_power_laws(grid) -> None:
    frame = grid()
    n, d = frame["params_non_embedding"].to_numpy(float), frame["tokens"].to_numpy(float)
    for variable, x in (("n", n), ("d", d), ("c", 6 * n * d)):
        frame["loss"] = (3e12 / x) ** 0.07
        law = fit_law(from_frame(frame, "runs", counting="non-embedding"), f"kaplan-{variable}",
                      resamples=20)
        name = variable.upper()
        assert law.params[f"alpha_{name}"] == pytest.approx(0.07, rel=1e-6)
        assert law.params[f"{name}_c"] == pytest.approx(3e12, rel=1e-5)
        assert law.exponents == {"a": None, "b": None}
    frame["loss"] = ((6e12 / n) ** (0.08 / 0.11) + 2e12 / d) ** 0.11
    law = fit_law(from_frame(frame, "runs"), "kaplan-nd", resamples=0)
    assert list(law.params.values()) == pytest.approx([6e12, 2e12, 0.08, 0.11], rel=1e-4)


def test_intervals_cover_the_truth_about_as_often_as_they_say(grid, constants) -> None:
    inside = []
    for seed in range(6):
        table = from_frame(grid(noise=0.005, seed=seed), "runs")
        law = fit_law(table, "chinchilla", robust=ResidualLoss("squared"), resamples=100, seed=seed)
        for name, value in constants.items():
            low, high = law.intervals[name]
            assert low < high
            inside.append(low <= value <= high)
    # 30 intervals of 90% that are correlated in fives: percentile intervals of 25 runs are a
    # little narrow, but not by half.
    assert 0.7 <= np.mean(inside) <= 1.0


def test_prediction_interval_covers_new_runs(grid, heldout_row) -> None:
    """Runs that scatter like the fitted ones fall inside about nine times in ten."""
    hits = []
    for seed in range(10):
        frame = pd.concat([grid(noise=0.01, seed=seed), pd.DataFrame([heldout_row])])
        noise = float(np.random.default_rng(100 + seed).standard_normal())
        frame.loc[frame["role"] == "heldout", "loss"] *= np.exp(0.01 * noise)
        table = from_frame(frame, "runs")
        law = fit_law(table, "chinchilla", robust=ResidualLoss("squared"), resamples=25)
        row = law.heldout["large"]
        low, high = row["interval"]
        assert low < row["predicted"] < high
        assert row["relative_error"] == pytest.approx(row["predicted"] / row["measured"] - 1)
        hits.append(low <= row["measured"] <= high)
    assert np.mean(hits) >= 0.75


def test_prediction_interval_is_as_wide_as_the_runs_scatter(grid) -> None:
    """In the middle of the grid the law is well known, and the scatter of runs is what is left."""
    noise = 0.03
    frame = pd.concat([grid(noise=noise, seed=s).assign(run_id=f"s{s}-" + grid()["run_id"])
                       for s in range(4)])
    law = fit_law(from_frame(frame, "runs"), "chinchilla", robust=ResidualLoss("squared"),
                  resamples=100)
    n, d = 1.1e5, 1e6
    low, high = law.prediction_interval({"n": np.array([n]), "d": np.array([d])})
    band_low, band_high = law.loss_band({"n": np.array([n]), "d": np.array([d])})
    assert np.log(band_high / band_low)[0] < noise  # the law itself is known better
    # Five to ninety-five percent of a normal distribution are 3.29 standard deviations.
    assert np.log(high / low) == pytest.approx(3.29 * noise, rel=0.2)


def test_held_out_runs_never_influence_a_fit(grid, heldout_row) -> None:
    frame = grid(noise=0.01)
    alone = fit_law(from_frame(frame, "runs"), "chinchilla", resamples=8)
    for loss, status in ((0.01, "done"), (1e3, "done"), (None, "planned"), (None, "diverged")):
        row = {**heldout_row, "loss": loss, "status": status}
        table = from_frame(pd.concat([frame, pd.DataFrame([row])]), "runs")
        law = fit_law(table, "chinchilla", resamples=8)
        assert law.params == alone.params
        assert law.intervals == alone.intervals
        assert law.data_sha256 == alone.data_sha256
        assert law.excluded["heldout"] == 1
        predicted = law.heldout["large"]
        assert (predicted["n"], predicted["d"]) == (900_000, 6_000_000)
        assert predicted["measured"] == loss
        assert (predicted["relative_error"] is None) == (loss is None)
        assert predicted["predicted"] > 0


def test_rows_that_are_not_done_are_left_out_and_counted(grid) -> None:
    frame = grid(noise=0.01)
    alone = fit_law(from_frame(frame.drop(index=[3, 7, 9]), "runs"), "chinchilla", resamples=0)
    frame.loc[3, ["status", "loss"]] = ["diverged", np.nan]
    frame.loc[7, ["status", "loss"]] = ["failed", np.nan]
    frame.loc[9, ["status", "loss"]] = ["planned", np.nan]
    law = fit_law(from_frame(frame, "runs"), "chinchilla", resamples=0)
    assert law.n_runs == 22
    assert law.excluded == {"diverged": 1, "failed": 1, "planned": 1, "heldout": 0}
    assert law.params == alone.params


def test_loss_against_data_is_of_the_lower_envelope(grid) -> None:
    """Raising any loss that is not on the envelope changes nothing; lowering it does."""
    frame = grid(noise=0.002)
    law = fit_law(from_frame(frame, "runs"), "kaplan-d", resamples=0)
    assert law.n_runs == 5
    assert law.excluded["above_envelope"] == 20
    smaller = (frame["params_total"] < 450_560).to_numpy()
    frame.loc[smaller, "loss"] *= 1.3
    # A long run of a small model, beaten by a shorter one of a large model, says nothing of L(D).
    long = frame.iloc[0].to_dict() | {"run_id": "long", "tokens": 40_000_000, "loss": 2.9}
    frame = pd.concat([frame, pd.DataFrame([long])], ignore_index=True)
    assert frame["loss"].min() < 2.9
    assert fit_law(from_frame(frame, "runs"), "kaplan-d", resamples=0).params == law.params
    frame.loc[4, "loss"] = 0.5
    assert fit_law(from_frame(frame, "runs"), "kaplan-d", resamples=0).params != law.params


def test_loss_against_size_compares_sizes_on_the_same_tokens(grid) -> None:
    frame = grid(noise=0.002)
    law = fit_law(from_frame(frame, "runs"), "kaplan-n", resamples=0)
    assert law.n_runs == 5
    assert law.excluded["above_envelope"] == 20
    frame.loc[frame["tokens"] < 4_000_000, "loss"] *= 0.9
    long = frame.iloc[0].to_dict() | {"run_id": "long", "tokens": 40_000_000, "loss": 0.5}
    frame = pd.concat([frame, pd.DataFrame([long])], ignore_index=True)
    assert fit_law(from_frame(frame, "runs"), "kaplan-n", resamples=0).params == law.params
    # Where no token count is shared by all sizes, each size's lowest loss has to do.
    frame["tokens"] += np.arange(len(frame))
    other = fit_law(from_frame(frame, "runs"), "kaplan-n", resamples=0)
    assert other.n_runs == 5
    assert other.params != law.params


def test_compute_envelope_falls_and_nothing_beats_it(grid) -> None:
    table = from_frame(grid(noise=0.02, seed=4), "runs")
    from scaling.laws import FORMS

    rows = FORMS["kaplan-c"].fitted_rows(table)
    on = sorted(zip(table.c[rows], table.loss[rows], strict=True))
    assert [loss for _, loss in on] == sorted((loss for _, loss in on), reverse=True)
    for c, loss in zip(table.c, table.loss, strict=True):
        assert any(x <= c and y <= loss for x, y in on)


def test_the_order_of_the_rows_changes_nothing(grid) -> None:
    frame = grid(noise=0.01)
    shuffled = frame.sample(frac=1, random_state=3)
    first = fit_law(from_frame(frame, "runs"), "chinchilla", resamples=8)
    second = fit_law(from_frame(shuffled, "runs"), "chinchilla", resamples=8)
    assert first.to_json() == second.to_json()


@pytest.mark.parametrize("bootstrap", [0, 5])
def test_fixed_tokens_per_parameter_identify_nothing(grid, bootstrap: int) -> None:
    """On a line D = 20 N the terms of N and of D cannot be distinguished."""
    frame = grid(noise=0.005)
    frame["params_total"] = np.geomspace(1e4, 1e6, len(frame)).round()
    frame["tokens"] = 20 * frame["params_total"]
    n = frame["params_total"].to_numpy()
    frame["loss"] = (1.3 + 24 / n**0.34 + 45 / (20 * n) ** 0.29) * np.exp(
        0.005 * np.random.default_rng(0).standard_normal(len(n)))
    law = fit_law(from_frame(frame, "runs"), "chinchilla", resamples=bootstrap)
    assert any("effects of N and D cannot be distinguished" in warning for warning in law.warnings)
    for name in ("A", "B", "alpha", "beta"):
        assert law.se[name] is None
        assert law.intervals[name] is None
    assert law.exponents == {"a": None, "b": None}


def test_a_loss_that_does_not_fall_is_no_power_law(grid) -> None:
    frame = grid()
    frame["loss"] = 3.0 * (frame["params_non_embedding"] / 1e5) ** 0.05
    law = fit_law(from_frame(frame, "runs"), "kaplan-n", resamples=0)
    assert any("does not decrease" in warning for warning in law.warnings)
    assert law.se["alpha_N"] is None


def test_a_constant_of_zero_is_reported(grid) -> None:
    """Runs without an irreducible loss: E is zero, and the fit warns."""
    frame = grid()
    n, d = frame["params_total"].to_numpy(float), frame["tokens"].to_numpy(float)
    frame["loss"] = 30 / n**0.2 + 30 / d**0.2
    law = fit_law(from_frame(frame, "runs"), "chinchilla", resamples=0)
    assert law.params["E"] == 0
    assert any("E is at its bound of 0" in warning for warning in law.warnings)
    assert {name: law.params[name] for name in ("A", "alpha", "B", "beta")} == pytest.approx(
        {"A": 30, "alpha": 0.2, "B": 30, "beta": 0.2}, rel=1e-4)


def test_resamples_that_end_at_a_bound_give_no_interval(grid) -> None:
    """From 0 to 0 would say that the limit is known."""
    frame = grid()
    n, d = frame["params_total"].to_numpy(float), frame["tokens"].to_numpy(float)
    noise = 0.001 * np.random.default_rng(0).standard_normal(len(n))
    # Steeper at the end than a power law: a limit makes the fit worse in every resample.
    frame["loss"] = (30 / n**0.2 + 30 / d**0.2) ** 1.2 * (1 - 0.02 * np.log(n / n.min())) * (
        np.exp(noise))
    law = fit_law(from_frame(frame, "runs"), "chinchilla", resamples=40)
    assert law.params["E"] == 0
    assert (law.samples[:, 0] == 0).mean() > 0.95
    assert law.intervals["E"] is None
    assert law.intervals["alpha"] is not None


def test_huber_is_robust_to_an_outlier_and_least_squares_is_not(grid, constants) -> None:
    frame = grid(noise=1e-4)
    frame.loc[12, "loss"] *= 1.2
    table = from_frame(frame, "runs")
    off = {}
    for kind in ("huber", "l1", "squared"):
        law = fit_law(table, "chinchilla", robust=ResidualLoss(kind), resamples=0)  # type: ignore[arg-type]
        off[kind] = abs(law.params["alpha"] - constants["alpha"])
        assert law.convention["objective"] == kind
    assert off["huber"] < 0.01
    assert off["l1"] < 0.01
    assert off["squared"] > 3 * off["huber"]


@pytest.mark.parametrize(("law", "keep", "said"), [
    ("chinchilla", lambda f: f["params_total"] < 20_000, r"1 distinct size N .*at least 3"),
    ("chinchilla", lambda f: f["tokens"] <= 500_000, r"2 distinct token counts D .*at least 3"),
    ("kaplan-n", lambda f: f["params_total"] < 20_000, r"1 distinct size N .*at least 2"),
    ("kaplan-d", lambda f: f["tokens"] == 500_000, r"1 distinct token count D .*at least 2"),
    ("chinchilla", lambda f: [i in (0, 6, 12, 18) for i in range(25)],
     r"4 runs for 5 parameters"),
])
def test_too_few_runs_are_refused(grid, law, keep, said) -> None:
    frame = grid()
    frame.loc[~np.array(keep(frame)), "status"] = "failed"
    with pytest.raises(UserError, match=said):
        fit_law(from_frame(frame, "runs"), law)


def test_unknown_law_names_the_nearest(grid) -> None:
    with pytest.raises(UserError, match="did you mean chinchilla"):
        fit_law(from_frame(grid(), "runs"), "chinchila")

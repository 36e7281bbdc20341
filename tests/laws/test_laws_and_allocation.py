"""Saved laws, published laws, and their allocations."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize_scalar

from scaling.errors import UserError
from scaling.laws import FORMS, Bootstrap, Law, allocate, fit_law, from_frame, published, save
from scaling.laws.allocation.allocate import reference_laws
from scaling.laws.forms.catalogue import DEFAULT
from scaling.laws.io import load
from scaling.laws.published import marks, published_named

KEYS = ["law", "convention", "n_runs", "excluded", "params", "objective", "se", "se_delta",
        "intervals", "exponents", "convergence", "warnings", "heldout", "data_sha256", "bootstrap"]


@pytest.fixture
def fitted(grid, heldout_row) -> Law:
    frame = pd.concat([grid(noise=0.01), pd.DataFrame([heldout_row])])
    return fit_law(from_frame(frame, "runs"), "chinchilla", resamples=120)


def test_a_law_comes_back_from_its_file(fitted: Law, tmp_path: Path) -> None:
    path = tmp_path / "laws.json"
    save([fitted], path)
    content = json.loads(path.read_text())["laws"]
    assert list(content[0]) == KEYS
    assert list(content[0]["params"]) == ["E", "A", "B", "alpha", "beta"]
    assert set(content[0]["heldout"]["large"]) == {
        "n", "d", "predicted", "interval", "measured", "relative_error"}
    (again,) = load(path)
    assert again.params == fitted.params
    assert again.warnings == fitted.warnings
    first, second = allocate(fitted, 1e14), allocate(again, 1e14)
    assert second.n == first.n
    assert second.n_interval == pytest.approx(first.n_interval, rel=1e-5)
    assert second.loss_interval == pytest.approx(first.loss_interval, rel=1e-5)
    at = {"n": np.array([9e5]), "d": np.array([6e6])}
    assert again.prediction_interval(at) == pytest.approx(fitted.prediction_interval(at), rel=1e-5)


def test_files_stay_small_and_whole(fitted: Law, tmp_path: Path) -> None:
    """Ten thousand resamples of a thousand runs are thinned, and keep their quantiles."""
    rng = np.random.default_rng(0)
    samples = fitted.point * np.exp(0.1 * rng.standard_normal((10_000, 5)))
    boot = Bootstrap(10_000, 10_000, 0, samples, 0.01 * rng.standard_normal(1000))
    path = tmp_path / "laws.json"
    law = replace(fitted, bootstrap=boot)
    save([law, law], path)
    assert path.stat().st_size < 200_000
    assert [p.name for p in tmp_path.iterdir()] == ["laws.json"]
    again = load(path)[0]
    assert len(again.samples) <= 1000
    at = {"n": np.array([9e5]), "d": np.array([6e6])}
    assert again.prediction_interval(at) == pytest.approx(law.prediction_interval(at), rel=0.02)


@pytest.mark.parametrize(("text", "message"), [
    ("{", "not readable as JSON"), ('{"laws": [{"n": 1, "n": 2}]}', "'n' occurs twice"),
    ("[]", "holds no laws"), ('{"laws": []}', "holds no laws"),
    ('{"laws": [{"law": "newton"}]}', "where one of kaplan-n"),
    ('{"laws": [{"law": "chinchilla", "convention": {}, "params": {"E": 1}}]}', "convention.n"),
])
def test_files_that_hold_no_law(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "laws.json"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        load(path)
    with pytest.raises(UserError, match="no such file"):
        load(tmp_path / "none.json")


def test_the_closed_form_is_the_minimum(fitted: Law) -> None:
    """Against a numerical search that does not use the exponents."""
    for c in (1e11, 1e13, 1e15):
        best = allocate(fitted, c)
        search = minimize_scalar(
            lambda log_n, c=c: float(fitted.loss({"n": np.exp([log_n]),
                                                  "d": c / 6 / np.exp([log_n])})[0]),
            bracket=(np.log(best.n) - 1, np.log(best.n) + 0.7), tol=1e-9,
        )
        assert best.n == pytest.approx(np.exp(search.x), rel=1e-3)
        assert best.loss == pytest.approx(search.fun, rel=1e-10)
        assert 6 * best.n * best.d == pytest.approx(c)
        assert best.n_interval[0] < best.n < best.n_interval[1]
    slope = np.log(allocate(fitted, 1e15).n / allocate(fitted, 1e11).n) / np.log(1e4)
    assert slope == pytest.approx(fitted.exponents["a"])


def test_far_budgets_get_a_warning(fitted: Law) -> None:
    largest = fitted.convention["range"]["c"][1]
    assert allocate(fitted, 99 * largest).warnings == fitted.warnings
    assert any("extrapolation" in warning for warning in allocate(fitted, 101 * largest).warnings)


def test_hoffmanns_printed_constants_at_gophers_budget() -> None:
    best = allocate(published()["hoffmann2022-3-printed"], 5.76e23)
    assert best.n == pytest.approx(32.2e9, rel=2e-3)
    assert best.d == pytest.approx(2.98e12, rel=2e-3)


def test_unrounded_constants_are_another_law() -> None:
    """A rounding of alpha and beta to two digits moves N* by a quarter."""
    best = allocate(published()["hoffmann2022-3"], 5.76e23)
    g = (0.3392 * 406.4 / (0.2849 * 410.7)) ** (1 / (0.3392 + 0.2849))
    assert best.n == pytest.approx(g * (5.76e23 / 6) ** (0.2849 / (0.3392 + 0.2849)))
    assert best.n == pytest.approx(40.3e9, rel=2e-3)
    assert best.a == pytest.approx(0.4565, abs=1e-4)


def test_hoffmanns_other_approaches_agree_with_the_paper() -> None:
    # Appendix D.4: approach 1 makes 2.86 billion parameters the best at 1e21 FLOP.
    assert allocate(published()["hoffmann2022-1"], 1e21).n == pytest.approx(2.86e9, rel=5e-3)
    # Table 3: 67 billion at Gopher's budget.
    assert allocate(published()["hoffmann2022-1"], 5.76e23).n == pytest.approx(67e9)
    assert allocate(published()["hoffmann2022-2"], 1.20e20).n == pytest.approx(1e9)
    low, high = (allocate(published()["hoffmann2022-2"], c).n for c in (1e10, 1e12))
    assert np.log10(high / low) / 2 == pytest.approx(0.49)


def test_kaplans_optimum_and_laws() -> None:
    # One PF-day is 8.64e19 FLOP; Kaplan et al. give 1.3e9 parameters to it.
    one = allocate(published()["kaplan2020"], 8.64e19)
    assert one.n == pytest.approx(1.3e9)
    assert one.loss == pytest.approx(3.1e8**0.05)
    ten = allocate(published()["kaplan2020"], 8.64e20)
    assert ten.n / one.n == pytest.approx(10**0.73)
    law = published()["kaplan2020-n"].law
    assert law is not None
    assert float(law.loss({"n": np.array([8.8e13])})[0]) == pytest.approx(1.0)
    # With data without end, L(N, D) is a power law of N alone.
    joint = published()["kaplan2020-nd"].law
    assert joint is not None
    at = {"n": np.array([1e8, 1e9]), "d": np.array([1e30, 1e30])}
    assert joint.loss(at) == pytest.approx((6.4e13 / at["n"]) ** 0.076, rel=1e-6)


def test_published_entries_are_complete() -> None:
    names = {entry.name for entry in reference_laws()}
    assert {"kaplan2020", "hoffmann2022-1", "hoffmann2022-2", "hoffmann2022-3"} <= names
    for entry in published().values():
        assert entry.mark in marks()
        assert "arXiv" in entry.citation
        assert entry.where
        assert {"n", "d", "c", "loss"} <= set(entry.convention)
        assert (entry.law is None) != (entry.sizes is None)
    with pytest.raises(UserError, match="did you mean besiroglu2024"):
        published_named("besiroglu2025")


def test_laws_that_cannot_allocate_are_refused(grid) -> None:
    law = fit_law(from_frame(grid(), "runs"), "kaplan-n", resamples=0)
    with pytest.raises(UserError, match="laws that do are chinchilla"):
        allocate(law, 1e15)
    with pytest.raises(UserError, match="positive number of FLOPs"):
        allocate(published()["kaplan2020"], 0)


def test_an_undetermined_law_allocates_nothing(grid) -> None:
    frame = grid(noise=0.005)
    frame["tokens"] = 20 * frame["params_total"]
    frame["params_total"] += np.arange(25)
    law = fit_law(from_frame(frame, "runs"), "chinchilla", resamples=0)
    best = allocate(law, 1e12)
    assert (best.n, best.d, best.loss, best.a) == (None, None, None, None)
    assert any("cannot be distinguished" in warning for warning in best.warnings)


def test_every_form_has_units_for_what_is_no_pure_number() -> None:
    for form in FORMS.values():
        scales = [p for p in form.parameters if p.endswith("_c")]
        assert set(scales) <= set(form.units) <= set(form.parameters)
        if form.name in DEFAULT:
            assert set(scales) == set(form.units)
        assert set(form.exponents) <= set(form.parameters)

"""Simulated sweeps: the runs drawn, and fits of them against the linear theory."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import typer
from scipy.integrate import quad
from scipy.stats import norm
from typer.testing import CliRunner

from scaling.cli.simulate import numbers
from scaling.cli.simulate import simulate as command
from scaling.errors import UserError
from scaling.laws import FORMS, Law, PowerSum, ResidualLoss, Term, from_frame, read, save
from scaling.laws.design import simulate as module
from scaling.laws.design.fisher import Noise, expected_sd, residual_moments, target_named
from scaling.laws.design.grid import Design, by_ratio, from_table, isoflop, rectangle
from scaling.laws.design.simulate import (
    Faults,
    check_sweeps,
    refit_sweeps,
    simulate,
    simulate_study,
)
from scaling.laws.published import published_named

PLAIN = {"n": "total", "d": "tokens", "c": "6 N D"}
POWER = PowerSum(
    name="power", formula="A/D^alpha", source="a test", variables=("d",),
    parameters=("A", "alpha"), robust=ResidualLoss("squared"),
    terms=(Term("A", (("d", "alpha"),)),),
)


@pytest.fixture
def law(constants) -> Law:
    return Law(form=FORMS["chinchilla"], convention=PLAIN, params=constants)


@pytest.fixture
def power() -> Law:
    return Law(form=POWER, convention=PLAIN, params={"A": 30.0, "alpha": 0.2})


def test_runs_without_noise_lie_on_the_law(law: Law, tmp_path: Path) -> None:
    frame = simulate(law, rectangle([1e4, 1e6], [1e6, 1e7, 1e8]), Noise(0.0), seeds=2)
    frame.to_csv(tmp_path / "runs.csv", index=False)
    table = read(tmp_path)
    assert len(table.loss) == 12
    by_hand = 1.3 + 24.0 / table.n**0.34 + 45.0 / table.d**0.29
    np.testing.assert_allclose(table.loss, by_hand, rtol=1e-12)
    np.testing.assert_allclose(frame["flops_6nd"], 6 * frame["params_total"] * frame["tokens"])


def test_more_seeds_leave_the_first_as_they_are(law: Law) -> None:
    design = by_ratio([1e4, 1e5], [5, 50])
    two, three = (simulate(law, design, Noise(0.02), seeds=k, draw=7) for k in (2, 3))
    pd.testing.assert_frame_equal(two, three.iloc[:8])
    assert three["run_id"].is_unique
    assert three["loss"].nunique() == 12
    # No two seeds share their noise, nor do those of different draws.
    several = pd.concat([simulate(law, design, Noise(0.02), seeds=3, draw=draw)["loss"]
                         for draw in (7, 8, 9)])
    assert several.nunique() == several.size


def test_noise_is_log_normal_and_grows_towards_small_runs(law: Law) -> None:
    design = rectangle([1e4, 1e6], [1e7] * 4000)
    frame = simulate(law, design, Noise(0.01, growth=0.25, at=float(design.c.max())))
    small, large = (np.log(frame["loss"][frame["params_total"] == n]) for n in (1e4, 1e6))
    assert large.std() == pytest.approx(0.01, rel=0.05)
    assert small.std() == pytest.approx(0.01 * 100**0.25, rel=0.05)  # of a hundredth the compute
    assert large.mean() == pytest.approx(np.log(law.loss({"n": np.array([1e6]),
                                                          "d": np.array([1e7])}))[0], abs=1e-3)
    assert frame["loss_se"].iloc[-1] == pytest.approx(0.01 * frame["loss"].iloc[-1])


def test_outliers_end_too_high_and_diverged_runs_nowhere(law: Law) -> None:
    design = rectangle(np.geomspace(1e4, 1e6, 20).tolist(), np.geomspace(1e6, 1e8, 20).tolist())
    clean = simulate(law, design, Noise(0.01))
    faulty = simulate(law, design, Noise(0.01), faults=Faults(0.2, 0.1, 0.1))
    done = faulty["status"] == "done"
    excess = np.log(faulty["loss"] / clean["loss"])[done]
    assert (~done).sum() == pytest.approx(40, abs=18)
    assert faulty["loss"][~done].isna().all()
    assert (excess > -1e-12).all()
    assert (excess > 1e-9).mean() == pytest.approx(0.2, abs=0.06)
    assert excess[excess > 1e-9].mean() == pytest.approx(0.1, rel=0.35)
    assert from_frame(faulty, "x").excluded["diverged"] == (~done).sum()


def test_profiles_of_equal_compute_lie_about_the_best_size(law: Law) -> None:
    design = isoflop([1e13, 1e15], law=law)
    np.testing.assert_allclose(design.c.reshape(2, 5), [[1e13] * 5, [1e15] * 5], rtol=1e-12)
    for budget, middle in zip((1e13, 1e15), design.n.reshape(2, 5)[:, 2], strict=True):
        n = np.geomspace(1e3, 1e9, 200_001)
        best = n[np.argmin(24.0 / n**0.34 + 45.0 / (budget / 6 / n) ** 0.29)]
        assert middle == pytest.approx(best, rel=1e-3)
    with pytest.raises(UserError, match="give the sizes too"):
        isoflop([1e13])


def test_a_design_from_a_planned_table(law: Law) -> None:
    frame = pd.DataFrame({
        "role": ["grid", "grid", "heldout"], "params_total": [2e4, 3e4, 9e4], "loss": np.nan,
        "params_non_embedding": [1e4, 2e4, 8e4], "tokens": [1e6, 2e6, 5e6], "status": "planned",
    })
    drawn = simulate(law, from_table(frame, "plan", law), Noise(0.0))
    assert drawn["role"].tolist() == ["grid", "grid", "heldout"]
    assert drawn[["params_total", "params_non_embedding"]].equals(
        frame[["params_total", "params_non_embedding"]])
    np.testing.assert_allclose(
        drawn["loss"], 1.3 + 24.0 / frame["params_total"]**0.34 + 45.0 / frame["tokens"]**0.29)
    kaplan = published_named("kaplan2020-n").law  # counts N without embeddings
    assert kaplan is not None
    np.testing.assert_array_equal(
        from_table(frame, "plan", kaplan).n, frame["params_non_embedding"])
    with pytest.raises(UserError, match="row 2, column tokens"):
        from_table(frame.assign(tokens=[1e6, 0, 1e6]), "plan", law)


def test_a_simulated_table_has_every_column_of_its_law() -> None:
    """Held-out rows, variables other than N and D, and standard errors of a law without log."""
    n, d = np.array([1e6, 2e6, 4e6]), np.array([1e8, 2e8, 3e8])
    design = Design(n, d, {"u": d / 4, "l": np.array([2.0, 3.0, 4.0])},
                    np.array([False, True, False]), {"params_total": n + 5e5})
    repeated = published_named("muennighoff2023").law
    error = published_named("gadre2024-error-c4").law
    assert repeated is not None
    assert error is not None
    frame = simulate(repeated, design, Noise(0.01), seeds=2, source="a law")
    assert frame["seed"].tolist() == [0, 0, 0, 1, 1, 1]
    assert frame["role"].tolist() == ["grid", "heldout", "grid"] * 2
    assert set(frame["corpus"]) == {"simulated from a law"}
    np.testing.assert_array_equal(frame["unique_tokens"], np.tile(d / 4, 2))
    np.testing.assert_array_equal(frame["tokens"], np.tile(d, 2))
    np.testing.assert_array_equal(frame["params_non_embedding"], np.tile(n, 2))
    np.testing.assert_array_equal(frame["params_total"], np.tile(n + 5e5, 2))
    np.testing.assert_allclose(frame["flops_6nd"], np.tile(6 * (n + 5e5) * d, 2))
    np.testing.assert_allclose(frame["loss_se"], 0.01 * frame["loss"])
    clean = repeated.loss(design.values)
    assert (np.abs(frame["loss"] / np.tile(clean, 2) - 1) < 0.05).all()
    frame = simulate(error, design, Noise(0.01))
    np.testing.assert_allclose(frame["loss_se"], 0.01)
    assert (np.abs(frame["loss"] - error.loss(design.values)) < 0.05).all()
    with pytest.raises(UserError, match="needs U_D"):
        simulate(repeated, rectangle([1e6], [1e8]), Noise(0.01))


def test_a_design_keeps_its_rows_together() -> None:
    n, d = np.array([1e6, 2e6, 4e6]), np.array([1e8, 2e8, 3e8])
    design = Design(n, d, {"u": d / 4}, np.array([False, True, False]), {"params_total": n + 5e5})
    twice = design.with_seeds(2)
    np.testing.assert_allclose(design.c, 6 * n * d)
    assert design.flops == pytest.approx((6 * n * d).sum())
    for rows, of, keep in ((range(3), design.fitted(), [0, 2]),
                           (range(6), twice, [0, 1, 2, 0, 1, 2]),
                           (range(6), twice.fitted(), [0, 2, 0, 2])):
        assert len(of.n) <= len(rows)
        np.testing.assert_array_equal(of.n, n[keep])
        for name, values in (("d", d), ("u", d / 4), ("c", 6 * n * d)):
            np.testing.assert_allclose(of.values[name], values[keep])
    assert twice.heldout is not None
    assert twice.heldout.tolist() == [False, True, False] * 2
    np.testing.assert_array_equal(twice.columns["params_total"], np.tile(n + 5e5, 2))
    pairs = by_ratio([1e6, 2e6], [10, 20, 30])
    np.testing.assert_allclose(pairs.n, [1e6] * 3 + [2e6] * 3)
    np.testing.assert_allclose(pairs.d, [1e7, 2e7, 3e7, 2e7, 4e7, 6e7])
    pairs = isoflop([6e12, 6e14], [1e6, 1e7])
    np.testing.assert_allclose(pairs.n, [1e6, 1e7, 1e6, 1e7])
    np.testing.assert_allclose(pairs.d, [1e6, 1e5, 1e8, 1e7])
    law = published_named("besiroglu2024").law
    assert law is not None
    sizes = isoflop([1e18, 1e20], law=law).n.reshape(2, 5)
    np.testing.assert_allclose(sizes / sizes[:, 2:3], [[1 / 4, 1 / 2, 1, 2, 4]] * 2)


@pytest.mark.parametrize("make", [
    lambda: rectangle([1e6, -1], [1e8]), lambda: rectangle([1e6], [1e8, 1e40]),
    lambda: rectangle([1e6, np.nan], [1e8]), lambda: rectangle([], [1e8]),
    lambda: rectangle(np.full(1001, 1e6), np.full(1000, 1e8)), lambda: isoflop([1e18, 0], [1e6]),
    lambda: isoflop([1e18, 1e40], [1e6]),
    lambda: rectangle(np.full(1000, 1e6), np.full(500, 1e8)).check_runs(3),
    lambda: rectangle([1e6], [1e8]).check_runs(0),
    lambda: check_sweeps(rectangle([1e6], [1e8]), 0),
    lambda: check_sweeps(rectangle([1e6], [1e8]), 100_001),
    lambda: check_sweeps(rectangle(np.full(201, 1e6), [1e8]), 100_000),
])
def test_designs_out_of_range_are_refused(make) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UserError, match="expected"):
        make()
    check_sweeps(rectangle(np.full(200, 1e6), [1e8]), 100_000)
    rectangle(np.full(1000, 1e6), np.full(500, 1e8)).check_runs(2)


def test_former_runs_of_a_sweep_are_not_planned(law: Law) -> None:
    frame = pd.DataFrame({"role": ["grid", "former", "heldout"], "params_total": [2e4, 3e4, 9e4],
                          "tokens": [1e6, 2e6, 5e6]})
    design = from_table(frame, "plan", law)
    assert design.n.tolist() == [2e4, 9e4]
    assert design.d.tolist() == [1e6, 5e6]
    assert design.heldout is not None
    assert design.heldout.tolist() == [False, True]


def test_a_study_is_a_regression_of_every_sweep(power: Law) -> None:
    """By numpy, with the same draws: log L = log A - alpha log D, in runs that are not held out."""
    d = np.geomspace(1e6, 1e9, 9)
    heldout = np.arange(9) == 8
    design = Design(np.full(9, 1e5), d, heldout=heldout)
    noise = Noise(0.05, growth=0.2, at=6e14)
    seen: list[int] = []
    targets = [target_named(POWER, name) for name in ("alpha", "A")]
    study = simulate_study(power, design, noise, 250, targets, draw=11, watch=seen.append)
    assert seen == [100, 200, 250]
    assert (study.sweeps, study.converged) == (250, 250)
    rng = np.random.default_rng(11)
    sd = 0.05 * (6e14 / (6e5 * d[:8])) ** 0.2
    y = np.log(30 / d[:8] ** 0.2) + sd * rng.standard_normal((250, 8))
    slope, level = np.polyfit(np.log(d[:8]), y.T, 1)
    for found, by_hand, truth in zip(study.targets, (-slope, np.exp(level)), (0.2, 30.0),
                                     strict=True):
        np.testing.assert_allclose(found.estimates, by_hand, rtol=1e-6)
        assert (found.truth, found.lost) == (pytest.approx(truth), 0)
        low, high = np.quantile(by_hand, [0.05, 0.95])
        assert found.interval == pytest.approx((low, high), rel=1e-6)
        own = np.log(by_hand) if found.target.log else by_hand
        assert found.width == pytest.approx(high / low if found.target.log else high - low)
        assert found.sd == pytest.approx(own.std(), rel=0.2)
        assert found.expected_sd == pytest.approx(own.std(), rel=0.2)
    assert {found.target.log for found in study.targets} == {True, False}
    shown = study.to_json()["targets"][1]
    assert shown["median"] == pytest.approx(np.median(np.exp(level)), rel=1e-6)
    # Absolute residuals have other estimates; runs that diverge are left out of the fits.
    l1, few = (simulate_study(power, design, noise, 40, targets, draw=11, **change)
               for change in ({"robust": ResidualLoss("l1")}, {"faults": Faults(diverged=0.6)}))
    assert l1.targets[0].expected_sd > 1.05 * study.targets[0].expected_sd
    assert np.abs(l1.targets[0].estimates / study.targets[0].estimates[:40] - 1).max() > 0.01
    assert few.targets[0].sd > 1.2 * study.targets[0].sd


def test_sweeps_without_a_fit_are_left_out(power: Law, monkeypatch) -> None:
    values = rectangle([1e5], np.geomspace(1e6, 1e9, 9)).values
    y = np.log(power.loss(values)) + 0.01 * np.random.default_rng(0).standard_normal((4, 9))
    every = refit_sweeps(power, values, y, np.ones((4, 9)))
    y[1] = np.nan
    np.testing.assert_allclose(refit_sweeps(power, values, y, np.ones((4, 9))), every[[0, 2, 3]])
    monkeypatch.setattr(module, "refit_sweeps", lambda *words: refit_sweeps(*words)[:-3])
    study = simulate_study(power, rectangle([1e5], [1e6, 1e8, 1e9]), Noise(0.01), 60,
                           [target_named(POWER, "alpha")])
    assert (study.sweeps, study.converged, len(study.targets[0].estimates)) == (60, 57, 57)
    assert study.targets[0].lost == pytest.approx(3 / 60)


@pytest.mark.parametrize("kind", ["huber", "squared", "l1"])
def test_moments_are_the_integrals(kind: str) -> None:
    robust = ResidualLoss(kind, 0.004)  # type: ignore[arg-type]
    curvature, score_variance = residual_moments(robust, np.array([0.01, 0.001]))
    smooth = ResidualLoss("huber", 1e-9).stages()[-1] if kind == "l1" else robust.stages()[-1]
    scale = 1e9 if kind == "l1" else 1.0  # the absolute loss is Huber's over delta
    for place, sd in enumerate((0.01, 0.001)):
        def mean(f, sd: float = sd) -> float:  # type: ignore[no-untyped-def]
            points = [-smooth.delta, smooth.delta] if np.isfinite(smooth.delta) else None
            return float(quad(lambda r: float(f(r)) * norm.pdf(r, scale=sd), -9 * sd, 9 * sd,
                              points=points, limit=200)[0])
        assert score_variance[place] == pytest.approx(
            mean(lambda r: (scale * smooth.psi(np.array([r])).item()) ** 2), rel=1e-6)
        # Stein's lemma: E[rho''] = E[r rho'] / sd^2, with no second derivative in it.
        assert curvature[place] == pytest.approx(
            mean(lambda r: r * scale * smooth.psi(np.array([r])).item()) / sd**2, rel=1e-6)


def test_theory_of_one_power_law_is_that_of_a_line(power: Law) -> None:
    """log L = log A - alpha log D, whose least squares every textbook has."""
    d = np.array([1e6, 3e6, 1e7, 1e9])
    values = rectangle([1e5], d.tolist()).values
    x = np.log(d)
    sxx = ((x - x.mean()) ** 2).sum()
    for name, by_hand in (("alpha", 0.01 / np.sqrt(sxx)),
                          ("A", 0.01 * np.sqrt(1 / 4 + x.mean() ** 2 / sxx))):
        assert expected_sd(power, values, Noise(0.01), target_named(POWER, name)) == pytest.approx(
            by_hand, rel=1e-6)
    assert expected_sd(power, values, Noise(0.01), target_named(POWER, "alpha"), ResidualLoss("l1")
                       ) == pytest.approx(np.sqrt(np.pi / 2) * 0.01 / np.sqrt(sxx), rel=1e-6)


def test_unequal_noise_has_the_sandwich(power: Law) -> None:
    d = np.array([1e6, 3e6, 1e7, 1e9])
    design = rectangle([1e5], d.tolist())
    noise = Noise(0.005, growth=0.3, at=float(design.c.max()))
    x = np.log(d) - np.log(d).mean()
    sd = 0.005 * (d.max() / d) ** 0.3
    by_hand = np.sqrt((x**2 * sd**2).sum()) / (x**2).sum()
    assert expected_sd(power, design.values, noise, target_named(POWER, "alpha")) == pytest.approx(
        by_hand, rel=1e-6)


@pytest.mark.parametrize(("kind", "noise"), [("huber", 0.01), ("squared", 0.003)])
def test_theory_agrees_with_many_fits(kind: str, noise: float) -> None:
    """The Fisher information, and its robust form, against fits of sweeps drawn at random."""
    law = published_named("hoffmann2022-3").law
    assert law is not None
    design = by_ratio(np.geomspace(2e7, 6e8, 5).tolist(), np.geomspace(4, 100, 5).tolist())
    aims = [target_named(law.form, name, 1e22) for name in ("n-star", "loss", "a", "alpha", "E")]
    study = simulate_study(law, design.with_seeds(2), Noise(noise), 400, aims, draw=3,
                           robust=ResidualLoss(kind))  # type: ignore[arg-type]
    assert study.converged == study.sweeps == 400
    for found in study.targets:
        assert found.expected_sd / found.sd == pytest.approx(1, abs=0.15), found.target.name
        assert found.interval[0] < found.truth < found.interval[1]
        middle = found.target.transform(np.median(found.estimates))
        assert abs(middle - found.target.transform(found.truth)) < 0.3 * found.sd


def test_outliers_widen_least_squares_more_than_huber() -> None:
    law = published_named("hoffmann2022-3").law
    assert law is not None
    design = by_ratio(np.geomspace(2e7, 6e8, 4).tolist(), [5.0, 20.0, 80.0])
    target = [target_named(law.form, "a")]
    width = {
        (kind, share): simulate_study(law, design, Noise(0.003), 80, target, faults=Faults(share),
                                      robust=ResidualLoss(kind)).targets[0].width  # type: ignore[arg-type]
        for kind in ("huber", "squared") for share in (0.0, 0.1)
    }
    assert width["squared", 0.1] > 2 * width["squared", 0.0]
    assert width["huber", 0.1] < 0.7 * width["squared", 0.1]


def test_a_design_that_determines_nothing_is_refused(law: Law) -> None:
    aims = [target_named(law.form, "a")]
    for design in (by_ratio(np.geomspace(1e4, 1e6, 9).tolist(), [20.0]),
                   rectangle([1e5], np.geomspace(1e6, 1e8, 9).tolist()),
                   rectangle([1e5, 1e6], [1e6, 1e7])):
        with pytest.raises(UserError, match="do not determine its 5 parameters"):
            simulate_study(law, design, Noise(0.01), 10, aims)


@pytest.mark.parametrize(("name", "at", "message"), [
    ("n-star", None, "such as at=1e21"), ("loss", -1.0, "such as at=1e21"),
    ("gamma", 1e21, "E, A, B, alpha, beta"),
])
def test_invalid_targets_are_refused(name: str, at: float | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        target_named(FORMS["chinchilla"], name, at)
    with pytest.raises(UserError, match="how to divide compute"):
        target_named(POWER, "n-star", 1e21)


def _run(*words: object) -> str:
    app = typer.Typer(rich_markup_mode="markdown")
    app.command()(command)
    result = CliRunner().invoke(app, [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return str(result.stdout)


def test_the_command_writes_a_table_that_fits(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    words = ("hoffmann2022-3", "--sizes", "1e7:1e9:5", "--ratios", "5,20,80", "--seeds", 2)
    _run(*words, "--noise", 0.005, "--out", path)
    first = path.read_bytes()
    assert len(read(path).loss) == 30
    _run(*words, "--noise", 0.005, "--out", path)  # what was simulated may be drawn again
    assert path.read_bytes() == first
    assert _run(*words, "--noise", 0.005).encode() == first
    pd.read_csv(path).assign(sweep="trained").to_csv(path, index=False)
    with pytest.raises(UserError, match="not written by `scaling simulate` and is not overwritten"):
        _run(*words, "--out", path)


def test_the_command_shows_the_intervals_to_expect() -> None:
    shown = _run("besiroglu2024", "--budgets", "1e18:1e20:4", "--repeats", 60, "--at", "1e22",
                 "--noise", 0.003, "--json")
    assert re.search(r'"target": "N\*"', shown)
    assert '"sweeps": 60' in shown
    assert "scaling simulate " in _run("--help").partition("Example")[2]


@pytest.mark.parametrize(("words", "message"), [
    (["--sizes", "1e7"], "given: --sizes"),
    (["--tokens", "1e7"], "--tokens needs --sizes"),
    (["--sizes", "1e7", "--tokens", "1e9", "--budgets", "1e18"], "--sizes, --tokens, --budgets"),
    (["--sizes", "1e7:1e9", "--tokens", "1e9"], "LOW:HIGH:COUNT"),
    (["--sizes", "1e7,-3", "--tokens", "1e9"], "positive numbers"),
    (["--sizes", "1e7", "--tokens", "1e9", "--diverged", "1"], "a share of the runs"),
    (["--sizes", "1e7", "--tokens", "1e9", "--noise", "-1"], "noise -1"),
    (["--sizes", "1e7", "--tokens", "1e9", "--at", "1e21"], "belong to --repeats"),
    (["--sizes", "1e7", "--tokens", "1e9", "--out", "x.parquet"], "ends in .csv"),
])
def test_invalid_options_are_refused(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        _run("hoffmann2022-3", *words)
    with pytest.raises(UserError, match="publishes optimal sizes, not a law"):
        _run("kaplan2020", "--sizes", "1e7", "--tokens", "1e9")


def test_numbers_between_two_ends_are_even_in_the_logarithm() -> None:
    assert numbers("1e6:1e8:3", "--sizes") == pytest.approx([1e6, 1e7, 1e8])


def test_a_law_of_a_file_is_named_where_there_are_several(law: Law, tmp_path: Path) -> None:
    path = tmp_path / "laws.json"
    design = ("--sizes", "1e5", "--tokens", "1e6,1e7", "--noise", 0)
    save([law], path)
    rows = _run(tmp_path, *design).splitlines()
    assert len(rows) == 3
    kaplan = published_named("kaplan2020-n").law
    assert kaplan is not None
    save([law, kaplan], path)
    assert _run(path, "--law", "chinchilla", *design).splitlines()[1].split(",")[4:] == rows[
        1].split(",")[4:]
    for words in ((), ("--law", "kaplan-d")):
        with pytest.raises(UserError, match="has chinchilla, kaplan-n"):
            _run(path, *words, *design)

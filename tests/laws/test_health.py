"""Runs that should not be in a fit are named, and those that may be are not."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

import scaling.laws as sl
from scaling.errors import UserError
from scaling.laws.health.collapse import (
    LEAST_SPREAD,
    NormalisedCurve,
    deviations,
    normalised_curve,
)
from scaling.laws.health.late_divergence import late_rise
from tests.conftest import ROOT

QUICKSTART = ROOT / "results/quickstart"
SICK = "b80e79ccce1e008c"  # 56k parameters, 600k tokens: in the middle of the grid
POINTS = 60


def rising(t: np.ndarray, loss: np.ndarray) -> np.ndarray:
    """A loss that rises over the last sixth of the run."""
    return loss * (1 + np.clip(t - 0.85, 0, None))


@pytest.fixture(scope="module")
def runs() -> pd.DataFrame:
    return pd.read_csv(QUICKSTART / "runs.csv")


@pytest.fixture(scope="module")
def curves() -> pd.DataFrame:
    return pd.read_csv(QUICKSTART / "curves.csv")


def changed(curves: pd.DataFrame, change: Callable[[np.ndarray, np.ndarray], np.ndarray],
            run_id: str = SICK) -> pd.DataFrame:
    """The curves with that of one run changed, as a function of t/T and the loss."""
    of = curves["run_id"] == run_id
    t = curves.loc[of, "tokens"].to_numpy()
    made = curves.astype({"loss": float})
    made.loc[of, "loss"] = change(t / t.max(), curves.loc[of, "loss"].to_numpy())
    return made


def family(seed: int, noise: float = 0.015, sizes: int = 4, lengths: int = 4,
           points: int = POINTS) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Runs under a law of N and D, whose losses fall by a further twentieth in a cool-down over the
    last fifth, with independent noise at every point."""
    draw = np.random.default_rng(seed)
    rows, parts = [], []
    for n in np.geomspace(1e6, 1e8, sizes):
        for d in np.geomspace(1e8, 3e9, lengths):
            name = f"{n:.0f}-{d:.0f}"
            t = np.arange(1, points + 1) / points
            loss = 1.7 + 100 / n**0.3 + 200 / (t * d) ** 0.28
            loss *= 1 - 0.05 * np.sqrt(np.clip((t - 0.8) / 0.2, 0, 1))
            parts.append(pd.DataFrame({
                "run_id": name, "tokens": t * d,
                "loss": loss * np.exp(noise * draw.standard_normal(points))}))
            rows.append((name, n, d, loss[-1]))
    return (pd.DataFrame(rows, columns=["run_id", "params_total", "tokens", "loss"]),
            pd.concat(parts, ignore_index=True))


def kinds(health: sl.Health) -> dict[str, str]:
    return dict(health.reasons)


def test_the_runs_of_the_quickstart_are_healthy():
    health = sl.check_health(QUICKSTART)
    assert health.findings == ()
    assert health.warnings == ()
    assert health.checked == {"late_divergence": 23, "short_cooldown": 0, "long_warmup": 0,
                              "no_collapse": 23}
    assert "23 runs, 0 with findings" in str(health)
    assert sl.read(QUICKSTART).warnings == ()


@pytest.mark.parametrize("change", [
    rising,
    lambda t, loss: loss * np.where(t > 0.5, 1.12, 1.0),  # and the cool-down hides it at the end
    lambda t, loss: np.where(t > 0.9, np.nan, loss),
])
def test_a_loss_that_rises_and_does_not_recover(runs, curves, change):
    assert kinds(sl.check_health(runs, changed(curves, change))) == {SICK: "late_divergence"}


@pytest.mark.parametrize("change", [
    lambda t, loss: loss * np.where(np.abs(t - 0.6) < 0.01, 2.0, 1.0),   # one point
    lambda t, loss: loss * (1 + 0.3 * np.exp(-((t - 0.5) / 0.03) ** 2)),  # a twentieth of the run
])
def test_a_spike_that_recovers_is_no_divergence(curves, change):
    t, loss = (curves.loc[curves["run_id"] == SICK, name].to_numpy() for name in ("tokens", "loss"))
    assert late_rise(loss) is None
    assert late_rise(change(t / t.max(), loss)) is None


@pytest.mark.parametrize("change", [
    lambda t, loss: np.where(t > 0.8, loss * 1.08, loss),            # no cool-down
    lambda t, loss: loss[-1] * (loss / loss[-1]) ** 2,               # twice as steep throughout
    lambda t, loss: loss[-1] * (loss / loss[-1]) ** 0.4,             # hardly falls
    lambda t, loss: np.interp(t**3, t, loss),                        # slow to begin
])
def test_a_curve_that_does_not_collapse(runs, curves, change):
    """Whatever the noise of the others, the changed run is named, and no other."""
    health = sl.check_health(runs, changed(curves, change))
    assert kinds(health) == {SICK: "no_collapse"}
    assert "what the others predict for its N and D" in health.findings[0].sentence


def test_the_deviation_is_the_one_that_was_made():
    """Curves that depend linearly on ln N and ln D, with one changed in one bin. A line through all
    runs would be drawn towards the changed one, which is the largest."""
    draw = np.random.default_rng(0)
    variables = draw.uniform(0, 5, (20, 2))
    variables[7] = 6.0, 6.0
    level = 0.5 + variables @ draw.uniform(-0.1, 0.1, (2, 6))
    level[7, 3] += np.log(1.1)
    figures, largest = deviations(
        [NormalisedCurve(each, np.ones(6), np.inf, 0.01) for each in level], variables)
    design = np.concatenate([np.ones((20, 1)), variables], axis=1)
    rest = np.delete(design, 7, axis=0)
    leverage = design[7] @ np.linalg.inv(rest.T @ rest) @ design[7]
    scale = np.sqrt(LEAST_SPREAD**2 * (1 + leverage) + 0.01**2)
    assert figures[7] == pytest.approx(np.log(1.1) / scale / np.sqrt(6), rel=1e-3)
    assert largest[7] == pytest.approx((0.1, 0.6375), rel=1e-3)
    assert np.delete(figures, 7) == pytest.approx(np.zeros(19), abs=0.05)


def test_curves_that_end_elsewhere_are_not_compared(runs, curves):
    """A curve of half of the run says nothing about its shape."""
    of, length = curves["run_id"] == SICK, runs.set_index("run_id")["tokens"][SICK]
    half = curves[~of | (curves["tokens"] <= length / 2)]
    health = sl.check_health(runs, half)
    assert health.findings == ()
    assert health.checked["no_collapse"] == 22


def test_few_curves_are_not_compared(runs, curves):
    few = runs[runs["params_total"] < 70_000].iloc[:11]
    sick = changed(curves, lambda t, loss: loss[-1] * (loss / loss[-1]) ** 2, few["run_id"].iloc[2])
    health = sl.check_health(few, sick)
    assert health.checked["no_collapse"] == 0
    assert health.findings == ()


def test_curves_of_other_cooldowns_are_not_compared():
    """48 runs that cool down and twelve that do not: none deviates from its own kind."""
    runs, curves = family(0, noise=0.002, sizes=10, lengths=6)
    short = np.arange(60) % 5 == 0
    runs["decay_fraction"] = np.where(short, 0.1, 0.2)
    t = curves["tokens"] / curves.groupby("run_id")["tokens"].transform("max")
    curves.loc[curves["run_id"].isin(runs["run_id"][short]) & (t > 0.8), "loss"] *= 1.05
    assert sl.check_health(runs, curves).findings == ()
    assert sl.check_health(runs, curves).checked["no_collapse"] == 60
    unknown = sl.check_health(runs.drop(columns="decay_fraction"), curves)
    assert set(unknown.reasons) == set(runs["run_id"][short])


@pytest.mark.parametrize("columns", [
    {"warmup_fraction": 0.4}, {"warmup_steps": 40, "steps": 100},
    {"warmup_ratio": 0.0, "warmup_steps": 40, "batch_tokens": lambda d: d / 100},
    {"warmup_tokens": lambda d: 0.4 * d},
])
def test_a_warmup_that_is_too_long(columns):
    runs, _ = family(0)
    for name, value in columns.items():
        runs[name] = value(runs["tokens"]) if callable(value) else value
        if name.startswith("warmup"):
            runs.loc[1:, name] *= 0.5
    health = sl.check_health(runs)
    assert kinds(health) == {runs["run_id"][0]: "long_warmup"}
    assert health.findings[0].figure == pytest.approx(0.4)
    assert health.checked["long_warmup"] == 16


def test_a_cooldown_that_is_too_short():
    """Below half of that of the others, or below a twentieth of the run."""
    runs, _ = family(0)
    runs["decay_fraction"] = 0.2
    runs.loc[3, "decay_fraction"] = 0.09
    (finding,) = sl.check_health(runs).findings
    assert (finding.run_id, finding.kind, finding.figure) == (
        runs["run_id"][3], "short_cooldown", 0.09)
    runs["decay_fraction"] = 0.02
    assert len(sl.check_health(runs).findings) == 16
    runs["decay_fraction"] = ["kaplan"] * 16  # a word says nothing of a length
    assert sl.check_health(runs).checked["short_cooldown"] == 0


def test_independent_noise_is_no_finding():
    """False alarms over 15 families of 16 runs, with the noise of the quickstart's points."""
    found = [each for seed in range(15) for each in sl.check_health(*family(seed)).findings]
    assert found == []


def test_a_healthy_run_of_another_sweep_is_no_finding(runs, curves):
    """Curves with noise of their own, that fall faster or more slowly by a tenth, or in another
    unit of the loss."""
    draw = np.random.default_rng(0)
    for power in (0.9, 1.0, 1.1):
        other = changed(curves, lambda t, loss, p=power: loss[-1] * (loss / loss[-1]) ** p * np.exp(
            0.01 * draw.standard_normal(len(t))))
        assert sl.check_health(runs, other).findings == ()
    bits = curves.assign(loss=curves["loss"] / np.log(2))
    assert sl.check_health(runs, bits).findings == ()


def test_the_findings_do_not_depend_on_the_order_of_rows(runs, curves):
    sick = changed(curves, lambda t, loss: loss[-1] * (loss / loss[-1]) ** 2)
    first = sl.check_health(runs, sick).to_frame()
    again = sl.check_health(runs.sample(frac=1, random_state=0),
                            sick.sample(frac=1, random_state=0)).to_frame()
    pd.testing.assert_frame_equal(first, again)
    assert list(first.columns) == ["run_id", "kind", "figure", "sentence"]


def test_the_irreducible_loss_may_be_given(curves):
    t, loss = (curves.loc[curves["run_id"] == SICK, name].to_numpy() for name in ("tokens", "loss"))
    curve = normalised_curve(t / t.max(), loss, 1.0)
    assert curve is not None
    last = t / t.max() > 0.93
    end = np.average(loss[last], weights=np.diff(t, prepend=0)[last]) - 1  # the last one is short
    middle = (t / t.max() >= 0.45) & (t / t.max() < 0.575)
    assert curve.level[2] == pytest.approx(np.log((loss[middle] - 1) / end).mean())
    assert normalised_curve(t / t.max(), loss, 1.9) is None  # some losses are below it
    with pytest.raises(UserError, match="floor=-1"):
        sl.check_health(QUICKSTART, floor=-1.0)


def test_a_strict_fit_leaves_unhealthy_runs_out_and_counts_them(runs, curves):
    sick = runs.assign(warmup_fraction=np.where(runs["run_id"] == SICK, 0.5, 0.1))
    divergent = "90cf46e3e8f16ef3"
    points = changed(curves, rising, divergent)
    lenient = sl.read(sick, curves=points)
    strict = sl.fit(sick, "kaplan-d", curves=points, strict=True, counting="total", resamples=0)
    assert len([w for w in lenient.warnings if "strict=True" in w]) == 2
    assert lenient.loss.size == 23
    assert strict.runs.excluded == {**lenient.excluded, "late_divergence": 1, "long_warmup": 1}
    left_out = runs[~runs["run_id"].isin([SICK, divergent])]
    assert strict.runs.sha256 == sl.read(left_out).sha256
    assert strict.law.excluded["long_warmup"] == 1
    with pytest.raises(UserError, match="strict=: the runs were read already"):
        sl.fit(sl.read(runs), strict=True)


def test_the_command_names_unhealthy_runs_and_leaves_them_out(runs, curves, tmp_path, command):
    runs.to_csv(tmp_path / "runs.csv", index=False)
    changed(curves, rising).to_csv(tmp_path / "curves.csv", index=False)
    words = ("fit", tmp_path, "--law", "kaplan-d", "--bootstrap", "0")
    lenient = command(*words)
    assert lenient.code == 0
    assert lenient.out.count("does not recover") == 1
    assert f"{SICK} ends" in " ".join(lenient.out.split())
    assert "--strict" in lenient.out
    strict = command(*words, "--strict", "--json")
    (law,) = json.loads(strict.out)["laws"]
    assert law["excluded"]["late_divergence"] == 1
    assert not any("--strict" in warning for warning in law["warnings"])


def test_curves_without_their_columns_are_refused_and_beside_the_runs_ignored(runs, tmp_path):
    with pytest.raises(UserError, match="has no column tokens"):
        sl.check_health(runs, pd.DataFrame({"run_id": ["a"], "loss": [1.0]}))
    runs.to_csv(tmp_path / "runs.csv", index=False)
    (tmp_path / "curves.csv").write_text("step,value\n1,2\n")
    assert sl.check_health(tmp_path).checked["no_collapse"] == 0

"""Sealed forecasts: the chain of the ledger, and the scores against finished runs."""

from __future__ import annotations

import errno
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.special import ndtri

import scaling.laws as sl
from scaling.errors import DataError, UserError
from scaling.laws.forecasts.ledger import QUANTILES, append, canonical, sha256_of
from scaling.laws.forecasts.scores import ScoredOutcome, binomial_interval, scores_of
from tests.conftest import ROOT
from tests.laws.conftest import SIZES, TOKENS, truth

EMBEDDINGS = 7_000


def frame(noise: float = 0.003, heldout: str = "planned") -> pd.DataFrame:
    """A grid of 25 runs and two held-out ones, in this package's columns."""
    n = np.array([*np.repeat(SIZES, len(TOKENS)), 900_000, 900_000])
    d = np.array([*np.tile(TOKENS, len(SIZES)), 6_000_000, 8_000_000])
    draw = np.random.default_rng(0).standard_normal(n.size)
    roles = ["grid"] * 25 + ["heldout"] * 2
    return pd.DataFrame({
        "run_id": [f"run{i:02d}" for i in range(n.size)], "role": roles,
        "params_total": n + EMBEDDINGS, "params_non_embedding": n, "tokens": d,
        "loss": truth(n + EMBEDDINGS, d) * np.exp(noise * draw),
        "status": ["done"] * 25 + [heldout] * 2})


@pytest.fixture(scope="module")
def fit() -> sl.Fit:
    return sl.fit(frame(), "chinchilla", resamples=40)


@pytest.fixture
def ledger(fit, tmp_path) -> Path:
    """A ledger of three forecasts: of any run, of run25 and of run26."""
    path = tmp_path / "forecasts.jsonl"
    sl.seal_forecast(fit, path, n=1e6, d=2e6, note="the first")
    sl.seal_heldout(fit, path, frame())
    return path


def lines_of(path: Path) -> list[str]:
    return path.read_text().splitlines()


def write(path: Path, lines: list[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines))


def leaves(content: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The place of every value in lists and dictionaries, and of every key."""
    if isinstance(content, dict | list) and content:
        for key in content if isinstance(content, dict) else range(len(content)):
            yield from leaves(content[key], (*place, key))
    else:
        yield place


def changed(content: Any, place: tuple[Any, ...]) -> Any:
    """A copy with another value there."""
    copy = json.loads(json.dumps(content))
    inner = copy
    for key in place[:-1]:
        inner = inner[key]
    value = inner[place[-1]]
    inner[place[-1]] = (not value if isinstance(value, bool) else f"{value}0"
                        if isinstance(value, str) else "x" if value is None else
                        math.nextafter(value, math.inf) if isinstance(value, float) else value + 1)
    return copy


def test_a_change_of_any_value_is_noticed(ledger):
    lines = lines_of(ledger)
    record = json.loads(lines[1])
    places = [*leaves(record)]
    assert {place[0] for place in places} == {
        "command", "version", "date", "law", "run", "fitted_point", "prediction", "interval",
        "level", "quantiles", "note", "previous", "sha256"}
    for place in places:
        bad = changed(record, place)
        write(ledger, [lines[0], canonical(bad), lines[2]])
        with pytest.raises(UserError, match=r"line 2\b"):
            sl.read_ledger(ledger)
        if place == ("sha256",):
            continue
        # With a hash that is right again, the record after it tells.
        bad["sha256"] = sha256_of({k: v for k, v in bad.items() if k != "sha256"})
        write(ledger, [lines[0], canonical(bad), lines[2]])
        with pytest.raises(UserError, match=r"line [23]\b"):
            sl.read_ledger(ledger)
    for bad_line in (lines[1].replace(",", ", ", 1), lines[1] + " ", "", "[]", "{}", "null"):
        write(ledger, [lines[0], bad_line, lines[2]])
        with pytest.raises(UserError, match="line 2"):
            sl.read_ledger(ledger)


@pytest.mark.parametrize(("order", "line"), [
    ((1, 2), 1), ((0, 2), 2), ((1, 0, 2), 1), ((0, 2, 1), 2), ((0, 0, 1, 2), 2), ((2,), 1)])
def test_removed_and_moved_records_are_noticed(ledger, order, line):
    lines = lines_of(ledger)
    write(ledger, [lines[i] for i in order])
    with pytest.raises(UserError, match=f"line {line} does not follow the record before it"):
        sl.read_ledger(ledger)


def test_a_record_removed_from_the_end_is_noticed_by_a_noted_hash(ledger):
    last = sl.read_ledger(ledger)[-1].sha256
    assert sl.check_forecasts(ledger, frame(), head=last).last_sha256 == last
    write(ledger, lines_of(ledger)[:-1])
    assert sl.check_forecasts(ledger, frame()).forecasts == 2
    with pytest.raises(UserError, match="a record was removed"):
        sl.check_forecasts(ledger, frame(), head=last)


def test_a_ledger_that_a_crash_cut_off_is_told_and_left(ledger, fit):
    whole = ledger.read_bytes()
    begins = whole.rstrip(b"\n").rindex(b"\n") + 1
    for end in range(begins, len(whole) + 1):  # every byte of the last line
        ledger.write_bytes(whole[:end])
        if end in (begins, len(whole) - 1, len(whole)):  # between records, or without the newline
            assert len(sl.read_ledger(ledger)) == 2 + (end > begins)
            continue
        with pytest.raises(UserError, match=r"line 3 is cut off.*head -n 2"):
            sl.read_ledger(ledger)
    ledger.write_bytes(whole[:-9])
    with pytest.raises(UserError, match="line 3 is cut off"):
        sl.seal_forecast(fit, ledger, n=1e6, d=3e6)
    assert ledger.read_bytes() == whole[:-9]
    ledger.write_bytes(whole[:-1])
    sl.seal_forecast(fit, ledger, n=1e6, d=3e6)
    assert ledger.read_bytes().startswith(whole)
    assert len(sl.read_ledger(ledger)) == 4
    ledger.write_bytes(whole[:20])
    with pytest.raises(UserError, match=r"line 1 is cut off.*remove the file"):
        sl.read_ledger(ledger)


def test_a_write_that_fails_leaves_the_ledger(ledger, fit, monkeypatch):
    before = ledger.read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="full"):
        sl.seal_forecast(fit, ledger, n=1e6, d=3e6)
    assert ledger.read_bytes() == before
    assert [path.name for path in ledger.parent.iterdir()] == [ledger.name]


def test_two_processes_lose_no_record(tmp_path):
    path, count = tmp_path / "forecasts.jsonl", 15
    code = f"""
import sys
import scaling.laws as sl
law = sl.published()["besiroglu2024"].law
print("ready", flush=True)
sys.stdin.readline()
for i in range({count}):
    sl.seal_forecast(law, sys.argv[1], n=1e6 + i, d=float(sys.argv[2]))
"""
    processes = [subprocess.Popen(
        [sys.executable, "-c", code, str(path), d], cwd=ROOT, text=True, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE) for d in ("1e9", "2e9")]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:  # both begin now
        process.stdin.write("\n")
        process.stdin.flush()
    assert [process.wait(60) for process in processes] == [0, 0]
    for process in processes:
        process.communicate()
    assert sorted((each.variables["d"], each.variables["n"]) for each in sl.read_ledger(path)) == [
        (d, 1e6 + i) for d in (1e9, 2e9) for i in range(count)]


def test_a_record_is_what_the_law_predicts(fit, ledger):
    first, second, _ = sl.read_ledger(ledger)
    value, low, high = fit.predict(n=1e6, d=2e6, interval=True)
    assert (first.prediction, first.interval, first.level) == (value, (low, high), 0.9)
    assert (first.quantiles[0.05], first.quantiles[0.95]) == pytest.approx((low, high), rel=1e-12)
    law = fit.law
    predicted = np.log(law.form.loss(law.samples, {"n": np.array([1e6]), "d": np.array([2e6])}))
    predicted = np.log(value) + law.bootstrap.widening * (predicted - np.log(value))
    outcomes = np.exp(predicted + law.bootstrap.residuals).ravel()
    assert tuple(first.quantiles) == QUANTILES
    for probability, quantile in first.quantiles.items():
        assert np.mean(outcomes <= quantile) == pytest.approx(probability, abs=2 / outcomes.size)
    assert first.law.params == dict(fit.params)
    assert (first.law.data_sha256, first.law.n_runs) == (fit.runs.sha256, 25)
    assert (first.note, first.run_id, first.fitted_point) == ("the first", None, False)
    assert abs(datetime.now(UTC) - first.date) < timedelta(minutes=10)
    assert (second.run_id, dict(second.variables)) == (
        "run25", {"n": 900_000 + EMBEDDINGS, "d": 6e6})


def test_held_out_runs_are_counted_as_the_law_counts(tmp_path):
    path = tmp_path / "forecasts.jsonl"
    table = frame()
    kaplan = sl.fit(table, "kaplan-nd", resamples=0)
    of_c = sl.fit(table, "kaplan-c", resamples=0)
    foreign = table.rename(columns={"params_total": "N", "tokens": "D"})
    renamed = sl.fit(foreign, "chinchilla", n="N", d="D", resamples=0)
    sealed = [*sl.seal_heldout({"mine": kaplan, "c": of_c}, path, table),
              *sl.seal_heldout(renamed, path, foreign)]
    n, total, d = 9e5, 9e5 + EMBEDDINGS, 6e6
    assert [dict(each.variables) for each in sealed[::2]] == [
        {"n": n, "d": d}, {"n": n, "d": d, "c": 6 * n * d}, {"n": total, "d": d}]
    assert [each.law.name for each in sealed] == [
        "mine", "mine", "c", "c", "chinchilla", "chinchilla"]
    assert all(each.interval is None and each.quantiles == {} for each in sealed)
    done = frame(heldout="done")
    assert sl.seal_heldout(kaplan, tmp_path / "no.jsonl", done) == []
    rows = sl.check_forecasts(path, done).rows
    assert [row.state for row in rows[:4]] == ["scored"] * 4
    assert "has no column N" in rows[4].state
    assert sl.check_forecasts(path, done).scores.coverage is None


def test_a_forecast_is_not_sealed_twice(fit, ledger):
    before = ledger.read_bytes()
    loaded = ledger.with_name("laws.json")
    fit.save(loaded)
    for law in (fit, fit.law, sl.load(loaded)["chinchilla"]):
        assert sl.seal_forecast(law, ledger, n=1e6, d=2e6, note="again").note == "the first"
    assert ledger.read_bytes() == before


def test_scores_are_those_computed_by_hand(ledger):
    """Of three outcomes: one below, one in and one above the interval."""
    first, second, third = sl.read_ledger(ledger)
    table = frame(heldout="done")
    table.loc[25, "loss"] = second.interval[1] * 1.01
    table.loc[26, "loss"] = third.quantiles[0.5]
    table.loc[27] = ["seed0", "grid", 1_000_500, 9e5, 2_000_000, first.interval[0] * 0.9, "done"]
    check = sl.check_forecasts(ledger, table)
    assert [(row.run_id, row.state, row.inside) for row in check.rows] == [
        ("seed0", "scored", False), ("run25", "scored", False), ("run26", "scored", True)]
    errors = [first.prediction / (0.9 * first.interval[0]) - 1,
              second.prediction / (1.01 * second.interval[1]) - 1,
              third.prediction / third.quantiles[0.5] - 1]
    assert [row.error for row in check.rows] == pytest.approx(errors, rel=1e-12)
    scores = check.scores
    assert scores.mean_absolute_error == pytest.approx(sum(map(abs, errors)) / 3)
    assert scores.median_absolute_error == pytest.approx(sorted(map(abs, errors))[1])
    assert scores.median_error == pytest.approx(sorted(errors)[1])
    assert (scores.inside, scores.with_interval, scores.coverage) == (1, 3, 1 / 3)
    assert scores.sharpness == pytest.approx(sum(
        (f.interval[1] - f.interval[0]) / f.prediction for f in (first, second, third)) / 3)
    assert [(p.probability, p.below, p.outcomes) for p in scores.calibration] == [
        (p, 1 + (p >= 0.5), 3) for p in QUANTILES]


def test_every_seed_at_a_point_is_scored(fit, tmp_path):
    path = tmp_path / "forecasts.jsonl"
    sl.seal_forecast(fit, path, n=900_000 + EMBEDDINGS, d=6e6)
    table = frame(heldout="done")
    table.loc[26, ["params_total", "tokens"]] = [900_000 + EMBEDDINGS + 800, 6_000_000]
    assert [row.run_id for row in sl.check_forecasts(path, table).rows] == ["run25", "run26"]
    rows = sl.check_forecasts(path, table, tolerance=1e-4).rows
    assert [row.run_id for row in rows] == ["run25"]


def test_what_became_of_the_runs(ledger):
    table = frame(heldout="done")
    table.loc[25, ["status", "loss"]] = ["diverged", np.nan]
    table.loc[26, "tokens"] = 9e6
    states = [row.state for row in sl.check_forecasts(ledger, table).rows]
    assert states[:2] == ["no run yet", "diverged"]
    assert "D 9M instead of 8M" in states[2]
    assert sl.check_forecasts(ledger, table).scores.outcomes == 0
    table = frame(heldout="done")
    table.loc[[25, 26], "role"] = "former"  # no longer in its sweep, and measured all the same
    assert [row.state for row in sl.check_forecasts(ledger, table).rows[1:]] == ["scored"] * 2


@pytest.mark.parametrize(("started", "finished", "sealed"), [
    (1, 2, "before it began"), (-1, 2, "after it began"), (-2, -1, "after it ended"),
    (None, 2, "before it ended"), (None, -1, "after it ended"), (None, None, "not known"),
])
def test_a_forecast_of_a_run_that_had_begun_is_named_and_not_scored(
    ledger, started, finished, sealed
):
    table = frame(heldout="done")
    for name, hours in (("started", started), ("finished", finished)):
        at = datetime.now(UTC) + timedelta(hours=hours or 0)
        table[name] = "" if hours is None else at.isoformat()
    check = sl.check_forecasts(ledger, table)
    assert {row.sealed for row in check.rows[1:]} == {sealed}
    late = sealed.startswith("after")
    assert check.scores.outcomes == (0 if late else 2)
    assert ("without 2 sealed after the run began" in check.text()) == late
    by_times = sl.check_forecasts(ledger, frame(heldout="done"), times=lambda run_id: (
        datetime.fromisoformat(table["started"][25]) if started else None,
        datetime.fromisoformat(table["finished"][25]) if finished else None))
    assert [row.sealed for row in by_times.rows] == [row.sealed for row in check.rows]


def test_a_law_that_was_fitted_to_the_run_is_named_and_not_scored(fit, tmp_path):
    path = tmp_path / "forecasts.jsonl"
    table = frame(heldout="done")
    everything = sl.fit(table.assign(role="grid"), "chinchilla", resamples=0)
    envelope = sl.fit(table.assign(role="grid"), "kaplan-c", resamples=0)  # of some of the runs
    for law in (fit, sl.Fit(everything.law, everything.objective),
                sl.Fit(envelope.law, envelope.objective)):
        total = law.law.convention["n"] == "total"
        sl.seal_forecast(law, path, run_id="run26", n=9e5 + EMBEDDINGS * total, d=8e6)
    assert [each.fitted_point for each in sl.read_ledger(path)] == [False, None, None]
    sl.seal_forecast(everything, path, run_id="run25", n=9e5 + EMBEDDINGS, d=6e6)
    sl.seal_forecast(fit, path, n=SIZES[0] + EMBEDDINGS, d=TOKENS[0])
    assert [each.fitted_point for each in sl.read_ledger(path)[3:]] == [True, True]
    check = sl.check_forecasts(path, table.assign(role="grid"))
    assert [row.fitted for row in check.rows] == [False, True, True, True, True]
    assert [row.counts for row in check.rows] == [True, False, False, False, False]
    assert len([w for w in check.warnings if "chinchilla was fitted to the run" in w]) == 3
    assert "without 4 fitted to the run" in check.text()
    rows = sl.check_forecasts(path, table).rows  # without the runs of the second and third law
    assert [row.fitted for row in rows] == [False, None, None, True, True]


def test_a_calibrated_forecaster_has_its_coverage():
    """And one whose intervals are half as wide has what the normal distribution says."""
    draw = np.random.default_rng(3)
    centre, sd = draw.uniform(2, 3, 4000), draw.uniform(0.01, 0.1, 4000)
    outcomes = centre + sd * draw.standard_normal(4000)

    def scores(width: float):
        quantiles = [{p: c + width * s * float(ndtri(p)) for p in QUANTILES}
                     for c, s in zip(centre.tolist(), sd.tolist(), strict=True)]
        return scores_of([ScoredOutcome(c, (q[0.05], q[0.95]), q, o) for c, q, o in
                          zip(centre.tolist(), quantiles, outcomes.tolist(), strict=True)])

    calibrated, narrow = scores(1.0), scores(0.5)
    assert calibrated.coverage_interval[0] < 0.9 < calibrated.coverage_interval[1]
    for point in calibrated.calibration:
        assert point.below / point.outcomes == pytest.approx(point.probability, abs=0.025)
    # P(|Z| < 1.645 / 2) = 0.589, from a table of the normal distribution.
    assert narrow.coverage == pytest.approx(0.589, abs=0.025)
    assert narrow.sharpness == pytest.approx(calibrated.sharpness / 2)


@pytest.mark.parametrize(("successes", "trials"), [(0, 1), (1, 1), (3, 5), (9, 10), (0, 30)])
def test_the_binomial_interval_is_exact(successes, trials):
    """At its ends, outcomes as extreme as the observed ones have a probability of 5%."""
    def at_least(k: int, p: float) -> float:
        return sum(math.comb(trials, i) * p ** i * (1 - p) ** (trials - i)
                   for i in range(k, trials + 1))

    low, high = binomial_interval(successes, trials)
    assert low == 0 if successes == 0 else at_least(successes, low) == pytest.approx(0.05)
    assert high == 1 if successes == trials else (
        1 - at_least(successes + 1, high) == pytest.approx(0.05))


def test_other_files_are_refused_and_left_alone(fit, tmp_path):
    for content in (b"mine\n", b"{}\n", b'{"command": "scaling fit"}\n', b"\x00\xff", b"\n"):
        path = tmp_path / "notes.jsonl"
        path.write_bytes(content)
        for act in (sl.read_ledger, lambda file: append(file, []),
                    lambda file: sl.seal_forecast(fit, file, n=1e6, d=1e6)):
            with pytest.raises(UserError, match=r"notes\.jsonl: line 1 was not written by"):
                act(path)
        assert path.read_bytes() == content
    link = tmp_path / "link.jsonl"
    link.symlink_to(tmp_path / "real.jsonl")
    with pytest.raises(UserError, match="dangling link"):
        sl.seal_forecast(fit, link, n=1e6, d=1e6)
    (tmp_path / "real.jsonl").touch()
    sl.seal_forecast(fit, link, n=1e6, d=1e6)
    assert link.is_symlink()
    assert len(sl.read_ledger(tmp_path / "real.jsonl")) == 1


def test_what_cannot_be_forecast_is_not_sealed(fit, tmp_path):
    path = tmp_path / "forecasts.jsonl"
    bad = replace(fit.law, convergence={"converged": False})
    for law, values, error, text in (
            (fit, {"n": 1e6}, UserError, "needs D"), (fit, {"n": 1e6, "d": -1}, UserError, "d -1"),
            (fit, {"n": 1e6, "d": 1e6, "experts": 8}, UserError, "experts is not among"),
            (fit, {"n": 1e6, "d": 1e6, "note": "x" * 1001}, UserError, "1,001 characters"),
            (bad, {"n": 1e6, "d": 1e6}, DataError, "did not converge")):
        with pytest.raises(error, match=text):
            sl.seal_forecast(law, path, **values)
    with pytest.raises(UserError, match="has no held-out runs"):
        sl.seal_heldout(fit, path, frame().query("role == 'grid'"))
    with pytest.raises(UserError, match="no such file"):
        sl.check_forecasts(path, frame())
    assert not path.exists()


def test_a_date_that_cannot_be_read_is_told(ledger):
    runs = frame(heldout="done").assign(started="yesterday", finished="")
    found = sl.check_forecasts(ledger, runs)
    told = [warning for warning in found.warnings if "is no date" in warning]
    assert len(told) == 1
    assert "column started: 'yesterday' is no date" in told[0]


def test_a_forecast_of_another_outcome_is_scored_by_its_column(tmp_path):
    """Laws of several outcomes in one ledger: each is measured by the column it was fitted to."""
    runs = frame().assign(code=lambda each: 0.5 * each["loss"])
    fits = {column: sl.fit(runs, "chinchilla", loss=column, n="params_total", d="tokens",
                           resamples=40) for column in ("loss", "code")}
    ledger = tmp_path / "ledger.jsonl"
    for column, fit in fits.items():
        law = replace(fit.law, convention={**fit.law.convention, "outcome": column})
        sl.seal_forecast(replace(fit, law=law), ledger, n=907_000, d=6_000_000)
    done = frame(heldout="done").assign(code=lambda each: 0.5 * each["loss"])
    check = sl.check_forecasts(ledger, done)
    errors = {row.forecast.law.name: row.error for row in check.rows}
    assert errors["chinchilla of code"] == pytest.approx(errors["chinchilla of loss"], abs=1e-3)
    assert abs(errors["chinchilla of code"]) < 0.03


def test_a_law_of_schedules_is_not_sealed(tmp_path):
    form = sl.schedule_law("multi-power", {"a": [(1, 1e-3), (100, 1e-4)]})
    law = sl.Law(form=form, convention={"n": "total"}, params=dict.fromkeys(form.parameters, 0.5),
                 convergence={"converged": True})
    with pytest.raises(sl.UserError, match="laws of schedules cannot be sealed"):
        sl.seal_forecast(law, tmp_path / "ledger.jsonl", schedule=0.0, step=50.0)

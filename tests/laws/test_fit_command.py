"""`scaling fit` with several laws: a failing one does not hide the others, and each is printed when
done."""

from __future__ import annotations

import json
import re
import warnings
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from scaling import console
from scaling.cli import fit as fit_command
from scaling.errors import UserError
from scaling.laws import FORMS, fit_law, from_frame, load
from scaling.laws.fitting.bootstrap import MOST_RESAMPLES
from scaling.laws.fitting.minimise import minimise
from tests.conftest import ROOT


@pytest.fixture
def two_sizes(grid, tmp_path: Path) -> Path:
    """Runs of two sizes: enough for Kaplan's law of N, too few for Chinchilla's."""
    frame = grid(noise=0.01)
    frame[frame["params_total"] < 50_000].to_csv(tmp_path / "runs.csv", index=False)
    return tmp_path


FAILS = {
    "chinchilla": "2 distinct sizes N",
    "clark": "has no column experts",
    "approach-1": "the envelope of 10 runs of 2 sizes",
    "approach-2": "budgets",
    "approach-2-akima": "needs the noise|budgets",
    "m4-n": "distinct sizes N",
}


@pytest.mark.parametrize("failing", FAILS)
def test_a_law_that_fails_hides_no_other(command, two_sizes: Path, failing: str) -> None:
    path = two_sizes / "laws.json"
    done = command("fit", two_sizes, "--law", failing, "--law", "kaplan-n", "--bootstrap", 0,
                   "--save", path)
    assert done.code == 0, done.err
    assert "kaplan-n: L(N) = " in done.out
    assert [law["law"] for law in json.loads(path.read_text())["laws"]] == ["kaplan-n"]
    said = [line for line in done.err.splitlines() if line.startswith("not fitted: ")]
    assert len(said) == 1
    assert said[0].startswith(f"not fitted: {failing}: ")
    assert not said[0].startswith(f"not fitted: {failing}: {failing}: ")
    assert re.search(FAILS[failing], said[0])


def test_all_failing_for_the_data_ends_with_status_1(command, two_sizes: Path) -> None:
    done = command("fit", two_sizes, "--law", "chinchilla", "--law", "q-family", "--save",
                   two_sizes / "laws.json")
    assert done.code == 1
    assert done.out == ""
    assert [line.split(":")[1] for line in done.err.splitlines()] == [" chinchilla", " q-family"]
    assert not (two_sizes / "laws.json").exists()
    done = command("fit", two_sizes, "--law", "chinchilla")
    assert (done.code, len(done.err.splitlines())) == (1, 1)


@pytest.mark.parametrize(("words", "said"), [
    (["--law", "kaplan-n", "--law", "nonsense"], "nonsense: no law of that name"),
    (["--law", "kaplan-n", "--law", "kaplan-d", "--loss", "nll"], "has no column nll"),
    (["--n", "sizes"], "has no column sizes"),
    (["--law", "kaplan-n", "--law", "kaplan-d", "--where", "(("], "not a condition"),
    (["--law", "clark", "--law", "abnar"], "not fitted: clark: .*experts"),
    (["--law", "kaplan-n", "--profile", "F"], "--profile F: no fitted law"),
    (["--law", "kaplan-n", "--bootstrap", "-1"], r"from 0 to 100,000"),
    (["--law", "kaplan-n", "--bootstrap", str(MOST_RESAMPLES + 1)], r"100,001 resamples"),
    (["--law", "kaplan-n", "--bootstrap", "1000000000000"], r"from 0 to 100,000"),
    (["--law", "kaplan-n", "--bootstrap", "1e9"], "a whole number is expected"),
    (["--law", "kaplan-n", "--bootstrap", "9" * 5000], "a smaller whole number is expected"),
    (["--law", "kaplan-n", "--seed", "-1"], "seed -1"),
    (["--law", "kaplan-n", "--seed", "9223372036854775808"], "seed 9223372036854775808"),
    (["--law", "kaplan-n", "--delta", "nan"], "positive number"),
    (["--law", "kaplan-n", "--delta", "inf"], "positive number"),
    (["--law", "approach-2", "--noise", "nan"], "standard deviation"),
    (["--law", "kaplan-n", "--noise", "-1"], "standard deviation"),
    (["--law", "kaplan-n", "--noise", "1e30"], "standard deviation"),
])
def test_wrong_words_end_with_status_2(command, two_sizes: Path, words: list[str], said: str
                                       ) -> None:
    done = command("fit", two_sizes, *words)
    assert done.code == 2
    assert done.out == ""
    assert re.search(said, " ".join(re.sub("[│╭╰─╮╯]", "", done.err).split()))


def test_what_concerns_all_laws_is_printed_once(command, tmp_path: Path) -> None:
    (tmp_path / "runs.csv").write_text("run_id,params_total,tokens,loss\n")
    done = command("fit", tmp_path)
    assert done.code == 2
    assert done.err.count("has a header and no rows") == len(done.err.splitlines()) == 1


def test_tables_appear_as_each_law_is_done(command, two_sizes: Path, monkeypatch) -> None:
    seen: list[str] = []
    real = fit_command.fit_form

    def watched(form, *words, **named):
        seen.append(form.name)
        return real(form, *words, **named)

    def printed(law, said):
        seen.append(f"{law.name} shown")

    monkeypatch.setattr(fit_command, "fit_form", watched)
    monkeypatch.setattr(fit_command, "_print_law", printed)
    assert command("fit", two_sizes, "--law", "kaplan-n", "--law", "kaplan-d", "--bootstrap", 0
                   ).code == 0
    assert seen == ["kaplan-n", "kaplan-n shown", "kaplan-d", "kaplan-d shown"]


def test_resampling_shows_how_far_it_is(command, two_sizes: Path, monkeypatch) -> None:
    monkeypatch.setattr(console, "PLAIN_LINE_SECONDS", 0.0)
    done = command("fit", two_sizes, "--law", "kaplan-d", "--bootstrap", 2000)
    assert [line for line in done.err.splitlines() if line.startswith("kaplan-d: ")] == [
        "kaplan-d: resamples: 50%", "kaplan-d: resamples: 100%"]


@pytest.mark.parametrize("name", ["approach-1", "approach-2-akima"])
def test_resampling_of_an_approach_does_too(command, tmp_path: Path, monkeypatch, name) -> None:
    table = ROOT / "results/quickstart"
    if name == "approach-2-akima":
        table = tmp_path / "runs.csv"
        assert command("simulate", "besiroglu2024", "--budgets", "1e18:1e20:4", "--sizes",
                       "1e7:1e10:12", "--out", table).code == 0
    monkeypatch.setattr(console, "PLAIN_LINE_SECONDS", 0.0)
    done = command("fit", table, "--law", name, "--noise", "0.001", "--bootstrap", 40)
    assert done.code == 0, done.err
    shown = [line for line in done.err.splitlines() if line.startswith(f"{name}: resamples: ")]
    assert len(shown) > 1
    assert re.fullmatch(rf"{name}: resamples: \d+%, 0:\d\d left", shown[-2])


@pytest.mark.parametrize("by", ["case", "residual", "size"])
def test_resamples_do_not_depend_on_the_chunk_size(grid, monkeypatch, by: str) -> None:
    table = from_frame(grid(noise=0.002), "runs")
    whole = []
    for chunk in (7, 50, 1000):
        monkeypatch.setattr("scaling.laws.fitting.bootstrap._CHUNK", chunk)
        monkeypatch.setattr("scaling.laws.fitting.bootstrap._CHECKED", 5)
        law = fit_law(table, "chinchilla", resamples=50, by=by)
        whole.append(law.samples)
    for samples in whole[1:]:
        np.testing.assert_allclose(samples, whole[0], rtol=1e-5)


def test_approach_one_reads_the_curves_of_the_grid_alone(command) -> None:
    """A held-out run has a curve too."""
    folder = ROOT / "results/quickstart"
    runs = pd.read_csv(folder / "runs.csv")
    done = command("fit", folder, "--law", "approach-1", "--bootstrap", 1, "--json")
    assert done.code == 0, done.err
    (found,) = json.loads(done.out)["laws"]
    assert found["n_runs"] == (runs["role"] == "grid").sum()
    curves = pd.read_csv(folder / "curves.csv")
    assert set(runs.loc[runs["role"] == "heldout", "run_id"]) & set(curves["run_id"])


def test_evidence_of_laws_that_failed_is_left_out(command, two_sizes: Path) -> None:
    done = command("fit", two_sizes, "--law", "chinchilla", "--law", "kaplan-n", "--n-convention",
                   "total", "--bootstrap", 0, "--compare", "--profile", "beta", "--evidence",
                   two_sizes / "evidence.json", "--save", two_sizes / "laws.json")
    assert done.code == 0, done.err
    assert "--compare: not shown" in done.err
    assert "--profile beta: not shown" in done.err


def test_evidence_that_one_law_lacks_hides_no_other(command, grid, tmp_path: Path) -> None:
    """Of one size as Kaplan counts it, whose parts in N there are none, and of five as Hoffmann
    does."""
    grid(noise=0.01).assign(params_non_embedding=10_000).to_csv(tmp_path / "runs.csv", index=False)
    path, words = tmp_path / "evidence.json", ("--bootstrap", 0, "--rolling", "n")
    done = command("fit", tmp_path, "--law", "kaplan-d", "--law", "chinchilla", *words,
                   "--evidence", path)
    assert done.code == 0, done.err
    said = [line for line in done.err.splitlines() if "not shown" in line]
    assert len(said) == 1
    assert said[0].startswith("--rolling n: not shown for kaplan-d, ")
    (shown,) = json.loads(path.read_text())["rolling"]
    assert {forecast["form"] for forecast in shown["forecasts"]} == {"chinchilla"}
    done = command("fit", tmp_path, "--law", "kaplan-d", *words)
    assert (done.code, done.err.count("error:")) == (2, 1)


def test_no_library_warning_reaches_the_user(grid) -> None:
    frame = grid(noise=0.01)
    rng = np.random.default_rng(0)
    n = np.geomspace(1e6, 1e9, 30)
    ratio = pd.DataFrame({"params_total": n, "tokens": 20 * n,
                          "loss": 1.7 + 400 / n**0.34 + rng.normal(0, 0.003, 30)})
    flat = frame.assign(loss=frame["loss"].mean() + rng.normal(0, 1e-3, len(frame)))
    extreme = frame.assign(loss=frame["loss"] * np.where(np.arange(len(frame)) == 7, 1e-200, 1.0))
    huge = frame.assign(tokens=frame["tokens"] * 1e8, params_total=frame["params_total"] * 1e9)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for runs in (ratio, flat, extreme, huge):
            for name in ("chinchilla", "kaplan-nd", "m2-d"):
                with suppress(UserError):
                    fit_law(from_frame(runs, "runs"), name, resamples=5)


def test_overflowing_steps_are_rejected_without_a_warning(grid) -> None:
    table, form = from_frame(grid(), "runs"), FORMS["m3-n"]
    x, y = form.coordinates(table.values), form.apply_link(table.loss)
    far = np.full((3, len(form.parameters)), [[1e3], [-1e3], [0.0]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ends = minimise(form, x, y, np.ones((3, len(y))), far, form.robust)
    assert not ends.converged[:2].any()


def test_the_checklist_knows_what_the_same_command_did(command, grid, tmp_path: Path) -> None:
    grid(noise=0.003).to_csv(tmp_path / "runs.csv", index=False)
    done = command("fit", tmp_path, "--law", "chinchilla", "--law", "kaplan-nd", "--n-convention",
                   "total", "--bootstrap", 60, "--where", "tokens > 0", "--resample", "wild",
                   "--profile", "alpha", "--compare", "--rolling", "c", "--checklist")
    assert done.code == 0, done.err
    of_chinchilla = done.out.split("chinchilla: checklist")[1].split(": checklist")[0]
    for text in ("only rows where tokens > 0", "intervals of a wild bootstrap",
                 "; profile of alpha: ", "by sizes left out: ", "cuts of C: mean relative error",
                 "sizes left out one by one: mean relative error"):
        assert text in of_chinchilla, text
    done = command("fit", tmp_path, "--bootstrap", 0, "--checklist")
    assert "Was the form compared with others? chinchilla predicts best" in done.out


def test_several_outcomes_are_fitted_by_one_command(command, grid, tmp_path: Path) -> None:
    """As by one command each; names in the file, in tables and of failures tell them apart."""
    frame = grid(noise=0.003).assign(code_loss=lambda runs: 1.2 * runs["loss"])
    frame.to_csv(tmp_path / "runs.csv", index=False)
    path = tmp_path / "laws.json"
    both = ("--loss", "loss", "--loss", "code_loss")
    done = command("fit", tmp_path, *both, "--law", "chinchilla", "--bootstrap", 20, "--save", path)
    assert done.code == 0, done.err
    laws = load(path)
    assert [*laws] == ["chinchilla of loss", "chinchilla of code_loss"]
    for column in ("loss", "code_loss"):
        alone = tmp_path / f"{column}.json"
        assert command("fit", tmp_path, "--loss", column, "--law", "chinchilla", "--bootstrap", 20,
                       "--save", alone).code == 0
        assert laws[f"chinchilla of {column}"].params == load(alone)["chinchilla"].params
    done = command("predict", path, "--n", 1e6, "--d", 1e8)
    assert done.out.index("chinchilla of loss") < done.out.index("chinchilla of code_loss")
    # One law that cannot be fitted hides no other outcome.
    done = command("fit", tmp_path, "--loss", "loss", "--loss", "los", "--law", "chinchilla",
                   "--bootstrap", 0)
    assert done.code == 0
    assert "not fitted: chinchilla of los: " in done.err
    # Evidence is told apart, too, and each outcome has its own choice of the form.
    evidence = tmp_path / "evidence.json"
    done = command("fit", tmp_path, *both, "--bootstrap", 0, "--checklist", "--evidence", evidence)
    assert done.out.count("which form predicts larger runs") == 2
    assert {"loss", "code_loss"} <= {*json.loads(evidence.read_text())}
    done = command("fit", tmp_path, "--loss", "loss", "--loss", "loss")
    assert done.code == 2
    assert "given 2 times" in done.err

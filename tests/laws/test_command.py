"""`scaling fit` and `scaling allocate`, from the command line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from scaling import console
from scaling.cli.main import app
from scaling.errors import UserError


def _run(*words: object) -> str:
    """Standard output of a command that succeeds; raises what it raises."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return str(result.stdout)


@pytest.fixture(autouse=True)
def _follow_standard_output(monkeypatch) -> None:
    """The runner swaps sys.stdout; a Console made at import has to look it up anew."""
    from rich.console import Console

    for name, stderr in (("out", False), ("err", True)):
        rich_console = Console(stderr=stderr, highlight=False, soft_wrap=True, width=400)
        monkeypatch.setattr(console, name, rich_console)
        monkeypatch.setattr(f"scaling.cli.fit.{name}", rich_console)


@pytest.fixture
def results(grid, heldout_row, tmp_path: Path) -> Path:
    frame = pd.concat([grid(noise=0.01), pd.DataFrame([heldout_row | {"run_id": "[red]x"}])])
    frame.iloc[3, frame.columns.get_loc("status")] = "diverged"
    frame.to_csv(tmp_path / "runs.csv", index=False)
    return tmp_path


def test_fit_prints_and_writes(results: Path) -> None:
    path = results / "laws.json"
    shown = _run("fit", results, "--law", "chinchilla", "--law", "kaplan-n", "--bootstrap", 40,
                 "--save", path)
    assert "24 runs; left out: 1 diverged, 1 heldout" in shown
    assert re.search(r"^\[red\]x ", shown, re.MULTILINE)  # a run's name is no markup
    assert "converged; 100% of starts agree" in shown
    laws = json.loads(path.read_text())["laws"]
    assert [law["law"] for law in laws] == ["chinchilla", "kaplan-n"]
    assert laws[0]["excluded"]["diverged"] == 1
    assert laws[0]["convention"]["n"] == "total"
    assert laws[1]["convention"]["n"] == "non-embedding"
    assert laws[0]["bootstrap"]["resamples"] == 40


def test_the_same_seed_gives_the_same_file(results: Path) -> None:
    for name in ("a.json", "b.json"):
        _run("fit", results, "--law", "chinchilla", "--bootstrap", 30, "--seed", 5, "--save",
             results / name)
    assert (results / "a.json").read_bytes() == (results / "b.json").read_bytes()
    _run("fit", results, "--law", "chinchilla", "--bootstrap", 30, "--seed", 6, "--save",
         results / "c.json")
    intervals = [json.loads((results / name).read_text())["laws"][0]["intervals"]
                 for name in ("a.json", "c.json")]
    assert intervals[0] != intervals[1]  # the seed itself is in the file too


def test_foreign_columns_and_what_was_filled_in(grid, tmp_path: Path) -> None:
    frame = grid()[["params_total", "flops_6nd", "loss"]]
    frame.columns = ["N", "C", "nll"]
    frame.to_csv(tmp_path / "x.csv", index=False)
    shown = _run("fit", tmp_path / "x.csv", "--n", "N", "--c", "C", "--loss", "nll", "--law",
                 "chinchilla", "--bootstrap", 0)
    assert "N column N, D C / (6 N), C column C" in shown


def test_objective_and_delta(results: Path) -> None:
    path = results / "laws.json"
    _run("fit", results, "--delta", 0.01, "--bootstrap", 0, "--law", "chinchilla", "--law",
         "kaplan-d", "--save", path)
    first, second = (law["convention"] for law in json.loads(path.read_text())["laws"])
    assert (first["objective"], first["delta"]) == ("huber", 0.01)
    assert second["objective"] == "squared"
    assert "delta" not in second
    with pytest.raises(UserError, match=r"--delta 0\.01 is an option of the huber objective"):
        _run("fit", results, "--objective", "l1", "--delta", 0.01)
    with pytest.raises(UserError, match="positive number"):
        _run("fit", results, "--delta", 0)


def test_laws_that_cannot_be_fitted_do_not_hide_the_others(grid, tmp_path: Path) -> None:
    frame = grid()
    frame[frame["params_total"] < 50_000].to_csv(tmp_path / "runs.csv", index=False)
    path = tmp_path / "laws.json"
    _run("fit", tmp_path, "--bootstrap", 0, "--save", path)
    names = [law["law"] for law in json.loads(path.read_text())["laws"]]
    assert "kaplan-n" in names
    assert "chinchilla" not in names
    with pytest.raises(UserError, match="2 distinct sizes N"):
        _run("fit", tmp_path, "--law", "chinchilla")


def test_without_a_choice_the_default_laws_are_fitted(results: Path) -> None:
    _run("fit", results, "--bootstrap", 0, "--save", results / "laws.json")
    names = [law["law"] for law in json.loads((results / "laws.json").read_text())["laws"]]
    assert names == ["kaplan-n", "kaplan-d", "kaplan-c", "kaplan-nd", "chinchilla", "q-family"]


def test_every_law_is_listed() -> None:
    from scaling.laws import FORMS

    shown = _run("fit", "--list")
    for name, form in FORMS.items():
        assert re.search(rf"^{name} ", shown, re.MULTILINE)
        assert form.source[:12] in shown
    assert "--column experts=COLUMN" in shown


def test_parameters_are_held_and_tied(results: Path) -> None:
    path = results / "laws.json"
    _run("fit", results, "--law", "chinchilla", "--fix", "E=1.25", "--tie", "alpha=beta",
         "--bootstrap", 30, "--save", path)
    law = json.loads(path.read_text())["laws"][0]
    assert law["params"]["E"] == pytest.approx(1.25)
    assert law["params"]["alpha"] == law["params"]["beta"]
    assert law["exponents"]["a"] == 0.5


def test_other_variables_have_columns(grid, tmp_path: Path) -> None:
    n, d = 1e8, np.geomspace(1e9, 1e11, 8)
    areas, drops = np.geomspace(1e2, 1e4, 8), np.linspace(0, 30, 8)
    frame = pd.DataFrame({"P": n, "T": d, "area": areas, "drop": drops,
                          "loss": 2.2 + 3 / areas**0.4 - 0.004 * drops})
    frame.to_csv(tmp_path / "x.csv", index=False)
    path = tmp_path / "laws.json"
    _run("fit", tmp_path / "x.csv", "--law", "tissue", "--column", "lr_area=area", "--column",
         "drop_area=drop", "--bootstrap", 0, "--save", path)
    law = json.loads(path.read_text())["laws"][0]
    assert law["params"]["C"] == pytest.approx(0.004, rel=1e-3)
    assert law["convention"]["lr_area"] == "column area"
    assert law["convention"]["n"] == "not given"


def test_evidence_is_shown_and_written(results: Path) -> None:
    path = results / "evidence.json"
    shown = _run("fit", results, "--law", "chinchilla", "--law", "kaplan-nd", "--n-convention",
                 "total", "--bootstrap", 0, "--profile", "alpha", "--compare", "--rolling", "n",
                 "--sensitivity", "--checklist", "--evidence", path)
    content = json.loads(path.read_text())
    assert [row["name"] for row in content["profiles"]] == ["alpha"]
    assert {row["form"] for row in content["comparison"]["entries"]} == {"chinchilla", "kaplan-nd"}
    assert len(content["rolling"]) == 2
    assert "profile of alpha" in shown
    sensitive = content["sensitivity"]["chinchilla"]
    assert sensitive["objective"]["refits"][0]["choice"] == "l1"
    assert len(sensitive["sizes"]["refits"]) == 5
    assert len(sensitive["residuals"]["rows"]) == 24  # one of the 25 diverged
    answers = [row["answer"] for row in content["checklists"]["chinchilla"]]
    assert any("E + A/N^alpha + B/D^beta" in answer for answer in answers)


@pytest.mark.parametrize(("words", "said"), [
    (["--fix", "E=1.7"], "name the law, such as --law chinchilla"),
    (["--law", "chinchilla", "--fix", "E"], "--fix E: two names, or a name and a value"),
    (["--law", "chinchilla", "--fix", "E=x"], "--fix E=x: a finite number is expected"),
    (["--law", "chinchilla", "--fix", "E=inf"], "--fix E=inf: a finite number is expected"),
    (["--law", "chinchilla", "--fix", "E=1", "--fix", "E=2"], "E is given twice"),
    (["--law", "chinchilla", "--fix", "F=1"], "has no parameter F; it has E, A"),
    (["--law", "chinchilla", "--tie", "alpha=gamma"], "has no parameter gamma"),
    (["--law", "chinchilla", "--tie", "alpha"], "such as --tie alpha=beta"),
    (["--column", "n=params_total"], "use --n params_total"),
    (["--column", "expert=x"], "no law has a variable expert; one of u, s"),
    (["--column", "experts=x"], "no fitted law has the variable experts"),
    (["--law", "clark", "--column", "experts=x"], "has no column x"),
    (["--law", "clark"], "has no column experts; .*--column experts=COLUMN"),
    (["--where", "tokens.max() > 1"], "columns, numbers, strings, arithmetic and comparisons"),
    (["--where", "tokens < 0"], "is true for no row of"),
    (["--compare"], "at least two laws are expected"),
    (["--law", "chinchilla", "--law", "kaplan-nd", "--compare"], "give --n-convention"),
    (["--law", "chinchilla", "--profile", "F"], "one of E, A, B, alpha, beta, a or b is expected"),
    (["--evidence", "x.json"],
     "ask for --profile, --compare, --rolling, --sensitivity or --checklist"),
])
def test_wrong_options(results: Path, words: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        _run("fit", results, "--bootstrap", 0, *words)


def test_allocate_shows_the_published_ones_beside(results: Path) -> None:
    _run("fit", results, "--law", "chinchilla", "--bootstrap", 40, "--save",
         results / "laws.json")
    out = results / "allocation.json"
    shown = _run("allocate", results / "laws.json", "--compute", "1e14", "--out", out)
    assert "Kaplan 2020" in shown
    assert "Hoffmann 2022, approach 3" in shown
    content = json.loads(out.read_text())
    own, *published = content["allocations"]
    assert own["n_interval"][0] < own["n"] < own["n_interval"][1]
    assert 6 * own["n"] * own["d"] == pytest.approx(1e14)
    assert {row["counting"] for row in published} == {"total", "non-embedding"}


def test_hours_of_an_accelerator_are_a_budget(tmp_path: Path) -> None:
    out = tmp_path / "x.json"
    _run("allocate", "besiroglu2024", "--gpu-hours", 1000, "--gpu", "a100", "--mfu", 0.5, "--out",
         out)
    # 1000 hours at half of 312 TFLOP/s.
    assert json.loads(out.read_text())["compute"] == pytest.approx(1000 * 3600 * 156e12)
    names = [row["source"] for row in json.loads(out.read_text())["allocations"]]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(("words", "said"), [
    (["besiroglu2024"], "--compute FLOPS, or as --gpu-hours"),
    (["besiroglu2024", "--compute", "1e20", "--gpu-hours", "3"], "either as --compute"),
    (["besiroglu2024", "--compute", "1e20", "--gpu", "H100"], "belongs to --gpu-hours"),
    (["besiroglu2024", "--gpu-hours", "3"], "needs --gpu NAME"),
    (["besiroglu2024", "--gpu-hours", "3", "--gpu", "H10"], "did you mean H100"),
    (["besiroglu2024", "--gpu-hours", "3", "--gpu", "H100", "--mfu", "40"], "between 0 and 1"),
    (["besiroglu2024", "--compute", "nan"], "positive number of FLOPs"),
    (["besiroglu", "--compute", "1e20"], "did you mean besiroglu2024"),
    (["kaplan2020-n", "--compute", "1e20"], "does not determine how to divide compute"),
])
def test_wrong_budgets_and_names(words: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        _run("allocate", *words)


@pytest.mark.parametrize("command", ["fit", "allocate", "plot", "report"])
def test_help_has_an_example(command: str) -> None:
    assert f"scaling {command} " in _run(command, "--help").partition("Example")[2]


def test_help_of_fit_has_an_example_of_each_group() -> None:
    examples = _run("fit", "--help").partition("Only finished")[0]
    for option in ("--where", "--fix", "--tie", "--column", "--list", "--profile", "--compare",
                   "--rolling", "--checklist", "--n", "--save"):
        assert f"{option} " in examples.replace("\n", " ") or f"{option}," in examples

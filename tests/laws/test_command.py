"""`scaling fit` and `scaling allocate`, from the command line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from scaling.cli import terminal
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
        console = Console(stderr=stderr, highlight=False, soft_wrap=True, width=200)
        monkeypatch.setattr(terminal, name, console)
        monkeypatch.setattr(f"scaling.cli.fit.{name}", console)


@pytest.fixture
def results(grid, heldout_row, tmp_path: Path) -> Path:
    frame = pd.concat([grid(noise=0.01), pd.DataFrame([heldout_row | {"run_id": "[red]x"}])])
    frame.iloc[3, frame.columns.get_loc("status")] = "diverged"
    frame.to_csv(tmp_path / "runs.csv", index=False)
    return tmp_path


def test_fit_prints_and_writes(results: Path) -> None:
    path = results / "laws.json"
    shown = _run("fit", results, "--law", "chinchilla", "--law", "kaplan-n", "--bootstrap", 40,
                 "--json", path)
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
        _run("fit", results, "--law", "chinchilla", "--bootstrap", 30, "--seed", 5, "--json",
             results / name)
    assert (results / "a.json").read_bytes() == (results / "b.json").read_bytes()
    _run("fit", results, "--law", "chinchilla", "--bootstrap", 30, "--seed", 6, "--json",
         results / "c.json")
    assert (results / "c.json").read_bytes() != (results / "a.json").read_bytes()


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
         "kaplan-d", "--json", path)
    first, second = (law["convention"] for law in json.loads(path.read_text())["laws"])
    assert (first["objective"], first["delta"]) == ("huber", 0.01)
    assert second["objective"] == "squared"
    assert "delta" not in second
    with pytest.raises(UserError, match="--delta belongs to the huber objective"):
        _run("fit", results, "--objective", "l1", "--delta", 0.01)
    with pytest.raises(UserError, match="positive number"):
        _run("fit", results, "--delta", 0)


def test_laws_that_cannot_be_fitted_do_not_hide_the_others(grid, tmp_path: Path) -> None:
    frame = grid()
    frame[frame["params_total"] < 50_000].to_csv(tmp_path / "runs.csv", index=False)
    path = tmp_path / "laws.json"
    _run("fit", tmp_path, "--bootstrap", 0, "--json", path)
    names = [law["law"] for law in json.loads(path.read_text())["laws"]]
    assert "kaplan-n" in names
    assert "chinchilla" not in names
    with pytest.raises(UserError, match="2 distinct sizes N"):
        _run("fit", tmp_path, "--law", "chinchilla")


def test_allocate_shows_the_published_ones_beside(results: Path) -> None:
    _run("fit", results, "--law", "chinchilla", "--bootstrap", 40, "--json",
         results / "laws.json")
    out = results / "allocation.json"
    shown = _run("allocate", results / "laws.json", "--compute", "1e14", "--json", out)
    assert "Kaplan 2020" in shown
    assert "Hoffmann 2022, approach 3" in shown
    content = json.loads(out.read_text())
    own, *published = content["allocations"]
    assert own["n_interval"][0] < own["n"] < own["n_interval"][1]
    assert 6 * own["n"] * own["d"] == pytest.approx(1e14)
    assert {row["counting"] for row in published} == {"total", "non-embedding"}


def test_hours_of_an_accelerator_are_a_budget(tmp_path: Path) -> None:
    out = tmp_path / "x.json"
    _run("allocate", "besiroglu2024", "--gpu-hours", 1000, "--gpu", "a100", "--mfu", 0.5, "--json",
         out)
    # 1000 hours at half of 312 TFLOP/s.
    assert json.loads(out.read_text())["compute"] == pytest.approx(1000 * 3600 * 156e12)
    names = [row["source"] for row in json.loads(out.read_text())["allocations"]]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(("words", "said"), [
    (["besiroglu2024"], "--compute FLOPS, or as --gpu-hours"),
    (["besiroglu2024", "--compute", "1e20", "--gpu-hours", "3"], "either as --compute"),
    (["besiroglu2024", "--compute", "1e20", "--gpu", "H100"], "goes with --gpu-hours"),
    (["besiroglu2024", "--gpu-hours", "3"], "needs --gpu NAME"),
    (["besiroglu2024", "--gpu-hours", "3", "--gpu", "H10"], "did you mean H100"),
    (["besiroglu2024", "--gpu-hours", "3", "--gpu", "H100", "--mfu", "40"], "between 0 and 1"),
    (["besiroglu2024", "--compute", "nan"], "positive number of FLOPs"),
    (["besiroglu", "--compute", "1e20"], "did you mean besiroglu2024"),
    (["kaplan2020-n", "--compute", "1e20"], "says nothing of how to divide compute"),
])
def test_wrong_budgets_and_names(words: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        _run("allocate", *words)


@pytest.mark.parametrize("command", ["fit", "allocate", "plot", "report"])
def test_help_has_an_example(command: str) -> None:
    assert f"scaling {command} " in _run(command, "--help").partition("Example")[2]

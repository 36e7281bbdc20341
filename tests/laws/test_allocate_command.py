"""`scaling allocate` and `scaling compare`: invalid budgets give one message, and results are never
impossible values."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

NAMED = "besiroglu2024"
LIMITS = "is expected, from"


@pytest.mark.parametrize("value", ["1e300", "1e-300", "0", "-1", "nan", "inf", "-inf", "1e999",
                                   "1e37", "5"])
@pytest.mark.parametrize("command_line", [
    ("allocate", NAMED, "--compute"), ("compare", NAMED, "--compute"),
    ("allocate", NAMED, "--compute", "1e20", "--fixed-d"),
    ("allocate", NAMED, "--compute", "1e20", "--unique-tokens"),
    ("allocate", NAMED, "--compute", "1e20", "--inference-tokens"),
    ("allocate", NAMED, "--target-loss", "2", "--fixed-n"), ("allocate", NAMED, "--target-loss"),
    ("allocate", NAMED, "--gpu", "H100", "--gpu-hours"),
    ("allocate", NAMED, "--gpu", "H100", "--gpu-hours", "10", "--mfu"),
    ("compare", NAMED, "--convention", "non-embedding", "--omega"),
    ("allocate", "krajewski2024", "--compute", "1e20", "--given", "granularity="),
    ("compare", "krajewski2024", "--compute", "1e20", "--given", "granularity="),
])
def test_every_number_is_refused_or_gives_a_finite_result(command, command_line, value) -> None:
    words = list(command_line)
    if words[-1].endswith("="):
        words[-1] += value
    else:
        words.append(value)
    done = command(*words)
    fine = {("5", "--fixed-d"), ("5", "--unique-tokens"), ("5", "--inference-tokens"),
            ("5", "--fixed-n"), ("5", "--target-loss"), ("5", "--gpu-hours"), ("5", "--omega"),
            ("0", "--inference-tokens"), ("5", "granularity="), ("1e-300", "--omega"),
            ("1e-300", "granularity="),
            ("1e-300", "--mfu"), ("1e-300", "--target-loss"), ("1e37", "--gpu-hours")}
    assert done.code in (0, 1, 2)  # 1: no law has an answer
    if done.code < 2:
        assert (value, command_line[-1]) in fine, done.out
        assert not re.search(r"\b(nan|inf)\b", done.out), done.out
    else:
        assert len(done.err.splitlines()) == 1, done.err
        assert done.err.startswith("error: ")
        assert done.out == ""


@pytest.mark.parametrize(("words", "message"), [
    (["--compute", "1e20", "--fixed-n", "1e30"], "fixed N 1e+30"),
    (["--compute", "1e10", "--fixed-n", "1e12"],
     "leaves less than one training token, because 1e+12"),
    (["--compute", "1e10", "--fixed-d", "1e12"], "leaves less than one parameter, because 1e+12"),
    (["--compute", "1e20", "--inference-tokens", "1e20"],
     "1e+20 inference tokens take at least 2e+20"),
    (["--gpu-hours", "nan", "--gpu", "H100"], "--gpu-hours nan: a positive number of hours"),
    (["--gpu-hours", "1e300", "--gpu", "H100"], "--gpu-hours 1e+300 at --mfu 0.4 make compute inf"),
    (["--gpu-hours", "9", "--gpu", "H100", "--mfu", "1e-300"],
     "--gpu-hours 9 at --mfu 1e-300 make compute"),
    (["--compute", "1e20", "--given", "experts=1", "--given", "experts=2"],
     "experts is given twice"),
    (["--compute", "1e20", "--given", "experts=1,2"], "experts=1,2: one number is expected"),
    (["--compute", "1e20", "--given", "experts"], "NAME=VALUE is expected"),
    (["--compute", "1e20", "--given", "experts=many"], "a number is expected"),
    (["--compute", ",".join(["1e20"] * 1001)], "1,001 numbers, where at most 1000"),
    (["--compute", "1e20,"], "a number is expected"),
])
def test_invalid_budgets_are_refused(command, words, message) -> None:
    done = command("allocate", NAMED, *words)
    assert done.code == 2
    assert message in done.err, done.err
    assert len(done.err.splitlines()) == 1


@pytest.mark.parametrize(("words", "message"), [
    (["--target-loss", "1"], "a loss of 1 is out of reach"),
    (["--target-loss", "0.001"], "out of reach"),
    (["--compute", "1e4"], "above that of a uniform prediction (13.8)"),
    (["--compute", "6"], "above that of a uniform prediction"),
    (["--compute", "1e20", "--fixed-n", "1e17"], "above that of a uniform prediction"),
    (["--compute", "1e20", "--fixed-n", "2"], "above that of a uniform prediction"),
])
def test_budgets_far_outside_a_law_have_no_result(command, tmp_path: Path, words, message) -> None:
    path = tmp_path / "a.json"
    done = command("allocate", NAMED, *words, "--out", path)
    assert done.code == 1
    assert message in done.out
    assert not re.search(r"\b(nan|inf)\b", done.out)
    own = json.loads(path.read_text())["allocations"][0]
    assert own["d"] is None
    assert own["n"] is None or "--fixed-n" in words
    assert sum(message in line for line in done.out.splitlines()) <= 2


def test_fixed_n_and_d_say_the_loss_and_what_it_takes(command, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    done = command("allocate", NAMED, "--fixed-n", "1e9", "--fixed-d", "1e11", "--out", path)
    assert done.code == 0
    assert "N 1B and D 100B" in done.out
    own = json.loads(path.read_text())["allocations"][0]
    assert (own["n"], own["d"], own["c"]) == (1e9, 1e11, 6e20)
    assert own["loss"] == pytest.approx(2.3718, abs=1e-3)
    assert 0 < own["excess"] < 0.1
    far = command("allocate", NAMED, "--fixed-n", "2", "--fixed-d", "1e11")
    assert far.code == 1
    assert "above that of a uniform prediction" in far.out


def test_a_budget_that_buys_nothing_more_says_so(command, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    done = command("allocate", "muennighoff2023", "--compute", "1e22,1e27", "--unique-tokens",
                   "1e9", "--out", path)
    assert done.code == 0
    assert done.out.count("the rest of the budget buys nothing") == 1  # once for both
    full, part = json.loads(path.read_text())["allocations"]
    assert full["n"] == pytest.approx(5.465e9, rel=1e-3)
    assert full["d"] == pytest.approx(3.05e11, rel=1e-3)
    assert full["loss"] == pytest.approx(part["loss"], abs=1e-8)
    assert full["loss"] == pytest.approx(2.7614, abs=1e-4)
    assert full["total"] == 1e22 < part["total"] < 1e27


@pytest.mark.parametrize("law", ["kaplan2020", "hoffmann2022-1", "deepseek2024"])
def test_sizes_below_one_are_not_reported(command, tmp_path: Path, law: str) -> None:
    """Laws of sizes alone have no loss by which such a budget could be detected."""
    path = tmp_path / "a.json"
    done = command("allocate", law, "--compute", "6", "--out", path)
    assert done.code == 1
    assert "fewer than one parameter or one token at this budget" in done.out + done.err
    own = json.loads(path.read_text())["allocations"][0]
    assert own["n"] is own["d"] is own["a"] is None


def test_a_budget_dominated_by_inference_has_an_optimum(command, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    assert command("allocate", NAMED, "--target-loss", 2, "--inference-tokens", "1e18", "--out",
                   path).code == 0
    own = json.loads(path.read_text())["allocations"][0]
    assert own["loss"] == 2
    assert own["total"] == pytest.approx(own["n"] * (6 * own["d"] + 2e18))


def test_far_extrapolation_is_warned_of_once(grid, command, tmp_path: Path) -> None:
    grid(noise=0.003).to_csv(tmp_path / "runs.csv", index=False)
    laws = tmp_path / "laws.json"
    assert command("fit", tmp_path, "--law", "chinchilla", "--bootstrap", 20, "--save", laws
                   ).code == 0
    for words, times in ((["--compute", "1e13"], 0), (["--compute", "1e17"], 1),
                         (["--compute", "1e24"], 1), (["--target-loss", "1.35"], 1)):
        done = command("allocate", laws, *words)
        assert done.out.count("times the largest compute that this law was fitted to") == times

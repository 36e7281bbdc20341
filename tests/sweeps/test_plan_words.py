"""Messages of `sweep plan` about invalid numbers, names and paths, and about thin budgets."""

from __future__ import annotations

import json
import re

import pytest

REFUSED = {
    "no workers": (["--workers", "0"], "--workers"),
    "too many workers": (["--workers", "100000"], "--workers 100000: there are"),
    "a share above one": (["--gpu", "H100", "--mfu", "2"], "--mfu 2: a share of the peak"),
    "a share of zero": (["--gpu", "H100", "--mfu", "0"], "--mfu 0: a share of the peak"),
    "a utilisation that is not a number": (["--gpu", "H100", "--mfu", "nan"], "--mfu nan"),
    "a share of nothing": (["--mfu", "0.3"], "--mfu 0.3: needs an accelerator"),
    "an unknown accelerator": (["--gpu", "X9"], "--gpu X9: is not a known accelerator"),
    "no name": (["--gpu", ""], "not a known accelerator"),
    "an ambiguous one": (["--gpu", "TPU v5"], "ambiguous between TPU v5e, TPU v5p"),
    "hardly a budget": (["max_flops=1e-300"], "max_flops covers no run"),
    "an infinite budget": (["max_flops=1e400"], "max_flops: a finite number is expected"),
    "hardly an hour": (["--gpu", "H100", "max_device_hours=1e-300"],
                       "max_device_hours covers no run"),
    "an endless budget": (["grids=[{kind: isoflop, budgets: [1e39]}]"], "more than 1e+18 tokens"),
    "a tiny budget": (["grids=[{kind: isoflop, budgets: [1e-300]}]"], "the budget of 1e-300"),
    "endless ratios": (["grids=[{kind: ratio, tokens_per_parameter: [1e15]}]"],
                       "more than 1e+18 tokens"),
    "ratios beyond any number": (["grids=[{kind: ratio, tokens_per_parameter: [1e308]}]"],
                                 "a number less than or equal to 1e+15 is expected"),
    "a budget beyond any": (["grids=[{kind: isoflop, budgets: [1e300]}]"],
                            "a number less than or equal to 1e+40 is expected"),
    "no grids": (["grids=[]"], "grids: is empty"),
    "no tokens": (["grids=[{kind: product, tokens: []}]"], "grids.0.tokens: is empty"),
    "no points": (["grids=[{kind: points, at: []}]"], "grids.0.at: is empty"),
    "no sizes": (["sizes=[]"], "sizes: is empty"),
    "no store": (["run.data.store=nowhere"], "no such store"),
    "a store that is a file": (["run.data.store=file"], "file: is a file, but the folder"),
    "runs in a file": (["--runs", "file"], "--runs file: file is a file"),
    "runs below a file": (["--runs", "file/runs"], "--runs file/runs: file is a file"),
    "results in a file": (["--out", "file"], "file/sweep.json: not a directory"),
    "results below a file": (["--out", "file/a/b"], "file/a/b/sweep.json: not a directory"),
    "a ladder without an end": (["sizes={kind: ladder, params: [1e3, 1e300], count: 5}"],
                                "sizes.params.1: a number less than or equal to 1e+15 is expected"),
    "a ladder of many": ([f"sizes={{kind: ladder, params: [1e3, 1e6], count: {10**9}}}"],
                         "sizes.count: a number less than or equal to 100 is expected"),
    "heads without an end": (
        [f"sizes={{kind: ladder, params: [1e3, 1e6], count: 3, d_head: {10**18}}}"], "d_head"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_invalid_options_are_one_message(command, sweep_file, name):
    words, message = REFUSED[name]
    (sweep_file.parent / "file").write_text("mine")
    measure = [] if "--gpu" in words or "--mfu" in words else ["--no-measure"]
    done = command("sweep", "plan", sweep_file.name, *words, *measure, cwd=sweep_file.parent)
    assert done.code == 2, done.out + done.err
    assert message in done.err
    assert done.err.lower().count("error") == 1
    assert done.out == ""
    assert (sweep_file.parent / "file").read_text() == "mine"
    assert not (sweep_file.parent / "results").exists()


def test_a_plan_that_takes_longer_than_the_universe(command, sweep_file):
    done = command("sweep", "plan", sweep_file.name, "--gpu", "h100", "--mfu", "1e-320",
                   cwd=sweep_file.parent)
    assert done.code == 0, done.err
    assert "inf H100 SXM-hours" in done.out


def test_a_plan_warns_that_its_results_belong_to_another_sweep(command, sweep_file):
    (sweep_file.parent / "results/tiny").mkdir(parents=True)
    (sweep_file.parent / "results/tiny/sweep.json").write_text('{"name": "other"}')
    done = command("sweep", "plan", sweep_file.name, "--no-measure", cwd=sweep_file.parent)
    assert done.code == 0
    assert "warning: `scaling sweep run` will not write there" in done.err


SIZES = [{"d_model": d, "n_layers": 1, "n_heads": 1} for d in (8, 12, 16, 24, 32, 48)]
BUDGET = 1e9


def isoflop(**changes):
    grid = {"kind": "isoflop", "budgets": [BUDGET]} | changes
    return f"grids={json.dumps([grid])}"


def warnings(done):
    assert done.code == 0, done.err
    return [line for line in done.err.splitlines() if line.startswith("warning: ")]


@pytest.fixture
def planned(command, sweep_file):
    def plan(*words, sizes=SIZES):
        return command("sweep", "plan", sweep_file.name, "--no-measure", "heldout=[]",
                       "run.data.epochs=100", f"sizes={json.dumps(sizes)}", *words,
                       cwd=sweep_file.parent)

    return plan


def test_a_budget_with_enough_sizes_has_no_warning(planned):
    assert warnings(planned(isoflop())) == []


def test_the_warning_for_a_short_ladder_names_the_missing_sizes(planned):
    (warning,) = warnings(planned(isoflop(), sizes=SIZES[:3]))
    assert "grids.0: the budget of 1e+09 FLOPs has 3 usable size(s)" in warning
    assert "the sweep has only 3. Add 2 or more sizes" in warning


def test_sizes_outside_the_window_are_named(planned):
    shown = planned(isoflop(), "--json")
    ratios = {row["d_model"]: row["tokens_per_parameter"] for row in json.loads(shown.out)["runs"]}
    low, high = 0.9 * ratios[48], 1.1 * ratios[24]
    (warning,) = warnings(planned(isoflop(tokens_per_parameter=[low, high])))
    assert "has 3 usable size(s)" in warning
    assert f"3 of 6 sizes use it outside {low:g} to {high:g} tokens per parameter" in warning
    assert "d_model 8 x 1 at " in warning
    assert "widen tokens_per_parameter" in warning
    # At one budget, twice the parameters leave a quarter of the tokens for each of them.
    size = re.search(r"Add 2 or more sizes of about (\S+) to (\S+) parameters \(total\)", warning)
    rows = {row["d_model"]: row for row in json.loads(shown.out)["runs"]}
    for found, end in zip(size.groups(), (high, low), strict=True):
        near = [row["params_total"] * (row["tokens_per_parameter"] / end) ** 0.5
                for d, row in rows.items() if d in (24, 32, 48)]
        assert min(near) * 0.97 <= float(found) <= max(near) * 1.03
    assert float(size[1]) < rows[32]["params_total"] < float(size[2])
    as_json = json.loads(planned(isoflop(tokens_per_parameter=[low, high]), "--json").out)
    assert len(as_json["warnings"]) == 1


def test_runs_over_budget_are_not_usable_sizes(planned):
    (warning,) = warnings(planned(isoflop(), f"max_flops={3.1 * BUDGET}"))
    assert "has 3 usable size(s)" in warning
    assert "max_flops or max_device_hours exclude 3. Raise max_flops" in warning


def test_only_thin_budgets_are_named(planned):
    shown = planned(isoflop(budgets=[BUDGET, 2 * BUDGET]), f"max_flops={8.1 * BUDGET}")
    (warning,) = warnings(shown)
    assert "budget of 2e+09 FLOPs has 1 usable size(s)" in warning

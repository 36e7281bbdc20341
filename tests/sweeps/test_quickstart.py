"""The quickstart continues with the committed results."""

from __future__ import annotations

import csv
import shutil

from scaling.config import SweepConfig, load
from scaling.data.prepare import prepare
from scaling.sweeps.plan import claim_results, make_plan
from tests.conftest import ROOT


def test_its_results_are_those_of_its_configuration(tmp_path):
    """Otherwise `make quickstart` stops at once in a fresh clone, and README's figures are of
    another sweep: run it again, and correct README's table."""
    store = prepare("wheel:chitchat-dataset", "byte", None, tmp_path / "store")
    config = "configs/sweeps/quickstart.yaml"
    sweep = load(SweepConfig, ROOT / config, [f"run.data.store={store.path}"])
    plan = make_plan(sweep, config, tmp_path / "runs")
    results = shutil.copytree(ROOT / "results/quickstart", tmp_path / "results")
    claim_results(plan, results)
    with (results / "runs.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["run_id"]: row for row in csv.DictReader(file)}
    assert rows.keys() == {planned.run_id for planned in plan.runs}
    assert {row["status"] for row in rows.values()} == {"done"}

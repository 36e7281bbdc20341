"""The columns of the exported tables, and the thinning of curves."""

from __future__ import annotations

import csv

import pytest

from scaling.sweeps import table
from tests.tiny_sweep import begin, end


@pytest.fixture
def exported(plan, tmp_path):
    done = plan.runs[0]
    begin(done, *range(1, 251))
    end(done, loss_se=0.125, bits_per_byte=5.0)
    table.export(plan, tmp_path / "results")
    return tmp_path / "results"


def test_the_columns_of_the_runs_table(plan, exported, store):
    """Column by column, as README and foreign tools name them."""
    with (exported / "runs.csv").open(newline="") as file:
        row = next(row for row in csv.DictReader(file) if row["run_id"] == plan.runs[0].run_id)
    run = plan.runs[0].run
    expected = {
        "run_id": plan.runs[0].run_id, "sweep": "tiny", "role": "grid", "mode": "decoder-only",
        "family": "custom", "objective": "causal", "corpus": "toy", "tokens": "1536",
        "unique_tokens": "1536", "batch_tokens": "64", "seed": "0", "loss": "3.5",
        "loss_se": "0.125", "bits_per_byte": "5.0", "status": "done"}
    assert {key: row[key] for key in expected} == expected
    assert row.keys() - expected == {"params_total", "params_non_embedding", "epochs", "lr",
                                     "flops_6nd", "flops_counted"}
    n, d = float(row["params_total"]), float(row["tokens"])
    assert float(row["epochs"]) == pytest.approx(d / store.split("train").tokens, rel=0.02)
    assert 0 < float(row["params_non_embedding"]) < n
    assert float(row["flops_6nd"]) == pytest.approx(6 * n * d)
    assert float(row["flops_counted"]) > 0
    assert float(row["lr"]) == run.optimizer.learning_rate


def test_a_curve_is_thinned_to_the_last_point_of_each_interval(exported):
    """250 lines to at most 100: every third, and the last."""
    with (exported / "curves.csv").open(newline="") as file:
        points = [(int(row["tokens"]), float(row["loss"])) for row in csv.DictReader(file)]
    steps = [*range(3, 250, 3), 250]
    assert points == [(step * 64, pytest.approx(5 - step / 100)) for step in steps]

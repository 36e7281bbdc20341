"""The columns of the exported tables, and the thinning of curves."""

from __future__ import annotations

import csv

import pandas as pd
import pytest

from scaling.errors import UserError
from scaling.sweeps import table
from scaling.sweeps.kept_rows import with_kept_curves, with_kept_runs
from scaling.sweeps.plan import make_plan
from tests.tiny_sweep import begin, end


@pytest.fixture
def exported(plan, tmp_path):
    done = plan.runs[0]
    begin(done, *range(1, 251))
    with done.folder.metrics_path.open("a") as file:  # an evaluation has no training loss
        file.write('{"step": 250, "tokens": 16000, "eval_loss": 2.0}\n')
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
                                     "warmup_fraction", "decay_fraction", "flops_6nd",
                                     "flops_counted"}
    n, d = float(row["params_total"]), float(row["tokens"])
    assert float(row["epochs"]) == pytest.approx(d / store.split("train").tokens, rel=0.02)
    assert 0 < float(row["params_non_embedding"]) < n
    assert float(row["flops_6nd"]) == pytest.approx(6 * n * d)
    assert float(row["flops_counted"]) > 0
    assert float(row["lr"]) == run.optimizer.learning_rate
    assert float(row["warmup_fraction"]) == run.schedule.warmup_steps_of(run.steps) / run.steps
    assert float(row["decay_fraction"]) == pytest.approx(0.2, abs=1 / run.steps)


def test_rows_are_sorted_by_role_size_tokens_and_seed():
    """By number, and a size by its parameters without embeddings; other values come last."""
    order = [("former", "9", "5", "1"), ("grid", "20", "9", "3"), ("grid", "20", "100", "0"),
             ("grid", "20", "100", "2"), ("grid", "20", "100", "10"), ("grid", "100", "9", "0"),
             ("grid", "100", "", "0"), ("grid", "nan", "1", "0"), ("heldout", "1", "1", "0")]
    columns = ("role", "params_non_embedding", "tokens", "seed")
    rows = [dict(zip(columns, cells, strict=True)) | {
        "run_id": str(i), "params_total": str(100 - i), "status": "planned"}
        for i, cells in enumerate(order)]
    found, kept = with_kept_runs(rows[::-1], [])
    assert [row["run_id"] for row in found] == [row["run_id"] for row in rows]
    assert kept == {}


def test_a_table_of_the_plan_is_sorted_by_role_size_tokens_and_seed(sweep, runs):
    plan = make_plan(sweep("seeds=[1, 0]", "priority=most_expensive", "grids.0.tokens=[3072,1536]"),
                     "tiny", runs)
    rows = table.runs_table(plan)
    keys = list(zip(rows["role"], rows["params_non_embedding"], rows["tokens"], rows["seed"],
                    strict=True))
    assert keys == sorted(keys)
    assert len(set(keys)) == 9


def test_curves_are_kept_with_their_rows_and_for_finished_runs_whose_metrics_are_gone():
    now = [{"run_id": "a", "loss": "new"}, {"run_id": "b", "loss": "new"}]
    before = [{"run_id": name, "loss": "old"} for name in "abcd"]
    found = with_kept_curves(now, before, kept={"b"}, finished={"a", "b", "c"})
    assert [(row["run_id"], row["loss"]) for row in found] == [
        ("a", "new"), ("b", "old"), ("c", "old")]


def test_a_parquet_file_has_the_numbers_of_the_table_to_the_last_bit(plan, tmp_path, monkeypatch):
    """As pandas passes them to pyarrow, which need not be installed."""
    frames = []

    def written(frame, buffer, index):
        assert not index
        frames.append(frame)
        footer = " ".join(table.COLUMNS).encode()
        buffer.write(b"PAR1" + footer + len(footer).to_bytes(4, "little") + b"PAR1")

    monkeypatch.setattr(pd.DataFrame, "to_parquet", written)
    loss = 0.1 + 0.7 / 3
    end(plan.runs[0], loss=loss, loss_se=1 / 3, bits_per_byte=None)
    paths = table.export(plan, tmp_path / "results", parquet=True)
    assert [path.name for path in paths] == ["runs.csv", "curves.csv", "runs.parquet"]
    row = frames[0].set_index("run_id").loc[plan.runs[0].run_id]
    assert (row["loss"], row["loss_se"], len(frames[0])) == (loss, 1 / 3, 5)
    table.export(plan, tmp_path / "results", parquet=True)  # it recognises its own file
    assert table.check_tables(tmp_path / "results") == {plan.runs[0].run_id}
    (tmp_path / "results/runs.parquet").write_bytes(paths[2].read_bytes()[:-1] + b"2")
    with pytest.raises(UserError, match=r"runs\.parquet: was not written by"):
        table.export(plan, tmp_path / "results", parquet=True)


def test_a_curve_is_thinned_to_the_last_point_of_each_interval(exported):
    """250 lines to at most 100: every third, and the last."""
    with (exported / "curves.csv").open(newline="") as file:
        points = [(int(row["tokens"]), float(row["loss"])) for row in csv.DictReader(file)]
    steps = [*range(3, 250, 3), 250]
    assert points == [(step * 64, pytest.approx(5 - step / 100)) for step in steps]

"""`scaling sweep`: from plan to table, failures and retries."""

from __future__ import annotations

import json
import re

import pandas as pd
import pytest
import yaml

from tests.conftest import assert_refused


def test_plan_run_status_export_and_heldout(scaling, command, sweep_file):
    plan = command("sweep", "plan", sweep_file, "--json", cwd=sweep_file.parent)
    assert plan.code == 0, plan.err
    content = json.loads(plan.out)
    assert content["states"] == {"new": 5}
    assert content["seconds_left"] > 0
    assert all(row["seconds_left"] > 0 for row in content["runs"])

    ran = scaling("sweep", "run", sweep_file)
    assert ran.returncode == 0, ran.stderr
    results = sweep_file.parent / "results" / "tiny"
    table = pd.read_csv(results / "runs.csv")
    assert table["status"].tolist() == ["done"] * 4 + ["planned"]
    assert table["role"].tolist() == ["grid"] * 4 + ["heldout"]
    curves = pd.read_csv(results / "curves.csv")
    assert set(curves["run_id"]) == set(table["run_id"][:4])

    # The shorter run of each size started from a state of the longer one.
    branches = {row.run_id: json.loads((sweep_file.parent / "runs" / row.run_id / "record.json")
                                       .read_text()) for row in table[:4].itertuples()}
    for size, pair in table[:4].groupby("params_total"):
        short, long = pair.sort_values("tokens")["run_id"]
        assert branches[short]["trunk"] == {"run_id": long, "step": 19}, size
        assert branches[long]["trunk"] is None
    assert not list(sweep_file.parent.glob("runs/trunks/*"))

    records = {p: p.stat().st_mtime_ns for p in sweep_file.parent.glob("runs/*/record.json")}
    assert len(records) == 4
    assert command("sweep", "run", sweep_file).code == 0
    assert {p: p.stat().st_mtime_ns for p in records} == records

    heldout = command("sweep", "run", sweep_file, "--heldout")
    assert heldout.code == 0, heldout.err
    assert set(pd.read_csv(results / "runs.csv")["status"]) == {"done"}
    status = json.loads(command("sweep", "status", sweep_file, "--json").out)
    assert status["states"] == {"done": 5}
    assert all(row["step"] == row["steps"] for row in status["runs"])
    assert all(row["log"].startswith("runs/logs/tiny.") for row in status["runs"])
    assert status["flops_done"] == status["flops_total"]
    exported = scaling("sweep", "export", sweep_file, "--out", "elsewhere", "--wandb", "laws")
    assert exported.returncode == 0, exported.stderr
    assert "5 run(s) written to the W&B project laws" in exported.stdout
    exported = scaling("sweep", "export", sweep_file, "--out", "elsewhere", "--wandb", "laws")
    assert "0 run(s) written to the W&B project laws; 5 were written before" in exported.stdout
    offline = sorted(path.name.split("-")[-1]
                     for path in sweep_file.parent.glob("elsewhere/wandb/offline-run-*"))
    assert offline == sorted(table["run_id"])  # each once: the second export wrote no duplicate
    assert (sweep_file.parent / "elsewhere/runs.csv").read_bytes() == (
        results / "runs.csv").read_bytes()


def test_a_plan_for_another_machine_is_drawn_and_counted(command, sweep_file, sweep_content):
    sweep_content |= {"max_device_hours": 1e-12, "vary": {"optimizer.b2": [0.9, 0.95]}}
    sweep_file.write_text(yaml.safe_dump(sweep_content))
    shown = command("sweep", "plan", sweep_file, "--gpu", "H100", "--mfu", "0.5",
                    "max_device_hours=1", "--figure", "grid.png", "--json", cwd=sweep_file.parent)
    assert shown.code == 0, shown.err
    assert len(list(sweep_file.parent.glob("grid.*"))) == 3
    content = json.loads(shown.out)
    assert content["paid_flops"] < content["flops_counted"] == sum(
        row["flops_counted"] for row in content["runs"])
    assert content["device_hours"] * 3600 * 0.5 * 989e12 == pytest.approx(content["flops_counted"])
    assert all(row["fits"] for row in content["runs"])
    table = command("sweep", "plan", sweep_file, "--no-measure", "max_flops=1e8")
    assert table.code == 0, table.err
    assert "optimizer.b2=0.9" in table.out
    assert "over budget" in table.out
    assert "with shared trunks" in table.out
    assert "max_device_hours is ignored" in table.err
    for gpu, words in (("H100", "max_device_hours covers no run"),
                       ("X9", "not a known accelerator")):
        refused = command("sweep", "plan", sweep_file, "--gpu", gpu)
        assert (refused.code, words in refused.err) == (2, True), refused.err


def test_memory_in_a_plan_is_that_of_each_run(command, sweep_file, sweep_content):
    """Runs of one model and batch may differ in what they store."""
    sweep_content["vary"] = {"optimizer.kind": ["adamw", "lion"]}
    sweep_file.write_text(yaml.safe_dump(sweep_content))
    shown = command("sweep", "plan", sweep_file, "--no-measure", "--json", cwd=sweep_file.parent)
    assert shown.code == 0, shown.err
    memory: dict[int, dict[str, int]] = {}
    for row in json.loads(shown.out)["runs"]:
        memory.setdefault(row["params_total"], {})[row["varied"]["optimizer.kind"]] = (
            row["memory_bytes"])
    assert memory
    for params, of_optimizer in memory.items():  # Lion stores one moment of 4 bytes, AdamW two
        assert of_optimizer["adamw"] - of_optimizer["lion"] == 4 * params


@pytest.mark.slow
@pytest.mark.alone
def test_a_failed_run_stays_failed_until_retried_and_the_others_continue(
    scaling, sweep_file, sweep_content
):
    """The mesh asks for more devices than any machine has."""
    sweep_content["run"]["execution"] = {"mesh": {"data": 999}}
    sweep_file.write_text(yaml.safe_dump(sweep_content))
    ran = scaling("sweep", "run", sweep_file)
    assert ran.returncode == 1
    assert "makes 999 devices, and there are 1" in ran.stderr
    assert "Traceback" not in ran.stderr
    table = pd.read_csv(sweep_file.parent / "results/tiny/runs.csv")
    assert table["status"].tolist() == ["failed"] * 4 + ["planned"]
    status = scaling("sweep", "status", sweep_file)
    assert "4 failed, 1 new" in status.stdout
    assert status.stdout.count("makes 999 devices, and there are 1") == 4

    del sweep_content["run"]["execution"]  # no part of a run's identity
    sweep_file.write_text(yaml.safe_dump(sweep_content))
    assert scaling("sweep", "run", sweep_file).returncode == 1
    retried = scaling("sweep", "retry", sweep_file)
    assert "4 failed run(s) will be trained again" in retried.stdout
    ran = scaling("sweep", "run", sweep_file)
    assert ran.returncode == 0, ran.stderr
    assert "4 done" in ran.stdout


@pytest.mark.slow
@pytest.mark.alone
def test_a_diverged_run_is_recorded_and_the_sweep_continues(scaling, sweep_file, sweep_content):
    sweep_content["learning_rate"] = {"rule": "listed", "rates": [1e-2, 1e30, 1e-2]}
    sweep_content["run"]["optimizer"] = {"clip_norm": 1e9}
    sweep_file.write_text(yaml.safe_dump(sweep_content))
    ran = scaling("sweep", "run", sweep_file)
    assert ran.returncode == 0, ran.stderr
    assert "2 diverged, 2 done" in ran.stdout
    status = json.loads(scaling("sweep", "status", sweep_file, "--json").stdout)
    assert status["states"] == {"diverged": 2, "new": 1, "done": 2}
    diverged = [row for row in status["runs"] if row["state"] == "diverged"]
    assert all(row["loss"] is None and 0 < row["step"] < row["steps"] for row in diverged)
    assert "0 failed run(s)" in scaling("sweep", "retry", sweep_file).stdout  # a result stays
    table = pd.read_csv(sweep_file.parent / "results/tiny/runs.csv")
    assert table.loc[table["status"] == "diverged", "loss"].isna().all()
    fit = scaling("fit", sweep_file.parent / "results/tiny", "--law", "kaplan-d")
    assert "diverged" in fit.stdout + fit.stderr


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["sizs=[]"], ["sizs: unknown key", "did you mean sizes?"]),
        (["grids.0.tokens=[1e9]"], ["one epoch"]),
        (["run.data.store=nowhere"], ["no such store", "scaling data prepare"]),
    ],
)
def test_a_mistake_ends_with_status_2(command, sweep_file, overrides, words):
    refused = command("sweep", "plan", sweep_file, *overrides, cwd=sweep_file.parent)
    assert (refused.code, refused.out) == (2, "")
    assert all(word in refused.err for word in words), refused.err


def test_results_of_another_configuration_are_refused(command, sweep_file):
    (sweep_file.parent / "results/tiny").mkdir(parents=True)
    (sweep_file.parent / "results/tiny/sweep.json").write_text('{"name": "other"}')
    refused = command("sweep", "export", sweep_file, cwd=sweep_file.parent)
    assert refused.code == 2
    assert re.search(r"another configuration, .*name", refused.err), refused.err


def test_a_results_folder_that_cannot_be_written_is_refused(scaling, sweep_file):
    """As a user runs the command."""
    (sweep_file.parent / "results").write_text("a file")
    assert_refused(scaling("sweep", "run", sweep_file), "results")


def test_single_runs_are_trained_by_their_identity(command, sweep_file):
    rows = json.loads(command("sweep", "plan", sweep_file, "--json",
                              cwd=sweep_file.parent).out)["runs"]
    first = min(row["run_id"] for row in rows if row["role"] == "grid")
    done = command("sweep", "run", sweep_file, "--only", first[:10])
    assert done.code == 0, done.err
    assert [path.parent.name for path in sweep_file.parent.glob("runs/*/record.json")] == [first]
    table = pd.read_csv(sweep_file.parent / "results" / "tiny" / "runs.csv")
    assert table.loc[table["status"] == "done", "run_id"].tolist() == [first]
    for wrong, words in (("zz", "no run to train"), ("", "4 runs begin with it")):
        assert_refused(command("sweep", "run", sweep_file, f"--only={wrong}"), words)

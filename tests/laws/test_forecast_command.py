"""`scaling forecast`: forecasts of a sweep's held-out run, sealed before it, checked after it."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT, assert_refused, run_content

QUICKSTART = ROOT / "results/quickstart"
HELDOUT = "9af4e9a9e8cf708f"
LEDGER = "forecasts.jsonl"


def write_table(path: Path, *, started: str | None = None, heldout: str = "planned") -> None:
    """The quickstart's runs, with its held-out run not trained yet or done."""
    with (QUICKSTART / "runs.csv").open(newline="") as file:
        rows = [*csv.DictReader(file)]
    for row in rows:
        if row["role"] == "heldout" and heldout != "done":
            row |= {"status": heldout, "loss": "", "loss_se": "", "bits_per_byte": ""}
        if started is not None:
            row["started"] = started
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A results folder whose held-out run is not trained yet."""
    write_table(tmp_path / "results/runs.csv")
    shutil.copy(QUICKSTART / "laws.json", tmp_path / "results")
    return tmp_path


SEAL = ("forecast", "seal", "results", "--heldout-of", "results", "--ledger", LEDGER)


def test_held_out_runs_are_sealed_and_checked(place, command):
    sealed = command(*SEAL, "--note", "before", cwd=place)
    assert sealed.code == 0, sealed.err
    records = [json.loads(line) for line in (place / LEDGER).read_text().splitlines()]
    assert records[-1]["sha256"] in sealed.out
    assert [(r["law"]["name"], r["run"]["run_id"], r["note"]) for r in records] == [
        (name, HELDOUT, "before")
        for name in ("kaplan-n", "kaplan-d", "kaplan-c", "kaplan-nd", "chinchilla", "q-family")]
    n = {"total": 1017344, "non-embedding": 984448}  # of this run, from the committed table
    assert all(r["run"]["variables"]["n"] == n[r["law"]["convention"]["n"]] for r in records)
    again = command(*SEAL, "--json")
    assert [row["new"] for row in json.loads(again.out)["forecasts"]] == [False] * 6
    assert len((place / LEDGER).read_text().splitlines()) == 6
    waiting = command("forecast", "check", LEDGER, "results")
    assert (waiting.code, waiting.out.count("no run yet")) == (0, 7), waiting.err
    write_table(place / "results/runs.csv", heldout="done")
    done = command("forecast", "check", LEDGER, "results", "--out", "check.json", "--json")
    assert done.code == 0, done.err
    assert done.out == (place / "check.json").read_text()
    content = json.loads(done.out)
    # The errors of README's table, to its digits.
    assert {row["law"]: round(100 * row["relative_error"], 1) for row in content["rows"]} == {
        "chinchilla": 3.2, "kaplan-nd": -1.1, "kaplan-d": 0.2, "kaplan-n": 1.6, "kaplan-c": -6.0,
        "q-family": -1.4}
    assert content["scores"]["inside"] == 6
    assert command("forecast", "check", LEDGER, "results", "--head", records[1]["sha256"]).code == 0
    assert_refused(command("forecast", "check", LEDGER, "results", "--head", "0" * 64),
                   "no record with the hash")


def test_nothing_is_sealed_of_a_finished_run(place, command):
    write_table(place / "results/runs.csv", heldout="done")
    done = command(*SEAL, cwd=place)
    assert (done.code, done.out) == (0, "")
    assert "every held-out run is finished" in done.err
    assert not (place / LEDGER).exists()


def test_a_changed_record_ends_with_its_line(place, command):
    assert command(*SEAL, cwd=place).code == 0
    text = (place / LEDGER).read_text()
    (place / LEDGER).write_text(text.replace('"kaplan-c"', '"kaplan-d"', 1))
    for words in (("forecast", "check", LEDGER, "results"), SEAL):
        assert_refused(command(*words), f"{LEDGER}: line 3: does not have the hash")
    assert (place / LEDGER).read_text() != text


def test_columns_and_times_of_a_table(place, command):
    assert command(*SEAL, cwd=place).code == 0
    write_table(place / "late.csv", heldout="done", started="2020-01-01T00:00:00")
    done = command("forecast", "check", LEDGER, "late.csv")
    assert (done.code, done.out.count("after it began")) == (0, 6)
    assert "the scores are of 0, without 6 sealed after the run began" in done.out
    done = command("forecast", "check", LEDGER, "late.csv", "--n", "batch_tokens", "--json")
    assert all("N 512 instead of" in row["state"] for row in json.loads(done.out)["rows"])
    done = command("forecast", "check", LEDGER, "late.csv", "--n-convention", "total", "--json")
    assert [row["state"] for row in json.loads(done.out)["rows"]][-1] == "scored"
    assert_refused(command("forecast", "check", LEDGER, "late.csv", "--loss", "no"), "no column no")


def test_a_sweep_is_forecast_before_it_is_trained(tmp_path, store_path, command):
    """From the sweep's file, with the runs' folder telling which run exists, and when it began."""
    run = run_content(store_path)
    sizes = [{"d_model": width, "n_layers": 1, "n_heads": 1} for width in (8, 16)]
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump({
        "name": "sweep", "sizes": sizes, "run": {
            "data": run["data"], "model": {"context": 16},
            "batch_sequences": 4, "schedule": run["schedule"], "evaluation": run["evaluation"]},
        "grids": [{"kind": "product", "tokens": [24 * 64, 48 * 64]}],
        "heldout": [{"size": sizes[0], "tokens": 96 * 64}],
        "learning_rate": {"rule": "power", "learning_rate": 1e-2, "reference_params": 1000,
                          "exponent": 0}}))
    seal = ("forecast", "seal", "besiroglu2024", "--heldout-of", "sweep.yaml", "--ledger", LEDGER)
    first = command(*seal, "--json", cwd=tmp_path)
    assert first.code == 0, first.err
    (row,) = json.loads(first.out)["forecasts"]
    assert row["variables"]["d"] == 96 * 64
    trained = command("sweep", "run", "sweep.yaml", "--heldout", "--workers", 1, "--out", "results")
    assert trained.code == 0, trained.err
    assert "every held-out run is finished" in command(*seal).err
    done = json.loads(command("forecast", "check", LEDGER, "results", "--json").out)
    assert [(r["run_id"], r["state"], r["sealed"]) for r in done["rows"]] == [
        (row["run_id"], "scored", "before it began")]
    late = command("forecast", "seal", "kaplan2020-nd", "--n", row["variables"]["n"], "--d",
                   96 * 64, "--ledger", LEDGER)
    assert late.code == 0, late.err
    done = json.loads(command("forecast", "check", LEDGER, "results", "--n-convention", "total",
                              "--json").out)
    assert [r["sealed"] for r in done["rows"]] == ["before it began", "after it ended"]
    elsewhere = command("forecast", "check", LEDGER, "results", "--runs", "no", "--json")
    assert json.loads(elsewhere.out)["rows"][0]["sealed"] == "not known"


@pytest.mark.parametrize(("words", "said"), [
    ("seal results --ledger new.jsonl", "give what to predict: --n N and --d D"),
    ("seal results --n 1e6 --ledger new.jsonl --law chinchilla", "needs D (tokens); give --d D"),
    ("seal results --n many --d 1e6 --ledger new.jsonl", "--n many: a number is expected"),
    ("seal results --n 1e6 --d 1e6 --heldout-of results --ledger new.jsonl", "--heldout-of takes"),
    ("seal results --n 1e6 --d 1e6 --law chinchila --ledger new.jsonl", "name one of them"),
    ("seal results --n 1e6 --d 1e6 --given bits=8 --ledger new.jsonl", "depends on bits"),
    ("seal results --n 1e6 --d 1e6 --ledger results", "is a folder"),
    ("seal results --n 1e6 --d 1e6 --ledger results/runs.csv", "was not written by"),
    ("seal results --n 1e6 --d 1e6", "--ledger"),
    ("seal nosuch --n 1e6 --d 1e6 --ledger new.jsonl", "no published law of that name"),
    ("seal results --heldout-of nosuch --ledger new.jsonl", "nosuch"),
    ("seal results --heldout-of nosuch.yaml --ledger new.jsonl", "nosuch.yaml"),
    ("check new.jsonl results", "new.jsonl: no such file"),
    ("check results/laws.json results", "was not written by"),
    ("check forecasts.jsonl nosuch.csv", "nosuch.csv: no such file"),
    ("check forecasts.jsonl results --tolerance 2", "--tolerance 2: a number above 0"),
    ("check forecasts.jsonl results --column experts=lr", "no fitted law has the variable experts"),
    ("check forecasts.jsonl results --out results/runs.csv", "is an input"),
    ("check forecasts.jsonl results --out results/laws.json", "was not written by"),
])
def test_a_mistake_ends_with_status_2(place, command, words, said):
    assert command(*SEAL, cwd=place).code == 0
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    assert_refused(command("forecast", *words.split()), said)
    assert {path: path.read_bytes() for path in place.rglob("*") if path.is_file()} == before

"""Every option of a command changes its result, and defaults stay as they are documented."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import typer

import scaling.laws as sl
from scaling.cli.main import app
from tests.cli.test_options import commands

RUNS = {"--runs": "runs"}
DEFAULTS = {
    "fit": {"--bootstrap": 1000, "--resample": "case", "--interval": "bca", "--seed": 0,
            "--smooth": 1, "--residuals": "log"},
    "allocate": {"--mfu": 0.4, "--inference-tokens": 0.0},
    "simulate": {"--noise": 0.01, "--noise-growth": 0.0, "--seeds": 1, "--seed": 0,
                 "--outliers": 0.0, "--outlier-size": 0.1, "--diverged": 0.0, "--repeats": 0},
    "plot": {"--bootstrap": 1000, "--smooth": 1},
    "data prepare": {"--special": "", "--sentinels": 0, "--validation-fraction": 0.05,
                     "--test-fraction": 0.02, "--deduplicate": "exact", "--contamination": "off",
                     "--not-utf8": "refuse", "--launcher": "local"},
    "data show": {"--samples": 2},
    "forecast seal": RUNS | {"--note": ""}, "forecast check": RUNS | {"--tolerance": 1e-3},
    "sweep plan": RUNS | {"--measure": True},
    "sweep run": RUNS | {"--launcher": "local"},
    "sweep status": RUNS, "sweep retry": RUNS, "sweep cancel": RUNS, "sweep export": RUNS,
    "sweep log": RUNS | {"--lines": 40},
    "sweep prune": RUNS | {"--keep": "final"},
    "sweep suggest": RUNS | {"--max-runs": 8, "--seeds": 1, "--law": "chinchilla",
                             "--bootstrap": 1000},
}
"""By command and option. A change breaks scripts, and the README where it relies on a default."""

LAW = {"E": 1.7, "A": 400.0, "B": 410.0, "alpha": 0.34, "beta": 0.28}


def test_options_have_their_documented_defaults() -> None:
    found: dict[str, dict[str, Any]] = {}
    for name, command in commands(typer.main.get_command(app)):
        of = {max(param.opts, key=len): param.default for param in command.params
              if param.param_type_name == "option"}
        given = {option: str(value) if isinstance(value, Path | StrEnum) else value
                 for option, value in of.items() if value is not None and value is not False}
        found |= {name: given} if given else {}
    assert found == DEFAULTS


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    """A folder with tables of runs, whose columns differ in all that a command may read."""
    folder: Path = tmp_path_factory.mktemp("work")
    n, d = (axis.ravel() for axis in np.meshgrid(
        np.geomspace(1e7, 1e9, 5), np.geomspace(1e9, 1e11, 5)))
    draw = np.random.default_rng(0)
    loss = (LAW["E"] + LAW["A"] / n ** LAW["alpha"] + LAW["B"] / d ** LAW["beta"]) * np.exp(
        0.003 * draw.standard_normal(n.size))
    runs = pd.DataFrame({
        "params_total": n, "params_non_embedding": n - 5e6, "tokens": d, "loss": loss,
        "other_n": n * draw.uniform(0.9, 1.1, n.size), "other_d": d * 1.5,
        "other_c": 7 * n * d, "other_loss": loss * 1.01, "pair": np.arange(25) // 2})
    runs.to_csv(folder / "runs.csv", index=False)
    sl.save([sl.fit_law(sl.read(runs), law, resamples=0) for law in ("chinchilla", "kaplan-d")],
            folder / "laws.json")
    runs.iloc[: 20].to_csv(folder / "fewer.csv", index=False)
    pd.DataFrame({"params_total": [2e6, 2e9], "params_non_embedding": [1e6, 1e9]}).to_csv(
        folder / "models.csv", index=False)
    return folder


def laws(text: str) -> Any:
    """What a fit found, without the options that its file repeats."""
    content = json.loads(text)
    return [(law["params"], law.get("intervals"), law["n_runs"]) for law in content["laws"]]


def allocations(text: str) -> Any:
    """The first law's rows; the published ones beside it have options of their own."""
    content = json.loads(text)
    rows = content.get("allocations") or content["laws"][0]["allocations"]
    return [{key: row[key] for key in ("n", "d", "loss", "c", "a")} for row in rows[:2]]


def plain(text: str) -> Any:
    return text


FIT = "fit runs.csv --law kaplan-n --bootstrap 0 --json"
RESAMPLED = "fit runs.csv --law kaplan-d --bootstrap 20 --json"

ALLOCATE = "allocate besiroglu2024 --json"
SIMULATE = "simulate besiroglu2024 --sizes 1e7:1e9:3 --ratios 5,80"
STUDY = "simulate besiroglu2024 --budgets 1e18:1e20:3 --repeats 4 --json"
SUGGEST = ("sweep suggest runs.csv --target loss --at 1e22 --budget 1e20 --bootstrap 0 "
           "--max-runs 3 --json")

SEAL = "forecast seal laws.json --law chinchilla --n 1e8 --d 1e10 --ledger a.jsonl --json"

CASES = [
    (FIT, laws, ["--law kaplan-d", "--n other_n", "--loss other_loss", "--where params_total>2e7",
                 "--n-convention total", "--objective l1"]),
    ("fit runs.csv --law kaplan-d --bootstrap 0 --json", laws, ["--d other_d"]),
    ("fit runs.csv --law kaplan-c --bootstrap 0 --json", laws, ["--c other_c"]),
    ("fit runs.csv --law chinchilla --bootstrap 0 --json", laws, [
        "--fix E=1.6", "--tie alpha=beta", "--delta 0.5"]),
    (RESAMPLED, laws, ["--bootstrap 30", "--resample residual", "--interval percentile",
                       "--seed 1", "--cluster pair"]),
    ("fit runs.csv --law chinchilla --bootstrap 20 --json", laws, ["--resample size"]),
    ("fit runs.csv --law chinchilla --bootstrap 0 --cluster pair --json", laws, ["--final"]),
    ("fit runs.csv --law chinchilla --bootstrap 0 --cluster pair --final --json", laws, [
        "--smooth 2"]),
    (f"{ALLOCATE} --compute 1e20", allocations, [
        "--compute 1e21", "--inference-tokens 1e12", "--fixed-n 1e9", "--fixed-d 1e10"]),
    (f"{ALLOCATE} --gpu-hours 10 --gpu H100", allocations, [
        "--gpu-hours 20", "--gpu A100", "--mfu 0.5"]),
    (f"{ALLOCATE} --target-loss 2.2", allocations, ["--target-loss 2.3"]),
    ("allocate muennighoff2023 --json --compute 1e21", allocations, ["--unique-tokens 1e9"]),
    ("allocate krajewski2024 --json --compute 1e20 --given granularity=2", allocations, [
        "--given granularity=8"]),
    ("compare besiroglu2024 kaplan2020 --json", allocations, [
        "--compute 1e19", "--convention non-embedding"]),
    ("compare besiroglu2024 --json --convention non-embedding", allocations, [
        "--omega 1e5", "--models models.csv"]),
    ("compare krajewski2024 --json --given granularity=2", allocations, [
        "--given granularity=8"]),
    (SIMULATE, plain, ["--noise 0.02", "--noise-growth 0.1", "--seeds 2", "--seed 1",
                       "--outliers 0.5", "--diverged 0.5", "--sizes 1e7:1e9:4", "--ratios 5"]),
    (f"{SIMULATE} --outliers 0.5", plain, ["--outlier-size 0.3"]),
    ("simulate besiroglu2024 --budgets 1e18", plain, ["--budgets 1e19", "--sizes 1e8,2e8"]),
    ("simulate besiroglu2024 --like runs.csv", plain, ["--like fewer.csv"]),
    ("simulate besiroglu2024 --sizes 1e8 --tokens 1e9", plain, ["--tokens 2e9"]),
    (STUDY, lambda text: [(row["target"], row["interval"]) for row in json.loads(text)["targets"]],
     ["--repeats 5", "--target alpha", "--at 1e22", "--seed 1", "--noise 0.02",
      "--outliers 0.3", "--diverged 0.3"]),
    (SUGGEST, lambda text: [(run["n"], run["d"], run["sd"]) for run in json.loads(text)["runs"]],
     ["--target alpha", "--at 1e23", "--budget 3e20", "--max-flops-per-run 1e19",
      "--sizes 1e8,2e8", "--ratio-range 10:20", "--max-tokens 1e10", "--max-runs 2", "--seeds 3",
      "--law kaplan-nd", "--noise 0.01", "--n other_n", "--d other_d", "--loss other_loss",
      "--n-convention non-embedding"]),
    (SUGGEST, lambda text: json.loads(text)["now"]["bootstrap_interval"], ["--bootstrap 20"]),
    ("sweep suggest runs.csv --target loss --at-n 1e10 --at-d 1e12 --budget 1e21 --bootstrap 0 "
     "--json", lambda text: json.loads(text)["runs"],
     ["--at-n 1e11", "--at-d 1e11", "--candidates fewer.csv",
      "--candidates fewer.csv --cost tokens"]),
    (f"{SUGGEST} --n params_total", lambda text: json.loads(text)["runs"], ["--c other_c"]),
    (SEAL, lambda text: [
        (f["law"], f["variables"], f["prediction"]) for f in json.loads(text)["forecasts"]],
     ["--n 2e8", "--d 2e10", "--law kaplan-d"]),
    ("forecast seal krajewski2024 --n 1e8 --d 1e10 --given granularity=2 --ledger b.jsonl --json",
     lambda text: json.loads(text)["forecasts"][0]["prediction"], ["--given granularity=8"]),
    ("models gpt2/124M --json", plain, ["--context 512", "--vocab-size 1000"]),
    ("schema run", plain, ["sweep"]),
]


def replaced(base: str, option: str) -> list[str]:
    """The words of a command, with an option that it may have already."""
    words, name = base.split(), option.split()[0]
    if name in words:
        place = words.index(name)
        del words[place: place + 2]
    if not option.startswith("-"):
        words.pop()
    return [*words, *option.split()]


@pytest.mark.parametrize(("base", "result", "options"), CASES, ids=[case[0] for case in CASES])
def test_every_option_changes_the_result(work, command, base, result, options) -> None:
    before = command(*base.split(), cwd=work)
    assert before.code == 0, before.err
    for option in options:
        after = command(*replaced(base, option), cwd=work)
        assert after.code == 0, (option, after.err)
        assert result(after.out) != result(before.out), option


PREPARE = [  # each with what it changes of a store
    "--tokenizer bpe --vocab-size 260", "--special pad,mask", "--sentinels 3",
    "--validation-fraction 0.3", "--test-fraction 0.3", "--max-bytes 4000", "--deduplicate none",
    "--deduplicate near", "--contamination report --test-fraction 0.4",
    "--contamination drop --test-fraction 0.4", "--not-utf8 replace",
]


def test_every_option_changes_the_store(tmp_path, command) -> None:
    """And each differs from all others."""
    texts = [" ".join(f"w{i}x{j}" for j in range(30)) for i in range(60)]
    texts += [f"{text} more" for text in texts[:40]]  # near-duplicates, with shared runs of words
    texts += texts[:5]
    (tmp_path / "text").mkdir()
    for number, text in enumerate(texts):
        (tmp_path / f"text/{number:03}.txt").write_text(text)
    (tmp_path / "text/bad.txt").write_bytes(b"caf\xe9 of another kind")
    stores = {}
    for option in ["", *PREPARE, "--test-fraction 0.4"]:
        words = option if "--not-utf8" in option else f"--not-utf8 skip {option}"
        done = command("data", "prepare", "text:text/*.txt", "--workers", 1, "--out",
                       f"store{len(stores)}", *words.split(), cwd=tmp_path)
        assert done.code == 0, done.err
        manifest = json.loads((tmp_path / f"store{len(stores)}/manifest.json").read_text())
        stores[option] = json.dumps([
            [(manifest[name] or {}).get("sha256") for name in ("train", "validation", "test")],
            manifest["special"], manifest["vocab_size"], manifest["contaminated"],
            manifest["not_utf8"]])
    assert len(set(stores.values())) == len(stores)

"""In a folder without write or read permission, every command ends with a message."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from tests.cli import unprivileged
from tests.cli.conftest import contents, environment

pytestmark = pytest.mark.slow  # some 200 commands, of which a dozen train

FOLDERS = ("work", "work/store", "work/runs", "work/results", "work/stores", "cache", "home",
           "temporary")

COMMANDS = [line.split() for line in """
--version
models gpt2/124M
schema sweep
data list
data prepare jsonl:corpus.jsonl#text --out stores/made
data prepare jsonl:corpus.jsonl#text --out new/made
data show store --verify
train run.yaml
train run.yaml seed=1
train run.yaml seed=2 --out new-run
sweep plan sweep.yaml
sweep plan sweep.yaml seeds=[0,1]
sweep run sweep.yaml
sweep run sweep.yaml seeds=[0,1] --workers 1
sweep run sweep.yaml --out new-results
sweep status sweep.yaml
sweep status sweep.yaml --json
sweep log 0000000000000000 sweep.yaml
sweep retry sweep.yaml
sweep cancel sweep.yaml
sweep prune sweep.yaml --dry-run
sweep prune sweep.yaml --keep none
sweep export sweep.yaml
sweep export sweep.yaml --tensorboard events
sweep suggest results --target a --budget 1e9
sweep suggest sweep.yaml --target a --budget 1e9
fit results --law chinchilla --bootstrap 20
fit results --law kaplan-d --bootstrap 20 --save results/laws.json
fit results --law kaplan-d --bootstrap 20 --save new/laws.json
allocate besiroglu2024 --compute 1e18 --out allocation.json
compare besiroglu2024 --out new/comparison.json
simulate besiroglu2024 --budgets 1e18:1e19:3 --out simulated.csv
forecast seal results --n 1e6 --d 1e6 --ledger forecasts.jsonl
forecast seal results --n 1e6 --d 1e6 --ledger new/forecasts.jsonl
plot results
report results
""".strip().splitlines()]


REFUSED = {(folder, bits) for bits in (0o222, 0o777)
           for folder in ("work", "work/runs", "work/results", "work/stores")} | {
    ("work/store", 0o777)}
"""Folders that must cause an error. A store is only read, and no command needs the cache."""


def forbid(folder: Path, bits: int) -> dict[Path, int]:
    """Remove permissions from a folder and its content; returns the former ones."""
    before = {path: stat.S_IMODE(path.stat().st_mode)
              for path in (*folder.rglob("*"), folder)}
    for path, mode in before.items():
        path.chmod(mode & ~bits)
    return before


@pytest.mark.parametrize("bits", [0o222, 0o777], ids=["not written", "not read"])
@pytest.mark.parametrize("folder", FOLDERS)
def test_every_command_ends_with_a_message(place, folder, bits):
    if (folder, bits) == ("work", 0o777):
        pytest.skip("no command can be run in a folder that may not be entered")
    before = contents(place / folder)
    modes = forbid(place / folder, bits)
    try:
        done = unprivileged.run(COMMANDS, place / "work", environment(place))
    finally:
        for path, mode in reversed(modes.items()):
            path.chmod(mode)
    wrong = []
    for words, (status, out, err) in zip(COMMANDS, done, strict=True):
        sentence = status == 0 or len(err.strip().splitlines()) > 0
        if status not in (0, 1, 2) or not sentence or "Traceback" in out + err:
            wrong.append((" ".join(words), status, err[-1500:]))
    assert not wrong, json.dumps(wrong, indent=1)
    refused = [" ".join(words) for words, (_, _, err) in zip(COMMANDS, done, strict=True)
               if "permission denied" in err or "not readable" in err]
    assert bool(refused) == ((folder, bits) in REFUSED), refused
    assert contents(place / folder) == before

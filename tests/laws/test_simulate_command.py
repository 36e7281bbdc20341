"""`scaling simulate` and `scaling sweep suggest`: numbers that are too large, too small or NaN."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from scaling.laws import published
from scaling.laws.design import grid
from scaling.laws.design.fisher import Noise
from scaling.laws.design.simulate import simulate

SIMULATE = ("simulate", "besiroglu2024", "--budgets", "1e18,1e19")
NUMBERS = ("nan", "inf", "-1", "1e300")


@pytest.mark.parametrize(("words", "message"), [
    *(([option, value], option.strip("-").replace("-", " ").split()[-1])
      for option in ("--noise", "--noise-growth", "--outliers", "--outlier-size", "--diverged")
      for value in NUMBERS),
    (["--seeds", "1000000000"], "at most 1,000,000 are expected"),
    (["--seeds", "1000000000000000000000"], "at most 1,000,000 are expected"),
    (["--seeds", "0"], "seeds 0: at least one seed"),
    (["--seeds", "-5"], "seeds -5: at least one seed"),
    (["--seed", "-1"], "seed -1"),
    (["--repeats", "1000000000000", "--at", "1e22"], "from 1 to 100,000 sweeps"),
    (["--repeats", "100000", "--seeds", "1000"], "at most 20,000,000 runs in all"),
    (["--repeats", "-1"], "a whole number"),
    *((["--repeats", "2", "--at", value], "target n-star: at") for value in NUMBERS),
    (["--noise", "1", "--noise-growth", "1"], "would be 10 at the smallest run"),
])
def test_invalid_numbers_of_a_simulation_are_refused(
    command, words: list[str], message: str
) -> None:
    start = time.monotonic()
    done = command(*SIMULATE, *words)
    assert done.code == 2
    assert done.out == ""
    assert len(done.err.splitlines()) == 1, done.err
    assert re.search(message, done.err), done.err
    assert time.monotonic() - start < 5


@pytest.mark.parametrize(("words", "message"), [
    (["--sizes", "1e7:1e9:5000", "--tokens", "1e9:1e12:5000"], "a design of 25,000,000 runs"),
    (["--sizes", "1e7:1e9:5000", "--ratios", "1:100:5000"], "a design of 25,000,000 runs"),
    (["--sizes", "1e7:1e9:5000", "--budgets", "1e18:1e20:5000"], "a design of 25,000,000 runs"),
    (["--sizes", "1e7:1e9:100000000000", "--tokens", "1e9"], "COUNT from 2 to 10,000"),
    (["--sizes", ",".join(["1e7"] * 10_001), "--tokens", "1e9"], "10,001 numbers"),
    (["--sizes", "1e-7", "--tokens", "1e9"], "the design's N 1e-07"),
    (["--sizes", "1e30", "--tokens", "1e9"], "the design's N 1e\\+30"),
    (["--sizes", "1e7", "--ratios", "1e-30"], "the design's D 1e-23"),
    (["--sizes", "1e7", "--ratios", "1e300"], "the design's D"),
    (["--sizes", "nan", "--tokens", "1e9"], "positive numbers are expected"),
    (["--sizes", "1e7", "--tokens", "inf"], "positive numbers are expected"),
    (["--sizes", "1e7:nan:3", "--tokens", "1e9"], "positive numbers are expected"),
    (["--sizes", "1e7", "--tokens", "-1"], "positive numbers are expected"),
    (["--budgets", "1e300"], "a budget of the design 1e\\+300"),
    (["--budgets", "1e-3"], "a budget of the design 0.001"),
    (["--budgets", "6"], "the design's"),
])
def test_invalid_designs_are_refused(command, words: list[str], message: str) -> None:
    done = command("simulate", "besiroglu2024", *words)
    assert done.code == 2
    assert len(done.err.splitlines()) == 1, done.err
    assert re.search(message, done.err), done.err


@pytest.fixture(scope="module")
def pilot(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("pilot") / "runs.csv"
    law = published()["besiroglu2024"].law
    assert law is not None
    design = grid.rectangle([1e7, 4e7, 1.6e8, 6.4e8], [1e9, 4e9, 1.6e10, 6.4e10])
    simulate(law, design, Noise(0.003)).to_csv(path, index=False)
    return path


@pytest.mark.parametrize(("words", "message"), [
    *((["--budget", value], re.escape(f"budget {float(value):g}")) for value in NUMBERS),
    *((["--at", value], "budget|at") for value in NUMBERS),
    *((["--max-flops-per-run", value], "most FLOPs of a run") for value in NUMBERS),
    *((["--max-tokens", value], "most tokens of a run") for value in NUMBERS),
    *((["--noise", value], "noise") for value in NUMBERS),
    (["--noise", "0"], "noise 0"),
    *((["--max-runs", value], "runs") for value in ("0", "-1", "101", "1000000000000")),
    *((["--seeds", value], "seeds") for value in ("0", "-1", "101", "1000000000000")),
    (["--bootstrap", "1000000000"], "from 0 to 100,000"),
    (["--bootstrap", "-1"], "from 0 to 100,000"),
    *((["--ratio-range", value], "tokens per parameter")
      for value in ("nan:3", "-1:3", "3:1", "1:inf", "1e-300:1e300")),
    (["--ratio-range", "1"], "LOW:HIGH"),
    (["--sizes", "1e30"], "sizes 1e\\+30"), (["--sizes", "nan"], "positive numbers"),
    (["--sizes", "1e-3"], "sizes 0.001"),
])
def test_invalid_numbers_of_a_suggestion_are_refused(
    command, pilot: Path, words: list[str], message: str
) -> None:
    given = {"--target": "n-star", "--at": "1e23", "--budget": "1e21", "--bootstrap": "0"}
    given |= {words[0]: words[1]}
    done = command("sweep", "suggest", pilot, *(word for pair in given.items() for word in pair))
    assert done.code == 2
    assert done.out == ""
    lines = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert re.search(message, lines[0]), done.err

"""The tables of a command have the numbers of its JSON."""

from __future__ import annotations

import json
import re

import pytest


def table(text: str, first: str) -> list[dict[str, str]]:
    """The rows of the table whose header begins with these words; cells are two spaces apart."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(first))
    names = re.split(r" {2,}", lines[start].strip())
    rows = []
    for line in lines[start + 1:]:
        cells = re.split(r" {2,}", line.strip())
        if len(cells) != len(names):
            break
        rows.append(dict(zip(names, cells, strict=True)))
    return rows


def number(cell: str) -> float:
    """A number with a unit of a thousand, or a percentage."""
    scale = {"k": 1e3, "M": 1e6, "B": 1e9, "T": 1e12, "%": 0.01}
    return float(cell.rstrip("kMBT%*")) * scale.get(cell.rstrip("*")[-1], 1.0)


@pytest.mark.parametrize(("words", "columns"), [
    (("--compute", "1e21"), {"N*": "n", "D*": "d", "loss": "loss", "a": "a"}),
    (("--compute", "1e21", "--fixed-n", "7e9"), {
        "N": "n", "D*": "d", "loss": "loss", "above the loss at the best N": "excess",
        "compute wasted": "waste"}),
    (("--compute", "1e21", "--fixed-d", "1e10"), {
        "N*": "n", "D": "d", "above the loss at the best D": "excess", "compute wasted": "waste"}),
    (("--target-loss", "2.2", "--inference-tokens", "1e12"), {
        "N*": "n", "D*": "d", "training FLOPs": "c", "all FLOPs": "total", "loss": "loss"}),
])
def test_an_allocation_is_shown_as_it_is_written(command, words, columns):
    content = json.loads(command("allocate", "besiroglu2024", *words, "--json").out)
    text = command("allocate", "besiroglu2024", *words).out
    shown = {}
    for start in [i for i, line in enumerate(text.splitlines()) if line.startswith("law  ")]:
        rows = table("\n".join(text.splitlines()[start:]), "law  ")
        shown |= rows[0]
    row = content["allocations"][0]
    assert shown["law"] == row["source"]
    for title, key in columns.items():
        assert number(shown[title]) == pytest.approx(row[key], rel=0.01, abs=5e-4), title

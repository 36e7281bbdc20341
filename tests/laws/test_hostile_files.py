"""Untrusted laws and tables: whatever is wrong with them, there is one error message."""

from __future__ import annotations

import copy
import json
import os
import random
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scaling.errors import UserError
from scaling.laws import FORMS, constrain, fit_approach, fit_law, from_frame, io, read, save
from scaling.laws.design import grid
from scaling.laws.design.fisher import Noise
from scaling.laws.design.simulate import simulate
from scaling.laws.io import load, load_loss_laws
from scaling.laws.json_object import JsonObject
from scaling.laws.published import published

EXAMPLES = settings(max_examples=200, derandomize=True, deadline=None,
                    suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    """A results folder: runs.csv, and laws.json with two laws and a frontier."""
    folder = tmp_path_factory.mktemp("good")
    law = published()["besiroglu2024"].law
    assert law is not None
    plan = grid.isoflop(np.geomspace(1e18, 1e20, 4), law=law)
    simulate(law, plan, Noise(0.003)).to_csv(folder / "runs.csv", index=False)
    table = read(folder)
    save([fit_law(table, "chinchilla", resamples=8), fit_law(table, "kaplan-n", resamples=8),
          fit_approach(table, "approach-2")], folder / "laws.json")
    return folder


@pytest.fixture(scope="module")
def content(good: Path) -> dict[str, Any]:
    return dict(json.loads((good / "laws.json").read_text()))


def _law(change: Callable[[dict[str, Any]], object]) -> Callable[[dict[str, Any]], object]:
    """A change of the first law."""
    return lambda laws: change(laws["laws"][0])


CHANGES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "a number as text": (_law(lambda law: law["params"].update(E="1.7")), r"laws\[0\]\.params\.E: "
                         "'1.7', where a number is expected"),
    "NaN": (_law(lambda law: law["params"].update(E=float("nan"))), "params.E: nan"),
    "infinity": (_law(lambda law: law["params"].update(A=float("inf"))), "params.A: inf"),
    "a large integer": (_law(lambda law: law["params"].update(A=10**400)), "params.A: inf"),
    "true": (_law(lambda law: law["params"].update(A=True)), "params.A: True"),
    "a negative coefficient": (_law(lambda law: law["params"].update(A=-5.0)),
                               "a law with positive coefficients"),
    "another parameter": (_law(lambda law: law["params"].update(F=5.0)), "params: 'F'"),
    "a parameter less": (_law(lambda law: law["params"].pop("E")), "params: a list"),
    "parameters in a list": (_law(lambda law: law.update(params=[1, 2])), "params: a list"),
    "no parameters": (_law(lambda law: law.pop("params")), "params"),
    "an unknown law": (_law(lambda law: law.update(law="newton")), r"laws\[0\]\.law: 'newton'"),
    "a law that is none": (_law(lambda law: law.update(law=[1])), r"laws\[0\]\.law: a list"),
    "no law": (lambda laws: laws["laws"].append(3), r"laws\[3\]: 3, where an object"),
    "no convention": (_law(lambda law: law.pop("convention")), "convention.n"),
    "N is a number": (_law(lambda law: law["convention"].update(n=5)), "convention.n: 5"),
    "an unknown loss": (_law(lambda law: law["convention"].update(objective="l7")),
                        "convention.objective: 'l7'"),
    "a negative delta": (_law(lambda law: law["convention"].update(delta=-1)), "delta: -1.0"),
    "a range of one": (_law(lambda law: law["convention"]["range"].update(c=[1])), "range.c"),
    "a range of texts": (_law(lambda law: law["convention"]["range"].update(c=["a", "b"])),
                         "range.c: 'a'"),
    "a range backwards": (_law(lambda law: law["convention"]["range"].update(c=[2, 1])),
                          r"range.c: '\(2.0, 1.0\)'"),
    "short samples": (_law(lambda law: law["bootstrap"]["samples"].append([1])),
                      "bootstrap.samples: a list, where a list of 5 numbers"),
    "a sample": (_law(lambda law: law["bootstrap"].update(samples=[1, 2])), "bootstrap.samples: 1"),
    "too many samples": (_law(lambda law: law["bootstrap"].update(samples=[[1] * 5] * 1001)),
                         "at most 1,000"),
    "no residuals": (_law(lambda law: law["bootstrap"].update(residuals=[])),
                     "bootstrap.residuals"),
    "an unknown unit": (_law(lambda law: law["bootstrap"].update(by="week")), "bootstrap.by"),
    "a count below zero": (_law(lambda law: law["bootstrap"].update(resamples=-1)), "resamples"),
    "warnings that are none": (_law(lambda law: law.update(warnings=[1])), "warnings: 1"),
    "a warning": (_law(lambda law: law.update(warnings="oh")), "warnings: 'oh'"),
    "a held-out run": (_law(lambda law: law.update(heldout={"x": 1})), "heldout.x: 1"),
    "fixed to text": (_law(lambda law: law.update(constraints={"fixed": {"E": "1"}})), "fixed.E"),
    "fixed to nothing": (_law(lambda law: law.update(constraints={"fixed": {"alpha": -1}})),
                         "constraints of chinchilla: .*exponent above 0"),
    "tied to itself": (_law(lambda law: law.update(constraints={"tied": [["E"]]})), "tied"),
    "an interval": (_law(lambda law: law["intervals"].update(E=[1, 2, 3])), "intervals.E"),
    "converged": (_law(lambda law: law["convergence"].update(converged="yes")), "converged: 'yes'"),
    "a million laws": (lambda laws: laws.update(laws=[1] * 10**6), "more than 1,000"),
    "a law in no list": (lambda laws: laws.update(laws=laws["laws"][0]), "holds no laws"),
    "a line": (lambda laws: laws["laws"][2]["lines"].update(n=1), r"laws\[2\]\.lines\.n: 1"),
    "a variance below zero": (lambda laws: laws["laws"][2]["lines"]["n"].update(
        covariance=[-1, 0, -1]), "covariance"),
    "optima of two lengths": (lambda laws: laws["laws"][2]["optima"]["c"].append(1), "optima"),
    "used": (lambda laws: laws["laws"][2]["optima"].update(used=[1] * 4), "optima.used"),
    "a frontier without a range": (lambda laws: laws["laws"][2]["convention"].pop("range"),
                                   "convention.range.c"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_errors_name_what_is_wrong_with_a_law(case, content, tmp_path: Path) -> None:
    change, said = CHANGES[case]
    changed = copy.deepcopy(content)
    change(changed)
    path = tmp_path / "laws.json"
    path.write_text(json.dumps(changed))
    with pytest.raises(UserError) as caught:
        load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert re.search(said, message), message


CELLS = {
    "zero": 0, "two": 2, "half": 0.5, "minus": -1, "true": True, "text": "abc", "null": None,
    "huge": 2**63 + 1, "nan": float("nan"), "texts": ["a", "b"], "mixed": ["a", 1],
    "pair": [1, 2.5], "open": [None, 2], "three": [1, 2, 3], "bools": [1, True],
    "rows": [[1, None], [3, 4]], "ragged": [[1, 2], [3, 4, 5]], "short": [[1, 2], [3]],
    "inner": {"x": 5},
}


@pytest.mark.parametrize(("read_key", "values"), [
    (lambda cells, key: cells.text(key), {"text": "abc"}),
    (lambda cells, key: cells.boolean(key), {"true": True, "null": None}),
    (lambda cells, key: cells.count(key), {"zero": 0, "two": 2}),
    (lambda cells, key: cells.number(key), {"zero": 0, "two": 2, "half": 0.5, "minus": -1,
                                            "huge": 2.0**63}),
    (lambda cells, key: cells.optional(key), {"zero": 0, "two": 2, "half": 0.5, "minus": -1,
                                              "huge": 2.0**63, "null": None}),
    (lambda cells, key: cells.scalar(key), {"zero": 0, "two": 2, "half": 0.5, "minus": -1,
                                            "huge": 2.0**63, "null": None, "text": "abc"}),
    (lambda cells, key: cells.texts(key, 2), {"texts": ("a", "b"), "null": ()}),
    (lambda cells, key: cells.pair(key), {"pair": (1, 2.5), "open": None, "null": None}),
    (lambda cells, key: cells.array(key, 3, exactly=True).tolist(), {"three": [1, 2, 3]}),
    (lambda cells, key: np.nan_to_num(cells.array(key, 2, 2), nan=-9).tolist(),
     {"rows": [[1, -9], [3, 4]], "null": []}),
    (lambda cells, key: np.nan_to_num(cells.array(key, 2), nan=-9).tolist(),
     {"pair": [1, 2.5], "open": [-9, 2], "null": []}),
    (lambda cells, key: cells.object(key).count("x"), {"inner": 5}),
    (lambda cells, key: len(cells.items(key, 2)), {
        "null": 0, "texts": 2, "mixed": 2, "pair": 2, "open": 2, "bools": 2, "rows": 2,
        "ragged": 2, "short": 2}),
])
def test_every_reader_takes_its_own_kind_of_value_and_no_other(read_key, values) -> None:
    cells = JsonObject(CELLS, "laws.json", "laws[0]")
    for key in CELLS:
        if key in values:
            assert read_key(cells, key) == values[key], key
        else:
            with pytest.raises(UserError, match=r"laws\.json: laws\[0\]"):
                read_key(cells, key)
    assert "null" not in cells
    assert "zero" in cells
    assert [*cells] == [*CELLS]


def test_as_many_laws_as_a_file_may_hold(content, tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "laws.json"
    law = published()["besiroglu2024"].law
    with monkeypatch.context() as change:
        change.setattr(io, "_from_json", lambda *_: law)  # parsing a thousand takes seconds
        path.write_text(json.dumps({"laws": [1] * 1000}))
        assert len(load(path)) == 1000
        path.write_text(json.dumps({"laws": [1] * 1001}))
        with pytest.raises(UserError, match="more than 1,000"):
            load(path)
    path.write_text(json.dumps(content))
    assert len(load(path)) == 3
    assert [law.name for law in load_loss_laws(path)] == ["chinchilla", "kaplan-n"]
    twice = json.dumps(content)
    path.write_text(f"{twice[:-1]}, {twice[1:]}")
    with pytest.raises(UserError, match="occurs twice"):
        load(path)


def test_saved_fits_can_be_loaded(grid, heldout_row, tmp_path: Path) -> None:
    frame = pd.concat([grid(noise=0.01), pd.DataFrame([heldout_row])])
    frame = frame.assign(area=frame["tokens"] / 1e3, drop=frame["params_total"] / 1e4)
    others = {"lr_area": "area", "drop_area": "drop"}
    laws = [fit_law(from_frame(frame, "runs", extra=others, needs=()), "tissue", resamples=5),
            fit_law(from_frame(frame, "runs"), "m2-d", resamples=2, seed=2**63 - 1),
            fit_law(from_frame(frame, "runs"), constrain(FORMS["chinchilla"], {"E": 1.2},
                                                         [("alpha", "beta")]), resamples=0)]
    save(laws, tmp_path / "laws.json")
    again = load(tmp_path / "laws.json")
    assert [law.name for law in again] == [law.name for law in laws]
    assert [law.to_json() for law in again][2]["constraints"] == laws[2].to_json()["constraints"]
    assert again[0].heldout["large"]["measured"] == heldout_row["loss"]


TEXTS = {
    "deep": "[" * 100_000 + "]" * 100_000,
    "deep laws": '{"laws": ' + "[" * 100_000 + "]" * 100_000 + "}",
    "long": '{"laws": [{"law": "chinchilla", "params": {"E": ' + "9" * 5000 + "}}]}",
    "huge": '{"laws": [{"law": "chinchilla", "convention": {"n": "total"}, '
            '"params": {"E": 1e400}}]}',
    "empty": "", "null": "null", "text": "laws", "half": '{"laws": [{"law": "chin',
    "escapes": '{"laws": [{"law": "\\u001b[2J\\u001b]0;x\\u0007"}]}',
    "escapes among parameters": '{"laws": [{"law": "chinchilla", "convention": {"n": "total"}, '
                                '"params": {"\\u001b[2J": 1}}]}',
}


@pytest.mark.parametrize("case", [*TEXTS, "pipe", "folder of a pipe", "bytes"])
@pytest.mark.parametrize("words", [
    ("allocate", "LAWS", "--compute", "1e20"), ("compare", "LAWS"),
    ("simulate", "LAWS", "--sizes", "1e7,1e8,1e9", "--ratios", "10,20,40"), ("plot", "FOLDER"),
    ("report", "FOLDER"),
])
def test_commands_end_with_one_message(case, words, good, command, tmp_path: Path) -> None:
    path = tmp_path / "laws.json"
    (tmp_path / "runs.csv").write_bytes((good / "runs.csv").read_bytes())
    if "pipe" in case:
        os.mkfifo(path)
    else:
        path.write_bytes(b"\xff\xfe\0\x80" if case == "bytes" else TEXTS[case].encode())
    place = tmp_path if case == "folder of a pipe" else path
    if "pipe" in case and words[-1] == "FOLDER":
        pytest.skip("a pipe is no file of laws, and such a folder has none")
    done = command(*(str(place) if word == "LAWS" else str(tmp_path) if word == "FOLDER" else word
                     for word in words))
    assert done.code == 2
    assert done.out == ""
    assert len(done.err.splitlines()) == 1, done.err
    assert "\x1b" not in done.err


@EXAMPLES
@given(seed=st.integers(0, 2**32))
def test_a_table_with_changed_cells_is_fitted_or_refused(good, seed: int) -> None:
    draw = random.Random(seed)
    frame = read_all(good / "runs.csv").astype(object)
    for _ in range(draw.choice((1, 2, 3))):
        value = draw.choice([None, 0, -1.0, 1e308, 1e-308, 10**400, "x", True, [1], "1e5", "\x1b"])
        frame.iat[draw.randrange(len(frame)), draw.randrange(frame.shape[1])] = value
    for options in ({}, {"n": "params_total", "c": "flops_6nd"}, {"d": "tokens", "c": "flops_6nd"}):
        with suppress(UserError):
            from_frame(frame, "runs.csv", **options)


def read_all(path: Path) -> Any:
    from scaling.laws.frames import read_frame

    return read_frame(path)

"""`scaling predict`: the losses of runs under published and fitted laws."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

import scaling.laws as sl
from scaling.laws.published import published_named
from tests.conftest import ROOT, assert_refused

LAWS = ROOT / "results/quickstart/laws.json"


def rows(command, *words):
    done = command("predict", *words, "--json")
    assert done.code == 0, done.err
    return json.loads(done.out)["predictions"]


def test_a_published_law_is_its_formula(command):
    p = published_named("besiroglu2024").law.params
    for row, n in zip(rows(command, "besiroglu2024", "--n", "1e8,1e9", "--d", 2e10), (1e8, 1e9),
                      strict=True):
        assert row["predicted"] == pytest.approx(
            p["E"] + p["A"] / n ** p["alpha"] + p["B"] / 2e10 ** p["beta"], rel=1e-12)
        assert (row["n"], row["d"], row["c"]) == (n, 2e10, pytest.approx(6 * n * 2e10))
        assert row["interval"] is None


def test_compute_is_divided_as_is_best(command):
    (row,) = rows(command, "besiroglu2024", "--compute", "1e21")
    best = sl.allocate(published_named("besiroglu2024"), 1e21)
    assert (row["n"], row["d"], row["predicted"]) == pytest.approx((best.n, best.d, best.loss))
    (of_c,) = rows(command, "kaplan2020-c", "--compute", "1e21")
    law = published_named("kaplan2020-c").law
    assert of_c["predicted"] == pytest.approx(
        (law.params["C_c"] / 1e21) ** law.params["alpha_C"], rel=1e-12)


def test_laws_of_a_file_have_intervals(command):
    found = {row["law"]: row for row in rows(command, LAWS, "--n", "1e6", "--d", "2e6")}
    assert {"chinchilla", "kaplan-nd", "kaplan-c"} <= {*found}
    fit = sl.load(LAWS)["chinchilla"]
    value, low, high = fit.predict(n=1e6, d=2e6, interval=True)
    assert (found["chinchilla"]["predicted"], found["chinchilla"]["interval"]) == (
        value, [low, high])
    table = command("predict", LAWS, "--n", "1e6", "--d", "2e6")
    assert f"{value:.4g}" in table.out
    assert f"{low:.4g} to {high:.4g}" in table.out
    assert f"warning: chinchilla: {fit.warnings[0]}" in table.out


def test_pairs_of_n_and_d(command):
    found = rows(command, "besiroglu2024", "--n", "1e8", "--n", "1e9", "--d", "1e10,2e10")
    assert [(row["n"], row["d"]) for row in found] == [(1e8, 1e10), (1e9, 2e10)]


def test_a_law_that_needs_other_values_is_left_out_with_the_reason(command):
    done = command("predict", LAWS, "--d", "2e6", cwd=ROOT)
    assert done.code == 0, done.err
    assert "kaplan-d" in done.out
    assert "not predicted: chinchilla: needs N (parameters); give --n N" in done.err


def test_other_variables_are_given(command):
    few, many = (rows(command, "krajewski2024", "--n", "1e9", "--d", "1e11", "--given",
                      f"granularity={g}")[0]["predicted"] for g in (1, 16))
    assert many < few


def test_a_law_of_other_variables_alone(command, tmp_path):
    law = replace(published_named("besiroglu2024").law, form=sl.FORMS["ye-2"],
                  params={"c": 1.2, "k": 0.5, "t1": -2.0, "t2": 1.0},
                  se={}, exponents={})
    sl.save([law], tmp_path / "mixture.json")
    (row,) = rows(command, tmp_path / "mixture.json", "--given", "share1=0.5", "--given",
                  "share2=0")
    assert row["predicted"] == pytest.approx(1.2 + 0.5 * math.exp(-1))
    assert (row["n"], row["d"], row["c"]) == (None, None, None)
    done = command("predict", "krajewski2024", "--given", "granularity=8")
    assert "needs N (parameters) and D (tokens); give --n N and --d D" in done.err


@pytest.mark.parametrize(("words", "said"), [
    (["besiroglu2024"], "give what to predict: --n N and --d D, or --compute FLOPS"),
    (["besiroglu2024", "--n", "1e9"], "needs D (tokens); give --d D"),
    (["besiroglu2024", "--d", "1e9"], "needs N (parameters); give --n N"),
    (["kaplan2020-c", "--n", "1e9"], "needs C (FLOP); give --compute FLOPS"),
    (["krajewski2024", "--n", "1e9", "--d", "1e9"], "give --given granularity=VALUE"),
    (["besiroglu2024", "--n", "1,2,3", "--d", "1,2"], "--n has 3 numbers and --d has 2"),
    (["besiroglu2024", "--n", "1e9", "--compute", "1"], "--compute stands instead of --n and --d"),
    (["besiroglu2024", "--n", "-3", "--d", "1e9"], "n -3: a number above zero is expected"),
    (["besiroglu2024", "--n", "1e9,-3", "--d", "1e9"], "n -3: a number above zero is expected"),
    (["besiroglu2024", "--n", "many", "--d", "1e9"], "--n many: a number is expected"),
    (["besiroglu2024", "--n", "1", "--d", "1", "--given", "bits=8"], "depends on bits"),
    (["besiroglu", "--n", "1", "--d", "1"], "no published law of that name"),
    (["hoffmann2022-1", "--n", "1", "--d", "1"], "a law of optimal sizes alone"),
    (["pyproject.toml", "--n", "1", "--d", "1"], "pyproject.toml"),
])
def test_a_mistake_ends_with_status_2(command, words, said):
    assert_refused(command("predict", *words, cwd=ROOT), said)

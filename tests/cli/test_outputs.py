"""The output of a command never overwrites its input, nor a file of another program."""

from __future__ import annotations

import errno
import io
import json
import math
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from scaling.errors import UserError
from scaling.outputs import (
    csv_output,
    csv_text,
    escape_formula,
    finite,
    json_output,
    with_command,
)

ROOT = Path(__file__).parents[2]
QUICKSTART = ROOT / "results" / "quickstart"
BUDGETS = ("--budgets", "1e18:1e19:3")


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with results, and files of other programs."""
    shutil.copytree(QUICKSTART, tmp_path / "results")
    shutil.copy(QUICKSTART / "laws.json", tmp_path / "laws.json")
    shutil.copy(QUICKSTART / "runs.csv", tmp_path / "runs.csv")
    os.symlink("runs.csv", tmp_path / "link.csv")
    os.link(tmp_path / "runs.csv", tmp_path / "hard.csv")
    os.symlink("gone", tmp_path / "nowhere.json")
    (tmp_path / "notes.json").write_text('{"mine": 1}\n')
    (tmp_path / "notes.csv").write_text("mine\n1\n")
    (tmp_path / "other.html").write_text("<p>mine</p>\n")
    (tmp_path / "mine.png").write_bytes(b"\x89PNG mine")
    (tmp_path / "mine.csv").write_text("mine\n1\n")
    return tmp_path


FIT = ("fit", "runs.csv", "--law", "chinchilla", "--bootstrap", "0")
REFUSED = {
    "fit into its table": (*FIT, "--save", "runs.csv"),
    "fit into its table by a link": (*FIT, "--save", "link.csv"),
    "fit into its table by a hard link": (*FIT, "--save", "hard.csv"),
    "fit into its table by another spelling": (*FIT, "--save", "results/../runs.csv"),
    "fit of a folder into its table": (
        "fit", "results", "--law", "chinchilla", "--bootstrap", "0", "--save", "results/runs.csv"),
    "evidence into the table": (*FIT, "--profile", "alpha", "--evidence", "runs.csv"),
    "evidence into laws": (*FIT, "--profile", "alpha", "--evidence", "laws.json"),
    "laws and evidence into one": (
        *FIT, "--profile", "alpha", "--evidence", "new.json", "--save", "new.json"),
    "fit into a user's JSON": (*FIT, "--save", "notes.json"),
    "fit into a link to nothing": (*FIT, "--save", "nowhere.json"),
    "fit into a folder": (*FIT, "--save", "results"),
    "fit below a file": (*FIT, "--save", "notes.csv/laws.json"),
    "allocate into its laws": ("allocate", "laws.json", "--compute", "1e18", "--out", "laws.json"),
    "allocate into the laws of its folder": (
        "allocate", "results", "--compute", "1e18", "--out", "results/laws.json"),
    "allocate into other laws": (
        "allocate", "besiroglu2024", "--compute", "1e18", "--out", "laws.json"),
    "compare into its laws": ("compare", "laws.json", "besiroglu2024", "--out", "laws.json"),
    "compare into its models": (
        "compare", "besiroglu2024", "--convention", "total", "--models", "runs.csv", "--out",
        "runs.csv"),
    "seal into its laws": ("forecast", "seal", "laws.json", "--n", "1e6", "--d", "1e6", "--ledger",
                           "laws.json"),
    "seal into a user's JSON": ("forecast", "seal", "laws.json", "--n", "1e6", "--d", "1e6",
                                "--ledger", "notes.json"),
    "check into its ledger": ("forecast", "check", "forecasts.jsonl", "runs.csv", "--out",
                              "forecasts.jsonl"),
    "check into its runs": ("forecast", "check", "forecasts.jsonl", "runs.csv", "--out",
                            "runs.csv"),
    "simulate over trained runs": ("simulate", "besiroglu2024", *BUDGETS, "--out", "runs.csv"),
    "simulate over a user's table": ("simulate", "besiroglu2024", *BUDGETS, "--out", "notes.csv"),
    "simulate over what it is like": (
        "simulate", "besiroglu2024", "--like", "runs.csv", "--out", "runs.csv"),
}


@pytest.mark.parametrize("words", REFUSED.values(), ids=REFUSED)
def test_other_files_are_not_overwritten(place, command, words):
    before = contents(place)
    done = command(*words, cwd=place)
    assert done.code == 2, done.out + done.err
    assert done.err.count("error:") == 1
    assert "Traceback" not in done.err
    assert contents(place) == before


@pytest.mark.parametrize(
    "way", ["itself", "its folder", "a link", "a hard link", "another spelling"])
def test_a_simulated_table_that_is_an_input_is_not_overwritten(place, command, way):
    """The content does not distinguish input and output: the same command wrote both."""
    table = place / "simulated" / "runs.csv"
    assert command("simulate", "besiroglu2024", *BUDGETS, "--out", table, cwd=place).code == 0
    os.symlink("simulated/runs.csv", place / "symbolic.csv")
    os.link(table, place / "same.csv")
    like, out = {"itself": (table, table), "its folder": (table.parent, table),
                 "a link": (table, "symbolic.csv"), "a hard link": (table, "same.csv"),
                 "another spelling": (table, "results/../simulated/runs.csv")}[way]
    before = contents(place)
    done = command("simulate", "besiroglu2024", "--like", like, "--seed", 7, "--out", out)
    assert (done.code, done.err.count("\n")) == (2, 1), done.err
    assert "is an input or another output of this command" in done.err
    assert contents(place) == before


@pytest.mark.parametrize("name", ["report.html", "figures/kaplan.png", "figures/kaplan.svg",
                                  "figures/kaplan.csv"])
def test_report_and_figures_overwrite_only_their_own_files(place, command, name):
    path = place / "results" / name
    path.write_text("mine\n")
    before = contents(place)
    done = command("report", "results", cwd=place)
    assert (done.code, str(Path("results", name)) in done.err) == (2, True), done.err
    assert path.read_text() == "mine\n"
    assert contents(place)[place / "results/runs.csv"] == before[place / "results/runs.csv"]


def test_the_figure_of_a_plan_overwrites_no_other_table(place, command):
    store = place / "store"
    language = "synthetic:markov,vocab=16,seed=1,tokens=1e5"
    assert command("data", "prepare", language, "--out", store, cwd=place).code == 0
    (place / "sweep.yaml").write_text(json.dumps({
        "name": "s", "run": {"data": {"store": str(store)}, "model": {"context": 32},
                             "batch_sequences": 4},
        "learning_rate": {"rule": "power", "learning_rate": 1e-3,
                          "reference_params": 1000, "exponent": 0},
        "sizes": [{"d_model": 16, "n_layers": 1, "n_heads": 1}],
        "grids": [{"kind": "product", "tokens": [20_480, 40_960]}]}))
    before = (place / "mine.csv").read_bytes(), (place / "mine.png").read_bytes()
    for figure in ("mine.png", "runs.png"):
        done = command("sweep", "plan", "sweep.yaml", "--no-measure", "--figure", figure, cwd=place)
        assert done.code == 2, done.out + done.err
        assert "was not written by" in done.err
    assert before == ((place / "mine.csv").read_bytes(), (place / "mine.png").read_bytes())
    assert not (place / "runs.png").exists()


def test_a_command_overwrites_its_own_output(place, command):
    for words in ((*FIT, "--save", "laws.json"), (*FIT, "--save", "new.json"),
                  (*FIT, "--profile", "alpha", "--evidence", "evidence.json"),
                  ("allocate", "laws.json", "--compute", "1e18", "--out", "a.json"),
                  ("compare", "besiroglu2024", "--out", "c.json"),
                  ("simulate", "besiroglu2024", *BUDGETS, "--out", "s.csv")):
        for seed in ("1", "2"):  # the second time with other numbers, where they depend on these
            more = ("--seed", seed) if words[0] == "simulate" else ()
            done = command(*words, *more, cwd=place)
            assert done.code == 0, done.err
    runs = pd.read_csv(place / "results/runs.csv")
    runs.drop(index=0).to_csv(place / "results/runs.csv", index=False)  # the figures have one more
    for words in (("plot", "results"), ("report", "results")):
        before = contents(place / "results")
        assert command(*words, cwd=place).code == 0
        assert contents(place / "results") != before


OWN = {
    "laws.json": (*FIT, "--save", "laws.json"),
    "evidence.json": (*FIT, "--profile", "alpha", "--evidence", "evidence.json"),
    "a.json": ("allocate", "laws.json", "--compute", "1e18", "--out", "a.json"),
    "c.json": ("compare", "besiroglu2024", "--out", "c.json"),
    "s.csv": ("simulate", "besiroglu2024", *BUDGETS, "--out", "s.csv"),
    "results/figures/kaplan.png": ("plot", "results"),
}


@pytest.mark.parametrize("name", OWN)
def test_a_full_disk_leaves_the_old_file(place, command, monkeypatch, name):
    """Writes are atomic: the old file keeps its name until the new one is complete and flushed."""
    assert command(*OWN[name], cwd=place).code == 0
    path = place / name
    path.write_bytes(path.read_bytes()[:-1])  # so that there is something to write
    before = contents(place)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    done = command(*OWN[name])
    assert done.code == 2, done.err
    assert f"{name}: no space left on device; free some space" in done.err
    assert contents(place) == before


def test_an_invalid_output_path_is_reported_before_the_work(place, command):
    done = command(*FIT, "--save", "runs.csv/folder/laws.json", cwd=place)
    assert done.code == 2
    assert "chinchilla" not in done.out
    assert done.err.count("\n") == 1, done.err


def test_an_unwritable_folder_is_reported_before_the_work(place, command, monkeypatch):
    # root, as which this may run, may write everywhere
    monkeypatch.setattr(os, "access", lambda path, mode, **_: not mode & os.W_OK)
    done = command(*FIT, "--save", "new/laws.json", cwd=place)
    assert (done.code, done.out) == (2, "")
    assert done.err == ("error: new/laws.json: permission denied; ask its owner for access, or "
                        "choose another place and run the command again\n")


def test_no_text_cell_is_a_formula():
    table = pd.DataFrame({
        "=name": ["=1+1", "+1", "-5", "@x", "\tx", "\rx", "x=1", "", None],
        "number": [-1, 2, 3, 4, 5, 6, 7, 8, 9], "other": [-1.5, *[np.nan] * 8],
        "mixed": [-1, "-1", 2.5, True, None, "=x", "x", 0, "'"],
    })
    again = pd.read_csv(io.StringIO(csv_text(table), newline=""), dtype=str, keep_default_na=False)
    assert again.iloc[:, 0].tolist() == ["'=1+1", "'+1", "'-5", "'@x", "'\tx", "'\nx", "x=1", "",
                                         ""]
    assert again["number"].tolist()[:2] == ["-1", "2"]
    assert again["other"][0] == "-1.5"
    assert again["mixed"].tolist() == ["-1", "'-1", "2.5", "True", "", "'=x", "x", "0", "'"]


@pytest.mark.parametrize("words", [[], ["--out", "runs.csv"]])
def test_simulated_tables_have_no_formulas_or_control_characters(
    place, command, monkeypatch, words
):
    monkeypatch.setattr("scaling.laws.design.simulate._CORPUS", "=simulated from \x1b[2J")
    (place / "runs.csv").unlink()
    done = command("simulate", "besiroglu2024", *BUDGETS, *words, cwd=place)
    assert done.code == 0, done.err
    text = (place / "runs.csv").read_text() if words else done.out
    assert ",'=simulated from " in text
    assert ",=simulated" not in text
    assert words or "\x1b" not in text


def test_a_file_with_the_same_content_is_not_written_again(tmp_path):
    """Its time stays, so that what is made from it stays up to date."""
    output = json_output(tmp_path / "new/a.json", "scaling fit")
    (tmp_path / "new").mkdir()
    output.write(with_command({"a": 1}, "scaling fit"))
    os.utime(output.path, ns=(10, 10))
    output.write(with_command({"a": 1}, "scaling fit"))
    assert output.path.stat().st_mtime_ns == 10
    output.write(with_command({"a": 2}, "scaling fit"))
    assert output.path.stat().st_mtime_ns != 10
    assert json.loads(output.path.read_text()) == {"command": "scaling fit", "a": 2}
    with pytest.raises(UserError, match="was not written by `scaling compare`"):
        json_output(output.path, "scaling compare").check()
    with pytest.raises(UserError, match="is an input"):
        json_output(output.path, "scaling fit", inputs=[tmp_path / "b", output.path]).check()


def test_json_has_null_for_what_is_not_finite_at_any_depth():
    content = {"a": math.nan, "b": [1.5, -math.inf, (math.inf, 2)], "c": {"d": [{"e": math.nan}]},
               "f": "nan", "g": None, "h": True}
    assert finite(content) == {"a": None, "b": [1.5, None, [None, 2]], "c": {"d": [{"e": None}]},
                               "f": "nan", "g": None, "h": True}
    assert json.loads(with_command(content, "x")) == {"command": "x"} | finite(content)


@pytest.mark.parametrize(("content", "ours"), [
    ("a,b\n1,2\n", True), ("a,b", True), ("a,b\r\n1,2\r\n", True), ("a,b,c\n1,2,3\n", False),
    ("a\n1\n", False), ("b,a\n1,2\n", False), ("a,bc\n", False), ("1,2\na,b\n", False), ("", False),
])
def test_a_table_with_other_columns_is_of_another_program(tmp_path, content, ours):
    path = tmp_path / "table.csv"
    path.write_bytes(content.encode())
    output = csv_output(path, "scaling simulate", ("a", "b"))
    if ours:
        output.write("a,b\n3,4\n")
        assert path.read_text() == "a,b\n3,4\n"
    else:
        with pytest.raises(UserError, match="was not written by `scaling simulate`"):
            output.write("a,b\n3,4\n")


@pytest.mark.parametrize(("cell", "expected"), [
    ("-1.5", "-1.5"), ("+1e5", "+1e5"), ("-inf", "-inf"), ("\t-1", "'\t-1"), ("\r1", "'\n1"),
    ("-1 ", "'-1 "), ("-1+1", "'-1+1"), ("1-1", "1-1"), ("@x", "'@x"), ("", ""), ("x\r\ny", "x\ny"),
])
def test_a_cell_that_is_a_number_is_no_formula(cell, expected):
    assert escape_formula(cell) == expected

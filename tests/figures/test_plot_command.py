"""`scaling plot` of any table: its files, their numbers, and what it refuses."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import scaling.laws as sl

COLUMNS = ("--n", "size", "--d", "seen", "--loss", "nll", "--bootstrap", "20")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """IsoFLOP runs in another's columns, and training curves."""
    made: Path = tmp_path_factory.mktemp("plotted")
    c = np.repeat([1e18, 1e19, 1e20], 5)
    n = np.sqrt(c / 6 / np.tile(np.geomspace(3, 200, 5), 3))
    d = c / 6 / n
    noise = np.random.default_rng(0).normal(0, 0.002, n.size)
    loss = (1.7 + 400 / n**0.34 + 410 / d**0.28) * np.exp(noise)
    pd.DataFrame({"size": n, "seen": d, "nll": loss, "width": n**0.5, "corpus": ["a", "b", "a"] * 5}
                 ).to_csv(made / "table.csv", index=False)
    pd.DataFrame([(f"r{k}", n, d, 1.7 + 400 / n**0.34 + 410 / d**0.28)
                  for k, n in enumerate(np.geomspace(1e7, 1e9, 5))
                  for d in np.geomspace(1e8, 1e11, 30)],
                 columns=["run_id", "size", "seen", "nll"]).to_csv(made / "points.csv", index=False)
    return made


def plot(command, folder, *words):
    return command("plot", "table.csv", *COLUMNS, *words, cwd=folder)


def test_figures_of_a_table_show_the_law_that_fit_finds(folder, command) -> None:
    done = plot(command, folder, "--where", "corpus == 'a'", "--out", "some", "--figure", "isoflop",
                "--figure", "residuals", "--format", "svg", "--format", "pdf")
    assert done.code == 0, done.err
    assert sorted(done.out.split()) == sorted(
        f"some/chinchilla_{figure}.{kind}" for figure in ("isoflop", "residuals")
        for kind in ("svg", "pdf", "csv"))
    fit = sl.fit(folder / "table.csv", n="size", d="seen", loss="nll", where="corpus == 'a'",
                 resamples=20)
    shown = pd.read_csv(folder / "some/chinchilla_isoflop.csv")
    best = shown[shown["series"] == "optimum"]
    np.testing.assert_allclose(best["n"], fit.allocate(best["compute"])["n"], rtol=1e-6)
    shown = pd.read_csv(folder / "some/chinchilla_residuals.csv")
    np.testing.assert_allclose(shown["residual_percent"], [
        100 * np.expm1(row.residual) for row in fit.residuals().rows], rtol=1e-6, atol=1e-9)


def test_all_figures_without_a_name_and_the_profiles_with_one(folder, command) -> None:
    done = plot(command, folder, "--format", "svg", "--fix", "alpha=0.34")
    assert done.code == 0, done.err
    names = {Path(path).stem for path in done.out.split()}
    assert names == {f"chinchilla_{figure}" for figure in (
        "law", "isoflop", "allocation", "residuals", "pairs", "surface", "prediction")}
    assert {Path(path).parent.name for path in done.out.split()} == {"figures"}
    done = plot(command, folder, "--profile", "beta", "--format", "svg", "--out", "one")
    assert done.out.split() == [f"one/chinchilla_profile_beta.{kind}" for kind in ("svg", "csv")]


def test_a_pdf_is_the_same_bytes_at_any_time_and_ours(folder, command, monkeypatch) -> None:
    words = ("--figure", "law", "--format", "pdf", "--size", "5x3", "--title", r"$\frac{$")
    path = folder / "pdf" / "chinchilla_law.pdf"
    contents = []
    for epoch in ("1", "900000000"):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", epoch)
        assert plot(command, folder, *words, "--out", "pdf").code == 0
        contents.append(path.read_bytes())
        path.write_bytes(contents[-1] + b"\n")  # so that there is something to write
    assert contents[0] == contents[1]
    assert b"/MediaBox [ 0 0 360 216 ]" in contents[0]  # 5 x 3 inches of 72 points
    assert b"Date" not in contents[0]
    assert b"Matplotlib" not in contents[0]
    assert plot(command, folder, *words[:-2], "--out", "untitled").code == 0
    assert (folder / "untitled" / "chinchilla_law.pdf").read_bytes() != contents[0]
    path.write_bytes(b"%PDF-1.4 mine")
    done = plot(command, folder, *words, "--out", "pdf")
    assert (done.code, path.read_bytes()) == (2, b"%PDF-1.4 mine")
    assert "was not written by `scaling plot`" in done.err


@pytest.mark.parametrize("name", ["chinchilla_law.csv", "chinchilla_law.svg"])
def test_the_table_is_never_overwritten(folder, command, tmp_path, name) -> None:
    shutil.copy(folder / "table.csv", tmp_path / name)
    before = (tmp_path / name).read_bytes()
    done = command("plot", name, *COLUMNS, "--figure", "law", "--out", ".",
                   cwd=tmp_path)
    assert done.code == 2
    assert "is an input" in done.err
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == before


def test_training_curves_and_their_envelope(folder, command) -> None:
    done = command("plot", "points.csv", *COLUMNS, "--law", "approach-1", "--format", "svg",
                   "--out", "curves", cwd=folder)
    assert done.code == 0, done.err
    data = pd.read_csv(folder / "curves/approach-1_envelope.csv")
    assert set(data["series"]) == {"curve", "envelope"}
    assert (data["series"] == "curve").sum() == 150


def test_a_results_folder_in_another_form(fitted, command, tmp_path) -> None:
    done = command("plot", fitted, "--figure", "kaplan", "--format", "pdf", "--title", "Mine",
                   "--size", "9x3", "--out", tmp_path / "out")
    assert done.code == 0, done.err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["kaplan.csv",
                                                                         "kaplan.pdf"]
    done = command("plot", fitted, "--law", "kaplan-n", "--bootstrap", "0", "--figure", "law",
                   "--format", "svg", "--out", tmp_path / "law")
    assert done.code == 0, done.err
    assert (tmp_path / "law" / "kaplan-n_law.svg").is_file()


@pytest.mark.parametrize(("words", "says"), [
    (("--figure", "isoflops"), "did you mean isoflop?"),
    (("--size", "7"), "--size 7: width x height in inches"),
    (("--size", "900x900"), "from 1 to 40"),
    (("--format", "gif"), "'png', 'pdf', 'svg'"),
    (("--law", "kaplan-d", "--figure", "isoflop"), "does not determine how to divide compute"),
    (("--law", "approach-2"), "--law chinchilla --figure isoflop"),
    (("--law", "approach-1", "--fix", "E=1"), "E=1: approach-1 has no parameters"),
    (("--profile", "gamma"), "no parameter gamma"),
    (("--column", "experts=width"), "no fitted law has the variable experts"),
    (("--n", "sizes"), "did you mean size?"),
])
def test_a_wrong_word_is_told_in_one_sentence(folder, command, words, says) -> None:
    done = plot(command, folder, *words, "--bootstrap", "0", "--out", "refused")
    assert (done.code, done.out) == (2, "")
    last = done.err.splitlines()[-1]
    assert last.startswith("error: ")
    assert says in last
    assert "Traceback" not in done.err
    assert not (folder / "refused").exists()

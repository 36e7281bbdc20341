"""Wrong tables cause errors or warnings that name the row and the column."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from scaling import console
from scaling.cli import main
from scaling.errors import UserError
from scaling.laws import FORMS, fit_law, from_frame
from scaling.laws.fitting.preflight import check_losses
from scaling.laws.where import row_mask

pytestmark = pytest.mark.quick

Change = Callable[[pd.DataFrame], object]


@pytest.fixture(autouse=True)
def _plain_consoles(monkeypatch) -> None:
    """Consoles that look up sys.stdout and sys.stderr anew."""
    from rich.console import Console

    for name, stderr in (("out", False), ("err", True)):
        rich_console = Console(stderr=stderr, highlight=False, soft_wrap=True, width=400)
        monkeypatch.setattr(console, name, rich_console)
        monkeypatch.setattr(f"scaling.cli.fit.{name}", rich_console)
    monkeypatch.setattr(main, "err", console.err)


@pytest.fixture
def command(monkeypatch, capsys) -> Callable[..., tuple[int, str, str]]:
    """Runs `scaling fit`: exit status, standard output, standard error."""

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["scaling", "fit", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            main.main()
        shown = capsys.readouterr()
        return int(end.value.code or 0), shown.out, shown.err

    return run


@pytest.fixture
def large() -> pd.DataFrame:
    """Runs of usual sizes, 5 x 5, with N, D and C."""
    n = np.repeat(np.geomspace(7e7, 7e9, 5).round(), 5)
    d = np.tile(np.geomspace(2e9, 2e11, 5).round(), 5)
    loss = 1.8 + 480 / n**0.35 + 2000 / d**0.37
    noise = np.exp(0.003 * np.random.default_rng(0).standard_normal(n.size))
    return pd.DataFrame({"run_id": [f"run{i:02d}" for i in range(25)], "N": n, "D": d,
                         "C": 6 * n * d, "loss": loss * noise})


def _set(frame: pd.DataFrame, row: int, column: str, value: object) -> None:
    frame[column] = frame[column].astype(object)
    frame.loc[row, column] = value


def _scale(frame: pd.DataFrame, column: str, factor: float, rows: Sequence[int] | None = None
           ) -> None:
    at = frame.index if rows is None else list(rows)
    frame.loc[at, column] *= factor


REFUSED: dict[str, tuple[Change, list[str], str]] = {
    "negative": (lambda f: _set(f, 3, "loss", -2.0), [],
                 r"row 4 \(run_id run03\), column loss: -2, where a positive number"),
    "zero": (lambda f: _set(f, 3, "loss", 0), [], r"row 4 \(run_id run03\), column loss: 0, "),
    "percent": (lambda f: _set(f, 3, "loss", "3.2%"), [],
                r"row 4 .*column loss: '3.2%'.*without the percent sign"),
    "thousands": (lambda f: _set(f, 3, "N", "70,000,000"), [],
                  r"row 4 .*column N: '70,000,000'.*write it without separators, as 70000000"),
    "underscores": (lambda f: _set(f, 3, "N", "70_000_000"), [], "as 70000000"),
    "decimal comma": (lambda f: _set(f, 3, "loss", "3,21"), [], r"decimal point, as 3\.21"),
    "suffix": (lambda f: _set(f, 3, "N", "1.4B"), [], r"column N: '1.4B'.*as 1.4e\+09"),
    "nothing": (lambda f: _set(f, 3, "D", None), [], r"row 4 .*column D: empty"),
    "flags": (lambda f: f.insert(1, "big", f["N"] > 1e9), ["--n", "big"],
              r"column big holds bool, where numbers are expected"),
    "loss is N": (lambda f: None, ["--loss", "params"],
                  r"column params: from 7e\+07 to 7e\+09, where losses.*look like N"),
    "loss and N swapped": (lambda f: None, ["--no-c", "--loss", "N", "--n", "loss"],
                           r"column N.*--loss and --n seem to be swapped"),
    "loss and D swapped": (lambda f: None, ["--no-c", "--loss", "D", "--d", "loss"],
                           r"column D.*--loss and --d seem to be swapped"),
    "one column twice": (lambda f: None, ["--loss", "N"],
                         "column N is given as --n and as --loss"),
    "N and C swapped": (lambda f: None, ["--n", "C", "--c", "N"],
                        r"row \d+ .*column C: .*more than any run has.*--c"),
    "N in billions": (lambda f: _scale(f, "N", 1e-9), [],
                      r"row 1 \(run_id run00\) and \d+ more, column N: 0.07, .*in millions or b"),
    "some N in millions": (lambda f: _scale(f, "N", 1e-6, [20, 7]), ["--no-c"],
                           r"row 8 \(run_id run07\) and 1 more, column N.*multiplied by 1e\+06"),
    "some D in billions": (lambda f: _scale(f, "D", 1e-9, [2]), ["--no-c"],
                           r"row 3 \(run_id run02\), column D: .*multiplied by 1e\+09"),
    "C in PF-days": (lambda f: _scale(f, "C", 1 / 8.64e19), [],
                     r"column C: C / \(6 N D\) has a median of 1.16e-20: .*PF-days.*multiply it by "
                     r"8.64e\+19"),
    "C in EFLOP": (lambda f: _scale(f, "C", 1e-18), [], r"units of 1e\+18 FLOP"),
    "C in PF-days, D from it": (lambda f: _scale(f, "C", 1 / 8.64e19), ["--no-d"],
                                r"column C is not in FLOP.*a PF-day is 8.64e\+19"),
    "all N in millions": (lambda f: _scale(f, "N", 1e-6), [], r"column N or column D seems"),
    "one C in other units": (lambda f: _scale(f, "C", 1e-9, [4]), [],
                             r"row 5 \(run_id run04\), column C: C / \(6 N D\) is 1e-09, but 1 "),
    "C of nothing": (lambda f: f.__setitem__("C", f["C"] * np.geomspace(1e-4, 2e3, 25)), [],
                     r"C / \(6 N D\) ranges from .*row \d+.* to .*row \d+"),
    "perplexities": (lambda f: f.__setitem__("loss", np.exp(f["loss"] + 1.5)), [],
                     r"row 1 .*column loss: .*perplexities, take their logarithm"),
    "one diverged": (lambda f: _set(f, 9, "loss", 42.0), [],
                     r"row 10 \(run_id run09\), column loss: 42.*diverged, set its status"),
    "accuracies": (lambda f: f.__setitem__("loss", 1 / f["loss"]), [],
                   r"column loss: increases with N at given D and with D at given N .*accuracies"),
    "all the same": (lambda f: f.__setitem__("loss", 3.0), [], "is 3 in every run"),
    "one size": (lambda f: f.__setitem__("N", 1e8), ["--no-c"],
                 r"1 distinct size N \(column N\).* at least 3"),
    "one token count": (lambda f: f.__setitem__("D", 1e10), ["--no-c"],
                        r"1 distinct token count D \(column D\).* at least 3"),
    "run_id twice": (lambda f: _set(f, 8, "run_id", "run02"), [],
                     r"run_id run02 is on 2 rows \(rows 3, 9\)"),
    "no run_id": (lambda f: _set(f, 8, "run_id", None), [], r"row 9, column run_id: empty"),
    "status": (lambda f: f.insert(1, "status", ["done"] * 24 + ["finishd"]), [],
               r"row 25 .*column status: 'finishd', where one of done, .* is expected; did you "
               r"mean done\?"),
    "semicolons": (lambda f: f.columns, ["--sep"],
                   r"runs\.csv: its columns are separated by semicolons, where commas are"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_impossible_tables_are_errors(case, large, command, tmp_path: Path) -> None:
    change, words, said = REFUSED[case]
    frame = large.assign(params=large["N"])
    change(frame)
    path = tmp_path / "runs.csv"
    frame.to_csv(path, index=False, sep=";" if "--sep" in words else ",")
    options = {"--n": "N", "--d": "D", "--c": "C"}
    for word in words:
        options.pop(word.replace("--no-", "--"), None)
    given = [word for word in words if not word.startswith(("--no-", "--sep"))]
    named = [word for pair in options.items() if pair[0] not in given for word in pair]
    status, out, err = command(path, "--law", "chinchilla", "--bootstrap", 0, *named, *given)
    too_little = case in ("one size", "one token count")  # of data: nothing was asked wrongly
    assert status == (1 if too_little else 2)
    assert out == ""
    message = err.strip()
    assert message.startswith("error: ")
    assert len(message.splitlines()) == 1
    assert "Traceback" not in err
    assert re.search(said, message), message
    if not too_little:  # which the form says, of a table
        assert str(path) in message


WARNED: dict[str, tuple[Change, list[str], str]] = {
    "copies": (lambda f: f.loc.__setitem__(12, [f"x{f['run_id'][12]}", *f.loc[7].iloc[1:]]), [],
               r"row 8 \(run_id run07\), row 13 \(run_id xrun12\) are equal in every column"),
    "C otherwise": (lambda f: f.__setitem__("C", f["C"] * np.geomspace(1, 4, 25)), [],
                    r"column C: C / \(6 N D\) is not constant: it ranges from 1 to 4"),
    "C of a third": (lambda f: _scale(f, "C", 1 / 3), [], r"C / \(6 N D\) is 0.333 in every run"),
    "N and D swapped": (lambda f: None, ["--n", "D", "--d", "N"],
                        r"column N: the median of D/N is 0.0\d+ tokens per parameter.*check that "
                        r"column D is N"),
    "N in millions": (lambda f: _scale(f, "N", 1e-6), ["--no-c"],
                      r"column N: 70 to 7e\+03 are few parameters; if the column is in thousands"),
    "bits": (lambda f: f.insert(1, "bits_per_byte", f["loss"]), ["--loss", "bits_per_byte"],
             r"column bits_per_byte: seems to hold bits by its name.*multiply them by "
             r"ln 2 = 0.6931"),
    "perplexities by name": (lambda f: f.insert(1, "val_ppl", f["loss"]), ["--loss", "val_ppl"],
                             r"column val_ppl: seems to hold perplexities by its name"),
    "worse than guessing": (lambda f: _set(f, 9, "loss", 15.0), [],
                            r"row 10 \(run_id run09\), column loss: 15 nats per token, more than"),
    "rises with D": (lambda f: f.__setitem__("loss", f["loss"] * (f["D"] / 1e9) ** 0.2), [],
                     r"column loss: increases with D \(column D\) at given N \(rank correlation "
                     r"1.00"),
    "rises with N": (lambda f: f.__setitem__("loss", f["loss"] * (f["N"] / 1e7) ** 0.3), [],
                     r"column loss: increases with N \(column N\) at given D \(rank correlation"),
}


@pytest.mark.parametrize("case", WARNED)
def test_suspicious_tables_get_warnings(case, large, tmp_path: Path, command) -> None:
    change, words, said = WARNED[case]
    change(large)
    named = {"n": "N", "d": "D", "c": "C"}
    for word in words:
        named.pop(word.removeprefix("--no-"), None)
    given = {word.removeprefix("--"): value for word, value in zip(words[::2], words[1::2],
                                                                   strict=False)}
    table = from_frame(large, "runs.csv", **named | given)
    law = fit_law(table, "chinchilla", resamples=0)
    assert any(re.search(said, warning) for warning in law.warnings), law.warnings


def test_the_command_prints_each_warning_once(large, tmp_path: Path, command) -> None:
    WARNED["copies"][0](large)
    large.to_csv(tmp_path / "runs.csv", index=False)
    status, out, err = command(tmp_path / "runs.csv", "--n", "N", "--d", "D", "--bootstrap", 0)
    assert status == 0
    assert out.count("are equal in every column") == 1
    assert "C = 6 N D is computed, since its column is not given" in err


def test_valid_tables_get_no_warnings(large, grid) -> None:
    for table in (from_frame(large, "runs", n="N", d="D", c="C"), from_frame(grid(), "runs")):
        assert table.warnings == ()
        assert check_losses(FORMS["chinchilla"], table) == []
    seeds = pd.concat([large, large.assign(run_id=large["run_id"] + "s", loss=large["loss"] + 0.01)
                       ])
    assert from_frame(seeds, "runs", n="N", d="D").warnings == ()
    near = large.assign(C=large["C"] * np.linspace(1.0, 1.4, 25))  # counted, not 6 N D
    table = from_frame(near, "runs", n="N", d="D", c="C")
    assert table.warnings == ()
    assert any("ranges from 1 to 1.4" in note for note in table.notes)


def test_an_isoflop_profile_is_not_a_rising_loss(large) -> None:
    """Along C = 6 N D the loss has a valley: it rises with N on one side."""
    n = np.geomspace(1e7, 1e10, 30)
    d = 1e19 / (6 * n)
    frame = pd.DataFrame({"N": n, "D": d, "loss": 1.8 + 480 / n**0.35 + 2000 / d**0.37})
    table = from_frame(frame, "runs", n="N", d="D")
    assert check_losses(FORMS["chinchilla"], table) == []


def test_only_laws_of_the_loss_check_the_loss(large) -> None:
    table = from_frame(large.assign(batch=0.58 * large["D"] ** 0.571), "runs", n="N", d="D",
                       loss="batch")
    with pytest.raises(UserError, match=r"runs: column batch: .*where losses in nats"):
        check_losses(FORMS["chinchilla"], table)
    assert check_losses(FORMS["step-batch"], table) == []


@pytest.mark.parametrize(("points", "column", "spacing", "warned"), [
    (8, None, np.linspace, True),        # even steps of D
    (15, None, np.geomspace, True),      # many lengths of one size
    (6, None, np.geomspace, False),      # a grid
    (6, "step", np.geomspace, True),
    (4, "run_name", np.geomspace, True),
    (4, "corpus", np.geomspace, False),
])
def test_checkpoints_of_one_run_are_detected(points, column, spacing, warned) -> None:
    n = np.repeat(np.geomspace(1e7, 1e9, 4), points)
    d = np.tile(spacing(1e9, 1e11, points), 4)
    frame = pd.DataFrame({"N": n, "D": d, "loss": 1.8 + 480 / n**0.35 + 2000 / d**0.37})
    if column is not None:
        frame[column] = [f"r{x:.0f}" for x in n] if column != "step" else d / 1e6
    table = from_frame(frame, "runs", n="N", d="D")
    assert any("checkpoints of one run" in warning for warning in table.warnings) == warned
    # Other runs may have the same size: noise breaks the curve.
    frame["loss"] *= np.exp(0.2 * np.random.default_rng(0).standard_normal(len(frame)))
    assert from_frame(frame, "runs", n="N", d="D").warnings == ()


FRAME = pd.DataFrame({"n": [1.0, 2.0, 3.0, np.nan], "a b": [4, 3, 2, 1],
                      "corpus": ["c4", "x`y", "c4", None], "ok": [True, False, True, True]})


@pytest.mark.parametrize(("text", "rows"), [
    ("n > 1", [1, 2]), ("n != 1", [1, 2]), ("not n > 1", [0, 3]), ("1 < n <= 3", [1, 2]),
    ("`a b` < 3 and n > 0", [2]), ("(n > 1) & (`a b` > 2)", [1]), ("n == 1 or `a b` == 1", [0, 3]),
    ("corpus == 'x`y'", [1]), ("corpus in ['c4', 'pile']", [0, 2]), ("n not in (1, 2)", [2, 3]),
    ("ok", [0, 2, 3]), ("~ok", [1]), ("n ** 2 / 2 > 1.5 * n - 1", [2]), ("-n > -2", [0]),
])
def test_conditions(text, rows) -> None:
    assert np.flatnonzero(row_mask(FRAME, text, "runs")).tolist() == rows


@pytest.mark.parametrize("text", [
    "__import__('os').system('true')", "n.max() > 1", "n.__class__ == 1", "@n > 1", "n[0] > 1",
    "f(n)", "[x for x in n]", "lambda: 1", "n > 1 if ok else ok", "f'{n}' == 'x'", "n = 1",
    "corpus == '`' or n.max() > 0 or corpus == '`'", "`n`.max() > 1", "`zz` > 1", "zz > 1", "n",
    "n > 1 & ok", "corpus > 1", "1 > 0", "n > 9", "", "n >", "9 ** 9 ** 9 ** 9 > n",
    "n > " + "(" * 300 + "1" + ")" * 300, "n is 1", "(n := 1) > 0", "n == None",
])
def test_invalid_conditions_are_errors(text) -> None:
    with pytest.raises(UserError, match="where="):
        row_mask(FRAME, text, "runs")


def test_where_counts_what_it_leaves_out(large, tmp_path: Path, command) -> None:
    large.to_csv(tmp_path / "runs.csv", index=False)
    status, out, _ = command(tmp_path / "runs.csv", "--n", "N", "--d", "D", "--law", "chinchilla",
                             "--bootstrap", 0, "--where", "D > 3e9 and run_id != 'run24'")
    assert status == 0
    assert "19 runs; left out: 6 where" in out

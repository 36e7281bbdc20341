"""Rows of a runs table as a fit reads them: what is kept, counted, hashed and saved."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import scaling.laws as sl
from scaling.errors import UserError
from scaling.laws import FORMS, Bootstrap, Law, RunsTable, from_frame, read, save
from scaling.laws.columns import column_names
from scaling.laws.fitting.preflight import check_losses
from scaling.laws.io import load
from scaling.laws.published import OptimalSize, published


def _frame() -> pd.DataFrame:
    """Runs in every state, with the unique tokens of each."""
    n = np.array([4e6, 1e6, 2e6, 1e6, 2e6, 8e6, 3e6, 9e6, 5e6])
    d = np.array([2e8, 3e8, 3e8, 2e8, 2e8, 5e8, 1e8, 6e8, 4e8])
    return pd.DataFrame({
        "run_id": list("abcdefghi"), "params_total": n, "params_non_embedding": n - 5e5,
        "tokens": d, "unique_tokens": d / 2 + n / 10, "loss": 9 - np.log10(n),
        "flops": 7 * n * d,
        "role": ["grid"] * 5 + ["heldout", "former", "heldout", "grid"],
        "status": ["done"] * 6 + ["done", "diverged", "failed"],
    })


def _table(frame: pd.DataFrame, **options: Any) -> RunsTable:
    return from_frame(frame, "runs.csv", extra={"u": None}, **options)


def test_every_row_is_fitted_held_out_or_counted() -> None:
    table = _table(_frame())
    assert table.run_id == ("d", "b", "e", "c", "a")  # by N, then by D
    np.testing.assert_array_equal(table.n, [1e6, 1e6, 2e6, 2e6, 4e6])
    np.testing.assert_array_equal(table.d, [2e8, 3e8, 2e8, 3e8, 2e8])
    np.testing.assert_array_equal(table.extra["u"], table.d / 2 + table.n / 10)
    np.testing.assert_allclose(table.loss, 9 - np.log10(table.n))
    assert table.rows.tolist() == [3, 1, 4, 2, 0]
    assert table.excluded == {"diverged": 0, "failed": 1, "planned": 0, "heldout": 2, "former": 1}
    measured, diverged = table.heldout
    assert (measured.run_id, measured.n, measured.d, measured.c) == ("f", 8e6, 5e8, 6 * 8e6 * 5e8)
    assert measured.loss == pytest.approx(9 - np.log10(8e6))
    assert {name: x.tolist() for name, x in measured.values.items()} == {
        "n": [8e6], "d": [5e8], "c": [2.4e16], "u": [2.508e8]}
    assert (diverged.run_id, diverged.loss) == ("h", None)
    assert table.convention == {"n": "total", "d": "tokens", "c": "6 N D",
                                "u": "column unique_tokens"}


def test_a_condition_leaves_out_rows_of_the_grid_only() -> None:
    table = _table(_frame(), where="params_total < 3e6")
    assert table.run_id == ("d", "b", "e", "c")
    assert table.excluded == {"diverged": 0, "failed": 0, "planned": 0, "heldout": 2, "former": 1,
                              "where": 2}
    assert len(table.heldout) == 2


@pytest.mark.parametrize(("options", "convention"), [
    ({"n": "params_total"}, {"n": "column params_total", "d": "tokens", "c": "6 N D"}),
    ({"n": "params_total", "counting": "total"}, {"n": "total", "d": "tokens", "c": "6 N D"}),
    ({"counting": "non-embedding"}, {"n": "non-embedding", "d": "tokens", "c": "6 N D"}),
    ({"n": "params_total", "c": "flops"},
     {"n": "column params_total", "d": "C / (6 N)", "c": "column flops"}),
    ({"d": "tokens", "c": "flops"},
     {"n": "C / (6 D)", "d": "tokens", "c": "column flops"}),
    ({"c": "flops"}, {"n": "total", "d": "tokens", "c": "column flops"}),
])
def test_conventions_of_given_and_computed_columns(
    options: dict[str, Any], convention: dict[str, str]
) -> None:
    table = _table(_frame(), **options)
    assert table.convention == convention | {"u": "column unique_tokens"}
    frame = _frame().set_index("run_id").loc[list(table.run_id)]
    n = frame["params_non_embedding" if options.get("counting") == "non-embedding"
              else "params_total"].to_numpy()
    factor = 7 / 6
    computed = convention["n"].startswith("C /"), convention["d"].startswith("C /")
    np.testing.assert_allclose(table.n, n * factor if computed[0] else n)
    np.testing.assert_allclose(table.d, frame["tokens"] * (factor if computed[1] else 1))
    np.testing.assert_allclose(table.c, frame["flops"] if "c" in options
                               else 6 * n * frame["tokens"].to_numpy())


def test_a_variables_own_name_goes_before_its_usual_column() -> None:
    frame = _frame().assign(u=1e7)
    assert (_table(frame).extra["u"] == 1e7).all()
    frame = frame.assign(drop=[0.0] + [2.0] * 8)
    table = from_frame(frame, "runs.csv", extra={"drop_area": "drop"})
    assert sorted(table.extra["drop_area"]) == [0.0, 2.0, 2.0, 2.0, 2.0]  # which may be zero
    with pytest.raises(UserError, match=r"row 1 \(run_id a\), column drop: '0.0'"):
        from_frame(frame, "runs.csv", extra={"lr_area": "drop"})


@pytest.mark.parametrize("column", ["params_total", "tokens", "flops", "loss", "unique_tokens"])
def test_the_hash_depends_on_every_number_of_every_run(column: str) -> None:
    options = {"n": "params_total", "d": "tokens", "c": "flops"}
    first = _table(_frame(), **options)
    hashes = {first.sha256}
    for run in "abcde":
        frame = _frame().set_index("run_id")
        frame.loc[run, column] *= 1 + 1e-9
        hashes.add(_table(frame.reset_index(), **options).sha256)
    assert len(hashes) == 6
    for run in "fghi":  # which are not fitted
        frame = _frame().set_index("run_id")
        frame.loc[run, column] *= 1.01
        assert _table(frame.reset_index(), **options).sha256 == first.sha256


def test_some_runs_of_a_table_keep_all_their_values() -> None:
    table = _table(_frame())
    some = table.take(np.array([4, 1]))
    assert some.run_id == ("a", "b")
    for name, values in table.values.items():
        np.testing.assert_array_equal(some.values[name], values[[4, 1]])
    assert some.loss.tolist() == table.loss[[4, 1]].tolist()
    assert some.rows.tolist() == [0, 1]
    assert table.first_label(np.array([True, False, False, True, True])) == (
        "row 1 (run_id a) and 2 more")


def test_long_lists_in_messages_are_cut_off() -> None:
    frame = _frame().assign(run_id=["x"] * 4 + ["y"] * 5)
    with pytest.raises(UserError, match=r"run_id x is on 4 rows \(rows 1, 2, 3, 4\)"):
        from_frame(frame, "runs.csv")
    with pytest.raises(UserError, match=r"on 5 rows \(rows 1, 2, 3, 4, \.\.\.\)"):
        from_frame(frame.assign(run_id=list("abcd") + ["y"] * 5).iloc[::-1].reset_index(), "r")
    assert column_names(pd.DataFrame(columns=[f"c{i}" for i in range(41)])).endswith("c39, ...")
    assert column_names(pd.DataFrame(columns=[f"c{i}" for i in range(40)])).endswith("c39")


def _losses(loss_of: Any, sizes: int = 5) -> RunsTable:
    n, d = (x.ravel() for x in np.meshgrid(np.geomspace(1e6, 1e8, sizes),
                                           np.geomspace(1e8, 1e10, 5)))
    frame = pd.DataFrame({"params_total": n, "tokens": d, "loss": loss_of(n, d)})
    return from_frame(frame, "runs")


@pytest.mark.parametrize(("ranks", "rho"), [
    ((1, 2, 3, 4, 5), 1.0), ((1, 3, 2, 5, 4), 0.8), ((1, 2, 4, 5, 3), 0.7),
    ((2, 3, 1, 5, 4), 0.6), ((1, 5, 3, 2, 4), 0.3), ((3, 1, 4, 2, 5), 0.5)])
def test_a_loss_that_rises_with_size(ranks: tuple[int, ...], rho: float) -> None:
    """Ranks of the losses of five sizes, the same at every token count: Spearman's correlation is
    1 - 6 sum (rank - place)^2 / 120, and more than 0.5 is a warning."""
    table = _losses(lambda n, d: (3 + 0.1 * np.array(ranks)[
        np.unique(n, return_inverse=True)[1]]) - 0.01 * np.log10(d))
    place = np.arange(1, 6)
    assert rho == pytest.approx(1 - 6 * ((np.array(ranks) - place) ** 2).sum() / 120)
    found = check_losses(FORMS["chinchilla"], table)
    assert any(f"(rank correlation {rho:.2f})" in text for text in found) == (rho > 0.5)


def test_a_loss_that_rises_with_both_is_none() -> None:
    def rising(ranks: tuple[int, ...]) -> RunsTable:
        return _losses(lambda n, d: 2 + 0.001 * np.array(ranks)[
            np.unique(n, return_inverse=True)[1]] + 0.1 * np.log10(d))

    with pytest.raises(UserError, match=r"rank correlations 0.90 and 1.00"):
        check_losses(FORMS["chinchilla"], rising((2, 1, 3, 4, 5)))
    # Of 0.8 both are warnings.
    assert len(check_losses(FORMS["chinchilla"], rising((1, 3, 2, 5, 4)))) == 2
    # Fewer than eight runs, or two sizes at each number of tokens, say nothing.
    frame = pd.DataFrame({"params_total": [1e6, 2e6, 4e6, 1e6, 2e6, 4e6, 8e6],
                          "tokens": [1e8] * 3 + [1e9] * 4, "loss": [2, 2.1, 2.2, 3, 3.1, 3.2, 3.3]})
    assert check_losses(FORMS["chinchilla"], from_frame(frame, "runs")) == []
    assert check_losses(FORMS["chinchilla"], _losses(lambda n, d: 3 + n / 1e9, sizes=2)) == []


def test_every_field_of_a_law_comes_back_from_its_file(tmp_path: Path) -> None:
    """Each field has a value of its own, so that no two can be exchanged."""
    law = Law(
        form=FORMS["chinchilla"],
        convention={"n": "total", "d": "tokens", "c": "6 N D", "loss": "nats per token",
                    "objective": "huber", "delta": 0.002, "range": {"n": (1.0, 2.0)}},
        params={"E": 1.5, "A": 400.0, "B": 2000.0, "alpha": 0.34, "beta": 0.28}, n_runs=24,
        excluded={"diverged": 1, "heldout": 2}, objective=0.0125, se={"E": 0.01, "A": None},
        se_delta={"E": 0.02, "B": 7.0}, intervals={"E": (1.4, 1.6), "A": None},
        exponents={"a": 0.45, "b": 0.55},
        convergence={"converged": True, "start_agreement": 0.75, "grad_norm": 1e-9,
                     "condition": 45.0},
        warnings=("one", "two"),
        heldout={"x": {"n": 1e6, "d": 2e8, "predicted": 3.1, "interval": (3.0, 3.2),
                       "measured": 3.15, "relative_error": -0.016}},
        data_sha256="abc",
        bootstrap=Bootstrap(50, 3, 9, np.arange(15.0).reshape(3, 5), np.array([-0.1, 0.2]),
                            np.arange(10.0).reshape(2, 5) / 7, "size", "bca"),
    )
    save([law, replace(law, bootstrap=None, heldout={}), replace(law, bootstrap=replace(
        law.bootstrap, by="residual", method="percentile"))], tmp_path / "laws.json")
    again, bare, other = load(tmp_path / "laws.json")
    assert isinstance(again, Law)
    assert isinstance(bare, Law)
    assert isinstance(other, Law)
    for name in Law.__dataclass_fields__:
        if name != "bootstrap":
            assert getattr(again, name) == getattr(law, name), name
    for name in Bootstrap.__dataclass_fields__:
        found, known = getattr(again.bootstrap, name), getattr(law.bootstrap, name)
        if isinstance(known, np.ndarray):
            np.testing.assert_allclose(found, known, rtol=1e-6, err_msg=name)
        else:
            assert found == known, name
    assert bare.bootstrap is None
    assert (other.bootstrap.by, other.bootstrap.method) == ("residual", "percentile")
    # Files of old versions do not say how intervals were computed: as percentiles of runs.
    content = json.loads((tmp_path / "laws.json").read_text())
    for key in ("by", "method"):
        del content["laws"][0]["bootstrap"][key]
    content["laws"] = content["laws"][:1]
    (tmp_path / "old.json").write_text(json.dumps(content))
    (old,) = load(tmp_path / "old.json")
    assert (old.bootstrap.by, old.bootstrap.method) == ("case", "percentile")


def test_optimal_sizes_between_and_beyond_their_points() -> None:
    """In log-log a line between the points, and the paper's exponent outside."""
    sizes = OptimalSize(((1e18, 1e8), (1e20, 1e9), (1e22, 4e9)), 0.6, None, None)
    assert sizes.at(1e19) == pytest.approx(10**8.5)
    assert sizes.at(1e21) == pytest.approx(2e9)
    assert sizes.at(1e17) == pytest.approx(1e8 * 10**-0.6)
    assert sizes.at(1e23) == pytest.approx(4e9 * 10**0.6)
    for entry in published().values():
        if entry.sizes is not None:
            for c, n in entry.sizes.points:
                assert entry.sizes.at(c) == pytest.approx(n), entry.name


def test_all_bad_cells_are_told_in_one_message() -> None:
    frame = _frame().astype({"params_total": object, "tokens": object, "loss": object})
    names = frame["run_id"].tolist()
    done = [i for i in range(len(frame)) if frame["status"].iloc[i] == "done"][:4]
    frame.loc[done[0], "params_total"] = "1,000"
    frame.loc[done[1], "tokens"] = None
    frame.loc[[done[2], done[3]], "loss"] = "x"
    cells = [("params_total: '1,000'", done[0]), ("tokens: empty", done[1]), ("loss: 'x'", done[2])]
    with pytest.raises(UserError) as caught:
        from_frame(frame, "runs.csv")
    for cell, row in cells:
        assert f"row {row + 1} (run_id {names[row]}), column {cell}" in str(caught.value)
    assert f"the same in row {done[3] + 1} (run_id {names[done[3]]})" in str(caught.value)
    # A data frame names rows by its index.
    other = frame.drop(columns="run_id").set_axis([10 * i for i in range(len(frame))])
    with pytest.raises(UserError, match=rf"row {done[1] + 1} \(index {10 * done[1]}\), column tok"):
        read(other)
    with pytest.raises(UserError, match=rf"\(run_id {names[done[1]]}\), column tokens: empty"):
        read(frame.set_index("run_id"))


def test_columns_may_be_numbers() -> None:
    frame = _frame()[["params_total", "tokens", "loss"]].dropna()
    table = read(frame.set_axis([0, 1, "loss"], axis=1), n="0", d="1")
    np.testing.assert_array_equal(table.n, np.sort(frame["params_total"]))


def frontier_table() -> pd.DataFrame:
    """Eight runs, of which some are surpassed."""
    c = np.array([1.0, 1, 2.2, 4.5, 9, 18, 18, 32])
    return pd.DataFrame({"N": 1e8 * np.sqrt(c), "D": 1e9 * np.sqrt(c),
                         "loss": [4.0, 3.9, 3.95, 3.5, 3.5, 3.2, 3.1, 3.3]})


@pytest.mark.parametrize(("kind", "bins", "losses"), [
    ("pareto", None, [3.1, 3.5, 3.9]),          # 3.5 again is no better, and 3.3 comes after 3.1
    ("binned", 5, [3.1, 3.5, 3.5, 3.9, 3.95]),  # each bin is a factor of two
    ("binned", 1, [3.1]),
])
def test_only_the_frontier_of_compute_is_read(
    kind: Any, bins: int | None, losses: list[float]
) -> None:
    table = sl.read(frontier_table(), n="N", d="D", frontier=kind, bins=bins)
    assert sorted(table.loss) == losses
    assert table.excluded["off_the_frontier"] == 8 - len(losses)
    assert table.selection[-1].startswith("only ")
    fit = sl.fit(frontier_table(), "henighan-c", n="N", d="D", frontier="binned", bins=5,
                 resamples=0)
    assert fit.runs.loss.size == 5


def test_a_frontier_needs_compute_and_bins() -> None:
    with pytest.raises(UserError, match="needs C of every run"):
        sl.read(frontier_table(), n="N", needs=("n",), frontier="pareto")
    with pytest.raises(UserError, match="bins=0"):
        sl.read(frontier_table(), n="N", d="D", frontier="binned", bins=0)
    for frontier in (None, "pareto"):
        with pytest.raises(UserError, match="bins=5: is only for frontier=binned"):
            sl.read(frontier_table(), n="N", d="D", frontier=frontier, bins=5)
    with pytest.raises(UserError, match="read already"):
        sl.fit(sl.read(frontier_table(), n="N", d="D"), "henighan-c", frontier="pareto")

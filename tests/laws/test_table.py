"""Reading runs tables: columns, conventions, and messages that name the row and the column."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from scaling.errors import UserError
from scaling.laws import from_frame, read

pytestmark = pytest.mark.quick


def test_our_own_columns(grid, heldout_row, tmp_path: Path) -> None:
    frame = pd.concat([grid(embeddings=30_000), pd.DataFrame([heldout_row])])
    path = tmp_path / "runs.csv"
    frame.to_csv(path, index=False)
    total, bare = read(tmp_path), read(path, counting="non-embedding")
    assert np.array_equal(np.sort(total.n), np.sort(bare.n + 30_000))
    # C = 6 N D with the N that the law counts.
    assert np.array_equal(total.c, 6 * total.n * total.d)
    assert np.array_equal(bare.c, 6 * bare.n * bare.d)
    assert total.convention == {"n": "total", "d": "tokens", "c": "6 N D"}
    assert bare.convention["n"] == "non-embedding"
    assert total.notes == ()
    assert [run.run_id for run in total.heldout] == ["large"]


@pytest.mark.parametrize("missing", ["n", "d", "c"])
def test_two_of_three_columns_give_the_third(grid, missing: str) -> None:
    frame = grid()
    foreign = pd.DataFrame({"P": frame["params_total"], "T": frame["tokens"],
                            "F": frame["flops_6nd"], "nll": frame["loss"]})
    named = {"n": "P", "d": "T", "c": "F"}
    del named[missing]
    table = from_frame(foreign, "foreign", **named, loss="nll")
    np.testing.assert_allclose(table.c, 6 * table.n * table.d, rtol=1e-12)
    np.testing.assert_allclose(np.sort(table.n), np.sort(foreign["P"]), rtol=1e-12)
    assert len(table.notes) == 1
    assert table.notes[0].startswith(missing.upper())
    assert table.convention[missing] in table.notes[0]


def test_a_named_compute_column_is_taken_as_it_is(grid) -> None:
    frame = grid()
    frame["counted"] = 7.5 * frame["params_total"] * frame["tokens"]
    table = from_frame(frame, "runs", c="counted")
    assert np.allclose(table.c / (table.n * table.d), 7.5)
    assert table.convention["c"] == "column counted"


def test_foreign_tables_need_no_status(grid) -> None:
    frame = grid().drop(columns=["status", "role", "run_id"])
    table = from_frame(frame, "runs")
    assert table.loss.size == 25
    assert set(table.excluded.values()) == {0}


@pytest.mark.parametrize(("column", "value", "said"), [
    ("loss", np.nan, r"row 4 \(run_id run03\), column loss: empty"),
    ("tokens", -2.0, r"row 4 \(run_id run03\), column tokens: '-2.0'"),
    ("loss", np.inf, r"column loss: 'inf'"),
    ("loss", "oops", r"row 4 \(run_id run03\), column loss: 'oops'"),
    ("tokens", 0, r"row 4 \(run_id run03\), column tokens: '0'"),
    ("params_total", np.nan, r"row 4 \(run_id run03\), column params_total: empty"),
    ("status", "fine", r"row 4 .*column status: 'fine', where one of done, .* is expected"),
    ("role", "held", r"row 4 .*column role: 'held', where one of grid, heldout, .* is expected"),
])
def test_bad_cells_are_named(grid, column: str, value: object, said: str) -> None:
    frame = grid().astype({column: object})
    frame.loc[3, column] = value
    with pytest.raises(UserError, match=said):
        from_frame(frame, "runs.csv")


def test_a_diverged_run_may_have_any_loss(grid) -> None:
    frame = grid()
    frame.loc[3, "loss"] = np.nan
    frame.loc[3, "status"] = "diverged"
    assert from_frame(frame, "runs.csv").loss.size == 24


def test_missing_columns_name_the_nearest(grid) -> None:
    frame = grid().rename(columns={"loss": "losses"})
    with pytest.raises(UserError, match="no column loss; did you mean losses") as caught:
        from_frame(frame, "runs.csv")
    assert "params_total" in str(caught.value)  # what there is
    assert str(caught.value).endswith("Choose another with loss=")
    with pytest.raises(UserError, match="no column Tokens; did you mean tokens"):
        from_frame(frame, "runs.csv", d="Tokens")
    with pytest.raises(UserError, match="no column params_non_embedding"):
        from_frame(frame.drop(columns="params_non_embedding"), "r", counting="non-embedding")


def test_run_ids_are_unique_strings(grid, tmp_path: Path) -> None:
    frame = grid()
    frame["run_id"] = [f"{i:03d}e1" for i in range(25)]
    frame.to_csv(tmp_path / "runs.csv", index=False)
    assert "007e1" in read(tmp_path).run_id
    frame.loc[1, "run_id"] = frame.loc[0, "run_id"]
    with pytest.raises(UserError, match="000e1 is on 2 rows"):
        from_frame(frame, "runs.csv")


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read(tmp_path / "none.csv")
    with pytest.raises(UserError, match=r"holds no runs\.csv"):
        read(tmp_path)
    empty = tmp_path / "empty.csv"
    empty.write_text("params_total,tokens,loss\n")
    with pytest.raises(UserError, match="no rows"):
        read(empty)


@pytest.mark.skipif(not importlib.util.find_spec("pyarrow"), reason="pyarrow is not installed")
def test_parquet_reads_like_csv(grid, tmp_path: Path) -> None:
    frame = grid(noise=0.01)
    frame.to_csv(tmp_path / "runs.csv", index=False)
    frame.to_parquet(tmp_path / "other.parquet")
    assert read(tmp_path / "other.parquet").sha256 == read(tmp_path).sha256


@pytest.mark.skipif(bool(importlib.util.find_spec("pyarrow")), reason="pyarrow is installed")
def test_parquet_without_pyarrow_names_what_to_install(tmp_path: Path) -> None:
    path = tmp_path / "runs.parquet"
    path.write_bytes(b"PAR1")
    with pytest.raises(UserError, match="pip install pyarrow"):
        read(path)


def test_hash_depends_on_the_numbers_only(grid) -> None:
    frame = grid(noise=0.01)
    first = from_frame(frame, "runs").sha256
    assert from_frame(frame.assign(lr=1.0).sample(frac=1, random_state=0), "x").sha256 == first
    frame.loc[5, "loss"] += 1e-12
    assert from_frame(frame, "runs").sha256 != first


def test_runs_keep_their_rows_in_the_file(grid) -> None:
    frame = grid(noise=0.01).sample(frac=1, random_state=2).reset_index(drop=True)
    table = from_frame(frame, "runs.csv").take(np.array([4, 0]))
    for run in range(2):
        row = frame.iloc[table.rows[run]]
        assert (row["run_id"], row["loss"]) == (table.run_id[run], table.loss[run])
        assert table.run_label(run) == f"row {table.rows[run] + 1} (run_id {table.run_id[run]})"
    nameless = from_frame(frame.drop(columns="run_id"), "runs.csv")
    assert nameless.run_label(0) == f"row {nameless.rows[0] + 1}" == nameless.run_id[0]


def test_a_duplicate_column_is_an_error(grid) -> None:
    frame = grid()
    frame.insert(0, "loss", 1.0, allow_duplicates=True)
    with pytest.raises(UserError, match=r"runs\.csv: has 2 columns loss, where one is expected"):
        from_frame(frame, "runs.csv")

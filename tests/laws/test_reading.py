"""Untrusted tables: every problem of a file gives one readable message."""

from __future__ import annotations

import gzip
import os
import re
import tracemalloc
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest

from scaling.errors import UserError
from scaling.laws import frames
from scaling.laws.frames import read_frame
from scaling.report import sections

GOOD = "run_id,params_total,tokens,loss\na,1000000,2000000,3.5\nb,2000000,4000000,3.25\n"
GERMAN = GOOD.replace(".", "#").replace(",", ";").replace("#", ",")

WRONG: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty"),
    "lines of nothing": (b"\n\n\r\n\n", "holds empty lines only"),
    "zeros": (b"\0" * 1000, "is not a text file"),
    "a zero byte in a cell": (GOOD.replace("3.5", "3.\0").encode(), "is not a text file"),
    "a picture": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "is not a text file"),
    "latin-1": (GOOD.replace("a,", "mod\xe8le,").encode("latin-1"),
                r"not text in UTF-8 \(line 2\)"),
    "UTF-16": (GOOD.encode("utf-16"), "is text in UTF-16; save it as UTF-8"),
    "UTF-16, the other end first": (b"\xfe\xff" + GOOD.encode("utf-16-be"), "UTF-16"),
    "UTF-16 without a mark": (GOOD.encode("utf-16-le"), "is not a text file"),
    "a short row": (f"{GOOD}c,1,2\n".encode(), "line 4 has 3 cells, where the header has 4"),
    "a long row": (f"{GOOD}c,1,2,3,4\n".encode(), "line 4 has 5 cells, where the header has 4"),
    "an index without a name": (GOOD.replace("\n", ",\n").replace(",\n", "\n", 1).encode(),
                                "line 2 has 5 cells"),
    "a decimal comma": (GOOD.replace("3.25", "3,25").encode(), "line 3 has 5 cells"),
    "an open quotation mark": (f'{GOOD}"c,1,2,3\nd,1,2,3\n'.encode(), "line 5: a quotation mark"),
    "a quotation mark inside": (f'{GOOD}"c"x,1,2,3\n'.encode(), "line 4: a quotation mark"),
    "semicolons": (GERMAN.encode(), "separated by semicolons, where commas are expected"),
    "tabs": (GOOD.replace(",", "\t").encode(), "separated by tabs"),
    "bars": (GOOD.replace(",", "|").encode(), "separated by vertical bars"),
    "gzip": (gzip.compress(GOOD.encode()), "is compressed with gzip; decompress it"),
    "a spreadsheet": (b"PK\x03\x04\x14\0\6\0", "zip archive or a spreadsheet"),
    "Parquet by another name": (b"PAR1 and more PAR1", "name that ends in .parquet"),
}


def _said(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_frame(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert not re.search("pandas\\.|Error|tokeniz|codec|buffer|dtype", message), message
    return message


@pytest.mark.parametrize("case", WRONG)
def test_errors_name_what_is_wrong_with_a_file(case: str, tmp_path: Path) -> None:
    content, said = WRONG[case]
    path = tmp_path / "runs.csv"
    path.write_bytes(content)
    assert re.search(said, _said(path))


def test_an_endless_row_is_an_error_before_it_fills_the_memory(
    tmp_path: Path, monkeypatch
) -> None:
    path = tmp_path / "runs.csv"
    monkeypatch.setattr(frames, "LARGEST_BYTES", 2**24)
    for content in (b"1," * 5_000_000, b"x" * 10_000_000, b'a,b\n"' + b"1\n," * 3_000_000):
        path.write_bytes(content)
        tracemalloc.start()
        assert re.search(r"line [\d,]+ is longer than a row of a table may be", _said(path))
        assert tracemalloc.get_traced_memory()[1] < 8 * len(content)
        tracemalloc.stop()


def test_a_table_has_a_maximum_of_rows_and_columns(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "runs.csv"
    path.write_text(GOOD)
    monkeypatch.setattr(frames, "MOST_ROWS", 1)
    assert "more than 1 rows" in _said(path)
    monkeypatch.setattr(frames, "MOST_COLUMNS", 3)
    assert "has 4 columns" in _said(path)
    monkeypatch.setattr(frames, "LARGEST_BYTES", 10)
    assert "is larger than" in _said(path)
    for name, most in (("MOST_ROWS", 2), ("MOST_COLUMNS", 4), ("LARGEST_BYTES", len(GOOD))):
        monkeypatch.setattr(frames, name, most)
    assert read_frame(path).shape == (2, 4)  # as much as is allowed


def test_only_a_table_of_one_column_has_other_separators(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    path.write_text("a;b,,c|d,,a\n1,2,3,4,5\n")
    frame = read_frame(path)
    assert [*frame.columns] == ["a;b", "Unnamed: 1", "c|d", "Unnamed: 3", "a"]
    assert frame.iloc[0].tolist() == [1, 2, 3, 4, 5]
    assert frames.duplicate_columns(frame) == set()
    path.write_text("a,b,a,c,b,b\n1,2,3,4,5,6\n")
    frame = read_frame(path)
    assert frames.duplicate_columns(frame) == {"a", "b"}
    assert frame["b"].iloc[0].tolist() == [2, 5, 6]


def test_a_folder_of_both_formats_gives_its_csv(tmp_path: Path) -> None:
    (tmp_path / "runs.parquet").touch()
    assert frames.table_path(tmp_path) == tmp_path / "runs.parquet"
    (tmp_path / "runs.csv").touch()
    assert frames.table_path(tmp_path) == tmp_path / "runs.csv"
    assert frames.table_path(tmp_path / "runs.parquet") == tmp_path / "runs.parquet"


def test_messages_of_the_parser_are_not_shown(tmp_path: Path, monkeypatch) -> None:
    """For errors that the checks before the parser do not find."""
    path = tmp_path / "runs.csv"
    path.write_text(GOOD)
    for error in (pd.errors.ParserError("Error tokenizing data. C error: Buffer overflow caught"),
                  OverflowError("int too large"), ValueError("dtype")):
        def fail(*_: object, error: Exception = error, **__: object) -> None:
            raise error

        monkeypatch.setattr(pd, "read_csv", fail)
        assert "is not readable as CSV; write it again" in _said(path)


def test_folders_pipes_and_devices_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "runs.csv")
    for path in (tmp_path, tmp_path / "runs.csv", Path("/dev/zero")):
        assert "where a file is expected" in _said(path)


def test_a_file_that_is_not_parquet_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "runs.parquet"
    path.write_bytes(GOOD.encode())
    assert "is not a Parquet file" in _said(path)
    if not find_spec("pyarrow"):
        assert "pip install pyarrow" in _said(path)
    path.write_bytes(b"PAR1 nothing PAR1")
    assert "Parquet" in _said(path)


@pytest.mark.parametrize("content", [
    GOOD, "\ufeff" + GOOD, GOOD.replace("\n", "\r\n"), GOOD.replace("\n", "\r"), "\n\n" + GOOD,
    GOOD.replace("\n", "\n\n"), GOOD.rstrip("\n"), GOOD.replace("a,", '"a",'),
])
def test_every_way_of_writing_csv_gives_the_same_table(content: str, tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    path.write_bytes(content.encode())
    frame = read_frame(path)
    assert frame["run_id"].tolist() == ["a", "b"]
    assert frame["loss"].tolist() == [3.5, 3.25]
    assert frame["tokens"].dtype.kind == "i"


def test_columns_of_mixed_types_cause_no_warning(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    path.write_text("loss\n" + "1\n" * 300_000 + "x\n")
    assert read_frame(path)["loss"].iloc[-1] == "x"


@pytest.mark.parametrize("name", ["loss", "tokens", "status", "role", "run_id"])
def test_a_duplicate_column_is_an_error_if_it_is_used(
    grid, command, tmp_path: Path, name: str
) -> None:
    frame = grid(noise=0.01)
    twice = pd.concat([frame, frame[[name]]], axis=1)
    twice.to_csv(tmp_path / "runs.csv", index=False)
    for words in (["fit"], ["sweep", "suggest", "--target", "a", "--budget", 1e13], ["plot"]):
        done = command(words[0], *words[1:2 if words[0] == "sweep" else 1], tmp_path,
                       *words[2 if words[0] == "sweep" else 1:])
        assert done.code == 2
        assert f"has 2 columns {name}" in done.err


def test_a_message_is_one_short_line_whatever_the_columns_are_called(
    command, tmp_path: Path
) -> None:
    header = ",".join(['"a\nb"', '"\x1b[2J"', "x" * 5000, *(f"c{i}" for i in range(5000))])
    (tmp_path / "runs.csv").write_text(f"{header}\n{',' * header.count(',')}\n")
    for words in ((), ("--law", "clark"), ("--n", "a"), ("--where", "y > 1")):
        done = command("fit", tmp_path, *words)
        assert done.code == 2
        assert len(done.err) < 5000
        assert "\x1b" not in done.err
        assert all(line.startswith(("error: ", "not fitted: ")) for line in done.err.splitlines())


def test_an_unused_duplicate_column_is_allowed(
    grid, command, tmp_path: Path
) -> None:
    frame = grid(noise=0.01).assign(lr=0.1)
    pd.concat([frame, frame[["lr"]]], axis=1).to_csv(tmp_path / "runs.csv", index=False)
    done = command("fit", tmp_path, "--law", "chinchilla", "--bootstrap", 0, "--checklist",
                   "--save", tmp_path / "laws.json")
    assert done.code == 0, done.err
    assert sections.runs(read_frame(tmp_path / "runs.csv")).count("<td") % 25 == 0
    done = command("fit", tmp_path, "--where", "lr < 1", "--bootstrap", 0)
    assert "there are 2 columns lr" in done.err

"""Parquet files yield their rows once for any parts, and errors name their location."""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from scaling.data import sources
from scaling.errors import UserError

TEXTS = [f"row {i} é" if i % 7 else " " for i in range(100)]


@pytest.fixture
def write(tmp_path):
    """Writes a Parquet file with row groups of 10 rows; returns its source string."""
    pa = pytest.importorskip("pyarrow", reason="needs pyarrow: pip install pyarrow")
    from pyarrow import parquet

    def written(values: Any, name: str = "a.parquet", **options: Any) -> str:
        parquet.write_table(pa.table({"id": range(len(values)), "text": values}),
                            tmp_path / name, row_group_size=10, **options)
        return f"parquet:{tmp_path}/*.parquet#text"

    return written


def test_rows_are_documents_in_every_division(write):
    import pyarrow as pa

    write(TEXTS)
    write(pa.array(TEXTS[:20], pa.large_string()), "b.parquet")
    source = write(pa.array(TEXTS[:20]).dictionary_encode(), "c.parquet")
    expected = [text for text in TEXTS + TEXTS[:20] * 2 if text.strip()]
    found = sources.find(source)
    assert list(found.documents()) == expected
    for size in (1, 500, 10**9):
        parts = found.parts(size)
        assert [text for part in parts for text in found.read(part)] == expected
    assert len(found.parts(1)) == 14
    assert len(found.parts(10**9)) == 3
    assert found.reading == "parquet#text"


def test_invalid_utf8_follows_the_policy(write):
    import pyarrow as pa

    source = write(pa.array([b"good", b"caf\xe9"] * 8, pa.binary()))
    with pytest.raises(UserError, match=r"a\.parquet: row 2: not UTF-8 text \(byte 3 is 0xe9\)"):
        list(sources.documents(source))
    problems = Counter()
    assert list(sources.find(source, "skip").documents(problems)) == ["good"] * 8
    assert problems == {"not_utf8": 8}


def test_a_row_is_named_from_every_part(write):
    source = sources.find(write([*TEXTS[:33], None]))
    for size in (1, 10**9):
        with pytest.raises(UserError, match=r"'text' of row 34 is null, but text is expected"):
            list(source.read(source.parts(size)[-1]))


def test_a_missing_or_non_text_column_is_refused(write, tmp_path):
    source = write(TEXTS)
    with pytest.raises(UserError, match=r"has no field 'txt'; did you mean 'text'[?]"):
        sources.find(source.replace("#text", "#txt"))
    with pytest.raises(UserError, match="'id' is of type int64, but text is expected"):
        sources.find(source.replace("#text", "#id"))
    path = tmp_path / "a.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"a\.parquet: not a complete Parquet file"):
        sources.find(source)


def test_without_pyarrow_the_message_has_the_install_command(tmp_path, monkeypatch):
    Path(tmp_path, "a.parquet").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"install it with: pip install pyarrow$"):
        sources.find(f"parquet:{tmp_path}/a.parquet#text")


def test_a_pipe_is_refused_without_blocking(write, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="a pipe or device"):
        sources.find(write(TEXTS).replace("*.parquet", "pipe"))

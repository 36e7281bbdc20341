"""TFDS: built datasets are read in every format; others are refused at once."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from scaling.data.sources import find
from scaling.data.sources import tfds_built as ours
from scaling.errors import UserError

from .conftest import TEXTS, TRAIN


@pytest.mark.parametrize("file_format", ["array_record", "tfrecord"])
def test_all_splits_are_read_one_after_the_other(data_folder, file_format):
    data_folder(file_format)
    texts = list(find("tfds:toy").documents())
    assert len(texts) == len(TEXTS)
    assert set(texts[:TRAIN]) == set(TEXTS[:TRAIN])
    assert set(texts[TRAIN:]) == set(TEXTS[TRAIN:])


@pytest.mark.parametrize("file_format", ["array_record", "tfrecord"])
@pytest.mark.parametrize("target_bytes", [1, 40_000, 2**40])
def test_parts_make_up_the_corpus(data_folder, file_format, target_bytes):
    data_folder(file_format)
    source = find("tfds:toy@train")
    again = pickle.loads(pickle.dumps(source))
    parts = source.parts(target_bytes)
    read = [text for part in parts for text in again.read(part)]
    assert read == list(source.documents())
    assert Counter(read) == Counter(TEXTS[:TRAIN])
    assert {part.path for part in parts} == set(source.files)


def test_small_parts_cut_array_record_files(data_folder):
    data_folder("array_record")
    source = find("tfds:toy@train")
    assert len(source.parts(1)) == TRAIN
    assert len(source.parts(2**40)) == len(source.files) == 3


def test_both_formats_hold_the_same_in_the_same_order(data_folder):
    texts = []
    for file_format in ("array_record", "tfrecord"):
        data_folder(file_format)
        texts.append(list(find("tfds:toy").documents()))
    assert texts[0] == texts[1]


def test_array_record_needs_no_tensorflow(built):
    code = ("import sys; from scaling.data.sources import find; "
            "texts = list(find('tfds:toy').documents()); "
            "print(len(texts), *sorted({'tensorflow', 'jax', 'seqio'} & set(sys.modules)))")
    root = built("array_record")
    result = subprocess.run([sys.executable, "-c", code], env={"TFDS_DATA_DIR": root},
                            cwd=Path(__file__).parents[2], capture_output=True, text=True,
                            timeout=60, check=True)
    assert result.stdout.split() == [str(len(TEXTS))]


def test_fields(data_folder):
    data_folder("array_record")
    assert set(find("tfds:toy:1.0.0@validation#translation/fr").documents()) == {
        f"{number} autos" for number in range(TRAIN, len(TEXTS) + 1)}
    with pytest.raises(UserError, match=r"no text field 'number'; name one of text, "
                                        r"translation/en, translation/fr|name one of"):
        find("tfds:toy#number")


def test_hash_is_of_the_records_files(data_folder, built, tmp_path, monkeypatch):
    data_folder("array_record")
    source = find("tfds:toy")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "copy"))
    shutil.copytree(built("array_record"), tmp_path / "copy")
    copied = find("tfds:toy")
    assert copied.files != source.files
    assert copied.sha256() == source.sha256()
    assert copied.sha256() != find("tfds:toy@train").sha256()
    changed = copied.files[0]
    changed.write_bytes(changed.read_bytes() + b"\0")
    assert find("tfds:toy").sha256() != source.sha256()


def test_newest_version(built, tmp_path, monkeypatch):
    for version in ("0.9.0", "0.10.0", "1.0.0"):
        shutil.copytree(Path(built("array_record"), "toy", "1.0.0"), tmp_path / "toy" / version)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert find("tfds:toy").files[0].parent.name == "1.0.0"
    assert find("tfds:toy:0.*").files[0].parent.name == "0.10.0"
    assert find("tfds:toy:0.9.0").files[0].parent.name == "0.9.0"


def test_configurations_are_named(built, tmp_path, monkeypatch):
    for config in ("large", "small"):
        shutil.copytree(Path(built("array_record"), "toy"), tmp_path / "pair" / config)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(UserError, match="several configurations; name one of pair/large, pair/sm"):
        find("tfds:pair")
    assert find("tfds:pair/small").corpus == "pair-small"


def test_no_network_is_said_at_once(data_folder, monkeypatch):
    data_folder("array_record")
    monkeypatch.setattr(ours, "_HOST", "http://127.0.0.1:9/")
    find("tfds:toy")  # TFDS is imported by now
    start = time.monotonic()
    with pytest.raises(UserError, match="no network") as refused:
        find("tfds:lm1b")
    assert time.monotonic() - start < 5
    assert "tfds:toy:1.0.0" in str(refused.value)
    assert "tfds build lm1b" in str(refused.value)


def test_what_is_not_built_is_built_where_there_is_a_network(builder, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(ours, "_unreachable", lambda: None)
    assert sum(1 for _ in find("tfds:toy").documents()) == len(TEXTS)
    assert list(tmp_path.glob("toy/1.0.0/*.array_record-*"))
    with pytest.raises(UserError, match="TFDS could not build it"):
        find("tfds:toy:7.0.0")


@pytest.mark.parametrize(("source", "message"), [
    ("tfds:imdb_review", "did you mean tfds:imdb_reviews"),
    ("tfds:toys", "did you mean tfds:toy"),
    ("tfds:toy@test", "has no split 'test'; it has train, validation"),
    ("tfds:", r"write tfds:NAME\[/CONFIG\]"),
])
def test_refusals_name_what_there_is(data_folder, source, message):
    data_folder("array_record")
    with pytest.raises(UserError, match=message):
        find(source)

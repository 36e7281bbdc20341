"""Data sets of TensorFlow Datasets, read where they were built: `tfds:NAME`.

A built data set is a folder ROOT/NAME[/CONFIG]/VERSION with its description and its shards. It is
looked for there and nowhere else, so that a name is found, or refused, in a moment; the network is
asked only for what is not built yet. array_record is built and read without TensorFlow.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from scaling.data.sources.base import Decode, Part, Source
from scaling.data.sources.tfds_built import FORMAT, Built, build, library, newest
from scaling.errors import UserError

_NAME = re.compile(r"tfds:(?P<name>[^/:@#]+)(/(?P<config>[^:@#]+))?(:(?P<version>[^@#]+))?"
                   r"(@(?P<split>[^#]+))?(#(?P<field>.+))?")
_FORM = "tfds:NAME[/CONFIG][:VERSION][@SPLIT][#FIELD]"


def find_tfds(source: str) -> Source:
    """`tfds:NAME[/CONFIG][:VERSION][@SPLIT][#FIELD]`: every record a document.

    The newest version is taken unless one is named, and all splits, one after the other, since
    documents are divided by their text anyway. The field is the only one that is text, or else the
    one called `text`, or the one that is named (`translation/en` for one inside another).

    A data set that was not built yet is downloaded and built as array_record.

    Raises:
        UserError: TFDS is not installed, the data set is not built and cannot be, or it has no
            such version, split or field.
    """
    asked = _NAME.fullmatch(source)
    if asked is None:
        raise UserError(f"{source}: not the name of a TFDS data set; write {_FORM}")
    built = find_built(source, asked["name"], asked["config"] or "", asked["version"] or "*")
    splits = splits_of(source, built, asked["split"])
    field = _text_field(source, built, asked["field"])
    files = files_of(built, splits)
    return Source(source, "-".join(filter(None, [built.name, built.config])).replace("/", "-"),
                  f"tfds#{field}", files, partial(_texts, built.folder, field),
                  partial(divide, built.folder, splits))


def find_built(source: str, name: str, config: str = "", version: str = "*") -> Built:
    """The newest version of a data set that matches; what is not here is downloaded and built.

    Args:
        source: what the user asked for, for messages.
        name: of the data set.
        config: its configuration; empty for the only one that was built.
        version: a pattern, as `3.*.*`.

    Raises:
        UserError: it is not here and cannot be built, or several configurations were built and
            none is asked for, or it was built in a format that cannot be read.
    """
    library(source)
    built = newest(source, name, config, version) or build(source, name, config, version)
    kind = info(built.folder).file_format.value
    if kind not in _RECORDS:
        raise UserError(f"{source}: {built} was built as {kind}, and {' and '.join(_RECORDS)} can "
                        "be read; build it again as array_record")
    return built


def splits_of(source: str, built: Built, asked: str | None) -> tuple[str, ...]:
    """The split that is asked for, or all.

    Raises:
        UserError: there is no such split.
    """
    splits = tuple(info(built.folder).splits)
    if asked not in (None, *splits):
        raise UserError(f"{source}: {built} has no split {asked!r}; it has {', '.join(splits)}")
    return splits if asked is None else (asked,)


def tensorflow() -> Any:
    """TensorFlow, which says only what went wrong and leaves the accelerators alone."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # an error that matters is an exception
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")
    return tf


def strings(items: Callable[[], Iterator[str | bytes]]) -> Any:
    """A tf.data.Dataset of what `items` gives; several at a time cross into TensorFlow."""
    tf = tensorflow()

    def several() -> Iterator[list[str | bytes]]:
        rest = items()
        while block := list(islice(rest, _RECORDS_AT_ONCE)):
            yield block

    return tf.data.Dataset.from_generator(
        several, output_signature=tf.TensorSpec([None], tf.string)).unbatch()


# Reading what is built.

@lru_cache(maxsize=8)
def info(folder: Path) -> Any:
    """What TFDS knows of the data set in a folder: features, splits, the format of its files."""
    import tensorflow_datasets

    return tensorflow_datasets.builder_from_directory(str(folder)).info


def files_of(built: Built, splits: tuple[str, ...]) -> tuple[Path, ...]:
    """The files that hold the splits."""
    return tuple(path for path, _ in _shards(built.folder, splits))


def _shards(folder: Path, splits: tuple[str, ...]) -> list[tuple[Path, int]]:
    """The files of the splits, and how many records each holds."""
    chosen = (info(folder).splits[split] for split in splits)
    return [(Path(path), length) for split in chosen
            for path, length in zip(split.filepaths, split.shard_lengths, strict=True)]


def _text_field(source: str, built: Built, asked: str | None) -> str:
    fields = _text_fields(info(built.folder).features)
    if asked in fields:
        return asked
    if asked is None and (len(fields) == 1 or "text" in fields):
        return "text" if "text" in fields else fields[0]
    if not fields:
        raise UserError(f"{source}: {built} has no field that is text")
    wrong = f"has no text field {asked!r}" if asked else "has several fields that are text"
    raise UserError(f"{source}: {built} {wrong}; name one of {', '.join(fields)}, for example "
                    f"{source.partition('#')[0]}#{fields[0]}")


def _text_fields(features: Any, inside: str = "") -> list[str]:
    from tensorflow_datasets import features as kinds

    found = []
    for name, feature in features.items():
        if isinstance(feature, kinds.FeaturesDict):
            found += _text_fields(feature, f"{inside}{name}/")
        elif isinstance(feature, kinds.Text):
            found.append(inside + name)
    return found


def divide(
    folder: Path, splits: tuple[str, ...], files: tuple[Path, ...], target_bytes: int
) -> list[Part]:
    """The splits in parts: runs of records of one file each."""
    whole = info(folder).file_format.value != FORMAT  # read from a file's start alone
    parts = []
    for path, length in _shards(folder, splits):
        count = 1 if whole else max(1, min(length, round(path.stat().st_size / target_bytes)))
        cuts = [length * place // count for place in range(count + 1)]
        parts += [Part(path, *cut) for cut in pairwise(cuts)]
    return parts


def _texts(folder: Path, field: str, part: Part, decode: Decode) -> Iterator[str | None]:
    record_features = info(folder).features
    keys = field.split("/")
    features = record_features
    for key in keys:  # records are decoded no further than this field
        features = features[key]
    wanted: Any = features
    for key in reversed(keys):
        wanted = {key: wanted}
    wanted = type(record_features)(wanted)
    for number, record in enumerate(records(folder, part), part.start):
        text = wanted.deserialize_example_np(record)
        for key in keys:
            text = text[key]
        yield decode(text, f"{part.path}: record {number:,}")


def records(folder: Path, part: Part) -> Iterator[bytes]:
    """The records of a part as they stand in the file: tf.train.Example, serialised."""
    return _RECORDS[info(folder).file_format.value](part)


def _array_record(part: Part) -> Iterator[bytes]:
    from array_record.python import array_record_module

    reader = array_record_module.ArrayRecordReader(str(part.path))
    try:
        stop = reader.num_records() if part.stop is None else part.stop
        for start in range(part.start, stop, _RECORDS_AT_ONCE):
            yield from reader.read(start, min(start + _RECORDS_AT_ONCE, stop))
    finally:
        reader.close()


def _tfrecord(part: Part) -> Iterator[bytes]:
    tf = tensorflow()
    records = tf.data.TFRecordDataset(str(part.path)).skip(part.start)
    if part.stop is not None:
        records = records.take(part.stop - part.start)
    yield from records.as_numpy_iterator()


_RECORDS = {FORMAT: _array_record, "tfrecord": _tfrecord}
_RECORDS_AT_ONCE = 256

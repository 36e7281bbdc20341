"""Datasets of TensorFlow Datasets, read from the folder in which they were built: `tfds:NAME`.

A built dataset is a folder ROOT/NAME[/CONFIG]/VERSION with its description and its shards. Only
that folder is searched, so a name is found or refused at once; the network is used only for a
dataset that has not been built yet. array_record is built and read without TensorFlow.
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
from scaling.data.sources.files import clean_name
from scaling.data.sources.tfds_built import FORMAT, Built, build, import_tfds, newest_built
from scaling.errors import UserError

_NAME = re.compile(r"tfds:(?P<name>[^/:@#]+)(/(?P<config>[^:@#]+))?(:(?P<version>[^@#]+))?"
                   r"(@(?P<split>[^#]+))?(#(?P<field>.+))?")
_FORM = "tfds:NAME[/CONFIG][:VERSION][@SPLIT][#FIELD]"


def find_tfds(source: str) -> Source:
    """`tfds:NAME[/CONFIG][:VERSION][@SPLIT][#FIELD]`: a document per record.

    Defaults: the newest version; all splits in sequence, since documents are split again by the
    hash of their text; the field `text`, or the only text field. `translation/en` is a field inside
    another.

    A dataset that has not been built yet is downloaded and built as array_record.

    Raises:
        UserError: TFDS is not installed, the dataset cannot be built, or it has no such version,
            split or field.
    """
    match = _NAME.fullmatch(source)
    if match is None:
        raise UserError(f"{source}: not the name of a TFDS dataset; write {_FORM}")
    built = find_built(source, match["name"], match["config"] or "", match["version"] or "*")
    splits = splits_of(source, built, match["split"])
    field = _text_field(source, built, match["field"])
    files = files_of(built, splits)
    return Source(source, clean_name(f"{built.name}-{built.config}", "._") or "tfds",
                  f"tfds#{field}", files, partial(_texts, built.folder, field),
                  partial(divide, built.folder, splits))


def find_built(source: str, name: str, config: str = "", version: str = "*") -> Built:
    """The newest matching version of a dataset, downloaded and built if necessary.

    Args:
        source: The source string, for messages.
        name: Name of the dataset.
        config: Configuration; empty for the only one that was built.
        version: Pattern such as `3.*.*`.

    Raises:
        UserError: It cannot be built, several configurations were built and none is specified, or
            it was built in an unsupported format.
    """
    import_tfds(source)
    built = newest_built(source, name, config, version) or build(source, name, config, version)
    kind = info(built.folder).file_format.value
    if kind not in _RECORDS:
        raise UserError(f"{source}: {built} was built as {kind}, but only "
                        f"{' and '.join(_RECORDS)} can be read; build it again as array_record")
    return built


def splits_of(source: str, built: Built, split: str | None) -> tuple[str, ...]:
    """The given split, or all splits for None.

    Raises:
        UserError: There is no such split.
    """
    splits = tuple(info(built.folder).splits)
    if split not in (None, *splits):
        raise UserError(f"{source}: {built} has no split {split!r}; it has {', '.join(splits)}")
    return splits if split is None else (split,)


def tensorflow() -> Any:
    """Import TensorFlow with warnings silenced and all GPUs hidden from it."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # errors that matter are exceptions
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")
    return tf


def string_dataset(items: Callable[[], Iterator[str | bytes]]) -> Any:
    """A tf.data.Dataset of the strings that `items` yields, passed to TensorFlow in blocks."""
    tf = tensorflow()

    def blocks() -> Iterator[list[str | bytes]]:
        iterator = items()
        while block := list(islice(iterator, _RECORDS_AT_ONCE)):
            yield block

    return tf.data.Dataset.from_generator(
        blocks, output_signature=tf.TensorSpec([None], tf.string)).unbatch()


# Reading a built dataset.

@lru_cache(maxsize=8)
def info(folder: Path) -> Any:
    """The tfds.core.DatasetInfo of a built dataset: features, splits, file format."""
    import tensorflow_datasets

    return tensorflow_datasets.builder_from_directory(str(folder)).info


def files_of(built: Built, splits: tuple[str, ...]) -> tuple[Path, ...]:
    """The files of the splits."""
    return tuple(path for path, _ in _shards(built.folder, splits))


def _shards(folder: Path, splits: tuple[str, ...]) -> list[tuple[Path, int]]:
    """The files of the splits, and the number of records in each."""
    infos = (info(folder).splits[split] for split in splits)
    return [(Path(path), length) for split in infos
            for path, length in zip(split.filepaths, split.shard_lengths, strict=True)]


def _text_field(source: str, built: Built, name: str | None) -> str:
    fields = _text_fields(info(built.folder).features)
    if name in fields:
        return name
    if name is None and (len(fields) == 1 or "text" in fields):
        return "text" if "text" in fields else fields[0]
    if not fields:
        raise UserError(f"{source}: {built} has no text field")
    problem = f"has no text field {name!r}" if name else "has several text fields"
    raise UserError(f"{source}: {built} {problem}; name one of {', '.join(fields)}, for example "
                    f"{source.partition('#')[0]}#{fields[0]}")


def _text_fields(features: Any, prefix: str = "") -> list[str]:
    from tensorflow_datasets import features as kinds

    found = []
    for name, feature in features.items():
        if isinstance(feature, kinds.FeaturesDict):
            found += _text_fields(feature, f"{prefix}{name}/")
        elif isinstance(feature, kinds.Text):
            found.append(prefix + name)
    return found


def divide(
    folder: Path, splits: tuple[str, ...], files: tuple[Path, ...], target_bytes: int
) -> list[Part]:
    """Divide the splits into parts: ranges of records within one file each."""
    sequential = info(folder).file_format.value != FORMAT  # readable from a file's start only
    parts = []
    for path, length in _shards(folder, splits):
        count = 1 if sequential else max(1, min(length, round(path.stat().st_size / target_bytes)))
        cuts = [length * place // count for place in range(count + 1)]
        parts += [Part(path, *cut) for cut in pairwise(cuts)]
    return parts


def _texts(folder: Path, field: str, part: Part, decode: Decode) -> Iterator[str | None]:
    record_features = info(folder).features
    keys = field.split("/")
    features = record_features
    for key in keys:  # only this field of a record is decoded
        features = features[key]
    partial_features: Any = features
    for key in reversed(keys):
        partial_features = {key: partial_features}
    partial_features = type(record_features)(partial_features)
    for number, record in enumerate(records(folder, part), part.start):
        text = partial_features.deserialize_example_np(record)
        for key in keys:
            text = text[key]
        yield decode(text, f"{part.path}: record {number:,}")


def records(folder: Path, part: Part) -> Iterator[bytes]:
    """Yield the records of a part as serialised tf.train.Example."""
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

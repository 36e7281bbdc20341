"""The text of seqio's tasks and mixtures: `seqio:NAME`.

What a task does before it tokenizes belongs to the corpus, and is done here. What it does to the
tokens belongs to the objective: spans are corrupted in training, anew in every epoch, and not in a
token store.
"""

from __future__ import annotations

import difflib
import importlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

from scaling.data.sources import tfds
from scaling.data.sources.base import Decode, Divide, Part, Source
from scaling.errors import UserError

MODULES = "SCALING_SEQIO_MODULES"
"""Environment variable: modules that register more tasks, separated by commas."""

_NAME = re.compile(r"seqio:(?P<name>[^@]+)(@(?P<split>.+))?")
_SEED = 0  # of the stages before a task tokenizes, where they draw anything

Failures = list[UserError]


class _Feed(NamedTuple):
    """Where the examples of a task come from."""

    files: tuple[Path, ...]
    divide: Divide
    dataset: Callable[[Part, Decode, Failures], Any]
    """The tf.data.Dataset of a part. What goes wrong in Python is put into the list, since
    TensorFlow would wrap it up in an error of its own."""


def find_seqio(source: str) -> Source:
    """`seqio:TASK_OR_MIXTURE[@SPLIT]`: the text that the task tokenizes, of all splits or of one.

    An example's features that are text make one document, those that are not empty, a line each.
    A mixture's tasks take turns so that their rates are their shares of the text, in UTF-8 bytes,
    and it ends when one of them does: nothing is repeated. The registry is `scaling.data.tasks`
    and what the modules add that SCALING_SEQIO_MODULES names.

    Raises:
        UserError: seqio is not installed, it knows no such task, the task has no such split, its
            data are not here, or it never tokenizes.
    """
    asked = _NAME.fullmatch(source)
    if asked is None:
        raise UserError(f"{source}: not the name of a seqio task; write seqio:TASK_OR_MIXTURE or "
                        "seqio:TASK_OR_MIXTURE@SPLIT")
    provider = _provider(source, asked["name"])
    corpus = re.sub(r"[^A-Za-z0-9]+", "-", asked["name"]).strip("-")
    reading = source
    if hasattr(provider, "tasks"):
        rates = _rates(source)
        files = tuple(path for task in rates for path in _feed(source, task).files)
        reading += ", bytes" + "".join(f" {task}={rate!r}" for task, rate in rates.items())
        return Source(source, corpus, reading, files, partial(_mixed, source), _in_one)
    feed = _feed(source, provider.name)
    return Source(source, corpus, reading, feed.files, partial(_texts, source, provider.name),
                  feed.divide)


# The registry.

def _seqio(source: str) -> Any:
    try:
        from scaling.data import tasks
    except ImportError as error:
        raise UserError(f"{source}: needs seqio ({error}); install it with: pip install "
                        "'scaling[prepare]'") from None
    return tasks.seqio


def _provider(source: str, name: str) -> Any:
    """The task or mixture of a name."""
    seqio = _seqio(source)
    for module in filter(None, map(str.strip, os.environ.get(MODULES, "").split(","))):
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise UserError(f"{MODULES} names {module!r}, which cannot be imported ({error}); "
                            "put its folder on PYTHONPATH or mend the name") from None
    for registry in (seqio.MixtureRegistry, seqio.TaskRegistry):
        if name in registry.names():
            return registry.get(name)
    names = {*seqio.MixtureRegistry.names(), *seqio.TaskRegistry.names()}
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.4)
    hint = " or ".join(f"seqio:{each}" for each in near) or "one of scaling.data.tasks"
    raise UserError(f"{source}: seqio knows no task or mixture {name!r}; did you mean {hint}? A "
                    f"module that registers more is named by {MODULES}")


@lru_cache(maxsize=64)
def _rates(source: str) -> dict[str, float]:
    """The tasks of a mixture by name, and the share of its text that each has."""
    asked = _NAME.fullmatch(source)
    assert asked is not None
    mixture = _provider(source, asked["name"])
    rates = {task.name: float(mixture.get_rate(task)) for task in mixture.tasks}
    total = sum(rates.values())
    return {name: rate / total for name, rate in rates.items() if rate > 0}


# Where examples come from.

@lru_cache(maxsize=64)
def _feed(source: str, name: str) -> _Feed:
    from scaling.data.sources.registry import find
    from scaling.data.tasks import CorpusDataSource

    seqio = _seqio(source)
    data = _provider(source, name).source
    asked = _NAME.fullmatch(source)
    split = asked["split"] if asked is not None else None
    if isinstance(data, seqio.TfdsDataSource):
        return _of_tfds(source, data.tfds_dataset, split)
    splits = tuple(data.splits) if split is None else (split,)
    if split is not None and split not in data.splits:
        raise UserError(f"{source}: {name} has no split {split!r}; it has "
                        f"{', '.join(data.splits)}")
    if isinstance(data, CorpusDataSource):
        corpus = find(data.source)
        return _Feed(corpus.files, corpus.divide, partial(_corpus_examples, corpus))
    if isinstance(data, seqio.FileDataSource):
        shards = [(split, place, Path(path)) for split in splits
                  for place, path in enumerate(data.list_shards(split))]
        files = tuple(path for _, _, path in shards)
        if missing := [path for path in files if not path.is_file()]:
            raise UserError(f"{source}: {missing[0]} is not a file on this machine, where {name} "
                            "wants to read it; copy its files here and register a task on them")
        return _Feed(files, _each, partial(_file_examples, data, tuple(shards)))
    raise UserError(f"{source}: {name} reads from a {type(data).__name__}, which has no files to "
                    "hash; register a task on files, on TFDS or on a CorpusDataSource "
                    "(scaling.data.tasks)")


def _of_tfds(source: str, data: Any, split: str | None) -> _Feed:
    # A task may call its splits what it likes; seqio keeps that to itself.
    called = data._split_map or {}
    asked = re.fullmatch(r"([^/:]+)(?:/([^:]+))?(?::(.+))?", data.name or "")
    if asked is None or not all(isinstance(each, str) for each in called.values()):
        raise UserError(f"{source}: reads from several TFDS data sets; name its tasks one by one")
    name, config, version = asked.groups()
    built = tfds.find_built(source, name, config or "", version or "*")
    wanted = [called.get(split, split)] if split else list(called.values()) or [None]
    splits = tuple(each for want in wanted for each in tfds.splits_of(source, built, want))
    return _Feed(tfds.files_of(built, splits), partial(tfds.divide, built.folder, splits),
                 partial(_tfds_examples, built.folder))


def _in_one(files: tuple[Path, ...], target_bytes: int) -> list[Part]:
    """A mixture is read by one worker: whose turn it is depends on all before."""
    return [Part(files[0])]


def _each(files: tuple[Path, ...], target_bytes: int) -> list[Part]:
    return [Part(path, place, place + 1) for place, path in enumerate(files)]


def _corpus_examples(corpus: Source, part: Part, decode: Decode, failures: Failures) -> Any:
    texts = (text for text in corpus.reader(part, decode) if text and not text.isspace())
    return _strings(texts, failures).map(lambda text: {"text": text})


def _tfds_examples(folder: Path, part: Part, decode: Decode, failures: Failures) -> Any:
    return _strings(tfds.records(folder, part), failures).map(
        tfds.info(folder).features.deserialize_example)


def _file_examples(
    data: Any, shards: tuple[tuple[str, int, Path], ...], part: Part, decode: Decode,
    failures: Failures,
) -> Any:
    seqio = _seqio(part.path.name)
    split, place, _ = shards[part.start]
    count = sum(each == split for each, _, _ in shards)
    return data.get_dataset(split, shuffle=False, shard_info=seqio.ShardInfo(place, count))


def _strings(items: Iterator[Any], failures: Failures) -> Any:
    def guarded() -> Iterator[Any]:
        try:
            yield from items
        except UserError as error:
            failures.append(error)

    return tfds.strings(guarded)


# From examples to text.

def _texts(source: str, name: str, part: Part, decode: Decode) -> Iterator[str | None]:
    """The documents of a part of a task."""
    seqio = _seqio(source)
    task = _provider(source, name)
    failures: Failures = []
    examples = _feed(source, name).dataset(part, decode, failures)
    with seqio.utils.map_seed_manager(_SEED):
        for stage in _stages_before_tokens(source, task):
            examples = seqio.utils.add_kwargs_to_transform(
                stage, sequence_length=None, output_features=task.output_features)(examples)
    features = [feature for feature in task.output_features
                if getattr(examples.element_spec.get(feature), "dtype", None) == "string"]
    if not features:
        raise UserError(f"{source}: {name} has no text among {', '.join(task.output_features)} "
                        "where it tokenizes")
    for number, example in enumerate(examples.as_numpy_iterator()):
        text = b"\n".join(filter(None, (example[feature] for feature in features)))
        yield decode(text, f"{part.path}: example {number:,} of {name}")
    if failures:
        raise failures[0]


def _stages_before_tokens(source: str, task: Any) -> list[Callable[..., Any]]:
    seqio = _seqio(source)
    ends = (seqio.preprocessors.tokenize, seqio.preprocessors.tokenize_and_append_eos)
    stages: list[Callable[..., Any]] = []
    for stage in task.preprocessors:
        if (stage.func if isinstance(stage, partial) else stage) in ends:
            return stages
        if not isinstance(stage, seqio.CacheDatasetPlaceholder):
            stages.append(stage)
    raise UserError(f"{source}: {task.name} never calls seqio.preprocessors.tokenize, so where "
                    "its text ends and its tokens begin cannot be told")


def _mixed(source: str, part: Part, decode: Decode) -> Iterator[str | None]:
    """The documents of a mixture: next comes the task that lags most behind its share.

    Shares are of the text. seqio draws rows, which are all as long, so that a task's part of them
    does not depend on how long its documents are.
    """
    rates = _rates(source)
    texts = {name: _all_texts(source, name, decode) for name in rates}
    taken = dict.fromkeys(rates, 0)
    while True:
        name = min(rates, key=lambda name: taken[name] / rates[name])
        try:
            text = next(texts[name])
        except StopIteration:
            return
        taken[name] += len((text or "").encode())
        yield text


def _all_texts(source: str, name: str, decode: Decode) -> Iterator[str | None]:
    feed = _feed(source, name)
    for part in feed.divide(feed.files, sys.maxsize):
        yield from _texts(source, name, part, decode)

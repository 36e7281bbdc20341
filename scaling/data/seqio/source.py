"""The text of seqio tasks and mixtures as a source: `seqio:NAME`.

The preprocessors of a task before tokenization belong to the corpus and are applied here. Those
after it belong to the objective: span corruption happens during training, freshly in every epoch,
and not in a token store.
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
from scaling.data.sources.base import Decode, Divide, Part, Source, SourceKind
from scaling.data.sources.files import clean_name
from scaling.errors import UserError

MODULES = "SCALING_SEQIO_MODULES"
"""Environment variable with the modules that register more tasks, separated by commas."""

_NAME = re.compile(r"seqio:(?P<name>[^@]+)(@(?P<split>.+))?")
_SEED = 0  # for preprocessors before tokenization that use random numbers

Failures = list[UserError]


class _Examples(NamedTuple):
    """The raw examples of a task: its files, and a dataset for each part of them."""

    files: tuple[Path, ...]
    divide: Divide
    dataset: Callable[[Part, Decode, Failures], Any]
    """The tf.data.Dataset of a part. UserErrors raised in Python are appended to the list, since
    TensorFlow would wrap them in its own errors."""


def find_seqio(source: str) -> Source:
    """`seqio:TASK_OR_MIXTURE[@SPLIT]`: the text that a task tokenizes, of all splits or of one.

    The non-empty text features of an example form one document, a line each. The tasks of a mixture
    are interleaved such that their rates are their shares of the text in UTF-8 bytes, until one of
    them is exhausted: nothing is repeated. Tasks are those of `scaling.data.seqio.tasks` and of the
    modules in SCALING_SEQIO_MODULES.

    Raises:
        UserError: seqio is not installed, there is no such task, the task has no such split, its
            data are not on this machine, or it never tokenizes.
    """
    match = _NAME.fullmatch(source)
    if match is None:
        raise UserError(f"{source}: not the name of a seqio task; write seqio:TASK_OR_MIXTURE or "
                        "seqio:TASK_OR_MIXTURE@SPLIT")
    provider = _provider(source, match["name"])
    corpus = clean_name(match["name"]) or "seqio"
    reading = source
    if hasattr(provider, "tasks"):
        rates = _rates(source)
        files = tuple(path for task in rates for path in _examples(source, task).files)
        reading += ", bytes" + "".join(f" {task}={rate!r}" for task, rate in rates.items())
        return Source(source, corpus, reading, files, partial(_mixture_texts, source), _one_part)
    examples = _examples(source, provider.name)
    return Source(source, corpus, reading, examples.files, partial(_texts, source, provider.name),
                  examples.divide)


# The registry.

def _seqio(source: str) -> Any:
    try:
        from scaling.data.seqio import tasks
    except ImportError as error:
        raise UserError(f"{source}: needs seqio ({error}); install it with: pip install "
                        "'scaling[prepare]'") from None
    return tasks.seqio


def _provider(source: str, name: str) -> Any:
    """The task or mixture of this name."""
    seqio = _seqio(source)
    for module in filter(None, map(str.strip, os.environ.get(MODULES, "").split(","))):
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise UserError(f"{MODULES} names {module!r}, which cannot be imported ({error}); "
                            "put its folder on PYTHONPATH or fix the name") from None
    for registry in (seqio.MixtureRegistry, seqio.TaskRegistry):
        if name in registry.names():
            return registry.get(name)
    names = {*seqio.MixtureRegistry.names(), *seqio.TaskRegistry.names()}
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.4)
    hint = " or ".join(f"seqio:{each}" for each in near) or "one of scaling.data.seqio.tasks"
    raise UserError(f"{source}: seqio has no task or mixture {name!r}; did you mean {hint}? Set "
                    f"{MODULES} to modules that register more")


@lru_cache(maxsize=64)
def _rates(source: str) -> dict[str, float]:
    """The share of the text of each task of a mixture, by name; they sum to one."""
    match = _NAME.fullmatch(source)
    assert match is not None
    mixture = _provider(source, match["name"])
    rates = {task.name: float(mixture.get_rate(task)) for task in mixture.tasks}
    total = sum(rates.values())
    return {name: rate / total for name, rate in rates.items() if rate > 0}


# Raw examples.

@lru_cache(maxsize=64)
def _examples(source: str, name: str) -> _Examples:
    from scaling.data.seqio.tasks import CorpusDataSource
    from scaling.data.sources.registry import find

    seqio = _seqio(source)
    data = _provider(source, name).source
    match = _NAME.fullmatch(source)
    split = match["split"] if match is not None else None
    if isinstance(data, seqio.TfdsDataSource):
        return _from_tfds(source, data.tfds_dataset, split)
    splits = tuple(data.splits) if split is None else (split,)
    if split is not None and split not in data.splits:
        raise UserError(f"{source}: {name} has no split {split!r}; it has "
                        f"{', '.join(data.splits)}")
    if isinstance(data, CorpusDataSource):
        corpus = find(data.source)
        return _Examples(corpus.files, corpus.divide, partial(_corpus_examples, corpus))
    if isinstance(data, seqio.FileDataSource):
        shards = [(split, place, Path(path)) for split in splits
                  for place, path in enumerate(data.list_shards(split))]
        files = tuple(path for _, _, path in shards)
        if missing := [path for path in files if not path.is_file()]:
            raise UserError(f"{source}: {missing[0]}, which {name} reads, is not a file on this "
                            "machine; copy its files here and register a task on them")
        return _Examples(files, _part_per_shard, partial(_file_examples, data, tuple(shards)))
    raise UserError(f"{source}: {name} reads from a {type(data).__name__}, which has no files to "
                    "hash; register a task on files, on TFDS or on a CorpusDataSource "
                    "(scaling.data.seqio.tasks)")


def _from_tfds(source: str, data: Any, split: str | None) -> _Examples:
    # A task may rename the splits of its dataset; seqio has no public access to the mapping.
    split_map = data._split_map or {}
    match = re.fullmatch(r"([^/:]+)(?:/([^:]+))?(?::(.+))?", data.name or "")
    if match is None or not all(isinstance(each, str) for each in split_map.values()):
        raise UserError(f"{source}: reads from several TFDS datasets; name its tasks one by one")
    name, config, version = match.groups()
    built = tfds.find_built(source, name, config or "", version or "*")
    selected = [split_map.get(split, split)] if split else list(split_map.values()) or [None]
    splits = tuple(name for each in selected for name in tfds.splits_of(source, built, each))
    return _Examples(tfds.files_of(built, splits), partial(tfds.divide, built.folder, splits),
                     partial(_tfds_examples, built.folder))


def _one_part(files: tuple[Path, ...], target_bytes: int) -> list[Part]:
    """A single part, since the order of a mixture depends on all earlier documents."""
    return [Part(files[0])]


def _part_per_shard(files: tuple[Path, ...], target_bytes: int) -> list[Part]:
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

    return tfds.string_dataset(guarded)


# From examples to text.

def _texts(source: str, name: str, part: Part, decode: Decode) -> Iterator[str | None]:
    """The documents of a part of a task."""
    seqio = _seqio(source)
    task = _provider(source, name)
    failures: Failures = []
    examples = _examples(source, name).dataset(part, decode, failures)
    with seqio.utils.map_seed_manager(_SEED):
        for stage in _stages_before_tokens(source, task):
            examples = seqio.utils.add_kwargs_to_transform(
                stage, sequence_length=None, output_features=task.output_features)(examples)
    features = [feature for feature in task.output_features
                if getattr(examples.element_spec.get(feature), "dtype", None) == "string"]
    if not features:
        raise UserError(f"{source}: none of the features {', '.join(task.output_features)} of "
                        f"{name} is text where it tokenizes")
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
    raise UserError(f"{source}: {task.name} never calls seqio.preprocessors.tokenize, so the "
                    "preprocessors of its text cannot be separated from those of its tokens")


def _mixture_texts(source: str, part: Part, decode: Decode) -> Iterator[str | None]:
    """The documents of a mixture: the next one comes from the task furthest behind its share.

    Shares are of bytes of text. seqio samples rows, which all have the same length, so a task's
    share of them does not depend on the length of its documents either.
    """
    rates = _rates(source)
    texts = {name: _all_texts(source, name, decode) for name in rates}
    n_bytes = dict.fromkeys(rates, 0)
    while True:
        name = min(rates, key=lambda name: n_bytes[name] / rates[name])
        try:
            text = next(texts[name])
        except StopIteration:
            return
        n_bytes[name] += len((text or "").encode())
        yield text


def _all_texts(source: str, name: str, decode: Decode) -> Iterator[str | None]:
    examples = _examples(source, name)
    for part in examples.divide(examples.files, sys.maxsize):
        yield from _texts(source, name, part, decode)


KNOWN = SourceKind("seqio:TASK", "", find_seqio, "the text of a seqio task or mixture", "its own",
                   package="seqio", extra="prepare")
"""The entry of this source in the registry, loaded through an entry point of pyproject.toml."""

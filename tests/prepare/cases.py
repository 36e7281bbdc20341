"""One corpus as a token store and as seqio tasks, and batches of both."""

from __future__ import annotations

from itertools import count
from typing import Any, NamedTuple

import jax
import numpy as np

from scaling.data.prepare.scan import digest
from scaling.data.store import TokenStore
from scaling.data.tokenizers import BYTES
from scaling.objectives import Arrays, Examples
from tests.objectives.cases import run_of

PAD, EOS, FIRST_BYTE = 0, 1, 3
"""Ids of seqio's vocabularies; the last one, of its byte vocabulary."""
SENTINELS = 100
HELD_OUT = 1e-4
"""Fraction of the documents in the validation split."""


def held_out_text() -> str:
    """A document whose hash puts it into the validation split, found by search."""
    texts = (f"the car number {number}" for number in count())
    return next(text for text in texts
                if int.from_bytes(digest(text.encode())[:8], "big") < HELD_OUT * 2**64)


class Corpus(NamedTuple):
    """The same documents on both sides; only the last one is held out in the token store."""

    store: TokenStore
    vocabulary: Any
    """The tasks' seqio.Vocabulary."""
    name: str
    """A task is called NAME_OBJECTIVE."""

    def get(self, objective: str, converter: str, **lengths: int) -> dict[str, np.ndarray]:
        """All examples of `seqio.get_dataset` in corpus order, by feature."""
        from scaling.data.seqio.preprocessors import seqio

        return stacked(seqio.get_dataset(
            f"{self.name}_{objective}", lengths, dataset_split="train", shuffle=False, seed=0,
            feature_converter=getattr(seqio, converter)(pack=False)))

    @property
    def tokens(self) -> int:
        """Number of tokens of the train split, with which seqio's stream of tokens begins."""
        return self.store.split("train").tokens

    def epoch(self, name: str, **changes: Any) -> Arrays:
        """One epoch of a run's batches, its rows in the order of the corpus, in seqio's ids."""
        examples = Examples.of(run_of(name, self.store, batch_sequences=3, **changes), self.store)
        sequences = len(examples.batches.sequences)
        steps = range(-(-sequences // 3))
        numbers = np.concatenate([examples.batches.at(step).sequence_B for step in steps])
        assert sorted(numbers[:sequences]) == list(range(sequences))
        order = np.argsort(numbers[:sequences])
        rows = jax.tree.map(lambda *parts: np.concatenate(parts)[order],
                            *[examples.at(step) for step in steps])
        ids = self._ids()
        return rows | {key: ids[rows[key]] for key in ("ids", "source", "targets") if key in rows}

    def _ids(self) -> np.ndarray:
        """seqio's id of each id of the store: equal for a SentencePiece model. For bytes, which
        seqio numbers after its special tokens and the store before them, that of the same byte or
        role."""
        ids, special = np.arange(self.store.vocab_size), self.store.special
        if self.store.manifest.tokenizer == "byte":
            ids[:BYTES] += FIRST_BYTE
            ids[[special.eos, special.pad, *special.sentinels]] = [EOS, PAD, *self.sentinels]
        return ids

    @property
    def sentinels(self) -> list[int]:
        """seqio's sentinels, that of the first span first."""
        last = self.vocabulary.vocab_size
        return list(range(last - 1, last - 1 - SENTINELS, -1))


def stacked(dataset: Any) -> dict[str, np.ndarray]:
    """All examples of a tf.data.Dataset, by feature; each feature is of one length."""
    examples = list(dataset.as_numpy_iterator())
    return {name: np.stack([example[name] for example in examples]) for name in examples[0]}


def without_end(ids: np.ndarray) -> list[int]:
    """The tokens before the final eos."""
    *tokens, end = ids[ids != PAD].tolist()
    assert end == EOS
    return tokens


def text_and_mask(
    inputs: np.ndarray, targets: np.ndarray, sentinels: list[int]
) -> tuple[list[int], list[bool]]:
    """The tokens before corruption and their noise mask, recovered from inputs and targets."""
    spans: dict[int, list[int]] = {}
    for token in without_end(targets):
        if token in sentinels:
            spans[token] = span = []
        else:
            span.append(token)
    text: list[int] = []
    mask: list[bool] = []
    for token in without_end(inputs):
        put = spans[token] if token in sentinels else [token]
        text += put
        mask += [token in sentinels] * len(put)
    return text, mask

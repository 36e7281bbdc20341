"""T5's preprocessors of a seqio task (Raffel et al. 2019, sections 3.1.4 and 3.2), in TensorFlow.

seqio tokenizes, trims and batches; preprocessors like these decide which tokens are inputs and
which are targets. They define T5's batches, against which the numpy objectives used in training
(`scaling.objectives`) are tested.

A preprocessor maps a tf.data.Dataset of {"targets": int [tokens]} to one of {"inputs": ...,
"targets": ...}. Its random numbers are derived from seeds that seqio provides.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from scaling.config.spans import span_lengths
from scaling.data.sources.tfds import tensorflow

# In this order: TensorFlow's logging is configured before seqio imports it.
tf: Any = tensorflow()
seqio: Any = importlib.import_module("seqio")

Tensor = Any
Dataset = Any
"""A tf.data.Dataset."""
Features = Mapping[str, Any]
"""Maps feature names to seqio.Feature."""
Lengths = Mapping[str, int]
MaskSampler = Callable[[Tensor, Tensor], Tensor]
"""Maps (length, seeds [2, 2]) to a bool tensor [length], True for noise tokens."""
Corruption = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Maps (tokens, their noise mask, id of the first sentinel) to corrupted tokens."""

LONGEST_DOCUMENT = 65_536
"""Tokens; a longer document is replaced by one random chunk of this length."""
DOCUMENTS_TOGETHER = 128
"""Number of documents that are concatenated before they are cut into segments."""
NOISE_DENSITY = 0.15
MEAN_SPAN = 3.0


# The three objectives.

def span_corruption(
    dataset: Dataset,
    sequence_length: Lengths,
    output_features: Features,
    density: float = NOISE_DENSITY,
    mean_span: float = MEAN_SPAN,
) -> Dataset:
    """Segments whose noise spans are replaced by one sentinel each; the targets are the spans.

    Documents are concatenated without a separator and cut such that the inputs are full.

    Raises:
        ValueError: The target length is too small.
    """
    length, targets = span_lengths(sequence_length["inputs"], density, mean_span)
    if sequence_length["targets"] < targets:
        raise ValueError(f"span corruption with {sequence_length['inputs']} inputs needs "
                         f"{targets} targets, but there is room for "
                         f"{sequence_length['targets']}")
    dataset = split_tokens(reduce_concat_tokens(select_random_chunk(dataset)), length)
    return denoise(dataset, output_features,
                   partial(random_spans_noise_mask, density=density, mean_span=mean_span),
                   noise_span_to_unique_sentinel, nonnoise_span_to_unique_sentinel)


def prefix_lm(dataset: Dataset, sequence_length: Lengths, output_features: Features) -> Dataset:
    """Segments of single documents, split at a random position into inputs and targets."""
    room = sequence_length["inputs"] - bool(output_features["inputs"].add_eos)
    dataset = split_tokens(select_random_chunk(dataset), room)
    return denoise(dataset, output_features, random_prefix_noise_mask, keep_noise, drop_noise)


def full_lm(dataset: Dataset, sequence_length: Lengths, output_features: Features) -> Dataset:
    """Documents with eos, concatenated and cut into targets of full length; no inputs."""
    dataset = seqio.preprocessors.append_eos(select_random_chunk(dataset), output_features)
    return split_tokens(reduce_concat_tokens(dataset), sequence_length["targets"])


# From documents to segments.

def select_random_chunk(dataset: Dataset, length: int = LONGEST_DOCUMENT) -> Dataset:
    """Cut each document into chunks of `length` tokens and keep one at random; drop empty
    documents."""

    def chunk(example: dict[str, Tensor], seed: Tensor) -> dict[str, Tensor]:
        tokens = example["targets"]
        chunks = -(-tf.size(tokens) // length)
        start = length * tf.random.stateless_uniform([], seed, maxval=chunks, dtype=tf.int32)
        return {"targets": tokens[start:start + length]}

    not_empty = dataset.filter(lambda example: tf.size(example["targets"]) > 0)
    return seqio.map_over_dataset(chunk, num_seeds=1)(not_empty)


def reduce_concat_tokens(dataset: Dataset, documents: int = DOCUMENTS_TOGETHER) -> Dataset:
    """Concatenate every `documents` consecutive documents into one."""
    tokens = dataset.map(lambda example: example["targets"])
    return tokens.ragged_batch(documents).map(lambda batch: {"targets": batch.flat_values})


def split_tokens(dataset: Dataset, length: int) -> Dataset:
    """Split each document into pieces of `length` tokens; the last one may be shorter."""

    def pieces(example: dict[str, Tensor]) -> Dataset:
        tokens = example["targets"]
        starts = tf.range(0, tf.size(tokens), length)
        return tf.data.Dataset.from_tensor_slices(tf.RaggedTensor.from_row_starts(tokens, starts))

    return dataset.flat_map(pieces).map(lambda tokens: {"targets": tokens})


# Noise.

def random_spans_noise_mask(
    length: Tensor, seeds: Tensor, density: float = NOISE_DENSITY, mean_span: float = MEAN_SPAN
) -> Tensor:
    """Alternating spans of text and noise, text first; all segmentations are equally likely.

    round(length * density) tokens are noise, at least one and not all, in round(noise / mean_span)
    spans, at least one. A density of zero means no noise.

    Returns:
        bool [length].
    """
    if density == 0:
        return tf.zeros([length], tf.bool)
    long_enough = tf.maximum(length, 2)
    noise = _rounded(tf.cast(long_enough, tf.float32) * density)
    noise = tf.clip_by_value(noise, 1, long_enough - 1)
    text = long_enough - noise
    spans = _rounded(tf.cast(noise, tf.float32) / mean_span)
    spans = tf.clip_by_value(spans, 1, tf.minimum(noise, text))
    lengths = tf.stack([_random_lengths(text, spans, seeds[1]),
                        _random_lengths(noise, spans, seeds[0])], axis=1)
    return tf.repeat(tf.tile([False, True], [spans]), tf.reshape(lengths, [-1]))[:length]


def _rounded(number: Tensor) -> Tensor:
    return tf.cast(tf.round(number), tf.int32)


def _random_lengths(items: Tensor, pieces: Tensor, seed: Tensor) -> Tensor:
    """Random positive lengths that sum to `items`; int [pieces]."""
    order = tf.argsort(tf.random.stateless_uniform([items - 1], seed))
    cuts = tf.sort(order[:pieces - 1]) + 1
    edges = tf.concat([[0], cuts, [items]], axis=0)
    return edges[1:] - edges[:-1]


def random_prefix_noise_mask(length: Tensor, seeds: Tensor) -> Tensor:
    """True for a prefix whose length is uniform in 1 ... length - 1; bool [length]."""
    prefix = tf.random.stateless_uniform([], seeds[0], minval=tf.minimum(length - 1, 1),
                                         maxval=length, dtype=tf.int32)
    return tf.range(length) < prefix


def denoise(
    dataset: Dataset,
    output_features: Features,
    mask: MaskSampler,
    inputs: Corruption,
    targets: Corruption,
) -> Dataset:
    """Sample a noise mask for each example, and compute its inputs and targets from it."""
    first_sentinel = output_features["targets"].vocabulary.vocab_size - 1

    def corrupted(example: dict[str, Tensor], seeds: Tensor) -> dict[str, Tensor]:
        tokens = example["targets"]
        noise = mask(tf.size(tokens), seeds)
        return {"inputs": inputs(tokens, noise, first_sentinel),
                "targets": targets(tokens, noise, first_sentinel)}

    return seqio.map_over_dataset(corrupted, num_seeds=2)(dataset)


def noise_span_to_unique_sentinel(tokens: Tensor, mask: Tensor, first: Tensor) -> Tensor:
    """Replace each noise span by one sentinel: `first`, `first` - 1, and so on."""
    begins = mask & ~tf.concat([[False], mask[:-1]], axis=0)
    sentinel = first + 1 - tf.cumsum(tf.cast(begins, tokens.dtype))
    return tf.where(begins, sentinel, tokens)[begins | ~mask]


def nonnoise_span_to_unique_sentinel(tokens: Tensor, mask: Tensor, first: Tensor) -> Tensor:
    """Replace each span of text by one sentinel, so that a sentinel precedes every noise span."""
    return noise_span_to_unique_sentinel(tokens, ~mask, first)


def keep_noise(tokens: Tensor, mask: Tensor, first: Tensor) -> Tensor:
    """The noise tokens."""
    return tokens[mask]


def drop_noise(tokens: Tensor, mask: Tensor, first: Tensor) -> Tensor:
    """The tokens that are not noise."""
    return tokens[~mask]

"""T5's facts, and its examples, token by token, against the numpy transforms that training uses."""

from __future__ import annotations

from collections import Counter
from itertools import product

import numpy as np
import pytest

from scaling.config.spans import span_lengths
from scaling.objectives.noise.keys import sequence_keys
from scaling.objectives.noise.prefix import split_at_prefix
from scaling.objectives.noise.spans import corrupt_spans, noise_mask
from tests.prepare.cases import EOS, PAD, SENTINELS, text_and_mask, without_end

INPUTS = 64


@pytest.fixture(scope="module", params=["bytes", "sentencepiece"])
def vocabulary(vocabularies, request):
    return vocabularies[request.param]


@pytest.fixture(scope="module")
def examples(tasks, texts, vocabulary, tmp_path_factory):
    """All examples of `seqio.get_dataset` for a task over these texts."""
    import json

    path = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))

    def get(objective: str, converter: str, **lengths: int) -> list[dict[str, np.ndarray]]:
        name = f"t5_{type(vocabulary).__name__}_{objective}"
        if name not in tasks.seqio.TaskRegistry.names():
            source = tasks.CorpusDataSource(f"jsonl:{path}#text")
            tasks.add(name, source, objective, vocabulary)
        dataset = tasks.seqio.get_dataset(
            name, lengths, dataset_split="train", shuffle=False, seed=0,
            feature_converter=getattr(tasks.seqio, converter)(pack=False))
        return list(dataset.as_numpy_iterator())

    return get


@pytest.mark.parametrize(("given", "expected"), [
    ((64, 0.20, 2.0), (70, 22)), ((64, 0.20, 1.0), (63, 27)), ((512, 0.15, 3.0), (568, 114))])
def test_lengths(given, expected):
    assert span_lengths(*given) == expected


def test_mask(tasks):
    seeds = [(1, 2), (3, 4)]
    mask = tasks.preprocessors.random_spans_noise_mask(32, seeds, 0.25, 2.0).numpy()
    assert mask.shape == (32,)
    assert mask.sum() == 8
    assert (np.diff(mask.astype(int)) == 1).sum() == 4
    assert not mask[0]
    assert not tasks.preprocessors.random_spans_noise_mask(32, seeds, 0.0, 2.0).numpy().any()


def test_every_way_to_cut_is_equally_likely(tasks):
    """Eight tokens, four of them noise, in two spans: three ways to cut either."""
    tf, t5 = tasks.preprocessors.tf, tasks.preprocessors
    draws = 3000
    masks = tf.data.Dataset.range(draws).map(lambda number: t5.random_spans_noise_mask(
        8, tf.stack([[number, 1], [number, 2]]), 0.5, 2.0))
    seen = Counter(tuple(mask.tolist()) for mask in masks.as_numpy_iterator())
    expected = {(*[False] * a, *[True] * b, *[False] * (4 - a), *[True] * (4 - b))
                for a, b in product((1, 2, 3), repeat=2)}
    assert set(seen) == expected
    chi_square = sum((count - draws / 9) ** 2 / (draws / 9) for count in seen.values())
    assert chi_square < 26.1  # 8 degrees of freedom, p = 0.001


def test_span_corruption_token_by_token(examples, vocabulary, texts):
    text_length, targets_length = span_lengths(INPUTS, 0.15, 3.0)
    found = examples("span_corruption", "EncDecFeatureConverter", inputs=INPUTS,
                     targets=targets_length)
    sentinels = list(range(vocabulary.vocab_size - 1, vocabulary.vocab_size - 1 - SENTINELS, -1))
    rebuilt: list[int] = []
    for number, example in enumerate(found):
        inputs, targets = example["encoder_input_tokens"], example["decoder_target_tokens"]
        text, mask = text_and_mask(inputs, targets, sentinels)
        last = number == len(found) - 1
        assert len(text) == text_length or last
        if not last:
            assert sum(mask) == round(text_length * 0.15)
        ours = corrupt_spans(np.array([text]), np.array([mask]), np.array(sentinels), EOS, PAD,
                             widths=(len(inputs), len(targets)))
        np.testing.assert_array_equal(ours[0][0], inputs)
        np.testing.assert_array_equal(ours[1][0], targets)
        rebuilt += text
    assert len(found) > 10
    assert rebuilt == [token for text in texts for token in vocabulary.encode(text)]


def test_our_masks_give_t5s_tokens(tasks, vocabulary):
    """The reverse: masks of `scaling.objectives` through T5's two functions."""
    t5 = tasks.preprocessors
    text_length, _ = span_lengths(INPUTS, 0.15, 3.0)
    rows = np.arange(20)
    masks = noise_mask(sequence_keys(0, rows, rows * 0, "test"), text_length, 0.15, 3.0)
    ids = np.random.default_rng(0).integers(3, 40, masks.shape).astype(np.int32)
    first = vocabulary.vocab_size - 1
    inputs, targets = corrupt_spans(ids, masks, np.arange(first, first - SENTINELS, -1), None, PAD)
    for row in rows:
        theirs = (t5.noise_span_to_unique_sentinel(ids[row], masks[row], first),
                  t5.nonnoise_span_to_unique_sentinel(ids[row], masks[row], first))
        np.testing.assert_array_equal(inputs[row][inputs[row] != PAD], theirs[0])
        np.testing.assert_array_equal(targets[row][targets[row] != PAD], theirs[1])


def test_no_room_for_the_targets(examples):
    with pytest.raises(ValueError, match=r"needs \d\d targets, but there is room for 9"):
        examples("span_corruption", "EncDecFeatureConverter", inputs=INPUTS, targets=9)


def test_prefix_lm_token_by_token(examples, vocabulary, texts):
    found = examples("prefix_lm", "PrefixLMFeatureConverter", inputs=INPUTS, targets=INPUTS)
    rebuilt: list[int] = []
    for example in found:
        tokens, weights = example["decoder_target_tokens"], example["decoder_loss_weights"]
        halves = tokens[weights == 0], tokens[weights == 1]
        source, target = without_end(halves[0][: np.argmax(halves[0] == EOS) + 1]), \
            without_end(halves[1])
        text = source + target
        if len(text) > 1:
            ours = split_at_prefix(np.array([len(source)]), np.array([text]), EOS, PAD)
            both = np.concatenate([ours[0][ours[1]], ours[2][ours[3]]])
            np.testing.assert_array_equal(both, tokens[: len(both)])
            assert not tokens[len(both):].any()
        rebuilt += text
    assert rebuilt == [token for text in texts for token in vocabulary.encode(text)]

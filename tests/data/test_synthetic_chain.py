"""Markov languages against their definition, by enumeration of all sequences."""

import itertools

import numpy as np
import pytest
from scipy import stats

from scaling.data.synthetic import Markov, ZipfBigram, chain
from scaling.data.synthetic.distributions import AliasTable, zipf
from scaling.errors import UserError

pytestmark = pytest.mark.quick

TINY = [
    Markov(vocab_size=3, order=1, successors=2, smoothing=0.2),
    Markov(vocab_size=3, order=2, successors=4, smoothing=0.1, exponent=0.5, seed=3),
    Markov(vocab_size=2, order=3, successors=1, smoothing=0.3, successor_exponent=2.0),
    ZipfBigram(vocab_size=5, successors=3, bigram_share=0.7, exponent=1.3),
    ZipfBigram(vocab_size=4, successors=2, bigram_share=0.0),
]
DRAWN = [
    Markov(vocab_size=6, order=1, successors=3, smoothing=0.3),
    Markov(vocab_size=4, order=2, successors=2, smoothing=0.2, seed=5),
    ZipfBigram(vocab_size=12, successors=4, bigram_share=0.6),
]


def next_token(language):
    """P(y | context) by the formula, shape [contexts, vocab_size]."""
    tables, size = chain._tables(language), language.vocab_size
    rank = np.arange(1, size + 1.0)
    common = rank**-language.exponent / (rank**-language.exponent).sum()
    weight = np.arange(1, language.successors + 1.0) ** -language.successor_exponent
    weight /= weight.sum()
    fresh = language.smoothing if isinstance(language, Markov) else 1 - language.bigram_share
    p = np.tile(fresh * common, (size**language.context_tokens, 1))
    for context, row in enumerate(p):
        for k in range(language.successors):
            row[tables.successors[k, context]] += (1 - fresh) * weight[k]
    return p


def stationary(language):
    """The eigenvector of eigenvalue 1 of the whole transition matrix, by a linear solve."""
    p = next_token(language)
    contexts, size = p.shape
    step = np.zeros((contexts, contexts))
    for context, token in itertools.product(range(contexts), range(size)):
        step[context, (context * size + token) % contexts] += p[context, token]
    equations = np.vstack([step.T - np.eye(contexts), np.ones(contexts)])
    return np.linalg.lstsq(equations, np.eye(contexts + 1)[-1], rcond=None)[0]


def window_probabilities(language, width):
    """Probability of every sequence of `width` tokens, in the order of itertools.product."""
    p, begin = next_token(language), stationary(language)
    size, order = language.vocab_size, language.context_tokens
    probabilities = []
    for sequence in itertools.product(range(size), repeat=max(width, order)):
        state = sum(token * size**i for i, token in enumerate(sequence[order - 1::-1]))
        probability = begin[state]
        for token in sequence[order:]:
            probability *= p[state, token]
            state = (state * size + token) % len(begin)
        probabilities.append(probability)
    return np.array(probabilities).reshape(size**width, -1).sum(1)


def nats(p):
    return float(-(p[p > 0] * np.log(p[p > 0])).sum())


@pytest.mark.parametrize("language", TINY, ids=repr)
def test_entropy_and_floor_by_summing_over_all_sequences(language):
    first = nats(window_probabilities(language, 1))
    block = [nats(window_probabilities(language, width)) for width in range(2, 7)]
    for context, whole in enumerate(block, 1):
        floor = language.floor(context)
        assert floor.rate == pytest.approx((whole - first) / context, abs=1e-10)
        assert floor.low == floor.rate == floor.high
    # Beyond the chain's order each further token adds the rate.
    assert language.entropy().rate == pytest.approx(block[-1] - block[-2], abs=1e-10)
    assert language.floor(10**9).rate == pytest.approx(language.entropy().rate, abs=1e-8)


@pytest.mark.parametrize("language", DRAWN, ids=repr)
def test_sampled_sequences_have_the_stated_probabilities(language):
    width = language.context_tokens + 1
    rows = language.rows("train", np.arange(20_000), 32).astype(np.int64)
    place = language.vocab_size ** np.arange(width)[::-1]
    for start in (0, 32 - width):  # the same at the start and the end of rows: stationary
        seen = np.bincount(rows[:, start:start + width] @ place,
                           minlength=language.vocab_size**width)
        expected = window_probabilities(language, width) * len(rows)
        common = expected >= 5
        seen = [*seen[common], seen[~common].sum()]
        expected = [*expected[common], expected[~common].sum()]
        if expected[-1] < 5:
            seen, expected = seen[:-1], expected[:-1]
            expected = np.array(expected) * sum(seen) / sum(expected)
        assert stats.chisquare(seen, expected).pvalue > 1e-3


@pytest.mark.parametrize("language", DRAWN, ids=repr)
def test_the_plug_in_entropy_of_a_million_tokens(language):
    rows = language.rows("validation", np.arange(1000), 1001).astype(np.int64)
    order, size = language.context_tokens, language.vocab_size
    state = sum(rows[:, i:i - order] * size ** (order - 1 - i) for i in range(order))
    count = np.zeros((size**order, size))
    np.add.at(count, (state, rows[:, order:]), 1)
    total = count.sum()
    conditional = count / np.maximum(count.sum(1, keepdims=True), 1)
    surprisal = -np.log(conditional, where=count > 0, out=np.zeros_like(count))
    plug_in = (count * surprisal).sum() / total
    # Miller and Madow's correction of the bias, and a generous standard error.
    plug_in += (np.count_nonzero(count) - np.count_nonzero(count.sum(1))) / (2 * total)
    spread = np.sqrt((count * surprisal**2).sum() / total - plug_in**2)
    assert plug_in == pytest.approx(language.entropy().rate, abs=6 * spread / np.sqrt(total))


@pytest.mark.parametrize("language", [Markov(vocab_size=64), ZipfBigram(vocab_size=1000)], ids=repr)
def test_a_row_is_the_same_in_any_batch_and_of_any_width(language):
    index = np.array([7, 0, 10**12, 3])
    rows = language.rows("train", index, 40)
    assert rows.dtype == np.uint32
    assert rows.max() < language.vocab_size
    for i in range(len(index)):
        np.testing.assert_array_equal(language.rows("train", index[i:i + 1], 40)[0], rows[i])
    for width in (1, 2, 3, 17):
        np.testing.assert_array_equal(language.rows("train", index, width), rows[:, :width])
    more_tokens = language.model_copy(update={"tokens": 5, "heldout_tokens": 6})
    np.testing.assert_array_equal(more_tokens.rows("train", index, 40), rows)


def test_splits_seeds_and_rows_are_independent():
    language, index = Markov(vocab_size=64), np.arange(50)
    draws = [language.rows(split, index, 64) for split in ("train", "validation", "test")]
    draws.append(language.model_copy(update={"seed": 1}).rows("train", index, 64))
    draws.append(language.rows("train", index + 50, 64))
    for one, other in itertools.combinations(draws, 2):
        assert (one == other).mean() < 0.2
        assert not (one == other).all(axis=1).any()


def test_the_rows_of_a_split_are_those_of_its_seed():
    """Frozen: stores of other machines and versions must have the same tokens."""
    language = ZipfBigram(vocab_size=100, successors=4)
    assert language.rows("train", np.arange(2), 6).tolist() == [
        [7, 10, 17, 0, 3, 55], [0, 11, 8, 10, 11, 5]
    ]


@pytest.mark.parametrize("language", [
    Markov(vocab_size=2000, order=1), ZipfBigram(), ZipfBigram(exponent=1.2),
], ids=repr)
def test_tokens_have_a_heavy_tail(language):
    count = np.bincount(language.rows("train", np.arange(2000), 513).reshape(-1))
    ranked = np.sort(count)[::-1]
    rank = np.unique(np.geomspace(5, 500, 30).astype(int))
    slope = np.polyfit(np.log(rank), np.log(ranked[rank - 1]), 1)[0]
    assert slope == pytest.approx(-language.exponent, abs=0.25)


def test_a_large_vocabulary():
    language = ZipfBigram(vocab_size=2**17)
    rows = language.rows("train", np.arange(100), 513)
    assert 2**16 < rows.max() < 2**17
    # Mixing lowers no entropy below its parts' mean, and adds at most that of the mixture.
    unigram = nats(zipf(2**17, 1.0))
    assert 0.5 * unigram < language.entropy().rate < unigram
    assert language.entropy().low == language.entropy().high


def test_too_many_contexts_are_refused_with_the_limit():
    with pytest.raises(ValueError, match=r"512\^3 contexts with 8 successors .* up to 16,777,216"):
        Markov(order=3)


def test_a_chain_that_does_not_converge_is_refused():
    language = Markov(vocab_size=50, order=1, successors=1, smoothing=1e-7)
    with pytest.raises(UserError, match="choose more successors"):
        language.entropy()


@pytest.mark.parametrize("p", [
    *(np.full(n, 1 / n) for n in range(1, 60)), zipf(1000, 1.0), np.array([0.0, 0.0, 1.0, 0.0]),
    np.random.default_rng(0).dirichlet(np.full(300, 0.05)),
])
def test_alias_columns_add_up_to_the_probabilities(p):
    table = AliasTable.of(p)
    assert table.threshold.min() >= -1e-12
    assert table.threshold.max() <= 1 + 1e-12
    total = table.threshold.copy()
    np.add.at(total, table.other, 1 - table.threshold)
    np.testing.assert_allclose(total / len(p), p, atol=1e-14)


def test_alias_samples_of_evenly_spaced_numbers_have_the_probabilities():
    p = zipf(7, 1.0)
    grid = (np.arange(70_000) + 0.5) / 70_000
    np.testing.assert_allclose(np.bincount(AliasTable.of(p).draw(grid)) / len(grid), p, atol=1e-4)

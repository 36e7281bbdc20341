"""The hierarchical language against its definition, by enumeration of all derivations."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest

from scaling.data.synthetic import Hierarchy, hierarchy, prefix
from scaling.data.synthetic.distributions import zipf

pytestmark = pytest.mark.quick

TINY = [
    Hierarchy(vocab_size=4, levels=3, children=2, rules=2),
    Hierarchy(vocab_size=3, levels=2, children=3, rules=3, seed=2, rule_exponent=0.3),
    Hierarchy(vocab_size=5, levels=2, children=2, rules=1, exponent=0.0),
    Hierarchy(vocab_size=2, levels=1, children=5, rules=4, seed=1),
]


def zipf_law(n, exponent):
    weight = [rank**-exponent for rank in range(1, n + 1)]
    return [w / sum(weight) for w in weight]


def derive(language, level, symbol):
    """Every string of a symbol with its probability, by applying every rule."""
    if level == 0:
        return [((symbol,), 1.0)]
    right_sides = hierarchy._grammar(language).right_sides[level - 1][symbol]
    found = []
    for p, right in zip(zipf_law(language.rules, language.rule_exponent), right_sides, strict=True):
        parts = [derive(language, level - 1, int(child)) for child in right]
        for choice in itertools.product(*parts):
            found.append((sum((tokens for tokens, _ in choice), ()),
                          p * math.prod(q for _, q in choice)))
    return found


def strings(language):
    return [(tokens, root * q)
            for symbol, root in enumerate(zipf_law(language.vocab_size, language.exponent))
            for tokens, q in derive(language, language.levels, symbol)]


def prefix_nats(probabilities, length):
    """The entropy of the first tokens, from the definition."""
    p = Counter()
    for tokens, q in probabilities:
        p[tokens[:length]] += q
    return -sum(q * math.log(q) for q in p.values())


@pytest.mark.parametrize("language", TINY, ids=repr)
def test_entropy_and_floor_by_taking_every_derivation(language):
    found = strings(language)
    assert len({tokens for tokens, _ in found}) == len(found), "a string has two derivations"
    assert math.fsum(q for _, q in found) == pytest.approx(1)
    size = language.string_tokens
    nats = [0.0, *(prefix_nats(found, length) for length in range(1, size + 1))]
    assert language.entropy().rate == pytest.approx(nats[size] / size, abs=1e-12)
    for context in range(1, 3 * size):
        whole, rest = divmod(context + 1, size)
        floor = language.floor(context)
        assert floor.low == floor.rate == floor.high
        expected = (whole * nats[size] + nats[rest] - nats[1]) / context
        assert floor.rate == pytest.approx(expected, abs=1e-12)


def test_bounds_contain_the_exact_value_and_narrow(monkeypatch):
    language = Hierarchy(vocab_size=6, levels=3, children=2, rules=3, seed=4)
    found, contexts = strings(language), range(1, 2 * 8)
    nats = [0.0, *(prefix_nats(found, length) for length in range(1, 9))]
    gaps = []
    for limit in (1, 20, 60, 1000):
        monkeypatch.setattr(prefix, "LARGEST_BELIEF", limit)
        gaps.append(0.0)
        for context in contexts:
            whole, rest = divmod(context + 1, 8)
            truth = (whole * nats[8] + nats[rest] - nats[1]) / context
            low, high = language.floor(context)[1:]
            assert low - 1e-12 <= truth <= high + 1e-12
            assert low <= language.floor(context).rate <= high
            assert rest or low == high, "whole strings are exact"
            gaps[-1] += high - low
    assert gaps[0] > 0.01
    assert gaps[0] >= gaps[1] > gaps[2] > gaps[3] == 0


@pytest.mark.parametrize("language", [
    *TINY, Hierarchy(), Hierarchy(vocab_size=40, rules=400, children=3, levels=2)
], ids=repr)
def test_rules_of_a_level_have_distinct_right_sides(language):
    right_sides = hierarchy._grammar(language).right_sides
    assert len(right_sides) == language.levels
    for level in right_sides:
        right = level.reshape(-1, language.children)
        assert len(np.unique(right, axis=0)) == len(right) == language.vocab_size * language.rules
        assert right.min() >= 0
        assert right.max() < language.vocab_size


@pytest.mark.parametrize("language", TINY, ids=repr)
def test_sampled_strings_have_the_stated_probabilities(language):
    expected = dict(strings(language))
    size, rows = language.string_tokens, 20_000
    drawn = language.rows("train", np.arange(rows), 2 * size)
    for half in (drawn[:, :size], drawn[:, size:]):
        count = Counter(map(tuple, half.tolist()))
        assert set(count) <= set(expected), "a string that the grammar does not write"
        deviation = sum((count[s] - rows * q) ** 2 / (rows * q) for s, q in expected.items())
        # Chi-square: its mean, and six standard deviations, one of which rare strings add to.
        rare = sum(1 / (rows * q) for q in expected.values())
        assert deviation < len(expected) + 6 * math.sqrt(2 * len(expected) + rare)


def test_the_surprisal_of_a_million_sampled_tokens_is_the_rate():
    """Derivations are unique, so the probability of a string follows from a bottom-up parse."""
    language = Hierarchy(vocab_size=64, levels=3, children=2, rules=4)
    width = 125 * language.string_tokens
    symbol = language.rows("test", np.arange(1000), width).astype(np.int64)
    surprisal = np.zeros(len(symbol))
    for level in hierarchy._grammar(language).right_sides:
        code = level.reshape(-1, 2) @ [64, 1]
        order = np.argsort(code)
        seen = symbol.reshape(len(symbol), -1, 2) @ [64, 1]
        rule = order[np.searchsorted(code, seen, sorter=order)]
        assert (code[rule] == seen).all()
        surprisal -= np.log(zipf_law(4, 1.0))[rule % 4].sum(1)
        symbol = rule // 4
    surprisal -= np.log(zipf_law(64, 1.0))[symbol].sum(1)
    surprisal /= width
    error = surprisal.std() / math.sqrt(len(surprisal))
    assert surprisal.mean() == pytest.approx(language.entropy().rate, abs=5 * error)
    assert error < 0.002


def test_a_row_is_the_same_in_any_batch_and_of_any_width():
    language, index = Hierarchy(levels=3, children=3), np.array([5, 0, 10**12])
    rows = language.rows("train", index, 100)
    assert rows.dtype == np.uint32
    for i in range(len(index)):
        np.testing.assert_array_equal(language.rows("train", index[i:i + 1], 100)[0], rows[i])
    for width in (1, 9, 27, 28, 81, 99):
        np.testing.assert_array_equal(language.rows("train", index, width), rows[:, :width])
    for other in ("validation", "test"):
        assert (language.rows(other, index, 100) == rows).mean() < 0.2


def test_the_rows_of_a_split_are_those_of_its_seed():
    """Frozen: stores of other machines and versions must have the same tokens."""
    assert Hierarchy(vocab_size=100).rows("train", np.arange(2), 6).tolist() == [
        [0, 5, 0, 47, 14, 40], [13, 12, 0, 8, 1, 0]
    ]


@pytest.mark.parametrize("exponent", [0.8, 1.0])
def test_tokens_have_a_heavy_tail(exponent):
    language = Hierarchy(vocab_size=2000, levels=4, exponent=exponent)
    count = np.bincount(language.rows("train", np.arange(2000), 512).reshape(-1))
    ranked = np.sort(count)[::-1]
    rank = np.unique(np.geomspace(5, 500, 30).astype(int))
    slope = np.polyfit(np.log(rank), np.log(ranked[rank - 1]), 1)[0]
    assert slope == pytest.approx(-exponent, abs=0.25)


def test_the_entropy_of_a_large_grammar_by_hand():
    language = Hierarchy(vocab_size=512, levels=4, children=2, rules=8)
    root, rule = (-sum(p * math.log(p) for p in zipf(n, 1.0)) for n in (512, 8))
    assert language.entropy().rate == pytest.approx((root + 15 * rule) / 16, abs=1e-12)


@pytest.mark.parametrize(("fields", "message"), [
    ({"vocab_size": 8, "rules": 5}, "at most half of the 64 .* choose at most 4 rules"),
    ({"vocab_size": 2**20, "rules": 64}, "at most 16,777,216 are supported"),
    ({"vocab_size": 2**16, "children": 4, "levels": 2}, "too many to enumerate"),
])
def test_impossible_grammars_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Hierarchy(**fields)

"""Batches are a pure function of the step: nothing is lost, repeated or split differently."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from itertools import chain, islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaling.data.batches import Batches, DocumentChunks, Windows, evenly_spaced
from scaling.data.permutation import permute
from scaling.errors import UserError
from tests.data.memory import ArraySplit, documents

pytestmark = pytest.mark.quick

CONTEXT = 8
EOS = 999


def counting(sequences: int, context: int = CONTEXT, rest: int = 0) -> Windows:
    """Windows of tokens equal to their positions, so that a sequence reveals its index."""
    ids = np.arange(sequences * context + 1 + rest, dtype=np.uint32)
    return Windows(ArraySplit(ids), context, context + 1)


def numbers(drawn, context: int = CONTEXT) -> list[int]:
    """Indices of the sequences in a batch of `counting` tokens, each checked to be complete."""
    ids = drawn.ids_BL.astype(np.int64)
    assert np.array_equal(ids, ids[:, :1] + np.arange(context + 1))
    assert not (ids[:, 0] % context).any()
    found = (ids[:, 0] // context).tolist()
    assert found == drawn.sequence_B.tolist()
    assert (drawn.length_B == context + 1).all()
    return found


def test_one_epoch_visits_every_sequence_once_and_the_next_in_another_order():
    batches = Batches(counting(60, rest=CONTEXT - 1), 4, seed=0)
    assert len(batches.sequences) == 60
    drawn = [batches.at(step) for step in range(30)]
    order = [i for each in drawn for i in numbers(each)]
    first, second = order[:60], order[60:]
    assert sorted(first) == sorted(second) == list(range(60))
    assert first != second
    assert first != sorted(first)
    assert [each.epoch_B.tolist() for each in drawn] == [[0] * 4] * 15 + [[1] * 4] * 15


def test_every_token_but_the_first_is_a_target_once():
    sequences = counting(10)
    batches = Batches(sequences, 5, seed=1)
    targets = np.concatenate([batches.at(step).ids_BL[:, 1:].ravel() for step in range(2)])
    assert np.array_equal(np.sort(targets), np.arange(1, 10 * CONTEXT + 1))


def one_after_the_other(sequences: int, seed: int):
    """The concatenated epochs of shuffled indices."""
    epoch = 0
    while True:
        yield from ((i, epoch) for i in permute(np.arange(sequences), sequences, seed, epoch))
        epoch += 1


@given(st.integers(1, 30), st.sampled_from([1, 2, 4, 12]), st.integers(0, 40), st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_a_step_equals_iterating_to_it_on_any_number_of_hosts(sequences, size, step, seed):
    # Includes batches across the end of an epoch, and batches larger than an epoch.
    batches = Batches(counting(sequences), size, seed)
    expected = list(islice(one_after_the_other(sequences, seed), step * size, (step + 1) * size))
    whole = batches.at(step)
    assert list(zip(numbers(whole), whole.epoch_B, strict=True)) == expected
    for hosts in (1, 2, 4):
        if size % hosts == 0:
            parts = [batches.at(step, host, hosts) for host in range(hosts)]
            assert {part.ids_BL.shape for part in parts} == {(size // hosts, CONTEXT + 1)}
            for name in whole._fields:
                joined = np.concatenate([getattr(part, name) for part in parts])
                assert np.array_equal(joined, getattr(whole, name))


def test_a_late_step_is_computed_directly():
    batches = Batches(counting(1000), 16, seed=5)
    step = 10**9
    epoch, place = divmod(step * 16, 1000)
    drawn = batches.at(step)
    assert set(drawn.epoch_B.tolist()) == {epoch}
    expected = permute(np.arange(1000), 1000, 5, epoch)[place : place + 16]
    assert numbers(drawn) == expected.tolist()


@dataclass(frozen=True, eq=False)
class Watched(ArraySplit):
    """Records how much of it is read."""

    read_ids: list[int] = field(default_factory=list)

    def rows(self, index, stride, width):
        self.read_ids.append(len(index) * width)
        return super().rows(index, stride, width)


def calls(function) -> int:
    """Number of function calls that a call makes: its cost, independent of the machine."""
    count = 0

    def note(frame, event, _):
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        function()
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("of", [
    lambda split: Windows(split, 8, 9), lambda split: DocumentChunks(split, 8),
])
def test_a_late_step_costs_no_more_than_an_early_one(of):
    ids = np.arange(4000, dtype=np.uint32)
    split = Watched(ids, tuple(range(40, 4001, 40)))
    batches = Batches(of(split), 16, seed=0)
    batches.at(0)  # values that are cached
    split.read_ids.clear()
    near, far = calls(lambda: batches.at(1)), calls(lambda: batches.at(10**9))
    assert len(split.read_ids) == 2
    assert len(set(split.read_ids)) == 1
    # The number of cycle-walking rounds of the permutation varies.
    assert far < 1.5 * near


def test_seeds_order_differently_and_the_type_is_the_stores():
    sequences = counting(100)
    drawn = [Batches(sequences, 50, seed).at(0).ids_BL for seed in (0, 1)]
    assert drawn[0].dtype == np.uint32
    assert not np.array_equal(*drawn)


def test_epochs_and_unique_sequences():
    batches = Batches(counting(10), 4, seed=0)
    assert batches.epochs_for(5) == 2.0
    seen: set[int] = set()
    for steps in range(1, 6):
        seen |= set(numbers(batches.at(steps - 1)))
        assert batches.unique_sequences(steps) == len(seen)


def test_invalid_batches_are_refused():
    batches = Batches(counting(10), 4, seed=0)
    with pytest.raises(UserError, match="4 cannot be divided among 3 hosts"):
        batches.at(0, 0, 3)
    for step, host, hosts in ((-1, 0, 1), (0, 2, 2), (0, -1, 2)):
        with pytest.raises(ValueError, match="no step"):
            batches.at(step, host, hosts)
    with pytest.raises(ValueError, match="no sequence"):
        Batches(Windows(ArraySplit(np.arange(9)), 9, 10), 1, seed=0)


@pytest.mark.parametrize("count", [1, 7, 18, 19, 119])
def test_evaluation_sequences_are_evenly_spaced(count):
    drawn = evenly_spaced(counting(19), count)
    starts = numbers(drawn)
    assert len(starts) == min(count, 19)
    gaps = np.diff([*starts, 19])
    assert starts[0] == 0
    assert gaps.min() >= 1
    assert gaps.max() - gaps.min() <= 1
    assert not drawn.epoch_B.any()


def rows_of(pieces: DocumentChunks) -> list[list[int]]:
    ids, lengths = pieces.read(np.arange(len(pieces)))
    return [row[:length].tolist() for row, length in zip(ids, lengths, strict=True)]


@given(st.lists(st.integers(0, 23), min_size=1, max_size=12), st.integers(2, 9))
@settings(max_examples=80, deadline=None)
def test_chunks_divide_documents_evenly(sizes, longest):
    first = np.cumsum([0, *sizes]).tolist()
    texts = [list(range(begin, begin + size)) for begin, size in zip(first, sizes, strict=False)]
    pieces = DocumentChunks(documents(texts, EOS), longest)
    kept = [text for text in texts if len(text) >= 2]
    rows = rows_of(pieces)
    assert list(chain(*rows)) == list(chain(*kept))
    for text in kept:
        sizes_here = [len(row) for row in rows if row[0] in text]
        assert len(sizes_here) == -(-len(text) // longest)
        assert max(sizes_here) <= longest
        assert max(sizes_here) - min(sizes_here) <= 1


def test_chunks_of_other_documents_are_uniform():
    texts = [list(range(10 * k, 10 * k + size)) for k, size in enumerate((5, 9, 1, 2, 4))]
    pieces = DocumentChunks(documents(texts, EOS), 4)
    rows = rows_of(pieces)
    draws = 8000
    keys = np.random.default_rng(0).integers(0, 2**64, draws, np.uint64)
    for index, row in enumerate(rows):
        ids, lengths = pieces.from_other_documents(keys, np.full(draws, index))
        found = [tuple(i[:n].tolist()) for i, n in zip(ids, lengths, strict=True)]
        others = [tuple(other) for other in rows if other[0] // 10 != row[0] // 10]
        assert set(found) == set(others)
        expected = draws / len(others)
        chi_square = sum((found.count(other) - expected) ** 2 / expected for other in others)
        assert chi_square < 30  # of at most five degrees of freedom: one in 60,000


def test_a_single_document_has_no_other_document():
    pieces = DocumentChunks(documents([[1, 2, 3], [4], [5]], EOS), 8)
    with pytest.raises(UserError, match=r"no other .* prepare more documents"):
        pieces.from_other_documents(np.zeros(1, np.uint64), np.zeros(1, np.int64))

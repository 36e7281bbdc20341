"""Batches are a pure function of the step: nothing is lost, repeated or split differently."""

from __future__ import annotations

import json
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaling.data.batches import Batches, check_fits, evaluation_sequences
from scaling.data.permutation import permute
from scaling.data.prepare import prepare
from scaling.errors import UserError

CONTEXT = 8


def counting(sequences: int, context: int = CONTEXT, rest: int = 0) -> np.ndarray:
    """Tokens that say their own place, so that a sequence says which one it is."""
    return np.arange(sequences * context + 1 + rest, dtype=np.uint32)


def numbers(batch: np.ndarray, context: int = CONTEXT) -> list[int]:
    """Which sequences a batch of `counting` tokens holds, each checked to be whole."""
    assert np.array_equal(batch, batch[:, :1] + np.arange(context + 1))
    assert not (batch[:, 0] % context).any()
    return (batch[:, 0] // context).tolist()


def test_one_epoch_visits_every_sequence_once_and_the_next_in_another_order():
    batches = Batches(counting(60, rest=CONTEXT - 1), CONTEXT, 4, seed=0)
    assert batches.sequences() == 60
    order = [i for step in range(30) for i in numbers(batches.at(step))]
    first, second = order[:60], order[60:]
    assert sorted(first) == sorted(second) == list(range(60))
    assert first != second
    assert first != sorted(first)
    assert [batches.epoch(step) for step in (0, 14, 15, 29, 30)] == [0, 0, 1, 1, 2]


def test_every_token_but_the_first_is_a_target_once():
    tokens = counting(10)
    batches = Batches(tokens, CONTEXT, 5, seed=1)
    targets = np.concatenate([batches.at(step)[:, 1:].ravel() for step in range(2)])
    assert np.array_equal(np.sort(targets), tokens[1:])


def one_after_the_other(sequences: int, seed: int):
    """The endless order, drawn epoch by epoch."""
    epoch = 0
    while True:
        yield from permute(np.arange(sequences), sequences, seed, epoch).tolist()
        epoch += 1


@given(st.integers(1, 30), st.sampled_from([1, 2, 4, 12]), st.integers(0, 40), st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_a_step_is_what_iterating_to_it_gives_on_any_number_of_hosts(sequences, size, step, seed):
    # Includes batches across the end of an epoch, and batches larger than an epoch.
    batches = Batches(counting(sequences), CONTEXT, size, seed)
    expected = list(islice(one_after_the_other(sequences, seed), step * size, (step + 1) * size))
    whole = batches.at(step)
    assert numbers(whole) == expected
    for hosts in (1, 2, 4):
        if size % hosts == 0:
            parts = [batches.at(step, host, hosts) for host in range(hosts)]
            assert {part.shape for part in parts} == {(size // hosts, CONTEXT + 1)}
            assert np.array_equal(np.concatenate(parts), whole)


def test_a_far_step_is_as_good_as_a_near_one():
    batches = Batches(counting(1000), CONTEXT, 16, seed=5)
    step = 10**9
    epoch, place = divmod(step * 16, 1000)
    assert batches.epoch(step) == epoch
    expected = permute(np.arange(1000), 1000, 5, epoch)[place : place + 16]
    assert numbers(batches.at(step)) == expected.tolist()


def test_seeds_order_differently_and_the_type_is_int32():
    tokens = counting(100)
    batches = [Batches(tokens, CONTEXT, 50, seed).at(0) for seed in (0, 1)]
    assert batches[0].dtype == np.int32
    assert not np.array_equal(*batches)


def test_epochs_and_unique_tokens():
    batches = Batches(counting(10), CONTEXT, 4, seed=0)
    assert batches.epochs_for(5) == 2.0
    seen = [set(), *[set() for _ in range(5)]]
    for steps in range(1, 6):
        seen[steps] = seen[steps - 1] | set(numbers(batches.at(steps - 1)))
        assert batches.unique_tokens(steps) == len(seen[steps]) * CONTEXT


def test_what_cannot_be_a_batch_is_refused():
    batches = Batches(counting(10), CONTEXT, 4, seed=0)
    with pytest.raises(UserError, match="4 cannot be divided among 3 hosts"):
        batches.at(0, 0, 3)
    for step, host, hosts in ((-1, 0, 1), (0, 2, 2), (0, -1, 2)):
        with pytest.raises(ValueError, match="no step"):
            batches.at(step, host, hosts)
    with pytest.raises(UserError, match="9 tokens, and a sequence of context 9 takes 10"):
        Batches(counting(1), 9, 1, seed=0)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("batches")
    lines = [json.dumps({"text": f"{i} " * (3 + i % 7)}) for i in range(10_000, 10_300)]
    (folder / "a.jsonl").write_text("\n".join(lines))
    return prepare(f"jsonl:{folder}/a.jsonl#text", "byte", None, folder / "store", 0.2)


def test_evaluation_sequences_lie_evenly(store):
    tokens = np.array(store.tokens("validation"))
    available = (len(tokens) - 1) // 16
    for count in (1, 7, available - 1, available, available + 100):
        chosen = evaluation_sequences(store, 16, count)
        assert chosen.shape == (min(count, available), 17)
        assert chosen.dtype == np.int32
        starts = [
            next(i for i in range(available) if np.array_equal(tokens[16 * i : 16 * i + 17], row))
            for row in chosen
        ]
        gaps = np.diff([*starts, available])
        assert starts[0] == 0
        assert gaps.min() >= 1
        assert gaps.max() - gaps.min() <= 1


def test_a_store_that_is_too_small_is_refused_with_the_way_out(store):
    once = (store.manifest.train.tokens - 1) // 16 * 16
    check_fits(store, 16, once)
    check_fits(store, 16, 3 * once, epochs=3)
    with pytest.raises(UserError) as error:
        check_fits(store, 16, 2 * once + 1, epochs=2)
    for part in (f"needs {2 * once + 1:,} tokens", f"holds {once:,}", f"to {2 * once:,}",
                 "set data.epochs to 3"):
        assert part in str(error.value)
    train, validation = store.manifest.train.tokens, store.manifest.validation.tokens
    assert train > validation
    with pytest.raises(UserError, match=f"the train split of .* has {train:,} tokens"):
        check_fits(store, train, 1)
    with pytest.raises(UserError, match=f"the validation split of .* has {validation:,} tokens"):
        check_fits(store, validation, 1)
    with pytest.raises(UserError, match="longer than the split holds"):
        evaluation_sequences(store, validation, 1)

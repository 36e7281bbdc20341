"""Batches of every objective: a pure function of the step, from which the text can be had back."""

from __future__ import annotations

from itertools import pairwise
from typing import get_args

import jax
import numpy as np
import pytest

from scaling.config.objectives import NoiseKind
from scaling.config.spans import MODES
from scaling.data.batches import SequenceBatch
from scaling.objectives import Examples, heldout, target_entropy
from tests.data.test_batches import calls
from tests.objectives.cases import CASES, FRAMED, NOISED, PAIRS, run_of

pytestmark = pytest.mark.quick


def assert_same(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for one, other in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


def same(left, right) -> bool:
    return all(np.array_equal(one, other)
               for one, other in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True))


@pytest.fixture(params=CASES)
def case(request, special_store):
    """The name of a case, its run, and its examples."""
    run = run_of(request.param, special_store, batch_sequences=8)
    return request.param, run, Examples.of(run, special_store)


def drawn_again(examples: Examples, index, epoch) -> SequenceBatch:
    """Sequences as they come in some epoch."""
    sequences = examples.batches.sequences
    return SequenceBatch(*sequences.read(index), index, np.full(len(index), epoch))


def made(examples: Examples, drawn: SequenceBatch):
    return examples.functions.examples(examples.context, examples.batches.sequences, drawn)


@pytest.mark.parametrize("noise", get_args(NoiseKind))
def test_each_noise_of_a_denoiser_can_be_used_alone(noise, special_store):
    run = run_of("bart", special_store, objective={"kind": "denoising", "noises": [noise]})
    batch = Examples.of(run, special_store).at(0)
    text, source = batch["targets"][:, :-1], batch["source"][:, 1:]
    assert not np.array_equal(text, source[:, :text.shape[1]])
    read = set(np.unique(source)) - set(special_store.special.ids())
    assert read <= set(np.unique(text))


def test_hosts_and_interruptions_change_nothing(case, special_store):
    _, run, examples = case
    whole = examples.at(5)
    for hosts in (2, 4):
        parts = [examples.at(5, host, hosts) for host in range(hosts)]
        assert_same(jax.tree.map(lambda *x: np.concatenate(x), *parts), whole)
    again = Examples.of(run, special_store)
    for step in (9, 0, 5):
        batch = again.at(step)
    assert_same(batch, whole)
    assert not same(examples.at(6), whole)


def test_a_far_step_costs_no_more_than_a_near_one(case):
    _, _, examples = case
    examples.at(0)
    near = min(calls(lambda step=step: examples.at(step)) for step in (1, 2, 3))
    assert calls(lambda: examples.at(10**9)) < 1.5 * near


def test_two_epochs_have_every_sequence_once_each(case):
    _, _, examples = case
    n, size = len(examples.batches.sequences), examples.batches.batch_sequences
    steps = -(-2 * n // size)
    order = np.concatenate([examples.batches.at(step).sequence_B for step in range(steps)])
    first, second = order[:n], order[n : 2 * n]
    assert np.array_equal(np.sort(first), np.arange(n))
    assert np.array_equal(np.sort(second), np.arange(n))
    assert not np.array_equal(first, second)


def test_noise_is_of_sequence_and_epoch_and_seed(case, special_store):
    name, run, examples = case
    index = np.arange(12)
    epochs = [made(examples, drawn_again(examples, index, epoch)) for epoch in range(3)]
    other = Examples.of(run.model_copy(update={"seed": 1}), special_store)
    reseeded = made(other, drawn_again(other, index, 0))
    assert same(epochs[0], epochs[1]) == (name not in NOISED)
    assert same(epochs[0], reseeded) == (name not in NOISED)
    # Two static masks take turns; what is dynamic never comes back.
    assert same(epochs[0], epochs[2]) == (name not in NOISED or name == "static")
    # A sequence is spoilt alike in whatever batch it comes.
    alone = made(examples, drawn_again(examples, index[3:5], 1))
    assert_same(alone, jax.tree.map(lambda x: x[3:5], epochs[1]))


def test_held_out_batches_are_the_same_for_all_seeds(case, special_store):
    _, run, examples = case
    other = run.model_copy(update={"seed": 7})
    batch = heldout(run, special_store)
    assert_same(heldout(other, special_store), batch)
    assert not same(Examples.of(other, special_store).at(0), examples.at(0))
    assert len(batch["ids"]) == run.evaluation.sequences


def test_every_batch_has_the_shapes_of_the_first(case):
    _, _, examples = case
    shapes = [jax.tree.map(lambda x: (x.shape, x.dtype), examples.at(step)) for step in range(6)]
    assert all(shape == shapes[0] for shape in shapes)


def found(batch, row: int) -> dict[int, int]:
    """The hidden tokens of a row, by place."""
    real = batch["weights"].get("masked", batch["weights"].get("generator"))[row] > 0
    return dict(zip(batch["positions"][row][real].tolist(), batch["targets"][row][real].tolist(),
                    strict=True))


def unmasked(batch, row: int) -> list[int]:
    """The tokens as they were."""
    ids = batch["ids"][row].tolist()
    for place, token in found(batch, row).items():
        ids[place] = token
    return ids


def unspanned(source: list[int], target: list[int], special) -> list[int]:
    """Sentinels of a source, replaced by what the target says of each."""
    says: dict[int, list[int]] = {}
    for token in target[: _end(target, special)]:
        if token in special.sentinels:
            says[token] = spans = []
        else:
            spans.append(token)
    body = source[: _end(source, special)]
    return [t for token in body for t in says.get(token, [token])]


def _end(ids: list[int], special) -> int:
    """Place of the `eos` that ends it, with padding behind."""
    last = max(k for k, token in enumerate(ids) if token != special.pad)
    assert ids[last] == special.eos
    return last


@pytest.mark.parametrize("name", [case for case in CASES if case not in PAIRS])
def test_the_text_can_be_had_back(name, special_store):
    run, special = run_of(name, special_store), special_store.special
    examples = Examples.of(run, special_store)
    for step in range(5):
        text, batch = examples.batches.at(step).ids_BL.tolist(), examples.at(step)
        for row, ids in enumerate(text):
            if name in FRAMED:
                assert unmasked(batch, row) == [special.cls, *ids, special.sep]
            if name == "electra":
                assert batch["original"][row].tolist() == [special.cls, *ids, special.sep]
            if name in ("causal", "separate", "prefix"):
                assert batch["ids"][row].tolist() == ids
            if "source" not in batch:
                continue
            source, target = batch["source"][row].tolist(), batch["targets"][row].tolist()
            start = special.eos if name == "bart" else special.pad
            assert batch["ids"][row].tolist() == [start, *target[:-1]]
            if name == "bart":
                assert target == [*ids, special.eos]
            elif name == "t5":
                assert unspanned(source, target, special) == ids
                assert special.pad not in source + target
            else:
                mode, *source = source
                assert mode in special.sentinels[-len(MODES):]
                assert unspanned(source, target, special) == ids


def inside(part: list[int], text: list[int]) -> bool:
    return any(text[k : k + len(part)] == part for k in range(len(text) - len(part) + 1))


@pytest.mark.parametrize("name", PAIRS)
def test_two_segments_are_what_their_label_says(name, special_store):
    run, special = run_of(name, special_store, batch_sequences=32), special_store.special
    examples, split = Examples.of(run, special_store), special_store.split("train")
    offsets = split.offsets().astype(int)
    documents = [split.read(a, b - 1).tolist() for a, b in pairwise(offsets)]
    drawn, batch, seen = examples.batches.at(0), examples.at(0), set()
    for row, (ids, length) in enumerate(zip(drawn.ids_BL.tolist(), drawn.length_B, strict=True)):
        piece, whole = ids[:length], unmasked(batch, row)
        first = whole.index(special.sep)
        second = whole.index(special.sep, first + 1)
        a, b = whole[1:first], whole[first + 1 : second]
        assert whole[0] == special.cls
        assert set(whole[second + 1 :]) <= {special.pad}
        assert batch["types"][row].tolist() == [
            int(first < place <= second) for place in range(len(whole))]
        assert batch["documents"][row].tolist() == [
            int(place <= second) for place in range(len(whole))]
        label = int(batch["labels"][row])
        seen.add(label)
        if label == 0:
            assert inside(a + b, piece)
        elif name == "albert":
            assert inside(b + a, piece)
        else:
            assert inside(a, piece)
            others = [text for text in documents if not inside(piece, text)]
            assert any(inside(b, text) for text in others)
    assert seen == {0, 1}


def test_only_text_is_hidden_and_the_rest_weighs_nothing(case, special_store):
    name, _, examples = case
    special, batch = special_store.special, examples.at(3)
    for part, weights in batch.get("weights", {}).items():
        assert set(np.unique(weights)) <= {0.0, 1.0}, part
    if name in FRAMED + PAIRS:
        seen_special = False
        for row in range(len(batch["ids"])):
            hidden, whole = found(batch, row), unmasked(batch, row)
            text = {place for place, token in enumerate(whole) if token not in special.ids()}
            seen_special |= special.eos in whole
            assert hidden
            assert set(hidden) <= text
            # What is not hidden is seen as it is.
            assert special.mask not in [whole[place] for place in range(len(whole))]
            assert len(hidden) <= max(1, round(examples.context.objective.rate * len(text)))
            # Random tokens are text too.
            assert {int(batch["ids"][row][p]) for p in hidden} & set(special.ids()) <= {
                special.mask}
            if name == "electra":
                weighed = np.flatnonzero(batch["weights"]["discriminator"][row])
                assert set(weighed.tolist()) == text
        assert seen_special or name in PAIRS  # ends of documents within a window
    if name == "spanbert":
        boundary, masked = batch["weights"]["span_boundary"], batch["weights"]["masked"]
        assert (boundary <= masked).all()
        assert boundary.sum() > 0
    if name == "prefix":
        # Target t is token t + 1: the first that weighs is the first token after the prefix.
        lengths = batch["prefix"].sum(axis=1)
        weights = batch["weights"]["prefix"]
        for row, length in enumerate(lengths.tolist()):
            assert batch["prefix"][row].tolist() == [t < length for t in range(32)]
            assert weights[row].tolist() == [float(t + 1 >= length) for t in range(32)]
    if name == "ul2":
        np.testing.assert_array_equal(batch["weights"]["mixture"], batch["targets"] != special.pad)
        np.testing.assert_array_equal(batch["source_documents"], batch["source"] != special.pad)


def test_a_document_begins_behind_the_end_of_the_one_before(special_store):
    run = run_of("separate", special_store, batch_sequences=16)
    batch, several = Examples.of(run, special_store).at(0), 0
    for ids, documents in zip(batch["ids"].tolist(), batch["documents"].tolist(), strict=True):
        ends = [ids[:place].count(special_store.special.eos) for place in range(32)]
        assert documents == [1 + before for before in ends]
        several += documents[-1] > 2
    assert several


def test_a_denoisers_source_is_the_spoilt_text_between_two_marks(special_store):
    special = special_store.special
    batch = Examples.of(run_of("bart", special_store, batch_sequences=8), special_store).at(0)
    for source, there, target in zip(
        batch["source"].tolist(), batch["source_documents"].tolist(), batch["targets"].tolist(),
        strict=True,
    ):
        end = _end(source, special)
        assert there == [int(place <= end) for place in range(len(source))]
        assert source[0] == special.cls
        body = source[1:end]
        assert special.mask in body
        left = [token for token in body if token != special.mask]
        assert len(left) == len(target) - 1 - round(0.3 * (len(target) - 1))
        assert all(left.count(token) <= target.count(token) for token in set(left))


def test_words_are_hidden_whole(special_store):
    examples = Examples.of(run_of("static", special_store, batch_sequences=8), special_store)
    special, spaces, batch = special_store.special, set(b" \n\t"), examples.at(0)
    for row in range(8):
        hidden, whole = found(batch, row), unmasked(batch, row)
        for place in range(1, len(whole) - 1):
            # A space begins a word, and so does what follows no text.
            begins = whole[place] in spaces or whole[place - 1] in special.ids()
            if not begins and whole[place] not in special.ids():
                assert (place in hidden) == (place - 1 in hidden)


def test_the_entropy_of_targets_is_that_of_their_counts(special_store):
    for name in ("causal", "prefix", "bert", "electra", "ul2"):
        batch = heldout(run_of(name, special_store), special_store)
        targets = batch["targets"] if "targets" in batch else batch["ids"][:, 1:]
        weights = {"bert": "masked", "electra": "generator", "ul2": "mixture"}.get(name, name)
        asked = batch["weights"][weights] > 0 if "weights" in batch else targets >= 0
        counts: dict[int, int] = {}
        for token in targets[asked].tolist():
            counts[token] = counts.get(token, 0) + 1
        total = sum(counts.values())
        expected = -sum(n / total * np.log(n / total) for n in counts.values())
        assert target_entropy(batch) == pytest.approx(expected)

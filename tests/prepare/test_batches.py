"""One epoch of the batches of a run on a seqio task, against `seqio.get_dataset` and its
converters.

Documents are processed twice: `seqio:TASK` is prepared into a store that a run reads, and the task
is run through seqio's own pipeline. Three differences are by design, and tested as such:

- The first input of the decoder is a token of the text, but padding in seqio: a row here has one
  more token, the target of its last position.
- The remainder at the end of the text is dropped; seqio pads it.
- T5's span corruption concatenates documents without a separator, and its prefix LM splits each
  document separately; rows here cross the ends of documents, which are tokens. Spans and prefixes
  are sampled differently, so the samples of one side are passed to the other.

seqio has no converter for BERT's 80/10/10 (it predicts where it sees the mask token), for pairs of
segments or replaced tokens, and no tasks for BART's noise and UL2's mixture.
"""

from __future__ import annotations

import json
import random
from string import ascii_lowercase, ascii_uppercase

import numpy as np
import pytest

from scaling.config.spans import noise_counts, span_lengths
from scaling.data.prepare import prepare
from tests.objectives.cases import BOTH, DECODER
from tests.prepare.cases import (
    EOS,
    FIRST_BYTE,
    HELD_OUT,
    PAD,
    SENTINELS,
    Corpus,
    held_out_text,
    stacked,
    text_and_mask,
)

WIDTH = DECODER["context"]
SOURCE, TARGET = 64, 14
RATE, MEAN_SPAN = 0.15, 3.0


@pytest.fixture(scope="session")
def corpus_of(tasks, model, vocabularies, tmp_path_factory):
    """Makes a corpus of documents: a store by `seqio:TASK`, and the tasks."""
    seqio = tasks.seqio

    def make(
        name: str, kind: str, texts: list[str], special: tuple[str, ...] = ("pad",),
        sentinels: int = SENTINELS,
    ) -> Corpus:
        folder, vocabulary = tmp_path_factory.mktemp(name), vocabularies[kind]
        path = folder / "texts.jsonl"
        path.write_text("".join(f"{json.dumps({'text': text})}\n"
                                for text in [*texts, held_out_text()]))
        source = tasks.CorpusDataSource(f"jsonl:{path}#text")
        for objective in tasks.OBJECTIVES:
            task = tasks.add(f"{name}_{kind}_{objective}", source, objective, vocabulary)
            if objective == "span_corruption":
                stages = list(task.preprocessors)
                stages.insert(stages.index(seqio.preprocessors.tokenize) + 1,
                              seqio.preprocessors.append_eos)
                seqio.TaskRegistry.add(f"{task.name}_with_ends", source=source,
                                       preprocessors=stages, metric_fns=[],
                                       output_features=task.output_features)
        store = prepare(f"seqio:{name}_{kind}_full_lm", "byte" if kind == "bytes" else str(model),
                        None, folder / "store", HELD_OUT, test_fraction=0.0, deduplicate="none",
                        workers=1, special=special, sentinels=sentinels)
        assert store.manifest.validation.documents == 1
        return Corpus(store, vocabulary, f"{name}_{kind}")

    return make


@pytest.fixture(scope="session", params=["bytes", "sentencepiece"])
def corpus(corpus_of, texts, request):
    return corpus_of("few", request.param, texts)


@pytest.mark.parametrize("rest", [0, 1, None])
def test_causal(corpus, rest):
    """Against a task that concatenates documents with eos, and cuts them where rows are full."""
    width = WIDTH if rest is None else next(
        width for width in range(20, corpus.tokens) if corpus.tokens % width == rest)
    theirs = corpus.get("full_lm", "LMFeatureConverter", targets=width)
    targets, inputs = theirs["decoder_target_tokens"], theirs["decoder_input_tokens"]
    rows = corpus.epoch("causal", model=DECODER | {"context": width}, tokens=30 * width)
    assert set(rows) == {"ids"}  # a weight of 1 everywhere
    ids, whole = rows["ids"], (corpus.tokens - 1) // width
    assert ids.shape == (whole, width + 1)
    # The same tokens in, the same tokens to predict and the same weights, place by place.
    np.testing.assert_array_equal(ids[:, :-2], inputs[:whole, 1:])
    np.testing.assert_array_equal(ids[:, 1:-1], targets[:whole, 1:])
    assert (theirs["decoder_loss_weights"][:whole] == 1).all()
    # The first token of a row is predicted too: from padding in seqio, here from the row before.
    assert (inputs[:, 0] == PAD).all()
    np.testing.assert_array_equal(ids[:, 0], targets[:whole, 0])
    np.testing.assert_array_equal(ids[:, -1], targets[1:whole + 1, 0])
    # No token of the text is missing: it is followed by the held-out document.
    stream = targets[theirs["decoder_loss_weights"] == 1]
    assert stream[corpus.tokens:].tolist() == [*corpus.vocabulary.encode(held_out_text()), EOS]
    # Less than a row of it is left over.
    assert 0 <= corpus.tokens - (whole * width + 1) < width


def test_causal_text_of_many_documents(corpus_of, tasks):
    """T5 begins a new row after every 128 documents, and pads the one before; a run does not."""
    texts = [f"document {number ** 3}" for number in range(300)]
    corpus = corpus_of("many", "bytes", texts)
    theirs = corpus.get("full_lm", "LMFeatureConverter", targets=WIDTH)
    weights = theirs["decoder_loss_weights"] == 1
    assert (~weights).any(axis=1).sum() == len(texts) // tasks.preprocessors.DOCUMENTS_TOGETHER + 1
    stream = theirs["decoder_target_tokens"][weights]
    ids = corpus.epoch("causal")["ids"]
    np.testing.assert_array_equal(ids[:, :-1].ravel(), stream[:len(ids) * WIDTH])
    np.testing.assert_array_equal(ids[:, -1], stream[WIDTH:corpus.tokens:WIDTH])


@pytest.fixture(scope="session")
def spans(corpus):
    """Rows of span corruption, each with its text and noise mask."""
    rows = corpus.epoch("t5", model=BOTH | {"source_context": SOURCE, "context": TARGET})
    made = [text_and_mask(*sides, corpus.sentinels)
            for sides in zip(rows["source"], rows["targets"], strict=True)]
    texts, masks = (np.array(side) for side in zip(*made, strict=True))
    return rows, texts, masks


def test_span_corruption(corpus, spans):
    """Everything is equal except the random positions of the noise."""
    rows, texts, masks = spans
    assert set(rows) == {"source", "ids", "targets"}  # a weight of 1 everywhere
    lengths = {"inputs": SOURCE, "targets": TARGET}
    theirs = corpus.get("span_corruption_with_ends", "EncDecFeatureConverter", **lengths)
    length, _ = span_lengths(SOURCE, RATE, MEAN_SPAN)
    whole = corpus.tokens // length
    made = [text_and_mask(*sides, corpus.sentinels) for sides in zip(
        theirs["encoder_input_tokens"], theirs["decoder_target_tokens"], strict=True)]
    np.testing.assert_array_equal(texts, [text for text, _ in made[:whole]])
    # The same number of noise tokens, in the same number of spans.
    their_masks = np.array([mask for _, mask in made[:whole]])
    for mask in (masks, their_masks):
        begins = mask & ~np.pad(mask, ((0, 0), (1, 0)))[:, :-1]
        assert {*zip(mask.sum(1), begins.sum(1), strict=True)} == {
            noise_counts(length, RATE, MEAN_SPAN)}
    assert not np.array_equal(masks, their_masks)
    # Neither side is padded, except for the first input of the decoder.
    assert (theirs["decoder_loss_weights"][:whole] == 1).all()
    for ours, feature in (("source", "encoder_input_tokens"), ("targets", "decoder_target_tokens"),
                          ("ids", "decoder_input_tokens")):
        np.testing.assert_array_equal(rows[ours] == PAD, theirs[feature][:whole] == PAD)
    # The text of T5's own task is the same except for the ends of documents.
    plain = corpus.get("span_corruption", "EncDecFeatureConverter", **lengths)
    stream = np.concatenate([text_and_mask(*sides, corpus.sentinels)[0] for sides in zip(
        plain["encoder_input_tokens"], plain["decoder_target_tokens"], strict=True)])
    joined = texts[texts != EOS]
    np.testing.assert_array_equal(joined, stream[:len(joined)])


def test_span_corruption_with_our_noise(tasks, corpus, spans):
    """The masks of a run through T5's functions and seqio's converter give its batches exactly."""
    rows, texts, masks = spans
    seqio, t5, first = tasks.seqio, tasks.preprocessors, corpus.sentinels[0]
    dataset = t5.tf.data.Dataset.from_tensor_slices((texts.astype(np.int32), masks)).map(
        lambda text, mask: {"inputs": t5.noise_span_to_unique_sentinel(text, mask, first),
                            "targets": t5.nonnoise_span_to_unique_sentinel(text, mask, first)})
    lengths = {"inputs": SOURCE, "targets": TARGET}
    dataset = seqio.preprocessors.append_eos_after_trim(
        dataset, {name: seqio.Feature(corpus.vocabulary) for name in lengths}, lengths)
    theirs = stacked(seqio.EncDecFeatureConverter(pack=False)(dataset, lengths))
    np.testing.assert_array_equal(rows["source"], theirs["encoder_input_tokens"])
    np.testing.assert_array_equal(rows["targets"], theirs["decoder_target_tokens"])
    np.testing.assert_array_equal(rows["ids"], theirs["decoder_input_tokens"])
    np.testing.assert_array_equal(np.ones(rows["targets"].shape), theirs["decoder_loss_weights"])


def test_prefix(tasks, corpus):
    """Rows of an LM task, split at the prefixes of a run and joined again by seqio's converter."""
    seqio, tf = tasks.seqio, tasks.preprocessors.tf
    rows = corpus.epoch("prefix")
    ids, prefix = rows["ids"], rows["prefix"]
    task = corpus.get("full_lm", "LMFeatureConverter", targets=WIDTH)["decoder_target_tokens"]
    dataset = tf.data.Dataset.from_tensor_slices((task[:len(ids)], prefix.sum(1))).map(
        lambda row, length: {"inputs": row[:length], "targets": row[length:]})
    theirs = stacked(seqio.PrefixLMFeatureConverter(pack=False)(
        dataset, {"inputs": WIDTH, "targets": WIDTH}))
    assert len(ids) == (corpus.tokens - 1) // WIDTH
    # seqio's row begins with padding; a row here ends with the first token of the next row.
    theirs = {name: rows_of[:, 1:WIDTH] for name, rows_of in theirs.items()}
    weights = rows["weights"]["prefix"]
    np.testing.assert_array_equal(ids[:, :-2], theirs["decoder_input_tokens"])
    np.testing.assert_array_equal(ids[:, 1:-1], theirs["decoder_target_tokens"])
    np.testing.assert_array_equal(prefix[:, :-1], theirs["decoder_causal_attention"])
    np.testing.assert_array_equal(weights[:, :-1], theirs["decoder_loss_weights"])
    assert not prefix[:, -1].any()
    assert (weights[:, -1] == 1).all()
    np.testing.assert_array_equal(ids[:, -1], task[1:len(ids) + 1, 0])


def test_masked(tasks, corpus_of, texts):
    """seqio's encoder predicts at mask tokens, so every selected token is replaced by the mask."""
    seqio, tf = tasks.seqio, tasks.preprocessors.tf
    corpus = corpus_of("masked", "sentencepiece", texts, ("cls", "sep", "mask"), 0)
    special = corpus.store.special
    rows = corpus.epoch("masked", objective={"kind": "masked", "mask_share": 1.0,
                                             "random_share": 0.0})
    text, hidden = rows["ids"].copy(), np.zeros(rows["ids"].shape, np.int32)
    # Entries of `places` without weight are 0, a position that is never masked.
    found = rows["weights"]["masked"] == 1
    shown = np.where(found, rows["targets"], text[:, :1])
    np.put_along_axis(text, rows["positions"], shown, axis=1)
    np.put_along_axis(hidden, rows["positions"], found, axis=1)
    theirs = corpus.get("full_lm", "LMFeatureConverter", targets=WIDTH - 2)
    np.testing.assert_array_equal(
        text[:, 1:-1], theirs["decoder_target_tokens"][:corpus.tokens // (WIDTH - 2)])
    assert (text[:, 0] == special.cls).all()
    assert (text[:, -1] == special.sep).all()
    dataset = tf.data.Dataset.from_tensor_slices(
        {"inputs": rows["ids"].astype(np.int32), "targets": text.astype(np.int32)})
    converter = seqio.feature_converters.EncoderFeatureConverter(special.mask, pack=False)
    converted = stacked(converter(dataset, {"inputs": WIDTH, "targets": WIDTH}))
    np.testing.assert_array_equal(converted["encoder_input_tokens"], rows["ids"])
    np.testing.assert_array_equal(converted["encoder_loss_weights"], hidden)


def test_mixture(tasks, jsonl, tmp_path):
    """A mixture's rates are shares of its rows, however long the documents of each task are."""
    seqio, vocabulary, draw = tasks.seqio, tasks.seqio.ByteVocabulary(SENTINELS), random.Random(0)
    for name, letters, size, documents in (
        ("long", ascii_lowercase, 150, 200), ("short", ascii_uppercase, 15, 2000)):
        source = jsonl(name, ["".join(draw.choices(letters, k=size)) for _ in range(documents)])
        tasks.add(f"shares_{name}", tasks.CorpusDataSource(source), "full_lm", vocabulary)
    seqio.MixtureRegistry.add("shares", [("shares_long", 3), ("shares_short", 1)])
    dataset = seqio.get_dataset(
        "shares", {"targets": WIDTH}, dataset_split="train", shuffle=False, seed=0,
        num_epochs=None, feature_converter=seqio.LMFeatureConverter(pack=False))
    count = 500
    theirs = stacked(dataset.take(count))["decoder_target_tokens"]
    store = prepare("seqio:shares", "byte", None, tmp_path / "store", workers=1, special=("pad",),
                    sentinels=SENTINELS)
    ours = Corpus(store, vocabulary, "shares").epoch("causal")["ids"]

    def share_of_long(ids: np.ndarray) -> float:
        long, short = (np.isin(ids - FIRST_BYTE, list(letters.encode())).sum()
                       for letters in (ascii_lowercase, ascii_uppercase))
        return long / (long + short)

    deviation = (0.75 * 0.25 / count) ** 0.5  # of a share of `count` rows
    for share in (share_of_long(theirs), share_of_long(ours)):
        assert share == pytest.approx(0.75, abs=3 * deviation)

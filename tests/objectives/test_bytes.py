"""Bits per byte divide by the bytes of just the text that was predicted."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest

from scaling.data.prepare import prepare
from scaling.data.tokenizers.byte_level import ALPHABET
from scaling.objectives import bytes_per_prediction, heldout
from tests.objectives.cases import CASES, run_of

pytestmark = pytest.mark.quick

TEXT = ["naïve", "café", "日本語", "the", "old", "house", "…", "🚗", "love"]
WORDPIECE = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "na", "##ive", "cafe", "日", "本", "語",
             "the", "old", "ho", "##use", "love"]


def predicted(batch):
    """Every target that counts, found without the code that is tested."""
    targets = batch["targets"] if "targets" in batch else batch["ids"][:, 1:]
    weights = [w for w in batch.get("weights", {}).values() if w.shape == targets.shape]
    return [token for place, token in np.ndenumerate(targets) if not weights or weights[0][place]]


@pytest.mark.parametrize("name", [name for name in CASES if name != "distillation"])
def test_on_bytes_it_is_the_length_of_the_text(name, special_store):
    run = run_of(name, special_store)
    batch = heldout(run, special_store)
    tokens = predicted(batch)
    text = special_store.tokenizer().decode(tokens)
    assert text.isascii()
    found = bytes_per_prediction(batch, special_store.token_bytes)
    assert found == len(text) / len(tokens)
    assert 0 < found <= 1


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder, draw = tmp_path_factory.mktemp("bytes"), random.Random(0)
    with (folder / "text.jsonl").open("w") as file:
        for _ in range(300):
            file.write(json.dumps({"text": " ".join(draw.choices(TEXT, k=30))}) + "\n")
    (folder / "vocab.txt").write_text("\n".join(WORDPIECE))
    kinds = {"byte": None, "bpe": 280, "unigram": 280, "wordpiece": None}
    return {kind: prepare(f"jsonl:{folder}/text.jsonl#text",
                          kind if kind != "wordpiece" else f"{folder}/vocab.txt", size,
                          folder / kind, 0.1)
            for kind, size in kinds.items()}


@pytest.mark.parametrize("kind", ["byte", "bpe"])
def test_it_is_exact_to_the_byte(stores, kind):
    store = stores[kind]
    split = store.split("validation")
    ids = split.read(0, split.tokens)
    assert store.token_bytes[ids].sum() == store.manifest.split("validation").bytes
    batch = heldout(run_of("causal", store), store)
    targets = batch["ids"][:, 1:].reshape(-1)
    if kind == "bpe":  # a window may end inside a character: by the bytes of each token, then
        written = {number: token for token, number in store.tokenizer().vocab.items()}
        raw = [bytes(map(ALPHABET.index, written[i])) for i in targets if i != store.special.eos]
        whole = sum(map(len, raw))
    else:
        whole = int((targets < 256).sum())
    found = bytes_per_prediction(batch, store.token_bytes)
    assert found == pytest.approx(whole / len(targets), rel=1e-12)
    assert found != pytest.approx(store.bytes_per_token("validation"), rel=1e-6)


@pytest.mark.parametrize("kind", ["unigram", "wordpiece"])
def test_tokens_that_do_not_keep_the_text_have_their_share_of_its_bytes(stores, kind):
    store = stores[kind]
    record = store.manifest.split("validation")
    split = store.split("validation")
    total = store.token_bytes[split.read(0, split.tokens)].sum()
    assert total == pytest.approx(record.bytes)
    tokenizer = store.tokenizer()
    words = [word for word in TEXT if word.isascii() or kind == "unigram"]
    found = {word: store.token_bytes[tokenizer.encode(word)].sum() for word in words}
    for word in words:
        assert found[word] / found["the"] == pytest.approx((1 + len(word.encode())) / 4), word
    assert set(store.token_bytes[list(store.special.ids())]) == {0}


def test_a_language_has_no_bytes(tmp_path):
    store = prepare("synthetic:markov,vocab=8,successors=3", "none", None,
                    tmp_path / "language")
    assert store.token_bytes is None

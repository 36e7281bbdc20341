"""The data that a run reads, and the refusal of stores that lack some of it."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from scaling.config import RunConfig, validate
from scaling.data.batches import DocumentChunks, Windows
from scaling.data.prepare import prepare
from scaling.data.run_data import check_fits, sequences_of, store_of, training_batches
from scaling.data.store import TokenStore
from scaling.errors import UserError
from scaling.training.resolve import resolve
from tests.objectives.cases import CASES, content_of, run_of, special_store

pytestmark = pytest.mark.quick


@pytest.fixture(scope="module")
def marked(tmp_path_factory):
    """A store with every special token."""
    return special_store(tmp_path_factory.mktemp("marked"))


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A store whose only special token is the end of a document."""
    folder = tmp_path_factory.mktemp("bare")
    lines = [json.dumps({"text": f"{i} " * (3 + i % 7)}) for i in range(10_000, 10_300)]
    (folder / "a.jsonl").write_text("\n".join(lines))
    return prepare(f"jsonl:{folder}/a.jsonl#text", "byte", None, folder / "store", 0.2, workers=1)


def causal(store: TokenStore, context: int, tokens: float, **changes) -> RunConfig:
    return validate(RunConfig, {
        "model": {"d_model": 8, "n_layers": 1, "n_heads": 2, "context": context},
        "data": {"store": str(store.path)}, "tokens": tokens, "batch_sequences": 1,
        "schedule": {"kind": "wsd", "warmup_steps": 1}} | changes, "test")


def test_a_store_that_is_too_small_is_refused_with_the_fix(bare):
    once = (bare.split("train").tokens - 1) // 16 * 16
    check_fits(causal(bare, 16, once), bare)
    check_fits(causal(bare, 16, 3 * once, data={"store": "x", "epochs": 3}), bare)
    with pytest.raises(UserError) as error:
        check_fits(causal(bare, 16, 2 * once + 16, data={"store": "x", "epochs": 2}), bare)
    for part in (f"needs {2 * once + 16:,} tokens", f"sequences has {once:,}", f"to {2 * once:,}",
                 "set data.epochs to 3"):
        assert part in str(error.value)
    train, validation = bare.split("train").tokens, bare.split("validation").tokens
    assert train > validation
    with pytest.raises(UserError, match=f"the train split of .* has {train:,} tokens"):
        check_fits(causal(bare, train, 1e6), bare)
    with pytest.raises(UserError, match=f"the validation split of .* has {validation:,} tokens"):
        check_fits(causal(bare, validation, 1e6), bare)
    with pytest.raises(UserError, match=r"evaluation\.sequences = 1; .* at least 2"):
        check_fits(causal(bare, 16, once, evaluation={"sequences": 1}), bare)


def test_one_held_out_sequence_has_no_standard_error(bare):
    """However many are asked for; two sequences have one."""
    train, held_out = bare.split("train").tokens, bare.split("validation").tokens
    longest = (held_out - 1) // 2  # two windows, and the token after the second
    assert train > held_out
    much = {"store": "x", "epochs": 10}
    check_fits(causal(bare, longest, 20 * longest, data=much), bare)
    with pytest.raises(UserError, match=f": 1 held-out sequence.s. of {longest + 1} tokens, and "
                                        r"evaluation\.sequences = \d+; .* at least 2"):
        check_fits(causal(bare, longest + 1, 20 * longest + 20, data=much), bare)


def test_the_command_for_a_missing_store_has_the_tokens_of_the_objective(marked, tmp_path):
    run = run_of("t5", marked)
    data = run.data.model_copy(update={"store": tmp_path / "mine-byte"})
    with pytest.raises(UserError, match="prepare SOURCE --special pad --sentinels 3 --out"):
        store_of(run.model_copy(update={"data": data}))


def test_a_run_is_resolved_only_with_a_store_that_has_all_it_needs(bare):
    """A vocabulary of the store's size, of at least as many ids, and enough text."""
    run = causal(bare, 16, 1600)
    assert resolve(run, bare).model.vocab_size == bare.vocab_size == 257
    larger = causal(bare, 16, 1600, model={"d_model": 8, "n_layers": 1, "n_heads": 2,
                                           "context": 16, "vocab_size": 300})
    assert resolve(larger, bare).model.vocab_size == 300
    smaller = larger.model.model_copy(update={"vocab_size": 256})
    with pytest.raises(UserError, match=r"vocab_size = 256 is smaller than the 257 token ids"):
        resolve(larger.model_copy(update={"model": smaller}), bare)
    with pytest.raises(UserError, match="but one epoch of 16-token sequences has"):
        resolve(causal(bare, 16, 1e7), bare)


LACKS = {
    # the case, the missing tokens and the fix
    "prefix": None,
    "masked": ("no <cls> and no <sep> and no <mask>", "--special cls,sep,mask"),
    "bert": ("no <cls> and no <sep> and no <mask> and no <pad>", "--special cls,sep,mask,pad"),
    "t5": ("no <pad>", "--special pad --sentinels 3"),  # round(10 / 3) spans of 70 tokens
    "bart": ("no <cls> and no <mask> and no <pad>", "--special cls,mask,pad"),
    "ul2": ("no <pad>", "--special pad --sentinels"),
    "electra": ("no <cls>", "--special cls,sep,mask"),
    "distillation": ("no <cls>", "--special cls,sep,mask"),
}


@pytest.mark.parametrize("name", LACKS)
def test_missing_special_tokens_are_named_with_the_options(name, bare, marked):
    check_fits(run_of(name, marked), marked)
    run = run_of(name, bare)
    if LACKS[name] is None:
        check_fits(run, bare)
        return
    with pytest.raises(UserError) as error:
        check_fits(run, bare)
    message = str(error.value)
    assert "\n" not in message
    assert f"the objective {run.objective.kind} uses; prepare the text again" in message
    for words in LACKS[name]:
        assert words in message, message


def test_too_few_sentinels_are_counted(tmp_path, marked):
    """The options suggested by the message are sufficient."""
    run = run_of("ul2", marked)
    needed = run.objective.n_sentinels(run.model)
    source = f"jsonl:{marked.path.parent}/text.jsonl#text"
    few = prepare(source, "byte", None, tmp_path / "few", 0.2, workers=1, special=("pad",),
                  sentinels=needed - 1)
    with pytest.raises(UserError) as error:
        check_fits(run_of("ul2", few), few)
    assert f"has {needed - 1} of the {needed} sentinels" in str(error.value)
    options = re.search(r"--special (\S+) --sentinels (\d+)$", str(error.value))
    enough = prepare(source, "byte", None, tmp_path / "enough", 0.2, workers=1,
                     special=options[1].split(","), sentinels=int(options[2]))
    check_fits(run_of("ul2", enough), enough)


def test_a_mixture_needs_the_sentinels_of_its_largest_denoiser_and_its_modes(marked):
    """By hand: 30 tokens fit with a mode and an eos, the largest denoiser removes half of them in
    spans of 3, and three more sentinels mark the mode."""
    run = run_of("ul2", marked)
    assert run.sequence_tokens == 30
    assert run.objective.n_sentinels(run.model) == 15 // 3 + 3
    assert run.objective.special_roles() == ("pad",)


@pytest.mark.parametrize("name", CASES)
def test_sequences_are_windows_or_document_chunks(name, marked):
    run = run_of(name, marked)
    split = marked.split("train")
    sequences = sequences_of(run, split)
    if name in ("bert", "albert"):
        assert isinstance(sequences, DocumentChunks)
        assert sequences.longest == run.sequence_tokens == 32 - 3
    else:
        assert isinstance(sequences, Windows)
        next_token = name in ("causal", "separate", "prefix")
        assert sequences.width == sequences.stride + next_token == run.sequence_tokens + next_token
        # No token of the split is left out, but those that do not fill a window.
        unread = split.tokens - len(sequences) * sequences.stride
        assert 0 <= unread < sequences.width
    batches = training_batches(run, marked)
    assert (batches.batch_sequences, batches.seed) == (run.batch_sequences, run.seed)
    assert len(batches.sequences) == len(sequences)


def test_ids_beyond_the_stores_vocabulary_are_never_sampled(marked):
    """Random replacement tokens are ids of the store."""
    from scaling.objectives import Examples

    content = content_of("masked", marked.path, batch_sequences=64)
    content["model"] = content["model"] | {"vocab_size": 1024}
    content["data"] = content["data"] | {"epochs": 4}
    content["objective"] = {"kind": "masked", "mask_share": 0, "random_share": 1, "rate": 0.9}
    run = resolve(validate(RunConfig, content, "test"), marked)
    batch = Examples.of(run, marked).at(0)
    seen = np.take_along_axis(batch["ids"], batch["positions"], axis=1)
    drawn = seen[batch["weights"]["masked"] > 0]
    assert drawn.max() < 256
    assert len(set(drawn.tolist())) > 200


def test_a_model_with_fewer_ids_than_its_store_is_refused(make_run, store):
    """Even if the store has changed since the run was resolved."""
    run = make_run()
    assert len(training_batches(run, store).sequences)
    smaller = run.model.model_copy(update={"vocab_size": store.vocab_size - 1})
    with pytest.raises(UserError, match=r"vocab_size = 256 is smaller than the 257 token ids"):
        training_batches(run.model_copy(update={"model": smaller}), store)

"""Our models against weights and logits of transformers (tests/goldens/make.py)."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from scaling.errors import UserError
from scaling.interop.families import ARCHITECTURES
from scaling.interop.hf import from_tensors, to_hf
from tests.parity.harness import LOGITS, Batch, our_outputs_jit, real

GOLDENS = sorted((Path(__file__).parents[1] / "goldens").glob("*.npz"))


class Golden(NamedTuple):
    architecture: str
    settings: dict[str, Any]
    weights: dict[str, Any]
    logits: dict[str, Any]
    batch: Batch


@cache
def golden(path: Path) -> Golden:
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)

    def under(part: str) -> dict[str, Any]:
        return {name.removeprefix(f"{part}/"): value for name, value in arrays.items()
                if name.startswith(f"{part}/")}

    return Golden(str(arrays["architecture"]), json.loads(str(arrays["settings"])),
                  under("weights"), under("logits"), Batch(**under("batch")))


def test_every_class_has_one():
    trunks = {name for name, family in ARCHITECTURES.items() if family.optional}
    assert {golden(path).architecture for path in GOLDENS} == ARCHITECTURES.keys() - trunks
    assert trunks == {"BertModel"}


@pytest.mark.parametrize("path", GOLDENS, ids=lambda path: path.stem)
def test_same_logits(path):
    it = golden(path)
    model, _ = from_tensors(it.architecture, it.settings, it.weights)
    got = our_outputs_jit(model, it.batch, tuple(it.logits))
    for kind, expected in it.logits.items():
        assert got[kind].shape == expected.shape
        assert (np.abs(got[kind] - expected) * real(expected, it.batch)).max() < LOGITS


@pytest.mark.parametrize("path", GOLDENS, ids=lambda path: path.stem)
def test_way_back_is_exact(path):
    it = golden(path)
    model, config = from_tensors(it.architecture, it.settings, it.weights)
    tensors, settings = to_hf(model, config, it.architecture)
    assert tensors.keys() == it.weights.keys()
    for name, tensor in it.weights.items():
        np.testing.assert_array_equal(tensors[name], tensor, err_msg=name)
    again, same = from_tensors(it.architecture, settings, tensors)
    assert same == config
    jax.tree.map(np.testing.assert_array_equal, again, model)


_IDS = ("embeddings.position_ids", "embeddings.token_type_ids")
BUFFERS: dict[str, tuple[str, ...]] = {
    "BertForPreTraining": tuple(f"bert.{name}" for name in _IDS),
    "BertForMaskedLM": (*(f"bert.{name}" for name in _IDS), "bert.pooler.dense.weight",
                        "cls.seq_relationship.weight"),
    "RobertaForMaskedLM": tuple(f"roberta.{name}" for name in _IDS),
    "AlbertForPreTraining": tuple(f"albert.{name}" for name in _IDS),
    "AlbertForMaskedLM": (*(f"albert.{name}" for name in _IDS), "albert.pooler.weight",
                          "sop_classifier.classifier.weight"),
    "ElectraForPreTraining": tuple(f"electra.{name}" for name in _IDS),
    "ElectraForMaskedLM": tuple(f"electra.{name}" for name in _IDS),
    "DistilBertForMaskedLM": ("distilbert.embeddings.position_ids",),
    "OpenAIGPTLMHeadModel": ("transformer.h.0.attn.bias", "transformer.position_ids"),
    "GPT2LMHeadModel": ("transformer.h.1.attn.bias", "transformer.h.0.attn.masked_bias"),
    "LlamaForCausalLM": ("model.layers.0.self_attn.rotary_emb.inv_freq",),
    "GPTNeoXForCausalLM": tuple(f"gpt_neox.layers.1.attention.{name}" for name in (
        "bias", "masked_bias", "rotary_emb.inv_freq")),
    "T5ForConditionalGeneration": (
        "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",),
    "BartForConditionalGeneration": ("model.encoder.version", "model.decoder.version"),
}
"""Names in files of older versions, or of classes with more heads, that are not needed."""


@pytest.mark.parametrize("path", GOLDENS, ids=lambda path: path.stem)
def test_every_tensor_matters(path):
    """An additional tensor, or a missing one without second name, is an error; none is ignored but
    buffers and the heads of other classes."""
    it = golden(path)
    buffers = dict.fromkeys(BUFFERS.get(it.architecture, ()), np.ones(3, np.float32))
    with pytest.raises(UserError, match=r"also have (\w+\.)?stray\.weight, which"):
        from_tensors(it.architecture, it.settings,
                     it.weights | {"stray.weight": np.ones(3)} | buffers)
    family = ARCHITECTURES[it.architecture]
    twice = {*family.alternatives, *family.alternatives.values(), *family.zeros}
    single = sorted(it.weights.keys() - twice)
    for name in (single[0], single[-1]):
        fewer = {key: value for key, value in it.weights.items() if key != name}
        with pytest.raises(UserError, match="lack"):
            from_tensors(it.architecture, it.settings, fewer)

"""Counts against the models themselves, leaf by leaf."""

from __future__ import annotations

import re
from collections import Counter

import jax
import pytest

from scaling.accounting import count_parameters
from scaling.config import ModelConfig
from scaling.models import Transformer

TINY = {"d_model": 24, "n_layers": 4, "n_heads": 4, "context": 10, "vocab_size": 11}
ENCODER = TINY | {"mode": "encoder-only", "biases": True, "norm": "layer"}
BOTH = TINY | {"mode": "encoder-decoder", "n_encoder_layers": 2, "source_context": 14}
FACTORISED = {"d_embedding": 6, "positions": "learned", "embedding_norm": True}
ALL_ENCODER_HEADS = [
    {"kind": "masked_lm"}, {"kind": "next_sentence"}, {"kind": "sentence_order"},
    {"kind": "replaced_token"}, {"kind": "span_boundary", "longest": 7, "d_place": 5},
    {"kind": "token", "classes": 3}, {"kind": "sequence", "classes": 4}, {"kind": "span"},
    {"kind": "choice"},
]

MODELS = {
    "plain": TINY,
    "biases": TINY | {"biases": True, "norm": "layer", "positions": "learned"},
    "rms biases": TINY | {"biases": True, "activation": "swiglu", "d_head": 8},
    "untied": TINY | {"tied_head": False, "n_kv_heads": 2, "activation": "geglu", "d_ff": 40},
    "one norm": TINY | {"parallel": "one_norm", "n_kv_heads": 1},
    "two norms": TINY | {"parallel": "two_norms", "rotary_fraction": 0.34, "biases": True},
    "post": TINY | {"norm_place": "post", "norm": "layer", "biases": True},
    "no norm": TINY | {"norm_place": "none", "positions": "none"},
    "last norm alone": TINY | {"norm_place": "none", "final_norm": True, "positions": "alibi"},
    "transformer xl": TINY | {"positions": "transformer_xl", "biases": True,
                              "heads": [{"kind": "lm", "bias": True}]},
    "relative": TINY | {"positions": "relative", "relative_buckets": 8},
    "offset": TINY | {"positions": "learned", "position_offset": 2, "banded": "alternate",
                      "window": 3},
    "experts": TINY | {"experts": {"count": 5, "top_k": 2}, "biases": True, "activation": "swiglu"},
    "experts in all": TINY | {"experts": {"count": 3, "every": 1}},
    "shared": TINY | {"share_layers": "all", "biases": True},
    "shared attention": TINY | {"share_layers": "attention", "positions": "transformer_xl"},
    "shared feed-forward": TINY | {"share_layers": "feed_forward", "parallel": "one_norm"},
    "first map": TINY | FACTORISED | {"embedding_map": "first", "embedding_bias": True},
    "last map": TINY | FACTORISED | {"n_types": 2, "tied_head": False},
    "decoder's heads": TINY | {"biases": True, "heads": [
        {"kind": "lm"}, {"kind": "sequence", "classes": 3}, {"kind": "choice"},
        {"kind": "token", "classes": 5}]},
    "prefix, pooled": TINY | {"biases": True, "attention": "prefix", "heads": [
        {"kind": "sequence", "classes": 3, "pool": "first"}]},
    "encoder-decoder's head": BOTH | {"biases": True, "heads": [
        {"kind": "sequence", "classes": 3}]},
    "encoder": ENCODER,
    "encoder's heads": ENCODER | {"n_types": 2, "heads": ALL_ENCODER_HEADS},
    "factorised heads": ENCODER | FACTORISED | {
        "tied_head": False, "heads": ALL_ENCODER_HEADS, "norm": "rms", "share_layers": "all"},
    "unpooled encoder": ENCODER | {"heads": [{"kind": "sequence", "classes": 1, "pool": "last"}]},
    "encoder-decoder": BOTH,
    "encoder-decoder of all": BOTH | FACTORISED | {
        "biases": True, "norm": "layer", "n_types": 3, "position_offset": 2, "tied_head": False},
    "routed encoder-decoder": BOTH | {"experts": {"count": 4}, "positions": "relative"},
    "shared encoder-decoder": BOTH | {"share_layers": "attention", "norm_place": "post"},
}

RULES = [
    # The first that matches a leaf's path names its part.
    (r"^embedding\.", "embedding"),
    (r"^heads\.\w+\.vocabulary\.", "vocabulary"),
    (r"^heads\.(\w+)\.", r"\1_head"),
    (r"^pooler\.", "pooler"),
    (r"^\w+\.positions\.", "positions"),
    (r"^\w+\.types\.", "types"),
    (r"^\w+\.map\.", "embedding_map"),
    (r"^\w+\.bias\.|attention\.relative\.", "relative_positions"),
    (r"norm\.", "norms"),
    (r"\.feed_forward\.router\.", "router"),
    (r"\.cross\.", "cross_attention"),
    (r"^(\w+)\..*\.attention\.", r"\1_attention"),
]


def by_path(config: ModelConfig) -> Counter[str]:
    """Sizes of the leaves of a model that nobody makes, by part."""
    model = jax.eval_shape(lambda: Transformer(config, jax.random.key(0)))
    sizes: Counter[str] = Counter()
    for path, leaf in jax.tree_util.tree_flatten_with_path(model)[0]:
        sizes[part_of(jax.tree_util.keystr(path, simple=True, separator="."), config)] += leaf.size
    return sizes


def part_of(path: str, config: ModelConfig) -> str:
    for pattern, part in RULES:
        found = re.search(pattern, path)
        if found:
            named = found.expand(part)
            one_stack = config.mode != "encoder-decoder"
            return "attention" if one_stack and named.endswith("r_attention") else named
    assert ".feed_forward." in path, path
    # A feed-forward layer is made of linear maps, experts of bare arrays.
    bare = re.search(r"\.feed_forward\.\w+\.value$", path)
    return "experts" if bare else "feed_forward"


@pytest.mark.parametrize("name", MODELS)
def test_parts_are_those_of_the_model(name):
    config = ModelConfig(**MODELS[name])
    counted, leaves = count_parameters(config), by_path(config)
    assert counted.parts == {part: size for part, size in leaves.items() if size}
    assert counted.total == sum(leaves.values())


def test_a_router_goes_to_top_k_experts():
    """The parameters of a model with top_k experts of each layer are those that a token meets, but
    for the router's columns of the others."""
    few, many = ({"count": 2, "every": 1}, {"count": 5, "top_k": 2, "every": 1})
    routers = TINY["n_layers"] * TINY["d_model"] * (5 - 2)
    for extra in ({}, {"biases": True, "activation": "geglu"}):
        smaller, larger = (
            count_parameters(ModelConfig(**TINY | extra | {"experts": experts}))
            for experts in (few, many)
        )
        assert larger.active == smaller.total + routers
        assert larger.total > larger.active


def test_without_experts_all_parameters_are_active():
    counted = count_parameters(ModelConfig(**ENCODER))
    assert counted.active == counted.total


def test_kaplans_formula():
    """12 L d^2 (Kaplan et al. 2020, section 2.1) whatever norms, biases and positions there are."""
    plain = {"d_model": 64, "n_layers": 5, "n_heads": 4, "context": 8, "vocab_size": 10}
    for extra in ({}, {"biases": True}, {"positions": "transformer_xl", "norm_place": "post"}):
        assert count_parameters(ModelConfig(**plain | extra)).kaplan == 12 * 5 * 64**2
    # A decoder that looks at an encoder has a third more of attention, and the encoder is as large
    # as the decoder without it: (12 + 4 + 12) L d^2.
    both = ModelConfig(**plain | {"mode": "encoder-decoder"})
    assert count_parameters(both).kaplan == 28 * 5 * 64**2


def test_non_embedding_is_what_no_vocabulary_or_length_changes():
    for config in (TINY | {"tied_head": False}, ENCODER, BOTH | FACTORISED | {"n_types": 2}):
        small, large = (
            count_parameters(ModelConfig(**config | {"vocab_size": vocabulary, "context": context}))
            for vocabulary, context in ((11, 10), (500, 40))
        )
        assert small.non_embedding == large.non_embedding < small.total < large.total

"""Parameter counts against the arrays of the models."""

from __future__ import annotations

import re
from collections import Counter

import jax
import pytest

from scaling.accounting import count_parameters
from scaling.config import ModelConfig
from scaling.models import Transformer

pytestmark = pytest.mark.quick

TINY = {"d_model": 24, "n_layers": 4, "n_heads": 4, "context": 10, "vocab_size": 11}
ENCODER = TINY | {"mode": "encoder-only", "use_bias": True, "norm": "layer"}
BOTH = TINY | {"mode": "encoder-decoder", "n_encoder_layers": 2, "source_context": 14}
FACTORISED = {"d_embedding": 6, "positions": "learned", "embedding_norm": True}
ALL_ENCODER_HEADS = [
    {"kind": "masked_lm"}, {"kind": "next_sentence"}, {"kind": "sentence_order"},
    {"kind": "replaced_token"}, {"kind": "span_boundary", "max_span": 7, "d_position": 5},
    {"kind": "token", "classes": 3}, {"kind": "sequence", "classes": 4}, {"kind": "span"},
    {"kind": "choice"},
]

MODELS = {
    "plain": TINY,
    "use_bias": TINY | {"use_bias": True, "norm": "layer", "positions": "learned"},
    "rms biases": TINY | {"use_bias": True, "activation": "swiglu", "d_head": 8},
    "untied": TINY | {"tied_head": False, "n_kv_heads": 2, "activation": "geglu", "d_ff": 40},
    "one norm": TINY | {"parallel": "one_norm", "n_kv_heads": 1},
    "two norms": TINY | {"parallel": "two_norms", "rotary_fraction": 0.34, "use_bias": True},
    "post": TINY | {"norm_place": "post", "norm": "layer", "use_bias": True},
    "no norm": TINY | {"norm_place": "none", "positions": "none"},
    "last norm alone": TINY | {"norm_place": "none", "final_norm": True, "positions": "alibi"},
    "transformer xl": TINY | {"positions": "transformer_xl", "use_bias": True,
                              "heads": [{"kind": "lm", "bias": True}]},
    "relative": TINY | {"positions": "relative", "relative_buckets": 8},
    "offset": TINY | {"positions": "learned", "position_offset": 2,
                      "attention_pattern": "alternating",
                      "window": 3},
    "experts": TINY | {"experts": {"count": 5, "top_k": 2}, "use_bias": True,
                       "activation": "swiglu"},
    "experts in all": TINY | {"experts": {"count": 3, "every": 1}},
    "shared": TINY | {"share_layers": "all", "use_bias": True},
    "shared attention": TINY | {"share_layers": "attention", "positions": "transformer_xl"},
    "shared feed-forward": TINY | {"share_layers": "feed_forward", "parallel": "one_norm"},
    "first map": TINY | FACTORISED | {
        "embedding_projection": "first", "embedding_projection_bias": True},
    "last map": TINY | FACTORISED | {"n_token_types": 2, "tied_head": False},
    "decoder's heads": TINY | {"use_bias": True, "heads": [
        {"kind": "lm"}, {"kind": "sequence", "classes": 3}, {"kind": "choice"},
        {"kind": "token", "classes": 5}]},
    "prefix, pooled": TINY | {"use_bias": True, "attention": "prefix", "heads": [
        {"kind": "sequence", "classes": 3, "pool": "first"}]},
    "encoder-decoder's head": BOTH | {"use_bias": True, "heads": [
        {"kind": "sequence", "classes": 3}]},
    "encoder": ENCODER,
    "encoder's heads": ENCODER | {"n_token_types": 2, "heads": ALL_ENCODER_HEADS},
    "factorised heads": ENCODER | FACTORISED | {
        "tied_head": False, "heads": ALL_ENCODER_HEADS, "norm": "rms", "share_layers": "all"},
    "unpooled encoder": ENCODER | {"heads": [{"kind": "sequence", "classes": 1, "pool": "last"}]},
    "encoder-decoder": BOTH,
    "encoder-decoder of all": BOTH | FACTORISED | {
        "use_bias": True, "norm": "layer", "n_token_types": 3, "position_offset": 2,
        "tied_head": False},
    "routed encoder-decoder": BOTH | {"experts": {"count": 4}, "positions": "relative"},
    "shared encoder-decoder": BOTH | {"share_layers": "attention", "norm_place": "post"},
}

RULES = [
    # The first pattern that matches the path of an array gives its part.
    (r"^embedding\.", "embedding"),
    (r"^heads\.\w+\.vocabulary\.", "vocabulary"),
    (r"^heads\.(\w+)\.", r"\1_head"),
    (r"^pooler\.", "pooler"),
    (r"^\w+\.positions\.", "positions"),
    (r"^\w+\.types\.", "types"),
    (r"^\w+\.projection\.", "embedding_projection"),
    (r"^\w+\.relative_bias\.|attention\.relative\.", "relative_positions"),
    (r"norm\.", "norms"),
    (r"\.feed_forward\.router\.", "router"),
    (r"\.cross\.", "cross_attention"),
    (r"^(\w+)\..*\.attention\.", r"\1_attention"),
]


def by_path(config: ModelConfig) -> Counter[str]:
    """Sizes of the arrays of an abstract model, by part."""
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
    # A feed-forward layer consists of linear layers, experts of plain arrays.
    bare = re.search(r"\.feed_forward\.\w+\.value$", path)
    return "experts" if bare else "feed_forward"


@pytest.mark.parametrize("name", MODELS)
def test_parts_are_those_of_the_model(name):
    config = ModelConfig(**MODELS[name])
    counted, leaves = count_parameters(config), by_path(config)
    assert counted.parts == {part: size for part, size in leaves.items() if size}
    assert counted.total == sum(leaves.values())


def test_a_router_goes_to_top_k_experts():
    """A token uses the parameters of a model with top_k experts in each layer, plus the router's
    columns of the other experts."""
    few, many = ({"count": 2, "every": 1}, {"count": 5, "top_k": 2, "every": 1})
    routers = TINY["n_layers"] * TINY["d_model"] * (5 - 2)
    for extra in ({}, {"use_bias": True, "activation": "geglu"}):
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
    """12 L d^2 (Kaplan et al. 2020, section 2.1) for all norms, biases and positions."""
    plain = {"d_model": 64, "n_layers": 5, "n_heads": 4, "context": 8, "vocab_size": 10}
    for extra in ({}, {"use_bias": True}, {"positions": "transformer_xl", "norm_place": "post"}):
        assert count_parameters(ModelConfig(**plain | extra)).kaplan == 12 * 5 * 64**2
    # A decoder with cross-attention has a third more parameters, and the encoder is as large
    # as the decoder without it: (12 + 4 + 12) L d^2.
    both = ModelConfig(**plain | {"mode": "encoder-decoder"})
    assert count_parameters(both).kaplan == 28 * 5 * 64**2


def test_non_embedding_does_not_depend_on_vocabulary_or_length():
    for config in (TINY | {"tied_head": False}, ENCODER, BOTH | FACTORISED | {"n_token_types": 2}):
        small, large = (
            count_parameters(ModelConfig(**config | {"vocab_size": vocabulary, "context": context}))
            for vocabulary, context in ((11, 10), (500, 40))
        )
        assert small.non_embedding == large.non_embedding < small.total < large.total

"""Values of a model that contradict each other end in a message with the path of the field, the
problem and the fix."""

from __future__ import annotations

import ast
import inspect

import pytest

from scaling.config import ModelConfig, RunConfig, model, validate
from scaling.errors import UserError

pytestmark = pytest.mark.quick

SIZES = {"d_model": 16, "n_layers": 2, "n_heads": 2, "context": 8, "vocab_size": 11}
ENCODER = {"mode": "encoder-only"}
BOTH = {"mode": "encoder-decoder"}
SHARED = {"share_layers": "all"}


def heads(*kinds):
    return {"heads": [{"kind": kind} for kind in kinds]}


WRONG = [
    # values, path of the field, words of the message
    ({"n_heads": 3}, "n_heads", ["3 does not divide d_model = 16", "give d_head"]),
    ({"n_kv_heads": 4}, "n_kv_heads", ["4 does not divide n_heads = 2", "choose a divisor"]),
    ({"attention_pattern": "local"}, "window",
     ["missing", "attention_pattern = local", "give window"]),
    ({"window": 3}, "window", ["has no effect", "leave window out"]),
    ({"attention_pattern": "local", "window": 3, "attention": "prefix"}, "attention_pattern",
     ["local contradicts attention: prefix"]),
    ({"n_heads": 16}, "positions", ["width 1", "choose n_heads or d_head"]),
    ({"rotary_fraction": 0.1}, "positions", ["rotary_fraction = 0.1", "positions: learned"]),
    ({"position_offset": 2}, "position_offset",
     ["no effect with positions: rotary", "positions: learned"]),
    ({"positions": "sinusoidal", "d_embedding": 7}, "positions", ["7 is odd", "make it even"]),
    ({"positions": "transformer_xl", "d_model": 15, "n_heads": 3}, "positions", ["15 is odd"]),
    ({"positions": "transformer_xl"} | ENCODER, "positions",
     ["decoder-only", "choose relative"]),
    ({"positions": "relative", "relative_buckets": 2}, "relative_buckets",
     ["2 buckets do not fit relative_max_distance = 128", "at least 4"]),
    ({"positions": "relative", "relative_max_distance": 16}, "relative_buckets",
     ["32 buckets do not fit relative_max_distance = 16", "fewer than twice"]),
    ({"rotary_base": 500.0, "positions": "learned"}, "rotary_base",
     ["no effect with positions: learned", "positions: rotary"]),
    ({"rotary_pairs": "adjacent", "positions": "none"}, "rotary_pairs", ["leave it out"]),
    ({"relative_buckets": 8}, "relative_buckets", ["no effect", "positions: relative"]),
    ({"attention": "causal"} | ENCODER, "attention",
     ["attends to its whole sequence", "leave attention out"]),
    ({"attention": "full"}, "attention", ["the tokens that it predicts", "choose causal"]),
    ({"attention": "full"} | BOTH, "attention", ["encoder-decoder", "choose causal"]),
    ({"attention": "prefix"} | BOTH, "attention", ["its encoder's sequence", "leave it out"]),
    ({"n_encoder_layers": 2}, "n_encoder_layers", ["decoder-only", "leave it out"]),
    ({"source_context": 4} | ENCODER, "source_context", ["one stack", "leave it out"]),
    ({"n_layers": 3, "attention_pattern": "alternating", "window": 2}, "n_layers",
     ["3 layers are not a multiple of 2"]),
    ({"n_layers": 4, "experts": {"count": 2, "every": 3}}, "n_layers", ["multiple of 3"]),
    ({"n_encoder_layers": 3, "experts": {"count": 2}} | BOTH, "n_encoder_layers",
     ["3 layers are not a multiple of 2"]),
    ({"parallel": "one_norm", "norm_place": "post"}, "parallel",
     ["norm_place is post", "choose norm_place: pre"]),
    ({"parallel": "two_norms", "norm_place": "none"}, "parallel",
     ["norm_place is none", "parallel: no"]),
    ({"parallel": "one_norm"} | BOTH, "parallel", ["cross-attention", "choose parallel: no"]),
    ({"experts": {"count": 2, "top_k": 3}}, "experts.top_k",
     ["3 is more than experts.count = 2", "raise experts.count"]),
    (SHARED | {"experts": {"count": 2}}, "share_layers", ["leave share_layers or experts out"]),
    (SHARED | {"attention_pattern": "alternating", "window": 2}, "share_layers",
     ["one kind", "leave one of them out"]),
    ({"heads": []}, "heads", ["empty", "leave it out"]),
    (heads("masked_lm"), "heads.0", ["masked_lm cannot be a head of a decoder-only model", "lm"]),
    (heads("masked_lm", "lm") | ENCODER, "heads.1", ["encoder-only", "masked_lm"]),
    (heads("span_boundary") | BOTH, "heads.0", ["encoder-decoder", "lm, sequence"]),
    (heads("lm", "lm"), "heads", ["lm is listed 2 times", "list each kind of head once"]),
    ({"heads": [{"kind": "sequence", "classes": 2, "pool": "first"}]}, "heads.0.pool",
     ["does not attend to the others", "choose last"]),
    ({"embedding_projection_bias": True}, "embedding_projection_bias",
     ["no projection", "give d_embedding"]),
    ({"embedding_projection": "first", "d_embedding": 16}, "embedding_projection",
     ["no projection", "leave it out"]),
    ({"init": {"std": 0.02, "gain": 2.0}}, "init.gain", ["init.std = 0.02", "leave one"]),
    ({"init": {"std": 0.02, "fan": "average"}}, "init.fan", ["init.std = 0.02"]),
    ({"dropout": 1.0}, "dropout", ["everything", "less than 1"]),
    ({"attention_dropout": 1.0}, "attention_dropout", ["everything", "less than 1"]),
    # Checks of single fields, and unions.
    ({"mode": "decoder"}, "mode", ["'decoder-only'", "'encoder-decoder'", "not 'decoder'"]),
    ({"positions": "rope"}, "positions", ["'rotary'", "not 'rope'"]),
    ({"heads": [{"kind": "mlm"}]}, "heads.0", ["'mlm'", "'masked_lm'"]),
    ({"heads": [{"kind": "token"}]} | ENCODER, "heads.0.classes", ["missing"]),
    ({"heads": [{"kind": "token", "clases": 3}]} | ENCODER, "heads.0.clases",
     ["did you mean classes?"]),
    ({"experts": {"count": 0}}, "experts.count", ["greater than 0"]),
    ({"init": {"distribution": "gauss"}}, "init.distribution", ["'truncated'", "not 'gauss'"]),
    ({"window": True, "attention_pattern": "local"}, "window", ["a number is expected, not true"]),
]


@pytest.mark.parametrize(("values", "path", "words"), WRONG)
def test_a_contradiction_is_named_by_its_path(values, path, words):
    with pytest.raises(UserError) as caught:
        validate(ModelConfig, SIZES | values, "test")
    message = str(caught.value)
    assert f"test: {path}: " in message, message
    for word in words:
        assert word in message, message
    run = {"model": SIZES | values, "data": {"store": "s"}, "tokens": 1000}
    with pytest.raises(UserError) as caught:
        validate(RunConfig, run, "run.yaml")
    assert f"run.yaml: model.{path}: " in str(caught.value)
    # The run's own checks (of its objective, its length) may report more.
    of_run = str(caught.value).replace("run.yaml: model.", "test: ").splitlines()
    assert set(message.splitlines()) <= set(of_run)


def test_every_rule_is_tested():
    """Every message of the checks is produced by one of the values above."""
    messages = set()
    for values, _, _ in WRONG:
        with pytest.raises(UserError) as caught:
            validate(ModelConfig, SIZES | values, "test")
        messages.update(str(caught.value).splitlines())
    rules = [node.value.elts[1] for node in ast.walk(ast.parse(inspect.getsource(model)))
             if isinstance(node, ast.Yield) and isinstance(node.value, ast.Tuple)]
    assert len(rules) > 20
    for rule in rules:
        words = [part.value for part in ast.walk(rule)
                 if isinstance(part, ast.Constant) and isinstance(part.value, str)]
        assert any(all(w in message for w in words if w != "g") for message in messages), words


@pytest.mark.parametrize("values", [
    {"d_head": 5, "positions": "learned", "n_heads": 3},
    {"attention_pattern": "alternating", "window": 2, "n_layers": 4, "experts": {"count": 2}},
    {"attention": "prefix", "heads": [{"kind": "sequence", "classes": 2, "pool": "first"}]},
    {"positions": "sinusoidal", "d_embedding": 7, "embedding_projection": "first"},
    BOTH | {"n_encoder_layers": 5, "source_context": 3},
    SHARED | {"attention_pattern": "local", "window": 2},
])
def test_consistent_values_are_accepted(values):
    validate(ModelConfig, SIZES | values, "test")


def test_defaults_follow_the_other_values():
    plain = ModelConfig(**SIZES)
    assert (plain.head_width, plain.kv_heads, plain.ff_width) == (8, 2, 64)
    assert plain.attention_mask == "causal"
    assert ModelConfig(**SIZES, activation="swiglu").ff_width == 48  # 8/3 x 16 = 42.7, up to 8's
    encoder = ModelConfig(**SIZES | ENCODER, norm_place="post")
    assert (encoder.attention_mask, encoder.has_final_norm, encoder.outputs[0].kind) == (
        "full", False, "masked_lm")
    assert (encoder.encoder_layers, encoder.decoder_layers) == (2, 0)
    both = ModelConfig(**SIZES | BOTH, source_context=5)
    assert (both.encoder_layers, both.decoder_layers, both.source_length) == (2, 2, 5)

"""Counted FLOPs against XLA's cost analysis.

XLA counts element-wise work too. It is small at this width: under 0.7% of the whole. What is
computed once a batch (Transformer-XL's map of distances, T5's biases) is spread over a large one:
nothing is run, so a batch costs nothing.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from scaling.accounting import flops_6nd, training_flops_per_token
from scaling.accounting.flops import forward_flops_per_sequence, forward_flops_per_token
from scaling.accounting.runs import run_flops_per_sequence, run_flops_per_token
from scaling.config import ModelConfig, RunConfig, validate
from scaling.models import Electra, Transformer
from scaling.objectives import FUNCTIONS, with_teacher

WIDE = {"d_model": 512, "n_layers": 2, "n_heads": 4, "context": 128, "vocab_size": 1024}
BERT = {"mode": "encoder-only", "norm_place": "post", "norm": "layer", "use_bias": True,
        "positions": "learned"}
SEQUENCES = 64

FORWARD = {
    "gated": {"activation": "swiglu", "n_kv_heads": 2, "parallel": "one_norm", "tied_head": False},
    "transformer xl": {"positions": "transformer_xl", "norm": "layer", "use_bias": True},
    "alternating": {"attention_pattern": "alternating", "window": 16, "positions": "learned"},
    "bert": BERT | {"heads": [
        {"kind": "masked_lm"}, {"kind": "next_sentence"}, {"kind": "replaced_token"},
        {"kind": "token", "classes": 8}]},
    "albert": BERT | {"share_layers": "all", "d_embedding": 128, "n_layers": 3},
    "t5": {"mode": "encoder-decoder", "n_encoder_layers": 1, "source_context": 256,
           "positions": "relative"},
    "grouped encoder-decoder": {"mode": "encoder-decoder", "n_layers": 1, "n_kv_heads": 1,
                                "source_context": 64, "d_embedding": 256},
    "experts": {"experts": {"count": 4, "top_k": 2}},
    "switch": {"mode": "encoder-decoder", "experts": {"count": 4}, "source_context": 256},
}
TRAINING = {
    "decoder": {},
    "bert": BERT,
    "t5": FORWARD["t5"] | {"n_layers": 1},
    "experts": FORWARD["experts"] | {"experts": {"count": 4, "every": 1}, "n_layers": 1},
}


def xla_flops(config: ModelConfig, *, training: bool) -> float:
    """What XLA counts in a program of one batch, for one sequence: of training as it is compiled,
    and of the forward pass, where compiling finds nothing to leave out, as it is written."""
    model = jax.eval_shape(lambda: Transformer(config, jax.random.key(0)))
    tokens = jax.ShapeDtypeStruct((SEQUENCES, config.context), "int32")
    source = None
    if config.mode == "encoder-decoder":
        source = jax.ShapeDtypeStruct((SEQUENCES, config.source_length), "int32")

    def forward(model, tokens, source):
        states = model.states(tokens, source)
        return [model.head(head.kind, states) for head in config.outputs]

    def loss(model, tokens, source):
        return sum(jnp.square(logits).sum() for logits in forward(model, tokens, source))

    program = jax.jit(jax.grad(loss) if training else forward).lower(model, tokens, source)
    counted = program.compile() if training else program
    return counted.cost_analysis()["flops"] / SEQUENCES


@pytest.mark.parametrize("name", FORWARD)
def test_forward_flops_are_what_xla_counts(name):
    config = ModelConfig(**WIDE | FORWARD[name])
    ours = sum(forward_flops_per_sequence(config).values())
    # XLA counts more, never less.
    assert 0 < xla_flops(config, training=False) / ours - 1 < 0.01


@pytest.mark.parametrize("name", TRAINING)
def test_training_flops_are_what_xla_counts(name):
    config = ModelConfig(**WIDE | TRAINING[name])
    ours = config.context * training_flops_per_token(config)
    assert 0 < xla_flops(config, training=True) / ours - 1 < 0.01


ENCODER = WIDE | BERT | {"n_layers": 1}
OBJECTIVES = {
    "masked": (ENCODER, {"kind": "masked"}),
    "spanbert": (
        ENCODER | {"heads": [{"kind": "masked_lm"}, {"kind": "span_boundary"}]},
        {"kind": "masked", "unit": "span", "span_boundary": True}),
    "electra": (ENCODER | {"heads": [{"kind": "replaced_token"}]},
                {"kind": "replaced_tokens", "generator_size": 0.5}),
    "distillation": (ENCODER, {
        "kind": "distillation", "teacher": "teacher", "teacher_run": "0",
        "teacher_model": ENCODER | {"n_layers": 2}}),
}


def example_of(run: RunConfig) -> dict[str, object]:
    """The shapes of a batch with masked tokens."""
    def array(*shape, dtype="int32"):
        return jax.ShapeDtypeStruct((SEQUENCES, *shape), dtype)

    T, M = run.model.context, run.objective.n_predictions(run.model)
    parts = FUNCTIONS[run.objective.kind].parts(run.objective)
    widths = {part: T if part == "discriminator" else M for part in parts if part != "cosine"}
    return {
        "ids": array(T), "original": array(T), "seeds": array(2, dtype="uint32"),
        "positions": array(M), "targets": array(M), "spans": array(M, 3),
        "weights": {part: array(width, dtype="float32") for part, width in widths.items()},
    }


@pytest.mark.parametrize("name", OBJECTIVES)
def test_flops_of_an_objective_are_what_xla_counts(name):
    """Vocabulary heads at the masked tokens only, a generator, and a teacher's forward pass."""
    model, objective = OBJECTIVES[name]
    run = validate(RunConfig, {
        "model": model, "objective": objective, "data": {"store": "none"}, "tokens": 1_000_000,
        "schedule": {"kind": "wsd", "warmup_steps": 1}}, "test")
    key, functions = jax.random.key(0), FUNCTIONS[run.objective.kind]
    teacher = None
    if name == "electra":
        generator = run.objective.generator(run.model)
        of = jax.eval_shape(lambda: Electra(run.model, generator, key))
    else:
        of = jax.eval_shape(lambda: Transformer(run.model, key))
    if name == "distillation":
        teacher = jax.eval_shape(lambda: Transformer(run.objective.teacher_model, key))

    def loss(model, teacher, batch):
        batch = batch if teacher is None else with_teacher(teacher, batch)
        losses = functions.terms(run.objective, model, batch, None).losses
        return sum(loss.mean() for loss in losses.values())

    program = jax.jit(jax.value_and_grad(loss)).lower(of, teacher, example_of(run))
    counted = program.compile().cost_analysis()["flops"] / SEQUENCES
    ours = run_flops_per_sequence(run)
    assert 0 < counted / ours - 1 < 0.01
    assert run_flops_per_token(run) == round(ours / 126)  # <cls> and <sep> are not text


SMALL = {"d_model": 8, "n_layers": 2, "n_heads": 2, "context": 5, "vocab_size": 7}


def test_parts_by_hand():
    """Two matrix products of [5, 8] and [8, 8] take 2 * 5 * 8 * 8 FLOPs each."""
    config = ModelConfig(**SMALL | {
        "mode": "encoder-decoder", "n_encoder_layers": 1, "source_context": 3, "d_ff": 10,
    })
    assert forward_flops_per_sequence(config) == {
        "encoder_attention_projections": 4 * 2 * 3 * 8 * 8,
        "encoder_attention_products": 2 * 2 * 3 * 3 * 8,
        "feed_forward": (3 + 2 * 5) * 2 * 2 * 8 * 10,
        "decoder_attention_projections": 2 * 4 * 2 * 5 * 8 * 8,
        "decoder_attention_products": 2 * 2 * 2 * 5 * 5 * 8,
        "cross_attention_projections": 2 * 2 * 2 * (5 + 3) * 8 * 8,
        "cross_attention_products": 2 * 2 * 2 * 5 * 3 * 8,
        "lm_head": 2 * 5 * 8 * 7,
    }
    assert forward_flops_per_token(config)["lm_head"] == 2 * 8 * 7


def test_small_parts_by_hand():
    """Each of them is less than the tolerance of the comparison with XLA."""
    config = ModelConfig(**SMALL | {
        "d_embedding": 6, "n_kv_heads": 1, "d_head": 6, "positions": "transformer_xl",
        "activation": "swiglu", "d_ff": 10, "heads": [{"kind": "lm"}, {"kind": "sequence",
                                                                       "classes": 3}]})
    assert forward_flops_per_sequence(config) == {
        "embedding_projection": 2 * 5 * 6 * 8,
        "attention_projections": 2 * 2 * 5 * (2 * 8 * 12 + 2 * 8 * 6),
        "attention_products": 2 * 3 * 2 * 5 * 5 * 12,
        "feed_forward": 2 * 2 * 5 * 3 * 8 * 10,
        "lm_head": 2 * 5 * (8 * 6 + 6 * 7),
        "sequence_head": 2 * 8 * 3,  # of the last token
    }
    assert forward_flops_per_sequence(config, predictions=2)["lm_head"] == 2 * 2 * (8 * 6 + 6 * 7)
    assert training_flops_per_token(config) == round(
        3 * sum(forward_flops_per_sequence(config).values()) / 5)


def test_empty_slots_of_experts_are_counted():
    """Five tokens over three experts: the even share is 5/3, and a capacity factor of 1.25 gives 3
    slots per expert, or nine in each layer."""
    config = ModelConfig(**SMALL | {"d_ff": 10, "experts": {"count": 3, "every": 1}})
    counted = forward_flops_per_sequence(config)
    assert counted["experts"] == 2 * 9 * 2 * 2 * 8 * 10
    assert counted["router"] == 2 * 2 * 5 * 8 * 3


def test_pooled_heads_count_once_per_sequence():
    heads = [{"kind": "next_sentence"}, {"kind": "span"}]
    config = ModelConfig(**SMALL | {"mode": "encoder-only", "heads": heads})
    counted = forward_flops_per_sequence(config)
    assert counted["pooler"] == 2 * 8 * 8
    assert counted["next_sentence_head"] == 2 * 8 * 2
    assert counted["span_head"] == 5 * 2 * 8 * 2


def test_shared_layers_count_flops_at_every_application():
    own, shared = (
        forward_flops_per_sequence(ModelConfig(**SMALL | {"share_layers": share}))
        for share in ("none", "all")
    )
    assert own == shared


def test_six_n_d():
    assert flops_6nd(70_000_000_000, 1_400_000_000_000) == pytest.approx(5.88e23)

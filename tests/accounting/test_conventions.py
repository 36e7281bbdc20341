"""FLOP conventions against the numbers in their papers and against each other."""

from __future__ import annotations

import pytest

from scaling.accounting import count_parameters, flops_by_convention, training_flops_per_token
from scaling.accounting.conventions import CONVENTIONS
from scaling.config import ModelConfig

pytestmark = pytest.mark.quick

TABLE_A4 = [
    # Hoffmann et al. 2022: layers, width, hidden width, heads, width of a head; FLOPs of appendix F
    # over 6 N D.
    (10, 640, 2560, 10, 64, 1.025),
    (20, 1024, 4096, 16, 64, 1.101),
    (24, 1280, 5120, 10, 128, 1.083),
    (26, 1792, 7168, 14, 128, 1.044),
    (28, 2048, 8192, 16, 128, 1.033),
    (40, 3584, 14336, 28, 128, 0.994),
]


@pytest.mark.parametrize(("layers", "d", "ff", "heads", "head", "ratio"), TABLE_A4)
def test_chinchillas_ratios(layers, d, ff, heads, head, ratio):
    flops = flops_by_convention(ModelConfig(
        d_model=d, n_layers=layers, d_ff=ff, n_heads=heads, d_head=head, context=2048,
        vocab_size=32_000, positions="transformer_xl", norm="layer", use_bias=True,
    ))
    assert round(flops["chinchilla"] / flops["6nd_total"], 3) == ratio


STANDARD = {"d_model": 64, "n_layers": 3, "n_heads": 4, "context": 16, "vocab_size": 100,
            "positions": "none"}


def test_formulas_of_a_standard_decoder():
    """Width d, L layers, s tokens, V entries: each formula as printed in its paper."""
    d, L, s, V, h = 64, 3, 16, 100, 4
    model = ModelConfig(**STANDARD)
    N, total = 12 * L * d**2, count_parameters(model).total
    appendix_f = 3 * L * (8 * d**2 + 4 * s * d + 3 * h * s + 16 * d**2)
    assert flops_by_convention(model) == {
        "counted": 6 * N + 12 * L * s * d + 6 * V * d,
        "6nd_total": 6 * total,
        "6nd_non_embedding": 6 * (total - V * d),
        "6nd_active": 6 * total,
        "kaplan": 6 * N,
        "kaplan_context": 6 * N + 6 * L * s * d,
        "chinchilla": appendix_f,
        "chinchilla_with_embeddings": appendix_f + 3 * (2 * V * d + 2 * V * d),
        "porian_without_head": 6 * N,
        "porian": 6 * (N + V * d),
        "porian_attention": 6 * (N + V * d) + 6 * s * d * L,
        "pearce_song": 6 * (N + V * d) + 12 * s * d * L,
        "palm_mfu": 6 * total + 12 * L * s * d,
        "deepseek": 72 * L * d**2 + 12 * L * d * s,
    }


def test_an_encoder_decoder_is_counted_on_the_tokens_of_each_side():
    """Per token of the decoder, twice as many tokens of the encoder: an encoder's token passes
    through its own 12 L d^2 and through keys and values of cross-attention, 2 L d^2."""
    d, L, s = 64, 3, 16
    flops = flops_by_convention(ModelConfig(
        **STANDARD | {"mode": "encoder-decoder", "source_context": 2 * s}
    ))
    N = L * d**2 * (2 * (12 + 2) + 12 + 2)
    scores = L * d * (2 * 2 * s + s + 2 * s)
    assert flops["kaplan"] == 6 * N
    assert flops["kaplan_context"] == 6 * N + 6 * scores
    assert flops["deepseek"] == pytest.approx(6 * N + 12 * scores)
    assert flops["counted"] == 6 * N + 12 * scores + 6 * 100 * d


def test_formulas_of_a_model_whose_sizes_all_differ():
    """Heads narrower than the model, fewer key heads, a gate, a narrow embedding, two experts of
    four in every second layer: each term by hand, over the sequences of both sides."""
    d, a, kv, ff, V, P = 64, 4 * 8, 2 * 8, 40, 100, 12
    T, S = 16, 24
    model = ModelConfig(
        d_model=d, n_heads=4, d_head=8, n_kv_heads=2, d_ff=ff, activation="geglu", vocab_size=V,
        d_embedding=P, mode="encoder-decoder", n_encoder_layers=4, n_layers=2, context=T,
        source_context=S, positions="none",
        experts={"count": 4, "top_k": 2, "every": 2, "capacity_factor": 1.0})
    queries, keys, hidden = 2 * d * a, 2 * d * kv, 3 * d * ff  # and outputs, and values
    encoder = S * (4 * (queries + keys) + (2 + 2 * 2) * hidden)
    decoder = T * (2 * (queries + keys) + (1 + 1 * 2) * hidden)
    cross = 2 * (T * queries + S * keys)
    N = (encoder + decoder + cross) / T
    pairs = (4 * S * S + 2 * T * (T + S)) / T  # of positions, in all layers
    counted = count_parameters(model)
    total = counted.total
    read, head = (S + T) / T * V * P, V * P
    projections = 2 * (S + T) * P * d + 2 * T * d * P  # of embeddings, and to the head's width
    router = 2 * 4 * d * (2 * S + T)
    # The rest of the products; the slots of all experts are as many as the tokens' choices.
    exact = 3 * (2 * N + 2 * 2 * a * pairs + (projections + router) / T + 2 * head)
    chinchilla = 3 * (2 * N + 2 * 2 * a * pairs + 3 * 4 * pairs)
    layers = 4 * S / T + 2 * (1 + (S / T + 1) / 6)
    assert flops_by_convention(model) == pytest.approx({
        "counted": exact,
        "6nd_total": 6 * total,
        "6nd_non_embedding": 6 * (total - V * P),
        "6nd_active": 6 * (total - 3 * 2 * hidden),  # in three layers two of four experts rest
        "kaplan": 6 * N,
        "kaplan_context": 6 * N + 6 * a * pairs,
        "chinchilla": chinchilla,
        "chinchilla_with_embeddings": chinchilla + 6 * (read + head),
        "porian_without_head": 6 * N,
        "porian": 6 * (N + head),
        "porian_attention": 6 * (N + head) + 6 * d * pairs,
        "pearce_song": 6 * (N + head) + 12 * d * pairs,
        "palm_mfu": 6 * (N + total - counted.kaplan) + 12 * a * pairs,
        "deepseek": 72 * layers * d**2 + 12 * d * pairs,
    })
    pair = ModelConfig(**STANDARD | {"mode": "encoder-only", "heads": [
        {"kind": "masked_lm"}, {"kind": "span_boundary"}]})
    one = ModelConfig(**STANDARD | {"mode": "encoder-only"})
    added = flops_by_convention(pair)["porian"] - flops_by_convention(one)["porian"]
    assert added == 6 * 100 * 64  # a second head over the vocabulary


def test_experts_count_by_top_k():
    dense = flops_by_convention(ModelConfig(**STANDARD))
    routed = flops_by_convention(
        ModelConfig(**STANDARD | {"experts": {"count": 8, "every": 1, "capacity_factor": 1.0}})
    )
    assert routed["kaplan"] == dense["kaplan"]
    assert routed["6nd_total"] > 2 * dense["6nd_total"]
    router = 3 * 64 * 8
    assert routed["6nd_active"] == dense["6nd_active"] + 6 * router
    assert routed["palm_mfu"] == dense["palm_mfu"] + 6 * router
    assert routed["counted"] == dense["counted"] + 6 * router


def test_shared_layers_count_at_every_application():
    own, shared = (
        flops_by_convention(ModelConfig(**STANDARD | {"share_layers": share}))
        for share in ("none", "all")
    )
    assert shared["kaplan"] == own["kaplan"]
    assert shared["counted"] == own["counted"]
    assert shared["6nd_total"] < own["6nd_total"]


def test_our_own_count_is_among_them():
    model = ModelConfig(**STANDARD)
    assert flops_by_convention(model)["counted"] == training_flops_per_token(model)
    assert list(flops_by_convention(model)) == list(CONVENTIONS)
    assert all(convention.description for convention in CONVENTIONS.values())

"""The model of a run: an architecture with an optional preset, and the checks of its values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import model_validator

from scaling.config.architecture import Architecture
from scaling.config.base import Problem
from scaling.config.parts import HEAD_MODES
from scaling.config.presets import expand_preset


class ModelConfig(Architecture):
    """A Transformer, given by a preset, by its values, or by a preset and values that override
    it."""

    preset: str | None = None
    """Name of a published model, such as gpt2/124M, whose values are the defaults of the other
    keys; `scaling models` lists them. By default none."""

    @model_validator(mode="before")
    @classmethod
    def fill_missing(cls, content: Any) -> Any:
        """Fill in the keys of the preset that are not given."""
        return expand_preset(content) if isinstance(content, dict) else content

    def checks(self) -> Iterable[Iterator[Problem]]:
        return model_checks(self)


def model_checks(model: Architecture) -> Iterable[Iterator[Problem]]:
    """Checks of values that contradict each other, or have no effect: the path of the field to
    change, the problem and the fix."""
    checks = (_attention, _windows, _without_effect, _embedding, _init, _rotary, _positions, _modes,
              _layers, _blocks, _heads)
    return (check(model) for check in checks)


def _attention(m: Architecture) -> Iterator[Problem]:
    if m.d_head is None and m.d_model % m.n_heads:
        yield "n_heads", (f"{m.n_heads} does not divide d_model = {m.d_model}; choose a divisor of "
                          f"{m.d_model}, or give d_head")
    if m.n_heads % m.kv_heads:
        yield "n_kv_heads", (f"{m.kv_heads} does not divide n_heads = {m.n_heads}; choose a "
                             "divisor, so that each key head serves the same number of query heads")


def _windows(m: Architecture) -> Iterator[Problem]:
    if m.attention_pattern != "global" and m.window is None:
        yield "window", (f"missing: attention_pattern = {m.attention_pattern} needs the width of "
                         "the window, in tokens; give window, or leave attention_pattern out")
    if m.attention_pattern == "global" and m.window is not None:
        yield "window", ("has no effect, since no layer's attention is local; set "
                         "attention_pattern: local or alternating, or leave window out")
    if m.attention_mask == "prefix" and m.attention_pattern != "global":
        yield "attention_pattern", (
            f"{m.attention_pattern} contradicts attention: prefix, where all positions attend to "
            "the whole prefix; leave one of the two out")


def _rotary(m: Architecture) -> Iterator[Problem]:
    if m.positions == "rotary" and (m.rotary_width == 0 or m.head_width % 2):
        yield "positions", (
            f"rotary positions need pairs of dimensions, and a head of width {m.head_width} with "
            f"rotary_fraction = {m.rotary_fraction:g} cannot be divided into pairs; choose n_heads "
            "or d_head so that the width is even, or positions: learned")


def _positions(m: Architecture) -> Iterator[Problem]:
    if m.position_offset and m.positions != "learned":
        yield "position_offset", (f"has no effect with positions: {m.positions}, which have no "
                                  "table; leave it out, or choose positions: learned")
    added_to = m.d_model if m.embedding_projection == "first" else m.embedding_width
    width = {"sinusoidal": added_to, "transformer_xl": m.d_model}.get(m.positions, 0)
    if width % 2:
        yield "positions", (f"sines and cosines come in pairs, and the width {width} is odd; make "
                            "it even, or choose positions: learned")
    causal = m.mode == "decoder-only" and m.attention_mask == "causal"
    if m.positions == "transformer_xl" and not causal:
        yield "positions", ("transformer_xl encodes only backward distances, for causal attention "
                            "in a decoder-only model; choose relative, which supports all models")
    if m.positions == "relative" and not 4 <= m.relative_buckets < 2 * m.relative_max_distance:
        yield "relative_buckets", (f"{m.relative_buckets} buckets do not fit "
                                   f"relative_max_distance = {m.relative_max_distance}; give at "
                                   "least 4, and fewer than twice that distance")


def _modes(m: Architecture) -> Iterator[Problem]:
    if m.mode == "encoder-only" and m.attention_mask != "full":
        yield "attention", (f"an encoder attends to its whole sequence, and {m.attention_mask} is "
                            "for decoders; leave attention out, or choose mode: decoder-only")
    if m.mode != "encoder-only" and m.attention_mask == "full":
        yield "attention", (f"full attention would show a {m.mode} model the tokens that it "
                            "predicts; choose causal or prefix, or mode: encoder-only")
    if m.mode == "encoder-decoder" and m.attention_mask == "prefix":
        yield "attention", ("the prefix of an encoder-decoder is its encoder's sequence; leave it "
                            "out")
    if m.mode != "encoder-decoder":
        for field in ("n_encoder_layers", "source_context"):
            if getattr(m, field) is not None:
                yield field, f"a {m.mode} model has one stack; leave it out"


def _layers(m: Architecture) -> Iterator[Problem]:
    for field, layers in (("n_layers", m.decoder_layers), ("n_encoder_layers", m.encoder_layers)):
        if layers % m.period:
            where = "n_layers" if m.n_encoder_layers is None else field
            yield where, (f"{layers} layers are not a multiple of {m.period}, the period of the "
                          "kinds of layer (attention_pattern, experts.every); choose a multiple")


def _blocks(m: Architecture) -> Iterator[Problem]:
    if m.parallel != "no" and m.norm_place != "pre":
        yield "parallel", (f"parallel branches need a norm before them, and norm_place is "
                           f"{m.norm_place}; choose norm_place: pre, or parallel: no")
    if m.parallel != "no" and m.mode == "encoder-decoder":
        yield "parallel", ("an encoder-decoder has cross-attention between attention and "
                           "feed-forward; choose parallel: no")
    if m.experts is not None:
        if m.experts.top_k > m.experts.count:
            yield "experts.top_k", (f"{m.experts.top_k} is more than experts.count = "
                                    f"{m.experts.count}; lower it, or raise experts.count")
        if m.share_layers != "none":
            yield "share_layers", ("layers with experts cannot be shared; leave share_layers or "
                                   "experts out")
    if m.share_layers != "none" and m.attention_pattern == "alternating":
        yield "share_layers", ("shared layers are all of one kind, and attention_pattern: "
                               "alternating has two; leave one of them out")


def _heads(m: Architecture) -> Iterator[Problem]:
    if not m.outputs:
        yield "heads", ("is empty, and a model needs at least one head; leave it out for the "
                        "default")
    for place, head in enumerate(m.outputs):
        if m.mode not in HEAD_MODES[head.kind]:
            fitting = sorted(k for k, modes in HEAD_MODES.items() if m.mode in modes)
            yield f"heads.{place}", (f"{head.kind} cannot be a head of a {m.mode} model; choose "
                                     f"one of {', '.join(fitting)}")
    for kind, count in Counter(head.kind for head in m.outputs).items():
        if count > 1:
            yield "heads", f"{kind} is listed {count} times; list each kind of head once"
    for place, head in enumerate(m.outputs):
        causal_decoder = m.mode == "decoder-only" and m.attention_mask == "causal"
        if causal_decoder and getattr(head, "pool", None) == "first":
            yield f"heads.{place}.pool", ("with causal attention the first token does not attend "
                                          "to the others; choose last")


def _without_effect(m: Architecture) -> Iterator[Problem]:
    """Values without effect, which would give one model two identities."""
    positions_of = {
        "rotary_base": "rotary", "rotary_fraction": "rotary", "rotary_pairs": "rotary",
        "relative_buckets": "relative", "relative_max_distance": "relative",
    }
    for field, positions in positions_of.items():
        if m.positions != positions and getattr(m, field) != type(m).model_fields[field].default:
            yield field, (f"has no effect with positions: {m.positions}; leave it out, or choose "
                          f"positions: {positions}")
    for field in ("dropout", "attention_dropout"):
        if getattr(m, field) == 1:
            yield field, "1 would set everything to zero; choose less than 1"


def _embedding(m: Architecture) -> Iterator[Problem]:
    if m.embedding_width == m.d_model:
        for field in ("embedding_projection_bias", "embedding_projection"):
            if getattr(m, field) != type(m).model_fields[field].default:
                yield field, ("has no effect, since the embeddings have width d_model and need no "
                              "projection; leave it out, or give d_embedding")


def _init(m: Architecture) -> Iterator[Problem]:
    for field in ("gain", "fan"):
        if m.init.std is not None and getattr(m.init, field) != (
                type(m.init).model_fields[field].default):
            yield f"init.{field}", (f"has no effect with init.std = {m.init.std:g}; leave one of "
                                    "them out")

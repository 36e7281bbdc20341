"""What no field of a model can say by itself: which values go together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from scaling.config.base import field_error
from scaling.config.parts import MODES_OF_HEAD

if TYPE_CHECKING:
    from scaling.config.model import ModelConfig


def check_model(model: ModelConfig) -> None:
    """Refuse values that contradict each other, naming the field to change."""
    for field, message in _contradictions(model):
        raise field_error(field, message)


def _contradictions(m: ModelConfig) -> Iterator[tuple[str, str]]:
    """The field, and what is wrong with it and how to mend it."""
    yield from _attention(m)
    yield from _without_effect(m)
    yield from _positions(m)
    yield from _modes(m)
    yield from _blocks(m)
    yield from _heads(m)


def _attention(m: ModelConfig) -> Iterator[tuple[str, str]]:
    if m.d_head is None and m.d_model % m.n_heads:
        yield "n_heads", (f"{m.n_heads} does not divide d_model = {m.d_model}; choose a divisor of "
                          f"{m.d_model}, or give d_head")
    if m.n_heads % m.kv_heads:
        yield "n_kv_heads", (f"{m.kv_heads} does not divide n_heads = {m.n_heads}; choose a "
                             "divisor, so that each head of keys serves as many heads of queries")
    if m.banded != "none" and m.window is None:
        yield "window", (f"missing: banded = {m.banded} needs the width of the band, in tokens; "
                         "give window, or leave banded out")
    if m.banded == "none" and m.window is not None:
        yield "window", ("no layer is banded, so a window has no meaning; say banded: all or "
                         "alternate, or leave window out")
    if m.sees == "prefix" and m.banded != "none":
        yield "banded", ("a prefix that all positions see and a band contradict each other; leave "
                         "one of attention: prefix and banded out")


def _positions(m: ModelConfig) -> Iterator[tuple[str, str]]:
    if m.positions == "rotary" and (m.rotary_width == 0 or m.head_width % 2):
        yield "positions", (
            f"rotary positions turn pairs, which a head of width {m.head_width} does not divide "
            f"into at rotary_fraction = {m.rotary_fraction:g}; choose n_heads or d_head so that "
            "the head is even, or positions: learned")
    if m.position_offset and m.positions != "learned":
        yield "position_offset", (f"only learned positions have rows, and these are {m.positions}; "
                                  "leave it out, or choose positions: learned")
    added_to = m.d_model if m.embedding_map == "first" else m.embedding_width
    width = {"sinusoidal": added_to, "transformer_xl": m.d_model}.get(m.positions, 0)
    if width % 2:
        yield "positions", (f"sines and cosines come in pairs, and a width of {width} is odd; make "
                            "it even, or choose positions: learned")
    if m.positions == "transformer_xl" and (m.mode != "decoder-only" or m.sees != "causal"):
        yield "positions", ("transformer_xl counts how far back a token is; it serves causal "
                            "attention in a decoder-only model; choose relative, which serves all")
    if m.positions == "relative" and not 4 <= m.relative_buckets < 2 * m.relative_max_distance:
        yield "relative_buckets", (f"{m.relative_buckets} buckets do not reach to "
                                   f"{m.relative_max_distance} = relative_max_distance; give "
                                   "at least 4 of them, and fewer than twice that distance")


def _modes(m: ModelConfig) -> Iterator[tuple[str, str]]:
    if m.mode == "encoder-only" and m.sees != "full":
        yield "attention", (f"an encoder sees all of its sequence, and {m.sees} is a decoder's; "
                            "leave attention out, or choose mode: decoder-only")
    if m.mode != "encoder-only" and m.sees == "full":
        yield "attention", (f"full attention would show a {m.mode} model the token that it is to "
                            "predict; choose causal or prefix, or mode: encoder-only")
    if m.mode == "encoder-decoder" and m.sees == "prefix":
        yield "attention", "an encoder-decoder's prefix is what its encoder reads; leave it out"
    if m.mode != "encoder-decoder":
        for field in ("n_encoder_layers", "source_context"):
            if getattr(m, field) is not None:
                yield field, f"a {m.mode} model has one stack; leave it out"


def _blocks(m: ModelConfig) -> Iterator[tuple[str, str]]:
    for field, layers in (("n_layers", m.decoder_layers), ("n_encoder_layers", m.encoder_layers)):
        if layers % m.period:
            where = "n_layers" if m.n_encoder_layers is None else field
            yield where, (f"{layers} layers are not a multiple of {m.period}, after which kinds of "
                          "layer repeat (banded, experts.every)")
    if m.parallel != "no" and m.norm_place != "pre":
        yield "parallel", (f"branches side by side are normed before, and norm_place is "
                           f"{m.norm_place}; choose norm_place: pre, or parallel: no")
    if m.parallel != "no" and m.mode == "encoder-decoder":
        yield "parallel", ("in an encoder-decoder, cross-attention stands between attention and "
                           "feed-forward; choose parallel: no")
    if m.experts is not None:
        if m.experts.top_k > m.experts.count:
            yield "experts.top_k", (f"{m.experts.top_k} is more than the {m.experts.count} experts "
                                    "that there are; choose fewer, or raise experts.count")
        if m.share_layers != "none":
            yield "share_layers", ("layers with experts are not shared; leave share_layers or "
                                   "experts out")
    if m.share_layers != "none" and m.banded == "alternate":
        yield "share_layers", ("layers that are shared are of one kind, and banded: alternate "
                               "makes two; leave one of them out")


def _heads(m: ModelConfig) -> Iterator[tuple[str, str]]:
    if not m.outputs:
        yield "heads", ("empty: a model without a head computes nothing; leave it out for the "
                        "default")
    for place, head in enumerate(m.outputs):
        if m.mode not in MODES_OF_HEAD[head.kind]:
            fitting = sorted(k for k, modes in MODES_OF_HEAD.items() if m.mode in modes)
            yield f"heads.{place}", (f"{head.kind} is no head of a {m.mode} model; those are "
                                     f"{', '.join(fitting)}")
    for kind, count in Counter(head.kind for head in m.outputs).items():
        if count > 1:
            yield "heads", f"{kind} stands there {count} times; name each kind of head once"
    for place, head in enumerate(m.outputs):
        alone = m.mode == "decoder-only" and m.sees == "causal"
        if alone and getattr(head, "pool", None) == "first":
            yield f"heads.{place}.pool", ("the first token of causal attention has seen nothing of "
                                          "the others; choose last")


def _without_effect(m: ModelConfig) -> Iterator[tuple[str, str]]:
    """Values that change nothing: they would give one model two identities."""
    belong = {
        "rotary_base": "rotary", "rotary_fraction": "rotary", "rotary_pairs": "rotary",
        "relative_buckets": "relative", "relative_max_distance": "relative",
    }
    for field, positions in belong.items():
        if m.positions != positions and getattr(m, field) != type(m).model_fields[field].default:
            yield field, (f"has no effect where positions are {m.positions}; leave it out, or "
                          f"choose positions: {positions}")
    if m.embedding_width == m.d_model:
        for field in ("embedding_bias", "embedding_map"):
            if getattr(m, field) != type(m).model_fields[field].default:
                yield field, ("there is no map from embeddings of d_model's own width; leave it "
                              "out, or give d_embedding")
    for field in ("gain", "fan"):
        if m.init.std is not None and getattr(m.init, field) != (
                type(m.init).model_fields[field].default):
            yield f"init.{field}", (f"has no effect beside init.std = {m.init.std:g}; leave one of "
                                    "them out")
    for field in ("dropout", "attention_dropout"):
        if getattr(m, field) == 1:
            yield field, "1 would set everything to nought; choose less than 1"

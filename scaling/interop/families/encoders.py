"""BERT and its relatives: encoders with learned positions and norms after each branch."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from scaling.config import ModelConfig
from scaling.interop.family import Family, Rule, linear, norm
from scaling.interop.fields import ACTIVATIONS, Fields, Pair
from scaling.interop.layouts import LINEAR_FROM_HEADS, TABLE, VECTOR

_LAYER = "encoder.stack.{layer}"

_ENCODER = {
    "mode": "encoder-only", "positions": "learned", "norm": "layer", "norm_place": "post",
    "embedding_norm": True, "biases": True, "scale_embedding": False,
}

_SIZES = (
    Pair("vocab_size", "vocab_size"),
    Pair("hidden_size", "d_model"),
    Pair("num_hidden_layers", "n_layers"),
    Pair("num_attention_heads", "n_heads"),
    Pair("intermediate_size", "d_ff"),
    Pair("type_vocab_size", "n_types", 2),
    Pair("hidden_dropout_prob", "dropout", 0.1),
    Pair("attention_probs_dropout_prob", "attention_dropout", 0.1),
    Pair("layer_norm_eps", "norm_epsilon", 1e-12),
)
_POSITIONS = Pair("max_position_embeddings", "context")
_TIED = Pair("tie_word_embeddings", "tied_head", True)
_ACTIVATION = Pair("hidden_act", "activation", "gelu", ACTIVATIONS)
_EXACT_GELU = Pair("hidden_act", "activation", "gelu", {"gelu": ACTIVATIONS["gelu"]})
"""Where the head's activation is always the exact GELU, and the layers' must be the same for us."""

_DEMANDS = {"position_embedding_type": "absolute", "is_decoder": False,
            "add_cross_attention": False}


def _masked_lm(*more: str) -> dict[str, Any]:
    return _ENCODER | {"heads": [{"kind": kind} for kind in ("masked_lm", *more)]}


def _embeddings(prefix: str) -> tuple[Rule, ...]:
    """Tables of tokens, positions and types, and their norm."""
    return (
        Rule(f"{prefix}.word_embeddings.weight", "embedding", TABLE),
        Rule(f"{prefix}.position_embeddings.weight", "encoder.positions", TABLE),
        Rule(f"{prefix}.token_type_embeddings.weight", "encoder.types", TABLE),
        *norm(f"{prefix}.LayerNorm", "encoder.embedding_norm"),
    )


def _buffers(prefix: str) -> tuple[str, str]:
    """Counts and noughts that some versions save."""
    return rf"{prefix}\.position_ids", rf"{prefix}\.token_type_ids"


_OLDER = {r"LayerNorm\.gamma$": "LayerNorm.weight", r"LayerNorm\.beta$": "LayerNorm.bias"}
"""Names of norms in weights that came from TensorFlow."""


def _bert_layers(prefix: str) -> tuple[Rule, ...]:
    layer = f"{prefix}.encoder.layer.{{layer}}"
    return (
        *linear(f"{layer}.attention.self.query", f"{_LAYER}.attention.query"),
        *linear(f"{layer}.attention.self.key", f"{_LAYER}.attention.key"),
        *linear(f"{layer}.attention.self.value", f"{_LAYER}.attention.value"),
        *linear(f"{layer}.attention.output.dense", f"{_LAYER}.attention.out", LINEAR_FROM_HEADS),
        *norm(f"{layer}.attention.output.LayerNorm", f"{_LAYER}.attention_norm"),
        *linear(f"{layer}.intermediate.dense", f"{_LAYER}.feed_forward.up"),
        *linear(f"{layer}.output.dense", f"{_LAYER}.feed_forward.down"),
        *norm(f"{layer}.output.LayerNorm", f"{_LAYER}.feed_forward_norm"),
    )


def _vocabulary(dense: str, normed: str, decoder: str) -> tuple[Rule, ...]:
    """The masked-LM head: a dense layer, its norm, the output matrix where it is not tied, and the
    vocabulary's bias. Where a class has that bias a second time beside the matrix, it is that of
    the matrix which is added."""
    head = "heads.masked_lm"
    return (
        *linear(dense, f"{head}.dense"),
        *norm(normed, f"{head}.norm"),
        Rule(f"{decoder}.weight", f"{head}.vocabulary.own", TABLE),
        Rule(f"{decoder}.bias", f"{head}.vocabulary.bias", VECTOR),
    )


_BERT = Family(
    "BertForPreTraining",
    Fields("bert", (*_SIZES, _POSITIONS, _TIED, _ACTIVATION), _masked_lm("next_sentence"),
           _DEMANDS),
    (
        *_embeddings("bert.embeddings"), *_bert_layers("bert"),
        *linear("bert.pooler.dense", "pooler"),
        *_vocabulary("cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm",
                     "cls.predictions.decoder"),
        *linear("cls.seq_relationship", "heads.next_sentence.out"),
    ),
    copies={"cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight"},
    spares={"cls.predictions.bias": "cls.predictions.decoder.bias"},
    ignored=_buffers(r"bert\.embeddings"),
    older=_OLDER,
)


_ROBERTA_PADDING = 1


def _roberta_positions(theirs: dict[str, Any]) -> dict[str, Any]:
    """Positions begin after the padding's row, which is never trained."""
    padding = theirs.get("pad_token_id")
    offset = (_ROBERTA_PADDING if padding is None else padding) + 1
    return {"position_offset": offset, "context": theirs[_POSITIONS.theirs] - offset}


def _roberta_rows(config: ModelConfig) -> dict[str, Any]:
    return {_POSITIONS.theirs: config.context + config.position_offset,
            "pad_token_id": max(config.position_offset - 1, 0)}


_ROBERTA = Family(
    "RobertaForMaskedLM",
    Fields("roberta", (*_SIZES, _POSITIONS, _TIED, _EXACT_GELU), _masked_lm(), _DEMANDS,
           _roberta_positions, _roberta_rows),
    (
        *_embeddings("roberta.embeddings"), *_bert_layers("roberta"),
        *_vocabulary("lm_head.dense", "lm_head.layer_norm", "lm_head.decoder"),
    ),
    copies={"lm_head.decoder.weight": "roberta.embeddings.word_embeddings.weight"},
    spares={"lm_head.bias": "lm_head.decoder.bias"},
    ignored=_buffers(r"roberta\.embeddings"),
    older=_OLDER,
)

_EMBEDDING_SIZE = Pair("embedding_size", "d_embedding", 128)


def _map_bias(theirs: dict[str, Any]) -> dict[str, Any]:
    """The map from embeddings has a bias wherever there is a map."""
    narrow = theirs.get(_EMBEDDING_SIZE.theirs, _EMBEDDING_SIZE.default)
    return {"embedding_bias": narrow != theirs["hidden_size"]}


def _albert_layer() -> tuple[Rule, ...]:
    """The one layer that all are."""
    theirs = "albert.encoder.albert_layer_groups.0.albert_layers.0"
    ours = "encoder.stack.shared"
    return (
        *linear(f"{theirs}.attention.query", f"{ours}.attention.query"),
        *linear(f"{theirs}.attention.key", f"{ours}.attention.key"),
        *linear(f"{theirs}.attention.value", f"{ours}.attention.value"),
        *linear(f"{theirs}.attention.dense", f"{ours}.attention.out", LINEAR_FROM_HEADS),
        *norm(f"{theirs}.attention.LayerNorm", f"{ours}.attention_norm"),
        *linear(f"{theirs}.ffn", f"{ours}.feed_forward.up"),
        *linear(f"{theirs}.ffn_output", f"{ours}.feed_forward.down"),
        *norm(f"{theirs}.full_layer_layer_norm", f"{ours}.feed_forward_norm"),
    )


_ALBERT = Family(
    "AlbertForPreTraining",
    Fields(
        "albert",
        (*(pair._replace(default=0.0) if pair.ours.endswith("dropout") else pair
           for pair in _SIZES),
         _POSITIONS, _TIED, _EMBEDDING_SIZE, _ACTIVATION._replace(default="gelu_new")),
        # Its map from the embeddings is there even between equal widths, where we have none.
        _masked_lm("sentence_order") | {"share_layers": "all", "embedding_bias": True},
        _DEMANDS | {"num_hidden_groups": 1, "inner_group_num": 1},
    ),
    (
        *_embeddings("albert.embeddings"),
        *linear("albert.encoder.embedding_hidden_mapping_in", "encoder.map"),
        *_albert_layer(),
        *linear("albert.pooler", "pooler"),
        *_vocabulary("predictions.dense", "predictions.LayerNorm", "predictions.decoder"),
        *linear("sop_classifier.classifier", "heads.sentence_order.out"),
    ),
    copies={"predictions.decoder.weight": "albert.embeddings.word_embeddings.weight"},
    spares={"predictions.bias": "predictions.decoder.bias"},
    ignored=_buffers(r"albert\.embeddings"),
    older=_OLDER,
)

_ELECTRA_TRUNK = (
    *_embeddings("electra.embeddings"),
    *linear("electra.embeddings_project", "encoder.map"),
    *_bert_layers("electra"),
)

_ELECTRA = Family(
    "ElectraForPreTraining",
    Fields("electra", (*_SIZES, _POSITIONS, _EMBEDDING_SIZE, _ACTIVATION),
           _ENCODER | {"heads": [{"kind": "replaced_token"}]}, _DEMANDS, _map_bias),
    (
        *_ELECTRA_TRUNK,
        *linear("discriminator_predictions.dense", "heads.replaced_token.dense"),
        *linear("discriminator_predictions.dense_prediction", "heads.replaced_token.out"),
    ),
    ignored=_buffers(r"electra\.embeddings"),
    older=_OLDER,
)

_ELECTRA_GENERATOR = Family(
    "ElectraForMaskedLM",
    Fields("electra", (*_SIZES, _POSITIONS, _TIED, _EMBEDDING_SIZE, _EXACT_GELU),
           _masked_lm(), _DEMANDS, _map_bias),
    (
        *_ELECTRA_TRUNK,
        *_vocabulary("generator_predictions.dense", "generator_predictions.LayerNorm",
                     "generator_lm_head"),
    ),
    copies={"generator_lm_head.weight": "electra.embeddings.word_embeddings.weight"},
    ignored=_buffers(r"electra\.embeddings"),
    older=_OLDER,
)

_DISTILBERT_LAYER = "distilbert.transformer.layer.{layer}"

_DISTILBERT = Family(
    "DistilBertForMaskedLM",
    Fields(
        "distilbert",
        (
            Pair("vocab_size", "vocab_size"),
            Pair("dim", "d_model"),
            Pair("n_layers", "n_layers"),
            Pair("n_heads", "n_heads"),
            Pair("hidden_dim", "d_ff"),
            Pair("dropout", "dropout", 0.1),
            Pair("attention_dropout", "attention_dropout", 0.1),
            _POSITIONS, _TIED, _ACTIVATION._replace(theirs="activation"),
        ),
        # The epsilon of its norms is no setting.
        _masked_lm() | {"norm_epsilon": 1e-12},
        # The sines of sinusoidal_pos_embds are drawn into the table once: they load like any.
        {"is_decoder": False, "add_cross_attention": False},
    ),
    (
        Rule("distilbert.embeddings.word_embeddings.weight", "embedding", TABLE),
        Rule("distilbert.embeddings.position_embeddings.weight", "encoder.positions", TABLE),
        *norm("distilbert.embeddings.LayerNorm", "encoder.embedding_norm"),
        *linear(f"{_DISTILBERT_LAYER}.attention.q_lin", f"{_LAYER}.attention.query"),
        *linear(f"{_DISTILBERT_LAYER}.attention.k_lin", f"{_LAYER}.attention.key"),
        *linear(f"{_DISTILBERT_LAYER}.attention.v_lin", f"{_LAYER}.attention.value"),
        *linear(f"{_DISTILBERT_LAYER}.attention.out_lin", f"{_LAYER}.attention.out",
                LINEAR_FROM_HEADS),
        *norm(f"{_DISTILBERT_LAYER}.sa_layer_norm", f"{_LAYER}.attention_norm"),
        *linear(f"{_DISTILBERT_LAYER}.ffn.lin1", f"{_LAYER}.feed_forward.up"),
        *linear(f"{_DISTILBERT_LAYER}.ffn.lin2", f"{_LAYER}.feed_forward.down"),
        *norm(f"{_DISTILBERT_LAYER}.output_layer_norm", f"{_LAYER}.feed_forward_norm"),
        *_vocabulary("vocab_transform", "vocab_layer_norm", "vocab_projector"),
    ),
    copies={"vocab_projector.weight": "distilbert.embeddings.word_embeddings.weight"},
    ignored=(r"distilbert\.embeddings\.position_ids",),
)

def _masked_lm_alone(family: Family, architecture: str, *others: str) -> Family:
    """The class with the first of a family's heads only. Published weights often hold the others
    too, which transformers leaves aside as we do."""
    fields = replace(family.fields, ours={**family.fields.ours, "heads": _masked_lm()["heads"]})
    ignored = (*family.ignored, *(rf"{re.escape(other)}\..*" for other in others))
    return replace(family, architecture=architecture, fields=fields, ignored=ignored)


FAMILIES = (
    _BERT, _ROBERTA, _ALBERT, _ELECTRA, _ELECTRA_GENERATOR, _DISTILBERT,
    _masked_lm_alone(_BERT, "BertForMaskedLM", "bert.pooler", "cls.seq_relationship"),
    _masked_lm_alone(_ALBERT, "AlbertForMaskedLM", "albert.pooler", "sop_classifier"),
    # The pooler is missing where a model was saved without one.
    _BERT.trunk("BertModel", "bert.", drawn=("heads.", "pooler.")),
)

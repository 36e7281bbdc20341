"""Encoder classes of transformers: BERT, RoBERTa, ALBERT, ELECTRA and DistilBERT, which have
learned positions and norms after each branch."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from scaling.config import ModelConfig
from scaling.interop.architecture import HFArchitecture, Rule, linear, norm
from scaling.interop.layouts import LINEAR_FROM_HEADS, TABLE, VECTOR
from scaling.interop.settings import ACTIVATIONS, HFSetting, SettingsTable, number

_LAYER = "encoder.layers.{layer}"

_ENCODER = {
    "mode": "encoder-only", "positions": "learned", "norm": "layer", "norm_place": "post",
    "embedding_norm": True, "use_bias": True, "scale_embedding": False,
}

_SIZES = (
    HFSetting("vocab_size", "vocab_size"),
    HFSetting("hidden_size", "d_model"),
    HFSetting("num_hidden_layers", "n_layers"),
    HFSetting("num_attention_heads", "n_heads"),
    HFSetting("intermediate_size", "d_ff"),
    HFSetting("type_vocab_size", "n_token_types", 2),
    HFSetting("hidden_dropout_prob", "dropout", 0.1),
    HFSetting("attention_probs_dropout_prob", "attention_dropout", 0.1),
    HFSetting("layer_norm_eps", "norm_epsilon", 1e-12),
)
_POSITIONS = HFSetting("max_position_embeddings", "context")
_TIED = HFSetting("tie_word_embeddings", "tied_head", True)
_ACTIVATION = HFSetting("hidden_act", "activation", "gelu", ACTIVATIONS)
_EXACT_GELU = HFSetting("hidden_act", "activation", "gelu", {"gelu": ACTIVATIONS["gelu"]})
"""For classes whose head always has the exact GELU, which our layers must then have too."""

_DEMANDS = {"position_embedding_type": "absolute", "is_decoder": False,
            "add_cross_attention": False}


def _masked_lm(*more: str) -> dict[str, Any]:
    return _ENCODER | {"heads": [{"kind": kind} for kind in ("masked_lm", *more)]}


def _embeddings(prefix: str) -> tuple[Rule, ...]:
    """Rules for the tables of tokens, positions and token types, and their norm."""
    return (
        Rule(f"{prefix}.word_embeddings.weight", "embedding", TABLE),
        Rule(f"{prefix}.position_embeddings.weight", "encoder.positions", TABLE),
        Rule(f"{prefix}.token_type_embeddings.weight", "encoder.types", TABLE),
        *norm(f"{prefix}.LayerNorm", "encoder.embedding_norm"),
    )


def _buffers(prefix: str) -> tuple[str, str]:
    """Patterns of buffers that some versions save."""
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
    """Rules for the masked-LM head: a dense layer, its norm, the output matrix if it is not tied,
    and the vocabulary's bias. If a class has this bias twice, the one of the matrix is used."""
    head = "heads.masked_lm"
    return (
        *linear(dense, f"{head}.dense"),
        *norm(normed, f"{head}.norm"),
        Rule(f"{decoder}.weight", f"{head}.vocabulary.weight", TABLE),
        Rule(f"{decoder}.bias", f"{head}.vocabulary.bias", VECTOR),
    )


_BERT = HFArchitecture(
    "BertForPreTraining",
    SettingsTable("bert", (*_SIZES, _POSITIONS, _TIED, _ACTIVATION), _masked_lm("next_sentence"),
                  _DEMANDS),
    (
        *_embeddings("bert.embeddings"), *_bert_layers("bert"),
        *linear("bert.pooler.dense", "pooler"),
        *_vocabulary("cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm",
                     "cls.predictions.decoder"),
        *linear("cls.seq_relationship", "heads.next_sentence.out"),
    ),
    aliases={"cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight"},
    fallbacks={"cls.predictions.bias": "cls.predictions.decoder.bias"},
    ignored=_buffers(r"bert\.embeddings"),
    renamed=_OLDER,
)


_ROBERTA_PADDING = 1


def _roberta_positions(theirs: dict[str, Any]) -> dict[str, Any]:
    """Positions begin after the row of padding, which is never trained."""
    offset = number(theirs, "pad_token_id", _ROBERTA_PADDING) + 1
    return {"position_offset": offset, "context": number(theirs, _POSITIONS.theirs) - offset}


def _roberta_rows(config: ModelConfig) -> dict[str, Any]:
    return {_POSITIONS.theirs: config.context + config.position_offset,
            "pad_token_id": max(config.position_offset - 1, 0)}


_ROBERTA = HFArchitecture(
    "RobertaForMaskedLM",
    SettingsTable("roberta", (*_SIZES, _POSITIONS, _TIED, _EXACT_GELU), _masked_lm(), _DEMANDS,
                  _roberta_positions, _roberta_rows),
    (
        *_embeddings("roberta.embeddings"), *_bert_layers("roberta"),
        *_vocabulary("lm_head.dense", "lm_head.layer_norm", "lm_head.decoder"),
    ),
    aliases={"lm_head.decoder.weight": "roberta.embeddings.word_embeddings.weight"},
    fallbacks={"lm_head.bias": "lm_head.decoder.bias"},
    ignored=_buffers(r"roberta\.embeddings"),
    renamed=_OLDER,
)

_EMBEDDING_SIZE = HFSetting("embedding_size", "d_embedding", 128)


def _map_bias(theirs: dict[str, Any]) -> dict[str, Any]:
    """The projection of the embeddings has a bias, if there is a projection."""
    narrow = number(theirs, _EMBEDDING_SIZE.theirs, _EMBEDDING_SIZE.default)
    return {"embedding_projection_bias": narrow != number(theirs, "hidden_size")}


def _albert_layer() -> tuple[Rule, ...]:
    """Rules for the shared layer."""
    theirs = "albert.encoder.albert_layer_groups.0.albert_layers.0"
    ours = "encoder.layers.shared"
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


_ALBERT = HFArchitecture(
    "AlbertForPreTraining",
    SettingsTable(
        "albert",
        (*(pair._replace(default=0.0) if pair.ours.endswith("dropout") else pair
           for pair in _SIZES),
         _POSITIONS, _TIED, _EMBEDDING_SIZE, _ACTIVATION._replace(default="gelu_new")),
        # ALBERT has a projection of the embeddings even between equal widths; our model does not.
        _masked_lm("sentence_order") | {"share_layers": "all", "embedding_projection_bias": True},
        _DEMANDS | {"num_hidden_groups": 1, "inner_group_num": 1},
    ),
    (
        *_embeddings("albert.embeddings"),
        *linear("albert.encoder.embedding_hidden_mapping_in", "encoder.projection"),
        *_albert_layer(),
        *linear("albert.pooler", "pooler"),
        *_vocabulary("predictions.dense", "predictions.LayerNorm", "predictions.decoder"),
        *linear("sop_classifier.classifier", "heads.sentence_order.out"),
    ),
    aliases={"predictions.decoder.weight": "albert.embeddings.word_embeddings.weight"},
    fallbacks={"predictions.bias": "predictions.decoder.bias"},
    ignored=_buffers(r"albert\.embeddings"),
    renamed=_OLDER,
)

_ELECTRA_TRUNK = (
    *_embeddings("electra.embeddings"),
    *linear("electra.embeddings_project", "encoder.projection"),
    *_bert_layers("electra"),
)

_ELECTRA = HFArchitecture(
    "ElectraForPreTraining",
    SettingsTable("electra", (*_SIZES, _POSITIONS, _EMBEDDING_SIZE, _ACTIVATION),
                  _ENCODER | {"heads": [{"kind": "replaced_token"}]}, _DEMANDS, _map_bias),
    (
        *_ELECTRA_TRUNK,
        *linear("discriminator_predictions.dense", "heads.replaced_token.dense"),
        *linear("discriminator_predictions.dense_prediction", "heads.replaced_token.out"),
    ),
    ignored=_buffers(r"electra\.embeddings"),
    renamed=_OLDER,
)

_ELECTRA_GENERATOR = HFArchitecture(
    "ElectraForMaskedLM",
    SettingsTable("electra", (*_SIZES, _POSITIONS, _TIED, _EMBEDDING_SIZE, _EXACT_GELU),
                  _masked_lm(), _DEMANDS, _map_bias),
    (
        *_ELECTRA_TRUNK,
        *_vocabulary("generator_predictions.dense", "generator_predictions.LayerNorm",
                     "generator_lm_head"),
    ),
    aliases={"generator_lm_head.weight": "electra.embeddings.word_embeddings.weight"},
    ignored=_buffers(r"electra\.embeddings"),
    renamed=_OLDER,
)

_DISTILBERT_LAYER = "distilbert.transformer.layer.{layer}"

_DISTILBERT = HFArchitecture(
    "DistilBertForMaskedLM",
    SettingsTable(
        "distilbert",
        (
            HFSetting("vocab_size", "vocab_size"),
            HFSetting("dim", "d_model"),
            HFSetting("n_layers", "n_layers"),
            HFSetting("n_heads", "n_heads"),
            HFSetting("hidden_dim", "d_ff"),
            HFSetting("dropout", "dropout", 0.1),
            HFSetting("attention_dropout", "attention_dropout", 0.1),
            _POSITIONS, _TIED, _ACTIVATION._replace(theirs="activation"),
        ),
        # The epsilon of its norms is not a setting.
        _masked_lm() | {"norm_epsilon": 1e-12},
        # The sines of sinusoidal_pos_embds initialise the table, which loads like any other.
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
    aliases={"vocab_projector.weight": "distilbert.embeddings.word_embeddings.weight"},
    ignored=(r"distilbert\.embeddings\.position_ids",),
)


def _masked_lm_alone(base: HFArchitecture, name: str, *ignored_heads: str) -> HFArchitecture:
    """The class with only the first head of `base`. Published weights often have the other heads
    too, which are ignored here as in transformers."""
    settings = replace(base.settings, fixed={**base.settings.fixed, "heads": _masked_lm()["heads"]})
    ignored = (*base.ignored, *(rf"{re.escape(head)}\..*" for head in ignored_heads))
    return replace(base, name=name, settings=settings, ignored=ignored)


ARCHITECTURES = (
    _BERT, _ROBERTA, _ALBERT, _ELECTRA, _ELECTRA_GENERATOR, _DISTILBERT,
    _masked_lm_alone(_BERT, "BertForMaskedLM", "bert.pooler", "cls.seq_relationship"),
    _masked_lm_alone(_ALBERT, "AlbertForMaskedLM", "albert.pooler", "sop_classifier"),
    # The pooler is missing if the model was saved without one.
    _BERT.without_heads("BertModel", "bert.", optional=("heads.", "pooler.")),
)

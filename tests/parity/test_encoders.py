"""BERT and its relatives against transformers, in shapes that share no two sizes."""

from __future__ import annotations

import pytest

from tests.parity.harness import Case, check

SHAPES = {
    "narrow": {"vocab_size": 29, "hidden_size": 12, "num_hidden_layers": 2,
               "num_attention_heads": 3, "intermediate_size": 20, "max_position_embeddings": 11},
    "deep": {"vocab_size": 37, "hidden_size": 8, "num_hidden_layers": 3,
             "num_attention_heads": 2, "intermediate_size": 24, "max_position_embeddings": 16},
    "one_head": {"vocab_size": 19, "hidden_size": 10, "num_hidden_layers": 1,
                 "num_attention_heads": 1, "intermediate_size": 14, "max_position_embeddings": 12},
}
DISTILBERT = {"hidden_size": "dim", "num_hidden_layers": "n_layers",
              "num_attention_heads": "n_heads", "intermediate_size": "hidden_dim",
              "hidden_act": "activation"}
CHANGES = {
    "narrow": {"layer_norm_eps": 1e-3},
    "deep": {"hidden_act": "gelu_new"},
    # Untied, transformers 5 has the vocabulary's bias twice, and adds the one beside the matrix.
    "one_head": {"hidden_act": "relu", "tie_word_embeddings": False},
}
PAIRS = {"masked_lm": "prediction_logits"}
FIXED_GELU = {"RobertaForMaskedLM", "ElectraForMaskedLM"}
"""Classes whose head has the exact GELU whatever their settings say."""
CLASSES = {
    "BertForPreTraining": PAIRS | {"next_sentence": "seq_relationship_logits"},
    "RobertaForMaskedLM": {"masked_lm": "logits"},
    "AlbertForPreTraining": PAIRS | {"sentence_order": "sop_logits"},
    "ElectraForPreTraining": {"replaced_token": "logits"},
    "ElectraForMaskedLM": {"masked_lm": "logits"},
    "DistilBertForMaskedLM": {"masked_lm": "logits"},
    "BertForMaskedLM": {"masked_lm": "logits"},
    "AlbertForMaskedLM": {"masked_lm": "logits"},
}


def settings_of(architecture: str, shape: str) -> dict[str, object]:
    changes = dict(CHANGES[shape])
    if architecture in FIXED_GELU:
        changes.pop("hidden_act", None)
    values = SHAPES[shape] | changes
    if architecture.startswith("DistilBert"):
        values.pop("layer_norm_eps", None)
        return {DISTILBERT.get(name, name): value for name, value in values.items()}
    if architecture.startswith(("Albert", "Electra")):
        # An embedding as wide as the model has no map in ELECTRA.
        same = architecture.startswith("Electra") and shape == "one_head"
        values["embedding_size"] = values["hidden_size"] if same else 6
    return values


CASES = {
    f"{architecture}-{shape}": Case(
        architecture, settings_of(architecture, shape), outputs,
        typed=not architecture.startswith("DistilBert"))
    for architecture, outputs in CLASSES.items()
    for shape in SHAPES
}


@pytest.mark.parametrize("name", CASES)
def test_same_numbers(name, tmp_path):
    check(CASES[name], tmp_path, seed=len(name))

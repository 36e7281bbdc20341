"""Settings of transformers' classes: none is passed over that changes what a model computes."""

from __future__ import annotations

from typing import Any

import pytest

from scaling.interop.families import ARCHITECTURES
from scaling.interop.settings import REQUIRED, to_model_config

transformers = pytest.importorskip("transformers", reason="the live comparison needs transformers")

NOT_READ = {
    "ids and caches": {
        "pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id",
        "forced_eos_token_id", "use_cache",
    },
    "dropout and noise, see from_hf": {
        "embd_pdrop", "layerdrop", "encoder_layerdrop", "decoder_layerdrop", "activation_dropout",
        "router_jitter_noise", "classifier_dropout", "classifier_dropout_prob",
        "summary_first_dropout", "summary_last_dropout", "qa_dropout", "seq_classif_dropout",
    },
    "heads that these classes have not": {
        "summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels",
    },
    "only how it starts": {"initializer_factor", "sinusoidal_pos_embds"},
    "worked out from others when it is made": {
        "dense_act_fn", "is_gated_act", "encoder_sparse_step", "decoder_sparse_step",
    },
    "precision, and what is said beside the logits": {
        "reorder_and_upcast_attn", "router_dtype", "add_router_probs", "pretraining_tp",
    },
    "of a class whose mode is fixed": {"is_decoder", "add_cross_attention"},
    "of a discriminator, which has no vocabulary": {"tie_word_embeddings"},
}
"""Why a setting is not looked at, and those of which that holds."""

NEEDED = {
    "SwitchTransformersForConditionalGeneration": {
        "num_sparse_encoder_layers": 6, "num_sparse_decoder_layers": 6,
    },
}
"""Settings without which a class's own defaults cannot be converted."""


class Watched(dict[str, Any]):
    """Settings that remember which of them were asked for."""

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__(settings)
        self.asked: set[str] = set()

    def get(self, name: str, default: Any = None) -> Any:
        self.asked.add(name)
        return super().get(name, default)

    def __getitem__(self, name: str) -> Any:
        self.asked.add(name)
        return super().__getitem__(name)


def made(architecture: str) -> dict[str, Any]:
    cls = getattr(transformers, architecture).config_class
    return cls(**NEEDED.get(architecture, {})).to_dict()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_setting_is_read_or_known_not_to_matter(architecture):
    theirs = Watched(made(architecture))
    to_model_config(ARCHITECTURES[architecture].settings, architecture, theirs)
    of_all_classes = transformers.PreTrainedConfig().to_dict().keys()
    left = theirs.keys() - theirs.asked - of_all_classes
    assert left <= set().union(*NOT_READ.values())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_defaults_are_theirs(architecture):
    """What a configuration leaves out means to us what it means to them; null stands for what
    follows from other settings."""
    theirs = made(architecture)
    for pair in ARCHITECTURES[architecture].settings.entries:
        if pair.theirs in theirs and pair.default not in (REQUIRED, None):
            assert theirs[pair.theirs] == pair.default, pair.theirs

"""Presets: their counts match the papers, and given values override theirs."""

from __future__ import annotations

import math
from typing import get_args

import numpy as np
import pytest
from pydantic import ValidationError

from scaling.accounting.params import count_parameters
from scaling.config import ModelConfig, validate
from scaling.config.presets import _content, expand_preset, family_named, presets
from scaling.config.presets.sweep import (
    DEPTH_EXPONENT,
    DEPTH_FACTOR,
    MAX_DEPTH_RATIO,
    MIN_LAYERS,
    format_count,
    parse_count,
    sweep_shape,
)
from scaling.config.zoo import preset_config
from scaling.errors import UserError

pytestmark = pytest.mark.quick

NAMES = [name for family in presets().values() for name in family.presets]
REPORTED = [(f"{family.name}/{size}", reported.params) for family in presets().values()
            for size, reported in family.sizes.items() if reported.params]

# Reported sizes that differ by more than 2% from the counts, with the difference.
ROUNDED = {
    "albert/xxlarge": 0.051, "electra/small": 0.033, "opt/350M": 0.054, "switch/base": 0.06,
    "t5/large": 0.042, "t5/3B": 0.05, "t5/11B": 0.028, "t5-v1.1/large": 0.022,
    "t5-v1.1/xl": 0.051, "transformer/base": 0.03,
}

# Characteristic values of each family in its paper.
IDENTITY = {
    "transformer": {"mode": "encoder-decoder", "norm_place": "post", "positions": "sinusoidal",
                    "activation": "relu", "scale_embedding": True, "tied_head": True},
    "bert": {"mode": "encoder-only", "norm_place": "post", "positions": "learned",
             "n_token_types": 2,
             "embedding_norm": True, "context": 512, "norm_epsilon": 1e-12},
    "roberta": {"mode": "encoder-only", "n_token_types": 0, "position_offset": 2},
    "albert": {"share_layers": "all", "d_embedding": 128},
    "gpt": {"norm_place": "post", "final_norm": None, "positions": "learned", "context": 512},
    "gpt2": {"norm_place": "pre", "tied_head": True, "use_bias": True, "context": 1024},
    "gpt3": {"attention_pattern": "alternating", "norm_place": "pre", "context": 2048},
    "opt": {"activation": "relu", "position_offset": 2},
    "gopher": {"norm": "rms", "positions": "transformer_xl", "vocab_size": 32000},
    "chinchilla": {"norm": "rms", "positions": "transformer_xl", "vocab_size": 32000},
    "palm": {"parallel": "one_norm", "activation": "swiglu", "n_kv_heads": 1, "use_bias": False,
             "positions": "rotary", "tied_head": True},
    "t5": {"positions": "relative", "norm": "rms", "norm_place": "pre", "use_bias": False,
           "scale_attention": False, "tied_head": True, "scale_output": True},
    "t5-v1.1": {"activation": "geglu", "tied_head": False, "scale_output": False},
    "bart": {"mode": "encoder-decoder", "norm_place": "post", "position_offset": 2},
    "pythia": {"parallel": "two_norms", "rotary_fraction": 0.25, "tied_head": False},
    "llama": {"norm": "rms", "activation": "swiglu", "use_bias": False},
}


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_is_a_model_and_expanding_it_again_changes_nothing(name):
    model = preset_config(name)
    assert model.preset == name
    assert ModelConfig.model_validate(model.model_dump()) == model
    assert ModelConfig.model_validate_json(model.model_dump_json()) == model
    content = {"preset": name, "context": 64}
    assert expand_preset(expand_preset(content)) == expand_preset(content)


@pytest.mark.parametrize(("name", "params"), REPORTED)
def test_parameters_match_the_reported_ones(name, params):
    found = count_parameters(preset_config(name)).total
    assert found == pytest.approx(params, rel=ROUNDED.get(name, 0.02))


def test_every_exception_is_needed():
    reported = dict(REPORTED)
    for name, tolerance in ROUNDED.items():
        error = abs(count_parameters(preset_config(name)).total / reported[name] - 1)
        assert 0.02 < error < tolerance


# Layers, width and heads of each size: the papers' tables, and the released configurations. The
# heads change no count of parameters.
SHAPES = {
    "transformer": {"base": (6, 512, 8), "big": (6, 1024, 16)},
    "bert": {"tiny": (2, 128, 2), "mini": (4, 256, 4), "small": (4, 512, 8),
             "medium": (8, 512, 8), "base": (12, 768, 12), "large": (24, 1024, 16)},
    "roberta": {"base": (12, 768, 12), "large": (24, 1024, 16)},
    "spanbert": {"base": (12, 768, 12), "large": (24, 1024, 16)},
    "distilbert": {"base": (6, 768, 12)},
    "albert": {"base": (12, 768, 12), "large": (24, 1024, 16), "xlarge": (24, 2048, 16),
               "xxlarge": (12, 4096, 64)},
    "electra": {"small": (12, 256, 4), "base": (12, 768, 12), "large": (24, 1024, 16)},
    "gpt": {"117M": (12, 768, 12)},
    "gpt2": {"124M": (12, 768, 12), "355M": (24, 1024, 16), "774M": (36, 1280, 20),
             "1.5B": (48, 1600, 25)},
    "gpt3": {"125M": (12, 768, 12), "350M": (24, 1024, 16), "760M": (24, 1536, 16),
             # The paper prints 24 heads of width 128 for 1.3B, and the width 5140 for 13B.
             "1.3B": (24, 2048, 16), "2.7B": (32, 2560, 32), "6.7B": (32, 4096, 32),
             "13B": (40, 5120, 40), "175B": (96, 12288, 96)},
    "opt": {"125M": (12, 768, 12), "1.3B": (24, 2048, 32), "2.7B": (32, 2560, 32),
            "6.7B": (32, 4096, 32), "13B": (40, 5120, 40), "30B": (48, 7168, 56),
            "66B": (64, 9216, 72), "175B": (96, 12288, 96)},
    "pythia": {"70M": (6, 512, 8), "160M": (12, 768, 12), "410M": (24, 1024, 16),
               "1B": (16, 2048, 8), "1.4B": (24, 2048, 16), "2.8B": (32, 2560, 32),
               "6.9B": (32, 4096, 32), "12B": (36, 5120, 40)},
    "gopher": {"44M": (8, 512, 16), "117M": (12, 768, 12), "417M": (12, 1536, 12),
               "1.4B": (24, 2048, 16), "7.1B": (32, 4096, 32), "280B": (80, 16384, 128)},
    "chinchilla": {"70B": (80, 8192, 64)},
    "palm": {"8B": (32, 4096, 16), "62B": (64, 8192, 32), "540B": (118, 18432, 48)},
    "mt-nlg": {"530B": (105, 20480, 128)},
    "llama": {"7B": (32, 4096, 32), "13B": (40, 5120, 40), "33B": (60, 6656, 52),
              "65B": (80, 8192, 64), "2-70B": (80, 8192, 64), "SmolLM2-135M": (30, 576, 9)},
    "t5": {"small": (6, 512, 8), "base": (12, 768, 12), "large": (24, 1024, 16),
           "3B": (24, 1024, 32), "11B": (24, 1024, 128)},
    "t5-v1.1": {"small": (8, 512, 6), "base": (12, 768, 12), "large": (24, 1024, 16),
                "xl": (24, 2048, 32), "xxl": (24, 4096, 64)},
    "bart": {"base": (6, 768, 12), "large": (12, 1024, 16)},
}

# Tokens, largest batch in tokens, and peak learning rate.
TRAINING = {
    "gpt3": {"125M": (300e9, 0.5e6, 6e-4), "350M": (300e9, 0.5e6, 3e-4),
             "760M": (300e9, 0.5e6, 2.5e-4), "1.3B": (300e9, 1e6, 2e-4),
             "2.7B": (300e9, 1e6, 1.6e-4), "6.7B": (300e9, 2e6, 1.2e-4),
             "13B": (300e9, 2e6, 1e-4), "175B": (300e9, 3.2e6, 0.6e-4)},
    "llama": {"7B": (1e12, 4e6, 3e-4), "13B": (1e12, 4e6, 3e-4), "33B": (1.4e12, 4e6, 1.5e-4),
              "65B": (1.4e12, 4e6, 1.5e-4), "2-70B": (2e12, 4e6, 1.5e-4)},
    "pythia": {"70M": (300e9, 2**21, 1e-3), "410M": (300e9, 2**21, 3e-4),
               "12B": (300e9, 2**21, 1.2e-4)},
    "chinchilla": {"70B": (1.4e12, 3e6, 1e-4)},
    "gopher": {"280B": (300e9, 6e6, 4e-5)},
    "palm": {"540B": (780e9, 4e6, None)},
    "mt-nlg": {"530B": (270e9, 1920 * 2048, 5e-5)},
}


@pytest.mark.parametrize("family", SHAPES)
def test_shapes_are_those_of_the_papers(family):
    found = {size: preset_config(f"{family}/{size}") for size in SHAPES[family]}
    assert {size: (model.n_layers, model.d_model, model.n_heads)
            for size, model in found.items()} == SHAPES[family]
    keys = {"palm": 1, "llama/2-70B": 8, "llama/SmolLM2-135M": 3}
    for size, model in found.items():
        assert model.kv_heads == keys.get(f"{family}/{size}", keys.get(family, model.n_heads))


@pytest.mark.parametrize("family", TRAINING)
def test_the_training_of_published_models(family):
    sizes = family_named(family).sizes
    assert {size: (sizes[size].tokens, sizes[size].batch_tokens, sizes[size].learning_rate)
            for size in TRAINING[family]} == TRAINING[family]
    assert {(each.tokens, each.batch_tokens, each.learning_rate)
            for each in family_named("bart").sizes.values()} == {(None, None, None)}


@pytest.mark.parametrize("family", IDENTITY)
def test_families_have_the_values_of_their_papers(family):
    for name in family_named(family).presets:
        if name == "opt/350M":  # the only OPT model with norms after each branch
            continue
        model = preset_config(name)
        assert {key: getattr(model, key) for key in IDENTITY[family]} == IDENTITY[family], name


def test_only_the_first_transformer_scales_its_embeddings():
    scaled = {name.split("/")[0] for name in NAMES if preset_config(name).scale_embedding}
    assert scaled == {"transformer", "sweep"}


def test_minerva_is_palm_on_other_data():
    for size in family_named("palm").sizes:
        palm, minerva = (preset_config(f"{name}/{size}", context=8) for name in ("palm", "minerva"))
        assert palm.model_copy(update={"preset": minerva.preset}) == minerva


def test_given_values_override_the_preset():
    model = preset_config("gpt2/124M", context=512, n_layers=2)
    assert (model.context, model.n_layers, model.d_model) == (512, 2, 768)
    assert model.preset == "gpt2/124M"


def test_mappings_merge_key_by_key_and_null_overrides():
    published = preset_config("palm/8B")
    model = preset_config("palm/8B", init={"gain": 2.0}, n_kv_heads=None, d_ff=None)
    assert model.init.gain == 2
    assert model.init.embedding_std == published.init.embedding_std == 1
    assert model.init.residual == "plain"
    assert (model.n_kv_heads, model.d_ff) == (None, None)
    assert preset_config("switch/base", experts=None).experts is None
    again = ModelConfig.model_validate(model.model_dump())
    assert again.n_kv_heads is None


def test_lists_are_replaced():
    model = preset_config("bert/base", heads=[{"kind": "span"}])
    assert [head.kind for head in model.outputs] == ["span"]


def test_content_without_a_preset_is_unchanged():
    content = {"d_model": 8, "n_layers": 1, "n_heads": 1, "context": 4}
    assert expand_preset(content) is content
    assert expand_preset({**content, "preset": None}) == {**content, "preset": None}
    with pytest.raises(ValidationError):
        ModelConfig.model_validate({**content, "preset": 3})


@pytest.mark.parametrize(("name", "words"), [
    ("gpt33/6.7B", ("gpt3", "scaling models")),
    ("gpt3/7B", ("no size 7B", "gpt3/6.7B", "scaling models gpt3")),
    ("chinchilla/50M", ("chinchilla/44M", "chinchilla/57M")),
    ("bert/larg", ("bert/large",)),
    ("gpt3", ("size is missing", "gpt3/125M")),
    ("sweep/many", ("sweep/124M",)),
    ("sweep/5K", ("from 100K to 100T",)),
    ("sweep/101T", ("from 100K to 100T",)),
    ("../gpt3", ("no such family",)),
])
def test_a_wrong_name_is_explained_at_its_field(name, words):
    with pytest.raises(UserError) as caught:
        validate(ModelConfig, {"preset": name}, "run.yaml")
    assert str(caught.value).startswith(f"run.yaml: preset: {name.split('/')[0]}")
    for word in words:
        assert word in str(caught.value)
    with pytest.raises(UserError) as caught:
        preset_config(name)
    assert "\n" not in str(caught.value)


def test_a_wrong_key_beside_a_preset_is_explained():
    with pytest.raises(UserError, match=r"d_modl: unknown key; did you mean d_model"):
        preset_config("gpt2/124M", d_modl=3)


def test_preset_files_have_the_documented_keys():
    keys = {"title", "source", "certainty", "base", "sizes", "published", "like"}
    for name, family in presets().items():
        assert set(_content(name)) <= keys
        assert family.title
        assert family.source
        assert len(family.certainty.split()) > 5
        assert family.sizes
    modes = {preset_config(name).mode for name in NAMES}
    assert modes == set(get_args(ModelConfig.model_fields["mode"].annotation))


# The sweep family


def _outside_embeddings(shape: dict[str, int]) -> int:
    model = ModelConfig(**shape, context=8, vocab_size=32)
    return count_parameters(model).non_embedding


def test_the_depth_rule_is_the_stated_regression():
    rows = [preset_config(name) for name in family_named("chinchilla").presets[:50]]
    params = [count_parameters(model).kaplan for model in rows]
    layers = [model.n_layers for model in rows]
    exponent, factor = np.polyfit(np.log(params), np.log(layers), 1)
    assert exponent == pytest.approx(DEPTH_EXPONENT, abs=5e-4)
    assert math.exp(factor) == pytest.approx(DEPTH_FACTOR, abs=5e-4)


def test_sweep_presets_have_the_fitted_depth():
    for params in np.geomspace(1e5, 1e12, 150):
        shape = sweep_shape(params)
        tolerance = 0.05 if params >= 2e6 else 0.1
        assert _outside_embeddings(shape) == pytest.approx(params, rel=tolerance)
        depth = max(MIN_LAYERS, DEPTH_FACTOR * params**DEPTH_EXPONENT)
        assert 1 / MAX_DEPTH_RATIO < shape["n_layers"] / depth < MAX_DEPTH_RATIO
        assert shape["d_model"] % shape["n_heads"] == 0
        assert shape["d_model"] // shape["n_heads"] % 8 == 0


def test_sweep_presets_have_the_stated_widths_and_heads():
    """Of the shapes within 2% of the size, that of the depth nearest to the fitted one."""
    def step(width):
        return 8 if width < 128 else 16 if width < 256 else 32 if width < 512 else 64

    for params in np.geomspace(3e5, 3e9, 60):
        shape = sweep_shape(params)
        width, layers, heads = shape["d_model"], shape["n_layers"], shape["n_heads"]
        assert width % step(width - 1) == 0
        larger = [head for head in (128, 64, 32, 16, 8) if head > width // heads]
        assert width // heads in (128, 64, 32, 16, 8)
        assert all(width % head or width // head < 8 for head in larger)
        depth = max(2, 0.122 * params**0.256)
        deviations = []
        for other in (w for w in range(8, width * 3, 8) if w % step(w - 1) == 0):
            n = max(2, round((params - other) / (12 * other**2 + 2 * other)))
            size = n * (12 * other**2 + 2 * other) + other
            if abs(size / params - 1) <= 0.02 and 1 / 1.6 <= n / depth <= 1.6:
                deviations.append(abs(math.log(n / depth)))
        if deviations:
            assert _outside_embeddings(shape) == pytest.approx(params, rel=0.02)
            assert abs(math.log(layers / depth)) == pytest.approx(min(deviations))


def test_a_sweep_preset_is_named_by_non_embedding_parameters():
    model = preset_config("sweep/2.5B", vocab_size=1000, context=64)
    assert count_parameters(model).non_embedding == pytest.approx(2.5e9, rel=0.02)
    assert model.preset == "sweep/2.5B"
    assert preset_config("sweep/124M").vocab_size is None


@pytest.mark.parametrize(("text", "number"), [
    ("124M", 124e6), ("2.5B", 2.5e9), ("100K", 1e5), ("1B", 1e9), ("1M", 1e6), ("1T", 1e12)])
def test_counts_are_parsed_and_formatted(text, number):
    assert parse_count(text) == number
    assert format_count(number) == text

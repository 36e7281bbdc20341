"""Counts of published models: exact for public weights, approximate for rounded numbers."""

from __future__ import annotations

import jax
import pytest

from scaling.accounting import count_parameters, forward_flops_per_token
from scaling.config import ModelConfig
from scaling.models import Transformer

pytestmark = pytest.mark.quick

# Parameters of the released models, tied weights once, as Hugging Face's classes count them.
LANGUAGE_MODELS = {
    "gpt2/124M": 124_439_808, "gpt2/355M": 354_823_168, "gpt2/774M": 774_030_080,
    "gpt2/1.5B": 1_557_611_200,
    "opt/125M": 125_239_296, "opt/350M": 331_196_416, "opt/1.3B": 1_315_758_080,
    "opt/2.7B": 2_651_596_800, "opt/6.7B": 6_658_473_984, "opt/13B": 12_853_473_280,
    "opt/30B": 29_974_540_288, "opt/66B": 65_719_701_504, "opt/175B": 174_604_468_224,
    "pythia/14M": 14_067_712, "pythia/31M": 30_494_720, "pythia/70M": 70_426_624,
    "pythia/160M": 162_322_944, "pythia/410M": 405_334_016, "pythia/1B": 1_011_781_632,
    "pythia/1.4B": 1_414_647_808, "pythia/2.8B": 2_775_208_960, "pythia/6.9B": 6_857_302_016,
    "pythia/12B": 11_846_072_320,
    "t5/small": 60_506_624, "t5/base": 222_903_552, "t5/large": 737_668_096,
    "t5/3B": 2_851_598_336, "t5/11B": 11_307_321_344,
    "t5-v1.1/small": 76_961_152, "t5-v1.1/base": 247_577_856, "t5-v1.1/large": 783_150_080,
    "t5-v1.1/xl": 2_849_757_184, "t5-v1.1/xxl": 11_135_332_352,
    "bart/base": 139_420_416, "bart/large": 406_291_456,
    "bert/base": 110_106_428, "bert/large": 336_226_108,
    "electra/small": 13_549_057, "electra/base": 109_483_009, "electra/large": 335_142_913,
    "switch/base": 7_415_217_408,
    "gpt/117M": 116_534_784, "distilbert/base": 66_985_530,
    "llama/7B": 6_738_415_616, "llama/13B": 13_015_864_320, "llama/33B": 32_528_943_616,
    "llama/65B": 65_285_660_672, "llama/2-70B": 68_976_648_192,
    "llama/SmolLM2-135M": 134_515_008,
}
# The same without heads, but with the pooler.
WITHOUT_HEADS = {
    "bert/base": 109_482_240, "bert/large": 335_141_888,
    "albert/base": 11_683_584, "albert/large": 17_683_968, "albert/xlarge": 58_724_864,
    "albert/xxlarge": 222_595_584,
}
SWITCH_BASE = {8: 619_339_008, 16: 1_072_397_568, 32: 1_978_514_688, 64: 3_790_748_928,
               128: 7_415_217_408}
"""Parameters by number of experts in a layer."""

CHINCHILLA = [
    # Hoffmann et al. 2022, table A9: millions of parameters.
    44, 57, 74, 90, 106, 117, 140, 163, 175, 196, 217, 251, 278, 306, 425, 489, 509, 552, 587, 632,
    664, 724, 816, 893, 1018, 1143, 1266, 1424, 1429, 1593, 1609, 1731, 1794, 2007, 2283, 2298,
    2639, 2980, 3530, 3802, 4084, 4516, 6796, 9293, 11452, 12295, 12569, 13735, 14940, 16183,
]


@pytest.mark.parametrize("preset", LANGUAGE_MODELS)
def test_exact(preset):
    assert count_parameters(ModelConfig(preset=preset)).total == LANGUAGE_MODELS[preset]


@pytest.mark.parametrize("preset", WITHOUT_HEADS)
def test_exact_without_heads(preset):
    counted = count_parameters(ModelConfig(preset=preset, tied_head=True))
    heads = sum(size for part, size in counted.parts.items()
                if part.endswith("_head") or part == "vocabulary")
    assert counted.parts["pooler"] > 0
    assert counted.total - heads == WITHOUT_HEADS[preset]


@pytest.mark.parametrize("experts", SWITCH_BASE)
def test_switch_with_other_numbers_of_experts(experts):
    model = ModelConfig(preset="switch/base", experts={"count": experts})
    counted = count_parameters(model)
    assert counted.total == SWITCH_BASE[experts]
    # One expert in place of one feed-forward layer: T5 base and twelve routers.
    assert counted.active == 222_903_552 + 12 * 768 * experts


@pytest.mark.parametrize("millions", CHINCHILLA)
def test_chinchillas_table(millions):
    """Within 0.7%, and from 74M up within 0.25%."""
    counted = count_parameters(ModelConfig(preset=f"chinchilla/{millions}M")).total
    assert counted == pytest.approx(1e6 * millions, rel=0.0025 if millions >= 74 else 0.007)


def test_counting_530_billion_parameters_creates_no_arrays():
    model = ModelConfig(preset="mt-nlg/530B")
    counted = count_parameters(model)
    shapes = jax.eval_shape(lambda: Transformer(model, jax.random.key(0)))
    assert counted.total == sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert counted.total == pytest.approx(530e9, rel=0.002)
    assert forward_flops_per_token(model)["feed_forward"] == 2 * counted.kaplan * 2 / 3

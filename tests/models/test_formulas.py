"""Logits of every variant against the formulas, written down a second time in numpy."""

from __future__ import annotations

from typing import Literal, get_args, get_origin

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scaling.config import ModelConfig
from scaling.config.parts import ExpertsConfig
from tests.models import plain
from tests.models.variants import SMALL, VARIANTS, config_of, make, random_ids


@pytest.mark.parametrize("name", VARIANTS)
def test_logits_are_the_formulas(seen, name):
    """Row 0 holds two documents and padding; row 1 another sequence."""
    v = seen(name)
    for row in (0, 1):
        one, other = jax.tree.map(lambda a, row=row: a[row], (v.tokens, v.source))
        real = one.documents_BT > 0
        expected = plain.logits(v.model, v.config, one, other)
        assert np.ptp(expected[real]) > 1
        np.testing.assert_allclose(v.logits[row][real], expected[real], rtol=2e-4, atol=2e-4)


def test_the_variants_cover_every_option():
    """Each field of ModelConfig has another value than its default somewhere, and each of a few
    choices is made."""
    configs = [config_of(name) for name in VARIANTS]
    for name, field in ModelConfig.model_fields.items():
        if name == "preset":
            continue
        values = {str(getattr(c, name)) for c in configs}
        assert values != {str(field.default)}, name
        for kind in (field.annotation, *get_args(field.annotation)):
            if get_origin(kind) is Literal and name != "attention":
                assert {str(choice) for choice in get_args(kind)} <= values, name
    assert {c.attention_mask for c in configs} == {"full", "causal", "prefix"}
    some = [c.experts for c in configs if c.experts]
    for name, field in ExpertsConfig.model_fields.items():
        assert any(getattr(e, name) != field.default for e in some), name


def test_products_read_bfloat16_and_parameters_stay_float32():
    """Rounding to 8 bits moves logits of order one by some thousandths, and not by more."""
    config, ids = ModelConfig(**SMALL), random_ids(2, 12)
    exact, rounded = (make(config, precision=p) for p in ("float32", "bfloat16"))
    assert {leaf.dtype for leaf in jax.tree.leaves(rounded)} == {jnp.dtype("float32")}
    logits = jax.jit(lambda m: m(ids))(rounded)
    assert logits.dtype == jnp.float32
    assert 1e-4 < np.abs(logits - jax.jit(lambda m: m(ids))(exact)).max() < 0.1


def test_the_seed_decides_the_parameters():
    from scaling.models import Transformer

    config = ModelConfig(**SMALL)
    draw = jax.jit(lambda key: Transformer(config, key).embedding[...])
    a, b, c = (draw(jax.random.key(seed)) for seed in (0, 0, 1))
    assert (a == b).all()
    assert (a != c).all()

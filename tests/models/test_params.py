"""Metadata of parameters: roles, axes and fans."""

from __future__ import annotations

import math

import jax
import pytest
from flax import nnx

from scaling.accounting import count_parameters
from scaling.models import Transformer, count_by_role
from scaling.parallel.mesh import RULES
from tests.models.variants import VARIANTS, config_of

pytestmark = pytest.mark.quick


def params_of(name):
    model = jax.eval_shape(lambda: Transformer(config_of(name), jax.random.key(0)))
    found = jax.tree_util.tree_flatten_with_path(
        model, is_leaf=lambda x: isinstance(x, nnx.Param))[0]
    return model, {jax.tree_util.keystr(path, simple=True, separator="."): param
                   for path, param in found}


@pytest.mark.parametrize("name", VARIANTS)
def test_metadata_describes_the_array(name):
    _, params = params_of(name)
    for path, param in params.items():
        info, shape = param.info, param.shape
        assert len(shape) == len(info.axes) + info.stacked, path
        assert info.stacked == (".kinds." in path), path
        assert {*info.axes} <= {*RULES, None}, path
        if info.role in ("gain", "bias") and path.rsplit(".", 1)[1] != "table":
            assert not info.fan_in, path
            assert not info.fan_out, path
        else:
            axes = sorted([*info.fan_in, *info.fan_out])
            assert info.fan_in, path
            assert info.fan_out, path
            # An axis that is in neither is one of several equal layers, as in experts.
            assert set(axes) <= set(range(len(info.axes))), path
            assert len(axes) == len(set(axes)) >= len(info.axes) - 1, path


@pytest.mark.parametrize("name", VARIANTS)
def test_roles_are_those_that_names_suggest(name):
    _, params = params_of(name)
    for path, param in params.items():
        last = path.split(".")
        if "gain" in last:
            assert param.info.role == "gain", path
        elif any(part.endswith("bias") for part in last):
            assert param.info.role == "bias", path
        elif "positions" in last:
            assert param.info.role == "position", path
        elif last[0] == "embedding" or "types" in last:
            assert param.info.role == "embedding", path
        elif last[-2:] == ["vocabulary", "weight"] or "router" in last:
            assert param.info.role == "readout", path
        else:
            assert param.info.role in ("hidden", "readout"), path


@pytest.mark.parametrize("name", VARIANTS)
def test_roles_add_up_to_the_parameters(name):
    model, _ = params_of(name)
    counts = count_by_role(model)
    assert sum(counts.values()) == count_parameters(config_of(name)).total
    assert counts["hidden"] > 0


_QUERIES, _OUT = ("embed", "heads", None), ("heads", None, "embed")
AXES = {
    "query.weight": _QUERIES, "key.weight": _QUERIES, "value.weight": _QUERIES,
    "query.bias": _QUERIES[1:], "key.bias": _QUERIES[1:], "value.bias": _QUERIES[1:],
    "attention.out.weight": _OUT, "cross.out.weight": _OUT, "attention.out.bias": ("embed",),
    "cross.out.bias": ("embed",), "relative.projection.weight": _QUERIES,
    "content_bias": _QUERIES[1:], "distance_bias": _QUERIES[1:], "relative_bias.table":
    (None, "heads"), "up.weight": ("embed", "ff"), "gate.weight": ("embed", "ff"), "down.weight":
    ("ff", "embed"), "up.bias": ("ff",), "down.bias": ("embed",), "feed_forward.up":
    (None, "embed", "ff"), "feed_forward.gate": (None, "embed", "ff"), "feed_forward.down":
    (None, "ff", "embed"), "up_bias": (None, "ff"), "down_bias": (None, "embed"),
    "embedding": ("vocab", "embed"), "positions": ("vocab", "embed"), "types": ("vocab", "embed"),
    "vocabulary.weight": ("vocab", "embed"), "vocabulary.bias": ("vocab",),
}
"""By the end of a path, the axes that are divided over devices: matrices of attention by heads and
those of the feed-forward layer by its hidden width (Shoeybi et al. 2019, section 3)."""


@pytest.mark.parametrize("name", VARIANTS)
def test_axes_and_fans_are_those_of_the_layer(name):
    config, (_, params) = config_of(name), params_of(name)
    D, F, E = config.d_model, config.ff_width, config.embedding_width
    inputs = config.n_heads * config.head_width
    lengths = {"embed": {D, E}, "heads": {config.n_heads, config.kv_heads}, "ff": {F}}
    fans = {"query.weight": D, "key.weight": D, "value.weight": D, "attention.out.weight": inputs,
            "cross.out.weight": inputs, "up.weight": D, "gate.weight": D, "down.weight": F,
            "feed_forward.up": D, "feed_forward.gate": D, "feed_forward.down": F,
            "vocabulary.weight": E, "router.weight": D, "dense.weight": D,
            "decoder.projection.weight": E, "encoder.projection.weight": E,
            "lm.projection.weight": D, "embedding": config.vocabulary}
    for path, param in params.items():
        info = param.info
        shape = param.shape[info.stacked :]
        for axis, length in zip(info.axes, shape, strict=True):
            assert axis is None or length in lengths.get(axis, {length}), path
        for end, axes in AXES.items():
            if path.endswith(end):
                assert info.axes == axes, path
        for end, fan in fans.items():
            if path.endswith(end):
                assert math.prod(shape[axis] for axis in info.fan_in) == fan, path
                each = {"feed_forward.up", "feed_forward.gate", "feed_forward.down"} & {end}
                whole = math.prod(shape) // (config.experts.count if each else 1)
                assert math.prod(shape[axis] for axis in info.fan_out) == whole // fan, path
        side = path.split(".")[0]
        parts = {"heads": "head", "pooler": "head"}
        assert info.part == parts.get(side, side), path

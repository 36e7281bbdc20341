"""Metadata of parameters: roles, axes and fans."""

from __future__ import annotations

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

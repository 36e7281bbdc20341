"""Small models that together use every option of ModelConfig, and a batch that tells much.

The batch has five rows:

| row | holds                                                          |
|-----|----------------------------------------------------------------|
| 0   | documents A and B packed one after the other, then padding     |
| 1   | A alone, then padding                                          |
| 2   | B alone, then padding                                          |
| 3   | what row 0 holds, with other tokens where the padding is       |
| 4   | nothing but padding                                            |
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from scaling.config import ExecutionConfig, ModelConfig
from scaling.models import Tokens, Transformer

SMALL = {"d_model": 8, "n_layers": 2, "n_heads": 2, "context": 12, "vocab_size": 19}
CONTEXT, SOURCE = SMALL["context"], 10
A, B = 5, 4  # tokens of the two documents
SOURCE_A, SOURCE_B = 3, 5  # and of what an encoder reads of them
ROWS = 5

_BERT = {"mode": "encoder-only", "positions": "learned", "norm": "layer", "norm_place": "post",
         "embedding_norm": True, "use_bias": True}
_TO_AND_FRO = {"mode": "encoder-decoder", "source_context": SOURCE}
VARIANTS = {
    "bert": _BERT | {"activation": "gelu_exact", "n_token_types": 2, "attention_dropout": 0.2,
                     "init": {"std": 0.02, "distribution": "truncated", "residual": "plain"}},
    "albert": _BERT | {"share_layers": "all", "d_embedding": 6, "embedding_projection_bias": True,
                       "n_layers": 3, "scale_embedding": False},
    "local encoder": {"mode": "encoder-only", "attention_pattern": "local", "window": 3,
                      "activation": "relu",
                       "positions": "sinusoidal", "heads": [{"kind": "masked_lm"}]},
    "relative encoder": {"mode": "encoder-only", "positions": "relative", "relative_buckets": 8,
                         "relative_max_distance": 9, "final_norm": False},
    "gpt": {"positions": "learned", "norm": "layer", "use_bias": True, "dropout": 0.1},
    "gpt3": {"attention_pattern": "alternating", "window": 3, "n_layers": 4,
             "positions": "learned"},
    "opt": {"positions": "learned", "position_offset": 2, "activation": "relu", "d_embedding": 6,
            "embedding_projection": "first", "norm": "layer", "norm_place": "post",
            "use_bias": True},
    "palm": {"parallel": "one_norm", "n_kv_heads": 1, "activation": "swiglu", "norm": "layer"},
    "neox": {"parallel": "two_norms", "rotary_fraction": 0.5, "norm": "layer", "use_bias": True,
             "tied_head": False},
    "llama": {"n_heads": 4, "n_kv_heads": 2, "d_head": 4, "activation": "swiglu", "d_ff": 12,
              "tied_head": False, "rotary_base": 100.0, "norm_epsilon": 1e-2},
    "adjacent pairs": {"rotary_pairs": "adjacent", "activation": "squared_relu"},
    "transformer-xl": {"positions": "transformer_xl"},
    "alibi": {"positions": "alibi", "n_heads": 3, "d_head": 2},
    "prefix": {"attention": "prefix", "share_layers": "feed_forward", "positions": "relative",
               "relative_buckets": 8, "relative_max_distance": 9},
    "no norms": {"norm_place": "none", "positions": "none", "final_norm": True,
                 "share_layers": "attention"},
    "experts": {"experts": {"count": 4, "top_k": 2, "every": 1, "capacity": CONTEXT,
                            "renormalise": True, "balance_weight": 0.1, "z_weight": 0.1},
                "activation": "swiglu", "use_bias": True},
    "transformer": _TO_AND_FRO | {"positions": "sinusoidal", "norm": "layer", "use_bias": True,
                                  "norm_place": "post", "activation": "relu",
                                  "n_encoder_layers": 1,
                                  "init": {"distribution": "uniform", "fan": "average"}},
    "t5": _TO_AND_FRO | {"positions": "relative", "relative_buckets": 8, "scale_output": True,
                         "relative_max_distance": 9, "scale_attention": False, "d_head": 3,
                         "activation": "geglu", "scale_embedding": False},
    "switch": _TO_AND_FRO | {"positions": "relative", "activation": "relu",
                             "experts": {"count": 3, "capacity_factor": 9.0}},
}


def config_of(name: str, **changes: object) -> ModelConfig:
    """The configuration of a variant."""
    return ModelConfig(**(SMALL | VARIANTS[name] | changes))


def make(
    config: ModelConfig, execution: ExecutionConfig | None = None, **options: object
) -> Transformer:
    """A model as it is at the start."""
    draw = jax.jit(lambda key: Transformer(config, key, execution=execution, **options))
    return draw(jax.random.key(3))


def filled(config: ModelConfig, execution: ExecutionConfig | None = None) -> Transformer:
    """A model with gains other than one and biases other than zero, drawn with numpy: compiling an
    initialisation takes longer than everything else that is done with a model of this size."""
    empty = jax.eval_shape(
        lambda: Transformer(config, jax.random.key(0), execution=execution))
    draw = np.random.default_rng(1)

    def fill(path: tuple[object, ...], leaf: jax.ShapeDtypeStruct) -> jax.Array:
        noise = 0.4 * draw.standard_normal(leaf.shape)
        return jnp.asarray(noise + ("gain" in jax.tree_util.keystr(path)), jnp.float32)

    return jax.tree_util.tree_map_with_path(fill, empty)


def random_ids(*shape: int, seed: int = 0) -> np.ndarray:
    """Tokens of the small vocabulary."""
    return np.random.default_rng(seed).integers(0, 19, shape).astype(np.int32)


def _packed(length: int, first: int, second: int, seed: int) -> Tokens:
    """The five rows."""
    draw = np.random.default_rng(seed)
    ids, types = draw.integers(0, 19, (ROWS, length)), draw.integers(0, 2, (ROWS, length))
    documents, positions = np.zeros((ROWS, length), int), np.zeros((ROWS, length), int)
    prefix = np.zeros((ROWS, length), bool)
    one, other = (1, first, 0), (2, second, first)
    for row, parts in enumerate(([one, other], [one], [(2, second, 0)], [one, other], [])):
        for number, size, start in parts:
            here, there = slice(start, start + size), slice(*((0, first) if number == 1 else
                                                              (first, first + second)))
            documents[row, here] = number
            positions[row, here] = np.arange(size)
            prefix[row, start : start + 2] = True
            ids[row, here], types[row, here] = ids[0, there], types[0, there]
    whole = [array.astype(np.int32) for array in (ids, documents, positions, types)]
    return Tokens(whole[0], whole[1], whole[2], whole[3], prefix)


def batch_for(config: ModelConfig) -> tuple[Tokens, Tokens | None]:
    """The five rows, and what an encoder reads of them where there is one beside a decoder."""
    tokens = _packed(CONTEXT, A, B, seed=0)
    if config.n_token_types == 0:
        tokens = tokens._replace(types_BT=None)
    if config.mode != "encoder-decoder":
        return tokens, None
    return tokens, _packed(SOURCE, SOURCE_A, SOURCE_B, seed=1)._replace(types_BT=None)


def draws_of(jaxpr) -> int:
    """Number of arrays of random bits that a program draws, inner programs included."""
    found = 0
    for equation in jaxpr.eqns:
        found += equation.primitive.name == "random_bits"
        for inner in jax.core.jaxprs_in_params(equation.params):
            found += draws_of(inner)
    return found

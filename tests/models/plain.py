"""The Transformer written down a second time: numpy, one sequence, one token and one head after the
other, with nothing of scaling.models but a model's parameters. Slow and plain on purpose.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from scaling.config import ModelConfig

Array = np.ndarray


def value(parameter: Any, index: int | None = None) -> Array:
    """A parameter in double precision; of stacked layers, that of one."""
    array = np.asarray(parameter[...], np.float64)
    return array if index is None else array[index]


ACTIVATIONS = {
    "gelu": lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "gelu_exact": lambda x: x * np.vectorize(lambda z: (1 + math.erf(z / math.sqrt(2))) / 2)(x),
    "relu": lambda x: np.maximum(x, 0),
    "squared_relu": lambda x: np.maximum(x, 0) ** 2,
    "swiglu": lambda x: x / (1 + np.exp(-x)),
}
ACTIVATIONS["geglu"] = ACTIVATIONS["gelu"]


def linear(layer: Any, x: Array, index: int | None = None) -> Array:
    """x W + b, with all that goes in and all that comes out laid flat."""
    y = x @ value(layer.weight, index).reshape(x.shape[-1], -1)
    return y if layer.bias is None else y + value(layer.bias, index).reshape(-1)


def norm(config: ModelConfig, layer: Any, x: Array, index: int | None = None) -> Array:
    if layer is None:
        return x
    if config.norm == "layer":
        x = x - x.mean(-1, keepdims=True)
    x = x / np.sqrt((x**2).mean(-1, keepdims=True) + config.norm_epsilon) * value(layer.gain, index)
    return x if layer.bias is None else x + value(layer.bias, index)


def sines(place: float, width: int) -> Array:
    """Vaswani et al. 2017, section 3.5, one number after the other."""
    return np.array([
        (math.sin if i % 2 == 0 else math.cos)(place / 10_000 ** ((i - i % 2) / width))
        for i in range(width)
    ])


def turn(config: ModelConfig, x: Array, place: int) -> Array:
    """Rotary positions, pair by pair (Su et al. 2021, eq. 15)."""
    x, width = x.copy(), int(config.rotary_fraction * len(x)) // 2 * 2
    for i in range(width // 2):
        a, b = (i, i + width // 2) if config.rotary_pairs == "halves" else (2 * i, 2 * i + 1)
        angle = place / config.rotary_base ** (2 * i / width)
        x[a], x[b] = (x[a] * math.cos(angle) - x[b] * math.sin(angle),
                      x[b] * math.cos(angle) + x[a] * math.sin(angle))
    return x


def bucket(back: int, buckets: int, longest: int, both_ways: bool) -> int:
    """T5's bucket of a distance, in whole numbers: of n buckets for distances from `exact` on, the
    k-th begins where (back / exact)^n reaches (longest / exact)^k."""
    if both_ways:
        half = buckets // 2
        return bucket(abs(back), half, longest, False) + (half if back < 0 else 0)
    exact = buckets // 2
    if back < exact:
        return max(back, 0)
    n = buckets - exact
    begun = [k for k in range(n) if back**n * exact**k >= longest**k * exact**n]
    return exact + max(begun)


def slope(heads: int, head: int) -> float:
    """ALiBi's rate: a geometric series from 2^(-8/n), and for a number of heads that is no power of
    two those of the power below, then every other one of twice as many."""
    power = 1
    while 2 * power <= heads:
        power *= 2
    if head < power:
        return 2 ** (-8 / power * (head + 1))
    return 2 ** (-8 / (2 * power) * (2 * (head - power) + 1))


def may_see(config: ModelConfig, side: str, layer: int, tokens: Any, t: int, s: int) -> bool:
    """Whether position t of a sequence sees position s in a layer; `tokens` is of one sequence."""
    sees = "full" if side == "encoder" else config.attention_mask
    alternating = config.attention_pattern == "alternating" and layer % 2 == 1
    if (config.attention_pattern == "local" or alternating) and abs(t - s) >= config.window:
        return False
    if tokens.documents_BT[t] != tokens.documents_BT[s] or tokens.documents_BT[s] == 0:
        return False
    return sees == "full" or s <= t or (sees == "prefix" and bool(tokens.prefix_BT[s]))


def score(config: ModelConfig, tower: Any, attention: Any, index: int | None, q: Array, k: Array,
          t: int, s: int, head: int, side: str) -> float:
    """The logit of key s for query t of one head, without the mask."""
    scale = 1 / math.sqrt(len(q)) if config.scale_attention else 1.0
    if config.positions == "rotary":
        q, k = turn(config, q, t), turn(config, k, s)
    if config.positions == "transformer_xl" and s <= t:
        extra = attention.relative
        far = sines(t - s, config.d_model) @ value(extra.projection.weight, index)[:, head]
        return scale * float((q + value(extra.content_bias, index)[head]) @ k
                             + (q + value(extra.distance_bias, index)[head]) @ far)
    bias = 0.0
    if config.positions == "alibi":
        bias = -slope(config.n_heads, head) * abs(t - s)
    if config.positions == "relative":
        place = bucket(t - s, config.relative_buckets, config.relative_max_distance,
                       side == "encoder")
        bias = value(tower.relative_bias.table)[place, head]
    return scale * float(q @ k) + bias


def attend(config: ModelConfig, attention: Any, index: int | None, x: Array, memory: Array,
           sees: Any, scores: Any) -> Array:
    """Multi-head attention; who sees nothing gets the mean of everything."""
    H, G, K = config.n_heads, config.kv_heads, config.head_width
    q = linear(attention.query, x, index).reshape(len(x), H, K)
    k = linear(attention.key, memory, index).reshape(len(memory), G, K)
    v = linear(attention.value, memory, index).reshape(len(memory), G, K)
    mixed = np.zeros((len(x), H, K))
    for t in range(len(x)):
        seen = [s for s in range(len(memory)) if sees(t, s)]
        for head in range(H):
            group = head // (H // G)
            if not seen:
                mixed[t, head] = v[:, group].mean(axis=0)
                continue
            logit = np.array([scores(q[t, head], k[s, group], t, s, head) for s in seen])
            weight = np.exp(logit - logit.max())
            mixed[t, head] = weight / weight.sum() @ v[seen, group]
    return linear(attention.out, mixed.reshape(len(x), H * K), index)


def feed_forward(config: ModelConfig, layer: Any, index: int | None, x: Array) -> Array:
    f, up = ACTIVATIONS[config.activation], linear(layer.up, x, index)
    return linear(layer.down, f(linear(layer.gate, x, index)) * up if config.gated else f(up),
                  index)


def route(config: ModelConfig, chance: Array) -> tuple[list[tuple[int, int, float]], int]:
    """Assignments (token, expert, gate) that found room, and how many did not: in the order of the
    sequence, each token's first choice before its second.

    Args:
        config: the model.
        chance: the router's probabilities [token, expert].
    """
    e = config.experts
    assert e is not None
    T = len(chance)
    room = min(T, e.capacity or math.ceil(e.capacity_factor * e.top_k * T / e.count))
    taken, kept, dropped = [0] * e.count, [], 0
    for t in range(T):
        order = sorted(range(e.count), key=lambda i, t=t: (-chance[t, i], i))
        for expert in order[: e.top_k]:
            if taken[expert] == room:
                dropped += 1
                continue
            taken[expert] += 1
            total = sum(chance[t, i] for i in order[: e.top_k]) if e.renormalise else 1
            kept.append((t, expert, chance[t, expert] / total))
    return kept, dropped


def experts(config: ModelConfig, layer: Any, index: int | None, x: Array) -> Array:
    """Routed feed-forward layers."""
    logit = linear(layer.router, x, index)
    chance = np.exp(logit - logit.max(-1, keepdims=True))
    chance = chance / chance.sum(-1, keepdims=True)
    f, y = ACTIVATIONS[config.activation], np.zeros_like(x)
    for t, e, gate in route(config, chance)[0]:
        up = x[t] @ value(layer.up, index)[e]
        up = up if layer.up_bias is None else up + value(layer.up_bias, index)[e]
        h = f(x[t] @ value(layer.gate, index)[e]) * up if config.gated else f(up)
        out = h @ value(layer.down, index)[e]
        y[t] += gate * (out if layer.down_bias is None else out + value(layer.down_bias, index)[e])
    return y


def tower(config: ModelConfig, part: Any, x: Array, tokens: Any, side: str,
          memory: Array | None = None, source: Any = None) -> Array:
    """One side of a model: from vectors of tokens to hidden states."""
    if part.projection is not None and config.embedding_projection == "first":
        x = linear(part.projection, x)
    places = tokens.positions_BT
    if config.positions == "learned":
        x = x + value(part.positions)[places + config.position_offset]
    if config.positions == "sinusoidal":
        x = x + np.stack([sines(place, x.shape[1]) for place in places])
    if config.n_token_types:
        x = x + value(part.types)[tokens.types_BT]
    x = norm(config, part.embedding_norm, x)
    if part.projection is not None and config.embedding_projection == "last":
        x = linear(part.projection, x)
    stack = part.layers
    for layer in range(stack.n_layers):
        own, index = stack.kinds[layer % config.period], layer // config.period

        def find(name: str, own: Any = own, index: int = index) -> tuple[Any, int | None]:
            mine = getattr(own, name)
            return (mine, index) if mine is not None else (getattr(stack.shared, name, None), None)

        def attention(h: Array, layer: int = layer, find: Any = find) -> Array:
            module, i = find("attention")
            return attend(config, module, i, h, h,
                          lambda t, s: may_see(config, side, layer, tokens, t, s),
                          lambda q, k, t, s, head: score(config, part, module, i, q, k, t, s, head,
                                                         side))

        def cross(h: Array, find: Any = find) -> Array:
            module, i = find("cross")
            scale = 1 / math.sqrt(config.head_width) if config.scale_attention else 1.0
            return attend(config, module, i, h, memory,
                          lambda t, s: tokens.documents_BT[t] == source.documents_BT[s] > 0,
                          lambda q, k, t, s, head: scale * float(q @ k))

        def wide(h: Array, layer: int = layer, find: Any = find) -> Array:
            module, i = find("feed_forward")
            routed = config.experts is not None and (layer + 1) % config.experts.every == 0
            return (experts if routed else feed_forward)(config, module, i, h)

        if config.parallel != "no":
            a = norm(config, find("attention_norm")[0], x, find("attention_norm")[1])
            other = find("feed_forward_norm")
            b = a if config.parallel == "one_norm" else norm(config, other[0], x, other[1])
            x = x + attention(a) + wide(b)
            continue
        branches = [("attention_norm", attention), ("feed_forward_norm", wide)]
        if memory is not None:
            branches.insert(1, ("cross_norm", cross))
        for name, branch in branches:
            layer_norm, i = find(name)
            if config.norm_place == "post":
                x = norm(config, layer_norm, x + branch(x), i)
            else:
                x = x + branch(norm(config, layer_norm, x, i))
    return norm(config, part.norm, x)


def logits(model: Any, config: ModelConfig, tokens: Any, source: Any = None) -> Array:
    """Logits over the vocabulary of one sequence [T, V]; `tokens` and `source` hold its row."""
    def embed(ids: Array) -> Array:
        factor = math.sqrt(config.d_model) if config.scale_embedding else 1.0
        return factor * value(model.embedding)[ids]

    memory = None
    if config.mode == "encoder-decoder":
        memory = tower(config, model.encoder, embed(source.ids_BT), source, "encoder")
    side = "encoder" if config.mode == "encoder-only" else "decoder"
    part = model.encoder if side == "encoder" else model.decoder
    x = tower(config, part, embed(tokens.ids_BT), tokens, side, memory, source)
    if side == "encoder":
        head = model.heads["masked_lm"]
        x = norm(config, head.norm, ACTIVATIONS[config.activation](linear(head.dense, x)))
    else:
        head = model.heads["lm"]
        x = x if head.projection is None else linear(head.projection, x)
        x = x / math.sqrt(config.d_model) if config.scale_output else x
    table = model.embedding if config.tied_head else head.vocabulary.weight
    y = x @ value(table).T
    return y if head.vocabulary.bias is None else y + value(head.vocabulary.bias)

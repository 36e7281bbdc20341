"""A GGUF file as llama.cpp's converter writes it, read back: weights, configuration, tokenizer."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scaling.errors import UserError
from scaling.interop.gguf import _config, _tokenizer, from_gguf
from scaling.interop.gguf_file import read_gguf
from scaling.models import Transformer

gguf = pytest.importorskip("gguf", reason="needs the gguf library: pip install 'scaling[interop]'")
tokenizers = pytest.importorskip("tokenizers")

V, D, F, H, KV, LAYERS, CONTEXT, BASE, EPSILON = 300, 32, 64, 4, 2, 2, 16, 5_000.0, 1e-5
K = D // H


def random_tensors(tied: bool) -> dict[str, np.ndarray]:
    """Weights under GGUF's names, [out, in]. Rotary pairs in GGUF are (2i, 2i + 1)."""
    draw = np.random.default_rng(0)
    shapes = {"token_embd.weight": (V, D), "output_norm.weight": (D,)}
    if not tied:
        shapes["output.weight"] = (V, D)
    for layer in range(LAYERS):
        shapes |= {f"blk.{layer}.{name}.weight": shape for name, shape in {
            "attn_norm": (D,), "attn_q": (D, D), "attn_k": (KV * K, D), "attn_v": (KV * K, D),
            "attn_output": (D, D), "ffn_norm": (D,), "ffn_gate": (F, D), "ffn_up": (F, D),
            "ffn_down": (D, F)}.items()}
    return {name: draw.normal(size=shape).astype(np.float32) / 3 for name, shape in shapes.items()}


def write(path, tensors, pre="gpt-2", arch="llama", quantised=None, **more):
    """The file, written with the format's own library."""
    writer = gguf.GGUFWriter(path, arch)
    writer.add_embedding_length(D)
    writer.add_feed_forward_length(F)
    writer.add_block_count(LAYERS)
    writer.add_head_count(H)
    writer.add_head_count_kv(KV)
    writer.add_context_length(CONTEXT)
    writer.add_layer_norm_rms_eps(EPSILON)
    writer.add_rope_freq_base(BASE)
    writer.add_rope_dimension_count(K)
    tokens, merges = vocabulary()
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_merges(merges)
    writer.add_token_types([3 if token.startswith("<|") else 1 for token in tokens])
    for name, value in more.items():
        getattr(writer, name)(value)
    for name, values in tensors.items():
        if quantised is not None and values.ndim == 2:
            packed = gguf.quantize(values, quantised)
            writer.add_tensor(name, packed, raw_dtype=quantised)
        else:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def vocabulary() -> tuple[list[str], list[str]]:
    """A control token, the bytes as GPT-2 writes them, and a few merges, up to V tokens."""
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    merges = ["t h", "th e", "Ġ the", "1 2", "' s"]
    tokens = ["<|end|>", *letters, *(merge.replace(" ", "") for merge in merges)]
    return tokens + [f"<|unused{i}|>" for i in range(V - len(tokens))], merges


def reference(tensors: dict[str, np.ndarray], ids: np.ndarray) -> np.ndarray:
    """Llama's equations in numpy, float64, for one sequence [T], with adjacent rotary pairs."""
    t = {name: values.astype(np.float64) for name, values in tensors.items()}

    def rms(x, gain):
        return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + EPSILON) * gain

    def turn(x_THK):
        angle = np.arange(len(ids))[:, None, None] * BASE ** (-np.arange(0, K, 2) / K)
        as_complex = x_THK[..., 0::2] + 1j * x_THK[..., 1::2]
        turned = as_complex * np.exp(1j * angle)
        return np.stack([turned.real, turned.imag], axis=-1).reshape(x_THK.shape)

    x = t["token_embd.weight"][ids]
    for layer in range(LAYERS):
        w = {name.split(".")[2]: v for name, v in t.items() if name.startswith(f"blk.{layer}.")}
        h = rms(x, w["attn_norm"])
        q = turn((h @ w["attn_q"].T).reshape(-1, H, K))
        k = turn((h @ w["attn_k"].T).reshape(-1, KV, K)).repeat(H // KV, axis=1)
        v = (h @ w["attn_v"].T).reshape(-1, KV, K).repeat(H // KV, axis=1)
        scores = np.einsum("thk,shk->hts", q, k) / np.sqrt(K)
        scores[:, np.triu(np.ones((len(ids), len(ids)), bool), 1)] = -np.inf
        weight = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weight /= weight.sum(axis=-1, keepdims=True)
        x = x + np.einsum("hts,shk->thk", weight, v).reshape(-1, D) @ w["attn_output"].T
        h = rms(x, w["ffn_norm"])
        gate = h @ w["ffn_gate"].T
        x = x + (gate / (1 + np.exp(-gate)) * (h @ w["ffn_up"].T)) @ w["ffn_down"].T
    return rms(x, t["output_norm.weight"]) @ t.get("output.weight", t["token_embd.weight"]).T


IDS = np.random.default_rng(1).integers(0, V, (2, 12))


def logits(model: Transformer) -> np.ndarray:
    return np.asarray(jax.jit(lambda model, ids: model(ids))(model, jnp.asarray(IDS)))


@pytest.mark.parametrize("tied", [True, False])
def test_the_file_gives_llamas_logits(tmp_path, tied):
    tensors = random_tensors(tied)
    model, config, _ = from_gguf(write(tmp_path / "m.gguf", tensors))
    expected = np.stack([reference(tensors, ids) for ids in IDS])
    np.testing.assert_allclose(logits(model), expected, atol=1e-4, rtol=0)
    assert (config.tied_head, config.kv_heads, config.context) == (tied, KV, CONTEXT)
    assert (config.rotary_base, config.norm_epsilon) == (BASE, pytest.approx(EPSILON))
    assert (config.vocab_size, config.d_ff, config.head_width) == (V, F, K)


def test_quantised_weights_are_those_that_the_format_defines(tmp_path):
    """Q8_0: blocks of 32 numbers, each a signed byte times the block's half-precision scale."""
    tensors = random_tensors(tied=True)
    path = write(tmp_path / "m.gguf", tensors, quantised=gguf.GGMLQuantizationType.Q8_0)
    rounded = {}
    for name, values in tensors.items():
        if values.ndim == 1:
            rounded[name] = values
            continue
        blocks = values.reshape(-1, 32)
        scale = np.abs(blocks).max(axis=1, keepdims=True) / 127
        rounded[name] = (np.round(blocks / scale) * scale.astype(np.float16)).reshape(values.shape)
    expected = np.stack([reference(rounded, ids) for ids in IDS])
    np.testing.assert_allclose(logits(from_gguf(path)[0]), expected, atol=2e-3, rtol=0)


@pytest.mark.parametrize(
    ("pre", "text", "pieces"),
    [
        ("gpt-2", "the the's 12", ["the", "Ġthe", "'s", "Ġ", "12"]),
        ("smollm", "the 12", ["the", "Ġ", "1", "2"]),
        ("llama-bpe", "the 12", ["the", "Ġ", "12"]),
        ("gpt-2", "é<|end|>the", ["Ã", "©", "<|end|>", "the"]),
    ],
)
def test_the_tokenizer_merges_within_the_pieces_of_its_kind(tmp_path, pre, text, pieces):
    tokenizer = from_gguf(write(tmp_path / "m.gguf", random_tensors(True), pre=pre))[2]
    encoded = tokenizer.encode(text)
    assert encoded.tokens == pieces
    assert encoded.ids == [vocabulary()[0].index(piece) for piece in pieces]
    assert tokenizer.decode(encoded.ids, skip_special_tokens=False) == text


def test_a_bos_token_is_added_if_the_file_has_the_setting(tmp_path):
    for added in (True, False):
        path = write(tmp_path / "m.gguf", random_tensors(True), add_bos_token_id=0,
                     add_add_bos_token=added)
        fields, _ = read_gguf(path)
        found = _tokenizer(path, fields).encode("the").tokens
        assert found == ["<|end|>"] * added + ["the"]


def written_instead(monkeypatch, name, value):
    """Let the writer of the file write another value for one of its settings."""
    add = getattr(gguf.GGUFWriter, name)
    monkeypatch.setattr(gguf.GGUFWriter, name, lambda writer, _: add(writer, value))


@pytest.mark.parametrize(("pre", "pieces"), [
    ("llama-bpe", ["Ġlove", "Ġthe"]), ("gpt-2", ["Ġ", "l", "o", "v", "e", "Ġthe"])])
def test_a_word_that_no_merges_make_is_a_token_for_llama_3_alone(
        tmp_path, monkeypatch, pre, pieces):
    written_instead(monkeypatch, "add_token_list", [*vocabulary()[0][:-1], "Ġlove"])
    path = write(tmp_path / "m.gguf", random_tensors(True), pre=pre)
    assert _tokenizer(path, read_gguf(path)[0]).encode(" love the").tokens == pieces


def test_tokens_that_a_user_defined_are_no_special_ones(tmp_path, monkeypatch):
    """Both are matched before text is split; only control tokens are left out of decoded text."""
    tokens, _ = vocabulary()
    written_instead(monkeypatch, "add_token_types", [
        4 if token == "<|unused0|>" else 3 if token.startswith("<|") else 1 for token in tokens])
    path = write(tmp_path / "m.gguf", random_tensors(True))
    tokenizer = _tokenizer(path, read_gguf(path)[0])
    ids = tokenizer.encode("the<|unused0|><|end|>the").ids
    assert [tokens[i] for i in ids] == ["the", "<|unused0|>", "<|end|>", "the"]
    assert tokenizer.decode(ids) == "the<|unused0|>the"


def test_what_a_file_leaves_out_is_what_llama_cpp_takes_then():
    """As many heads of keys as of queries, the base 10,000, and d_model / heads for a width."""
    given = {"general.architecture": "llama"} | {f"llama.{name}": number for name, number in {
        "embedding_length": 32, "feed_forward_length": 64, "block_count": 2,
        "attention.head_count": 4, "context_length": 16,
        "attention.layer_norm_rms_epsilon": 1e-5}.items()}
    tensors = {"token_embd.weight": np.zeros((300, 32), np.float32)}
    config = _config("m.gguf", given, tensors)
    assert config == {
        "vocab_size": 300, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 16,
        "rms_norm_eps": 1e-5, "rope_theta": 10_000.0, "hidden_act": "silu",
        "tie_word_embeddings": True}
    more = given | {"llama.attention.key_length": 16, "llama.rope.dimension_count": 16,
                    "llama.attention.head_count_kv": 2, "llama.rope.freq_base": 5e5}
    found = _config("m.gguf", more, tensors)
    assert (found["head_dim"], found["num_key_value_heads"], found["rope_theta"]) == (16, 2, 5e5)
    for name in given.keys() - {"general.architecture"}:
        fewer = {key: value for key, value in given.items() if key != name}
        with pytest.raises(UserError, match=f"lacks {name}" if "count" not in name else "lacks"):
            _config("m.gguf", fewer, tensors)
    with pytest.raises(UserError, match="scaled"):
        _config("m.gguf", given, tensors | {"rope_freqs.weight": np.ones(4)})
    no_experts = given | {"llama.expert_count": 0, "llama.rope.scaling.type": "none"}
    assert _config("m.gguf", no_experts, tensors) == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arch": "qwen2"}, "its architecture is qwen2"),
        ({"pre": "deepseek-llm"}, "with the pre-tokenizer deepseek-llm"),
        ({"add_expert_count": 8}, "routed experts"),
        ({"add_rope_scaling_type": gguf.RopeScalingType.YARN}, "rotary wavelengths are scaled"),
        ({"add_rope_dimension_count": 4}, "only a part of each head"),
    ],
)
def test_a_model_that_cannot_be_read_is_named(tmp_path, changes, message):
    path = write(tmp_path / "m.gguf", random_tensors(True), **changes)
    with pytest.raises(UserError, match=message):
        from_gguf(path)


def test_a_tensor_too_many_or_too_few_is_named(tmp_path):
    tensors = random_tensors(True)
    more = write(tmp_path / "more.gguf", tensors | {"blk.0.attn_q.bias": np.ones(D, np.float32)})
    with pytest.raises(UserError, match=r"blk\.0\.attn_q\.bias"):
        from_gguf(more)
    del tensors["blk.1.ffn_up.weight"]
    with pytest.raises(UserError, match=r"layers\.1\.mlp\.up_proj\.weight"):
        from_gguf(write(tmp_path / "less.gguf", tensors))


def test_a_tokenizer_without_merges_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(gguf.GGUFWriter, "add_token_merges", lambda writer, merges: None)
    with pytest.raises(UserError, match="lacks tokens or merges"):
        from_gguf(write(tmp_path / "m.gguf", random_tensors(True)))


def test_files_that_are_no_gguf(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        from_gguf(tmp_path / "none.gguf")
    text = tmp_path / "text.gguf"
    text.write_text("this is no model " * 9)
    with pytest.raises(UserError, match="not a valid GGUF file"):
        from_gguf(text)

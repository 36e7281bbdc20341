"""Models of the Llama architecture and their tokenizers from GGUF, the file format of llama.cpp.

The file is read by `scaling.interop.gguf_file` and converted here to a Hugging Face configuration
and state dict, which are then converted like all others (scaling.interop.convert).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from scaling.config import ExecutionConfig, ModelConfig
from scaling.errors import UserError
from scaling.files import named
from scaling.interop.gguf_file import MISSING_LIBRARIES, read_gguf
from scaling.interop.hf import from_tensors
from scaling.interop.settings import number, positive_integer
from scaling.models import Transformer

if TYPE_CHECKING:
    import tokenizers

TENSORS = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
LAYER_TENSORS = {
    "attn_norm.weight": "input_layernorm.weight",
    "attn_q.weight": "self_attn.q_proj.weight",
    "attn_k.weight": "self_attn.k_proj.weight",
    "attn_v.weight": "self_attn.v_proj.weight",
    "attn_output.weight": "self_attn.o_proj.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
    "ffn_gate.weight": "mlp.gate_proj.weight",
    "ffn_up.weight": "mlp.up_proj.weight",
    "ffn_down.weight": "mlp.down_proj.weight",
}
"""Names in GGUF, after `blk.LAYER.`, and in LlamaForCausalLM, after `model.layers.LAYER.`."""

FIELDS = {
    "vocab_size": "{arch}.vocab_size",
    "hidden_size": "{arch}.embedding_length",
    "intermediate_size": "{arch}.feed_forward_length",
    "num_hidden_layers": "{arch}.block_count",
    "num_attention_heads": "{arch}.attention.head_count",
    "num_key_value_heads": "{arch}.attention.head_count_kv",
    "head_dim": "{arch}.attention.key_length",
    "max_position_embeddings": "{arch}.context_length",
    "rms_norm_eps": "{arch}.attention.layer_norm_rms_epsilon",
    "rope_theta": "{arch}.rope.freq_base",
}
"""Names of settings in LlamaConfig and in GGUF."""
DEFAULTS = {"num_key_value_heads": "num_attention_heads"}
LLAMA, ARCHITECTURE = "llama", "LlamaForCausalLM"
ROPE_THETA = 10_000.0
"""Base of the rotary wavelengths if a file does not give it."""

GPT2_SPLIT = (
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
)
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPLIT_PATTERNS: dict[str, tuple[str, ...]] = {
    "gpt-2": (GPT2_SPLIT,), "smollm": (r"\p{N}", GPT2_SPLIT), "llama-bpe": (LLAMA3_SPLIT,),
}
"""Regular expressions that split text before merging, by tokenizer.ggml.pre. Each expression splits
the pieces of the previous one, and no token extends over a split."""
WHOLE_WORDS = {"llama-bpe"}
"""Pre-tokenizers for which a piece that is a token is not merged."""
CONTROL, USER_DEFINED = 3, 4
"""Kinds in tokenizer.ggml.token_type that are matched in text before it is split."""


def from_gguf(
    path: str | Path, *, precision: str = "float32", execution: ExecutionConfig | None = None
) -> tuple[Transformer, ModelConfig, tokenizers.Tokenizer]:
    """Load a model of the Llama architecture, its configuration and its tokenizer.

    Args:
        path: the file; quantised weights are converted to float32.
        precision: type of the operands of matrix products, "float32" or "bfloat16".
        execution: scanned or unrolled layers, with or without rematerialisation.

    Raises:
        UserError: the libraries are missing, the file is damaged, or it has another architecture or
            kind of tokenizer.
    """
    try:
        fields, tensors = read_gguf(Path(path))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; give a .gguf file") from None
    config = _config(path, fields, tensors)
    weights = _llama(path, tensors, config)
    with named(path):
        model, ours = from_tensors(
            ARCHITECTURE, config, weights, precision=precision, execution=execution)
    return model, ours, _tokenizer(path, fields)


def _config(
    path: str | Path, fields: dict[str, Any], tensors: dict[str, NDArray[np.float32]]
) -> dict[str, Any]:
    """The settings of Hugging Face's LlamaConfig."""
    arch = fields.get("general.architecture")
    if arch != LLAMA:
        raise UserError(f"{path}: its architecture is {arch!s:.100}, and only {LLAMA} is "
                        "supported; give a file of that architecture")
    _check_numbers(path, fields)
    scaled = fields.get(f"{arch}.rope.scaling.type", "none") != "none"
    if scaled or "rope_freqs.weight" in tensors:
        raise UserError(f"{path}: its rotary wavelengths are scaled (rope.scaling), which is not "
                        "supported; give a file without rope.scaling")
    if fields.get(f"{arch}.expert_count", 0):
        raise UserError(f"{path}: it has routed experts; give a dense model of the same family")
    found = {ours: fields.get(theirs.format(arch=arch)) for ours, theirs in FIELDS.items()}
    config = {name: value for name, value in found.items() if value is not None}
    for name, other in DEFAULTS.items():
        config.setdefault(name, config.get(other))
    config.setdefault("rope_theta", ROPE_THETA)
    if "token_embd.weight" in tensors:
        config["vocab_size"] = len(tensors["token_embd.weight"])
    missing = FIELDS.keys() - config.keys() - {"head_dim"}
    if missing:
        names = ", ".join(sorted(FIELDS[name].format(arch=arch) for name in missing))
        raise UserError(f"{path}: it lacks {names}, without which its shape is unknown; convert "
                        "the model again with llama.cpp")
    width = config.get("head_dim", config["hidden_size"] // config["num_attention_heads"])
    if fields.get(f"{arch}.rope.dimension_count", width) != width:
        raise UserError(f"{path}: only a part of each head is rotated, which is not supported for "
                        "Llama; give another file")
    return config | {
        "hidden_act": "silu",
        "tie_word_embeddings": "output.weight" not in tensors,
    }


def _check_numbers(path: str | Path, fields: dict[str, Any]) -> None:
    """Check that the settings of the model are numbers.

    Raises:
        UserError: one of them is not.
    """
    names = [*FIELDS.values(), "{arch}.rope.dimension_count", "{arch}.expert_count"]
    found = {name: fields[name] for name in (each.format(arch=LLAMA) for each in names)
             if name in fields}
    try:
        for name, value in found.items():
            if name.endswith(("epsilon", "freq_base")):
                number(found, name, largest=1e30)
            elif name.endswith("expert_count") and value == 0 and value is not False:
                continue
            else:
                positive_integer(found, name)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _llama(
    path: str | Path, tensors: dict[str, NDArray[np.float32]], config: dict[str, Any]
) -> dict[str, NDArray[np.float32]]:
    """The tensors under the names of LlamaForCausalLM, with its order of rotary dimensions."""
    heads = {"attn_q.weight": config["num_attention_heads"],
             "attn_k.weight": config["num_key_value_heads"]}
    state, unknown = {}, []
    for name, values in tensors.items():
        blk, layer, tail = (*name.split(".", 2), "", "")[:3]
        if name in TENSORS:
            state[TENSORS[name]] = values
        elif blk == "blk" and tail in LAYER_TENSORS:
            if tail in heads:
                if values.ndim != 2 or len(values) % (2 * heads[tail]):
                    raise UserError(f"{path}: {name:.100} has the shape {list(values.shape)}, "
                                    f"which is not that of {heads[tail]:,} heads; convert the "
                                    "model again with llama.cpp")
                values = _to_halves(values, heads[tail])
            state[f"model.layers.{layer}.{LAYER_TENSORS[tail]}"] = values
        else:
            unknown.append(name)
    if unknown:
        named = ", ".join(f"{name:.100}" for name in unknown[:4])
        raise UserError(f"{path}: {named} are not tensors of a supported Llama, so the model would "
                        "differ from the one in the file; give another model")
    return state


def _to_halves(weight: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Convert a weight from rotary pairs (2i, 2i + 1), as in llama.cpp, to (i, i + half). Rows are
    permuted within each head, which leaves every product of a query and a key unchanged."""
    rows, columns = weight.shape
    pairs = weight.reshape(heads, rows // heads // 2, 2, columns)
    return pairs.swapaxes(1, 2).reshape(rows, columns)


def _tokenizer(path: str | Path, fields: dict[str, Any]) -> tokenizers.Tokenizer:
    """The byte-level BPE of a file, from its tokens and merges."""
    try:
        from tokenizers import (
            AddedToken,
            Regex,
            Tokenizer,
            decoders,
            models,
            pre_tokenizers,
            processors,
        )
    except ImportError:
        raise UserError(MISSING_LIBRARIES) from None
    kind, pre = (fields.get(f"tokenizer.ggml.{name}") for name in ("model", "pre"))
    if kind != "gpt2" or not isinstance(pre, str) or pre not in SPLIT_PATTERNS:
        raise UserError(f"{path}: its tokenizer is {kind!s:.100} with the pre-tokenizer "
                        f"{pre!s:.100}, and only byte-level BPE (gpt2) with one of "
                        f"{', '.join(SPLIT_PATTERNS)} is supported; give another file")
    tokens, merges = _vocabulary(path, fields)
    tokenizer = Tokenizer(models.BPE(
        {token: number for number, token in enumerate(tokens)}, merges,
        ignore_merges=pre in WHOLE_WORDS,
    ))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        *(pre_tokenizers.Split(Regex(piece), "isolated") for piece in SPLIT_PATTERNS[pre]),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    kinds = fields.get("tokenizer.ggml.token_type", [])
    if not isinstance(kinds, list):
        raise _not_a_tokenizer(path)
    tokenizer.add_tokens([
        AddedToken(token, special=kind == CONTROL, normalized=False)
        for token, kind in zip(tokens, kinds, strict=False)
        if token and kind in (CONTROL, USER_DEFINED)
    ])
    if fields.get("tokenizer.ggml.add_bos_token", False):
        bos = fields.get("tokenizer.ggml.bos_token_id")
        if type(bos) is not int or not 0 <= bos < len(tokens):
            raise _not_a_tokenizer(path)
        try:
            tokenizer.post_processor = processors.TemplateProcessing(
                single=f"{tokens[bos]} $0", special_tokens=[(tokens[bos], bos)])
        except ValueError:  # the token has a special meaning in a template
            raise _not_a_tokenizer(path) from None
    return tokenizer


def _vocabulary(
    path: str | Path, fields: dict[str, Any]
) -> tuple[list[str], list[tuple[str, str]]]:
    """The tokens by id, and the pairs of tokens that are merged.

    Raises:
        UserError: they are missing, or do not belong together.
    """
    tokens, merges = (fields.get(f"tokenizer.ggml.{name}") for name in ("tokens", "merges"))
    if not all(isinstance(listed, list) and all(isinstance(each, str) for each in listed)
               for listed in (tokens, merges)):
        raise _not_a_tokenizer(path)
    assert tokens is not None
    assert merges is not None
    pairs = [(first, second) for first, _, second in (merge.partition(" ") for merge in merges)]
    known = set(tokens)
    if not all(known.issuperset((first, second, first + second)) for first, second in pairs):
        raise _not_a_tokenizer(path)
    return tokens, pairs


def _not_a_tokenizer(path: str | Path) -> UserError:
    return UserError(f"{path}: its tokenizer lacks tokens or merges, or they do not belong "
                     "together; convert the model again with llama.cpp")

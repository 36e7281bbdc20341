"""Models of the Llama architecture, and their tokenizers, from GGUF: the one file of llama.cpp.

The format is described in github.com/ggml-org/ggml, docs/gguf.md. Its library `gguf` reads the file
and dequantises; what is left here is names. A file becomes a Hugging Face configuration and state
dict, and those go the way that all others go (scaling.interop.convert).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from scaling.config import ExecutionConfig, ModelConfig
from scaling.errors import UserError
from scaling.interop.hf import from_tensors
from scaling.models import Transformer

if TYPE_CHECKING:
    import tokenizers

NEEDS = "reading GGUF needs the gguf and tokenizers libraries; pip install 'scaling[interop]'"

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
"""Names in LlamaConfig and in GGUF."""
DEFAULTS = {"num_key_value_heads": "num_attention_heads"}
LLAMA, ARCHITECTURE = "llama", "LlamaForCausalLM"
ROPE_THETA = 10_000.0
"""What a file means that does not say."""

GPT2_PIECES = (
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
)
LLAMA3_PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PIECES: dict[str, tuple[str, ...]] = {
    "gpt-2": (GPT2_PIECES,), "smollm": (r"\p{N}", GPT2_PIECES), "llama-bpe": (LLAMA3_PIECES,),
}
"""How text is cut before merging, by tokenizer.ggml.pre: each expression cuts what the one before
left, and no token spans a cut."""
WHOLE_WORDS = {"llama-bpe"}
"""Where a piece that is itself a token needs no merges."""
CONTROL, USER_DEFINED = 3, 4
"""Kinds in tokenizer.ggml.token_type that are found in text before it is cut."""


def from_gguf(
    path: str | Path, *, precision: str = "float32", execution: ExecutionConfig | None = None
) -> tuple[Transformer, ModelConfig, tokenizers.Tokenizer]:
    """A model of the Llama architecture, its configuration and its tokenizer.

    Args:
        path: the file; quantised weights become float32.
        precision: type that matrix products read, "float32" or "bfloat16".
        execution: scanned or unrolled, with or without rematerialisation.

    Raises:
        UserError: the libraries are missing, the file is damaged, or it holds another architecture
            or kind of tokenizer.
    """
    fields, tensors = _read(Path(path))
    config = _config(path, fields, tensors)
    model, ours = from_tensors(
        ARCHITECTURE, config, _llama(path, tensors, config), precision=precision,
        execution=execution,
    )
    return model, ours, _tokenizer(path, fields)


def _read(path: Path) -> tuple[dict[str, Any], dict[str, NDArray[np.float32]]]:
    """What a file says of itself, and its tensors, dequantised."""
    try:
        from gguf import GGUFReader, dequantize
    except ImportError:
        raise UserError(NEEDS) from None
    try:
        reader = GGUFReader(path)
        fields = {name: field.contents() for name, field in reader.fields.items()}
        tensors = {
            tensor.name: np.asarray(dequantize(tensor.data, tensor.tensor_type), np.float32)
            for tensor in reader.tensors
        }
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; give a .gguf file") from None
    except (ValueError, KeyError, IndexError, NotImplementedError) as error:
        raise UserError(f"{path}: not a GGUF file that can be read ({error}); give a whole .gguf "
                        "file of version 2 or 3") from None
    return fields, tensors


def _config(
    path: str | Path, fields: dict[str, Any], tensors: dict[str, NDArray[np.float32]]
) -> dict[str, Any]:
    """The configuration as Hugging Face's LlamaConfig says it."""
    arch = fields.get("general.architecture")
    if arch != LLAMA:
        raise UserError(f"{path}: its architecture is {arch}; {LLAMA} is the one that can be read")
    scaled = fields.get(f"{arch}.rope.scaling.type", "none") != "none"
    if scaled or "rope_freqs.weight" in tensors:
        raise UserError(f"{path}: its rotary wavelengths are stretched (rope.scaling), which this "
                        "model has no setting for; give a file without")
    if fields.get(f"{arch}.expert_count", 0):
        raise UserError(f"{path}: it has routed experts; give a dense model of the same family")
    said = {ours: fields.get(theirs.format(arch=arch)) for ours, theirs in FIELDS.items()}
    config = {name: value for name, value in said.items() if value is not None}
    for name, other in DEFAULTS.items():
        config.setdefault(name, config.get(other))
    config.setdefault("rope_theta", ROPE_THETA)
    if "token_embd.weight" in tensors:
        config["vocab_size"] = len(tensors["token_embd.weight"])
    missing = FIELDS.keys() - config.keys() - {"head_dim"}
    if missing:
        names = ", ".join(sorted(FIELDS[name].format(arch=arch) for name in missing))
        raise UserError(f"{path}: it does not say {names}, without which its shape is unknown; "
                        "convert the model anew with llama.cpp")
    width = config.get("head_dim", config["hidden_size"] // config["num_attention_heads"])
    if fields.get(f"{arch}.rope.dimension_count", width) != width:
        raise UserError(f"{path}: only a part of each head is rotated, as in no Llama; such a file "
                        "cannot be read")
    return config | {
        "hidden_act": "silu",
        "tie_word_embeddings": "output.weight" not in tensors,
    }


def _llama(
    path: str | Path, tensors: dict[str, NDArray[np.float32]], config: dict[str, Any]
) -> dict[str, NDArray[np.float32]]:
    """The tensors under the names and in the order of LlamaForCausalLM."""
    heads = {"attn_q.weight": config["num_attention_heads"],
             "attn_k.weight": config["num_key_value_heads"]}
    state, unknown = {}, []
    for name, values in tensors.items():
        blk, layer, tail = (*name.split(".", 2), "", "")[:3]
        if name in TENSORS:
            state[TENSORS[name]] = values
        elif blk == "blk" and tail in LAYER_TENSORS:
            if tail in heads:
                values = _to_halves(values, heads[tail])
            state[f"model.layers.{layer}.{LAYER_TENSORS[tail]}"] = values
        else:
            unknown.append(name)
    if unknown:
        raise UserError(f"{path}: {', '.join(unknown)} stand in no Llama known here, so the "
                        "model would not be the one in the file")
    return state


def _to_halves(weight: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """From rotary pairs (2i, 2i + 1), which llama.cpp turns, to (i, i + half): rows are moved
    within each head, and no product of a query and a key changes."""
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
        raise UserError(NEEDS) from None
    kind, cuts = (fields.get(f"tokenizer.ggml.{name}") for name in ("model", "pre"))
    if kind != "gpt2" or cuts not in PIECES:
        raise UserError(f"{path}: its tokenizer is {kind} with the cuts of {cuts}; byte-level BPE "
                        f"(gpt2) with those of {', '.join(PIECES)} can be read")
    tokens, merges = (fields.get(f"tokenizer.ggml.{name}") for name in ("tokens", "merges"))
    if tokens is None or merges is None:
        raise UserError(f"{path}: its tokenizer lacks tokens or merges; convert the model anew "
                        "with llama.cpp")
    tokenizer = Tokenizer(models.BPE(
        {token: number for number, token in enumerate(tokens)},
        [tuple(merge.split(" ", 1)) for merge in merges],
        ignore_merges=cuts in WHOLE_WORDS,
    ))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        *(pre_tokenizers.Split(Regex(piece), "isolated") for piece in PIECES[cuts]),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    kinds = fields.get("tokenizer.ggml.token_type", [])
    tokenizer.add_tokens([
        AddedToken(token, special=kind == CONTROL, normalized=False)
        for token, kind in zip(tokens, kinds, strict=False) if kind in (CONTROL, USER_DEFINED)
    ])
    if fields.get("tokenizer.ggml.add_bos_token", False):
        number = fields["tokenizer.ggml.bos_token_id"]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{tokens[number]} $0", special_tokens=[(tokens[number], number)])
    return tokenizer

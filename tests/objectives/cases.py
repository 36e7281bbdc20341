"""A tiny run by every objective, and the text that they read."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from scaling.config import RunConfig, validate
from scaling.data.prepare import prepare
from scaling.data.store import TokenStore

ROLES = ("pad", "cls", "sep", "mask")
SENTINELS = 20

DECODER = {"d_model": 16, "n_layers": 1, "n_heads": 2, "context": 32}
ENCODER = DECODER | {"mode": "encoder-only"}
BOTH = DECODER | {"mode": "encoder-decoder"}


def heads(*kinds: str) -> dict[str, Any]:
    return {"heads": [{"kind": kind} for kind in kinds]}


CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    # the model, the objective
    "causal": (DECODER, {"kind": "causal"}),
    "separate": (DECODER, {"kind": "causal", "separate_documents": True}),
    "prefix": (DECODER | {"attention": "prefix"}, {"kind": "prefix"}),
    "masked": (ENCODER, {"kind": "masked"}),
    "static": (ENCODER, {"kind": "masked", "static_masks": 2, "unit": "word", "rate": 0.3}),
    "bert": (ENCODER | {"n_token_types": 2} | heads("masked_lm", "next_sentence"),
             {"kind": "masked", "pairs": "next_sentence"}),
    "albert": (ENCODER | {"n_token_types": 2} | heads("masked_lm", "sentence_order"),
               {"kind": "masked", "pairs": "sentence_order", "unit": "ngram", "rate": 0.5}),
    "spanbert": (ENCODER | heads("masked_lm", "span_boundary"),
                 {"kind": "masked", "unit": "span", "span_boundary": True, "rate": 0.5}),
    "t5": (BOTH | {"source_context": 64, "context": 14}, {"kind": "span_corruption"}),
    "bart": (BOTH | {"source_context": 33}, {"kind": "denoising"}),
    "ul2": (BOTH, {"kind": "mixture"}),
    "electra": (ENCODER | heads("replaced_token"), {"kind": "replaced_tokens", "rate": 0.5}),
    "distillation": (ENCODER, {"kind": "distillation", "teacher": "teacher", "rate": 0.5}),
}
NOISED = [name for name in CASES if name not in ("causal", "separate")]
PAIRS = ("bert", "albert")
FRAMED = ("masked", "static", "spanbert", "electra", "distillation")
"""Those that read `<cls> text <sep>`."""


def write_sentences(path: Path, documents: int = 500) -> None:
    """Documents of one word to some sentences."""
    draw = random.Random(0)
    words = ["I", "love", "this", "red", "car", "old", "new", "green", "house", "enormous"]
    with path.open("w") as file:
        for _ in range(documents):
            text = " ".join(draw.choice(words) for _ in range(draw.randint(1, 14)))
            file.write(json.dumps({"text": text.replace(" car ", " car. ")}) + "\n")


def special_store(folder: Path) -> TokenStore:
    """A store of some 25,000 bytes, with every special token."""
    write_sentences(folder / "text.jsonl")
    return prepare(f"jsonl:{folder}/text.jsonl#text", "byte", None, folder / "store", 0.2,
                   workers=1, special=ROLES, sentinels=SENTINELS)


def content_of(name: str, store: Path, **changes: Any) -> dict[str, Any]:
    """The plain data of a run of nine steps or more."""
    model, objective = CASES[name]
    sequences = changes.get("batch_sequences", 4)
    return {
        "model": model, "objective": objective, "data": {"store": str(store)},
        "tokens": 20 * 32 * sequences, "batch_sequences": sequences,
        "schedule": {"kind": "wsd", "warmup_steps": 3}, "evaluation": {"sequences": 8},
    } | changes


def run_of(name: str, store: TokenStore, **changes: Any) -> RunConfig:
    """A run whose vocabulary is the store's, for what asks no teacher."""
    run = validate(RunConfig, content_of(name, store.path, **changes), name)
    model = run.model.model_copy(update={"vocab_size": store.vocab_size})
    return run.model_copy(update={"model": model})

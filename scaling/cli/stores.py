"""Description of a token store for `scaling data`: facts, statistics and samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from scaling.console import out, print_table

if TYPE_CHECKING:
    from scaling.data.manifest import Component
    from scaling.data.store import TokenStore
    from scaling.data.tokenizers import Tokenizer

QUANTILES = {"min": 0.0, "10%": 0.1, "50%": 0.5, "90%": 0.9, "max": 1.0}
"""Quantiles of the tokens in a document, by their label."""

_SAMPLE_CHARACTERS = 300


def facts(store: TokenStore) -> list[tuple[str, str]]:
    """(label, text) rows about the origin of a store."""
    manifest = store.manifest
    roles = {role: value for role, value in manifest.special if isinstance(value, int)}
    special = ", ".join(f"{role} {number}" for role, number in roles.items())
    if manifest.special.sentinels:
        special += f", {len(manifest.special.sentinels)} sentinels"
    facts = [("source", manifest.source)]
    vocabulary = f"{manifest.vocab_size:,} tokens, {manifest.dtype}; {special}"
    if manifest.language is not None and manifest.entropy is not None:
        low, high = manifest.entropy.low, manifest.entropy.high
        spread = "exact" if low == high else f"between {low:.6f} and {high:.6f}"
        return [*facts, ("vocabulary", vocabulary), ("hash", store.hash),
                ("entropy", f"{manifest.entropy.rate:.6f} nats per token, {spread}")]
    options = ", ".join(f"{name} {value}" for name, value in manifest.options
                        if value not in (None, ()))
    count = manifest.contaminated
    shared = "share 13 consecutive words with the train split"
    contamination = "not checked" if count is None else f"{count:,} test documents {shared}" + (
        ", dropped" if manifest.options.contamination == "drop" else "")
    return [
        *facts,
        ("corpus", f"{manifest.corpus}, SHA-256 {manifest.corpus_sha256}"),
        ("options", options),
        ("tokenizer", f"{manifest.tokenizer}, {vocabulary}"),
        ("dropped", f"{manifest.duplicates:,} repeated documents, "
                    f"{manifest.near_duplicates:,} near-duplicates"),
        ("not UTF-8", f"{manifest.not_utf8:,} documents"),
        ("contamination", contamination),
        ("hash", store.hash),
    ]


def statistics(store: TokenStore) -> dict[str, Any]:
    """Bytes per token, lengths and unigrams of each split, and the most frequent tokens."""
    from scaling.data.statistics import entropy, length_quantiles, unigram_counts

    counts = {name: unigram_counts(store.split(name), store.vocab_size)
              for name in store.splits()}
    train = counts["train"]
    frequent = [number for number in (-train).argsort(kind="stable")[:10].tolist()
                if train[number]]
    has_documents = store.manifest.language is None
    tokenizer = store.tokenizer() if has_documents else None
    return {
        "bytes_per_token": {name: store.bytes_per_token(name) for name in counts},
        "document_tokens": {
            name: dict(zip(QUANTILES, length_quantiles(store.split(name),
                                                        list(QUANTILES.values())), strict=True))
            for name in counts if has_documents
        },
        "unigrams": {
            name: {"entropy": entropy(occurrences), "ids": int((occurrences > 0).sum()),
                   "counted": int(occurrences.sum())}
            for name, occurrences in counts.items()
        },
        "frequent": [
            {"id": number, "token": _token_text(store, tokenizer, number),
             "share": float(train[number] / train.sum())}
            for number in frequent
        ],
    }


def _token_text(store: TokenStore, tokenizer: Tokenizer | None, number: int) -> str:
    """A token for a table; `tokenizer` is None for a synthetic language."""
    import numpy as np

    from scaling.data.tokenizers.special import ROLES, sentinel, spelling

    special = store.special
    for role in ROLES:
        if getattr(special, role) == number:
            return spelling(role)
    if number in special.sentinels:
        return sentinel(special.sentinels.index(number))
    if store.manifest.language is not None:
        return store.manifest.language.spell(np.array([number]))
    assert tokenizer is not None
    return ascii(tokenizer.decode([number]))


def print_counts(store: TokenStore) -> None:
    """Print the documents, tokens and bytes of each split."""
    columns = ["split", "documents", "tokens", "bytes", "bytes per token"]
    stored = store.manifest.splits()
    print_table("", columns if stored else ["split", "tokens"], [
        [name, f"{record.documents:,}", f"{record.tokens:,}", f"{record.bytes:,}",
         f"{store.bytes_per_token(name):.4f}"]
        for name, record in stored.items()
    ] or [[name, f"{store.split(name).tokens:,}"] for name in store.splits()])
    if store.manifest.mixture:
        _print_mixture(store.manifest.mixture)


def _print_mixture(mixture: Sequence[Component]) -> None:
    """Print the sources of a mixture, and those of which it omits more than half."""
    out.print()
    total = sum(part.bytes for part in mixture)
    print_table("", ["source", "weight", "share", "bytes used", "available", "epochs"], [
        [part.source, f"{part.share:.1%}", f"{part.bytes / total:.1%}", f"{part.bytes:,}",
         f"{part.available:,}", f"{part.bytes / part.available:.3f}"] for part in mixture
    ])
    for part in mixture:
        left = 1 - part.bytes / part.available
        if left > 0.5:
            out.print(f"{part.source}: {left:.0%} of its text is omitted to match the weights; "
                      "increase its weight to use more of it",
                      markup=False)


def sample_texts(store: TokenStore, count: int) -> dict[int, str]:
    """The beginnings of documents evenly spaced in the train split, by document number."""
    import numpy as np

    split = store.split("train")
    language = store.manifest.language
    if language is not None:
        rows = split.rows(np.arange(count), 1, min(_SAMPLE_CHARACTERS // 5, split.tokens))
        return dict(enumerate(language.spell(row) for row in rows))
    offsets, tokenizer = split.offsets(), store.tokenizer()
    texts = {}
    for place in range(min(count, split.documents)):
        number = place * split.documents // min(count, split.documents)
        # A token may be a single byte, and a character up to four.
        start = int(offsets[number])
        text = tokenizer.decode(
            split.read(start, min(int(offsets[number + 1]), start + 4 * _SAMPLE_CHARACTERS))
        )
        more = " ..." if len(text) > _SAMPLE_CHARACTERS else ""
        texts[number] = text[:_SAMPLE_CHARACTERS] + more
    return texts

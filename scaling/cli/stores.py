"""What `scaling data` says of a store, in words and numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scaling.cli.terminal import print_table

if TYPE_CHECKING:
    from scaling.data.store import TokenStore

QUANTILES = {"min": 0.0, "10%": 0.1, "50%": 0.5, "90%": 0.9, "max": 1.0}
"""Of the tokens in a document, by the name that they are shown under."""

_SAMPLE_CHARACTERS = 300


def facts(store: TokenStore) -> list[tuple[str, str]]:
    """What is said of a store in words, each with its name."""
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
    found = manifest.contaminated
    shared = "share 13 words in a row with the train split"
    contamination = "not looked for" if found is None else f"{found:,} test documents {shared}" + (
        ", dropped" if manifest.options.contamination == "drop" else "")
    return [
        *facts,
        ("corpus", f"{manifest.corpus}, SHA-256 {manifest.corpus_sha256}"),
        ("options", options),
        ("tokenizer", f"{manifest.tokenizer}, {vocabulary}"),
        ("dropped", f"{manifest.duplicates:,} repeated documents, "
                    f"{manifest.near_duplicates:,} nearly repeated ones"),
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
    return {
        "bytes_per_token": {name: store.bytes_per_token(name) for name in counts},
        "document_tokens": {
            name: dict(zip(QUANTILES, length_quantiles(store.split(name),
                                                        list(QUANTILES.values())), strict=True))
            for name in counts if has_documents
        },
        "unigrams": {
            name: {"entropy": entropy(found), "ids": int((found > 0).sum()),
                   "counted": int(found.sum())}
            for name, found in counts.items()
        },
        "frequent": [
            {"id": number, "token": _spelt(store, number),
             "share": float(train[number] / train.sum())}
            for number in frequent
        ],
    }


def _spelt(store: TokenStore, number: int) -> str:
    """One token as it is shown in a table."""
    import numpy as np

    from scaling.data.special import ROLES, sentinel, spelling

    special = store.special
    for role in ROLES:
        if getattr(special, role) == number:
            return spelling(role)
    if number in special.sentinels:
        return sentinel(special.sentinels.index(number))
    if store.manifest.language is not None:
        return store.manifest.language.spell(np.array([number]))
    return ascii(store.tokenizer().decode([number]))


def print_counts(store: TokenStore) -> None:
    """A table of what each split holds."""
    columns = ["split", "documents", "tokens", "bytes", "bytes per token"]
    stored = store.manifest.splits()
    print_table("", columns if stored else ["split", "tokens"], [
        [name, f"{record.documents:,}", f"{record.tokens:,}", f"{record.bytes:,}",
         f"{store.bytes_per_token(name):.4f}"]
        for name, record in stored.items()
    ] or [[name, f"{store.split(name).tokens:,}"] for name in store.splits()])


def sample_texts(store: TokenStore, count: int) -> dict[int, str]:
    """The starts of some documents that lie evenly over the train split, by number."""
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
        # A token may have no more than one byte, and a character four.
        start = int(offsets[number])
        text = tokenizer.decode(
            split.read(start, min(int(offsets[number + 1]), start + 4 * _SAMPLE_CHARACTERS))
        )
        shown = text[:_SAMPLE_CHARACTERS] + (" ..." if len(text) > _SAMPLE_CHARACTERS else "")
        # A corpus must not steer the terminal.
        texts[number] = "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in shown)
    return texts

"""`scaling data`: make token stores, and look into them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scaling.cli.terminal import out, print_json, print_table, progress

if TYPE_CHECKING:
    from scaling.data.store import TokenStore

app = typer.Typer(
    help="Turn text into token stores, which training reads, and look into them.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)

_QUANTILES = {"min": 0.0, "10%": 0.1, "50%": 0.5, "90%": 0.9, "max": 1.0}
_SAMPLE_CHARACTERS = 300


@app.command()
def prepare(
    source: Annotated[str, typer.Argument(help="Where the text is; see `scaling data list`.")],
    folder: Annotated[
        Path | None,
        typer.Option("--out", help="Folder of the store; by default stores/CORPUS-TOKENIZER.",
                     show_default=False),
    ] = None,
    tokenizer: Annotated[str, typer.Option(help="byte, or bpe: learnt from the corpus.")] = "byte",
    vocab_size: Annotated[
        int | None,
        typer.Option(help="Tokens of a bpe, the end of a document counted in.",
                     show_default=False),
    ] = None,
    validation_fraction: Annotated[
        float, typer.Option(help="Share of the documents that is held out.")
    ] = 0.05,
    max_bytes: Annotated[
        int | None,
        typer.Option(help="Take so much text at most, from the start of the corpus.",
                     show_default=False),
    ] = None,
) -> None:
    """Turn a corpus into a token store.

    Example: `scaling data prepare wheel:chitchat-dataset --tokenizer bpe --vocab-size 4096`

    Documents are split by a hash of their text, so a document stays in its split when the corpus
    grows; repeated documents are dropped. A store that is already there is left as it is.
    """
    from scaling.data import sources
    from scaling.data.prepare import prepare as prepare_store
    from scaling.data.store import default_folder

    if folder is None:
        folder = default_folder(sources.find(source).corpus, tokenizer, vocab_size)
    existed = folder.exists()
    with progress(f"preparing {folder}", 100) as bar:
        store = prepare_store(
            source, tokenizer, vocab_size, folder, validation_fraction, max_bytes,
            lambda stage, done: bar.update(int(100 * done), stage),
        )
    out.print(f"{folder}: {'already prepared' if existed else 'prepared'}", markup=False)
    _print_counts(store)


@app.command("list")
def list_sources(
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Say which sources of text there are, and whether they work here.

    Example: `scaling data list`
    """
    from scaling.data import sources
    from scaling.errors import UserError

    problems, sizes = {}, {}
    for known in sources.KNOWN:
        try:
            if known.corpus:
                known.find(known.pattern)
            sizes[known] = known.text_bytes() if known.text_bytes else None
        except UserError as error:
            problems[known] = str(error)
    if as_json:
        print_json([
            {"source": known.pattern, "text": known.text, "bytes": sizes.get(known),
             "licence": known.licence, "problem": problems.get(known)}
            for known in sources.KNOWN
        ])
        return
    for known in sources.KNOWN:
        text_bytes = sizes.get(known)
        size = f"{text_bytes / 1e6:.1f} MB, " if text_bytes else ""
        out.print(known.pattern, style="bold", markup=False)
        out.print(f"    {known.text}; {size}licence: {known.licence}", markup=False)
        out.print(f"    {problems.get(known, 'works here')}", markup=False)


@app.command()
def show(
    folder: Annotated[Path, typer.Argument(metavar="STORE", help="Folder of a token store.")],
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    samples: Annotated[
        int, typer.Option(min=0, help="Documents of the train split to show.")
    ] = 2,
    verify: Annotated[
        bool, typer.Option("--verify", help="Also compare the SHA-256 of every file.")
    ] = False,
) -> None:
    """Say what a token store holds.

    Example: `scaling data show stores/chitchat-byte --samples 3`
    """
    from scaling.data.store import SPLITS, TokenStore

    store = TokenStore.open(folder, verify=verify)
    lengths = {split: _document_lengths(store, split) for split in SPLITS}
    texts = _samples(store, samples)
    manifest = store.manifest
    if as_json:
        print_json({
            "path": str(folder),
            "hash": store.hash,
            "bytes_per_token": {split: store.bytes_per_token(split) for split in SPLITS},
            "document_tokens": lengths,
            "samples": texts,
            "manifest": manifest.model_dump(mode="json"),
        })
        return
    options = ", ".join(f"{name} {value}" for name, value in manifest.options if value is not None)
    for name, value in (
        ("source", manifest.source),
        ("corpus", f"{manifest.corpus}, SHA-256 {manifest.corpus_sha256}"),
        ("options", options),
        ("tokenizer", f"{manifest.tokenizer}, {manifest.vocab_size:,} tokens, {manifest.dtype}"),
        ("dropped", f"{manifest.duplicates:,} repeated documents"),
        ("hash", store.hash),
    ):
        out.print(f"{name:<11}{value}", markup=False)
    out.print()
    _print_counts(store)
    out.print()
    print_table("tokens in a document", ["split", *_QUANTILES], [
        [split, *(f"{length:,}" for length in lengths[split].values())] for split in SPLITS
    ])
    for number, text in texts.items():
        out.print(f"\ntrain document {number}", markup=False)
        out.print(text, markup=False)


def _print_counts(store: TokenStore) -> None:
    from scaling.data.store import SPLITS

    columns = ["split", "documents", "tokens", "bytes", "bytes per token"]
    records = {split: store.manifest.split(split) for split in SPLITS}
    print_table("", columns, [
        [split, f"{record.documents:,}", f"{record.tokens:,}", f"{record.bytes:,}",
         f"{store.bytes_per_token(split):.4f}"]
        for split, record in records.items()
    ])


def _document_lengths(store: TokenStore, split: str) -> dict[str, int]:
    """Quantiles of tokens in a document, its end counted in."""
    import numpy as np

    lengths = np.diff(store.offsets(split))
    values = np.quantile(lengths, list(_QUANTILES.values()), method="inverted_cdf")
    return dict(zip(_QUANTILES, (int(value) for value in values), strict=True))


def _samples(store: TokenStore, count: int) -> dict[int, str]:
    """The starts of some documents that lie evenly over the train split, by number."""
    if not count:
        return {}
    offsets, tokens, tokenizer = store.offsets("train"), store.tokens("train"), store.tokenizer()
    documents = len(offsets) - 1
    texts = {}
    for place in range(min(count, documents)):
        number = place * documents // min(count, documents)
        # A token may have no more than one byte, and a character four.
        stop = min(int(offsets[number + 1]), int(offsets[number]) + 4 * _SAMPLE_CHARACTERS)
        text = tokenizer.decode(tokens[int(offsets[number]):stop])
        shown = text[:_SAMPLE_CHARACTERS] + (" ..." if len(text) > _SAMPLE_CHARACTERS else "")
        # A corpus must not steer the terminal.
        texts[number] = "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in shown)
    return texts


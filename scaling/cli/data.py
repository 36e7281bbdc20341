"""`scaling data`: make token stores, and look into them."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from scaling.cli.stores import QUANTILES, facts, print_counts, sample_texts, statistics
from scaling.cli.terminal import Bar, out, print_json, print_table, progress

app = typer.Typer(
    help="Turn text into token stores, which training reads, and look into them.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)

_MEGABYTE = 10**6


@app.command()
def prepare(
    source: Annotated[str, typer.Argument(help="Where the text is; see `scaling data list`.")],
    folder: Annotated[
        Path | None,
        typer.Option("--out", help="Folder of the store; by default stores/CORPUS-TOKENIZER.",
                     show_default=False),
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(help="byte (the default); bpe, wordpiece or unigram, learnt from the corpus; "
                     "or the file of a published one.", show_default=False),
    ] = None,
    vocab_size: Annotated[
        int | None,
        typer.Option(help="Tokens of a tokenizer that is learnt, special ones counted in.",
                     show_default=False),
    ] = None,
    special: Annotated[
        str, typer.Option(help="Special tokens beside the end of a document, for example "
                          "cls,sep,mask,pad.", show_default=False),
    ] = "",
    sentinels: Annotated[int, typer.Option(help="Special tokens that stand for spans.")] = 0,
    validation_fraction: Annotated[
        float, typer.Option(help="Share of the documents that is held out for choosing.")
    ] = 0.05,
    test_fraction: Annotated[
        float, typer.Option(help="Share of the documents that is held out for the last word.")
    ] = 0.02,
    max_bytes: Annotated[
        int | None,
        typer.Option(help="Take so much text at most, from the start of the corpus.",
                     show_default=False),
    ] = None,
    deduplicate: Annotated[
        str, typer.Option(help="exact, near (also documents with nearly the same words) or none.")
    ] = "exact",
    contamination: Annotated[
        str, typer.Option(help="off; report or drop: test documents that share 13 words in a row "
                          "with the train split.")
    ] = "off",
    not_utf8: Annotated[
        str, typer.Option(help="What is done about text that is not UTF-8: refuse, skip or "
                          "replace.")
    ] = "refuse",
    workers: Annotated[
        int | None,
        typer.Option(help="Processes that read and tokenize; by default one for each core.",
                     show_default=False),
    ] = None,
) -> None:
    """Turn a corpus into a token store.

    Example: `scaling data prepare wheel:chitchat-dataset --tokenizer bpe --vocab-size 4096`

    Documents are split by a hash of their text, so a document stays in its split when the corpus
    grows; repeated documents are dropped. A store that is already there is left as it is. What
    was interrupted goes on where it was when the same command is run again.
    """
    from scaling.data.prepare import prepare as prepare_store
    from scaling.data.synthetic.parse import PREFIX as SYNTHETIC

    tokenizer = tokenizer or ("none" if source.startswith(SYNTHETIC) else "byte")
    if folder is None:
        folder = _default_folder(source, tokenizer, vocab_size)
    existed = folder.exists()
    with _Stages() as stages:
        store = prepare_store(
            source, tokenizer, vocab_size, folder, validation_fraction, max_bytes, stages,
            workers, special=tuple(role for role in special.split(",") if role),
            sentinels=sentinels, test_fraction=test_fraction, deduplicate=deduplicate,
            contamination=contamination, not_utf8=not_utf8,
        )
    out.print(f"{folder}: {'already prepared' if existed else 'prepared'}", markup=False)
    print_counts(store)


def _default_folder(source: str, tokenizer: str, vocab_size: int | None) -> Path:
    from scaling.data import sources
    from scaling.data.store import default_folder, language_folder
    from scaling.data.synthetic.parse import PREFIX as SYNTHETIC

    if source.startswith(SYNTHETIC):
        return language_folder(source)
    corpus = "-".join(dict.fromkeys(one.corpus for _, one in sources.find_mix(source)))
    return default_folder(corpus, tokenizer, vocab_size)


class _Stages:
    """A bar for each stage of preparing, with megabytes a second and the time that is left."""

    def __enter__(self) -> _Stages:
        self._stack, self._stage = ExitStack(), ""
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def __call__(self, stage: str, done: float, total: float) -> None:
        if stage != self._stage:
            self._stack.close()
            self._stage, self._began, self._first = stage, time.monotonic(), done
            total_megabytes = max(round(total / _MEGABYTE), 1)
            self._bar: Bar = self._stack.enter_context(progress(stage, total_megabytes))
        elif done > self._first:
            # What an earlier try has finished took no time.
            rate = (done - self._first) / max(time.monotonic() - self._began, 1e-9)
            note = f"{rate / _MEGABYTE:.1f} MB/s, {max(total - done, 0) / rate:.0f} s left"
            self._bar.update(round(done / _MEGABYTE), note)


@app.command("list")
def list_sources(
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Say which sources of text there are, and whether they work here.

    Example: `scaling data list`
    """
    from scaling.data import sources
    from scaling.data.synthetic.parse import KINDS, PATTERN
    from scaling.errors import UserError

    rows: list[dict[str, Any]] = []
    for known in sources.KNOWN:
        size, note, problem = None, "", None
        try:
            size = known.text_bytes() if known.text_bytes else None
            note = known.find(known.pattern).note if known.corpus else ""
        except UserError as error:
            problem = str(error)
        rows.append({"source": known.pattern, "text": known.text, "bytes": size, "note": note,
                     "licence": known.licence, "problem": problem})
    rows.append({"source": PATTERN, "bytes": None, "licence": "none", "note": "", "problem": None,
                 "text": f"a language of known entropy, made up as it is read; KIND is one of "
                         f"{', '.join(KINDS)}"})
    if as_json:
        print_json(rows)
        return
    for row in rows:
        size = f"{row['bytes'] / 1e6:.1f} MB, " if row["bytes"] else ""
        out.print(row["source"], style="bold", markup=False)
        out.print(f"    {row['text']}; {size}licence: {row['licence']}", markup=False)
        note = f", {row['note']}" if row["note"] else ""
        out.print(f"    {row['problem'] or 'works here' + note}", markup=False)


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
    """Say what a token store holds: where it came from, counts, lengths, tokens and samples.

    Example: `scaling data show stores/chitchat-byte --samples 3`

    The unigram entropy is the loss of a model that knows how often each token comes, and nothing
    of what came before it.
    """
    from scaling.data.store import TokenStore

    store = TokenStore.open(folder, verify=verify)
    shown = statistics(store) | {"samples": sample_texts(store, samples)}
    manifest = store.manifest
    if as_json:
        print_json({"path": str(folder), "hash": store.hash} | shown
                   | {"manifest": manifest.model_dump(mode="json")})
        return
    for name, value in facts(store):
        out.print(f"{name:<15}{value}", markup=False)
    out.print()
    print_counts(store)
    out.print()
    print_table("unigrams", ["split", "entropy (nats)", "ids that occur", "tokens counted"], [
        [split, f"{row['entropy']:.4f}", f"{row['ids']:,}", f"{row['counted']:,}"]
        for split, row in shown["unigrams"].items()
    ])
    out.print()
    print_table("most frequent tokens of the train split", ["token", "id", "share"], [
        [row["token"], str(row["id"]), f"{row['share']:.2%}"] for row in shown["frequent"]
    ])
    if shown["document_tokens"]:
        out.print()
        print_table("tokens in a document", ["split", *QUANTILES], [
            [split, *(f"{length:,}" for length in lengths.values())]
            for split, lengths in shown["document_tokens"].items()
        ])
    for number, text in shown["samples"].items():
        out.print(f"\ntrain {'row' if manifest.language else 'document'} {number}", markup=False)
        out.print(text, markup=False)

"""Preparing as a whole: what is wanted, whether it is there, and where it is made."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from scaling.config import canonical_json, content_hash, validate
from scaling.data.folders import locked, move_in_place
from scaling.data.manifest import LAYOUT, Manifest, Options
from scaling.data.prepare.making import Making, Progress
from scaling.data.prepare.pieces import find_corpus
from scaling.data.prepare.reading import changed
from scaling.data.prepare.work import LAYOUT as WORK_LAYOUT
from scaling.data.prepare.work import STORE
from scaling.data.prepare.workers import WorkerDied, default_workers
from scaling.data.sources import sha256_of
from scaling.data.special import Special, chosen_roles, recognised, spellings
from scaling.data.store import MANIFEST_FILE, TokenStore
from scaling.data.synthetic import AnyLanguage, parse_language
from scaling.data.synthetic.parse import PREFIX as SYNTHETIC
from scaling.data.tokenizers import TOKENIZER_FILE, dtype_name, read_tokenizer
from scaling.errors import UserError
from scaling.files import blame, write_atomically


def prepare(
    source: str,
    tokenizer: str,
    vocab_size: int | None,
    out: Path,
    validation_fraction: float = 0.05,
    max_bytes: int | None = None,
    progress: Progress | None = None,
    workers: int | None = None,
    **options: Any,
) -> TokenStore:
    """Make the token store of a corpus, or find it made.

    A folder that already holds exactly this store is left as it is. Otherwise the store is
    written beside `out` and moved into place when it is whole, so that there is never half a
    store. Work that was interrupted goes on where it was; the result is the same bytes however
    often that happens, and whatever the number of workers. Where another process is preparing
    the same folder, this one waits for it.

    Args:
        source: a source string (`scaling.data.sources`).
        tokenizer: "byte"; "bpe", "wordpiece" or "unigram", learnt from the train split; or the
            file of a published one (`scaling.data.tokenizers.read_tokenizer`). "none" for a
            `synthetic:` language, which has no text.
        vocab_size: ids of a tokenizer that is learnt, special tokens counted in; else None.
        out: folder of the store.
        validation_fraction: share of the documents that is held out. A document's text alone
            decides its split, so that it stays there when the corpus grows.
        max_bytes: take documents from the start of the corpus up to so many UTF-8 bytes.
        progress: told how far the work is.
        workers: processes that read and tokenize; by default one for each core.
        options: any other field of `scaling.data.manifest.Options`.

    Raises:
        UserError: an option, the source or a file of it is wrong, the corpus is too small to be
            split, or `out` holds something else. Nothing is overwritten or left behind.
        OSError: reading or writing failed; its file name is the source's or `out`. What is
            finished is kept for the next try.
    """
    chosen = _options(source, tokenizer, options | {
        "vocab_size": vocab_size,
        "validation_fraction": validation_fraction,
        "max_bytes": max_bytes,
    })
    if chosen.tokenizer == "none":
        return _prepare_language(parse_language(source), source, chosen, out)
    workers = default_workers() if workers is None else workers
    if workers < 1:
        raise UserError(f"workers = {workers}; at least one process has to do the work")
    report: Progress = progress or (lambda stage, done, total: None)
    corpus = find_corpus(source, chosen)
    report("hashing", 0.0, 0.0)
    stamp, corpus_sha256 = corpus.stamp(), corpus.sha256()
    recipe = _recipe(corpus.reading, corpus_sha256, chosen)
    if (store := _already_prepared(out, recipe)) is not None:
        return store
    with locked(out, lambda: report(f"waiting for another process at {out}", 0.0, 0.0)):
        # Another process may have made it in the meantime.
        if (store := _already_prepared(out, recipe)) is not None:
            return store
        work = _work_folder(out, content_hash([LAYOUT, WORK_LAYOUT, recipe])[:16])
        making = Making(corpus, chosen, tokenizer, out, work, workers, report)
        try:
            with blame(out):
                (work / STORE).mkdir(parents=True, exist_ok=True)
            content = making.store()
            if corpus.stamp() != stamp:
                raise changed(source)
            manifest = Manifest(source=source, corpus=corpus.short_name, reading=corpus.reading,
                                corpus_sha256=corpus_sha256, options=chosen, **content)
            # A process that was killed may have left what it was writing.
            for path in (work / STORE).iterdir():
                if path.name not in manifest.files() | {TOKENIZER_FILE}:
                    path.unlink()
            with blame(out):
                text = manifest.model_dump_json(indent=2) + "\n"
                (work / STORE / MANIFEST_FILE).write_text(text, encoding="utf-8")
                move_in_place(work / STORE, out)
        except UserError as error:
            if not isinstance(error, WorkerDied):
                shutil.rmtree(work, ignore_errors=True)
            raise
        # Also what was begun here with other options: only the holder of the lock is at work.
        for path in out.parent.glob(_work_folder(out, "*").name):
            shutil.rmtree(path, ignore_errors=True)
    store = _already_prepared(out, recipe)
    assert store is not None
    return store


def _options(source: str, tokenizer: str, fields: dict[str, Any]) -> Options:
    if source.startswith(SYNTHETIC) != (tokenizer == "none"):
        raise UserError(f"{source}: tokenizer {tokenizer}; a {SYNTHETIC} language has no text and "
                        "takes the tokenizer none, and every other source takes one")
    if "." in tokenizer or os.sep in tokenizer:
        read_tokenizer(tokenizer)  # refuses what is no such file, before all the work
        fields |= {"tokenizer": "file", "tokenizer_sha256": sha256_of(Path(tokenizer))}
    else:
        fields |= {"tokenizer": tokenizer}
    fields["special"] = chosen_roles(fields.get("special", ()))
    return validate(Options, fields, "prepare")


def _prepare_language(
    language: AnyLanguage, source: str, options: Options, out: Path
) -> TokenStore:
    """The store of a language: a manifest alone. Special tokens follow its own ids."""
    reading = "synthetic"
    sha256 = content_hash(language.model_dump(mode="json"))
    recipe = _recipe(reading, sha256, options)
    if (store := _already_prepared(out, recipe)) is not None:
        return store
    names = spellings(("eos", *options.special), options.sentinels)
    special = {name: language.vocab_size + place for place, name in enumerate(names)}
    vocab_size = language.vocab_size + len(names)
    manifest = Manifest(
        source=source, corpus=language.kind, reading=reading, corpus_sha256=sha256,
        options=options, language=language, entropy=language.entropy(), tokenizer=None,
        tokenizer_hash=None, special=Special.model_validate(recognised(special)),
        vocab_size=vocab_size, dtype=dtype_name(vocab_size), train=None, validation=None,
        test=None, duplicates=0,
    )
    with blame(out):
        write_atomically(out / MANIFEST_FILE, manifest.model_dump_json(indent=2) + "\n")
    return TokenStore.open(out)


def _work_folder(out: Path, recipe: str) -> Path:
    return out.parent / f".{out.name}.work-{recipe}"


def _recipe(reading: str, corpus_sha256: str, options: Options) -> str:
    """All that determines the tokens of a store, but for the code of this package."""
    return canonical_json([reading, corpus_sha256, options.model_dump()])


def _already_prepared(out: Path, recipe: str) -> TokenStore | None:
    """The store at `out` if it is the wanted one, None if nothing stands there."""
    if not os.path.lexists(out):
        return None
    if not (out / MANIFEST_FILE).is_file():
        raise UserError(f"{out}: exists and is no token store, and is not overwritten; choose "
                        "another --out, or remove it")
    store = TokenStore.open(out)
    there = store.manifest
    if _recipe(there.reading, there.corpus_sha256, there.options) != recipe:
        options = ", ".join(f"{name} {value}" for name, value in there.options if value)
        raise UserError(
            f"{out}: holds another store, and is not overwritten; it was prepared from "
            f"{there.source} (SHA-256 {there.corpus_sha256[:12]}) with {options}; choose another "
            "--out, or remove it"
        )
    return store

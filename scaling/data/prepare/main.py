"""`prepare`: checks the options and an existing store, then builds the store and moves it into
place."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from scaling.config import canonical_json, content_hash, validate
from scaling.data.manifest import MANIFEST_FILE, STORE_LAYOUT, Manifest, Options
from scaling.data.prepare.atomic_folder import folder_lock, move_in_place
from scaling.data.prepare.pieces import find_corpus
from scaling.data.prepare.pipeline import ProgressCallback, StoreBuilder
from scaling.data.prepare.tasks import RunTasks, run_here
from scaling.data.prepare.work import WORK_LAYOUT, begin, remove, remove_all, seal, work_folder
from scaling.data.prepare.workers import WorkerDied, default_workers
from scaling.data.sources import check_source, sha256_of, source_changed
from scaling.data.store import TokenStore
from scaling.data.synthetic import AnyLanguage, parse_language
from scaling.data.synthetic.parse import PREFIX as SYNTHETIC
from scaling.data.tokenizers import TOKENIZER_FILE, dtype_name, read_tokenizer
from scaling.data.tokenizers.special import (
    SpecialTokens,
    ordered_roles,
    recognise_special,
    spellings,
)
from scaling.errors import UserError
from scaling.files import blame, write_atomically


def prepare(
    source: str,
    tokenizer: str,
    vocab_size: int | None,
    out: Path,
    validation_fraction: float = 0.05,
    max_bytes: int | None = None,
    progress: ProgressCallback | None = None,
    workers: int | None = None,
    run_tasks: RunTasks | None = None,
    **options: Any,
) -> TokenStore:
    """Build the token store of a corpus, or return the existing one.

    A folder that already contains exactly this store is left unchanged. Otherwise the store is
    written next to `out` and moved into place when complete, so a partial store never exists.
    Interrupted work is resumed; the result is the same to the byte, whatever the number of
    interruptions and workers. If another process is preparing the same folder, this one waits.

    Args:
        source: A source string (`scaling.data.sources`).
        tokenizer: "byte"; "bpe", "wordpiece" or "unigram", trained on the train split; or the
            file of a published one (`scaling.data.tokenizers.read_tokenizer`). "none" for a
            `synthetic:` language, which has no text.
        vocab_size: Number of ids of a trained tokenizer, special tokens included; otherwise None.
        out: Folder of the store.
        validation_fraction: Fraction of the documents in the validation split. The split of a
            document depends on its text only, and does not change when the corpus grows.
        max_bytes: Limit on the UTF-8 bytes of text, taken from the start of the corpus.
        progress: Called with the progress of each stage.
        workers: Number of processes that read and tokenize; by default one per core.
        run_tasks: Runs the tasks of a phase elsewhere, such as on a cluster
            (`scaling.launch.prepare.LaunchedTasks`), instead of in `workers` processes.
        options: Any other field of `scaling.data.manifest.Options`.

    Raises:
        UserError: An option, the source or one of its files is invalid, the corpus is too small to
            be split, or `out` exists with other content. Nothing is overwritten or left behind.
        OSError: Reading or writing failed; its file name is the source's or `out`. Finished steps
            are kept for the next attempt.
    """
    check_source(source)
    resolved = _options(source, tokenizer, options | {
        "vocab_size": vocab_size,
        "validation_fraction": validation_fraction,
        "max_bytes": max_bytes,
    })
    if resolved.tokenizer == "none":
        return _prepare_language(parse_language(source), source, resolved, out)
    if run_tasks is None:
        run_tasks = run_here(default_workers() if workers is None else workers)
    report: ProgressCallback = progress or (lambda stage, done, total: None)
    corpus = find_corpus(source, resolved)
    report("hashing", 0.0, 0.0)
    stamp, corpus_sha256 = corpus.stamp(), corpus.sha256()
    recipe = _recipe(corpus.reading, corpus_sha256, resolved)
    if (store := _already_prepared(out, recipe)) is not None:
        return store
    with folder_lock(out, lambda: report(f"waiting for another process at {out}", 0.0, 0.0)):
        # Another process may have built it in the meantime.
        if (store := _already_prepared(out, recipe)) is not None:
            return store
        work = work_folder(out, content_hash([STORE_LAYOUT, WORK_LAYOUT, recipe])[:16])
        begin(work, out)
        builder = StoreBuilder(corpus, resolved, tokenizer, out, work, run_tasks, report)
        try:
            content = builder.build()
            if corpus.stamp() != stamp:
                raise source_changed(source)
            manifest = Manifest(source=source, corpus=corpus.short_name, reading=corpus.reading,
                                corpus_sha256=corpus_sha256, options=resolved, **content)
            with blame(out):
                complete = seal(work, manifest.files() | {TOKENIZER_FILE})
                text = manifest.model_dump_json(indent=2) + "\n"
                (complete / MANIFEST_FILE).write_text(text, encoding="utf-8")
                move_in_place(complete, out)
        except UserError as error:
            if not isinstance(error, WorkerDied):
                remove(work)
            raise
        remove_all(out)
    store = _already_prepared(out, recipe)
    assert store is not None
    return store


def _options(source: str, tokenizer: str, fields: dict[str, Any]) -> Options:
    if source.startswith(SYNTHETIC) != (tokenizer == "none"):
        raise UserError(f"{source}: tokenizer {tokenizer}; a {SYNTHETIC} language has no text and "
                        "takes the tokenizer none, and every other source needs a tokenizer")
    if "." in tokenizer or os.sep in tokenizer:
        read_tokenizer(tokenizer)  # fails early if it is not a tokenizer file
        fields |= {"tokenizer": "file", "tokenizer_sha256": sha256_of(Path(tokenizer))}
    else:
        fields |= {"tokenizer": tokenizer}
    fields["special"] = ordered_roles(fields.get("special", ()))
    return validate(Options, fields, "prepare")


def _prepare_language(
    language: AnyLanguage, source: str, options: Options, out: Path
) -> TokenStore:
    """The store of a language: only a manifest. Special tokens follow the ids of the language."""
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
        tokenizer_hash=None, special=SpecialTokens.model_validate(recognise_special(special)),
        vocab_size=vocab_size, dtype=dtype_name(vocab_size), train=None, validation=None,
        test=None, duplicates=0,
    )
    with blame(out):
        write_atomically(out / MANIFEST_FILE, manifest.model_dump_json(indent=2) + "\n")
    return TokenStore.open(out)


def _recipe(reading: str, corpus_sha256: str, options: Options) -> str:
    """Canonical JSON of everything that determines the tokens of a store, except this code."""
    return canonical_json([reading, corpus_sha256, options.model_dump()])


def _already_prepared(out: Path, recipe: str) -> TokenStore | None:
    """The store at `out` if it has this recipe; None if `out` does not exist.

    Raises:
        UserError: `out` is something else.
    """
    if not os.path.lexists(out):
        return None
    if not (out / MANIFEST_FILE).is_file():
        raise UserError(f"{out}: exists and is not a token store, and is not overwritten; choose "
                        "another --out, or remove it")
    store = TokenStore.open(out)
    manifest = store.manifest
    if _recipe(manifest.reading, manifest.corpus_sha256, manifest.options) != recipe:
        options = ", ".join(f"{name} {value}" for name, value in manifest.options if value)
        raise UserError(
            f"{out}: is another store, and is not overwritten; it was prepared from "
            f"{manifest.source} (SHA-256 {manifest.corpus_sha256[:12]}) with {options}; choose "
            "another --out, or remove it"
        )
    return store

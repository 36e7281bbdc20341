"""`scaling data`: prepare and inspect token stores."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scaling.cli import launchers
from scaling.cli.options import JsonSwitch
from scaling.cli.stores import QUANTILES, facts, print_counts, sample_texts, statistics
from scaling.console import Bar, out, print_json, print_table, progress

if TYPE_CHECKING:
    from scaling.data.prepare.tasks import RunTasks
    from scaling.launch.launcher import Launcher

app = typer.Typer(
    help="Prepare token stores for training from text, and inspect them.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)

_MEGABYTE = 10**6


@app.command()
def prepare(
    source: Annotated[str, typer.Argument(
        metavar="SOURCE", help="Source of the text; see `scaling data list`.")],
    folder: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", show_default=False,
                     help="Folder of the store; by default stores/CORPUS-TOKENIZER."),
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(help="Tokenizer: byte (the default); bpe, wordpiece or unigram, trained on "
                     "the corpus; or the file of a published one.", show_default=False),
    ] = None,
    vocab_size: Annotated[
        int | None,
        typer.Option(metavar="TOKENS", help="Vocabulary size of a trained tokenizer, including "
                     "special tokens.", show_default=False),
    ] = None,
    special: Annotated[
        str, typer.Option(help="Special tokens in addition to the end of document, for example "
                          "cls,sep,mask,pad.", show_default=False),
    ] = "",
    sentinels: Annotated[int, typer.Option(
        help="Number of sentinel tokens for span corruption.")] = 0,
    validation_fraction: Annotated[
        float, typer.Option(help="Fraction of the documents in the validation split.")
    ] = 0.05,
    test_fraction: Annotated[
        float, typer.Option(help="Fraction of the documents in the test split.")
    ] = 0.02,
    max_bytes: Annotated[
        int | None,
        typer.Option(help="Largest number of bytes of text, from the start of the corpus; by "
                          "default all.", show_default=False),
    ] = None,
    deduplicate: Annotated[
        str, typer.Option(help="Repeated documents to drop: exact, near (also near-duplicates) or "
                          "none.")
    ] = "exact",
    contamination: Annotated[
        str, typer.Option(help="Test documents that share 13 consecutive words with the train "
                          "split: off, report or drop.")
    ] = "off",
    not_utf8: Annotated[
        str, typer.Option(help="Handling of text that is not UTF-8: refuse, skip or replace.")
    ] = "refuse",
    workers: Annotated[
        int | None,
        typer.Option(help="Worker processes, by default one for each core; or the number of jobs "
                     "that --launcher slurm submits.", show_default=False),
    ] = None,
    launcher: launchers.LauncherName = launchers.LOCAL,
    launcher_option: launchers.LauncherSettings = None,
    partition: launchers.Partition = None,
    time: launchers.Minutes = None,
    account: launchers.Account = None,
    slurm: launchers.SbatchOptions = None,
) -> None:
    """Prepare a token store from a corpus.

    Example: `scaling data prepare wheel:chitchat-dataset --tokenizer bpe --vocab-size 4096`

    Documents are assigned to splits by a hash of their text, so a document stays in its split when
    the corpus grows; repeated documents are dropped. An existing store is not changed. If it is
    interrupted, the same command continues. `--launcher slurm --workers N` reads and tokenizes in N
    jobs on the nodes of a cluster, which have to see the same files; Ctrl-C cancels the jobs.
    """
    from scaling.data.prepare import prepare as prepare_store
    from scaling.data.synthetic.parse import PREFIX as SYNTHETIC

    tokenizer = tokenizer or ("none" if source.startswith(SYNTHETIC) else "byte")
    if folder is None:
        folder = _default_folder(source, tokenizer, vocab_size)
    existed = folder.exists()
    run_tasks = _tasks_of(launcher, workers, launchers.open_launcher(launcher, launcher_option, {
        "partition": partition, "time": time, "account": account, "slurm": slurm}))
    with _Stages() as stages:
        store = prepare_store(
            source, tokenizer, vocab_size, folder, validation_fraction, max_bytes, stages,
            workers, run_tasks, special=tuple(role for role in special.split(",") if role),
            sentinels=sentinels, test_fraction=test_fraction, deduplicate=deduplicate,
            contamination=contamination, not_utf8=not_utf8,
        )
    out.print(f"{folder}: {'already prepared' if existed else 'prepared'}", markup=False)
    print_counts(store)


def _tasks_of(name: str, workers: int | None, launcher: Launcher) -> RunTasks | None:
    """Runs the tasks by a launcher; None for the pool of processes of this machine, which starts
    within a fraction of a second."""
    if name == launchers.LOCAL:
        return None
    from scaling.launch.prepare import LaunchedTasks

    launcher.count_workers(workers, 1)  # a mistake is reported before the corpus is read
    return LaunchedTasks(launcher, workers, launchers.show)


def _default_folder(source: str, tokenizer: str, vocab_size: int | None) -> Path:
    from scaling.data import sources
    from scaling.data.store import default_folder, language_folder
    from scaling.data.synthetic.parse import PREFIX as SYNTHETIC

    if source.startswith(SYNTHETIC):
        return language_folder(source)
    corpus = sources.corpus_of(one for _, one in sources.find_mix(source))
    return default_folder(corpus, tokenizer, vocab_size)


class _Stages:
    """A progress bar for each stage of preparation, with megabytes per second and the time left."""

    def __enter__(self) -> _Stages:
        self._stack, self._stage = ExitStack(), ""
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def __call__(self, stage: str, done: float, total: float) -> None:
        if stage != self._stage:
            self._stack.close()
            self._stage, self._began, self._first = stage, monotonic(), done
            total_megabytes = max(round(total / _MEGABYTE), 1)
            self._bar: Bar = self._stack.enter_context(progress(stage, total_megabytes))
        elif done > self._first:
            # Work that an earlier process finished took no time.
            rate = (done - self._first) / max(monotonic() - self._began, 1e-9)
            note = f"{rate / _MEGABYTE:.1f} MB/s, {max(total - done, 0) / rate:.0f} s left"
            self._bar.update(round(done / _MEGABYTE), note)


@app.command("list")
def list_sources(
    json_output: JsonSwitch = False,
) -> None:
    """List the sources of text, and whether they are available here.

    Example: `scaling data list`
    """
    from scaling.data import sources
    from scaling.data.synthetic.parse import KINDS, PATTERN
    from scaling.errors import UserError

    rows: list[dict[str, Any]] = []
    for known in sources.known_sources():
        size, note, problem = None, "", known.missing()
        try:
            size = known.text_bytes() if known.text_bytes else None
            note = known.find(known.pattern).note if known.corpus else ""
        except UserError as error:
            problem = str(error)
        except OSError as error:  # such as of the cache: the other sources are still listed
            problem = f"{error.filename}: {(error.strerror or str(error)).lower()}"
        rows.append({"source": known.pattern, "text": known.text, "bytes": size, "note": note,
                     "licence": known.licence, "problem": problem})
    rows.append({"source": PATTERN, "bytes": None, "licence": "none", "note": "", "problem": None,
                 "text": "a synthetic language of known entropy; KIND is one of "
                         f"{', '.join(KINDS)}"})
    if json_output:
        print_json(rows)
        return
    for row in rows:
        megabytes = f"{row['bytes'] / 1e6:.1f} MB, " if row["bytes"] else ""
        out.print(row["source"], style="bold", markup=False)
        out.print(f"    {row['text']}; {megabytes}licence: {row['licence']}", markup=False)
        note = f", {row['note']}" if row["note"] else ""
        out.print(f"    {row['problem'] or 'available' + note}", markup=False)


@app.command()
def show(
    folder: Annotated[Path, typer.Argument(metavar="STORE", help="Folder of a token store.")],
    json_output: JsonSwitch = False,
    samples: Annotated[
        int, typer.Option(min=0, help="Number of documents of the train split to show.")
    ] = 2,
    verify: Annotated[
        bool, typer.Option("--verify", help="Also read every file and check its SHA-256, the order "
                           "of documents, and that all ids are in the vocabulary.")
    ] = False,
) -> None:
    """Show the origin of a token store, its counts, document lengths, tokens and samples.

    Example: `scaling data show stores/chitchat-byte --samples 3`

    The unigram entropy is the loss of a model that predicts the token frequencies and ignores the
    context.
    """
    from scaling.data.store import TokenStore

    store = TokenStore.open(folder, verify=verify)
    shown = statistics(store) | {"samples": sample_texts(store, samples)}
    manifest = store.manifest
    if json_output:
        print_json({"path": str(folder), "hash": store.hash} | shown
                   | {"manifest": manifest.model_dump(mode="json")})
        return
    for name, value in facts(store):
        out.print(f"{name:<15}{value}", markup=False)
    out.print()
    print_counts(store)
    out.print()
    print_table("unigrams", ["split", "entropy (nats)", "distinct ids", "tokens counted"], [
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

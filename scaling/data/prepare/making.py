"""The stages of making one store, each of which goes on where an earlier try was interrupted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from scaling.data.manifest import SPLITS, Options, Split
from scaling.data.prepare.assemble import assemble
from scaling.data.prepare.contaminated import LookTask, contaminated, enter_wanted, look
from scaling.data.prepare.pieces import Corpus, Piece
from scaling.data.prepare.reading import Chosen
from scaling.data.prepare.scan import ScanTask, scan
from scaling.data.prepare.select import (
    DUPLICATE,
    NEAR_DUPLICATE,
    Scanned,
    count_fates,
    select,
)
from scaling.data.prepare.tokenizing import SAMPLE_BYTES, TokenizeTask, tokenize, training_texts
from scaling.data.prepare.work import STORE, Step
from scaling.data.prepare.workers import Tell, run
from scaling.data.sources import sha256_of
from scaling.data.special import Special
from scaling.data.tokenizers import (
    TOKENIZER_FILE,
    Tokenizer,
    dtype_name,
    load_tokenizer,
    read_tokenizer,
    train_tokenizer,
)
from scaling.errors import UserError
from scaling.files import blame

Progress = Callable[[str, float, float], None]
"""Called now and then with a stage of the work, the bytes of files that it has read, and those
that it is going to read."""

Task = TypeVar("Task", ScanTask, LookTask, TokenizeTask)


@dataclass(frozen=True)
class Making:
    """The making of one store."""

    corpus: Corpus
    options: Options
    tokenizer: str
    """As the user wrote it: perhaps a file."""
    out: Path
    work: Path
    workers: int
    report: Progress

    def store(self) -> dict[str, Any]:
        """Write all files of the store but the manifest; return what it says of them."""
        fates = self.work / "fates"
        scanned, pieces, not_utf8 = self._select(fates)
        contamination = self._contamination(scanned, pieces)
        counts = count_fates(fates, scanned)
        self._check_splits(counts.fates)
        tokenizer, learnt_from = self._tokenizer(pieces, counts.train_bytes)
        splits = self._tokenize(pieces, tokenizer)
        return splits | {
            "tokenizer": tokenizer.kind,
            "tokenizer_hash": tokenizer.hash,
            "tokenizer_bytes": learnt_from,
            "special": tokenizer.special,
            "vocab_size": tokenizer.vocab_size,
            "dtype": dtype_name(tokenizer.vocab_size),
            "duplicates": counts.fates[DUPLICATE],
            "near_duplicates": counts.fates[NEAR_DUPLICATE],
            "contaminated": contamination,
            "not_utf8": not_utf8,
        }

    def _select(self, fates: Path) -> tuple[list[Scanned], list[Chosen], int]:
        """Scan the corpus and decide the fate of each document: the blocks, the pieces, and the
        documents that were not UTF-8.

        With `max_bytes` no more of a source is scanned than is needed to know that it is reached.
        """
        pieces = self.corpus.pieces()
        wanted = len(pieces)
        if self.options.max_bytes is not None and not self.corpus.is_mix:
            wanted = 1
        while True:
            steps = [self._step("scan", piece) for piece in pieces[:wanted]]
            tasks = [ScanTask(piece, self.options, step)
                     for piece, step in zip(pieces, steps, strict=False)]
            results = self._run("scanning", scan, tasks)
            scanned: list[Scanned] = []
            chosen: list[Chosen] = []
            first = 0
            for piece, step, result in zip(pieces, steps, results, strict=False):
                chosen.append(Chosen(piece, fates, first, sum(result["documents"])))
                for block, documents in enumerate(result["documents"]):
                    scanned.append(Scanned(piece, step, block, first, documents))
                    first += documents
            self.report("choosing documents", 0.0, 0.0)
            reached = select(self.corpus, scanned, self.options, fates, self.out)
            if reached or wanted >= len(pieces):
                break
            wanted *= 2
        if not first:
            raise UserError(f"{self.corpus.name}: there is no text in its files")
        return scanned, chosen, sum(result["not_utf8"] for result in results)

    def _contamination(
        self, scanned: Sequence[Scanned], pieces: Sequence[Chosen]
    ) -> int | None:
        if self.options.contamination == "off":
            return None
        wanted = Step(self.work, self.out, "wanted")
        enter_wanted(scanned, self.work / "fates", wanted)
        tasks = [LookTask(piece, self._step("look", piece.piece), wanted) for piece in pieces]
        results = self._run("looking for contamination", look, tasks)
        self.report("matching contamination", 0.0, 0.0)
        looked = [(task.step, result["blocks"])
                  for task, result in zip(tasks, results, strict=True)]
        return contaminated(scanned, looked, self.work / "fates",
                            drop=self.options.contamination == "drop")

    def _check_splits(self, fates: dict[int, int]) -> None:
        documents = sum(fates[place] for place in range(len(SPLITS)))
        for name in ("train", "validation"):
            if not fates[SPLITS.index(name)]:
                raise UserError(
                    f"{self.corpus.name}: the {name} split would be empty: of {documents:,} "
                    "documents each goes to validation with a chance of "
                    f"{self.options.validation_fraction:g}; take more documents, or change "
                    "--validation-fraction"
                    + (" or --max-bytes" if self.options.max_bytes else "")
                )

    def _tokenizer(
        self, pieces: Sequence[Chosen], train_bytes: int
    ) -> tuple[Tokenizer, int]:
        """The tokenizer, saved in the store, and the bytes of text that it was learnt from."""
        options = self.options
        roles = ("eos", *options.special)
        if options.tokenizer == "file":
            tokenizer = read_tokenizer(self.tokenizer, options.sentinels, options.special)
            tokenizer.save(self.work / STORE)
            return tokenizer, 0
        if options.tokenizer == "byte":
            return train_tokenizer("byte", (), None, roles, options.sentinels), 0
        assert options.tokenizer != "none"  # a language's, which is not made here
        step = Step(self.work, self.out, "tokenizer")
        result = step.finished()
        if result is None:
            tell = self._telling(f"reading for the {options.tokenizer}", self._size(pieces))

            def texts() -> Iterator[str]:
                yield from training_texts(pieces, train_bytes, tell)
                self.report(f"learning the {options.tokenizer}", 0.0, 0.0)

            learnt = train_tokenizer(options.tokenizer, texts(), options.vocab_size, roles,
                                     options.sentinels)
            file = self.work / STORE / TOKENIZER_FILE
            with blame(self.out):
                learnt.save(self.work / STORE)
            result = step.finish({"special": learnt.special.model_dump()},
                                 {f"{STORE}/{file.name}": sha256_of(file)})
        special = Special.model_validate(result["special"])
        return (load_tokenizer(options.tokenizer, self.work / STORE, special),
                min(train_bytes, SAMPLE_BYTES))

    def _tokenize(
        self, pieces: Sequence[Chosen], tokenizer: Tokenizer
    ) -> dict[str, Split | None]:
        tasks = [TokenizeTask(piece, self._step("tokens", piece.piece), tokenizer.kind,
                              self.work / STORE, tokenizer.special) for piece in pieces]
        results = self._run("tokenizing", tokenize, tasks)
        self.report("writing indexes", 0.0, 0.0)
        tokenized = [(task.step, result) for task, result in zip(tasks, results, strict=True)]
        return {name: assemble(name, tokenized, self.work, self.out) for name in SPLITS}

    def _run(
        self,
        stage: str,
        function: Callable[[Task, Tell], dict[str, Any]],
        tasks: Sequence[Task],
    ) -> list[dict[str, Any]]:
        """The results of tasks, those of finished ones from their notes."""
        results = [task.step.finished() for task in tasks]
        tell = self._telling(stage, sum(_piece(task).size for task in tasks))
        tell(sum(_piece(task).size for task, result in zip(tasks, results, strict=True)
                 if result is not None))
        todo = [task for task, result in zip(tasks, results, strict=True) if result is None]
        new = iter(run(function, todo, self.workers, tell))
        return [next(new) if result is None else result for result in results]

    def _telling(self, stage: str, total: float) -> Tell:
        done = 0.0

        def tell(size: float) -> None:
            nonlocal done
            done += size
            self.report(stage, done, total)

        return tell

    def _step(self, kind: str, piece: Piece) -> Step:
        return Step(self.work, self.out, f"{kind}-{piece.number:05}")

    def _size(self, pieces: Sequence[Chosen]) -> float:
        return sum(piece.piece.size for piece in pieces)


def _piece(task: Task) -> Piece:
    return task.piece if isinstance(task, ScanTask) else task.chosen.piece

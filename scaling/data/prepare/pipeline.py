"""The steps that build one store, each resumed if an earlier attempt was interrupted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scaling.data.manifest import SPLITS, Component, Options, Split
from scaling.data.prepare.assemble import assemble
from scaling.data.prepare.contamination import (
    ContaminationTask,
    build_test_filter,
    mark_contaminated,
)
from scaling.data.prepare.pieces import Corpus, Piece
from scaling.data.prepare.scan import ScanTask
from scaling.data.prepare.select import (
    DUPLICATE,
    NEAR_DUPLICATE,
    DecisionCounts,
    ScannedBlock,
    count_decisions,
    select,
)
from scaling.data.prepare.selected import SelectedPiece
from scaling.data.prepare.tasks import PieceTask, RunTasks, TaskBatch, piece_of, step_name
from scaling.data.prepare.tokenizing import SAMPLE_BYTES, TokenizeTask, training_texts
from scaling.data.prepare.work import DECISIONS, STORE, TEST_FILTER, WorkStep
from scaling.data.prepare.workers import ReportBytes
from scaling.data.sources import sha256_of
from scaling.data.tokenizers import (
    TOKENIZER_FILE,
    Tokenizer,
    dtype_name,
    load_tokenizer,
    read_tokenizer,
    train_tokenizer,
)
from scaling.data.tokenizers.special import SpecialTokens
from scaling.errors import UserError
from scaling.files import blame

ProgressCallback = Callable[[str, float, float], None]
"""Called with (stage, bytes of files read so far, total bytes to read) as the work proceeds."""


@dataclass(frozen=True)
class StoreBuilder:
    """Builds one store in a work folder."""

    corpus: Corpus
    options: Options
    tokenizer: str
    """Tokenizer as specified by the user, which may be a file."""
    out: Path
    work: Path
    run_tasks: RunTasks
    report: ProgressCallback

    def build(self) -> dict[str, Any]:
        """Write all files of the store but the manifest, and return the manifest's fields for them.
        """
        decisions = self.work / DECISIONS
        scanned, pieces, not_utf8 = self._select(decisions)
        contamination = self._contamination(scanned, pieces)
        counts = count_decisions(decisions, scanned, len(self.corpus.sources))
        mixture = self._mixture(counts)
        self._check_splits(counts.decisions)
        tokenizer, sample_bytes = self._tokenizer(pieces, counts.train_bytes)
        splits = self._tokenize(pieces, tokenizer)
        return splits | {
            "tokenizer": tokenizer.kind,
            "tokenizer_hash": tokenizer.hash,
            "tokenizer_bytes": sample_bytes,
            "special": tokenizer.special,
            "vocab_size": tokenizer.vocab_size,
            "dtype": dtype_name(tokenizer.vocab_size),
            "duplicates": counts.decisions[DUPLICATE],
            "near_duplicates": counts.decisions[NEAR_DUPLICATE],
            "contaminated": contamination,
            "not_utf8": not_utf8,
            "mixture": mixture,
        }

    def _select(self, decisions: Path) -> tuple[list[ScannedBlock], list[SelectedPiece], int]:
        """Scan the corpus and determine the decision of each document.

        With `max_bytes`, pieces of a single source are scanned until the limit is reached, twice as
        many in each round.

        Returns:
            The scanned blocks, the pieces, and the number of documents that were not UTF-8.
        """
        pieces = self.corpus.pieces()
        n_pieces = len(pieces)
        if self.options.max_bytes is not None and not self.corpus.is_mix:
            n_pieces = 1
        while True:
            steps = [self._step("scan", piece) for piece in pieces[:n_pieces]]
            tasks = [ScanTask(piece, self.options, step)
                     for piece, step in zip(pieces, steps, strict=False)]
            results = self._run("scanning", tasks)
            scanned: list[ScannedBlock] = []
            selected: list[SelectedPiece] = []
            first = 0
            for piece, step, result in zip(pieces, steps, results, strict=False):
                selected.append(SelectedPiece(piece, decisions, first, sum(result["documents"])))
                for block, documents in enumerate(result["documents"]):
                    scanned.append(ScannedBlock(piece, step, block, first, documents))
                    first += documents
            self.report("selecting documents", 0.0, 0.0)
            reached = select(self.corpus, scanned, self.options, decisions, self.out)
            if reached or n_pieces >= len(pieces):
                break
            n_pieces *= 2
        if not first:
            raise UserError(f"{self.corpus.name}: there is no text in its files")
        return scanned, selected, sum(result["not_utf8"] for result in results)

    def _contamination(
        self, scanned: Sequence[ScannedBlock], pieces: Sequence[SelectedPiece]
    ) -> int | None:
        if self.options.contamination == "off":
            return None
        test_filter = WorkStep(self.work, self.out, TEST_FILTER)
        build_test_filter(scanned, self.work / DECISIONS, test_filter)
        tasks = [ContaminationTask(piece, self._step("contamination", piece.piece), test_filter)
                 for piece in pieces]
        results = self._run("searching for contamination", tasks)
        self.report("matching contamination", 0.0, 0.0)
        searched = [(task.step, result["blocks"])
                  for task, result in zip(tasks, results, strict=True)]
        return mark_contaminated(scanned, searched, self.work / DECISIONS,
                            drop=self.options.contamination == "drop")

    def _mixture(self, counts: DecisionCounts) -> tuple[Component, ...]:
        """The bytes used of each source of a mix; empty for a single source."""
        if not self.corpus.is_mix:
            return ()
        parts = list(zip(self.corpus.sources, self.corpus.shares, counts.used, counts.available,
                         strict=True))
        for source, share, used, available in sorted(parts, key=lambda part: part[-1]):
            if not used:
                reason = ("the sources before it contain all of its text" if not available
                          else f"a share of {share:.1e} is less than one of its documents")
                raise UserError(f"{self.corpus.name}: nothing of {source.name} would be used, "
                                f"since {reason}; change the weights, or leave it out")
        return tuple(Component(source=source.name, share=share, bytes=used, available=available)
                     for source, share, used, available in parts)

    def _check_splits(self, decisions: dict[int, int]) -> None:
        documents = sum(decisions[place] for place in range(len(SPLITS)))
        for name in ("train", "validation"):
            if not decisions[SPLITS.index(name)]:
                raise UserError(
                    f"{self.corpus.name}: the {name} split would be empty: each of {documents:,} "
                    "documents is in validation with probability "
                    f"{self.options.validation_fraction:g}; use more documents, or change "
                    "--validation-fraction"
                    + (" or --max-bytes" if self.options.max_bytes else "")
                )

    def _tokenizer(
        self, pieces: Sequence[SelectedPiece], train_bytes: int
    ) -> tuple[Tokenizer, int]:
        """The tokenizer, saved in the store, and the bytes of text that it was trained on."""
        options = self.options
        roles = ("eos", *options.special)
        if options.tokenizer == "file":
            tokenizer = read_tokenizer(self.tokenizer, options.sentinels, options.special)
            tokenizer.save(self.work / STORE)
            return tokenizer, 0
        if options.tokenizer == "byte":
            return train_tokenizer("byte", (), None, roles, options.sentinels), 0
        assert options.tokenizer != "none"  # languages are not prepared here
        step = WorkStep(self.work, self.out, "tokenizer")
        result = step.load_result()
        if result is None:
            report_bytes = self._reporter(f"reading text for the {options.tokenizer} tokenizer",
                                          self._size(pieces))

            def texts() -> Iterator[str]:
                yield from training_texts(pieces, train_bytes, report_bytes)
                self.report(f"training the {options.tokenizer} tokenizer", 0.0, 0.0)

            trained = train_tokenizer(options.tokenizer, texts(), options.vocab_size, roles,
                                      options.sentinels)
            file = self.work / STORE / TOKENIZER_FILE
            with blame(self.out):
                trained.save(self.work / STORE)
            result = step.finish({"special": trained.special.model_dump()},
                                 {f"{STORE}/{file.name}": sha256_of(file)})
        special = SpecialTokens.model_validate(result["special"])
        return (load_tokenizer(options.tokenizer, self.work / STORE, special),
                min(train_bytes, SAMPLE_BYTES))

    def _tokenize(
        self, pieces: Sequence[SelectedPiece], tokenizer: Tokenizer
    ) -> dict[str, Split | None]:
        tasks = [TokenizeTask(piece, self._step("tokens", piece.piece), tokenizer.kind,
                              self.work / STORE, tokenizer.special) for piece in pieces]
        results = self._run("tokenizing", tasks)
        self.report("writing indexes", 0.0, 0.0)
        tokenized = [(task.step, result) for task, result in zip(tasks, results, strict=True)]
        return {name: assemble(name, tokenized, self.work, self.out) for name in SPLITS}

    def _run(self, stage: str, tasks: Sequence[PieceTask]) -> list[dict[str, Any]]:
        """The results of tasks; those of finished ones are loaded, the others run in workers."""
        results = [task.step.load_result() for task in tasks]
        report_bytes = self._reporter(stage, sum(piece_of(task).size for task in tasks))
        report_bytes(sum(piece_of(task).size for task, result in zip(tasks, results, strict=True)
                 if result is not None))
        todo = [task for task, result in zip(tasks, results, strict=True) if result is None]
        if not todo:
            return [result for result in results if result is not None]
        batch = TaskBatch(self.corpus, self.options, todo)
        new = iter(self.run_tasks(batch, report_bytes))
        return [next(new) if result is None else result for result in results]

    def _reporter(self, stage: str, total: float) -> ReportBytes:
        done = 0.0

        def report_bytes(size: float) -> None:
            nonlocal done
            done += size
            self.report(stage, done, total)

        return report_bytes

    def _step(self, kind: str, piece: Piece) -> WorkStep:
        return WorkStep(self.work, self.out, step_name(kind, piece))

    def _size(self, pieces: Sequence[SelectedPiece]) -> float:
        return sum(piece.piece.size for piece in pieces)


"""Every reader of a file that somebody else may have written, as a table.

A row says how a valid file comes about, and how it is read and used. What may come of any change of
the file is a UserError that names it, or that it works; a check of what works is in the row.

A new reader is one function with `@reader` before it.
"""

from __future__ import annotations

import gzip
import json
import lzma
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from scaling.config import RunConfig, SweepConfig, load, override, validate
from scaling.config.text import read_yaml
from scaling.data import sources
from scaling.data.prepare import prepare
from scaling.data.statistics import length_quantiles, unigram_counts
from scaling.data.store import TokenStore
from scaling.data.tokenizers import load_tokenizer, read_tokenizer
from scaling.errors import UserError
from scaling.files import parse_json, read_bytes
from tests.conftest import ROOT, run_content
from tests.data.test_tokenizers_published import BERT, GPT2_TOKENS, MODEL, rank_lines
from tests.tiny_sweep import begin, end

CONFIGS = ROOT / "configs"


@dataclass(frozen=True)
class Prepared:
    """A valid file, and how it is read."""

    path: Path
    """The file that is changed."""
    read: Callable[[], object]
    """Reads and uses it, in the same process, again and again."""
    valid: tuple[bytes, ...] = ()
    """What it may hold that is valid; by default what is there."""
    names: str = ""
    """What every message has to name: by default the file; "*" for anything, where the reader gets
    a content whose file it does not know."""
    restore: Callable[[], object] | None = None
    """Undoes what reading has done, before the file is written anew."""


Prepare = Callable[[Path, "Made"], Prepared]
"""Makes it in an empty folder."""


@dataclass(frozen=True)
class Reader:
    """A row of the table."""

    name: str
    prepare: Prepare
    few: int = 200
    """Examples in `make test`."""
    many: int = 10_000
    """Examples in `make test-fuzz`."""
    why: str = ""
    """Why they are fewer than of the others."""


READERS: list[Reader] = []


def reader(
    name: str, few: int = 200, many: int = 10_000, why: str = ""
) -> Callable[[Prepare], Prepare]:
    """Put a row into the table."""
    def add(prepare: Prepare) -> Prepare:
        READERS.append(Reader(name, prepare, few, many, why))
        return prepare

    return add


@dataclass
class Made:
    """What takes long to make and stays as it is, for all rows."""

    folder: Path
    store: Path
    """A token store of bytes (tests/conftest.py)."""

    @cached_property
    def bpe_store(self) -> Path:
        """A token store with a tokenizer, and a split for tests."""
        lines = [json.dumps({"text": f"some words, number {i}"}) for i in range(100)]
        (self.folder / "a.jsonl").write_text("\n".join(lines))
        return prepare(f"jsonl:{self.folder}/a.jsonl#text", "bpe", 270, self.folder / "bpe", 0.2,
                       test_fraction=0.1, workers=1).path

    @cached_property
    def sweep(self) -> SweepConfig:
        """Two sizes by two token counts."""
        one = {"n_layers": 1, "n_heads": 1}
        run = run_content(self.store)
        del run["tokens"]
        return validate(SweepConfig, {
            "name": "tiny", "run": run | {"model": {"context": 16}},
            "sizes": [{"d_model": 8, **one}, {"d_model": 16, **one}],
            "grids": [{"kind": "product", "tokens": [24 * 64, 48 * 64]}],
            "learning_rate": {"rule": "power", "learning_rate": 1e-2, "reference_params": 1000,
                              "exponent": -0.5},
        }, "tiny")

    @cached_property
    def results(self) -> Path:
        """A results folder: runs.csv, curves.csv, and laws.json with two laws and a frontier."""
        import pandas as pd

        from scaling.laws import fit_approach, fit_law, read, save
        from scaling.laws.design import grid
        from scaling.laws.design.fisher import Noise
        from scaling.laws.design.simulate import simulate
        from scaling.laws.published import published

        folder = self.folder / "results"
        folder.mkdir()
        law = published()["besiroglu2024"].law
        assert law is not None
        runs = simulate(law, grid.isoflop(np.geomspace(1e18, 1e20, 4), law=law), Noise(0.003))
        runs.to_csv(folder / "runs.csv", index=False)
        curves = pd.DataFrame({"run_id": np.repeat(runs["run_id"][:3], 3),
                               "tokens": [10, 20, 30] * 3, "loss": [5.0, 4.0, 3.5] * 3})
        curves.to_csv(folder / "curves.csv", index=False)
        table = read(folder)
        save([fit_law(table, "chinchilla", resamples=8), fit_law(table, "kaplan-n", resamples=8),
              fit_approach(table, "approach-2")], folder / "laws.json")
        return folder

    @cached_property
    def stopped(self) -> tuple[Any, Path]:
        """A run that was stopped with two checkpoints, and its folder."""
        from scaling.training.loop import Stopped, train
        from scaling.training.resolve import resolve

        store = TokenStore.open(self.store)
        run = resolve(validate(RunConfig, run_content(
            self.store, checkpoint={"every_seconds": 0}), "test"), store)
        steps = iter(range(1, 100))
        path = self.folder / "stopped"
        assert isinstance(train(run, store, path, asked_to_stop=lambda: next(steps) == 4), Stopped)
        return run, path


# Configurations


def _config(cls: type, path: Path, files: list[Path]) -> Prepared:
    # As JSON too, which is YAML, and whose values can be changed.
    texts = [file.read_bytes() for file in files]
    texts += [json.dumps(read_yaml(file)).encode() for file in files] * 2

    def read() -> None:
        load(cls, path).model_dump(mode="json")

    return Prepared(path, read, tuple(texts))


_YAML = "3 ms each, in PyYAML's parser, which is Python"


@reader("run YAML", many=3000, why=_YAML)
def _(folder: Path, made: Made) -> Prepared:
    return _config(RunConfig, folder / "run.yaml", sorted(CONFIGS.glob("runs/*.yaml")))


@reader("sweep YAML", many=2000, why=_YAML)
def _(folder: Path, made: Made) -> Prepared:
    return _config(SweepConfig, folder / "sweep.yaml", sorted(CONFIGS.glob("sweeps/*.yaml")))


@reader("overrides")
def _(folder: Path, made: Made) -> Prepared:
    content = read_yaml(CONFIGS / "runs/gpt_tiny.yaml")
    path = folder / "overrides"
    path.write_text("model.d_model=64\noptimizer.b2=0.95\nschedule={kind: wsd, warmup_steps: 3}\n"
                    "objective={kind: causal}\nmodel.use_bias=true\n"
                    "data.store='a b'\nmodel.window=null")

    def read() -> None:
        # As the command line has what is not UTF-8.
        words = path.read_bytes().decode("utf-8", "surrogateescape").split("\n")
        validate(RunConfig, override(content, words, RunConfig), str(path))

    return Prepared(path, read, names="*")


# Tables, laws and results


@reader("runs.csv", many=5000, why="3 ms each: pandas reads it three times")
def _(folder: Path, made: Made) -> Prepared:
    from scaling.laws import read as read_runs

    path = Path(shutil.copy(made.results / "runs.csv", folder))

    def read() -> None:
        read_runs(path)
        with suppress(UserError):
            read_runs(path, n="params_total", c="flops_6nd")
        with suppress(UserError):
            read_runs(path, d="tokens", c="flops_6nd")

    return Prepared(path, read)


@reader("runs.csv of a sweep")
def _(folder: Path, made: Made) -> Prepared:
    from scaling.sweeps.kept_rows import rows_of, with_kept_runs
    from scaling.sweeps.planning.run_status import _table_rows
    from scaling.sweeps.table import COLUMNS

    (folder / "tiny").mkdir()
    path = folder / "tiny" / "runs.csv"
    shutil.copy(ROOT / "results/quickstart/runs.csv", path)
    rows = rows_of(path, COLUMNS)[:5]

    def read() -> None:
        for run_id, sweep in _table_rows(folder):
            assert run_id
            assert sweep
        with_kept_runs(rows, rows_of(path, COLUMNS))

    return Prepared(path, read)


@reader("curves.csv of a sweep")
def _(folder: Path, made: Made) -> Prepared:
    from scaling.sweeps.kept_rows import rows_of, with_kept_curves
    from scaling.sweeps.table import CURVE_COLUMNS

    path = Path(shutil.copy(made.results / "curves.csv", folder))
    rows = rows_of(path, CURVE_COLUMNS)

    def read() -> None:
        with_kept_curves(rows, rows_of(path, CURVE_COLUMNS), {"run"}, {rows[0]["run_id"]})

    return Prepared(path, read)


@reader("schedules of a law", many=5000, why="a form is made of each")
def _(folder: Path, made: Made) -> Prepared:
    from scaling.laws import schedule_law

    path = folder / "rates.csv"
    path.write_text("schedule,step,rate\nwsd,1,1e-5\nwsd,100,3e-4\nwsd,800,3e-4\nwsd,900,0\n"
                    "cosine,0,0\ncosine,100,3e-4\ncosine,500,2e-4\ncosine,900,3e-5\n")

    def read() -> None:
        form = schedule_law("multi-power", path)
        assert len(form.labels["schedule"]) > 0

    return Prepared(path, read)


@reader("laws.json")
def _(folder: Path, made: Made) -> Prepared:
    from scaling.laws import allocate
    from scaling.laws.io import load as load_laws

    path = Path(shutil.copy(made.results / "laws.json", folder))

    def read() -> None:
        for law in load_laws(path):
            json.dumps(law.to_json())
            with suppress(UserError):
                row = allocate(law, 1e21)
                assert row.n is None or (row.d is not None and row.n >= 1 and row.d >= 1)

    return Prepared(path, read)


@reader("ledger of forecasts", many=5000, why="2 ms each: the runs are read, too")
def _(folder: Path, made: Made) -> Prepared:
    from scaling.laws import Fit, check_forecasts, load, seal_heldout

    runs = ROOT / "results/quickstart/runs.csv"
    table = pd.read_csv(runs)
    path = folder / "forecasts.jsonl"
    laws = {name: law for name, law in load(made.results / "laws.json").items()
            if isinstance(law, Fit)}
    seal_heldout(laws, path, table.assign(
        status=np.where(table["role"] == "heldout", "planned", "done")))

    def read() -> None:
        found = check_forecasts(path, table)
        json.dumps(found.to_json(), allow_nan=False)
        assert found.text()

    return Prepared(path, read)


@reader("ledger of forecasts whose hashes are right", many=5000,
        why="2 ms each: the runs are read, too")
def _(folder: Path, made: Made) -> Prepared:
    """Anyone can compute hashes, so every value is checked as well."""
    from scaling.laws import check_forecasts, published, seal_forecast
    from scaling.laws.forecasts.ledger import canonical, sha256_of

    path, sealed = folder / "forecasts.jsonl", folder / "sealed.jsonl"
    law = published()["besiroglu2024"].law
    assert law is not None
    seal_forecast(law, path, n=1e6, d=1e7)
    table = pd.DataFrame({"params_total": [1e6], "tokens": [1e7], "loss": [3.0]})

    def read() -> None:
        try:
            content = json.loads(path.read_bytes())
            content.pop("sha256", None)
            line = canonical(content | {"sha256": sha256_of(content)})
        except (ValueError, RecursionError, AttributeError, TypeError):  # no record at all
            return
        sealed.write_text(line + "\n")
        found = check_forecasts(sealed, table)
        json.dumps(found.to_json(), allow_nan=False)
        assert found.text()

    return Prepared(path, read, names="*")


def _of_results(name: str) -> Prepare:
    def prepare(folder: Path, made: Made) -> Prepared:
        from scaling.figures.results import open_results

        shutil.copytree(made.results, folder, dirs_exist_ok=True)

        def read() -> None:
            results = open_results(folder)
            assert isinstance(results.stale, list)

        return Prepared(folder / name, read, names=str(folder))

    return prepare


for _name in ("runs.csv", "curves.csv", "laws.json"):
    reader(f"results folder: {_name}", many=1500,
           why="10 ms each: pandas reads every table several times")(_of_results(_name))


def _drawn(name: str) -> Prepare:
    def prepare(folder: Path, made: Made) -> Prepared:
        from scaling.figures.results import draw, open_results

        shutil.copytree(made.results, folder, dirs_exist_ok=True)

        def read() -> None:
            assert [*draw(open_results(folder))]

        return Prepared(folder / name, read, names=str(folder))

    return prepare


for _name in ("runs.csv", "curves.csv", "laws.json"):
    reader(f"figures: {_name}", few=50, many=200,
           why="50 ms each: matplotlib draws four figures")(_drawn(_name))


@reader("sweep.json")
def _(folder: Path, made: Made) -> Prepared:
    from scaling.sweeps.plan import check_results, claim_results, make_plan

    plan = make_plan(made.sweep, "tiny", folder / "runs")
    claim_results(plan, folder)

    def read() -> None:
        check_results(plan, folder)

    return Prepared(folder / "sweep.json", read, names=str(folder))


# Run folders


def _of_a_run(which: str) -> Prepare:
    def prepare(folder: Path, made: Made) -> Prepared:
        from scaling.runs.state import FAILURE, UNREADABLE, record_failure, run_state
        from scaling.sweeps.plan import make_plan

        planned = make_plan(made.sweep, "tiny", folder / "runs").runs[0]
        run = planned.folder
        begin(planned, 5, 10)
        if which in ("record.json", "failure.json"):
            record_failure(run, ValueError("no room"))
        run.config_path.write_text(json.dumps(
            {"run_id": planned.run_id, "config": {"seed": 1}, "semantic": {"data": "x"}}))
        with run.lock() as lease:
            assert lease is not None
            held = lease.path.read_bytes()
        lease.path.write_bytes(held)
        if which == "record.json":
            end(planned, tokens=1536, finished="2026-01-02T03:04:05+00:00", run_id=planned.run_id)
        path = {"lease": lease.path, "metrics.jsonl": run.metrics_path,
                "failure.json": run.path / FAILURE}.get(which, run.path / which)
        states = {"new", "partial", "running", "done", "diverged", "failed", UNREADABLE}

        def read() -> None:
            now = run_state(planned)
            assert now.state in states
            assert (now.state == UNREADABLE) <= bool(now.note)
            assert now.loss is None or isinstance(now.loss, int | float)
            assert f"{now.step:,}"
            for each in (run.free, run.alive, run.locked, run.metrics, run.record):
                each()
            if which == "config.json":
                with suppress(UserError):  # of another run
                    run.check()

        return Prepared(path, read)

    return prepare


for _name in ("record.json", "metrics.jsonl", "lease", "failure.json", "config.json"):
    reader(_name)(_of_a_run(_name))


@reader("trunk origin")
def _(folder: Path, made: Made) -> Prepared:
    from scaling.runs.trunk import validate_origin

    path = folder / "origin"
    path.write_text(json.dumps({"run_id": "0" * 16, "metrics": [
        {"step": 5, "tokens": 320, "loss": 5.5, "seconds": 1.0}, {"step": 10, "eval_loss": None}]}))

    def read() -> None:
        run_id, lines = validate_origin(parse_json(read_bytes(path), str(path)), path)
        assert isinstance(run_id, str)
        assert all(line["step"] >= 0 for line in lines)

    return Prepared(path, read)


def _checkpoint(name: str, part: str) -> Prepare:
    def prepare(folder: Path, made: Made) -> Prepared:
        import jax

        from scaling.parallel import make_mesh
        from scaling.training.checkpoint import Checkpoints
        from scaling.training.step import init_state

        run, stopped = made.stopped
        kept, path = stopped / "checkpoints", folder / "checkpoints"
        steps = sorted(int(each.name) for each in kept.glob("[0-9]*"))
        changed = path / str(steps[-1]) / part
        with jax.set_mesh(make_mesh(run.execution.mesh)):
            like = init_state(run)

        def restore() -> None:
            shutil.rmtree(path, ignore_errors=True)
            shutil.copytree(kept, path)
            if name != "files.json":  # which tells of any change of another file
                (path / str(steps[-1]) / "files.json").unlink()

        def read() -> None:
            before = {each.read_bytes() for each in path.rglob("*") if each.is_file()}
            try:
                with jax.set_mesh(make_mesh(run.execution.mesh)), Checkpoints(path) as checkpoints:
                    found = checkpoints.restore(like)
                assert found is not None  # the one before it is whole
                assert found[1].step in steps
            finally:
                after = {each.read_bytes() for each in path.rglob("*") if each.is_file()}
                assert before <= after, "a file is gone"

        restore()
        return Prepared(changed, read, names=str(path), restore=restore)

    return prepare


for _name, _part in {"files.json": "files.json", "of the checkpoint": "_CHECKPOINT_METADATA",
                     "_METADATA": "state/_METADATA", "progress": "progress/metadata"}.items():
    reader(f"checkpoint: {_name}", few=30, many=100,
           why="60 to 180 ms each: Orbax restores one, or two where the newest is damaged",
           )(_checkpoint(_name, _part))


# Sweeps


@reader("index.json")
def _(folder: Path, made: Made) -> Prepared:
    from scaling.sweeps import index as indices
    from scaling.sweeps.index import index_of
    from scaling.sweeps.plan import make_plan
    from scaling.sweeps.status import status_of

    runs = folder / "runs"
    runs.mkdir()
    end(make_plan(made.sweep, "tiny", runs).runs[0])
    (runs / "logs").mkdir(exist_ok=True)
    index = index_of(made.sweep, "tiny", runs)
    status_of(index)
    key = index.key

    def read() -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(indices, "_key", lambda sweep: key)  # which takes a hash of our code
            patch.setattr(indices, "_planned", lambda *_: index.runs)
            for row in status_of(index_of(made.sweep, "tiny", runs)).rows:
                assert row.to_json()

    return Prepared(index.path, read)


@reader("plan for workers")
def _(folder: Path, made: Made) -> Prepared:
    from scaling.launch.jobs import jobs_of
    from scaling.launch.worker_plan import read_plan, write_plan
    from scaling.sweeps.plan import make_plan

    runs = make_plan(made.sweep, "tiny", folder / "runs").runs
    path = write_plan(jobs_of(runs), folder / "runs" / "logs", "tiny.grid")

    def read() -> None:
        for job in read_plan(path).jobs:
            assert job.folder.path.parent == folder / "runs"
            job.ready()

    return Prepared(path, read)


@reader("tasks of a corpus")
def _(folder: Path, made: Made) -> Prepared:
    from scaling.data.prepare.tasks import read_tasks, write_tasks

    (folder / "a.jsonl").write_text("".join(f'{{"text": "document {i}"}}\n' for i in range(20)))
    found = []

    def stop(batch: Any, report_bytes: Any) -> list[dict[str, Any]]:
        found.append(batch)
        raise KeyboardInterrupt

    with suppress(KeyboardInterrupt):
        prepare(f"jsonl:{folder}/a.jsonl#text", "byte", None, folder / "store", run_tasks=stop)
    (batch,) = found
    path = batch.work / "logs" / "prepare-scan.tasks.json"
    write_tasks(batch, path)
    here = Path.cwd()

    def read() -> None:
        try:
            for task in read_tasks(path).tasks:
                assert task.step.path("json").parent == batch.work
        except UserError as error:
            raise UserError(str(error)[:5000]) from None  # it has the source, of any length
        finally:
            os.chdir(here)

    return Prepared(path, read, names="*")


@reader("error of a worker")
def _(folder: Path, made: Made) -> Prepared:
    from scaling.launch.piece_worker import read_error

    path = folder / "prepare-scan.error.json"
    content = {"kind": "system", "number": 28, "text": "No space left", "file": "store"}
    path.write_text(json.dumps(content))

    def read() -> None:
        error = read_error(path, folder)
        assert isinstance(error, Exception)
        assert str(error)

    return Prepared(path, read)


@reader("exported.json")
def _(folder: Path, made: Made) -> Prepared:
    from scaling.sweeps.wandb_export import _exported, _remove_unknown

    (folder / "wandb").mkdir()
    path = folder / "wandb" / "exported.json"
    run = {"record": "0" * 64, "folder": f"offline-run-20260102_030405-{'0' * 16}"}
    path.write_text(json.dumps({"offline:tiny": {"0" * 16: run, "1" * 16: run}}))

    def read() -> None:
        _remove_unknown(folder, "0" * 16, _exported(path))

    return Prepared(path, read)


@reader("Slurm's jobs")
def _(folder: Path, made: Made) -> Prepared:
    from scaling.launch.slurm import _submitted

    path = folder / "tiny.slurm.json"
    path.write_text(json.dumps({"jobs": ["17", "4711"]}))

    def read() -> None:
        assert all(job.isdigit() for job in _submitted(path))

    return Prepared(path, read)


@reader("step_times.json")
def _(folder: Path, made: Made) -> Prepared:
    from scaling.sweeps.measure import _read_cache

    path = folder / "step_times.json"
    path.write_text(json.dumps({"0" * 64: 1.5e-6, "1" * 64: 2e-7}))

    def read() -> None:
        assert all(0 < seconds < np.inf for seconds in _read_cache(path).values())

    return Prepared(path, read)


@reader("words of a worker")
def _(folder: Path, made: Made) -> Prepared:
    from scaling.runs.logs import RunLog, newest_log_by_run

    path = folder / "tiny.worker-0.log"
    run_id = "0123456789abcdef"
    path.write_text(f"{run_id}: begins\n  of 24 steps\n{'1' * 16}: begins\n{run_id}: done\n")

    def read() -> None:
        newest_log_by_run(folder)
        RunLog(folder, run_id).new_lines()

    return Prepared(path, read)


# Token stores, tokenizers and corpora


def _of_a_store(name: str) -> Prepare:
    def prepare(folder: Path, made: Made) -> Prepared:
        store = shutil.copytree(made.bpe_store, folder / "store")
        special = TokenStore.open(store).special

        def read() -> None:
            with suppress(UserError):
                TokenStore.open(store, verify=True)
            if name == "tokenizer.json":  # whose hash would be that of the manifest
                tokenizer = load_tokenizer("bpe", store, special)
                ids = tokenizer.encode("some words and \u00e9\n")
                tokenizer.decode([number for number in ids if number < tokenizer.vocab_size])
                tokenizer.word_starts()
                tokenizer.sentence_ends()
            opened = TokenStore.open(store)
            split = opened.split("train")
            unigram_counts(split, opened.vocab_size)
            length_quantiles(split, [0.0, 1.0])
            opened.tokenizer().decode(split.read(0, min(split.tokens, 50)))
            assert opened.token_bytes is not None or opened.manifest.language is not None

        return Prepared(store / name, read, names=str(store))

    return prepare


for _name in ("manifest.json", "tokenizer.json", "train.index.npy"):
    reader(f"token store: {_name}", many=2000,
           why="6 ms each: the whole store is read and hashed")(_of_a_store(_name))


@reader("token store of a language: manifest.json", many=5000, why="2 ms each, for its entropy")
def _(folder: Path, made: Made) -> Prepared:
    store = prepare("synthetic:markov,vocab=16,seed=1", "none", None, folder / "store").path

    def read() -> None:
        opened = TokenStore.open(store)
        split = opened.split("train")
        if opened.manifest.language is not None:
            split.rows(np.arange(min(2, split.count(8, 8))), 8, 8)
        TokenStore.open(store, verify=True)

    return Prepared(store / "manifest.json", read, names=str(store))


def _tokenizer(name: str, content: bytes) -> Prepare:
    def prepare(folder: Path, made: Made) -> Prepared:
        path = folder / name
        path.write_bytes(content)

        def read() -> None:
            tokenizer = read_tokenizer(path, 2, ("pad", "mask", "eos"))
            if tokenizer.kind == "sentencepiece":  # whose library need not be there
                tokenizer.word_starts()
                return
            ids = tokenizer.encode("The thing, unaffable \u00e9\n")
            tokenizer.decode([number for number in ids if number < tokenizer.vocab_size])
            tokenizer.word_starts()
            tokenizer.token_bytes()

        return Prepared(path, read)

    return prepare


reader("vocab.txt")(_tokenizer("vocab.txt", ("\n".join(BERT) + "\n").encode()))
reader("tiktoken ranks")(
    _tokenizer("a.tiktoken", rank_lines(GPT2_TOKENS)))


reader("SentencePiece model")(_tokenizer("a.model", MODEL))


def _corpus(name: str, content: bytes) -> Prepare:
    def prepare(folder: Path, made: Made) -> Prepared:
        path = folder / name
        path.write_bytes(content)

        def read() -> None:
            for policy in ("refuse", "skip", "replace"):
                source = sources.find(f"jsonl:{path}#doc.text", policy)
                for text in source.documents():
                    text.encode()

        return Prepared(path, read)

    return prepare


_LINES = b"".join(json.dumps({"doc": {"text": f"zip é {i}\u2028", "n": i}}).encode() + b"\n"
                  for i in range(8))
for _name, _content in {"a.jsonl": _LINES, "a.jsonl.gz": gzip.compress(_LINES, mtime=0),
                        "a.jsonl.xz": lzma.compress(_LINES)}.items():
    reader(f"corpus: {_name}")(_corpus(_name, _content))


@reader("corpus: a.txt")
def _(folder: Path, made: Made) -> Prepared:
    path = folder / "a.txt"
    path.write_text("zip é\u2028\n" * 20)

    def read() -> None:
        for policy in ("refuse", "skip", "replace"):
            for text in sources.find(f"text:{path}", policy).documents():
                text.encode()

    return Prepared(path, read)


@reader("page of a package index")
def _(folder: Path, made: Made) -> Prepared:
    from scaling.data.sources.index import Unavailable, _file_name, _links_in_html, _links_in_json

    path, base = folder / "index.html", "https://example.org/simple/a/"
    files = [{"url": "../a-1.0.whl#sha256=00", "hashes": {}}, {"url": "b-1.0.whl"}]
    page = "<html><base href='x/'>" + "".join(
        f'<a href="{file["url"]}">{file["url"]}</a>\n' for file in files)

    def read() -> None:
        content = path.read_bytes()
        for parse in (_links_in_html, _links_in_json):
            with suppress(Unavailable):  # which becomes a UserError with the place's name
                for url in parse(content, base):
                    _file_name(url)

    return Prepared(path, read, (page.encode(), json.dumps({"files": files}).encode()))


@reader("finished step of a preparation")
def _(folder: Path, made: Made) -> Prepared:
    from scaling.data.prepare.work import WorkStep

    step = WorkStep(folder, folder, "tokens")
    step.finish({"documents": 3}, step.save(decisions=np.arange(3)))

    def read() -> None:
        step.load_result()

    return Prepared(step.path("json"), read)


@reader("corpus: a.parquet", why="needs pyarrow")
def _(folder: Path, made: Made) -> Prepared:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = folder / "a.parquet"
    parquet.write_table(pa.table({"text": [f"zip é {i}" for i in range(50)]}), path,
                        row_group_size=20)

    def read() -> None:
        for text in sources.documents(f"parquet:{path}#text"):
            text.encode()

    return Prepared(path, read)


# Weights


@reader("safetensors")
def _(folder: Path, made: Made) -> Prepared:
    import ml_dtypes
    from safetensors.numpy import save_file

    from scaling.interop.tensor_file import read_metadata, read_tensors

    path = folder / "a.safetensors"
    save_file({"a": np.arange(6, dtype=np.float32).reshape(2, 3), "c": np.arange(2),
               "b": np.ones((3, 1), ml_dtypes.bfloat16)}, path, metadata={"format": "pt"})

    def read() -> None:
        read_metadata(path)
        read_tensors(path)

    return Prepared(path, read)


@reader("GGUF", many=2000, why="5 ms each: weights and a tokenizer become a model")
def _(folder: Path, made: Made) -> Prepared:
    from scaling.interop.gguf import from_gguf
    from tests.interop.test_gguf import random_tensors, write

    path = write(folder / "m.gguf", random_tensors(True))
    content = path.read_bytes()
    # As short as it may be, so that what is changed is the head.
    return Prepared(path, lambda: from_gguf(path), (content,))


@reader("Hugging Face's config.json", many=2000, why="5 ms each: weights become a model")
def _(folder: Path, made: Made) -> Prepared:
    from scaling.interop import from_hf, save_hf
    from scaling.interop.hf import from_tensors
    from tests.interop.test_goldens import GOLDENS, golden

    llama = next(golden(path) for path in GOLDENS if path.stem == "LlamaForCausalLM")
    model, config = from_tensors(llama.architecture, llama.settings, llama.weights)
    save_hf(model, config, folder / "llama")
    return Prepared(folder / "llama" / "config.json", lambda: from_hf(folder / "llama"),
                    names=str(folder / "llama"))


@reader("Hugging Face's index of parts", many=2000, why="5 ms each: weights become a model")
def _(folder: Path, made: Made) -> Prepared:
    from scaling.interop import from_hf, save_hf
    from scaling.interop.hf import from_tensors
    from tests.interop.test_goldens import GOLDENS, golden

    llama = next(golden(path) for path in GOLDENS if path.stem == "LlamaForCausalLM")
    model, config = from_tensors(llama.architecture, llama.settings, llama.weights)
    path = folder / "llama"
    save_hf(model, config, path)
    (path / "model.safetensors").rename(path / "a.safetensors")
    index = path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": {
        "model.norm.weight": "a.safetensors", "lm_head.weight": "a.safetensors"}}))
    return Prepared(index, lambda: from_hf(path), names=str(path))


@reader("settings of every class of Hugging Face's")
def _(folder: Path, made: Made) -> Prepared:
    from scaling.interop.families import ARCHITECTURES
    from scaling.interop.settings import to_model_config
    from tests.interop.test_goldens import GOLDENS, golden

    path = folder / "config.json"
    valid = []
    for each in GOLDENS:
        it = golden(each)
        fields = ARCHITECTURES[it.architecture].settings
        more = dict.fromkeys((*(pair.theirs for pair in fields.entries), *fields.required))
        valid.append(json.dumps({"architecture": it.architecture, **more, **it.settings}).encode())

    def read() -> None:
        content = parse_json(read_bytes(path), str(path))
        if isinstance(content, dict):
            architecture = content.pop("architecture", None)
            if isinstance(architecture, str) and architecture in ARCHITECTURES:
                to_model_config(ARCHITECTURES[architecture].settings, architecture, content)

    return Prepared(path, read, tuple(valid), names="*")

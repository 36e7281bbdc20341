"""`scaling train`: train one run in the foreground."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scaling.cli.options import JsonSwitch
from scaling.console import err, out, print_json, progress
from scaling.errors import UserError
from scaling.runs import RUNS

if TYPE_CHECKING:
    from scaling.runs.folder import RunFolder

_POLL_SECONDS = 0.2  # between two reads of a lease

SIGNAL_EXIT = 128
"""A command that a signal stopped exits with this plus the signal number, as in shells."""


def train(
    config: Annotated[
        Path, typer.Argument(
            metavar="CONFIG", help="YAML file of a run, such as configs/runs/gpt_tiny.yaml.")
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(
            metavar="KEY=VALUE", help="Overrides of the configuration, such as tokens=1e6.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(
            "--out", metavar="DIR", help="Run folder; by default runs/IDENTITY.")
    ] = None,
    json_output: JsonSwitch = False,
) -> None:
    """Train one run. If it is interrupted, the same command continues.

    The exit status is 1 if the run diverges. `--json` prints the record of the run.

    Example: `scaling train configs/runs/gpt_tiny.yaml optimizer.learning_rate=1e-3 seed=1`
    """
    from scaling.config import RunConfig, load, run_identity
    from scaling.data.run_data import store_of
    from scaling.runs.folder import RunFolder
    from scaling.runs.lease import lease_seconds
    from scaling.training.resolve import resolve

    lease_seconds()
    run = load(RunConfig, config, overrides or ())
    store = store_of(run)
    run = resolve(run, store)
    run_folder = RunFolder(folder or RUNS / run_identity(run, store.hash))
    record = run_folder.record()
    if record is not None:
        run_folder.claim(run, store)
        err.print(f"{run_folder.path}: trained already", markup=False)
    else:
        if folder is not None:
            run_folder.check_new()
        run_folder.check()
        record = _train(run, store, run_folder)
    done = record["status"] == "done"
    if json_output:
        print_json(record)
    if not (json_output and done):
        (out if done else err).print(f"{run_folder.path}: {outcome(record)}", markup=False)
    if not done:
        raise typer.Exit(1)


def outcome(record: dict[str, Any]) -> str:
    """The outcome of a run in one sentence, from its record."""
    if record["status"] != "done":
        return (f"diverged after {record['steps']} steps; try a smaller "
                "optimizer.learning_rate")

    def figure(key: str, digits: str) -> str:
        value = record.get(key)
        return "?" if value is None else format(value, digits)

    # A synthetic language has no bytes.
    per_byte = "" if record.get("bits_per_byte") is None else (
        f"{figure('bits_per_byte', '.4f')} bits/byte, ")
    return (
        f"loss {figure('loss', '.4f')} ± {figure('loss_se', '.4f')} nats/token (unigram "
        f"entropy of the targets: {figure('target_entropy', '.4f')}), {per_byte}"
        f"{figure('tokens', ',')} tokens, {figure('params_total', ',')} parameters "
        f"({figure('params_non_embedding', ',')} without embeddings)"
    )


def _watch_silent(run_folder: RunFolder, requested: Callable[[], int | None]) -> None:
    """Wait while the holder of a lease shows no sign of life, until it does, or until it has been
    silent long enough for this process to take over the run."""
    if not run_folder.path.is_dir() or run_folder.free() or run_folder.alive():
        return
    err.print(f"{run_folder.holder()}: its holder shows no sign of life; if it stays silent, this "
              "process takes over the run", markup=False)
    while not (requested() or run_folder.free() or run_folder.alive()):
        time.sleep(_POLL_SECONDS)


def _train(run: Any, store: Any, run_folder: Any) -> dict[str, Any]:
    from scaling.training.signals import stop_requests

    # Before JAX is imported: a KeyboardInterrupt raised in one of its callbacks is only printed.
    with stop_requests() as requested:
        result = _train_until(requested, run, store, run_folder)
        number = requested()
    if isinstance(result, dict):
        return result
    err.print(
        f"stopped after step {result.step} of {result.steps}; the state is saved in "
        f"{run_folder.path}, and the same command continues", markup=False,
    )
    raise typer.Exit(SIGNAL_EXIT + (number or 0))


def _train_until(
    requested: Callable[[], int | None], run: Any, store: Any, run_folder: Any
) -> Any:
    from scaling.parallel.cpu_devices import divide_cores
    from scaling.parallel.process import find_devices, start_process
    from scaling.runs.lease import LeaseLost
    from scaling.training.loop import train as train_loop
    from scaling.training.memory import check_memory
    from scaling.training.session import Report

    _watch_silent(run_folder, requested)
    _exit_if_requested(requested)
    with (
        run_folder.lock() as lease,
        progress(f"training {run_folder.path.name}", run.steps) as bar,
    ):
        start_process()
        divide_cores([run])
        find_devices()
        check_memory(run, store)
        if lease is None:
            raise UserError(f"{run_folder.path}: another process is training this run; its lease "
                            f"is {run_folder.holder()}")
        _exit_if_requested(requested)

        def report(r: Report) -> None:
            bar.update(r.step, f"loss {r.loss:.3f}  {r.tokens_per_second:,.0f} tokens/s")

        try:
            return train_loop(run, store, run_folder.path, fence=lease.check,
                              asked_to_stop=requested, report=report)
        except LeaseLost as lost:
            raise UserError(f"{lost} while this one was suspended, and continues it") from None


def _exit_if_requested(requested: Callable[[], int | None]) -> None:
    """End the command if a stop was requested before the first step."""
    if number := requested():
        err.print("stopped before the first step", markup=False)
        raise typer.Exit(SIGNAL_EXIT + number)

"""`scaling train`: one run, in the foreground."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from scaling.cli.terminal import err, out, print_json, progress
from scaling.errors import UserError

SIGNAL_EXIT = 128
"""A command that a signal stopped exits with this plus the signal's number, as shells have it."""


def train(
    config: Annotated[
        Path, typer.Argument(help="YAML of a run, such as configs/runs/gpt_tiny.yaml")
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="key=value laid over it, such as tokens=1e6")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option("--out", help="run folder; by default runs/IDENTITY")
    ] = None,
    json_output: Annotated[
        bool, typer.Option("--json", help="print the record as JSON")
    ] = False,
) -> None:
    """Train one run; the same command goes on where an interrupted one stopped.

    Example: `scaling train configs/runs/gpt_tiny.yaml optimizer.learning_rate=1e-3 seed=1`
    """
    from scaling.config import RunConfig, load, run_identity
    from scaling.data.store import TokenStore
    from scaling.training.resolve import resolve
    from scaling.training.run_folder import RunFolder

    run = load(RunConfig, config, overrides or ())
    store = TokenStore.open(run.data.store)
    run = resolve(run, store)
    run_folder = RunFolder(folder or Path("runs", run_identity(run, store.hash)))
    record = run_folder.record()
    if record is not None:
        run_folder.claim(run, store)
        err.print(f"{run_folder.path}: trained already", markup=False)
    else:
        record = _train(run, store, run_folder)
    if json_output:
        print_json(record)
    else:
        out.print(f"{run_folder.path}: {outcome(record)}", markup=False)


def outcome(record: dict[str, Any]) -> str:
    """What a record says, in a sentence."""
    if record["status"] != "done":
        return (f"diverged after {record['steps']} steps; try a smaller "
                "optimizer.learning_rate")
    # Where not every byte is predicted, there is no loss per byte.
    per_byte = "" if (bits := record["bits_per_byte"]) is None else f"{bits:.4f} bits/byte, "
    return (
        f"loss {record['loss']:.4f} ± {record['loss_se']:.4f} nats/token (the targets' frequencies "
        f"alone: {record['target_entropy']:.4f}), {per_byte}{record['tokens']:,} tokens, "
        f"{record['params_total']:,} parameters ({record['params_non_embedding']:,} without "
        "embeddings)"
    )


def _train(run: Any, store: Any, run_folder: Any) -> dict[str, Any]:
    from scaling.parallel.process import start_process
    from scaling.training.cores import divide_cores
    from scaling.training.lease import LeaseLost
    from scaling.training.loop import Report, Stopped
    from scaling.training.loop import train as train_loop
    from scaling.training.signals import stop_requests

    start_process()
    divide_cores([run])
    with (
        run_folder.lock() as lease,
        stop_requests() as requested,
        progress(f"training {run_folder.path.name}", run.steps) as bar,
    ):
        if lease is None:
            raise UserError(f"{run_folder.path}: another process is training this run")

        def report(r: Report) -> None:
            bar.update(r.step, f"loss {r.loss:.3f}  {r.tokens_per_second:,.0f} tokens/s")

        try:
            result = train_loop(run, store, run_folder.path, fence=lease.check,
                                asked_to_stop=requested, report=report)
        except LeaseLost as lost:
            raise UserError(f"{lost} while this one stood still, and goes on with it") from None
        number = requested()
    if isinstance(result, Stopped):
        err.print(
            f"stopped after step {result.step} of {result.steps}, all saved in "
            f"{run_folder.path}; the same command goes on from there", markup=False,
        )
        raise typer.Exit(SIGNAL_EXIT + (number or 0))
    return result

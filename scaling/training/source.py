"""Trained runs as sources of models: what a run begins from, or learns from. A run is identified by
what it is, not by its path, and read on the current mesh. JAX is imported inside functions only,
so that planning stays fast."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from scaling.config import RunConfig, validate
from scaling.errors import UserError
from scaling.runs.files import is_run_id, read_config
from scaling.runs.folder import RunFolder

if TYPE_CHECKING:
    from scaling.training.step import Model


@dataclass(frozen=True)
class TrainedRun:
    """A run that was trained, at one of its steps."""

    folder: RunFolder
    run_id: str
    run: RunConfig
    step: int


def find_run(path: Path, runs: Path) -> Path:
    """The folder of a run that is given by its folder, or by its identity.

    Args:
        path: the folder or the identity.
        runs: folder of all runs.
    """
    return runs / path if is_run_id(str(path)) and not path.exists() else path


def finished_run(path: Path, where: str, fix: str) -> TrainedRun:
    """The run in a folder, at its last step.

    Args:
        path: its folder.
        where: the key and the value that name it, for messages.
        fix: what to do if it is not trained, for messages.

    Raises:
        UserError: it does not exist, or is not done.
    """
    folder = RunFolder(path)
    if (record := folder.record()) is None:
        problem = "is still to be trained" if path.exists() else "does not exist"
        raise UserError(f"{where}: {problem}; {fix}")
    if (status := record["status"]) != "done":
        raise UserError(f"{where}: that run {status}; choose one that is done")
    return _trained_run(folder, record["steps"])


def checkpointed_run(path: Path, where: str) -> TrainedRun:
    """The run that saved a checkpoint, at the step of the checkpoint.

    Args:
        path: the checkpoint, RUN/checkpoints/STEP.
        where: the key and the value that name it, for messages.

    Raises:
        UserError: it does not exist, or is not a checkpoint of a run.
    """
    folder = folder_of_checkpoint(path)
    if not re.fullmatch("[0-9]{1,18}", path.name) or path.absolute().parent != folder.checkpoints:
        raise UserError(f"{where}: is not a checkpoint of a run; give RUN/checkpoints/STEP")
    if not path.is_dir() or not folder.config_path.exists():
        raise UserError(f"{where}: there is no such checkpoint of a run; choose one that is there")
    return _trained_run(folder, int(path.name))


def folder_of_checkpoint(path: Path) -> RunFolder:
    """The folder of the run that saved a checkpoint, RUN/checkpoints/STEP."""
    return RunFolder(path.absolute().parent.parent)


def load_model(
    folder: RunFolder, run_id: str, step: int | None, *, noun: str, fix: str
) -> Model:
    """The model of a run, on the current mesh.

    Args:
        folder: the run's folder.
        run_id: the identity that the run has to have.
        step: the step; by default the last.
        noun: what the run is to the one that is trained, for messages.
        fix: what to do if the folder has another run by now, for messages.

    Raises:
        UserError: the folder has another run by now, or the checkpoint is missing or damaged.
        OSError: the checkpoint cannot be read now.
    """
    from scaling.training.checkpoint import Checkpoints
    from scaling.training.step import init_state

    if read_config(folder.config_path)[0] != run_id:
        raise UserError(f"{folder.path}: is not the {noun} {run_id} any more; {fix}")
    with Checkpoints(folder.checkpoints, to_read=True) as checkpoints:
        last = checkpoints.newest()
        missing = step is not None and not (folder.checkpoints / str(step)).is_dir()
        if last is None or missing:
            of_step = f" of step {step}" if missing else ""
            raise UserError(
                f"{folder.checkpoints}: holds no checkpoint{of_step}, so there is no {noun}")
        chosen = last if step is None else step
        # An earlier checkpoint would be another model.
        restored = checkpoints.restore(init_state(_configured(folder)), chosen)
    if restored is None:
        raise UserError(
            f"{folder.checkpoints}: the checkpoint of step {chosen} is damaged, so there is no "
            f"{noun}; train that run again in another folder")
    return restored[0].model


def _trained_run(folder: RunFolder, step: int) -> TrainedRun:
    return TrainedRun(folder, read_config(folder.config_path)[0], _configured(folder), step)


def _configured(folder: RunFolder) -> RunConfig:
    _, config, _ = read_config(folder.config_path)
    run = validate(RunConfig, config, str(folder.config_path))
    if run.model.vocab_size is None:
        raise UserError(f"{folder.config_path}: has no model.vocab_size, so it is not that of a "
                        "trained run; choose another run")
    return run

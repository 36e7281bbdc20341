"""Checkpoints: parameters, optimizer, step, and the losses not yet logged.

Orbax writes each into a temporary folder and renames it when it is whole, so a crash in the
middle of a write leaves the checkpoint before it. Arrays are stored by name, without the Python
types around them: they can be read on any mesh, and by other programs.

A checkpoint that is proven to be damaged is set aside, under another name, and the one before it is
taken. Any other error in reading one ends the process, and leaves all of them as they are
(`scaling.runs.checkpoint_files`).
"""

from __future__ import annotations

import errno
import gc
import logging
import os
import shutil
import sys
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from scaling.errors import UserError
from scaling.files import blame
from scaling.parallel.process import any_process, is_leader
from scaling.runs.checkpoint_files import (
    DamagedCheckpoint,
    check_metadata_files,
    explain_read_error,
    set_aside,
    system_errno,
    verify_file_list,
    write_file_list,
)
from scaling.runs.files import is_count, is_number
from scaling.runs.folder import join_names
from scaling.training.step import TrainState

_CHECKSUM = "checksum"
"""Key of the arrays' checksum, beside the progress."""

_log = logging.getLogger(__name__)

KEPT = 2
"""Checkpoints that stay: the newest, and the one before it."""

# Orbax reports each of its steps, and what goes wrong with a traceback; that comes to us as an
# exception as well, and the user hears of it from us.
logging.getLogger("absl").setLevel(logging.CRITICAL)

_asyncio = logging.getLogger("asyncio")


class Progress(NamedTuple):
    """What a run needs, besides its state, to continue as if it had not been interrupted."""

    step: int
    """Steps done."""
    pending: list[dict[str, float]]
    """Losses of the steps since the last line of metrics.jsonl, by part."""
    seconds: float
    """Time spent training so far, over all processes; that of a trunk is not a branch's."""
    branch: dict[str, Any] | None = None
    """The trunk that the run began from (`scaling.runs.trunk`): `run_id` and `step`."""


class Checkpoints:
    """Checkpoints in a folder. Close it, so that the last one is whole.

    Args:
        folder: where they are.
        kept: how many stay; None for all.
        to_read: another process may be writing there.

    Raises:
        UserError: a checkpoint is none of Orbax.
        OSError: the folder cannot be read.
    """

    def __init__(self, folder: Path, *, kept: int | None = KEPT, to_read: bool = False) -> None:
        self._to_read = to_read
        self._proven: set[int] = set()  # steps whose files are known to be those that were written
        check_metadata_files(folder)
        self._options = ocp.CheckpointManagerOptions(
            max_to_keep=kept, cleanup_tmp_directories=not to_read, read_only=to_read,
            enable_async_checkpointing=False,
            lightweight_initialize=True,  # else one damaged file keeps all from being opened
        )
        self._manager = ocp.CheckpointManager(folder.absolute(), options=self._options)

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *exception: object) -> None:
        self._manager.close()

    def save(
        self, state: TrainState, progress: Progress, origin: dict[str, Any] | None = None
    ) -> None:
        """Write a checkpoint, unless there is one of this step.

        Args:
            state: arrays.
            progress: what else the run needs.
            origin: plain data for another run that goes on from here.

        Raises:
            OSError: the file system does not take it; the error names the folder. The checkpoints
                before are as they were.
        """
        if progress.step in self._manager.all_steps():
            return
        content = ocp.args.Composite(
            state=ocp.args.StandardSave(_by_name(state)),
            progress=ocp.args.JsonSave(progress._asdict() | {_CHECKSUM: _checksum(state)}),
            **({} if origin is None else {"origin": ocp.args.JsonSave(origin)}),
        )
        with blame(Path(self._manager.directory)):
            self._check_room(state)
            try:
                self._manager.save(progress.step, args=content)
            except ValueError as error:  # of TensorStore, which writes the arrays
                if (number := system_errno(error)) is None:
                    raise
                raise OSError(number, os.strerror(number)) from error
            if jax.process_count() == 1:  # the files of several are too large for one to read again
                write_file_list(self._folder(progress.step))

    def _check_room(self, state: TrainState) -> None:
        """Refuse early what cannot fit: a disk that is full in the midst of a write is left full,
        and the tasks that write the other arrays complain of it each by itself."""
        disk = shutil.disk_usage(Path(self._manager.directory))
        # Some network file systems do not tell, and are of size 0.
        if disk.total and disk.free < sum(leaf.nbytes for leaf in jax.tree.leaves(state)):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def restore(
        self, like: TrainState, step: int | None = None
    ) -> tuple[TrainState, Progress] | None:
        """A checkpoint, laid out over the mesh as `like` is; None if there is none.

        One that is damaged (`scaling.runs.checkpoint_files`) is left out with a warning, and
        the one before it is taken. If the checkpoints are not those of somebody else, it is also
        set aside, under another name.

        Args:
            like: a state of the same shapes.
            step: of the only one that will do; by default the newest that is whole.

        Raises:
            OSError: the system does not let it be read now; the error names the folder or file.
            UserError: it is whole, and of arrays of other shapes, or of another version of Orbax.
                In both cases all checkpoints are as they were.
        """
        steps = sorted(self._manager.all_steps(), reverse=True) if step is None else [step]
        for each in steps:
            folder, found = self._folder(each), None
            try:
                found = self._restore(like, each)
            except DamagedCheckpoint as damage:
                problem = str(damage)
            if not _of_any_process(found is None):
                return found
            problem = "another process found it so" if found else problem
            _log.warning("%s: damaged (%s); left out%s", folder, problem, self._set_aside(folder))
        return None

    def newest(self) -> int | None:
        """The step of the newest checkpoint; None if there is none."""
        step: int | None = self._manager.latest_step()
        return step

    def origin(self, step: int) -> dict[str, Any] | None:
        """What was saved with a checkpoint for another run; None if it is damaged, or there no
        longer.

        Raises:
            OSError, UserError: as `restore` does.
        """
        try:
            restored = self._reading(step, lambda: self._manager.restore(
                step, args=ocp.args.Composite(origin=ocp.args.JsonRestore())))
        except DamagedCheckpoint as damage:
            _log.warning("%s: damaged (%s); left out", self._folder(step), damage)
            return None
        found: dict[str, Any] = restored["origin"]
        return found

    def _folder(self, step: int) -> Path:
        return Path(self._manager.directory, str(step))

    def _set_aside(self, folder: Path) -> str:
        """Where it went, for the message."""
        if self._to_read:
            return ""
        said = f", and set aside as {set_aside(folder)}" if is_leader() else ""
        _of_any_process(False)  # nobody goes on before it has its new name
        self._manager.close()  # its reload() reads what lightweight_initialize leaves out
        self._manager = ocp.CheckpointManager(folder.parent, options=self._options)
        return said

    def _restore(self, like: TrainState, step: int) -> tuple[TrainState, Progress]:
        names = _by_name(like)
        restored = self._reading(step, lambda: self._read(names, step))
        leaves = [restored["state"][name] for name in names]
        state = jax.tree.unflatten(jax.tree.structure(like), leaves)
        saved, found = restored["progress"].pop(_CHECKSUM, None), _checksum(state)
        # Unknown where several processes have the arrays, or had them when they were saved.
        if None not in (saved, found) and saved != found:
            raise DamagedCheckpoint("its arrays are not those that were saved")
        progress = Progress(**restored["progress"])
        if not _is_of_step(progress, step):
            raise DamagedCheckpoint("its progress is not what was saved")
        return state, progress

    def _reading(self, step: int, read: Callable[[], Any]) -> Any:
        """What comes of reading a checkpoint; an error is one that a user understands."""
        try:
            if step not in self._proven and verify_file_list(self._folder(step)):
                self._proven.add(step)
            return read()
        except (DamagedCheckpoint, UserError):
            raise
        except Exception as error:
            problem = explain_read_error(error, self._folder(step), step in self._proven)
        # Outside of the except block, where nothing holds the tasks that read the other arrays:
        # they are dropped here, where nobody hears each of them complain.
        hook, level = sys.unraisablehook, _asyncio.level
        sys.unraisablehook = lambda _: None
        _asyncio.setLevel(logging.CRITICAL)
        try:
            gc.collect()
        finally:
            sys.unraisablehook = hook
            _asyncio.setLevel(level)
        raise problem

    def _read(self, names: dict[str, Any], step: int) -> Any:
        shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, names)
        there = ocp.StandardCheckpointHandler().metadata(self._folder(step) / "state").tree
        if differences := _differences(there, shapes):
            raise UserError(
                f"{self._folder(step)}: was saved by a model of other arrays: "
                f"{join_names(differences)}; take the version and the configuration that it was "
                "saved with, or another folder")
        restored = self._manager.restore(step, args=ocp.args.Composite(
            state=ocp.args.StandardRestore(shapes), progress=ocp.args.JsonRestore()))
        Progress(**{k: v for k, v in restored["progress"].items() if k != _CHECKSUM})
        return restored


def _is_of_step(progress: Progress, step: int) -> bool:
    """Whether this is what may have been saved after a step."""
    pending, branch = progress.pending, progress.branch
    losses_are = isinstance(pending, list) and all(
        isinstance(losses, dict) and losses.keys() == pending[0].keys()
        and all(type(loss) in (int, float) for loss in losses.values())  # NaN where it diverged
        for losses in pending)
    branch_is = branch is None or (
        isinstance(branch, dict) and isinstance(branch.get("run_id"), str)
        and is_count(branch.get("step")))
    return (type(progress.step) is int and progress.step == step and losses_are and branch_is
            and is_number(progress.seconds) and progress.seconds >= 0)


def _differences(there: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """The differences between the arrays of a checkpoint and those of the model, as messages."""
    def shape_of(array: Any) -> str:
        return f"{np.dtype(array.dtype).name}{list(array.shape)}"

    missing = [f"it has no {name}" for name in wanted if name not in there]
    unknown = [f"it has {name}, which the model has not" for name in there if name not in wanted]
    changed = [f"{name} is {shape_of(there[name])} in it and {shape_of(array)} in the model"
               for name, array in wanted.items()
               if name in there and shape_of(there[name]) != shape_of(array)]
    return changed + missing + unknown


def _of_any_process(flag: bool) -> bool:
    """The flag, or that of another process that trains the same run."""
    return any_process(flag) if jax.process_count() > 1 else flag


def _by_name(state: TrainState) -> dict[str, Any]:
    """The arrays of a state, in order, by path."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def _checksum(state: TrainState) -> int | None:
    """CRC-32 of all arrays, in order; None where this process does not have them whole."""
    leaves = jax.tree.leaves(state)
    if not all(leaf.is_fully_addressable for leaf in leaves):
        return None
    total = 0
    for leaf in leaves:
        total = zlib.crc32(np.ascontiguousarray(leaf).data, total)
    return total

"""Checkpoints: parameters, optimizer, step, and the losses not yet logged.

Orbax writes each into a temporary folder and renames it when it is whole, so a crash in the
middle of a write leaves the checkpoint before it. Arrays are stored by name, without the Python
types around them: they can be read on any mesh, and by other programs.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from scaling.files import blame
from scaling.training.step import TrainState

_CHECKSUM = "checksum"
"""Key of the arrays' checksum, beside the progress."""

_log = logging.getLogger(__name__)

KEPT = 2
"""Checkpoints that stay: the newest, and the one before it."""

# Orbax reports each of its steps, and what goes wrong with a traceback; that comes to us as an
# exception as well, and the user hears of it from us.
logging.getLogger("absl").setLevel(logging.CRITICAL)

_SYSTEM_ERROR = re.compile(r"os_error_code='(\d+)'")
"""How TensorStore gives the system's number of what ended a write (its absl::Status payload)."""


class Progress(NamedTuple):
    """What a run needs besides its state to go on as if nothing had happened."""

    step: int
    """Steps done."""
    pending: list[dict[str, float]]
    """Losses of the steps since the last line of metrics.jsonl, by part."""
    seconds: float
    """Time spent training so far, over all processes; that of a trunk is not a branch's."""
    branch: dict[str, Any] | None = None
    """The trunk that the run began from (`scaling.training.trunk`): `run_id` and `step`."""


class Checkpoints:
    """Checkpoints in a folder. Close it, so that the last one is whole.

    Args:
        folder: where they are.
        kept: how many stay; None for all.
        to_read: another process may be writing there.
    """

    def __init__(self, folder: Path, *, kept: int | None = KEPT, to_read: bool = False) -> None:
        self._to_read = to_read
        self._manager = ocp.CheckpointManager(
            folder.absolute(),
            options=ocp.CheckpointManagerOptions(
                max_to_keep=kept, cleanup_tmp_directories=not to_read, read_only=to_read,
                enable_async_checkpointing=False,
            ),
        )

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
                if (found := _SYSTEM_ERROR.search(str(error))) is None:
                    raise
                number = int(found[1])
                raise OSError(number, os.strerror(number)) from error

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

        One that cannot be read, or does not hold what was saved, is removed with a warning, and
        the one before it is taken.

        Args:
            like: a state of the same shapes.
            step: of the only one that will do; by default the newest that is whole.
        """
        steps = sorted(self._manager.all_steps(), reverse=True) if step is None else [step]
        for each in steps:
            try:
                return self._restore(like, each)
            except Exception as error:  # whatever a damaged file makes Orbax and its parts say
                _log.warning("%s: damaged (%s); left out", self._manager.directory / str(each),
                             (str(error).splitlines() or [type(error).__name__])[0])
            if not self._to_read:
                self._manager.delete(each)
        return None

    def _restore(self, like: TrainState, step: int) -> tuple[TrainState, Progress]:
        names = _by_name(like)
        shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, names)
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(shapes), progress=ocp.args.JsonRestore()
            ),
        )
        leaves = [restored["state"][name] for name in names]
        state = jax.tree.structure(like).unflatten(leaves)
        saved = restored["progress"].pop(_CHECKSUM, None)
        if saved is not None and saved != _checksum(state):
            raise ValueError("its arrays are not those that were saved")
        return state, Progress(**restored["progress"])

    def origin(self, step: int) -> dict[str, Any]:
        """What was saved with a checkpoint for another run."""
        restored = self._manager.restore(
            step, args=ocp.args.Composite(origin=ocp.args.JsonRestore()))
        found: dict[str, Any] = restored["origin"]
        return found


def _by_name(state: TrainState) -> dict[str, Any]:
    """The arrays of a state, in order, by the path that leads to each."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def _checksum(state: TrainState) -> int | None:
    """CRC-32 of all arrays, in order; None where this process does not have them whole."""
    leaves = jax.tree.leaves(state)
    if not all(leaf.is_fully_addressable for leaf in leaves):
        return None
    total = 0
    for leaf in leaves:
        total = zlib.crc32(np.ascontiguousarray(leaf), total)
    return total

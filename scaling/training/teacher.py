"""The teacher of a distillation: a trained run. JAX is imported inside functions only, so that
planning stays fast."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scaling.config import ModelConfig, RunConfig, validate
from scaling.config.objectives import ObjectiveConfig
from scaling.errors import UserError
from scaling.runs.files import read_config
from scaling.runs.folder import RunFolder

if TYPE_CHECKING:
    from scaling.models import Transformer


def with_teacher_of(objective: ObjectiveConfig, student: ModelConfig) -> ObjectiveConfig:
    """An objective with the identity and the model of its teacher.

    Raises:
        UserError: the teacher's run does not exist, is not done, or does not fit the student.
    """
    assert objective.teacher_folder is not None
    folder = RunFolder(objective.teacher_folder)
    where = f"objective.teacher = {folder.path}"
    if (record := folder.record()) is None:
        problem = "is still to be trained" if folder.path.exists() else "does not exist"
        raise UserError(f"{where}: {problem}; train a masked language model there first")
    if (status := record["status"]) != "done":
        raise UserError(f"{where}: that run {status}; choose one that is done")
    run = _configured(folder)
    teacher = run.model
    if "masked_lm" not in {head.kind for head in teacher.outputs}:
        raise UserError(f"{where}: was trained by {run.objective.kind}, and a teacher is a masked "
                        "language model")
    if (teacher.vocab_size, teacher.context) != (student.vocab_size, student.context):
        raise UserError(
            f"{where}: has {teacher.vocab_size} tokens and context {teacher.context}, and the "
            f"student {student.vocab_size} and {student.context}; they have to be the same")
    if objective.compares_hidden_states and teacher.d_model != student.d_model:
        raise UserError(
            f"{where}: is {teacher.d_model} wide and the student {student.d_model}, so their "
            "hidden states have no angle; take the same width, or set objective.cosine_weight=0")
    identity, *_ = read_config(folder.config_path)
    return objective.with_teacher(identity, teacher)


def load_teacher(run: RunConfig) -> Transformer | None:
    """The teacher of a resolved run, on the mesh in force; None without a teacher.

    Raises:
        UserError: its folder holds another run by now, or its checkpoint is missing or damaged.
        OSError: its checkpoint cannot be read now.
    """
    objective = run.objective
    if objective.teacher_folder is None:
        return None
    from scaling.training.checkpoint import Checkpoints
    from scaling.training.step import init_state

    folder = RunFolder(objective.teacher_folder)
    if read_config(folder.config_path)[0] != objective.teacher_identity:
        raise UserError(f"{folder.path}: is not the teacher {objective.teacher_identity} any more; "
                        "choose another folder for the student's run")
    with Checkpoints(folder.checkpoints, to_read=True) as checkpoints:
        if (last := checkpoints.newest()) is None:
            raise UserError(f"{folder.checkpoints}: holds no checkpoint, so there is no teacher")
        # An earlier checkpoint would be another model.
        restored = checkpoints.restore(init_state(_configured(folder)), last)
    if restored is None:
        raise UserError(f"{folder.checkpoints}: the checkpoint of step {last} is damaged, so there "
                        "is no teacher; train that run again in another folder")
    model: Transformer = restored[0].model
    return model


def _configured(folder: RunFolder) -> RunConfig:
    _, config, _ = read_config(folder.config_path)
    return validate(RunConfig, config, str(folder.config_path))

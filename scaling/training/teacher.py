"""The trained run that a distillation learns from. What imports JAX is imported late: planning
stays quick."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scaling.config import ModelConfig, RunConfig, validate
from scaling.config.objectives import Distillation
from scaling.errors import UserError
from scaling.training.run_folder import RunFolder, read_json

if TYPE_CHECKING:
    from scaling.models import Transformer


def described(objective: Distillation, student: ModelConfig) -> Distillation:
    """The objective with its teacher's identity and model filled in.

    Raises:
        UserError: there is no such run, it is not over, or it cannot teach this student.
    """
    folder = RunFolder(objective.teacher)
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
    if objective.cosine_weight and teacher.d_model != student.d_model:
        raise UserError(
            f"{where}: is {teacher.d_model} wide and the student {student.d_model}, so their "
            "hidden states have no angle; take the same width, or set objective.cosine_weight=0")
    identity = read_json(folder.config_path)["run_id"]
    return objective.model_copy(update={"teacher_run": identity, "teacher_model": teacher})


def load_teacher(run: RunConfig) -> Transformer | None:
    """The teacher of a resolved run, with the mesh in force; None where the run has none.

    Raises:
        UserError: another run stands in its folder by now, or its checkpoint is gone.
    """
    objective = run.objective
    if not isinstance(objective, Distillation):
        return None
    from scaling.training.checkpoint import Checkpoints
    from scaling.training.step import init_state

    folder = RunFolder(objective.teacher)
    if read_json(folder.config_path)["run_id"] != objective.teacher_run:
        raise UserError(f"{folder.path}: is not the teacher {objective.teacher_run} any more; "
                        "choose another folder for the student's run")
    with Checkpoints(folder.checkpoints) as checkpoints:
        restored = checkpoints.restore(init_state(_configured(folder)))
    if restored is None:
        raise UserError(f"{folder.checkpoints}: holds no checkpoint, so there is no teacher")
    model: Transformer = restored[0].model
    return model


def _configured(folder: RunFolder) -> RunConfig:
    return validate(RunConfig, read_json(folder.config_path)["config"], str(folder.config_path))

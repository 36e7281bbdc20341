"""The teacher of a distillation: a trained run (source.py). JAX is imported inside functions only,
so that planning stays fast."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scaling.config import ModelConfig, RunConfig
from scaling.config.objectives import ObjectiveConfig
from scaling.errors import UserError
from scaling.runs.folder import RunFolder
from scaling.training.source import finished_run, load_model

if TYPE_CHECKING:
    from scaling.training.step import Model


def with_teacher_of(objective: ObjectiveConfig, student: ModelConfig) -> ObjectiveConfig:
    """An objective with the identity and the model of its teacher.

    Raises:
        UserError: the teacher's run does not exist, is not done, or does not fit the student.
    """
    assert objective.teacher_folder is not None
    where = f"objective.teacher = {objective.teacher_folder}"
    trained = finished_run(
        objective.teacher_folder, where, "train a masked language model there first")
    teacher = trained.run.model
    if "masked_lm" not in {head.kind for head in teacher.outputs}:
        raise UserError(f"{where}: was trained by {trained.run.objective.kind}, and a teacher is a "
                        "masked language model")
    if (teacher.vocab_size, teacher.context) != (student.vocab_size, student.context):
        raise UserError(
            f"{where}: has {teacher.vocab_size} tokens and context {teacher.context}, and the "
            f"student {student.vocab_size} and {student.context}; they have to be the same")
    if objective.compares_hidden_states and teacher.d_model != student.d_model:
        raise UserError(
            f"{where}: is {teacher.d_model} wide and the student {student.d_model}, so their "
            "hidden states have no angle; take the same width, or set objective.cosine_weight=0")
    return objective.with_teacher(trained.run_id, teacher)


def load_teacher(run: RunConfig) -> Model | None:
    """The teacher of a resolved run, on the current mesh; None without a teacher.

    Raises:
        UserError: its folder holds another run by now, or its checkpoint is missing or damaged.
        OSError: its checkpoint cannot be read now.
    """
    objective = run.objective
    if objective.teacher_folder is None:
        return None
    assert objective.teacher_identity is not None
    return load_model(
        RunFolder(objective.teacher_folder), objective.teacher_identity, None, noun="teacher",
        fix="choose another folder for the student's run")

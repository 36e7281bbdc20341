"""Checks of an objective with its model, and model lengths that follow from the objective."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from pydantic import ValidationError
from pydantic_core import PydanticCustomError

from scaling.config.base import Problem
from scaling.config.model import ModelConfig
from scaling.config.objectives import OBJECTIVES, ObjectiveConfig
from scaling.config.presets import expand_preset

Check = Callable[[ObjectiveConfig, ModelConfig], Iterator[Problem]]


def fill_lengths(content: dict[str, Any]) -> dict[str, Any]:
    """The plain data of a run with the model lengths that follow from its objective.

    For span corruption the target length (`context`) follows from `source_context`; for denoising
    `source_context` follows from `context`, or the reverse. Given lengths are kept; the length of a
    preset is not, since it belongs to the preset's own objective.
    """
    model, objective = content.get("model"), content.get("objective")
    if not isinstance(model, dict) or not isinstance(objective, dict):
        return content
    with suppress(PydanticCustomError, ValidationError, ValueError, TypeError, OverflowError):
        kind = OBJECTIVES.get(str(objective.get("kind")))
        shape = expand_preset(model)
        if kind is not None and shape.get("mode") == kind.mode:
            return content | {"model": model | kind.missing_lengths(objective, model, shape)}
    return content


def _mode_problems(objective: ObjectiveConfig, model: ModelConfig) -> Iterator[Problem]:
    """Whether the mode of the model is the one that the objective trains."""
    if model.mode != objective.mode:
        fitting = [kind for kind, cls in OBJECTIVES.items() if cls.mode == model.mode]
        yield "objective.kind", (
            f"{objective.kind} trains {objective.mode} models, and this model is {model.mode}; "
            f"choose {' or '.join(fitting)}, or model.mode: {objective.mode}")


def _if_mode_fits(check: Check) -> Check:
    """A check that finds nothing in a model of another mode, from which all problems follow."""
    def problems(objective: ObjectiveConfig, model: ModelConfig) -> Iterator[Problem]:
        if model.mode == objective.mode:
            yield from check(objective, model)

    return problems


def _head_problems(objective: ObjectiveConfig, model: ModelConfig) -> Iterator[Problem]:
    """Whether the model has the head that the objective needs."""
    heads = [head.kind for head in model.outputs]
    if heads and objective.head not in heads:  # the model itself reports an empty list
        yield "model.heads", (
            f"the objective {objective.kind} needs the head {objective.head}, and the model has "
            f"{', '.join(heads)}; add it: heads: [{{kind: {objective.head}}}]")


def _length_problems(objective: ObjectiveConfig, model: ModelConfig) -> Iterator[Problem]:
    """Whether a sequence has room for text."""
    if any(problem for check in objective.checks() for problem in check):
        return  # the objective reports it
    try:
        fits = objective.text_tokens(model) >= 2
    except ValueError:
        fits = False
    if not fits:
        yield "model.context", (f"{model.context} tokens have no room for text and the special "
                                "tokens; make it longer")


def _own_problems(objective: ObjectiveConfig, model: ModelConfig) -> Iterator[Problem]:
    return objective.model_problems(model)


OBJECTIVE_CHECKS: tuple[Check, ...] = (
    _mode_problems, *map(_if_mode_fits, (_head_problems, _length_problems, _own_problems)))
"""Checks of an objective with its model. They are generators: if a field is invalid, reading it
ends one of them only."""

"""Base class and field types of the configuration: immutable models that forbid unknown keys,
with bounded numbers and no conversion of booleans."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)
from pydantic_core import PydanticCustomError

LARGEST_INTEGER = 2**63 - 1
"""Largest integer in a configuration: the largest signed 64-bit integer."""

LARGEST_DIMENSION = 2**24
"""Largest size of an array axis; above every published width, context length and vocabulary."""


def _reject_non_numbers(value: Any) -> Any:
    """Refuse booleans and bytes, which pydantic would convert: `d_model: yes` is an error."""
    if isinstance(value, bool | bytes):
        raise ValueError(f"a number is expected, not {str(value).lower()}")
    return value


_NumberCheck = BeforeValidator(_reject_non_numbers)

Count = Annotated[int, _NumberCheck, Field(gt=0, le=LARGEST_INTEGER)]
"""A positive integer, which may be written as `3e6` or `3_000_000`."""

NonNegativeInt = Annotated[int, _NumberCheck, Field(ge=0, le=LARGEST_INTEGER)]
"""An integer that is at least zero."""

Dimension = Annotated[int, _NumberCheck, Field(gt=0, le=LARGEST_DIMENSION)]
"""The size of an array axis."""

LayerCount = Annotated[int, _NumberCheck, Field(gt=0, le=10_000)]
"""A number of layers; the bound is ten times the depth of any published model."""

LayerIndex = Annotated[int, _NumberCheck, Field(ge=0, lt=10_000)]
"""Index of a layer, from 0."""

SequenceCount = Annotated[int, _NumberCheck, Field(gt=0, le=2**31 - 1)]
"""A number of sequences held in memory at once."""

DeviceCount = Annotated[int, _NumberCheck, Field(gt=0, le=2**20)]
"""A number of devices."""

Positive = Annotated[float, _NumberCheck, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, _NumberCheck, Field(ge=0, allow_inf_nan=False)]
Real = Annotated[float, _NumberCheck, Field(allow_inf_nan=False)]
Fraction = Annotated[float, _NumberCheck, Field(ge=0, le=1)]


LONGEST_NAME = 64
NAME_PATTERN = rf"^[A-Za-z0-9_][A-Za-z0-9._-]{{0,{LONGEST_NAME - 1}}}$"


def check_name(value: str) -> str:
    """Return a name if it can be a file name on every operating system and in every shell.

    Raises:
        ValueError: it cannot.
    """
    if not re.fullmatch(NAME_PATTERN, value):
        shown = repr(value if len(value) <= LONGEST_NAME else value[:LONGEST_NAME] + "...")
        raise ValueError(f"{shown} cannot be used as a name; use at most {LONGEST_NAME} letters "
                         "(a-z), digits, dots, dashes and underscores, and do not begin with a dot "
                         "or a dash")
    return value


Name = Annotated[str, AfterValidator(check_name),
                 Field(json_schema_extra={"pattern": NAME_PATTERN})]
"""A name that can be part of a file name."""


def _usable_path(path: Path) -> Path:
    if str(path) == ".":
        raise ValueError("is empty; give the path of a file or folder")
    if not str(path).isprintable():
        raise ValueError("the path has control characters; remove them")
    return path


FilePath = Annotated[Path, AfterValidator(_usable_path)]
"""The path of a file or folder."""


LIST_TAG = "listed"
"""Discriminator tag of a plain list in a union of a list and a rule."""

FIELD_ERROR = "field_error"
"""Type of a pydantic error about several fields: `ctx["problems"]` lists (path, message) pairs."""

Problem = tuple[str, str]
"""The path of a field, relative to the class that is checked (`experts.top_k`), and a message that
has the problem and its fix. An empty path is the class itself."""


def field_error(field: str, message: str) -> PydanticCustomError:
    """The error that a model validator raises about one field, so that the message has its path."""
    return field_errors([(field, message)])


def field_errors(problems: Iterable[Problem]) -> PydanticCustomError:
    """The error that a model validator raises about several fields."""
    listed = list(problems)
    text = "; ".join(f"{field}: {message}" if field else message for field, message in listed)
    return PydanticCustomError(FIELD_ERROR, "{text}", {"text": text, "problems": listed})


@dataclass(frozen=True)
class ValidatedLater:
    """Annotation of a field of plain data: the class that the data is validated as later."""

    cls: type[Config]
    missing: tuple[str, ...] = ()
    """Dotted keys that are filled in before that, and are absent from the plain data."""


class Config(BaseModel):
    """Base of all configuration classes: immutable, and unknown keys are errors.

    The docstring of a field is its description in the JSON Schema (`scaling schema`), which editors
    show.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, use_attribute_docstrings=True
    )

    mistaken_for: ClassVar[dict[tuple[str, ...], str]] = {}
    """Error message for a file of another kind, by the keys that identify that kind."""

    renamed: ClassVar[dict[str, str]] = {}
    """Current names of renamed keys, by former name."""

    def checks(self) -> Iterable[Iterator[Problem]]:
        """Checks that involve several fields, as iterators over problems.

        Each iterator is evaluated separately, and also if other fields of the class are invalid: it
        may then raise an AttributeError when it reads one of those (scaling/config/partial.py).
        """
        return ()

    @model_validator(mode="after")
    def _checked(self) -> Any:
        if problems := [problem for check in self.checks() for problem in check]:
            raise field_errors(problems)
        return self

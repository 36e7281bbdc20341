"""What every configuration class shares: frozen, closed, and strict about booleans."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError


def _no_boolean(value: Any) -> Any:
    """`d_model: yes` is a slip of the keyboard, not the number one."""
    if isinstance(value, bool):
        raise ValueError(f"a number is expected, not {str(value).lower()}")
    return value


Count = Annotated[int, BeforeValidator(_no_boolean), Field(gt=0)]
"""A positive whole number; `3e6` is as good as `3_000_000`."""

Index = Annotated[int, BeforeValidator(_no_boolean), Field(ge=0)]
"""A whole number from zero on."""

Positive = Annotated[float, BeforeValidator(_no_boolean), Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, BeforeValidator(_no_boolean), Field(ge=0, allow_inf_nan=False)]
Real = Annotated[float, BeforeValidator(_no_boolean), Field(allow_inf_nan=False)]
Fraction = Annotated[float, BeforeValidator(_no_boolean), Field(ge=0, le=1)]


LISTED = "listed"
"""Tag of the plain list where a list or a rule may stand."""

FIELD_ERROR = "field_error"


def field_error(field: str, message: str) -> PydanticCustomError:
    """What a validator of a whole class raises about one of its fields, or a field's field
    (`experts.top_k`), so that messages name the path to it."""
    said = "{field}: {message}"
    return PydanticCustomError(FIELD_ERROR, said, {"field": field, "message": message})


class Config(BaseModel):
    """Base of all configuration: immutable, and no key that it does not know.

    A string under a field is its description: it goes into the JSON Schema (`scaling schema`),
    where editors show it.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, use_attribute_docstrings=True
    )

"""`scaling schema`: the JSON Schema of configurations, for editors and for reference."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from scaling.console import print_json


class ConfigKind(StrEnum):
    """Kinds of configuration files."""

    RUN = "run"
    SWEEP = "sweep"


def schema(
    kind: Annotated[ConfigKind, typer.Argument(help="Kind of configuration.")] = ConfigKind.RUN,
) -> None:
    """Print the JSON Schema of a run or a sweep: every key with its type, default and meaning.

    Editors use it to complete and check YAML.

    Example: `scaling schema sweep > sweep.schema.json`
    """
    from scaling.config import RunConfig, SweepConfig, json_schema

    print_json(json_schema(RunConfig if kind is ConfigKind.RUN else SweepConfig))

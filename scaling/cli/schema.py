"""`scaling schema`: what may stand in a configuration, for editors and for reading."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from scaling.cli.terminal import print_json


class Kind(StrEnum):
    """What a YAML file may configure."""

    RUN = "run"
    SWEEP = "sweep"


def schema(
    kind: Annotated[Kind, typer.Argument(help="which configuration")] = Kind.RUN,
) -> None:
    """Print the JSON Schema of a run or a sweep: every key, its type, default and meaning.

    Editors complete and check YAML with it. Example: `scaling schema sweep > sweep.schema.json`
    """
    from scaling.config import RunConfig, SweepConfig, json_schema

    print_json(json_schema(RunConfig if kind is Kind.RUN else SweepConfig))

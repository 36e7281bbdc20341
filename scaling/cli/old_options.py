"""Former spellings of options, each refused with the present one."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from typer.core import TyperCommand

from scaling.errors import UserError

_RENAMED = {
    "allocate": {"--at": "--given", "--loss": "--target-loss"},
    "compare": {"--at": "--given"},
    "models": {"--vocab": "--vocab-size"},
    "simulate": {"--draw": "--seed"},
    "suggest": {"--ratios": "--ratio-range"},
}
"""By command: options that were renamed, because elsewhere the name means something else."""

_FILE_OPTIONS = {"fit": "--save", "allocate": "--out", "compare": "--out"}
"""By command whose `--json` took a file: the option that now writes the file."""


def renamed(ctx: Any, option: str) -> str:
    """The message about a renamed option of the command; empty if it was never one."""
    new = _RENAMED.get(ctx.info_name, {}).get(option)
    return f"{option} of this command is now {new}" if new else ""


class JsonSwitchCommand(TyperCommand):
    """A command whose `--json` took a file before it became a switch."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the words of the command.

        Raises:
            UserError: a file follows `--json`.
        """
        if files := [word.partition("=")[2] for word in args if word.startswith("--json=")]:
            self._refuse(ctx, files[0])
        values, extra, _ = self.make_parser(ctx).parse_args(args=list(args))
        arguments = [value for param in self.params if param.param_type_name == "argument"
                     for value in _flat(values.get(str(param.name)))]
        positional = [*arguments, *extra]
        if len(positional) > 1:  # the first is the table or the law that the command reads
            for word, following in pairwise(args):
                if word == "--json" and following in positional and _is_file_name(following):
                    self._refuse(ctx, following)
        return list(super().parse_args(ctx, args))

    def _refuse(self, ctx: Any, file: str) -> None:
        option = _FILE_OPTIONS[ctx.info_name]
        raise UserError(f"--json {file}: --json is a switch that prints JSON on standard output; "
                        f"write the file with {option} {file}")


def _flat(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Sequence):
        for part in value:
            yield from _flat(part)


def _is_file_name(word: str) -> bool:
    return bool(Path(word).suffix) or os.sep in word or os.path.lexists(word)

"""Laws in files: what `scaling fit --save` writes and the other commands read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from scaling.errors import UserError, option
from scaling.files import parse_json, read_bytes
from scaling.laws.approaches.frontier import APPROACHES, Frontier, frontier_from_json
from scaling.laws.arguments import checked
from scaling.laws.form_choice import FormChoice, choice_from_json
from scaling.laws.forms.catalogue import NAMED
from scaling.laws.json_object import JsonObject
from scaling.laws.law import Law
from scaling.laws.law_json import law_from_json
from scaling.outputs import COMMAND, Output, finite, json_output

_COMMAND = "scaling fit"
_MAX_BYTES = 32 * 2**20  # a hundred times the size of the laws of a sweep
_MAX_LAWS = 1000


def laws_output(path: Path, inputs: Iterable[Path] = ()) -> Output:
    """A file that `save` may write: a new one, or one that `save` wrote before."""
    return replace(json_output(path, _COMMAND, inputs), function="save")


def save(
    laws: Sequence[Law | Frontier], path: Path, inputs: Iterable[Path] = (), *,
    choice: FormChoice | None = None,
) -> None:
    """Write laws as JSON.

    Args:
        laws: fitted laws and frontiers.
        path: a new file, or one that this function wrote before.
        inputs: the files that the laws were fitted to, which must not be overwritten.
        choice: which of them predicts best.

    Raises:
        UserError: the path is an input, or a file that this function did not write.
    """
    laws_output(path, inputs).write(laws_text(laws, choice_json(laws, choice)))


def choice_json(laws: Sequence[Law | Frontier], choice: FormChoice | None) -> dict[str, Any]:
    """What a file of laws says of the choice between them, under the key `choice`; empty if there
    is none."""
    if choice is None:
        return {}
    numbers = {id(law): i for i, law in enumerate(laws)}
    return {"choice": {"laws": {name: numbers[id(law)] for name, law in choice.laws.items()}}
            | choice.to_json()}


def laws_text(laws: Sequence[Law | Frontier], more: Mapping[str, Any] | None = None) -> str:
    """Laws as JSON text, one line for each key, so that a change is one line of a diff.

    Args:
        laws: fitted laws and approaches.
        more: further keys of the object.
    """
    blocks = []
    for law in laws:
        lines = [f"    {json.dumps(key)}: {json.dumps(finite(value), separators=(', ', ': '))}"
                 for key, value in law.to_json().items()]
        blocks.append("   {\n" + ",\n".join(lines) + "\n   }")
    head = f'{{\n  {json.dumps(COMMAND)}: {json.dumps(_COMMAND)},\n  "laws": [\n'
    tail = "".join(f",\n  {json.dumps(key)}: {json.dumps(finite(value))}"
                   for key, value in (more or {}).items())
    return head + ",\n".join(blocks) + f"\n  ]{tail}\n}}\n"


def load(path: Path) -> list[Law | Frontier]:
    """Read laws that `save` wrote.

    Raises:
        UserError: the file is absent, or holds no laws.
    """
    return load_with_choice(path)[0]


def load_with_choice(path: Path) -> tuple[list[Law | Frontier], FormChoice | None]:
    """Read laws that `save` wrote, and which of them predicts best; None if they were named.

    Raises:
        UserError: the file is absent, or holds no laws.
    """
    try:
        content = parse_json(read_bytes(path, _MAX_BYTES), str(path), unique_keys=True)
    except FileNotFoundError:
        writes = option(f"`Fit.save({str(path)!r})`", f"`scaling fit RUNS --save {path}`")
        raise UserError(f"{path}: no such file; {writes} writes it") from None
    except UserError as error:
        raise UserError(f"{error}; {_expected()}") from None
    if not isinstance(content, dict) or not isinstance(content.get("laws"), list) or not (
            0 < len(content["laws"]) <= _MAX_LAWS):
        raise UserError(f"{path}: holds no laws, or more than {_MAX_LAWS:,}; {_expected()}")
    laws = [_from_json(law, str(path), f"laws[{i}]") for i, law in enumerate(content["laws"])]
    if content.get("choice") is None:
        return laws, None
    return laws, choice_from_json(JsonObject(content["choice"], str(path), "choice"), laws)


def _expected() -> str:
    return f"a file that {option('`Fit.save`', '`scaling fit --save`')} wrote is expected"


@checked
def load_loss_laws(path: str | Path) -> list[Law]:
    """Like `load`, but only laws of an outcome such as the loss, without frontiers."""
    return [law for law in load(Path(path)) if isinstance(law, Law)]


def _from_json(content: Any, source: str, path: str) -> Law | Frontier:
    fields = JsonObject(content, source, path)
    if "form" not in fields and fields.text("law", (*NAMED, *APPROACHES)) in APPROACHES:
        return frontier_from_json(content, source, path)
    return law_from_json(content, source, path)

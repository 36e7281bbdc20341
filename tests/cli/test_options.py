"""An option has one meaning in all commands, and its former spelling is refused."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

import pytest
import typer

from scaling.cli.main import app

FIT = ("fit", "runs.csv", "--law", "chinchilla", "--bootstrap", "0")
BUDGETS = ("--budgets", "1e18:1e19:3")


@dataclass(frozen=True)
class Option:
    """An option of a command."""

    kind: Any
    """Type of one value."""
    metavar: str | None
    help: str


def commands(group, name: str = "") -> Iterator[tuple[str, typer.core.TyperCommand]]:
    for key, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{name} {key}".strip())
        else:
            yield f"{name} {key}".strip(), command


def options() -> dict[str, dict[str, Option]]:
    """By option, then by command."""
    found = defaultdict(dict)
    for name, command in commands(typer.main.get_command(app)):
        hints = get_type_hints(command.callback)
        for param in command.params:
            for option in param.opts if param.param_type_name == "option" else ():
                found[option][name] = Option(
                    value_type(hints[param.name]), param.metavar, param.help)
    return found


def value_type(hint: Any) -> Any:
    """The type of one value: `str` of `list[str] | None`; a Literal stays."""
    parts = [part for part in get_args(hint) if part is not NoneType]
    if NoneType in get_args(hint):
        return value_type(parts[0])
    return parts[0] if getattr(hint, "__origin__", None) is list else hint


@pytest.fixture
def place(tmp_path: Path, command, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    done = command("simulate", "besiroglu2024", *BUDGETS, "--noise", "0.003", "--out", "runs.csv")
    assert done.code == 0, done.err
    return tmp_path


@pytest.mark.parametrize("option", [name for name, by_command in options().items()
                                    if len(by_command) > 1])
def test_an_option_has_one_type_in_all_commands(option) -> None:
    by_command = options()[option]
    if option in ("--n", "--d"):  # of a table its column, of a run to be predicted the number
        for of_a_run in ("predict", "forecast seal"):
            assert by_command.pop(of_a_run).metavar in ("N", "D")
    if option == "--figure":  # the file of the one figure that a plan has; elsewhere a name
        assert by_command.pop("sweep plan").kind is Path
    kinds = {(each.kind, "PATH" if option == "--out" else each.metavar)
             for each in by_command.values()}
    assert len(kinds) == 1, by_command


def test_the_shared_options_have_their_documented_meaning() -> None:
    found = options()
    assert {(each.kind, each.help) for each in found["--json"].values()} == {
        (bool, "Print JSON, and nothing else, on standard output.")}
    assert {(each.kind, each.metavar) for each in found["--runs"].values()} == {(Path, "DIR")}
    assert {each.kind for each in found["--seed"].values()} == {int}
    assert set(found["--seed"]) == {"fit", "simulate"}
    assert set(found["--save"]) == {"fit"}
    written = [*found["--out"].values(), *found["--save"].values()]
    assert {(each.kind, each.metavar) for each in written} == {(Path, "DIR"), (Path, "FILE")}


def test_every_help_text_is_a_sentence() -> None:
    for by_command in options().values():
        for name, each in by_command.items():
            assert each.help[0].isupper(), (name, each.help)
            assert each.help.endswith("."), (name, each.help)


@pytest.mark.parametrize(("words", "new"), [
    ((*FIT, "--json", "laws.json"), "--save laws.json"),
    ((*FIT, "--json=laws.json"), "--save laws.json"),
    (("fit", "--json", "laws.json", "runs.csv"), "--save laws.json"),
    (("allocate", "besiroglu2024", "--compute", "1e18", "--json", "a.json"), "--out a.json"),
    (("allocate", "besiroglu2024", "--compute", "1e18", "--json=a.json"), "--out a.json"),
    (("compare", "besiroglu2024", "--json", "new/c.json"), "--out new/c.json"),
    (("allocate", "besiroglu2024", "--loss", "2"), "--target-loss"),
    (("allocate", "krajewski2024", "--compute", "1e20", "--at", "granularity=2"), "--given"),
    (("compare", "krajewski2024", "--at", "granularity=2"), "--given"),
    (("simulate", "besiroglu2024", *BUDGETS, "--draw", "1"), "--seed"),
    (("sweep", "suggest", "runs.csv", "--target", "a", "--budget", "1e20", "--runs", "4"),
     "--max-runs"),
    (("sweep", "suggest", "runs.csv", "--target", "a", "--budget", "1e20", "--ratios", "5:9"),
     "--ratio-range"),
    (("models", "gpt3", "--vocab", "7"), "--vocab-size"),
])
def test_a_former_spelling_is_refused_with_the_new_one(place, command, words, new) -> None:
    done = command(*words)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: ")
    assert len(done.err.splitlines()) == 1
    assert new in done.err
    assert [path.name for path in place.iterdir()] == ["runs.csv"]


@pytest.mark.parametrize("words", [
    FIT, ("allocate", "besiroglu2024", "kaplan2020", "--compute", "1e20"),
    ("compare", "besiroglu2024", "kaplan2020"),
], ids=lambda words: words[0])
def test_json_prints_what_the_file_has_and_nothing_else(place, command, words) -> None:
    option = "--save" if words[0] == "fit" else "--out"
    assert command(*words, option, "file.json").code == 0
    done = command(*words, "--json")
    assert done.code == 0
    assert done.out == (place / "file.json").read_text()
    both = command(*words, option, "file.json", "--json")
    assert both.out == done.out


@pytest.mark.parametrize("words", [
    ("fit", "--json", *FIT[1:]), ("allocate", "--json", "laws.json", "--compute", "1e20"),
    ("allocate", "laws.json", "--compute", "1e20", "--json", "kaplan2020"),
    ("compare", "--json", "laws.json"),
])
def test_the_switch_may_precede_what_the_command_reads(place, command, words) -> None:
    assert command(*FIT, "--save", "laws.json").code == 0
    done = command(*words)
    assert done.code == 0, done.err
    assert json.loads(done.out)["command"] == f"scaling {words[0]}"


def test_json_of_a_fit_includes_the_evidence(place, command) -> None:
    done = command(*FIT, "--profile", "alpha", "--sensitivity", "--json", "--evidence", "e.json")
    assert done.code == 0, done.err
    content = json.loads(done.out)
    evidence = json.loads((place / "e.json").read_text())
    assert content["evidence"] == {k: v for k, v in evidence.items() if k != "command"}
    assert [law["law"] for law in content["laws"]] == ["chinchilla"]


def test_laws_printed_as_json_can_be_read_again(place, command) -> None:
    (place / "laws.json").write_text(command(*FIT, "--json").out)
    assert command("allocate", "laws.json", "--compute", "1e19").code == 0
    assert command(*FIT, "--save", "laws.json").code == 0

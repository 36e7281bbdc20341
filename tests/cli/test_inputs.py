"""Invalid command lines and hostile files: each command ends with exit status 2 and one message, or
succeeds, and no existing file is lost."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli import inputs_files, inputs_typed
from tests.cli.conftest import contents, environment
from tests.cli.inputs import Input

pytestmark = pytest.mark.slow  # some 150 commands

SECONDS = 120
"""Time limit of such a command, even on a busy machine."""
LIBRARIES = ("Traceback", "Warning:", "site-packages", "pydantic", "pandas.", "numpy.", "click.")
"""Text of libraries that no message may contain."""


@pytest.fixture(autouse=True)
def _no_command_hangs() -> Iterator[None]:
    def end(*_: object) -> None:
        raise AssertionError(f"longer than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize(
    "given", [*inputs_typed.INPUTS, *inputs_files.INPUTS], ids=lambda given: given.name)
def test_each_command_succeeds_or_ends_with_one_message(
    place: Path, command: Callable[..., object], monkeypatch: pytest.MonkeyPatch, given: Input
) -> None:
    for name, value in {**environment(place), **given.environment}.items():
        monkeypatch.setenv(name, value)
    work = place / "work"
    for name, content in given.files.items():
        path = work / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content() if callable(content) else content)
    if given.prepare is not None:
        given.prepare(work)
    before = contents(place)
    done = command(*given.words, cwd=work)
    assert done.code in given.codes, (done.code, done.out[-500:], done.err[-2000:])
    shown = done.out + done.err
    assert not any(word in shown for word in LIBRARIES), shown
    assert all(c.isprintable() or c in "\n\t" for c in shown), ascii(shown)
    if done.code == 2:
        errors = [line for line in done.err.splitlines()
                  if line.startswith("error:") or "─ Error ─" in line]
        assert len(errors) == 1, done.err
    assert given.says in shown
    after = contents(place)
    allowed = ("work/runs/logs/", "cache/", *(f"work/{name}" for name in given.changes))
    lost = [name for name in before if after.get(name) != before[name]
            and not name.startswith(allowed)]
    assert not lost
    assert {str(path) for path in place.parent.iterdir()} <= {str(place)}, os.listdir(place.parent)

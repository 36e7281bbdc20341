"""Run `scaling` commands in one process that is subject to permissions, even as root.

    python -m tests.cli.unprivileged < COMMANDS > RESULTS

COMMANDS is a JSON list of lists of words; RESULTS is a JSON list of [status, output, messages].
A status of None is a traceback.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import json
import os
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
_FIRST = "--drop-capabilities"
_PR_CAPBSET_DROP = 24
_CAPABILITIES = (0, 1, 2, 3)
"""CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH and CAP_FOWNER: see capabilities(7)."""


def _obey_permissions() -> None:
    """Become a program of the same name that has none of these capabilities."""
    libc = ctypes.CDLL(None, use_errno=True)
    for number in _CAPABILITIES:
        libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0)
    os.execv(sys.executable, [sys.executable, "-m", "tests.cli.unprivileged"])


def run(commands: list[list[str]], cwd: Path, environment: dict[str, str]) -> list[list[Any]]:
    """The results of commands that are run one after the other in `cwd`."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.cli.unprivileged", _FIRST], input=json.dumps(commands),
        cwd=cwd, env=environment | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def _one(words: list[str]) -> list[Any]:
    from scaling.cli.main import main

    sys.argv = ["scaling", *words]
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    status: int | None = None
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            status = int(end.code or 0)
        except BaseException:
            traceback.print_exc()
    return [status, *(stream.buffer.getvalue().decode() for stream in (out, err))]


if __name__ == "__main__":
    if _FIRST in sys.argv:
        _obey_permissions()
    print(json.dumps([_one(words) for words in json.loads(sys.stdin.read())]))

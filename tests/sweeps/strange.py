"""Invalid and hostile content of a folder of runs, by name."""

from __future__ import annotations

import json
import os
import socket as sockets
from pathlib import Path

from scaling.runs.files import LONGEST_LINE
from scaling.runs.state import FAILURE

LEASE = "lease.000003.json"
DEEP = b"[" * 100_000


def pipe(path):
    os.mkfifo(path)


def folder(path):
    path.mkdir()
    (path / "kept").write_text("kept")


def link_to_nothing(path):
    path.symlink_to("nowhere")


def link_to_itself(path):
    path.symlink_to(path.name)


def socket(path):
    with sockets.socket(sockets.AF_UNIX) as there:
        here = Path.cwd()
        os.chdir(path.parent)  # the path of a socket may have 107 characters
        try:
            there.bind(path.name)
        finally:
            os.chdir(here)


def link_to_device(path):
    path.symlink_to("/dev/zero")


def holding(content):
    def write(path):
        path.write_bytes(content)
    return write


def record(**changes):
    content = {"status": "done", "steps": 24, "loss": 3.5} | changes
    return holding(json.dumps({k: v for k, v in content.items() if v != "left out"}).encode())


def line(**changes):
    content = {"step": 10, "tokens": 640, "loss": 4.0, "seconds": 5.0} | changes
    text = json.dumps({k: v for k, v in content.items() if v != "left out"}).encode()
    return holding(text.replace(b'"1e400"', b"1e400") + b"\n")


STRANGE = {
    "record": {
        "a pipe": pipe, "a folder": folder, "a link to nothing": link_to_nothing,
        "a device": link_to_device, "a link to itself": link_to_itself,
        "a socket": socket, "deep": holding(DEEP), "text for a loss": record(loss="3.5"),
        "text for a step": record(steps="24"), "no steps": record(steps="left out"),
        "no loss": record(loss="left out"), "NaN": record(loss=float("nan")),
        "infinity": record(loss=float("inf")), "a negative step": record(steps=-1),
        "half a step": record(steps=1.5), "a truth for a step": record(steps=True),
        "a step of 400 digits": record(steps=10**400), "tokens as text": record(tokens="many"),
        "a huge number": record(anything=10**400), "no status": record(status="left out"),
        "a status of no kind": record(status=["done"]), "done without a loss": record(loss=None),
        "of another run": record(run_id="f" * 16), "a run as a path": record(run_id="../x"),
        "a list of a time": record(finished=[1]),
    },
    "metrics": {
        "a pipe": pipe, "a folder": folder, "a link to nothing": link_to_nothing,
        "a device": link_to_device, "a link to itself": link_to_itself,
        "a socket": socket, "deep": holding(DEEP), "text": line(loss="4.0"),
        "no tokens": line(tokens="left out"), "NaN": line(loss=float("nan")),
        "beyond floats": line(grad_norm="1e400"), "a huge step": line(step=10**400),
        "a negative step": line(step=-5), "a list": line(loss=[4.0]), "no time": line(seconds=None),
        "a long line": holding(b'{"step": 1, "x": "' + b"y" * 3 * LONGEST_LINE + b'"}\n'),
        "a long line without an end": holding(b'{"step": 1' + b" " * 3 * LONGEST_LINE),
    },
    "failure": {
        "a pipe": pipe, "a folder": folder, "a link to nothing": link_to_nothing,
        "a device": link_to_device, "a link to itself": link_to_itself,
        "a socket": socket, "deep": holding(DEEP), "a list": holding(b"[]"),
        "numbers": holding(b'{"error": 5, "traceback": 7}'), "no text": holding(b"\xff\xfe"),
    },
    "config": {
        "a pipe": pipe, "a folder": folder, "a link to nothing": link_to_nothing,
        "a device": link_to_device, "a link to itself": link_to_itself,
        "a socket": socket, "deep": holding(DEEP), "a list": holding(b"[]"),
        "a run as a path": holding(b'{"run_id": "../../victim", "config": {}}'),
        "no configuration": holding(b'{"run_id": "0123456789abcdef", "config": 5}'),
    },
    "lease": {
        "a pipe": pipe, "a folder": folder, "a link to nothing": link_to_nothing,
        "a device": link_to_device, "a link to itself": link_to_itself,
        "a socket": socket,
    },
    "checkpoints": {
        "a file": holding(b"no folder"), "a pipe": pipe, "a link to nothing": link_to_nothing,
        "a link to itself": link_to_itself, "a socket": socket,
    },
    "environment": {"a folder": folder},
    "itself": {
        "a file": holding(b"no folder"), "a pipe": pipe, "a link to nothing": link_to_nothing,
        "a link to itself": link_to_itself, "a socket": socket,
    },
}
def lay(run, where, how):
    """Put something strange in a run's folder, which has got to step 5; returns its path."""
    path = {
        "record": run.record_path, "metrics": run.metrics_path, "failure": run.path / FAILURE,
        "config": run.config_path, "checkpoints": run.checkpoints, "lease": run.path / LEASE,
        "environment": run.environment_path, "itself": run.path,
    }[where]
    if where != "itself":
        run.path.mkdir(parents=True, exist_ok=True)
    STRANGE[where][how](path)
    return path

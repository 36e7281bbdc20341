"""One of two processes that train a run together; prints how it ended as JSON.

Arguments: the port at which they meet, which process this is, the run's folder and the store.
Run by test_processes.py.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import jax

sys.path.insert(0, str(Path(__file__).parents[2]))

from scaling.config import RunConfig, validate
from scaling.data.store import TokenStore
from scaling.parallel.process import join_processes
from scaling.training.loop import Stopped, train
from scaling.training.resolve import resolve
from scaling.training.signals import stop_requests
from tests.conftest import run_content


def main(port: str, index: str, folder: str, store_path: str, steps: str) -> None:
    jax.config.update("jax_num_cpu_devices", 1)
    with stop_requests() as requested:
        join_processes(f"127.0.0.1:{port}", 2, int(index))
        store = TokenStore.open(Path(store_path))
        content = run_content(store.path, tokens=int(steps) * 64, data={
            "store": store_path, "epochs": 1000})
        run = resolve(validate(RunConfig, content, "test"), store)
        outcome = train(run, store, Path(folder), asked_to_stop=requested)
    stopped = isinstance(outcome, Stopped)
    print(json.dumps({"step": outcome.step} if stopped else outcome))


if __name__ == "__main__":
    main(*sys.argv[1:])

"""What the tests of several packages share: a small corpus, small runs, and the command line."""

from __future__ import annotations

import gc
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

from tests.beartype_hook import check_types_of

# Arguments and results of these packages' functions are checked at run time, shapes of arrays
# included.
install_import_hook(["scaling.models", "scaling.objectives", "scaling.training"],
                    "tests.beartype_hook.checked")
check_types_of("scaling.laws")

ROOT = Path(__file__).parent.parent

# One compile cache for all tests and the processes they start: each shape is compiled once.
os.environ.setdefault("SCALING_CACHE", str(ROOT / "build" / "test-cache"))
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# The processes that tests start would otherwise compile this package's sources each time.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
os.environ["SCALING_TRACEBACK"] = "1"  # an error that nobody expects fails a test
# Compiling is most of what these tests do, and what they check holds of slow code as of fast.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 "
                                   "--xla_cpu_use_fusion_emitters=false")


@pytest.fixture(scope="session", autouse=True)
def _compile_once():
    from scaling.parallel.process import cache_compilations

    cache_compilations()


@pytest.fixture(scope="session", autouse=True)
def _one_device():
    """A command that trains in this process would otherwise make each core a device for all tests
    after it (scaling/parallel/cpu_devices.py), if none before it has computed."""
    import jax

    jax.config.update("jax_num_cpu_devices", 1)


@pytest.fixture(scope="module", autouse=True)
def _frozen_heap():
    """Garbage collections skip the objects that exist before a module's tests: modules, compiled
    functions, collected tests. They take a second otherwise."""
    gc.freeze()


@pytest.fixture
def ends():
    """A test that would wait for ever, such as for a pipe that nobody writes to, fails instead:
    after minutes, which nothing takes that does not wait, on any machine."""
    from tests.fuzz.limits import at_most

    with at_most(120):
        yield


@dataclass(frozen=True)
class Done:
    """What came of a command."""

    code: int
    out: str
    err: str


@pytest.fixture
def command(monkeypatch, capsys) -> Callable[..., Done]:
    """The `scaling` command in this process, which spares the seconds that importing JAX takes:
    `command("fit", "runs.csv", cwd=folder)`.

    Whatever it raises other than its exit status is a traceback to the user, and fails the test.
    """
    from scaling.cli.main import main

    def run(*words: object, cwd: Path | None = None) -> Done:
        monkeypatch.setattr(sys, "argv", ["scaling", *map(str, words)])
        monkeypatch.setattr(sys, "warnoptions", ["error"])  # a warning fails the test
        if cwd is not None:
            monkeypatch.chdir(cwd)
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return Done(int(ended.value.code or 0), printed.out, printed.err)

    return run


def write_corpus(path: Path, documents: int = 400) -> None:
    """Sentences of a toy grammar: there is something to learn, and it is learnt quickly."""
    draw = random.Random(0)
    words = ["red", "car", "love", "this", "big", "small", "green", "house", "old", "new"]
    with path.open("w") as file:
        for _ in range(documents):
            text = " ".join(draw.choice(words) for _ in range(draw.randint(20, 60)))
            file.write(json.dumps({"text": text}) + "\n")


@pytest.fixture(scope="session")
def store_path(tmp_path_factory) -> Path:
    """A token store of some 80,000 byte tokens."""
    from scaling.data.prepare import prepare

    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder / "toy.jsonl")
    prepare(f"jsonl:{folder}/toy.jsonl#text", "byte", None, folder / "store", 0.1)
    return folder / "store"


@pytest.fixture(scope="session")
def store(store_path):
    from scaling.data.store import TokenStore

    return TokenStore.open(store_path)


def run_content(store_path: Path, **changes: object) -> dict[str, object]:
    """The plain data of a run that takes a second: 24 steps of a model of 1,500 parameters."""
    return {
        "model": {"d_model": 8, "n_layers": 2, "n_heads": 2, "context": 16},
        "data": {"store": str(store_path)},
        "tokens": 24 * 4 * 16,
        "batch_sequences": 4,
        "schedule": {"kind": "wsd", "warmup_steps": 3},
        "evaluation": {"sequences": 10},
        "logging": {"every_steps": 5},
    } | changes


@pytest.fixture
def make_run(store):
    """A resolved run: `make_run(seed=1)`, `make_run("optimizer.b2=0.9")`."""
    from scaling.config import RunConfig, override, validate
    from scaling.training.resolve import resolve

    def make(*overrides: str, **changes: object) -> RunConfig:
        content = override(run_content(store.path, **changes), overrides)
        return resolve(validate(RunConfig, content, "test"), store)

    return make


@pytest.fixture
def scaling(tmp_path):
    """Run the command as a user does, in a process and a folder of its own."""

    def run(*arguments: object, cwd: Path = tmp_path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "scaling.cli.main", *map(str, arguments)]
        return subprocess.run(
            command, cwd=cwd, capture_output=True, text=True, timeout=300, check=False,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )

    return run


def assert_refused(result: Done | subprocess.CompletedProcess[str], *words: str) -> None:
    """Exit status 2, one message that says these words, and no traceback."""
    code, err = ((result.code, result.err) if isinstance(result, Done)
                 else (result.returncode, result.stderr))
    assert code == 2, err
    assert "Traceback" not in err
    message = " ".join(err.split())
    for word in words:
        assert word in message, message

"""What is recorded of the machine and the code, and how a run is asked to stop."""

from __future__ import annotations

import signal
import subprocess

import jax
import jaxlib
import numpy as np
import pytest

from scaling.training import environment
from scaling.training.environment import commit, describe_environment
from scaling.training.signals import stop_requests


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A repository with a package, in place of this one: runs git in it."""
    monkeypatch.setattr(environment, "__file__", str(tmp_path / "code" / "training" / "file.py"))
    (tmp_path / "code" / "training").mkdir(parents=True)

    def git(*words):
        done = subprocess.run(
            ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e", *words],
            check=True,
            capture_output=True,
            text=True,
        )
        return done.stdout.strip()

    return git


def test_the_commit_of_the_code(checkout, tmp_path):
    """Marked if its files were changed, and not by files beside it or new ones."""
    assert commit() is None
    checkout("init")
    inside, outside = tmp_path / "code" / "file.py", tmp_path / "notes.txt"
    for path in (inside, outside):
        path.write_text("one")
    checkout("add", ".")
    checkout("commit", "-m", "first")
    head = checkout("rev-parse", "HEAD")
    assert len(head) == 40
    assert commit() == head
    outside.write_text("two")
    (tmp_path / "code" / "new.py").write_text("")
    assert commit() == head
    inside.write_text("two")
    assert commit() == f"{head}+changes"


def test_the_environment_of_a_run(make_run):
    found = describe_environment(make_run("execution.attention=blocked"))
    assert found["kernels"] == {"attention": "blocked", "cross_entropy": "plain"}
    other = describe_environment(make_run("execution.cross_entropy=blocked"))
    assert other["kernels"] == {"attention": "plain", "cross_entropy": "blocked"}
    assert (found["devices"], found["processes"]) == (1, 1)
    assert found["device_kind"] == jax.devices()[0].device_kind
    versions = {"jax": jax.__version__, "jaxlib": jaxlib.__version__, "numpy": np.__version__}
    assert {name: found["packages"][name] for name in versions} == versions
    assert {"scaling", "flax", "optax", "orbax-checkpoint"} < set(found["packages"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_asks_to_stop_and_a_second_one_does_not_wait(number):
    other = signal.SIGTERM if number == signal.SIGINT else signal.SIGINT
    received = []
    before = {
        each: signal.signal(each, lambda number, _: received.append(number))
        for each in (number, other)
    }
    try:
        mine = {each: signal.getsignal(each) for each in before}
        with stop_requests() as asked:
            assert asked() is None
            signal.raise_signal(number)
            assert asked() == number
            assert received == []
            signal.raise_signal(other)
            assert received == [other]
            assert asked() == number
        with stop_requests() as asked:
            assert asked() is None
        assert {each: signal.getsignal(each) for each in before} == mine
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)

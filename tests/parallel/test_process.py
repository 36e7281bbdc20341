"""Set-up of a process, its messages when JAX finds no device or XLA does not accept flags, and
agreement between processes."""

from __future__ import annotations

import os
import subprocess
import threading
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from scaling.errors import UserError
from scaling.parallel import process
from scaling.parallel.process import (
    SyncPoint,
    any_process,
    broadcast_from_leader,
    cache_compilations,
    check_xla_flags,
    find_devices,
    is_leader,
    join_processes,
    keep_freed_memory,
)


def test_an_error_without_message_is_explained(monkeypatch):
    def refuse():
        raise AssertionError  # as JAX does with JAX_PLATFORMS=cuda where there is no GPU

    monkeypatch.setattr(jax, "devices", refuse)
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    with pytest.raises(UserError, match="JAX_PLATFORMS=cuda: JAX finds no such device"):
        find_devices()
    monkeypatch.delenv("JAX_PLATFORMS")
    with pytest.raises(AssertionError):  # without JAX_PLATFORMS it is not a mistake of the user
        find_devices()


@pytest.mark.parametrize(("flags", "words"), [
    ("--nonsense=1", r"\(Unknown flag in XLA_FLAGS: --nonsense=1\)"),
    ("--xla_force_host_platform_device_count=abc", r"\(Couldn't interpret value abc for flag "),
])
def test_unknown_xla_flags_are_refused(monkeypatch, tmp_path, flags, words):
    monkeypatch.setenv("SCALING_CACHE", str(tmp_path))
    monkeypatch.setenv("XLA_FLAGS", flags)
    with pytest.raises(
            UserError, match=f"XLA_FLAGS={flags}: XLA does not accept these flags {words}"):
        check_xla_flags()


def test_an_unreadable_cache_is_not_an_error(monkeypatch, tmp_path):
    def forbidden(path, *arguments, **options):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setenv("SCALING_CACHE", str(tmp_path))
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")
    monkeypatch.setattr(process.subprocess, "run",
                        lambda command, **_: subprocess.CompletedProcess(command, 0, "", ""))
    monkeypatch.setattr(process, "write_atomically", forbidden)
    monkeypatch.setattr(process, "cache_folder", lambda: tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", forbidden)
        check_xla_flags()


@pytest.fixture
def tried(monkeypatch, tmp_path):
    """Environments of the processes that would try XLA flags; all are accepted."""
    environments = []

    def run(command, **options):
        environments.append(options["env"])
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(process.subprocess, "run", run)
    monkeypatch.setenv("SCALING_CACHE", str(tmp_path))
    return environments


def test_accepted_xla_flags_are_not_tried_again(monkeypatch, tried):
    for flags in ("--xla_a", "--xla_b", "--xla_a", ""):
        monkeypatch.setenv("XLA_FLAGS", flags)
        check_xla_flags()
    assert [environment["XLA_FLAGS"] for environment in tried] == ["--xla_a", "--xla_b"]


class Processes:
    """Two processes of a run, as two threads that meet wherever all have to call a function."""

    def __init__(self, monkeypatch, seconds: tuple[float, float]) -> None:
        self.seconds, self.clock = list(seconds), [0.0, 0.0]
        self.meet = threading.Barrier(2, timeout=20)
        self.own, self.given = threading.local(), [None, None]
        self.meetings: list[int] = []
        """The step of every meeting."""
        monkeypatch.setattr(process, "time", SimpleNamespace(
            monotonic=lambda: self.clock[self.own.index]))
        monkeypatch.setattr(jax, "process_count", lambda: 2)
        monkeypatch.setattr(process, "process_allgather", self.gather)

    def gather(self, value):
        self.given[self.own.index] = np.asarray(value)
        self.meet.wait()
        gathered = np.stack(self.given)
        if self.own.index == 0:
            self.meetings.append(self.own.step)
        self.meet.wait()
        return gathered

    def run(self, steps, stop, save):
        """What each process was told after each step: `stop` and `save` say what it has been asked
        for, from its index and the step."""
        told = [[], []]

        def train(index):
            self.own.index, self.own.step = index, -1
            sync = SyncPoint()
            for step in range(steps):
                self.own.step = step
                self.clock[index] += self.seconds[index]
                told[index].append(sync(stop(index, step), save(index, step)))

        threads = [threading.Thread(target=train, args=(index,)) for index in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert told[0] == told[1]
        assert len(told[0]) == steps
        return told[0]


def test_all_processes_stop_after_one_step_if_any_was_asked_to(monkeypatch):
    """They save if process 0 does, whatever the others say, and meet about once a second by its
    clock: at first after every step, and then after at most twice as many as before."""
    two = Processes(monkeypatch, (0.01, 0.05))
    told = two.run(1000, stop=lambda index, step: index == 1 and step >= 500,
                   save=lambda index, step: index == 1 or 300 <= step < 420)
    gaps = np.diff(two.meetings)
    assert two.meetings[0] == 0
    assert gaps[:6].tolist() == [2, 4, 8, 16, 32, 64]
    assert set(gaps[6:]) <= {99, 100, 101}
    stops = [step for step, (stop, _) in enumerate(told) if stop]
    saves = [step for step, (_, save) in enumerate(told) if save]
    assert stops == [step for step in two.meetings if step >= 500]
    assert saves == [step for step in two.meetings if 300 <= step < 420]
    assert stops
    assert saves


def test_processes_whose_steps_are_long_meet_after_every_one(monkeypatch):
    two = Processes(monkeypatch, (3.0, 0.1))
    told = two.run(5, stop=lambda index, step: (index, step) == (0, 2),
                   save=lambda index, step: step == 3)
    assert two.meetings == [0, 1, 2, 3, 4]
    assert told == [(False, False), (False, False), (True, False), (False, True), (False, False)]


def test_a_single_process_is_told_what_it_was_asked_and_meets_nobody(monkeypatch):
    monkeypatch.setattr(process, "process_allgather", lambda _: pytest.fail("nobody is there"))
    sync = SyncPoint()
    for asked in ((True, False), (False, True), (False, False), (True, True)):
        assert sync(*asked) == asked


def test_flags_and_numbers_of_several_processes(monkeypatch):
    monkeypatch.setattr(process, "process_allgather", lambda flag: np.array([0, flag, 0]))
    assert any_process(True) is True
    assert any_process(False) is False
    assert broadcast_from_leader(7) == 7
    assert is_leader()
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    assert not is_leader()


def test_a_process_joins_as_the_one_that_it_is(monkeypatch):
    """JAX is not to take SIGTERM from the caller."""
    asked, set_to = [], {}
    monkeypatch.setattr(process.jax.distributed, "initialize",
                        lambda *words, **options: asked.append((words, options)))
    monkeypatch.setattr(process.jax.config, "update", lambda *words: set_to.update([words]))
    join_processes("127.0.0.1:61000", 5, 3)
    ((words, options),) = asked
    assert words == ("127.0.0.1:61000",)
    assert (options["num_processes"], options["process_id"]) == (5, 3)
    assert set_to == {"jax_enable_preemption_service": False}


@pytest.mark.parametrize("folder", [None, "/elsewhere"])
def test_every_program_is_kept_where_the_user_says_or_in_the_cache(monkeypatch, tmp_path, folder):
    set_to = {}
    monkeypatch.setenv("SCALING_CACHE", str(tmp_path))
    monkeypatch.setattr(process, "jax", SimpleNamespace(config=SimpleNamespace(
        jax_compilation_cache_dir=folder, update=lambda *words: set_to.update([words]))))
    cache_compilations()
    assert set_to.pop("jax_compilation_cache_dir", None) == (
        None if folder else str(tmp_path / "xla"))
    assert set_to == {"jax_persistent_cache_min_compile_time_secs": 0.0,
                      "jax_persistent_cache_min_entry_size_bytes": -1}


def test_freed_memory_is_kept_by_glibcs_own_settings(monkeypatch):
    """Numbers of malloc.h: M_TRIM_THRESHOLD -1, M_TOP_PAD -2, M_MMAP_MAX -4."""
    set_to = {}
    monkeypatch.setattr(process.ctypes, "CDLL", lambda _: SimpleNamespace(
        mallopt=lambda *words: set_to.update([words])))
    monkeypatch.setattr(process.sys, "platform", "linux")
    keep_freed_memory()
    assert set_to == {-4: 0, -1: 2**31 - 1, -2: 64 * 2**20}
    set_to.clear()
    monkeypatch.setattr(process.sys, "platform", "darwin")
    keep_freed_memory()
    assert not set_to


def test_flags_are_tried_again_by_another_jaxlib(monkeypatch, tried):
    monkeypatch.setenv("XLA_FLAGS", "--xla_a")
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    for version in ("1", "2", "1"):
        monkeypatch.setattr(process.jaxlib.version, "__version__", version)
        check_xla_flags()
    # The device itself stays free.
    assert [environment["JAX_PLATFORMS"] for environment in tried] == ["cpu", "cpu"]


def test_flags_that_are_refused_are_not_recorded(monkeypatch, tmp_path):
    monkeypatch.setattr(process.subprocess, "run", lambda command, **_:
                        subprocess.CompletedProcess(command, 3, "", "no reason"))
    monkeypatch.setenv("SCALING_CACHE", str(tmp_path))
    monkeypatch.setenv("XLA_FLAGS", "--xla_a")
    for _ in range(2):
        with pytest.raises(UserError, match="it ends with status 3"):
            check_xla_flags()

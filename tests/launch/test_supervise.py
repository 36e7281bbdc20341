"""Which workers are replaced, when the waiting ends, and what is said of workers that die."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import pytest

from scaling.errors import UserError
from scaling.launch import disk_full, supervise
from scaling.launch.launcher import WorkerGroup, WorkerStatus
from scaling.launch.supervise import LOST_AT_MOST, JobCounts, Supervisor
from scaling.launch.worker import REFUSED, STOPPED


@dataclass
class Scripted:
    """A launcher whose workers end as a script says: at each poll, the exit status by worker; None
    for one of which nothing is known any more."""

    script: list[dict[str, int | None]]
    detached: bool = False
    requeues: bool = False
    poll_seconds: float = 0.0
    earlier: int = 0
    submitted: list[int] = field(default_factory=list)
    workers: dict[str, WorkerStatus] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._start(self.earlier)

    def _start(self, count: int) -> list[WorkerStatus]:
        new = [WorkerStatus(str(i), "running", Path(f"{i}.log"))
               for i in range(len(self.workers), len(self.workers) + count)]
        self.workers |= {each.worker: each for each in new}
        return new

    def submit(self, group, count, total):
        self.submitted.append(count)
        return self._start(count)

    def status(self, group, *, others=False):
        ended = self.script.pop(0) if self.script else {}
        for name, exit_status in ended.items():
            self.workers[name] = replace(
                self.workers[name], state="ended", exit_status=exit_status)
        return [each for each in self.workers.values()
                if each.state != "ended" or each.exit_status is not None]

    def cancel(self, group, *, others=False):
        return []


class Jobs:
    """Progress of jobs: (over, left, free) at each poll; the last one is the end."""

    def __init__(self, *counts: tuple[int, int, bool]) -> None:
        self._counts = [counts[0], *counts]

    def __call__(self) -> JobCounts:
        over, left, free = self._counts.pop(0) if len(self._counts) > 1 else self._counts[0]
        return JobCounts(over, left, lambda: free)


def supervised(launcher, jobs, workers=2, replace_all=False, asked=lambda: None):
    supervisor = Supervisor(launcher, WorkerGroup(Path("logs"), "tiny"), workers, jobs, asked,
                            lambda log: OSError(28, "full", str(log)), "run", replace_all)
    started = supervisor.start(4, lambda: None)
    return supervisor.wait(started)


END = (4, 0, False)


def test_enough_workers_are_started_and_none_more():
    for left, count, earlier, submitted in [(4, 2, 0, [2]), (1, 2, 0, [1]), (4, 2, 1, [1]),
                                              (4, 2, 2, []), (1, 2, 2, [])]:
        launcher = Scripted([], detached=True, requeues=True, earlier=earlier)
        written: list[Path] = []
        supervisor = Supervisor(launcher, WorkerGroup(Path("logs"), "tiny"), count, Jobs(END),
                                lambda: None, OSError, "run")
        workers = supervisor.start(left, partial(written.append, Path("plan")))
        assert len(workers) == earlier + sum(submitted)
        assert launcher.submitted == submitted
        assert len(written) == len(submitted)
    # Workers that a command of its own started do not count for another command.
    attached = Scripted([], earlier=2)
    assert supervised(attached, Jobs(END)) is None
    assert attached.submitted == [2]


@pytest.mark.parametrize("exit_status", [1, -9, STOPPED, None])
def test_a_worker_that_dies_is_replaced(exit_status):
    launcher = Scripted([{}, {"0": exit_status}])
    assert supervised(launcher, Jobs((0, 4, True), (0, 4, True), (1, 3, True), END)) is None
    assert launcher.submitted == [2, 1]


@pytest.mark.parametrize("exit_status", [0, None])
def test_one_that_ends_for_want_of_jobs_is_replaced_when_a_job_is_released(exit_status):
    launcher = Scripted([{"0": exit_status}])
    jobs = Jobs((0, 2, False), (0, 2, False), (0, 2, False), END)
    assert supervised(launcher, jobs) is None
    assert launcher.submitted == [2]
    launcher = Scripted([{"0": exit_status}])
    assert supervised(launcher, Jobs((0, 2, False), (0, 2, False), (0, 2, True), END)) is None
    assert launcher.submitted == [2, 1]


@pytest.mark.parametrize("exit_status", [1, None])
def test_workers_that_die_again_and_again_are_given_up(exit_status):
    script = [{str(i + 1): exit_status} for i in range(LOST_AT_MOST + 1)]
    said = "exit status 1" if exit_status else r"run;"
    launcher = Scripted([dict(each) for each in script])
    with pytest.raises(UserError, match=f"workers died 6 times without .*{said}.*6.log"):
        supervised(launcher, Jobs((0, 4, True)))
    # Each run that ends starts the count again.
    launcher = Scripted(script)
    counts = [(i // 3, 4, True) for i in range(LOST_AT_MOST + 1)]
    assert supervised(launcher, Jobs(*counts, END)) is None
    assert launcher.submitted == [2, *[1] * (LOST_AT_MOST + 1)]


def test_a_launcher_that_requeues_its_workers_is_waited_for_while_there_are_any():
    launcher = Scripted([{}, {"0": None}, {"1": None}], detached=True, requeues=True)
    assert supervised(launcher, Jobs((0, 4, True))) is None
    assert launcher.submitted == [2]
    # For pieces of a corpus they are replaced: the caller cannot go on without.
    launcher = Scripted([{}, {"0": None}], detached=True, requeues=True)
    jobs = Jobs((0, 4, True), (0, 4, True), END)
    assert supervised(launcher, jobs, replace_all=True) is None
    assert launcher.submitted == [2, 1]


def test_a_launcher_that_does_not_answer_is_asked_again():
    class Silent(Scripted):
        asked = 0

        def status(self, group, *, others=False):
            self.asked += 1
            if self.asked == 2:
                raise UserError("squeue: no answer")
            return super().status(group)

    launcher = Silent([{}, {"0": None, "1": None}], detached=True, requeues=True)
    assert supervised(launcher, Jobs((0, 4, True))) is None
    assert launcher.asked == 3


def test_a_stop_request_ends_the_waiting():
    asked = iter([None, 15])
    assert supervised(Scripted([]), Jobs((0, 4, True)), asked=lambda: next(asked)) == 15


def test_workers_that_cannot_go_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OSError, match="full") as error:
        supervised(Scripted([{"1": disk_full.STATUS}]), Jobs((0, 4, True)))
    assert error.value.filename == "1.log"
    for content, words in [("begins\nerror: no such device\n\n", "no such device"),
                           ("", r"see 0\.log"),
                           ("x" * 10**5 + "\nerror: at the end", "at the end")]:
        Path("0.log").write_text(content)
        with pytest.raises(UserError, match=f"a worker could not begin: {words}$"):
            supervised(Scripted([{"0": REFUSED}]), Jobs((0, 4, True)))
    assert supervise._tail(Path()) == ""

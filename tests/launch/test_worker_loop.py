"""In which order a worker claims the jobs of a plan, and which it tries again."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

from scaling.launch import claim, worker


class Folder:
    """The folder of a job, which has the lease of its holder."""

    def __init__(self, job):
        self.job = job

    def alive(self):
        return self.job.is_alive


class Job:
    """A job of a plan; `after` is another one that has to be over first."""

    def __init__(self, name, after=None, alive=False):
        self.name, self.waits_for, self.is_over, self.is_alive = name, after, False, alive
        self.run = SimpleNamespace(name=name, execution=SimpleNamespace(mesh="mesh"))
        self.folder = Folder(self)
        self.after = after.folder if after else None

    def over(self):
        return self.is_over

    def ready(self):
        return self.waits_for is None or self.waits_for.is_over


@pytest.fixture
def loop(monkeypatch):
    """Runs the loop over jobs whose claims have scripted outcomes, by name; "trained" otherwise."""
    seen = SimpleNamespace(claims=[], pauses=0, divided=[], slots=[], cleared=0)

    def run(jobs, script=(), *, pack="auto", asked_to_stop=lambda: False, leader=True,
            pause=lambda: None):
        outcomes = {name: list(each) for name, each in dict(script).items()}

        def train(job, others, slots, asked, ended):
            assert slots == "slots"
            if job.is_over:
                return "passed"
            seen.claims.append(job.name)
            outcome = outcomes[job.name].pop(0) if outcomes.get(job.name) else "trained"
            job.is_over |= outcome == "trained"
            if outcome == "trained":
                ended()
            return outcome

        def sleep(seconds):
            seen.pauses += 1
            assert seen.pauses < 10
            pause()

        def clear(those):
            assert those == jobs
            seen.cleared += 1

        plan = SimpleNamespace(jobs=jobs, pack=pack, workers=3)
        monkeypatch.setattr("scaling.launch.worker_plan.read_plan", lambda path: plan)
        monkeypatch.setattr("scaling.launch.claim.train", train)
        monkeypatch.setattr("scaling.launch.jobs.clear_trunks", clear)
        monkeypatch.setattr("scaling.launch.packing.slots_by_shape",
                            lambda *words: seen.slots.append(words) or "slots")
        monkeypatch.setattr("scaling.parallel.cpu_devices.divide_cores",
                            lambda *words: seen.divided.append(words))
        for name in ("start_process", "find_devices"):
            monkeypatch.setattr(f"scaling.parallel.process.{name}", lambda: None)
        monkeypatch.setattr("scaling.parallel.process.is_leader", lambda: leader)
        monkeypatch.setattr("scaling.parallel.process.any_process", bool)
        monkeypatch.setattr("scaling.parallel.process.broadcast_from_leader", bool)
        monkeypatch.setattr(worker.time, "sleep", sleep)
        return worker.work(Path("runs/logs/a.plan.json"), asked_to_stop, cores=5, processes=2)

    run.seen = seen
    return run


def test_jobs_are_claimed_once_in_the_order_of_the_plan(loop):
    jobs = [Job(name) for name in "abc"]
    assert loop(jobs) is False
    assert loop.seen.claims == ["a", "b", "c"]
    assert (loop.seen.pauses, loop.seen.cleared) == (0, 3)
    runs = [job.run for job in jobs]
    assert loop.seen.divided == [(runs, 5, 2)]
    assert loop.seen.slots == [(runs, "auto", 3, 2)]


def test_a_branch_is_claimed_when_its_trunk_is_over(loop):
    trunk = Job("trunk")
    assert loop([Job("branch", after=trunk), trunk, Job("other")]) is False
    assert loop.seen.claims == ["trunk", "other", "branch"]
    assert loop.seen.pauses == 0  # something was trained meanwhile


def test_the_trunk_of_a_branch_is_tried_again_while_another_process_holds_it(loop):
    trunk = Job("trunk", alive=True)
    jobs = [trunk, Job("branch", after=trunk), Job("other", alive=True)]
    assert loop(jobs, {"trunk": ["passed", "passed"], "other": ["passed"]}) is False
    # The other is held by a process that lives, and no job waits for it.
    assert loop.seen.claims == ["trunk", "other", "trunk", "trunk", "branch"]
    assert loop.seen.pauses == 2  # after each pass in which nothing was trained


@pytest.mark.parametrize("ends", ["alive", "over"])
def test_a_silent_holder_is_watched_until_it_shows_a_sign_of_life(loop, ends):
    silent = Job("silent")

    def pause():
        if loop.seen.pauses == 2:
            setattr(silent, f"is_{ends}", True)

    assert loop([silent], {"silent": ["passed"] * 9}, pause=pause) is False
    assert loop.seen.claims == ["silent"] * (3 if ends == "alive" else 2)
    assert loop.seen.pauses == 2


def test_there_is_no_pause_after_a_pass_in_which_a_run_was_trained(loop):
    jobs = [Job("a"), Job("silent")]
    assert loop(jobs, {"silent": ["passed"]}) is False
    assert loop.seen.claims == ["a", "silent", "silent"]
    assert loop.seen.pauses == 0


def test_a_run_that_could_not_train_in_a_pack_is_claimed_again(loop):
    jobs = [Job("a", alive=True), Job("b", alive=True)]
    assert loop(jobs, {"a": ["again"], "b": ["left out"]}, pack=4) is False
    assert loop.seen.claims == ["a", "b", "a"]
    assert (loop.seen.pauses, loop.seen.divided) == (0, [])  # a pack has one device


def test_a_worker_that_is_asked_to_stop_claims_nothing_more(loop):
    assert loop([Job("a", alive=True), Job("b")], {"a": ["stopped"]}) is True
    assert loop.seen.claims == ["a"]
    loop.seen.claims.clear()
    assert loop([Job("a"), Job("b")], asked_to_stop=lambda: bool(loop.seen.claims)) is True
    assert loop.seen.claims == ["a"]


def test_only_the_first_process_of_a_run_clears_trunks(loop):
    assert loop([Job("a")], leader=False) is False
    assert loop.seen.cleared == 0


@pytest.fixture
def together(monkeypatch):
    """Runs `_train_together`, one run after the other, with scripted outcomes by name."""
    def run(jobs, outcomes, asked_to_stop=lambda: False, meanwhile=lambda name: None):
        held, ended = [], []

        def steps(job, asked, mesh, packed):
            assert (mesh, packed) == ("made", 3)
            held.append(job.name)
            meanwhile(job.name)
            return outcomes.get(job.name, "trained")
            yield

        def drive(width, next_run, over):
            assert width == 3
            while (generator := next_run()) is not None:
                with pytest.raises(StopIteration) as stop:
                    next(generator)
                over(stop.value.value)

        monkeypatch.setattr(claim, "make_mesh", {"mesh": "made"}.__getitem__)
        monkeypatch.setattr(claim.jax, "set_mesh", lambda mesh: nullcontext())
        monkeypatch.setattr(claim, "_held", steps)
        monkeypatch.setattr(claim, "drive_together", drive)
        outcome = claim._train_together(jobs, 3, asked_to_stop, lambda: ended.append(1))
        return outcome, held, len(ended)

    return run


def test_a_pack_takes_the_runs_that_are_ready_in_their_order(together):
    jobs = [Job("a"), Job("over"), Job("late"), Job("held")]
    jobs[1].is_over = True
    jobs[2].waits_for = jobs[0]

    def meanwhile(name):
        jobs[0].is_over |= name == "held"

    assert together(jobs, {"held": "passed"}, meanwhile=meanwhile) == (
        "trained", ["a", "held", "late"], 2)
    assert together([Job("a"), Job("b")], {"a": "passed"}) == ("passed", ["a", "b"], 1)


def test_a_pack_that_is_asked_to_stop_takes_no_more_runs(together):
    assert together([Job("a"), Job("b")], {"b": "stopped"}) == ("stopped", ["a", "b"], 1)
    asked = []
    assert together([Job("a"), Job("b")], {}, lambda: bool(asked), asked.append) == (
        "trained", ["a"], 1)
    assert together([Job("a")], {}, lambda: True) == ("passed", [], 0)

"""Which runs share a trunk, when a branch may begin, and when a trunk may go."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from scaling.config import SweepConfig, override, validate
from scaling.launch.jobs import Job, clear_trunks, jobs_of
from scaling.runs.folder import RunFolder
from scaling.runs.state import FAILURE
from scaling.runs.trunk import Trunk
from scaling.sweeps.plan import make_plan


def by_size(content, tmp_path, *overrides):
    sweep = validate(SweepConfig, override(content, overrides), "tiny")
    runs = make_plan(sweep, "tiny", tmp_path / "runs").runs_of_role("grid")
    return {(p.run.model.d_model, p.run.steps): job
            for p, job in zip(runs, jobs_of(runs), strict=True)}


@pytest.fixture
def jobs(sweep_content, tmp_path):
    return by_size(sweep_content, tmp_path)


def said(job, step):
    job.folder.path.mkdir(parents=True, exist_ok=True)
    line = {"step": step, "tokens": 64 * step, "loss": 3.0}
    job.folder.metrics_path.write_text(json.dumps(line) + "\n")


def ended(job, name="record.json"):
    job.folder.path.mkdir(parents=True, exist_ok=True)
    (job.folder.path / name).write_text("{}")


def left(job, step):
    (job.trunk.path / str(step)).mkdir(parents=True)


def test_the_longest_run_of_each_size_is_the_trunk_of_the_others(jobs):
    assert set(jobs) == {(8, 24), (8, 48), (16, 24), (16, 48)}
    for width in (8, 16):
        long, short = jobs[width, 48], jobs[width, 24]
        assert long.trunk.save_steps == {short.begins} == {24 - round(0.2 * 24)}
        assert long.after is None
        assert short.after == long.folder
        assert short.trunk.path == long.trunk.path
    assert jobs[8, 48].trunk.path != jobs[16, 48].trunk.path


def test_runs_that_differ_in_more_share_nothing(sweep_content, tmp_path):
    seeds = by_size(sweep_content, tmp_path, "seeds=[0, 1]",
                    "grids=[{kind: product, tokens: [1536]}]")
    assert all(job.trunk is None or not job.trunk.save_steps for job in seeds.values())
    cosine = by_size(sweep_content, tmp_path, "run.schedule={kind: cosine, warmup_steps: 3}")
    assert all(job.trunk is None for job in cosine.values())


def test_workers_are_told_all_of_it(jobs):
    for job in jobs.values():
        plain = json.loads(json.dumps(job.plain()))
        assert Job.read(plain, job.folder.path.parent) == job


def test_a_branch_waits_for_its_state_and_not_for_one_that_will_not_come(jobs):
    long, short = jobs[8, 48], jobs[8, 24]
    assert long.ready()
    assert not short.ready()
    said(long, short.begins)  # the step is done, and the state perhaps being written
    assert not short.ready()
    said(long, short.begins + 1)
    assert short.ready()
    said(long, 5)
    left(short, short.begins - 1)
    assert not short.ready()
    left(short, short.begins)
    assert short.ready()


@pytest.mark.parametrize("name", ["record.json", FAILURE])
def test_a_trunk_that_is_over_is_not_waited_for(jobs, name):
    ended(jobs[8, 48], name)
    assert jobs[8, 24].ready()
    assert not jobs[16, 24].ready()


def test_a_branch_that_has_begun_goes_on(jobs):
    said(jobs[8, 24], 20)
    assert jobs[8, 24].ready()


def test_what_is_over_takes_no_part(sweep_content, tmp_path, jobs):
    ended(jobs[8, 48])
    again = by_size(sweep_content, tmp_path, "grids=[{kind: product, tokens: [1536, 2304, 3072]}]")
    assert not again[8, 48].trunk.save_steps
    assert again[8, 48].after is None
    assert again[8, 24].after == again[8, 36].folder
    assert again[16, 24].after == again[16, 48].folder


def test_a_state_goes_when_no_branch_needs_it(jobs):
    everyone = list(jobs.values())
    for width in (8, 16):
        left(jobs[width, 24], jobs[width, 24].begins)
    ended(jobs[8, 24], FAILURE)
    clear_trunks(everyone)
    assert not Trunk(jobs[8, 48].trunk.path).steps()
    assert Trunk(jobs[16, 48].trunk.path).steps() == [jobs[16, 24].begins]


def test_what_a_trunk_is_writing_stays(jobs):
    """The last branch so far is over while the trunk writes the state for the next one."""
    long, short = jobs[8, 48], jobs[8, 24]
    left(short, short.begins)
    half_written = long.trunk.path / "30.orbax-checkpoint-tmp"
    half_written.mkdir()
    ended(short)
    clear_trunks(list(jobs.values()))
    assert not long.trunk.steps()
    assert half_written.exists()
    ended(long)
    clear_trunks(list(jobs.values()))
    assert not long.trunk.path.exists()


def test_states_go_that_a_killed_launcher_could_not_remove(sweep_content, tmp_path, jobs):
    branches = [jobs[width, 24] for width in (8, 16)]
    for branch in branches:
        left(branch, branch.begins)
        ended(branch)
    ended(jobs[8, 48])
    clear_trunks(list(by_size(sweep_content, tmp_path).values()))
    assert not jobs[8, 48].trunk.path.exists()
    assert not jobs[16, 48].trunk.steps()


def test_a_state_stays_while_one_of_its_branches_needs_it(jobs):
    """Two branches that differ in the shape of their cool-down begin from one state."""
    long, short = jobs[8, 48], jobs[8, 24]
    other = replace(short, folder=RunFolder(short.folder.path.with_name("0" * 16)))
    left(long, short.begins)
    ended(short)
    clear_trunks([long, short, other])
    assert long.trunk.steps() == [short.begins]
    ended(other)
    clear_trunks([long, short, other])
    assert long.trunk.steps() == []

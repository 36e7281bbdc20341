"""Runs side by side: each as if it were alone, whoever sits beside it, and whatever becomes of
them."""

from __future__ import annotations

import json
from functools import partial

import jax
import pytest

from scaling.parallel import make_mesh
from scaling.runs.folder import RunFolder
from scaling.runs.trunk import Trunk, last_shared_step
from scaling.training import packed
from scaling.training.loop import Stopped, train, train_steps
from scaling.training.packed import drive_together

TIMES = {"seconds", "data_wait_seconds"}


def together(runs, store, root, width, **further):
    """Train runs in folders by their names.

    Args:
        further: arguments of `train_steps`, each by the name of the run that it is for.

    Returns:
        What came of each, the first to end first; an OSError is caught for it.
    """
    came, waiting = {}, iter(runs.items())

    def course(name, run):
        given = {key: value[name] for key, value in further.items() if name in value}
        try:
            return name, (yield from train_steps(
                run, store, root / name, mesh=mesh, packed=width, **given))
        except OSError as error:
            return name, error

    mesh = make_mesh(next(iter(runs.values())).execution.mesh)
    with jax.set_mesh(mesh):
        drive_together(width, lambda: next((course(*item) for item in waiting), None),
                       lambda named: came.update([named]))
    return came


def numbers(folder):
    return [{k: v for k, v in line.items() if k not in TIMES}
            for line in RunFolder(folder).metrics()]


@pytest.fixture
def runs(make_run):
    """Of one shape, and different in everything else."""
    make_run = partial(make_run, "model.dropout=0.1")
    return {
        "one": make_run(),
        "seed": make_run(seed=5),
        "rate": make_run("optimizer.learning_rate=0.003", "optimizer.weight_decay=0"),
        "long": make_run(f"tokens={40 * 64}", "schedule={kind: cosine, warmup_steps: 5}"),
        "adam": make_run("optimizer.b1=0.8", "optimizer.b2=0.99", "optimizer.clip_norm=0.1"),
    }


def test_each_learns_what_it_learns_alone(runs, store, tmp_path):
    came = together(runs, store, tmp_path / "pack", 3)
    assert list(came) != list(runs), "all were of one length"
    for name, run in runs.items():
        record = train(run, store, tmp_path / name)
        assert (record["packed"], came[name]["packed"]) == (1, 3)
        assert came[name]["loss"] == pytest.approx(record["loss"], rel=1e-5)
        assert came[name]["loss_se"] == pytest.approx(record["loss_se"], rel=1e-4)
        assert RunFolder(tmp_path / "pack" / name).record() == came[name]
        side_by_side, alone = (numbers(folder / name) for folder in (tmp_path / "pack", tmp_path))
        for ours, theirs in zip(side_by_side, alone, strict=True):
            assert ours == pytest.approx(theirs, rel=1e-4)
    losses = [record["loss"] for record in came.values()]
    assert len(set(losses)) == len(losses)


def test_neither_seat_nor_company_changes_a_bit(runs, store, tmp_path):
    first = together(runs, store, tmp_path / "first", 3)
    turned = together(dict(reversed(runs.items())), store, tmp_path / "turned", 3)
    lonely = together({"adam": runs["adam"]}, store, tmp_path / "lonely", 3)
    assert {n: r["loss"] for n, r in first.items()} == {n: r["loss"] for n, r in turned.items()}
    assert lonely["adam"]["loss"] == first["adam"]["loss"]
    for name in runs:
        assert numbers(tmp_path / "first" / name) == numbers(tmp_path / "turned" / name)


def test_stopping_and_resuming_changes_no_bit(runs, store, tmp_path):
    whole = together(runs, store, tmp_path / "whole", 3)
    for stop in (4, 9, 30):
        calls = iter(range(10**6))
        stopped = together(runs, store, tmp_path / "parts", 3, asked_to_stop={
            name: (lambda calls=calls, stop=stop: next(calls) >= stop) for name in runs})
        assert any(isinstance(each, Stopped) for each in stopped.values())
    came = together(runs, store, tmp_path / "parts", 3)
    assert {n: r["loss"] for n, r in came.items()} == {n: r["loss"] for n, r in whole.items()}
    for name in runs:
        assert numbers(tmp_path / "parts" / name) == numbers(tmp_path / "whole" / name)


def test_one_that_diverges_harms_nobody(runs, make_run, store, tmp_path):
    """It has its record at once, and its seat goes to another."""
    calm = together(runs, store, tmp_path / "calm", 3)
    wild = {"wild": make_run("model.dropout=0.1", "optimizer.learning_rate=1e6",
                             "optimizer.clip_norm=1e9"), **runs}
    came = together(wild, store, tmp_path / "wild", 3)
    assert next(iter(came)) == "wild"
    assert came["wild"]["status"] == "diverged"
    assert came["wild"]["steps"] < runs["one"].steps
    assert {name: came[name]["loss"] for name in runs} == {n: r["loss"] for n, r in calm.items()}


def test_one_that_fails_harms_nobody(runs, store, tmp_path):
    """As a run whose disk is full, or that has become another's."""
    def fence():
        raise OSError("no space left")

    calm = together(runs, store, tmp_path / "calm", 3)
    came = together(runs, store, tmp_path / "torn", 3, fence={"seed": fence})
    assert str(came.pop("seed")) == "no space left"
    assert {n: r["loss"] for n, r in came.items()} == {
        n: r["loss"] for n, r in calm.items() if n != "seed"}


def test_branches_of_a_trunk_take_seats_when_it_has_left_their_state(make_run, store, tmp_path):
    trunk_run, branch = make_run(f"tokens={24 * 64}"), make_run(f"tokens={14 * 64}")
    step = last_shared_step(branch)
    path = tmp_path / "trunks" / "one"
    alone = train(branch, store, tmp_path / "alone")
    came = together({"trunk": trunk_run}, store, tmp_path, 2,
                    trunk={"trunk": Trunk(path, frozenset({step}))})
    came |= together({"branch": branch, "trunk": trunk_run}, store, tmp_path, 2,
                     trunk={"branch": Trunk(path)})
    assert came["branch"]["trunk"]["step"] == step
    assert came["branch"]["flops_shared"] > 0
    assert came["branch"]["loss"] == pytest.approx(alone["loss"], rel=1e-5)
    assert json.loads((tmp_path / "branch" / "record.json").read_text()) == came["branch"]


def test_a_device_that_is_too_small_is_told_of_at_once(runs, store, tmp_path, monkeypatch):
    """No run is blamed, and all can go on."""
    def too_much(*_, **__):
        def step(*_):
            raise RuntimeError("RESOURCE_EXHAUSTED")
        return step

    with monkeypatch.context() as patch:
        patch.setattr(packed, "make_train_step", too_much)
        with pytest.raises(RuntimeError, match="RESOURCE_EXHAUSTED"):
            together(runs, store, tmp_path / "pack", 3)
    assert not list((tmp_path / "pack").glob("*/record.json"))
    assert len(together(runs, store, tmp_path / "pack", 3)) == len(runs)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [
    ("model.dropout=0.3", "model.experts={count: 4}"),
    ("objective={kind: prefix}", "model.attention=prefix"),
    ("execution={microbatch_sequences: 2, scan_layers: true, remat: full}",),
], ids=["dropout and experts", "prefix", "microbatches of scanned layers"])
def test_what_else_a_step_may_hold(make_run, store, tmp_path, changes):
    runs = {f"seed-{seed}": make_run(*changes, seed=seed) for seed in range(2)}
    came = together(runs, store, tmp_path / "pack", 2)
    for name, run in runs.items():
        assert came[name]["loss"] == pytest.approx(
            train(run, store, tmp_path / name)["loss"], rel=1e-4)

"""A student learns from a run that is done, and from no other."""

from __future__ import annotations

import json
import math
import shutil

import jax
import numpy as np
import pytest

from scaling.config import RunConfig, run_identity, validate
from scaling.errors import UserError
from scaling.parallel import make_mesh
from scaling.runs.folder import RunFolder
from scaling.training.loop import train
from scaling.training.resolve import resolve
from scaling.training.teacher import load_teacher
from tests.objectives.cases import content_of

STEPS = {"tokens": 10 * 4 * 30, "evaluation": {"sequences": 4}}


def resolved(name, store, **changes):
    content = content_of(name, store.path, **STEPS | changes)
    return resolve(validate(RunConfig, content, name), store)


@pytest.fixture(scope="module")
def teacher(special_store, tmp_path_factory):
    """The folder of a masked language model that was trained, and its record. Its last two
    checkpoints are there."""
    folder = tmp_path_factory.mktemp("teachers") / "done"
    run = resolved("masked", special_store, checkpoint={"every_seconds": 0})
    return folder, train(run, special_store, folder)


def student(store, folder, model=(), **objective):
    said = {"kind": "distillation", "teacher": str(folder), **objective}
    sizes = content_of("distillation", store.path)["model"] | dict(model)
    return resolved("distillation", store, objective=said, model=sizes)


@pytest.fixture(scope="module")
def taught(special_store, teacher, tmp_path_factory):
    run = student(special_store, teacher[0])
    folder = tmp_path_factory.mktemp("students") / "done"
    return run, train(run, special_store, folder), folder


def test_a_student_is_trained_and_says_what_it_lost(taught):
    _, record, folder = taught
    assert record["status"] == "done"
    parts = {name for name in record if name.startswith("loss_")} - {"loss_se"}
    assert parts == {"loss_masked", "loss_soft", "loss_cosine"}
    assert record["loss"] == record["loss_masked"]
    lines = RunFolder(folder).metrics()
    assert all(line["loss"] == line["loss_masked"] for line in lines if "loss" in line)
    assert {"eval_loss_masked", "eval_loss_soft", "eval_loss_cosine"} < set(lines[-1])
    assert record["bits_per_byte"] == pytest.approx(record["loss_masked"] / math.log(2))


def test_the_teacher_is_the_checkpoint_and_part_of_the_identity(
    taught, teacher, special_store, tmp_path
):
    run, record, _ = taught
    folder, taught_by = teacher
    assert run.objective.teacher_run == taught_by["run_id"]
    assert run.objective.teacher_model.d_model == 16
    moved = tmp_path / "moved"
    shutil.copytree(folder, moved)
    there = student(special_store, moved)
    assert run_identity(there, special_store.hash) == record["run_id"]
    with jax.set_mesh(make_mesh(run.execution.mesh)):
        loaded, again = (load_teacher(r) for r in (run, there))
        assert load_teacher(resolved("masked", special_store)) is None
    for one, other in zip(jax.tree.leaves(loaded), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(one, other)
    # Another run in its place is another teacher.
    config = json.loads((moved / "config.json").read_text())
    (moved / "config.json").write_text(json.dumps(config | {"run_id": "f" * 16}))
    with pytest.raises(UserError, match=r"not the teacher \w+ any more; choose another folder"):
        load_teacher(there)
    changed = student(special_store, moved)
    assert run_identity(changed, special_store.hash) != record["run_id"]


def test_what_cannot_teach_is_refused(special_store, teacher, tmp_path):
    folder, _ = teacher

    def refused(path, *words, **changes):
        with pytest.raises(UserError) as error:
            student(special_store, path, **changes)
        message = str(error.value)
        assert "\n" not in message
        for word in (f"objective.teacher = {path}", *words):
            assert word in message, message

    refused(tmp_path / "nowhere", "does not exist", "train a masked language model there first")
    half = tmp_path / "half"
    shutil.copytree(folder, half)
    (half / "record.json").unlink()
    refused(half, "is still to be trained")
    diverged = tmp_path / "diverged"
    shutil.copytree(folder, diverged)
    record = json.loads((diverged / "record.json").read_text())
    (diverged / "record.json").write_text(json.dumps(record | {"status": "diverged"}))
    refused(diverged, "that run diverged; choose one that is done")
    refused(folder, "16 wide and the student 8", "objective.cosine_weight=0",
            model={"d_model": 8})
    refused(folder, "context 32", "16; they have to be the same", model={"context": 16})
    refused(folder, "has 281 tokens and context 32, and the student 300 and 32",
            model={"vocab_size": 300})
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    config = json.loads((other / "config.json").read_text())
    unresolved = {key: value for key, value in config["config"]["model"].items()
                  if key != "vocab_size"}
    (other / "config.json").write_text(
        json.dumps(config | {"config": config["config"] | {"model": unresolved}}))
    with pytest.raises(UserError, match=r"has no model\.vocab_size, so it is not that of a"):
        student(special_store, other)
    config["config"]["objective"] = {"kind": "replaced_tokens"}
    config["config"]["model"]["heads"] = [{"kind": "replaced_token"}]
    (other / "config.json").write_text(json.dumps(config))
    refused(other, "was trained by replaced_tokens, and a teacher is a masked language model")
    # Without the angle of hidden states the width may be any.
    narrow = student(special_store, folder, {"d_model": 8}, cosine_weight=0)
    assert narrow.objective.teacher_model.d_model == 16


def test_a_teacher_without_its_checkpoint_is_refused(special_store, teacher, tmp_path):
    lost = tmp_path / "lost"
    shutil.copytree(teacher[0], lost)
    run = student(special_store, lost)
    shutil.rmtree(lost / "checkpoints")
    with (
        jax.set_mesh(make_mesh(run.execution.mesh)),
        pytest.raises(UserError, match="holds no checkpoint, so there is no teacher"),
    ):
        load_teacher(run)


def test_a_teacher_whose_last_checkpoint_is_damaged_is_refused(special_store, teacher, tmp_path):
    """The one before it is another model; and a teacher's folder is only read."""
    folder = tmp_path / "damaged"
    shutil.copytree(teacher[0], folder)
    run = student(special_store, folder)
    _, last = sorted(folder.glob("checkpoints/[0-9]*"), key=lambda path: int(path.name))
    (last / "progress" / "metadata").write_text("{")
    names = sorted(path.name for path in last.parent.iterdir())
    with (
        jax.set_mesh(make_mesh(run.execution.mesh)),
        pytest.raises(UserError, match=f"the checkpoint of step {last.name} is damaged, so there"),
    ):
        load_teacher(run)
    assert sorted(path.name for path in last.parent.iterdir()) == names

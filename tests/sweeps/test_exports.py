"""Histories for W&B and TensorBoard have the content of the run folders exactly once."""

from __future__ import annotations

import json
import os
import struct
import sys
import types
from collections import defaultdict
from pathlib import Path

import pytest

from scaling.errors import UserError
from scaling.sweeps.tensorboard_export import export_tensorboard
from scaling.sweeps.wandb_export import export_wandb

pytestmark = pytest.mark.quick

FINISHED, SECONDS = "2026-01-02T03:04:05+00:00", 10.0
FINISHED_AT = 1767323045.0


def train(planned, *steps):
    """A run as if it had been trained to these steps, broken off once on the way."""
    planned.folder.path.mkdir(parents=True)
    lines = [{"step": s, "tokens": s * 64, "loss": 4.0 - s / 100, "seconds": s / 10} for s in steps]
    texts = [json.dumps(line) for line in (*lines, lines[-1])]
    texts.append(json.dumps({"step": steps[-1], "eval_loss": 3.5, "eval_loss_se": None}))
    planned.folder.metrics_path.write_text("\n".join([*texts, '{"step": 9']))
    planned.folder.record_path.write_text(json.dumps(
        {"status": "done", "steps": steps[-1], "loss": 3.5, "seconds": SECONDS,
         "finished": FINISHED, "trunk": None}))
    return lines


def events(folder):
    """Scalars by tag as (step, value, time), read by the layout of TFRecord files: length, its
    checksum, the event, its checksum."""
    from tensorboardX.proto.event_pb2 import Event

    scalars = defaultdict(list)
    (path,) = folder.glob("events.*")
    data, place = path.read_bytes(), 0
    while place < len(data):
        (length,) = struct.unpack_from("<Q", data, place)
        event = Event.FromString(data[place + 12 : place + 12 + length])
        place += 16 + length
        for value in event.summary.value:
            shown = (value.simple_value if value.HasField("simple_value")
                     else value.tensor.string_val[0].decode())
            scalars[value.tag].append((event.step, shown, event.wall_time))
    return scalars


def test_repeated_exports_leave_one_history_for_each_run(plan, tmp_path):
    done, other = plan.runs[:2]
    lines = train(done, 5, 10, 20)
    train(other, 5)
    place = tmp_path / "events" / done.run_id
    for time in range(2):
        assert export_tensorboard(plan, tmp_path / "events") == 2
        scalars = events(place)
        assert [s for s, _, _ in scalars["loss"]] == [5, 10, 20]
        assert [v for _, v, _ in scalars["loss"]] == pytest.approx([line["loss"] for line in lines])
        assert [t for _, _, t in scalars["loss"]] == pytest.approx(
            [FINISHED_AT - SECONDS + line["seconds"] for line in lines], abs=1e-3)
        last = FINISHED_AT - SECONDS + lines[-1]["seconds"]  # of a line without a time, too
        for name in ("eval_loss", "record/loss"):
            ((step, value, time_of_it),) = scalars[name]
            assert (step, value) == (20, 3.5)
            assert time_of_it == pytest.approx(last, abs=1e-3)
        assert "eval_loss_se" not in scalars
        assert "step" not in scalars
        ((step, text, began),) = scalars["run/text_summary"]
        assert (step, began) == (0, pytest.approx(FINISHED_AT - SECONDS, abs=1e-3))
        about = json.loads("\n".join(line.removeprefix("    ") for line in text.splitlines()))
        assert about == {"sweep": "tiny", "role": "grid", "status": "done",
                         "config": done.run.model_dump(mode="json")}
        (made,) = place.iterdir()  # its name has the second in which it was made
        made.rename(made.with_name(f"events.out.tfevents.{time}.host.scaling"))
    assert {path.name for path in (tmp_path / "events").iterdir()} == {done.run_id, other.run_id}
    assert "tensorflow" not in sys.modules


@pytest.mark.parametrize("there", [True, False])
def test_a_run_that_is_not_over_began_when_its_configuration_was_written(plan, tmp_path, there):
    """Or with its metrics, where there is no configuration."""
    run = plan.runs[0]
    train(run, 5)
    run.folder.record_path.unlink()
    os.utime(run.folder.metrics_path, (2000, 2000))
    if there:
        run.folder.config_path.write_text("{}")
        os.utime(run.folder.config_path, (1000, 1000))
    assert export_tensorboard(plan, tmp_path / "events") == 1
    scalars = events(tmp_path / "events" / run.run_id)
    assert [t for _, _, t in scalars["loss"]] == [pytest.approx((1000 if there else 2000) + 0.5)]


def test_other_event_files_are_kept(plan, tmp_path):
    done = plan.runs[0]
    train(done, 5)
    place = tmp_path / "events" / done.run_id
    place.mkdir(parents=True)
    others = {"notes.txt", "events.out.tfevents.1.host", "events.out.tfevents.1.host.scaling.old"}
    for name in others:
        (place / name).write_text("mine")
    assert export_tensorboard(plan, tmp_path / "events") == 1
    assert {name: (place / name).read_text() for name in others} == dict.fromkeys(others, "mine")


@pytest.fixture
def written(monkeypatch):
    """What is logged to a stand-in for wandb that keeps offline runs where wandb does."""
    histories, runs = defaultdict(list), {}

    class Run:
        def __init__(self, id, dir, **settings):
            self.id, self.summary = id, {}
            runs[id] = self
            self.settings = settings
            folder = f"{dir}/wandb/offline-run-{len(histories[id])}-{id}"
            self.dir = f"{folder}/files"
            histories[id].append([])
            Path(self.dir).mkdir(parents=True)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def log(self, values, step):
            histories[self.id][-1].append((step, values))

    stand_in = types.SimpleNamespace(init=Run, Settings=lambda **_: None)
    monkeypatch.setitem(sys.modules, "wandb", stand_in)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr(stand_in, "runs", runs, raising=False)
    return histories


def test_a_run_goes_to_a_project_once(plan, tmp_path, written):
    done = plan.runs[0]
    train(done, 5, 10)

    def offline():
        return sorted(path.name for path in (tmp_path / "wandb").glob("offline-run-*"))

    assert export_wandb(plan, "laws", tmp_path) == (1, 0)
    assert [step for step, _ in written[done.run_id][0]] == [5, 10, 10]
    assert export_wandb(plan, "laws", tmp_path) == (0, 1)
    assert len(offline()) == 1
    assert export_wandb(plan, "other", tmp_path) == (1, 0)
    assert len(offline()) == 2
    done.folder.record_path.write_text(json.dumps(
        {"status": "done", "steps": 10, "loss": 3.25}))
    assert export_wandb(plan, "laws", tmp_path) == (1, 0)
    assert offline() == [f"offline-run-{i}-{done.run_id}" for i in (1, 2)]  # the first is replaced


def test_a_run_in_wandb_has_its_history_configuration_and_record(plan, tmp_path, written):
    heldout = plan.runs[-1]
    train(heldout, 5, 10)
    assert export_wandb(plan, "laws", tmp_path) == (1, 0)
    (history,) = written[heldout.run_id]
    assert history[0] == (5, {"tokens": 320, "loss": 3.95, "seconds": 0.5})
    assert history[-1] == (10, {"eval_loss": 3.5, "eval_loss_se": None})
    run = sys.modules["wandb"].runs[heldout.run_id]
    assert run.summary == json.loads(heldout.folder.record_path.read_text())
    given = run.settings
    assert {key: given[key] for key in ("project", "name", "group", "tags", "mode", "resume")} == {
        "project": "laws", "name": heldout.run_id, "group": "tiny", "tags": ["heldout", "done"],
        "mode": "offline", "resume": "allow"}
    assert given["config"] == heldout.run.model_dump(mode="json")


@pytest.mark.parametrize(("key", "mode", "expected"), [
    ("", "", "offline"), ("k", "", "online"), ("k", "offline", "offline"), ("", "online", "online"),
    ("k", "disabled", "disabled"),
])
def test_the_mode_of_wandb_is_asked_for_or_follows_from_the_key(
    plan, tmp_path, written, monkeypatch, key, mode, expected
):
    """Runs that were written offline are not yet in the project."""
    train(plan.runs[0], 5)
    assert export_wandb(plan, "laws", tmp_path) == (1, 0)
    monkeypatch.setenv("WANDB_API_KEY", key)
    monkeypatch.setenv("WANDB_MODE", mode)
    again = export_wandb(plan, "laws", tmp_path)
    assert again == ((0, 1) if expected == "offline" else (1, 0))
    assert sys.modules["wandb"].runs[plan.runs[0].run_id].settings["mode"] == expected


@pytest.mark.parametrize("name", ["", "a b", "a/b", "x" * 129])
def test_an_invalid_project_is_refused(plan, tmp_path, written, name):
    train(plan.runs[0], 5)
    with pytest.raises(UserError, match="a project name of at most 128 letters"):
        export_wandb(plan, name, tmp_path)
    assert export_wandb(plan, "x" * 128, tmp_path) == (1, 0)


def test_an_interrupted_export_leaves_no_duplicate(plan, tmp_path, written):
    done = plan.runs[0]
    train(done, 5)
    stale = tmp_path / f"wandb/offline-run-20260101_000000-{done.run_id}"
    stale.mkdir(parents=True)
    assert export_wandb(plan, "laws", tmp_path) == (1, 0)
    assert not stale.exists()


@pytest.mark.parametrize("content", [
    "[]", '{"offline:laws": 5}', '{"offline:laws": {"a": "b"}}', '{"offline:laws": {"a": {}}}',
    '{"x": {"a": {"record": 1, "folder": "f"}}}', "{", '{"x": null}'])
def test_an_invalid_list_of_exports_is_refused(plan, tmp_path, written, content):
    train(plan.runs[0], 5)
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb/exported.json").write_text(content)
    with pytest.raises(UserError, match=r"exported\.json.* move it away"):
        export_wandb(plan, "laws", tmp_path)
    assert not written


def test_exports_remove_nothing_behind_a_link(plan, tmp_path, written):
    done = plan.runs[0]
    train(done, 5)
    victim = tmp_path / "victim"
    victim.mkdir()
    precious = victim / "events.out.tfevents.1.host.scaling"
    precious.write_text("precious")
    (tmp_path / "wandb").mkdir()
    (tmp_path / f"wandb/offline-run-7-{done.run_id}").symlink_to(victim)
    (tmp_path / f"wandb/offline-run-x-{done.run_id}").mkdir()
    assert export_wandb(plan, "laws", tmp_path) == (1, 0)
    assert (tmp_path / f"wandb/offline-run-x-{done.run_id}").exists()
    (tmp_path / "events").mkdir()
    (tmp_path / "events" / done.run_id).symlink_to(victim)
    with pytest.raises(UserError, match="is a link"):
        export_tensorboard(plan, tmp_path / "events")
    assert [path.name for path in victim.iterdir()] == [precious.name]
    assert precious.read_text() == "precious"


@pytest.mark.parametrize("finished", ["yesterday", "", "0001-01-01T00:00:00", "9999-12-31T23:59"])
def test_an_invalid_time_does_not_fail_the_export(plan, tmp_path, finished):
    done = plan.runs[0]
    train(done, 5)
    done.folder.record_path.write_text(json.dumps(
        {"status": "done", "steps": 5, "loss": 3.5, "finished": finished}))
    assert export_tensorboard(plan, tmp_path / "events") == 1

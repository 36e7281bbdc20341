"""A branch gives the same bits as the run alone, counts its own cost, and needs no trunk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scaling.accounting import run_flops_per_token
from scaling.optim.schedule import learning_rate
from scaling.runs.folder import RunFolder
from scaling.runs.planned import GRID, PlannedRun
from scaling.runs.trunk import Trunk, last_shared_step, trunk_identity
from scaling.runs.trunk_groups import trunk_groups
from scaling.training import session
from scaling.training.loop import Stopped, train

TIMES = {"seconds", "data_wait_seconds"}
BATCH = 64


def numbers(folder):
    return [{k: v for k, v in line.items() if k not in TIMES}
            for line in RunFolder(folder).metrics()]


@pytest.fixture
def group(make_run):
    """A run, and shorter ones that differ only in tokens or cool-down."""
    return {
        "long": make_run(f"tokens={24 * BATCH}"),
        "short": make_run(f"tokens={14 * BATCH}"),
        "bent": make_run(f"tokens={14 * BATCH}", "schedule.decay_fraction=0.5",
                         "schedule.decay_shape=linear", "evaluation.sequences=5"),
    }


@pytest.fixture
def trunk(group, tmp_path):
    """A trunk of three states, one more than a run keeps of its checkpoints."""
    steps = {last_shared_step(group[name]) for name in ("short", "bent")}
    return Trunk(tmp_path / "trunks" / "one", frozenset({*steps, 9}))


def test_runs_share_a_trunk_until_the_first_cools_down(group, store):
    names = {trunk_identity(run, store.hash) for run in group.values()}
    assert len(names) == 1
    other = group["long"].model_copy(update={"seed": 1})
    assert trunk_identity(other, store.hash) not in names
    assert trunk_identity(group["long"], "another store") not in names
    peak = group["long"].optimizer.learning_rate
    for name in ("short", "bent"):
        run, shared = group[name], last_shared_step(group[name])
        rates = [[learning_rate(each.schedule, peak, step, each.steps) for step in range(14)]
                 for each in (run, group["long"])]
        assert rates[0][:shared] == rates[1][:shared]
        assert rates[0][shared + 1:] != rates[1][shared + 1:]


@pytest.mark.parametrize(("changes", "together"), [
    ([f"tokens={14 * BATCH}"], True),
    (["schedule.decay_shape=linear"], True),
    (["logging.every_steps=3"], True),
    (["schedule.warmup_steps=2"], False),
    (["seed=1"], False),
    (["precision=bfloat16"], False),
    (["batch_sequences=8"], False),
    (["model.dropout=0.1"], False),
    (["objective={kind: prefix}", "model.attention=prefix"], False),
    (["optimizer.weight_decay=0"], False),
    (["optimizer.learning_rate=0.001"], False),
])
def test_runs_of_one_trunk_are_one_family(make_run, store, changes, together):
    """What plans count once is what trains once."""
    runs = [make_run(f"tokens={24 * BATCH}"), make_run(f"tokens={24 * BATCH}", *changes)]
    planned = [PlannedRun(run, GRID, {}, RunFolder(Path(str(n)))) for n, run in enumerate(runs)]
    assert (len({trunk_identity(run, store.hash) for run in runs}) == 1) == together
    assert (len(trunk_groups(planned)) == 1) == together


def test_a_cosine_has_no_trunk(make_run, store):
    run = make_run("schedule={kind: cosine, warmup_steps: 3}")
    assert trunk_identity(run, store.hash) is None


def test_a_branch_has_the_same_bits_as_the_run_alone(group, store, tmp_path, trunk):
    train(group["long"], store, tmp_path / "long", trunk=trunk)
    assert trunk.steps() == sorted(trunk.save_steps) == [7, 9, 11]
    flops = run_flops_per_token(group["long"]) * BATCH
    for name in ("short", "bent"):
        alone = train(group[name], store, tmp_path / f"{name}-alone")
        branch = train(group[name], store, tmp_path / name, trunk=Trunk(trunk.path))
        shared = last_shared_step(group[name])
        assert branch["trunk"] == {"run_id": "long", "step": shared}
        assert (branch["loss"], branch["loss_se"]) == (alone["loss"], alone["loss_se"])
        assert numbers(tmp_path / name) == numbers(tmp_path / f"{name}-alone")
        assert branch["flops_shared"] == shared * flops
        assert branch["flops_own"] + branch["flops_shared"] == branch["flops_counted"]
        assert (alone["trunk"], alone["flops_shared"]) == (None, 0)
        assert alone["flops_own"] == alone["flops_counted"]


def test_a_branch_counts_its_own_time(group, store, tmp_path, trunk, monkeypatch):
    """Not that of its trunk, whose steps are not in its speed either."""
    now = [0.0]

    def tick():
        now[0] += 0.01
        return now[0]

    def fence():
        now[0] += 3600

    monkeypatch.setattr(session.time, "perf_counter", tick)
    train(group["long"], store, tmp_path / "long", trunk=trunk, fence=fence)
    branch = train(group["short"], store, tmp_path / "short", trunk=Trunk(trunk.path))
    own = (14 - last_shared_step(group["short"])) * BATCH
    assert branch["seconds"] < 60
    assert branch["tokens_per_second"] == pytest.approx(own / branch["seconds"], abs=0.06, rel=0.01)


def test_saving_states_does_not_change_the_trunk(group, store, tmp_path, trunk):
    left = train(group["long"], store, tmp_path / "long", trunk=trunk)
    alone = train(group["long"], store, tmp_path / "alone")
    assert left["loss"] == alone["loss"]
    assert numbers(tmp_path / "long") == numbers(tmp_path / "alone")


def test_an_interrupted_branch_keeps_its_trunk(group, store, tmp_path, trunk):
    train(group["long"], store, tmp_path / "long", trunk=trunk)
    alone = train(group["short"], store, tmp_path / "alone")
    steps = iter([False, True])
    stopped = train(group["short"], store, tmp_path / "branch", trunk=Trunk(trunk.path),
                    asked_to_stop=lambda: next(steps))
    assert stopped == Stopped(last_shared_step(group["short"]) + 2, 14)
    trunk.remove(trunk.steps(), folder=True)
    assert not trunk.path.exists()
    record = train(group["short"], store, tmp_path / "branch", trunk=Trunk(trunk.path))
    assert record["loss"] == alone["loss"]
    assert record["trunk"] == {"run_id": "long", "step": last_shared_step(group["short"])}
    assert numbers(tmp_path / "branch") == numbers(tmp_path / "alone")


def test_a_longer_run_continues_from_an_older_trunk(group, make_run, store, tmp_path, trunk):
    """As in a growing sweep: the latest shared state is used, also before the own cool-down."""
    train(group["long"], store, tmp_path / "long", trunk=trunk)
    longer = make_run(f"tokens={40 * BATCH}")
    record = train(longer, store, tmp_path / "longer", trunk=Trunk(trunk.path))
    assert record["trunk"]["step"] == 11
    assert record["loss"] == train(longer, store, tmp_path / "alone")["loss"]


def test_without_a_trunk_the_run_trains_alone(group, store, tmp_path, monkeypatch):
    record = train(group["short"], store, tmp_path / "run", trunk=Trunk(tmp_path / "none"))
    assert record["trunk"] is None
    # A state beyond the shared steps is not used.
    ahead = Trunk(tmp_path / "ahead", frozenset({20}))
    train(group["long"], store, tmp_path / "long", trunk=ahead)
    assert ahead.steps() == [20]
    assert ahead.latest_step(group["short"]) == 0


def test_an_incomplete_checkpoint_of_a_trunk_is_ignored(tmp_path):
    """Orbax gives a checkpoint its name when it is complete."""
    for name in ("7", "12.orbax-checkpoint-tmp", "descriptor"):
        (tmp_path / name).mkdir()
    assert Trunk(tmp_path).steps() == [7]


def test_the_record_is_plain_json(group, store, tmp_path, trunk, monkeypatch):
    train(group["long"], store, tmp_path / "long", trunk=trunk)
    record = train(group["short"], store, tmp_path / "short", trunk=Trunk(trunk.path))
    assert json.loads((tmp_path / "short" / "record.json").read_text()) == record
    monkeypatch.setattr(session, "init_state", None)
    assert train(group["short"], store, tmp_path / "short") == record

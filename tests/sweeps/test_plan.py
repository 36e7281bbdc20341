"""The content of a plan, and the plans that are refused."""

from __future__ import annotations

import json

import pytest

from scaling.config import EVERYTHING, SweepConfig, override, validate
from scaling.config.run import LAYOUT
from scaling.data.store import TokenStore
from scaling.errors import UserError
from scaling.launch.local import shares
from scaling.runs.state import record_failure, run_state
from scaling.runs.trunk_groups import trunk_groups
from scaling.sweeps.plan import claim_results, make_plan
from scaling.sweeps.table import COLUMNS, export, runs_table
from tests.tiny_sweep import end

pytestmark = pytest.mark.quick


def planned(content, tmp_path, *overrides):
    sweep = validate(SweepConfig, override(content, overrides), "tiny")
    return make_plan(sweep, "tiny", tmp_path / "runs")


def test_every_point_occurs_once_in_order_of_priority(plan, sweep_content, tmp_path):
    assert len(plan.runs_of_role("grid")) == 4
    assert len(plan.runs_of_role("heldout")) == 1
    flops = [p.flops for p in plan.runs]
    assert flops == sorted(flops)
    assert len({p.run_id for p in plan.runs}) == 5
    assert {(p.run.model.d_model, p.run.trained_tokens) for p in plan.runs_of_role("grid")} == {
        (8, 1536), (8, 3072), (16, 1536), (16, 3072)
    }
    launched = [p.flops for p in plan.runs_of_role("grid")]
    assert launched == sorted(launched, reverse=True)
    most_expensive = planned(sweep_content, tmp_path, "priority=most_expensive")
    assert [p.role for p in most_expensive.runs] == ["grid"] * 4 + ["heldout"]
    assert [p.flops for p in most_expensive.runs[:4]] == sorted(flops[:4], reverse=True)
    as_written = planned(sweep_content, tmp_path, "priority=order")
    assert [(p.run.model.d_model, p.run.tokens) for p in as_written.runs[:4]] == [
        (8, 1536), (8, 3072), (16, 1536), (16, 3072)]


def test_the_learning_rate_follows_the_rule(plan):
    for p in plan.runs:
        n = p.facts["params_non_embedding"]
        assert p.run.optimizer.learning_rate == pytest.approx(1e-2 * (n / 1000) ** -0.5, rel=1e-5)


def test_runs_that_begin_from_one_model(sweep_content, tmp_path, store):
    """They share trunks if the same parameters are trained; sizes that do not fit are refused."""
    size = {"d_model": 8, "n_layers": 1, "n_heads": 1}
    (source,) = planned(sweep_content | {"sizes": [size], "heldout": []}, tmp_path,
                        "grids=[{kind: product, tokens: [640]}]").runs
    source.folder.path.mkdir(parents=True)
    source.folder.claim(source.run, store)
    end(source)
    init = f"run.init.run={source.run_id}"
    varied = "vary={trainable: [all, {roles: [hidden]}]}"
    plan = planned(sweep_content | {"sizes": [size], "heldout": []}, tmp_path, init, varied)
    assert len({p.run_id for p in plan.runs}) == 4
    assert {(p.run.init.run_id, p.run.init.step) for p in plan.runs} == {(source.run_id, 10)}
    assert [len(group) for group in trunk_groups(plan.runs)] == [2, 2]
    flops = {p.run.trainable: p.flops for p in plan.runs if p.run.trained_tokens == 1536}
    assert flops[EVERYTHING] == max(flops.values()) > min(flops.values())
    claim_results(plan, tmp_path / "results")
    shared = json.loads((tmp_path / "results/sweep.json").read_text())["shared"]
    assert shared["init"] == {"run_id": source.run_id, "step": 10}
    with pytest.raises(UserError, match=r"d_model 16 x 1: init.run = .* d_model is 8 there and 16"):
        planned(sweep_content, tmp_path, init)


def test_points_outside_the_rectangle_belong_to_the_fit(sweep_content, tmp_path):
    grids = list(sweep_content["grids"])
    sweep_content["grids"] = [*grids, {"kind": "points", "at": [{"rung": 0, "tokens": 6144}]}]
    more = planned(sweep_content, tmp_path)
    assert len(more.runs_of_role("grid")) == 5
    assert len(more.runs_of_role("heldout")) == 1
    listed = planned(sweep_content, tmp_path,
                     "learning_rate={rule: listed, rates: [0.1, 0.2, 0.3]}")
    rates = {(p.run.model.d_model, p.run.trained_tokens): p.run.optimizer.learning_rate
             for p in listed.runs}
    assert rates == {(8, 1536): 0.1, (8, 3072): 0.1, (16, 1536): 0.2, (16, 3072): 0.2,
                     (8, 6144): 0.1, (24, 4608): 0.3}


def test_two_sweeps_share_common_runs(plan, sweep_content, tmp_path):
    other = planned(sweep_content, tmp_path, "name=other", "grids.0.tokens=[3072, 4608]",
                    "heldout=[]")
    mine = {p.folder.path for p in plan.runs}
    theirs = {p.folder.path for p in other.runs}
    assert len(mine & theirs) == 2


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["sizes.0.n_heads=3"], ["d_model 8", "model.n_heads: 3 does not divide d_model = 8"]),
        (["grids.0.tokens=[1536, 1536]"], ["grids.0.tokens: lists 1536 twice"]),
        (["grids.0.tokens=[1536, 1540]"], ["two points of the sweep are the same run"]),
        (["grids.0.tokens=[1e9]"], ["one epoch", "set data.epochs"]),
        (["run.data.store=nowhere"], ["nowhere", "no such store", "scaling data prepare"]),
        (["run.modle=1"], ["modle: unknown key", "did you mean model?"]),
        (["run.seed=1"], ["run.seed", "leave it out"]),
        (["learning_rate={rule: listed, rates: [0.1]}"], ["has 1 values for 3 sizes"]),
        (["run.optimizer.learning_rate=0.1"], ["run.optimizer.learning_rate", "leave it out"]),
        (["grids=[]"], ["grids"]),
        (["grids.0.kind=prodct"], ["grids.0", "product"]),
        (["grids.0.tokns=[64]"], ["grids.0.tokns: unknown key", "did you mean tokens?"]),
        (["sizes.0.d_modl=8"], ["sizes.0.d_modl: unknown key", "did you mean d_model?"]),
        (["name=a/b"], ["name"]),
        (["sizes=[]"], ["sizes"]),
    ],
)
def test_a_plan_that_cannot_be_carried_out(sweep_content, tmp_path, overrides, words):
    with pytest.raises(UserError) as caught:
        planned(sweep_content, tmp_path, *overrides)
    for word in words:
        assert word in str(caught.value)


def test_results_of_another_configuration_are_not_mixed_in(plan, sweep_content, tmp_path):
    results = tmp_path / "results"
    claim_results(plan, results)
    claim_results(planned(sweep_content, tmp_path, "grids.0.tokens=[4608]", "seeds=[0, 1]"),
                  results)
    before = (results / "sweep.json").read_bytes()
    changed = planned(sweep_content, tmp_path, "run.optimizer.b2=0.9")
    with pytest.raises(UserError, match=r"another configuration.*optimizer\.b2"):
        claim_results(changed, results)
    assert (results / "sweep.json").read_bytes() == before


def test_a_claim_has_the_fraction_of_a_warm_up_and_not_its_steps(sweep_content, tmp_path):
    """Which depend on the length of a run, so that a sweep could not grow."""
    sweep_content["run"]["schedule"] = {"kind": "wsd", "warmup": 0.125}
    claim_results(planned(sweep_content, tmp_path), tmp_path)
    shared = json.loads((tmp_path / "sweep.json").read_text())["shared"]
    assert shared["schedule"] == {"kind": "wsd", "warmup": 0.125}
    claim_results(planned(sweep_content, tmp_path, "grids.0.tokens=[4608]"), tmp_path)


def test_new_options_do_not_change_the_claim_of_a_folder(plan, store_path, tmp_path):
    claim_results(plan, tmp_path)
    assert json.loads((tmp_path / "sweep.json").read_text()) == {
        "name": "tiny", "data": TokenStore.open(store_path).hash, "shared": {
            "model": {"context": 16, "vocab_size": plan.base.model.vocabulary},
            "batch_sequences": 4, "objective": {"kind": "causal"}, "optimizer": {"kind": "adamw"},
            "schedule": {"kind": "wsd", "warmup_steps": 3}, "evaluation": {"sequences": 10},
            "layout": LAYOUT,
        },
    }


def test_the_table_has_every_run_in_any_state(plan, tmp_path):
    diverged, failed, done = plan.runs_of_role("grid")[:3]
    for p, status, loss in ((diverged, "diverged", None), (done, "done", 3.5)):
        p.folder.path.mkdir(parents=True)
        record = p.facts | {
            "status": status, "loss": loss, "loss_se": 0.1 if loss else None,
            "bits_per_byte": 5.0 if loss else None, "steps": 9,
        }
        p.folder.record_path.write_text(json.dumps(record))
    record_failure(failed.folder, UserError("no room"))
    table = runs_table(plan)
    assert tuple(table.columns) == COLUMNS
    table = table.set_index("run_id")
    assert table.loc[diverged.run_id, "status"] == "diverged"
    assert table.loc[failed.run_id, "status"] == "failed"
    assert table.loc[done.run_id, ["status", "loss", "loss_se", "bits_per_byte"]].tolist() == [
        "done", 3.5, 0.1, 5.0]
    assert (table["status"] == "planned").sum() == 2
    assert table["loss"].notna().sum() == 1
    assert run_state(failed).note == "no room"
    assert [p.name for p in export(plan, tmp_path / "out")] == ["runs.csv", "curves.csv"]


def test_the_machine_is_divided_between_workers(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {2, 3, 5, 7})
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert [s.cores for s in shares(None, 10)] == [[2], [3], [5], [7]]
    assert [s.cores for s in shares(None, 1)] == [[2, 3, 5, 7]]
    assert [s.cores for s in shares(2, 10)] == [[2, 3], [5, 7]]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    assert [s.gpu for s in shares(None, 10)] == ["4", "6"]
    with pytest.raises(UserError, match="--workers 9: there are 4 cores"):
        shares(9, 10)

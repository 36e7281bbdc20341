"""The provided sweeps of an encoder and an encoder-decoder can be planned, and name the store that
they need."""

from __future__ import annotations

import re

import pytest

from scaling.config import SweepConfig, load
from scaling.errors import UserError
from scaling.sweeps.plan import make_plan
from tests.conftest import ROOT
from tests.objectives.cases import special_store

SHIPPED = {"bert_tiny": ("encoder-only", "masked", "--special cls,sep,mask"),
           "t5_tiny": ("encoder-decoder", "span_corruption", "--special pad --sentinels 7")}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return special_store(tmp_path_factory.mktemp("special"))


def planned(name, tmp_path, *overrides):
    path = ROOT / f"configs/sweeps/{name}.yaml"
    return make_plan(load(SweepConfig, path, overrides), str(path), tmp_path / "runs")


@pytest.mark.parametrize("name", SHIPPED)
def test_a_sweep_of_another_mode(name, store, tmp_path):
    mode, objective, _ = SHIPPED[name]
    plan = planned(name, tmp_path, f"run.data.store={store.path}", "run.data.epochs=1000")
    assert len(plan.runs_of_role("grid")) == 16
    assert len(plan.runs_of_role("heldout")) == 1
    for planned_run in plan.runs:
        run = planned_run.run
        assert (run.model.mode, run.objective.kind) == (mode, objective)
        assert run.optimizer.learning_rate == 3e-3  # a plain number is every run's rate
        assert run.schedule.warmup_steps_of(run.steps) == round(0.05 * run.steps)


@pytest.mark.parametrize("name", SHIPPED)
def test_the_command_for_a_missing_store_has_what_the_objective_needs(name, tmp_path):
    with pytest.raises(UserError) as caught:
        planned(name, tmp_path, f"run.data.store={tmp_path}/stores/chitchat-marked")
    message = str(caught.value)
    assert "no such store; prepare one with: scaling data prepare wheel:chitchat-dataset" in message
    assert f"{SHIPPED[name][2]} --out" in message


@pytest.mark.parametrize("name", SHIPPED)
def test_the_command_in_the_file_header_prepares_the_required_store(name, store, tmp_path):
    head = (ROOT / f"configs/sweeps/{name}.yaml").read_text().partition("\nname:")[0]
    options = re.search(r"scaling data prepare \S+ --special (\S+) --sentinels (\d+)", head)
    assert options, head
    plan = planned(name, tmp_path, f"run.data.store={store.path}", "run.data.epochs=1000")
    for planned_run in plan.runs:
        assert {*planned_run.run.objective.special_roles()} <= {*options[1].split(",")}
        assert planned_run.run.objective.n_sentinels(planned_run.run.model) <= int(options[2])


@pytest.mark.parametrize("name", SHIPPED)
def test_a_store_without_the_special_tokens_is_refused(
    name, store_path, tmp_path
):
    with pytest.raises(UserError) as caught:
        planned(name, tmp_path, f"run.data.store={store_path}", "run.data.epochs=1000")
    assert "prepare the text again in another folder, with " + SHIPPED[name][2] in str(caught.value)

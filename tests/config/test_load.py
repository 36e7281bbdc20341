"""Wrong configurations end in one message with the path, the problem and the fix."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from scaling.config import RunConfig, SweepConfig, json_schema, load, override, validate
from scaling.errors import UserError

pytestmark = pytest.mark.quick

ROOT = Path(__file__).parents[2]

GOOD = {
    "model": {"d_model": 64, "n_layers": 2, "n_heads": 4, "context": 128, "vocab_size": 257},
    "data": {"store": "somewhere"},
    "tokens": 1_000_000,
}


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("model.d_modle=3", ["model.d_modle", "unknown key", "did you mean d_model?"]),
        ("optimizer.lerning_rate=1", ["optimizer.lerning_rate", "did you mean learning_rate?"]),
        ("schedule={kind: wsd, warmup_step: 3}", ["schedule.warmup_step:", "warmup_steps?"]),
        ("schedule.kind=cosin", ["schedule", "'cosin'", "'wsd', 'cosine'"]),
        ("zzz=1", ["zzz: unknown key; known here: ", "tokens"]),
        ("model.d_model=abc", ["model.d_model", "integer", "'abc'"]),
        ("model.d_model=yes", ["model.d_model", "a number is expected, not true"]),
        ("model.d_model=-64", ["model.d_model", "greater than 0", "-64"]),
        ("model.d_model=null", ["model.d_model", "integer"]),
        ("model.n_heads=5", ["model.n_heads: 5 does not divide d_model = 64"]),
        ("model.n_heads=64", ["model.positions: rotary", "width 1"]),
        ("model.mode=encoder-only", ["objective.kind: causal trains decoder-only models",
                                     "choose masked"]),
        ("model.heads=[{kind: span}]",
         ["model.heads.0: span cannot be a head of a decoder-only model"]),
        ("model.heads=[{kind: token, classes: 3}]", ["model.heads", "needs the head lm"]),
        ("tokens=10", ["tokens = 10 is less than one batch of 2,048"]),
        ("schedule={kind: cosine, warmup_steps: 500}", ["warmup_steps = 500", "488 steps"]),
        ("optimizer.b2=1", ["optimizer.b2", "less than 1"]),
        ("optimizer.learning_rate=.nan", ["optimizer.learning_rate", "greater than 0", "nan"]),
        ("execution.mesh.data=all", ["execution.mesh.data", "integer", "'all'"]),
    ],
)
def test_a_wrong_value_is_named_with_its_fix(assignment, words):
    with pytest.raises(UserError) as caught:
        validate(RunConfig, override(GOOD, [assignment]), "run.yaml")
    message = str(caught.value)
    assert message.startswith("run.yaml: ")
    for word in words:
        assert word in message


def test_every_wrong_value_is_named_at_once():
    with pytest.raises(UserError) as caught:
        validate(RunConfig, override(GOOD, ["tokens=no", "model.d_model=x", "sead=1"]), "r")
    assert len(str(caught.value).splitlines()) == 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("tokens: [1", [":1:", "not valid YAML"]),
        ("tokens: 1\ntokens: 2", [":2:1", "tokens", "twice"]),
        ("1: 2", ["1 is not a name"]),
        ("- a", ["contains a list"]),
        ("", ["contains nothing"]),
        ("!!python/object/apply:os.system [echo]", ["not valid YAML"]),
    ],
)
def test_a_file_that_is_no_configuration(tmp_path, text, words):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        load(RunConfig, path)
    assert str(path) in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_a_missing_file_gives_similar_names(tmp_path):
    (tmp_path / "gpt_tiny.yaml").touch()
    with pytest.raises(UserError, match=r"gpt_tiny\.yaml"):
        load(RunConfig, tmp_path / "gpt_tinny.yaml")


def test_numbers_are_read_as_people_write_them(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(GOOD).replace("1000000", "3e6") + "optimizer: {epsilon: 1e-9}\n")
    run = load(RunConfig, path, ["model.d_model=128", "seed=7", "schedule.kind=cosine"])
    assert (run.tokens, run.optimizer.epsilon) == (3_000_000, 1e-9)
    assert (run.model.d_model, run.seed, run.schedule.kind) == (128, 7, "cosine")


def test_overrides_leave_the_original_alone_and_reach_into_lists():
    content = {"sizes": [{"d_model": 1}], "run": {"a": {"b": 2}}}
    changed = override(content, ["sizes.0.d_model=5", "run.a.b=3", "run.c.d=[1, 2]"])
    assert changed == {"sizes": [{"d_model": 5}], "run": {"a": {"b": 3}, "c": {"d": [1, 2]}}}
    assert content == {"sizes": [{"d_model": 1}], "run": {"a": {"b": 2}}}
    for wrong in ("sizes.1.d_model=5", "run.a.b.c=1", "novalue", "=1"):
        with pytest.raises(UserError):
            override(content, [wrong])


def test_the_shipped_configurations_are_valid_and_the_schema_describes_every_key():
    for path in (ROOT / "configs/sweeps").glob("*.yaml"):
        load(SweepConfig, path)
    load(RunConfig, ROOT / "configs/runs/gpt_tiny.yaml")
    schema = json_schema(SweepConfig)
    assert set(schema["properties"]) == set(SweepConfig.model_fields)
    # The schema also accepts a plain number, which is a rate for all sizes.
    assert any(one.get("type") == "number" and one.get("exclusiveMinimum") == 0
               for one in schema["properties"]["learning_rate"]["anyOf"])
    model = json_schema(RunConfig)["$defs"]["ModelConfig"]["properties"]
    assert all(field.get("description") for field in model.values())
    assert model["d_model"]["exclusiveMinimum"] == 0
    assert model["d_model"]["maximum"] == 2**24
    assert not {'"gt"', '"ge"', '"lt"', '"le"'} & set(re.findall(r'"\w+"', json.dumps(schema)))


def test_a_file_of_the_other_kind_is_recognised():
    with pytest.raises(UserError, match="is a sweep, where one run is expected"):
        load(RunConfig, ROOT / "configs/sweeps/smoke.yaml")
    with pytest.raises(UserError, match="is one run, where a sweep is expected"):
        load(SweepConfig, ROOT / "configs/runs/gpt_tiny.yaml")

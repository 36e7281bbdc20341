"""`key=value` assignments: the values they change, the keys they drop, and which are refused."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from pydantic import BaseModel

from scaling.config import RunConfig, SweepConfig, load, override, override_values
from scaling.config.classes import classes_of, tag_field, tag_values
from scaling.errors import UserError

pytestmark = pytest.mark.quick

CONFIGS = Path(__file__).parents[2] / "configs"


def run(name, *assignments):
    return load(RunConfig, CONFIGS / "runs" / f"{name}.yaml", assignments)


def sweep(*assignments):
    return load(SweepConfig, CONFIGS / "sweeps/quickstart.yaml", assignments)


def refused(make, *assignments):
    with pytest.raises(UserError) as caught:
        make(*assignments)
    return str(caught.value)


@pytest.mark.parametrize(("assignment", "words"), [
    ("a", ["not an override"]), ("=3", ["not an override"]), ("", ["not an override"]),
    ("a..b=1", ["a part of the key is empty"]), (".a=1", ["empty"]), ("a.=1", ["empty"]),
    ("a=[", ["not valid YAML"]), ("tokens.x=1", ["tokens is 3 and has no key x"]),
    ("sizes.99.kind=x", ["a list of 1", "from 0 to 0"]), ("sizes.-1=x", ["from 0 to 0"]),
    ("sizes.²=x", ["from 0 to 0"]), ("empty.0=x", ["an empty list", "empty=[...]"]),
    pytest.param("sizes." + "9" * 5000 + "=1", ["from 0 to 0"], id="digits"),
    pytest.param("a." * 100_000 + "b=1", ["100,001 parts", "32"], id="deep"),
    pytest.param("a=" + "x" * 2_000_000, ["longer than"], id="long"),
])
def test_a_wrong_assignment_is_one_short_message(assignment, words):
    content = {"tokens": 3, "sizes": [{"d_model": 1}], "empty": []}
    message = refused(override, content, [assignment])
    assert len(message) < 400
    assert "\n" not in message
    for word in words:
        assert word in message


def test_another_kind_drops_the_keys_of_the_old_one():
    assert run("gpt_tiny", "schedule.kind=cosine").schedule.warmup == 0.1
    masked = run("albert_tiny", "objective.kind=distillation", "objective.teacher=runs/x",
                 "model.preset=distilbert/base")
    assert masked.objective.kind == "distillation"
    ratio = sweep("grids.0.kind=ratio", "grids.0.tokens_per_parameter=[20]")
    assert ratio.grids[0].kind == "ratio"
    assert sweep("learning_rate.rule=constant").learning_rate.at(5) == 5.2e-3
    assert sweep("run.schedule.kind=cosine").run["schedule"] == {
        "kind": "cosine", "warmup_steps": 30}


def unions(cls: type[BaseModel], path: tuple[str, ...] = ()):
    """The dotted path of every union, and its classes."""
    for name, field in cls.model_fields.items():
        classes = classes_of(field)
        kinds = [each for each in classes if tag_values(each)]
        at = (*path, name)
        if len(kinds) > 1:
            yield (*at, "0") if name in ("grids", "heads") else at, kinds
        for each in classes:
            if not tag_values(each):
                yield from unions(each, at)


@pytest.mark.parametrize("whole", [RunConfig, SweepConfig])
def test_every_kind_leaves_only_its_own_keys_to_another(whole):
    changed = set()
    for path, kinds in unions(whole):
        for old, new in itertools.permutations(kinds, 2):
            tag = tag_field([old])
            at: object = dict.fromkeys(old.model_fields, 1) | {tag: tag_values(old)[0]}
            for key in reversed(path):
                at = [at] if key == "0" else {key: at}
            at = override(at, [f"{'.'.join(path)}.{tag}={tag_values(new)[0]}"], whole)
            for key in path:
                at = at[int(key) if key == "0" else key]
            assert set(at) == {*old.model_fields} & {*new.model_fields}, (path, old, new)
            changed.add(".".join(path).removeprefix("run."))
    assert changed >= {"schedule", "objective", "model.heads.0"}
    assert whole is RunConfig or changed >= {"grids.0", "learning_rate"}


def test_a_key_of_no_kind_is_kept_and_refused():
    content = {"schedule": {"kind": "wsd", "decay_fractoin": 0.1, "decay_shape": "linear"}}
    assert override(content, ["schedule.kind=cosine"], RunConfig) == {
        "schedule": {"kind": "cosine", "decay_fractoin": 0.1}}


def test_the_same_kind_again_drops_nothing():
    """A key that it does not have is still reported; and null is a mapping without keys."""
    content = {"schedule": {"kind": "wsd", "final_fraction": 0.1}, "optimizer": None}
    assert override(content, ["schedule.kind=wsd"], RunConfig) == content
    assert override(content, ["optimizer.b2=0.5"], RunConfig)["optimizer"] == {"b2": 0.5}
    preset = override({"model": {"preset": "gpt2/124M"}}, ["model.preset=gpt3/125M"], RunConfig)
    assert preset == {"model": {"preset": "gpt3/125M"}}


def test_values_are_copied():
    values = {"a.b": [1]}
    override_values({}, values)["a"]["b"].append(2)
    assert values == {"a.b": [1]}


def test_keys_set_by_overrides_are_not_dropped():
    for order in (1, -1):
        message = refused(run, "gpt_tiny", *["schedule.decay_fraction=0.1",
                                             "schedule.kind=cosine"][::order])
        assert "schedule.decay_fraction: unknown key" in message


def test_warmup_and_warmup_steps_replace_each_other():
    assert run("gpt_tiny", "schedule.warmup=0.1").schedule.warmup_steps_of(100) == 10
    assert run("gpt_tiny", "schedule.warmup=0.1").schedule.warmup == 0.1
    assert run("gpt_tiny", "schedule.warmup_steps=7").schedule.warmup_steps_of(100) == 7
    message = refused(run, "gpt_tiny", "schedule.warmup=0.1", "schedule.warmup_steps=3")
    assert "keep one of them" in message


def test_another_preset_or_mode_drops_encoder_decoder_keys():
    gpt = run("t5_tiny", "model.preset=gpt2/124M", "objective.kind=causal")
    assert (gpt.model.mode, gpt.model.d_model) == ("decoder-only", 96)
    assert gpt.model.source_context is None
    assert run("t5_tiny", "model.mode=decoder-only", "objective.kind=causal").model.d_model == 96
    message = refused(run, "t5_tiny", "model.preset=gpt2/124M", "objective.kind=causal",
                      "model.source_context=64")
    assert "model.source_context: a decoder-only model has one stack" in message


def test_a_message_names_values_that_were_not_given():
    message = refused(run, "gpt_tiny", "model.preset=bert/base")
    assert "objective.kind: causal trains decoder-only models" in message
    assert message.endswith("(not given; this is the default)")
    message = refused(run, "gpt_tiny", "model.preset=bert/base", "objective.kind=masked")
    assert message.endswith("(not given; this is from the preset bert/base)")
    assert "not given" not in refused(run, "bert_tiny", "objective.kind=causal")


@pytest.mark.parametrize(("make", "assignment", "words"), [
    (run, "schedule.kind=cosin",
     ["schedule: kind 'cosin' is not one of 'wsd', 'cosine'", "did you"]),
    (run, "schedule=cosine", ["a mapping with the key kind", "{kind: cosine}"]),
    (run, "schedule={}", ["schedule: kind is missing; give one of 'wsd', 'cosine'"]),
    (run, "schedule=[1]", ["not a list", "'wsd', 'cosine'"]),
    (run, "schedule.kind=", ["one of 'wsd', 'cosine', not null"]),
    (run, "schedule.kind=[wsd]", ["one of 'wsd', 'cosine', not a list"]),
    (run, "objective={kind: 5}", ["one of 'causal'", "not 5"]),
    (run, "model.heads=[lm]", ["model.heads.0: a mapping with the key kind", "{kind: lm}"]),
    (run, "optimizer=adamw", ["{kind: adamw}"]),
    (sweep, "grids.0.kind=prodct", ["grids.0: kind 'prodct'", "did you mean product?"]),
    (sweep, "grids.0=product", ["grids.0: a mapping", "{kind: product}"]),
    (sweep, "grids.0={tokens: [1]}", ["grids.0: kind is missing", "'ratio'"]),
    (sweep, "learning_rate.rule=powr", ["rule 'powr' is not one of 'power', 'listed', 'constant'"]),
    (sweep, "learning_rate=abc", ["a learning rate (a positive number) or a rule", "not 'abc'"]),
    (sweep, "learning_rate=-1", ["not -1"]), (sweep, "learning_rate=true", ["not true"]),
    (sweep, "learning_rate={learning_rate: 1}", ["rule is missing"]),
    (sweep, "sizes={kind: x}", ["sizes.kind: 'ladder' is expected"]),
    (sweep, "run.schedule.kind=cosin", ["run.schedule: kind 'cosin'"]),
])
def test_messages_about_unions_are_our_own(make, assignment, words):
    message = refused(make, "gpt_tiny", assignment) if make is run else refused(make, assignment)
    for word in words:
        assert word in message
    for word in ("discriminator", "tag ", "pydantic", "union", "Input"):
        assert word not in message.split(": ", 1)[1]


@pytest.mark.parametrize(("assignment", "end"), [
    ("vary={optimizer.b2: [0.9, 0.9]}", "vary.optimizer.b2: lists 0.9 twice; keep one"),
    ("vary={model.d_model: [1]}", "is set by the sweep's sizes, grids, seeds and "
                                  "learning_rate; leave it out"),
    ("run.model.mode=encoder-only", "model.mode: decoder-only (not given; this is the default)"),
    ('vary={"a\\nb": [1]}', "such as optimizer.b2"),
])
def test_the_source_of_a_value_is_named_once(assignment, end):
    message = refused(sweep, assignment)
    assert message.endswith(end)
    assert message.count("not given") <= 1
    assert "\n" not in message

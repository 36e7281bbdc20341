"""All problems of a file are reported at once, and every number is bounded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from annotated_types import Le, Lt
from pydantic import BaseModel

from scaling.config import RunConfig, SweepConfig, load, override, validate
from scaling.config.base import LARGEST_INTEGER
from scaling.config.classes import classes_of
from scaling.errors import UserError

pytestmark = pytest.mark.quick

CONFIGS = Path(__file__).parents[2] / "configs"
FILES = sorted(CONFIGS.glob("*/*.yaml"))
RUN = yaml.safe_load((CONFIGS / "runs/gpt_tiny.yaml").read_text())
SWEEP = yaml.safe_load((CONFIGS / "sweeps/quickstart.yaml").read_text())


def problems(cls, content, *assignments) -> list[str]:
    with pytest.raises(UserError) as caught:
        validate(cls, override(content, assignments, cls), "f")
    return [line.removeprefix("f: ") for line in str(caught.value).splitlines()]


@pytest.mark.parametrize(("cls", "content", "assignments", "beginnings"), [
    # wrong fields, unknown keys, and checks of several valid fields
    (RunConfig, RUN, ["tokens=no", "model.d_model=x", "sead=1"],
     ["model.d_model", "tokens", "sead"]),
    (RunConfig, RUN, ["seed=x", "model.n_heads=3", "schedule.warmup_steps=300", "model.window=8"],
     ["seed", "model.n_heads: 3 does not", "model.window", "schedule.warmup_steps = 300"]),
    (RunConfig, RUN, ["seed=x", "objective={kind: masked}", "model.mode=encoder-only",
                      "model.context=2"],
     ["seed", "model.context: 2 tokens have no room for text"]),
    (RunConfig, RUN, ["seed=x", "objective.kind=masked"],
     ["seed", "objective.kind: masked trains encoder-only"]),
    (RunConfig, RUN, ["logging.every=3", "batch_sequences=1e6"],
     ["logging.every: unknown key", "tokens = 500,000 is less than one batch"]),
    (RunConfig, RUN, ["model.dropout=1", "model.experts={count: 1, top_k: 2}", "model.d_ff=x"],
     ["model.d_ff", "model.dropout", "model.experts.top_k"]),
    (RunConfig, RUN, ["evaluation.sequences=0", "objective={kind: masked, random_share: 0.9}"],
     ["evaluation.sequences", "objective.random_share", "objective.kind"]),
    # a sweep, its run and its lists
    (SweepConfig, SWEEP, ["name=a b", "run.modle=3", "grids.0.tokens=[1000, 1000]", "seeds=[0, 0]",
                          "run.model.n_kv_heads=x", "run.seed=3"],
     ["name", "run.modle: unknown key; did you mean model?", "grids.0.tokens: lists 1000 twice",
      "seeds: lists 0 twice", "run.model.n_kv_heads", "run.seed: is set by the sweep"]),
    (SweepConfig, SWEEP, ["heldout.0.rung=1", "run.model.attention_pattern=local"],
     ["heldout.0: a point has either a size or a rung", "run.model.window"]),
    # the values of a preset, the places in a list, and a run whose missing keys the sweep sets
    (RunConfig, RUN, ["model={preset: gpt2/124M, n_heads: 5, dropout: x}"],
     ["model.dropout: a number is expected", "model.n_heads: 5 does not divide d_model = 768"]),
    (SweepConfig, SWEEP, ["run.model.preset=gpt2/124M", "run.model.d_model=x"],
     ["run.model.d_model: is set by the sweep", "run.model.d_model: a valid integer"]),
    (SweepConfig, SWEEP, ["heldout=[{rung: 1, tokens: 1e9}, {rung: 1, size: {d_model: 8, "
                          "n_layers: 1, n_heads: 1}, tokens: 1e9, seed: x}]"],
     ["heldout.1.seed: unknown key", "heldout.1: a point has either a size or a rung"]),
    (SweepConfig, SWEEP, ["name=a b", "vary={optimizer.b2: [0.9]}", "run.modle=3"],
     ["name", "run.modle: unknown key; did you mean model?"]),
])
def test_all_problems_at_once(cls, content, assignments, beginnings):
    lines = problems(cls, content, *assignments)
    for beginning in beginnings:
        assert any(line.startswith(beginning) for line in lines), (beginning, lines)
    assert len(lines) == len(set(lines))


def test_a_sweep_sets_the_sizes_of_its_run_and_no_other_key():
    """A base run without a model has all of it from the sweep's sizes; nothing else may miss."""
    whole = {"data": {"store": "x"}, "batch_sequences": 4}
    assert validate(SweepConfig, SWEEP | {"run": whole}, "f").run == whole
    for run in ({"data": {}}, {"data": {}, "model": {"context": 16}}):
        assert problems(SweepConfig, SWEEP | {"run": run}) == [
            "run.data.store: missing, and it has no default; add it"]


def test_a_misspelt_key_is_not_taken_for_its_default():
    lines = problems(RunConfig, RUN, "schedule={kind: wsd, warmup_step: 3}", "tokens=60_000")
    assert len(lines) == 1, lines  # 29 steps, less than the default of 50
    assert lines[0].startswith("schedule.warmup_step: unknown key; did you mean warmup_steps?")


def test_the_list_of_problems_is_bounded():
    lines = problems(RunConfig, RUN, *(f"x{n}=1" for n in range(50)))
    assert len(lines) == 21
    assert lines[-1] == "and 30 more problems"


def fields(cls: type[BaseModel], seen: set[type]) -> list[tuple[str, Any]]:
    if cls in seen:
        return []
    seen.add(cls)
    found = [(f"{cls.__name__}.{name}", field) for name, field in cls.model_fields.items()]
    return found + [one for _, field in found for inner in classes_of(field)
                    for one in fields(inner, seen)]


def bounds(annotation: Any, metadata: tuple[Any, ...]) -> list[list[Any]]:
    """The annotations of every integer in a type."""
    if annotation is int:
        return [[part for one in metadata for part in (one, *getattr(one, "metadata", ()))]]
    arguments = get_args(annotation)
    more = getattr(annotation, "__metadata__", ())
    return [one for argument in arguments for one in bounds(argument, metadata + more)]


def test_every_integer_has_an_upper_bound():
    checked = 0
    for name, field in [*fields(RunConfig, set()), *fields(SweepConfig, set())]:
        for found in bounds(field.annotation, tuple(field.metadata)):
            most = [part.le for part in found if isinstance(part, Le)]
            most += [part.lt for part in found if isinstance(part, Lt)]
            assert min(most, default=2**64) <= LARGEST_INTEGER, name
            checked += 1
    assert checked > 60


def message(work: Callable[[], object]) -> str:
    """The message of a UserError; empty if there is none. Other exceptions are not caught."""
    try:
        work()
    except UserError as error:
        return str(error)
    return ""


HUGE = ["1e30", "1e12", str(2**63), "9" * 300, ".inf", ".nan", "1e400", "-1", "1.5", "2024-01-01",
        "yes", "", "[1]", "{a: 1}", "abc", "'64 '"]


@pytest.mark.parametrize("key", [
    "tokens", "batch_sequences", "seed", "model.d_model", "model.n_layers", "model.context",
    "model.vocab_size", "evaluation.sequences", "optimizer.learning_rate", "optimizer.b2",
    "schedule.warmup_steps", "schedule.decay_fraction", "execution.mesh.data", "data.store",
    "model.dropout", "precision", "model.use_bias", "checkpoint.every_seconds", "data.epochs",
])
def test_an_absurd_value_is_one_message(key):
    for text in HUGE:
        found = message(lambda text=text: validate(
            RunConfig, override(RUN, [f"{key}={text}"], RunConfig), "f"))
        assert len(found.splitlines()) <= 1, (text, found)
        assert len(found) < 500


@pytest.mark.parametrize(("cls", "content", "assignment", "beginning"), [
    (RunConfig, RUN, "model.d_model=1e9", "model.d_model: a number less than or equal to"),
    (RunConfig, RUN, "tokens=1e30", "tokens: an integer of at most"),
    (SweepConfig, SWEEP, "sizes.0.d_model=1e9", "sizes.0.d_model: a number less than or equal to"),
    (SweepConfig, SWEEP, "grids.0.tokens=[1e30]", "grids.0.tokens.0: an integer of at most"),
])
def test_huge_numbers_are_refused_before_computation(cls, content, assignment, beginning):
    (line,) = problems(cls, content, assignment)
    assert line.startswith(beginning)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_shipped_files_are_read(path):
    load(SweepConfig if path.parent.name == "sweeps" else RunConfig, path)


@pytest.mark.parametrize("assignment", [
    "vary={" + ", ".join(f"optimizer.k{n}: [1, 2, 3, 4, 5, 6, 7, 8, 9]" for n in range(15)) + "}",
    f"seeds={list(range(10_000))}",
    f"grids=[{{kind: cross, at: [{{rung: 0, tokens: 1000}}], rate_factors: {list(range(1, 1000))}, "
    f"batch_sequences: {list(range(1, 1000))}}}]",
])
def test_a_sweep_of_too_many_runs_is_refused_at_once(assignment):
    lines = problems(SweepConfig, SWEEP, assignment)
    assert any("runs, and a sweep has at most 100,000" in line for line in lines)


def test_what_varies_may_be_any_text():
    from scaling.config import override_values

    content = override_values(
        {"data": {"store": "x"}}, {"data.store": "stores/🚗\x7f: [", "a.b": [1e400]})
    assert content == {"data": {"store": "stores/🚗\x7f: ["}, "a": {"b": [1e400]}}


def test_a_sweeps_sizes_replace_those_of_the_preset():
    sizes = "sizes=[{d_model: 40, n_layers: 2, n_heads: 5}]"
    load(SweepConfig, CONFIGS / "sweeps/isoflop.yaml",
         ["run.model.preset=gpt2/124M", "run.model.n_kv_heads=5", sizes])  # not a divisor of its 12
    lines = problems(SweepConfig, SWEEP, "run.model.preset=gpt2/124M", "run.model.window=3")
    assert lines[0].startswith("run.model.window: has no effect")
    for preset in ("gpt2/", "sweep/", "sweep", ""):  # however long, one short line
        lines = problems(SweepConfig, SWEEP, f"run.model.preset={preset}{'x' * 20_000}")
        assert len(lines) == 1
        assert len(lines[0]) < 500
    lines = problems(SweepConfig, SWEEP, "run.model.preset=gpt2/125M")
    assert len(lines) == 1
    assert lines[0].startswith("run.model.preset: gpt2/125M: gpt2 has no size 125M; did you mean")

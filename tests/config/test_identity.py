"""A run's identity depends on everything that its losses depend on, and on nothing else."""

from __future__ import annotations

import json
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, create_model
from pydantic_core import to_jsonable_python

from scaling.config import RunConfig, override, run_identity, validate
from scaling.config.run import LAYOUT, NOT_SEMANTIC
from tests.conftest import ROOT

pytestmark = pytest.mark.quick

CONTENT = {
    "model": {"d_model": 64, "n_layers": 2, "n_heads": 4, "context": 128, "vocab_size": 257},
    "data": {"store": "somewhere"},
    "tokens": 1_000_000,
    "optimizer": {"kind": "adamw", "b2": 0.95},
    "schedule": {"kind": "wsd", "warmup_steps": 20},
}

NOT_DEFAULT = [
    "model.init.std=0.02", "optimizer.b1=0.8", "schedule.decay_fraction=0.3",
    "evaluation.sequences=7", "objective={kind: causal, separate_documents: true}",
]


def identity(*overrides: str, data: str = "hash") -> str:
    return run_identity(validate(RunConfig, override(CONTENT, overrides), "test"), data)


@pytest.mark.parametrize(
    "irrelevant",
    [
        "data.store=elsewhere/else",
        "data.epochs=3",
        "checkpoint.every_seconds=1",
        "logging.every_steps=1",
        "evaluation.every_steps=10",
        "execution.scan_layers=true",
        "execution.remat=full",
        "execution.mesh={fsdp: 2, tensor: 2}",
        "model.d_head=16",  # its default, given explicitly
        "model.d_ff=256",
        "optimizer.weight_decay=0.1",
        "tokens=1_000_100",  # the same whole batches
    ],
)
def test_identity_ignores_keys_without_effect_on_losses(irrelevant):
    assert identity(irrelevant) == identity()


@pytest.mark.parametrize(
    "relevant",
    [
        "model.d_model=128", "model.n_layers=3", "model.n_heads=2", "model.context=64",
        "model.vocab_size=300", "model.d_ff=128", "model.positions=learned", "model.norm=layer",
        "model.activation=swiglu", "model.use_bias=true", "model.tied_head=false",
        "model.init.std=0.02", "model.rotary_base=500", "model.norm_epsilon=1e-5",
        "tokens=2_000_000", "batch_sequences=8", "seed=1", "precision=bfloat16",
        "optimizer.learning_rate=1e-3", "optimizer.b1=0.8", "optimizer.b2=0.9",
        "optimizer.epsilon=1e-6", "optimizer.weight_decay=0", "optimizer.clip_norm=2",
        "schedule.warmup_steps=21", "schedule.decay_fraction=0.1", "schedule.decay_shape=linear",
        "schedule.kind=cosine", "evaluation.sequences=7",
    ],
)
def test_identity_depends_on_keys_that_change_losses(relevant):
    assert identity(relevant) != identity()


def test_identity_depends_on_the_data():
    assert identity(data="other") != identity()


def shuffled(content, draw):
    if not isinstance(content, dict):
        return content
    keys = draw(st.permutations(sorted(content)))
    return {key: shuffled(content[key], draw) for key in keys}


@given(st.data())
def test_identity_ignores_the_order_of_keys(data):
    run = validate(RunConfig, shuffled(CONTENT, data.draw), "test")
    assert run_identity(run, "hash") == identity()


def test_identity_survives_json():
    run = validate(RunConfig, CONTENT, "test")
    again = validate(RunConfig, json.loads(json.dumps(run.model_dump(mode="json"))), "test")
    assert again == run
    assert run_identity(again, "hash") == identity()


def test_identity_of_a_fixed_run_does_not_change():
    """The identity names existing run folders: if it changes, runs must be trained again, and
    scaling.config.run.LAYOUT must be raised."""
    assert identity() == "712bbd7c7c9058a2"
    assert identity(*NOT_DEFAULT) == "2bbc3cdfa2c2ad04"


@pytest.mark.parametrize("part", [None, "model", "model.init", "objective", "optimizer",
                                  "schedule", "evaluation"])
def test_identity_ignores_new_keys_with_defaults(part):
    # Every part has values that differ from defaults.
    run = validate(RunConfig, override(CONTENT, NOT_DEFAULT), "test")

    def grown(config: BaseModel, path: list[str]) -> BaseModel:
        if path:
            inner = grown(getattr(config, path[0]), path[1:])
            return config.model_copy(update={path[0]: inner})
        kind = type(config)
        return create_model(kind.__name__, __base__=kind, new=(int, 3)).model_construct(
            **dict(config))

    more = grown(run, part.split(".") if part else [])
    assert run_identity(more, "hash") == run_identity(run, "hash")


def defaults() -> dict[str, object]:
    """The defaults of every class whose values are part of the identity."""
    found: dict[str, object] = {}

    def walk(annotation: object) -> None:
        for inner in get_args(annotation):
            walk(inner)
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            for name, field in annotation.model_fields.items():
                key = f"{annotation.__name__}.{name}"
                if key in found or (annotation is RunConfig and NOT_SEMANTIC.get(name) is True):
                    continue
                if not field.is_required():
                    found[key] = to_jsonable_python(field.default)
                walk(field.annotation)

    walk(RunConfig)
    return found


def test_defaults_are_those_of_the_layout():
    """Identities leave out defaults. If a default changes, LAYOUT must be raised;
    then, or where an option has come, this writes the file anew:
    python -m tests.config.test_identity > tests/config/defaults.json"""
    pinned = json.loads((ROOT / "tests/config/defaults.json").read_text())
    assert {"layout": LAYOUT, "defaults": defaults()} == pinned


if __name__ == "__main__":
    print(json.dumps({"layout": LAYOUT, "defaults": defaults()}, indent=2))

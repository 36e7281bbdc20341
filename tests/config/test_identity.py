"""A run's identity is what its losses depend on: no more, and no less."""

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
        "model.d_head=16",  # its default, said aloud
        "model.d_ff=256",
        "optimizer.weight_decay=0.1",
        "tokens=1_000_100",  # the same whole batches
    ],
)
def test_what_changes_no_loss_changes_no_identity(irrelevant):
    assert identity(irrelevant) == identity()


@pytest.mark.parametrize(
    "relevant",
    [
        "model.d_model=128", "model.n_layers=3", "model.n_heads=2", "model.context=64",
        "model.vocab_size=300", "model.d_ff=128", "model.positions=learned", "model.norm=layer",
        "model.activation=swiglu", "model.biases=true", "model.tied_head=false",
        "model.init.std=0.02", "model.rotary_base=500", "model.norm_epsilon=1e-5",
        "tokens=2_000_000", "batch_sequences=8", "seed=1", "precision=bfloat16",
        "optimizer.learning_rate=1e-3", "optimizer.b1=0.8", "optimizer.b2=0.9",
        "optimizer.epsilon=1e-6", "optimizer.weight_decay=0", "optimizer.clip_norm=2",
        "schedule.warmup_steps=21", "schedule.decay_fraction=0.1", "schedule.decay_shape=linear",
        "schedule.kind=cosine", "evaluation.sequences=7",
    ],
)
def test_what_changes_a_loss_changes_the_identity(relevant):
    assert identity(relevant) != identity()


def test_the_data_is_part_of_it():
    assert identity(data="other") != identity()


def shuffled(content, draw):
    if not isinstance(content, dict):
        return content
    keys = draw(st.permutations(sorted(content)))
    return {key: shuffled(content[key], draw) for key in keys}


@given(st.data())
def test_the_order_of_keys_is_not(data):
    run = validate(RunConfig, shuffled(CONTENT, data.draw), "test")
    assert run_identity(run, "hash") == identity()


def test_it_survives_json():
    run = validate(RunConfig, CONTENT, "test")
    again = validate(RunConfig, json.loads(json.dumps(run.model_dump(mode="json"))), "test")
    assert again == run
    assert run_identity(again, "hash") == identity()


def test_it_is_the_same_as_ever():
    """The identity names folders that exist: a change here means that runs must be trained again,
    and wants a new scaling.config.run.LAYOUT."""
    assert identity() == "d1c5c93726e35b6f"
    assert identity(*NOT_DEFAULT) == "74693f11acadc910"


@pytest.mark.parametrize("part", [None, "model", "model.init", "objective", "optimizer",
                                  "schedule", "evaluation"])
def test_it_stays_when_more_can_be_configured(part):
    run = validate(RunConfig, override(CONTENT, NOT_DEFAULT), "test")  # every part says something

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
    """What stands where a run says nothing, of every class whose values are part of its
    identity."""
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


def test_no_default_changes_in_silence():
    """Identities leave out what is as it is by default. A default that changes wants a new LAYOUT;
    then, or where an option has come, this writes the file anew:
    python -m tests.config.test_identity > tests/config/defaults.json"""
    pinned = json.loads((ROOT / "tests/config/defaults.json").read_text())
    assert {"layout": LAYOUT, "defaults": defaults()} == pinned


if __name__ == "__main__":
    print(json.dumps({"layout": LAYOUT, "defaults": defaults()}, indent=2))

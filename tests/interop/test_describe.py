"""The description of a folder: its configuration, and a hash of all that its model consists of."""

from __future__ import annotations

import json

import numpy as np
import pytest

from scaling.errors import UserError
from scaling.interop.describe import describe_folder
from scaling.interop.files import save_folder
from tests.interop.test_families import saved

pytestmark = pytest.mark.quick


@pytest.fixture
def folder(tmp_path):
    """A GPT-2 in two parts."""
    from safetensors.numpy import save_file

    settings, weights = saved("GPT2LMHeadModel")
    names = sorted(weights)
    place = {name: f"{'ab'[number % 2]}.safetensors" for number, name in enumerate(names)}
    for part in ("a.safetensors", "b.safetensors"):
        save_file({name: weights[name] for name in names if place[name] == part}, tmp_path / part)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": place}))
    named = settings | {"architectures": ["GPT2LMHeadModel"]}
    (tmp_path / "config.json").write_text(json.dumps(named))
    return tmp_path


@pytest.mark.parametrize("name", ["a.safetensors", "b.safetensors", "config.json"])
def test_every_file_of_the_model_is_in_the_hash(folder, name):
    first = describe_folder(folder)
    content = (folder / name).read_bytes()
    changed = (content.replace(b'"resid_pdrop": 0.1', b'"resid_pdrop": 0.2')
               if name == "config.json" else content[:-1] + bytes([content[-1] ^ 1]))
    assert len(changed) == len(content)
    assert changed != content
    (folder / name).write_bytes(changed)
    other = describe_folder(folder)
    assert other.sha256 != first.sha256
    assert other.config.dropout == (0.2 if name == "config.json" else 0.1)
    (folder / name).write_bytes(content)
    (folder / "README.md").write_text("not of the model")
    assert describe_folder(folder) == first
    assert len(first.sha256) >= 16


def test_a_class_is_described_by_its_weights_where_its_settings_mislead(tmp_path):
    """transformers 5 writes tie_word_embeddings: true for a T5 v1.1."""
    settings, weights = saved("T5ForConditionalGeneration-v1.1")
    settings |= {"architectures": ["T5ForConditionalGeneration"], "tie_word_embeddings": True}
    save_folder(tmp_path / "own", settings, weights)
    assert not describe_folder(tmp_path / "own").config.tied_head
    tied = weights | {"lm_head.weight": np.array(weights["shared.weight"])}
    save_folder(tmp_path / "tied", settings, tied)
    assert describe_folder(tmp_path / "tied").config.tied_head


def test_a_folder_without_weights_is_not_described(folder):
    (folder / "b.safetensors").unlink()
    with pytest.raises(UserError, match=r"b\.safetensors"):
        describe_folder(folder)

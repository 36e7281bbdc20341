"""The live comparison with `transformers`: the same weights, and then the same numbers.

A case is data: a class, its settings, and which of its outputs is which of our heads. What is
compared: logits, parameter gradients, the way back, and a saved folder opened again.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scaling.interop import from_hf, save_hf, to_hf
from scaling.interop.convert import params_to_tensors
from scaling.interop.families import ARCHITECTURES
from scaling.models import Tokens

LOGITS = 1e-4
"""Absolute tolerance of logits."""
GRADIENTS = 1e-3
"""Tolerance of a tensor's gradient, relative to its norm."""
NOISE = 1e-6
"""Rounding of a gradient that is zero in exact arithmetic (that of keys' biases: softmax does not
see what is added to all logits), relative to the norm of all gradients."""


class Batch(NamedTuple):
    """Sequences padded on the right, as numpy arrays."""

    ids_BT: Any
    lengths_B: Any
    types_BT: Any = None
    source_BS: Any = None
    source_lengths_B: Any = None

    def tokens(self) -> tuple[Tokens, ...]:
        """The arguments of our model."""
        target = Tokens(self.ids_BT, documents(self.ids_BT, self.lengths_B),
                        types_BT=self.types_BT)
        if self.source_BS is None:
            return (target,)
        return target, Tokens(self.source_BS, documents(self.source_BS, self.source_lengths_B))


class Case(NamedTuple):
    """A class of transformers in one shape."""

    architecture: str
    settings: dict[str, Any]
    outputs: dict[str, str] = {"lm": "logits"}  # noqa: RUF012
    """For each of our heads, the name of their output."""
    typed: bool = False
    """Whether tokens have types."""
    source: bool = False
    """Whether an encoder reads another sequence."""
    prepare: Callable[[Any], None] = lambda model: None
    """What is done to the model after it is made."""
    padded: bool = True
    """Whether some sequences are shorter than others."""


def documents(ids_BT: Any, lengths_B: Any) -> Any:
    """1 where there is a token, 0 where there is padding."""
    return (np.arange(ids_BT.shape[1]) < lengths_B[:, None]).astype(np.int32)


def made(case: Case, seed: int = 0) -> Any:
    """Their model in evaluation mode; no bias is zero and no gain is one."""
    torch = pytest.importorskip("torch", reason="the live comparison needs torch")
    transformers = pytest.importorskip("transformers", reason="... and transformers")
    torch.manual_seed(seed)
    cls = getattr(transformers, case.architecture)
    settings = cls.config_class(**case.settings)
    settings._attn_implementation = "eager"
    model = cls(settings).eval()
    case.prepare(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def batch_for(case: Case, model: Any, seed: int = 0, length: int = 7) -> Batch:
    """Three sequences: a full one, a shorter one and one of two tokens."""
    draw = np.random.default_rng(seed)
    padding = getattr(model.config, "pad_token_id", None)
    padding = 0 if padding is None else padding

    def ids(length: int) -> tuple[Any, Any]:
        # RoBERTa takes any token with the padding's id for padding, so none is drawn.
        usable = np.setdiff1d(np.arange(model.config.vocab_size), [padding])
        drawn = draw.choice(usable, (3, length)).astype(np.int32)
        lengths = np.array([length, length - 3, 2] if case.padded else [length] * 3)
        return np.where(documents(drawn, lengths) > 0, drawn, padding), lengths

    ids_BT, lengths_B = ids(length)
    types_BT = draw.integers(0, 2, ids_BT.shape, np.int32) if case.typed else None
    source = ids(length + 2) if case.source else (None, None)
    return Batch(ids_BT, lengths_B, types_BT, *source)


def their_outputs(case: Case, model: Any, batch: Batch) -> dict[str, Any]:
    """Their logits as torch tensors, by our name of the head."""
    import torch

    def mask(ids: Any, lengths: Any) -> Any:
        return torch.tensor(documents(ids, lengths), dtype=torch.long)

    def whole(ids: Any) -> Any:
        return torch.tensor(ids, dtype=torch.long)

    if case.source:
        inputs = {"input_ids": whole(batch.source_BS),
                  "attention_mask": mask(batch.source_BS, batch.source_lengths_B),
                  "decoder_input_ids": whole(batch.ids_BT),
                  "decoder_attention_mask": mask(batch.ids_BT, batch.lengths_B)}
    else:
        inputs = {"input_ids": whole(batch.ids_BT),
                  "attention_mask": mask(batch.ids_BT, batch.lengths_B)}
    if case.typed:
        inputs["token_type_ids"] = whole(batch.types_BT)
    said = model(**inputs)
    return {kind: said[name] for kind, name in case.outputs.items()}


def our_outputs(model: Any, batch: Batch, kinds: tuple[str, ...]) -> dict[str, Any]:
    """Our logits by the name of the head."""
    states = model.states(*batch.tokens())
    return {kind: model.head(kind, states) for kind in kinds}


our_outputs_jit = jax.jit(our_outputs, static_argnums=2)


def real(logits: Any, batch: Batch) -> Any:
    """1 where logits belong to a token or a whole sequence, 0 where to padding; it broadcasts."""
    per_token = logits.ndim > 1 and logits.shape[:2] == batch.ids_BT.shape
    if not per_token:
        return np.ones((1,) * logits.ndim, np.float32)
    mask = documents(batch.ids_BT, batch.lengths_B).astype(np.float32)
    return mask.reshape(*mask.shape, *(1,) * (logits.ndim - 2))


def check(case: Case, folder: Path, seed: int = 0) -> None:
    """All comparisons of one case."""
    theirs = made(case, seed)
    batch = batch_for(case, theirs, seed)
    wanted = their_outputs(case, theirs, batch)
    ours, config = from_hf(theirs)
    draw = np.random.default_rng(1)
    weights = {kind: (draw.standard_normal(logits.shape) * real(logits, batch)).astype(np.float32)
               for kind, logits in wanted.items()}

    def projected(model: Any) -> Any:
        said = our_outputs(model, batch, tuple(weights))
        return sum(jnp.sum(weights[kind] * said[kind]) for kind in weights), said

    gradients, got = jax.jit(jax.grad(projected, has_aux=True))(ours)
    check_logits(got, batch, wanted)
    their_gradients = params_to_tensors(
        ARCHITECTURES[case.architecture], config, gradients, aliases=False)
    check_gradients(case, theirs, their_gradients, wanted, weights)
    check_way_back(case, theirs, ours, config)
    check_folder(case, theirs, ours, config, batch, folder)


def check_logits(got: dict[str, Any], batch: Batch, wanted: dict[str, Any]) -> None:
    """Ours and theirs where there are tokens."""
    for kind, logits in wanted.items():
        expected = logits.detach().numpy()
        assert got[kind].shape == expected.shape, kind
        difference = np.abs(got[kind] - expected) * real(expected, batch)
        # Logits that are all alike would agree with anything.
        assert expected.std() > 1e-2
        assert difference.max() < LOGITS, f"{kind}: {difference.max():.2g}"


def check_gradients(
    case: Case, theirs: Any, got: dict[str, Any], wanted: dict[str, Any], weights: dict[str, Any]
) -> None:
    """Gradients of the sum of all logits, each times a random number."""
    import torch

    sum((torch.tensor(weights[kind]) * logits).sum() for kind, logits in wanted.items()).backward()
    family, expected = ARCHITECTURES[case.architecture], {}
    parameters = dict(theirs.named_parameters())
    for name, parameter in parameters.items():
        if family.fallbacks.get(name) in parameters:
            assert parameter.grad is None, name
            continue
        expected[name if name in got else family.alternatives[name]] = parameter.grad
    assert got.keys() == expected.keys()
    expected = {name: np.zeros(got[name].shape) if gradient is None else gradient.numpy()
                for name, gradient in expected.items()}
    whole = np.sqrt(sum(np.square(gradient).sum() for gradient in expected.values()))
    for name, gradient in expected.items():
        difference = np.linalg.norm(got[name] - gradient)
        allowed = GRADIENTS * np.linalg.norm(gradient) + NOISE * whole
        assert difference <= allowed, f"{name}: {difference:.2g} of {np.linalg.norm(gradient):.2g}"


def check_way_back(case: Case, theirs: Any, ours: Any, config: Any) -> None:
    """The same tensors under the same names, and settings that theirs agree with."""
    tensors, settings = to_hf(ours, config, case.architecture)
    state = {name: tensor.numpy() for name, tensor in theirs.state_dict().items()}
    assert tensors.keys() == state.keys()
    spares = ARCHITECTURES[case.architecture].fallbacks
    for name in state:
        np.testing.assert_array_equal(
            tensors[name], state[spares.get(name, name)], err_msg=name)
    known = theirs.config.to_dict() | {"architectures": [case.architecture]}
    for name, value in settings.items():
        assert known.get(name) in (value, None), name


def check_folder(
    case: Case, theirs: Any, ours: Any, config: Any, batch: Batch, folder: Path
) -> None:
    """transformers opens what we save, and we what transformers saves."""
    import torch

    save_hf(ours, config, folder / "ours", case.architecture)
    opened, info = type(theirs).from_pretrained(
        folder / "ours", output_loading_info=True, attn_implementation="eager")
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.no_grad():
        said = their_outputs(case, opened.eval(), batch)
        for kind, logits in their_outputs(case, theirs, batch).items():
            mask = real(logits, batch)
            np.testing.assert_allclose(said[kind] * mask, logits * mask, atol=1e-6)
    theirs.save_pretrained(folder / "theirs", safe_serialization=True)
    again, settings = from_hf(folder / "theirs")
    assert settings == config
    jax.tree.map(np.testing.assert_array_equal, again, ours)

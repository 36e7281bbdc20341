"""Models from and to Hugging Face's `transformers`, which need not be installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scaling.config import ExecutionConfig, ModelConfig
from scaling.errors import UserError
from scaling.interop import convert, fields
from scaling.interop.families import FAMILIES
from scaling.interop.family import Family, Tensors
from scaling.interop.files import as_float32, load_folder, save_folder
from scaling.models import Transformer

_DRAWN_BY = 0
"""Seed of the parameters that the other model does not have (`Family.drawn`)."""


def from_hf(
    source: Any, *, precision: str = "float32", execution: ExecutionConfig | None = None
) -> tuple[Transformer, ModelConfig]:
    """A model of ours that computes what theirs does.

    Args:
        source: a torch module of transformers, or a folder with config.json and safetensors.
        precision: type that matrix products read, "float32" or "bfloat16"; parameters are float32.
        execution: scanned or unrolled, with or without rematerialisation.

    Of dropout ours has two rates, one for the embedded input and what branches add, and one for
    weights of attention; those are read. Where theirs has others beside them, they are left aside,
    since a trained model's numbers do not depend on them: the input's own (embd_pdrop of GPT and
    GPT-2; OPT drops nothing there), that inside the feed-forward layer (activation_dropout of BART;
    T5 and Switch have it, and one after the last norm, at their one rate), that of whole layers
    (layerdrop), the noise of Switch's routers (router_jitter_noise), and those of heads for
    fine-tuning. Before training goes on, set
    `dropout` and `attention_dropout` as that training wants them.

    Raises:
        UserError: the class, or one of its settings, has no counterpart here, or weights and
            configuration do not belong together.
    """
    if isinstance(source, str | Path):
        settings, tensors = load_folder(Path(source))
        name = (settings.get("architectures") or [None])[0]
    else:
        settings, tensors = _of_torch(source)
        name = type(source).__name__
    return from_tensors(name, settings, tensors, precision=precision, execution=execution)


def from_tensors(
    architecture: str | None,
    settings: dict[str, Any],
    tensors: Tensors,
    *,
    precision: str = "float32",
    execution: ExecutionConfig | None = None,
) -> tuple[Transformer, ModelConfig]:
    """The same from settings and named arrays; `architecture` is the name of their class."""
    family = _family(architecture)
    settings = family.amended(settings, tensors)
    config = fields.to_ours(family.fields, family.architecture, settings)

    def build() -> Transformer:
        key = jax.random.key(_DRAWN_BY)
        return Transformer(config, key, precision=precision, execution=execution)

    shapes = jax.eval_shape(build)
    values = convert.read(family, config, shapes, tensors)
    drawn = convert.leaves(shapes).keys() - values.keys()
    if drawn:
        # Compiled as a whole, no more is drawn than what is asked for.
        values |= jax.jit(lambda: {
            path: leaf for path, leaf in convert.leaves(build()).items() if path in drawn})()
    model = convert.filled(shapes, {path: jnp.asarray(value) for path, value in values.items()})
    return model, config


def to_hf(
    model: Transformer, config: ModelConfig, architecture: str | None = None
) -> tuple[Tensors, dict[str, Any]]:
    """Their tensors by name, and the content of their config.json.

    Args:
        model: the model.
        config: its configuration.
        architecture: name of their class; by default the first that can be this model.

    Raises:
        UserError: their class, or none of them, can be this model.
    """
    family, settings = _theirs(config, architecture)
    return convert.write(family, config, model), settings


def save_hf(
    model: Transformer, config: ModelConfig, folder: Path | str, architecture: str | None = None
) -> None:
    """Write a folder that `from_pretrained` opens; the arguments are those of `to_hf`.

    Tensors with two names are written once, as transformers does. Where the head is not tied they
    are written under both: to transformers 5 they are then two, and one that is not there is drawn
    at random."""
    family, settings = _theirs(config, architecture)
    tensors = convert.write(family, config, model, copies=not config.tied_head)
    save_folder(Path(folder), settings, tensors)


def _theirs(config: ModelConfig, architecture: str | None) -> tuple[Family, dict[str, Any]]:
    """A class that can be this model, and its settings."""
    if architecture is not None:
        family = _family(architecture)
        return family, fields.to_theirs(family.fields, family.architecture, config)
    refusals = []
    for family in FAMILIES.values():
        try:
            return family, fields.to_theirs(family.fields, family.architecture, config)
        except UserError as refusal:
            refusals.append(str(refusal))
    raise UserError("none of their classes can be this model:\n" + "\n".join(refusals))


def _family(architecture: str | None) -> Family:
    if architecture in FAMILIES:
        return FAMILIES[architecture]
    if architecture is None:
        raise UserError("the configuration does not name the model's class; write it into "
                        f'config.json as "architectures": [NAME], one of {", ".join(FAMILIES)}')
    raise UserError(f"{architecture}: not a class that can be converted; those are "
                    f"{', '.join(FAMILIES)}")


def _of_torch(module: Any) -> tuple[dict[str, Any], Tensors]:
    """Settings and tensors of a live module, without torch being imported here."""
    if not (hasattr(module, "state_dict") and hasattr(module, "config")):
        raise UserError(f"{module!r}: neither a model of transformers nor the path of a folder")
    tensors = {}
    for name, tensor in module.state_dict().items():
        wide = tensor.float() if tensor.is_floating_point() else tensor
        tensors[name] = as_float32(np.asarray(wide.detach().cpu().numpy()))
    return module.config.to_dict(), tensors

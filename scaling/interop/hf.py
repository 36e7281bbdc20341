"""Conversion of models from and to Hugging Face's `transformers`, which need not be installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scaling.config import ExecutionConfig, ModelConfig
from scaling.errors import UserError
from scaling.files import named
from scaling.interop import convert
from scaling.interop.architecture import HFArchitecture, Tensors
from scaling.interop.describe import architecture_named, class_name, configuration
from scaling.interop.families import ARCHITECTURES
from scaling.interop.files import load_folder, save_folder
from scaling.interop.settings import to_settings
from scaling.interop.tensor_file import as_float32
from scaling.models import Transformer

_INIT_SEED = 0
"""Seed of parameters that the other model does not have (`HFArchitecture.optional`)."""


def from_hf(
    source: Any, *, precision: str = "float32", execution: ExecutionConfig | None = None
) -> tuple[Transformer, ModelConfig]:
    """Convert a model of transformers to our Transformer, with equal outputs.

    Our model has two dropout rates, one for the embedded input and the outputs of branches, and one
    for attention weights; these two are read. Others are ignored, since the outputs of a trained
    model do not depend on them: that of the input alone (embd_pdrop of GPT and GPT-2; OPT has no
    dropout there), that inside the feed-forward layer (activation_dropout of BART; T5 and Switch
    have it, and one after the last norm, at their only rate), layer dropout (layerdrop), the router
    noise of Switch (router_jitter_noise), and those of heads for fine-tuning. Before further
    training, set `dropout` and `attention_dropout` as needed.

    Args:
        source: a torch module of transformers, or a folder with config.json and safetensors.
        precision: type of the operands of matrix products, "float32" or "bfloat16"; parameters are
            float32.
        execution: scanned or unrolled layers, with or without rematerialisation.

    Raises:
        UserError: the class, or one of its settings, is not supported, or the weights and the
            configuration do not belong together.
    """
    if isinstance(source, str | Path):
        settings, tensors = load_folder(Path(source))
        with named(source):
            return from_tensors(
                class_name(settings), settings, tensors, precision=precision, execution=execution)
    settings, tensors = _from_torch(source)
    return from_tensors(
        type(source).__name__, settings, tensors, precision=precision, execution=execution)


def from_tensors(
    architecture: str | None,
    settings: dict[str, Any],
    tensors: Tensors,
    *,
    precision: str = "float32",
    execution: ExecutionConfig | None = None,
) -> tuple[Transformer, ModelConfig]:
    """Convert settings and named arrays to our Transformer; `architecture` is the name of their
    class."""
    target = architecture_named(architecture)
    config = configuration(target, settings, tensors)

    def build() -> Transformer:
        key = jax.random.key(_INIT_SEED)
        return Transformer(config, key, precision=precision, execution=execution)

    shapes = jax.eval_shape(build)
    values = convert.tensors_to_params(target, config, shapes, tensors)
    missing = convert.arrays_by_path(shapes).keys() - values.keys()
    if missing:
        # Since this is compiled as a whole, only the missing parameters are drawn.
        values |= jax.jit(lambda: {
            path: leaf for path, leaf in convert.arrays_by_path(build()).items()
            if path in missing})()
    arrays = {path: jnp.asarray(value) for path, value in values.items()}
    return convert.with_arrays(shapes, arrays), config


def folder_arrays(folder: Path) -> dict[str, Any]:
    """The parameters of the model in a folder as numpy arrays, by their path in our Transformer
    (`convert.arrays_by_path`); without those that its class lacks.

    Raises:
        UserError: as `from_hf`.
    """
    settings, tensors = load_folder(folder)
    with named(folder):
        target = architecture_named(class_name(settings))
        config = configuration(target, settings, tensors)
        shapes = jax.eval_shape(lambda: Transformer(config, jax.random.key(_INIT_SEED)))
        return convert.tensors_to_params(target, config, shapes, tensors)


def to_hf(
    model: Transformer, config: ModelConfig, architecture: str | None = None
) -> tuple[Tensors, dict[str, Any]]:
    """Convert a model to their tensors by name and the content of config.json.

    Args:
        model: the model.
        config: its configuration.
        architecture: name of their class; by default the first class that supports this model.

    Raises:
        UserError: the class does not support this model, or none does.
    """
    target, settings = _find_architecture(config, architecture)
    return convert.params_to_tensors(target, config, model), settings


def save_hf(
    model: Transformer, config: ModelConfig, folder: Path | str, architecture: str | None = None
) -> None:
    """Write a folder that `from_pretrained` can open.

    Tensors with two names are written once, as transformers does. If the head is not tied they are
    written under both names, since for transformers 5 they are then two tensors, and a missing one
    is drawn at random.

    Args:
        model: the model.
        config: its configuration.
        folder: the folder to write.
        architecture: name of their class; by default the first class that supports this model.

    Raises:
        UserError: the class does not support this model, or none does, or the folder has files of
            another origin.
    """
    target, settings = _find_architecture(config, architecture)
    tensors = convert.params_to_tensors(target, config, model, aliases=not config.tied_head)
    save_folder(Path(folder), settings, tensors)


def _find_architecture(
    config: ModelConfig, architecture: str | None
) -> tuple[HFArchitecture, dict[str, Any]]:
    """A class that supports this model, and its settings."""
    if architecture is not None:
        target = architecture_named(architecture)
        return target, to_settings(target.settings, target.name, config)
    refusals = []
    for target in ARCHITECTURES.values():
        try:
            return target, to_settings(target.settings, target.name, config)
        except UserError as refusal:
            refusals.append(str(refusal))
    raise UserError("no class of transformers supports this model:\n" + "\n".join(refusals))


def _from_torch(module: Any) -> tuple[dict[str, Any], Tensors]:
    """Settings and tensors of a torch module, without importing torch here."""
    if not (hasattr(module, "state_dict") and hasattr(module, "config")):
        raise UserError(f"{module!r}: neither a model of transformers nor the path of a folder; "
                        "give one of them")
    tensors = {}
    for name, tensor in module.state_dict().items():
        wide = tensor.float() if tensor.is_floating_point() else tensor
        tensors[name] = as_float32(np.asarray(wide.detach().cpu().numpy()))
    return module.config.to_dict(), tensors

"""A folder of Hugging Face's: config.json and safetensors, whole or in parts. No pickle is read."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from scaling.errors import UserError
from scaling.interop.family import Tensors

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def load_folder(folder: Path) -> tuple[dict[str, Any], Tensors]:
    """The settings and the tensors of a model.

    Floating-point tensors of any width come out as float32.

    Raises:
        UserError: a file is missing, is damaged, or holds pickled weights.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; a model's folder holds {CONFIG} and {WEIGHTS}")
    settings = _json(folder / CONFIG)
    if not isinstance(settings, dict):
        raise UserError(f"{folder / CONFIG}: not a model's configuration")
    tensors: Tensors = {}
    for path in _parts(folder):
        tensors |= _load(path)
    return settings, tensors


def save_folder(folder: Path, settings: dict[str, Any], tensors: Tensors) -> None:
    """Write config.json and model.safetensors, making the folder if there is none."""
    safetensors = _safetensors()
    folder.mkdir(parents=True, exist_ok=True)
    # The metadata is what transformers asks for before it opens the file.
    safetensors.numpy.save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _parts(folder: Path) -> list[Path]:
    """The weights' files."""
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if (folder / INDEX).is_file():
        index = _json(folder / INDEX)
        named = index.get("weight_map") if isinstance(index, dict) else None
        if not isinstance(named, dict) or not named:
            raise UserError(f"{folder / INDEX}: has no weight_map that names the parts")
        return [_inside(folder, name) for name in sorted({str(name) for name in named.values()})]
    pickled = sorted(path.name for pattern in _PICKLED for path in folder.glob(pattern))
    if pickled:
        raise UserError(
            f"{folder}: its weights are pickled ({', '.join(pickled[:4])}), and opening a pickle "
            "runs whatever code is in it; save them as safetensors first: "
            "model.save_pretrained(folder) of a current transformers does")
    raise UserError(f"{folder}: holds neither {WEIGHTS} nor {INDEX}")


def _inside(folder: Path, name: str) -> Path:
    """A part, which must lie in the folder itself."""
    path = folder / name
    if Path(name).name != name or not path.is_file():
        raise UserError(f"{folder / INDEX}: names the part {name}, which is not in the folder; "
                        "copy all parts of the model")
    return path


def _load(path: Path) -> Tensors:
    safetensors = _safetensors()
    try:
        tensors = safetensors.numpy.load_file(path)
        return {name: as_float32(tensor) for name, tensor in tensors.items()}
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a whole safetensors file ({error}); copy it again") from None


def _safetensors() -> ModuleType:
    try:
        import safetensors.numpy
    except ImportError:
        raise UserError("reading and writing models of transformers needs the safetensors library; "
                        "pip install 'scaling[interop]'") from None
    return safetensors


def as_float32(tensor: Any) -> Any:
    """Numbers with a fraction in float32; whole numbers and booleans as they are."""
    if tensor.dtype.kind in "iub":
        return tensor
    return tensor.astype(np.float32, copy=False)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; a model's folder holds {CONFIG} and "
                        f"{WEIGHTS}") from None
    except (ValueError, OSError) as error:
        raise UserError(f"{path}: not readable as JSON: {error}") from None

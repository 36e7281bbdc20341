"""Folders in Hugging Face's format: config.json and safetensors, in one file or several. Pickles
are not read, and code in a folder is not run."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from types import ModuleType
from typing import Any

from scaling.errors import UserError
from scaling.files import (
    blame,
    clear_half_written,
    parse_json,
    read_bytes,
    sync,
    write_atomically,
    write_new,
)
from scaling.interop.architecture import Tensors
from scaling.interop.tensor_file import read_metadata, read_tensors
from scaling.outputs import COMMAND, json_output, with_command

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
WRITER = "scaling.interop.save_hf"
"""Origin that is written into both files."""

_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_LARGEST_JSON = 64 * 2**20  # an index of a million tensors


def load_folder(folder: Path) -> tuple[dict[str, Any], Tensors]:
    """The settings and the tensors of a model in a folder.

    Floating-point tensors of any width are converted to float32.

    Raises:
        UserError: a file is missing or damaged, or the weights are pickled.
        OSError: a file cannot be read; the error names it.
    """
    settings = load_settings(folder)
    tensors: Tensors = {}
    for path in weight_files(folder):
        part = read_tensors(path)
        if twice := tensors.keys() & part.keys():
            raise UserError(f"{path}: contains {min(twice):.100}, which another part contains too; "
                            "copy all parts of the model again")
        tensors |= part
    return settings, tensors


def load_settings(folder: Path) -> dict[str, Any]:
    """The content of the config.json of a folder.

    Raises:
        UserError, OSError: as `load_folder`.
    """
    if not folder.is_dir():
        raise _no_folder(folder)
    return _json(folder / CONFIG)


def save_folder(folder: Path, settings: dict[str, Any], tensors: Tensors) -> None:
    """Write config.json and model.safetensors, creating the folder if there is none.

    Each file is written atomically, and replaces only files that this function wrote.

    Raises:
        UserError: one of the files exists and was not written by this function.
        OSError: a file cannot be written; the error names it.
    """
    safetensors = _safetensors()
    config, weights = json_output(folder / CONFIG, WRITER), folder / WEIGHTS
    config.check()
    if os.path.lexists(weights) and not _is_ours(weights):
        raise UserError(f"{weights}: was not written by {WRITER}, so it is kept; give another "
                        "folder, or move that file away")
    if os.path.lexists(folder / INDEX):
        raise UserError(f"{folder / INDEX}: belongs to another model and lists its parts; give "
                        "another folder, or move that model away")
    with blame(folder):
        folder.mkdir(parents=True, exist_ok=True)
    temporary = weights.with_name(f".{weights.name}.{uuid.uuid4().hex[:8]}")
    with blame(weights):
        write_new(temporary, "")
        mode = temporary.stat().st_mode
    try:
        # transformers requires the format before it opens the file.
        safetensors.numpy.save_file(tensors, temporary, metadata={"format": "pt", COMMAND: WRITER})
        with blame(weights):
            os.chmod(temporary, mode)  # the library writes a file for one user only
            sync(temporary)
            os.replace(temporary, weights)
    except safetensors.SafetensorError as error:
        raise UserError(f"{weights}: cannot be written ({error}); free some space there, or give "
                        "another folder") from None
    finally:
        temporary.unlink(missing_ok=True)
    clear_half_written(weights)
    # Last, since a folder without it does not count as a model.
    write_atomically(folder / CONFIG, with_command(settings, WRITER))


def _is_ours(weights: Path) -> bool:
    if weights.is_symlink():
        return False
    try:
        return read_metadata(weights).get(COMMAND) == WRITER
    except UserError:
        return False


def _no_folder(path: Path) -> UserError:
    if any(path.match(pattern) for pattern in _PICKLED) and path.exists():
        return _pickled(path, path.name)
    if path.suffix == ".gguf":
        return UserError(f"{path}: a GGUF file is read by scaling.interop.gguf.from_gguf")
    what = "is not a folder" if path.exists() else "no such folder"
    return UserError(f"{path}: {what}; a model's folder contains {CONFIG} and {WEIGHTS}")


def _pickled(place: Path, names: str) -> UserError:
    return UserError(
        f"{place}: its weights are pickled ({names}), and opening a pickle runs any code in it; "
        "save them as safetensors first, with model.save_pretrained(folder) of a current "
        "transformers")


def weight_files(folder: Path) -> list[Path]:
    """The paths of the weight files of a folder.

    Raises:
        UserError, OSError: as `load_folder`.
    """
    if os.path.lexists(folder / WEIGHTS):
        return [folder / WEIGHTS]
    if os.path.lexists(folder / INDEX):
        named = _json(folder / INDEX).get("weight_map")
        if not isinstance(named, dict) or not named or not all(
                isinstance(name, str) for name in named.values()):
            raise UserError(f"{folder / INDEX}: has no valid weight_map of the parts; copy it "
                            "again")
        return [_inside(folder, name) for name in sorted(set(named.values()))]
    pickled = sorted(path.name for pattern in _PICKLED for path in folder.glob(pattern))
    if pickled:
        raise _pickled(folder, ", ".join(pickled[:4]))
    raise UserError(f"{folder}: contains neither {WEIGHTS} nor {INDEX}; copy the model's weights "
                    "there")


def _inside(folder: Path, name: str) -> Path:
    """The path of a part, which must be in the folder itself; it may be a link, as in the cache of
    huggingface_hub."""
    path = folder / name
    if Path(name).name != name or not name.endswith(".safetensors") or not path.is_file():
        raise UserError(f"{folder / INDEX}: lists the part {name:.200}, which is not in the folder "
                        "or not a safetensors file; copy all parts of the model")
    return path


def _safetensors() -> ModuleType:
    try:
        import safetensors.numpy
    except ImportError:
        raise UserError("writing models of transformers needs the safetensors library; "
                        "pip install 'scaling[interop]'") from None
    return safetensors


def _json(path: Path) -> dict[str, Any]:
    try:
        content = parse_json(read_bytes(path, _LARGEST_JSON), str(path))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; a model's folder contains {CONFIG} and "
                        f"{WEIGHTS}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: is not a JSON object; copy it again")
    return content

"""The model in a folder of Hugging Face's format: its configuration, and a hash of its files.

JAX is not imported, so that planning stays fast.
"""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import Any, NamedTuple

from scaling.config import ModelConfig, content_hash
from scaling.errors import UserError
from scaling.files import blame, named, open_regular
from scaling.interop.architecture import HFArchitecture, Tensors
from scaling.interop.families import ARCHITECTURES
from scaling.interop.files import CONFIG, load_folder, load_settings, weight_files
from scaling.interop.settings import to_model_config


class FolderModel(NamedTuple):
    """The model in a folder."""

    config: ModelConfig
    sha256: str
    """Hash of config.json and of all weights."""


def describe_folder(folder: Path) -> FolderModel:
    """The model in a folder with config.json and safetensors.

    Raises:
        UserError: a file is missing, or its class or one of its settings is not supported.
        OSError: a file cannot be read; the error names it.
    """
    load_settings(folder)
    files = [folder / CONFIG, *weight_files(folder)]
    hashes = [_file_hash(path, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    sha256 = content_hash(hashes)
    return FolderModel(_folder_config(folder, sha256), sha256)


@functools.lru_cache(maxsize=1024)  # by the hash: a plan describes one folder for every size
def _folder_config(folder: Path, sha256: str) -> ModelConfig:
    settings = load_settings(folder)
    with named(folder):
        target = architecture_named(class_name(settings))
        # Only some classes correct their settings by their weights.
        tensors: Tensors = load_folder(folder)[1] if target.reads_tensors else {}
        return configuration(target, settings, tensors)


@functools.lru_cache(maxsize=1024)
def _file_hash(path: Path, size: int, modified_ns: int) -> str:
    """SHA-256 of a file of this size and time of modification."""
    with open_regular(path) as file, blame(path):
        return hashlib.file_digest(file, "sha256").hexdigest()


def class_name(settings: dict[str, Any]) -> str | None:
    """The name of the class in config.json; None if there is none."""
    classes = settings.get("architectures")
    return classes[0] if isinstance(classes, list) and classes else None


def configuration(
    target: HFArchitecture, settings: dict[str, Any], tensors: Tensors
) -> ModelConfig:
    """Our configuration of a model of a class."""
    return to_model_config(target.settings, target.name, target.adjust_settings(settings, tensors))


def architecture_named(architecture: str | None) -> HFArchitecture:
    """The class of a name.

    Raises:
        UserError: it cannot be converted, or there is no name.
    """
    if isinstance(architecture, str) and architecture in ARCHITECTURES:
        return ARCHITECTURES[architecture]
    if not isinstance(architecture, str):
        raise UserError("the configuration does not name the model's class; add it to config.json "
                        f'as "architectures": [NAME], one of {", ".join(ARCHITECTURES)}')
    raise UserError(f"{architecture:.200}: not a class that can be converted; choose one of "
                    f"{', '.join(ARCHITECTURES)}")

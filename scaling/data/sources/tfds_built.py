"""Datasets of TensorFlow Datasets on this machine: finding built ones, and building others."""

from __future__ import annotations

import difflib
import fnmatch
import os
import re
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, NamedTuple

from scaling.errors import UserError

FORMAT = "array_record"
"""File format of datasets built here: readable without TensorFlow, with random access to records.
"""

_INFO_FILE = "dataset_info.json"
_HOST = "https://storage.googleapis.com/tfds-data"  # the first host that TFDS contacts
_TIMEOUT_SECONDS = 5


class Built(NamedTuple):
    """A dataset that was built on this machine."""

    name: str
    config: str
    """Empty if it has no configurations."""
    version: str
    folder: Path

    def __str__(self) -> str:
        return f"{self.name}{'/' * bool(self.config)}{self.config}:{self.version}"


def newest_built(source: str, name: str, config: str, version: str) -> Built | None:
    """The newest matching version that was built here, or None; see `tfds.find_built`.

    Raises:
        UserError: Several configurations were built and none is specified.
    """
    found = [built for built in list_built()
             if built.name == name and config in ("", built.config)
             and fnmatch.fnmatch(built.version, version)]
    configs = sorted({built.config for built in found})
    if len(configs) > 1 and config == "":
        if "" not in configs:
            raise UserError(f"{source}: {name} was built in several configurations; name one of "
                            f"{', '.join(f'{name}/{each}' for each in configs)}")
        found = [built for built in found if not built.config]
    return max(found, key=lambda built: _version_key(built.version), default=None)


def list_built() -> list[Built]:
    """All datasets under TFDS_DATA_DIR (default ~/tensorflow_datasets), sorted by name."""
    root = data_folder()
    return [Built(name, "/".join(config), version, path.parent)
            for depth in ("*/*", "*/*/*")
            for path in sorted(root.glob(f"{depth}/{_INFO_FILE}"))
            for name, *config, version in [path.parent.relative_to(root).parts]
            if re.fullmatch(r"\d+(\.\d+)*", version)]


def data_folder() -> Path:
    """The folder in which TFDS keeps built datasets."""
    return Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def offline_help() -> str:
    """A sentence on the sources that are available without a network."""
    built = ", ".join(f"tfds:{each}" for each in list_built()) or "none"
    return (f"built in {data_folder()}: {built} (TFDS_DATA_DIR sets another folder); the standard "
            "library and your own files also work without a network (see scaling data list)")


def build(source: str, name: str, config: str, version: str) -> Built:
    """Download and build a dataset.

    Raises:
        UserError: TFDS is not installed, has no such dataset or cannot build it, or there is no
            network.
    """
    datasets = import_tfds(source)
    known = datasets.list_builders(with_community_datasets=False)
    others = [f"tfds:{each}" for each in list_built() if each.name == name]
    if name not in known and others:
        raise UserError(f"{source}: not built; built in {data_folder()}: {', '.join(others)}")
    if name not in known:
        near = difflib.get_close_matches(name, {*known, *(each.name for each in list_built())}, n=3)
        hint = f"did you mean {' or '.join(f'tfds:{each}' for each in near)}? " if near else ""
        raise UserError(f"{source}: TFDS has no dataset called {name!r}, and none was built here; "
                        f"{hint}{offline_help()}")
    if (problem := _unreachable()) is not None:
        raise UserError(f"{source}: not built in {data_folder()}, and there is no network to "
                        f"download it ({problem}); build it where there is one with `tfds build "
                        f"{name} --file_format=array_record` and copy the folder; "
                        f"{offline_help()}")
    request = Built(name, config, version, data_folder())
    try:
        builder = datasets.builder(str(request).removesuffix(":*"), data_dir=data_folder(),
                                   file_format=FORMAT)
        builder.download_and_prepare()
    except Exception as error:  # the code of each dataset may raise anything
        raise UserError(f"{source}: TFDS could not build it ({type(error).__name__}: {error}); "
                        f"{offline_help()}") from error
    return Built(name, builder.builder_config.name if builder.builder_config else "",
                 str(builder.version), Path(builder.data_path))


def _unreachable() -> str | None:
    """The reason why TFDS's host does not respond; None if it does."""
    try:
        urllib.request.urlopen(urllib.request.Request(_HOST, method="HEAD"),
                               timeout=_TIMEOUT_SECONDS)
    except urllib.error.HTTPError:
        return None  # an error status is a response
    except OSError as error:
        return str(error)
    return None


def _version_key(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def import_tfds(source: str) -> Any:
    """Import `tensorflow_datasets`; a UserError with the install command if it is missing."""
    try:
        import tensorflow_datasets
    except ImportError as error:
        raise UserError(f"{source}: needs tensorflow-datasets ({error}); install it with: pip "
                        "install 'scaling[prepare]'") from None
    return tensorflow_datasets

"""Which data sets of TensorFlow Datasets were built on this machine, and how others get here."""

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
"""What is built here: it needs no TensorFlow, and its records can be reached one by one."""

_INFO_FILE = "dataset_info.json"
_HOST = "https://storage.googleapis.com/tfds-data"  # where TFDS looks first
_PATIENCE = 5  # seconds


class Built(NamedTuple):
    """A data set that was built on this machine."""

    name: str
    config: str
    """Empty where it has none."""
    version: str
    folder: Path

    def __str__(self) -> str:
        return f"{self.name}{'/' * bool(self.config)}{self.config}:{self.version}"


def newest(source: str, name: str, config: str, version: str) -> Built | None:
    """The newest version that was built here and matches; see `tfds.find_built`.

    Raises:
        UserError: several configurations were built, and none is asked for.
    """
    found = [built for built in built_here()
             if built.name == name and config in ("", built.config)
             and fnmatch.fnmatch(built.version, version)]
    configs = sorted({built.config for built in found})
    if len(configs) > 1 and config == "":
        if "" not in configs:
            raise UserError(f"{source}: {name} was built in several configurations; name one of "
                            f"{', '.join(f'{name}/{each}' for each in configs)}")
        found = [built for built in found if not built.config]
    return max(found, key=lambda built: _newness(built.version), default=None)


def built_here() -> list[Built]:
    """Every data set under TFDS_DATA_DIR, or ~/tensorflow_datasets, by name."""
    root = data_folder()
    return [Built(name, "/".join(config), version, path.parent)
            for depth in ("*/*", "*/*/*")
            for path in sorted(root.glob(f"{depth}/{_INFO_FILE}"))
            for name, *config, version in [path.parent.relative_to(root).parts]
            if re.fullmatch(r"\d+(\.\d+)*", version)]


def data_folder() -> Path:
    """Where TFDS keeps what it has built."""
    return Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def offline_help() -> str:
    """What works where there is no network."""
    built = ", ".join(f"tfds:{each}" for each in built_here()) or "none"
    return (f"built in {data_folder()}: {built} (TFDS_DATA_DIR names another folder); the standard "
            "library and your own files work without a network too (see scaling data list)")


def build(source: str, name: str, config: str, version: str) -> Built:
    """Download a data set and build it.

    Raises:
        UserError: TFDS is not installed, knows no such data set or cannot build it, or there is
            no network.
    """
    datasets = library(source)
    known = datasets.list_builders(with_community_datasets=False)
    others = [f"tfds:{each}" for each in built_here() if each.name == name]
    if name not in known and others:
        raise UserError(f"{source}: not built; what was built of it in {data_folder()} is "
                        f"{', '.join(others)}")
    if name not in known:
        near = difflib.get_close_matches(name, {*known, *(each.name for each in built_here())}, n=3)
        hint = f"did you mean {' or '.join(f'tfds:{each}' for each in near)}? " if near else ""
        raise UserError(f"{source}: TFDS has no data set called {name!r}, and none was built here; "
                        f"{hint}{offline_help()}")
    if (trouble := _unreachable()) is not None:
        raise UserError(f"{source}: not built in {data_folder()}, and there is no network to get "
                        f"it from ({trouble}); build it where there is one with `tfds build {name} "
                        f"--file_format=array_record` and copy the folder; {offline_help()}")
    wanted = Built(name, config, version, data_folder())
    try:
        builder = datasets.builder(str(wanted).removesuffix(":*"), data_dir=data_folder(),
                                   file_format=FORMAT)
        builder.download_and_prepare()
    except Exception as error:  # each data set has code of its own, which raises what it likes
        raise UserError(f"{source}: TFDS could not build it ({type(error).__name__}: {error}); "
                        f"{offline_help()}") from error
    return Built(name, builder.builder_config.name if builder.builder_config else "",
                 str(builder.version), Path(builder.data_path))


def _unreachable() -> str | None:
    """Why TFDS's host does not answer; None when it does."""
    try:
        urllib.request.urlopen(urllib.request.Request(_HOST, method="HEAD"), timeout=_PATIENCE)
    except urllib.error.HTTPError:
        return None  # a refusal is an answer
    except OSError as error:
        return str(error)
    return None


def _newness(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def library(source: str) -> Any:
    """The package `tensorflow_datasets`, or a UserError that says how to install it."""
    try:
        import tensorflow_datasets
    except ImportError as error:
        raise UserError(f"{source}: needs tensorflow-datasets ({error}); install it with: pip "
                        "install 'scaling[prepare]'") from None
    return tensorflow_datasets

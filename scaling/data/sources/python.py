"""Python source code as a corpus: the standard library, and the installed packages."""

from __future__ import annotations

import importlib.metadata
import os
import re
import sysconfig
from pathlib import Path

from scaling.data.sources.base import Source
from scaling.data.sources.files import files_source
from scaling.errors import UserError

STDLIB_LEFT_OUT = frozenset({"test", "tests", "idlelib", "site-packages"})
"""Folders of the standard library that are left out of the corpus."""

PERMISSIVE = frozenset({
    "0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "BSD-3-Clause-Clear",
    "CC0-1.0", "ISC", "MIT", "MIT-0", "MIT-CMU", "PSF-2.0", "Python-2.0", "Unlicense", "Zlib",
})
"""SPDX identifiers of the licences under which a package's code is used."""

PERMISSIVE_CLASSIFIERS = frozenset({
    "Apache Software License", "BSD License", "ISC License (ISCL)", "MIT License",
    "MIT No Attribution License (MIT-0)", "Python Software Foundation License",
    "The Unlicense (Unlicense)", "zlib/libpng License",
})
"""The same licences as trove classifiers, which older packages declare."""

_CLASSIFIER = "License :: OSI Approved :: "


def find_stdlib(source: str = "stdlib") -> Source:
    """`stdlib`: the sources of the standard library; their size depends on the Python version."""
    root = Path(sysconfig.get_path("stdlib"))
    found = []
    for folder, inner, names in os.walk(root):
        inner[:] = [name for name in inner if name not in STDLIB_LEFT_OUT]
        found += [Path(folder, name) for name in names if name.endswith(".py")]
    if not found:
        raise UserError(f"{root}: has no .py file, so this Python was installed without the "
                        "sources of its standard library; use another source")
    found.sort(key=lambda path: path.relative_to(root).as_posix())
    return files_source(source, "stdlib", source, tuple(found))


def stdlib_bytes() -> int:
    """Bytes of the standard library's sources."""
    return find_stdlib().size()


def find_packages(source: str = "python-packages") -> Source:
    """`python-packages`: the installed distributions whose metadata declares a permissive licence.

    Files are sorted by distribution name, then by path. The corpus depends on the packages that
    are installed in the environment.
    """
    distributions = {normalized_name(found.metadata["Name"]): found
                     for found in reversed(list(importlib.metadata.distributions()))
                     if found.metadata["Name"]}
    n_used, files = 0, dict[Path, None]()
    for _, distribution in sorted(distributions.items()):
        if is_permissive(distribution.metadata):
            paths = sorted(str(distribution.locate_file(file)) for file in distribution.files or ()
                           if file.suffix == ".py")
            existing = [path for path in map(Path, paths) if path.is_file()]
            files.update(dict.fromkeys(existing))
            n_used += bool(existing)
    if not files:
        raise UserError(f"{source}: no installed package with a permissive licence has .py files; "
                        "install some, or use another source")
    note = f"{n_used} of {len(distributions)} installed distributions have a permissive licence"
    return files_source(source, "python-packages", source, tuple(files), note=note)


def is_permissive(metadata: importlib.metadata.PackageMetadata) -> bool:
    """Whether a distribution declares PERMISSIVE licences only.

    Decided by its SPDX expression; if absent, by its classifiers; if absent too, by a License field
    that is an SPDX expression. A choice (OR) needs one permissive licence.
    """
    if "License-Expression" in metadata:
        return _allows(metadata["License-Expression"])
    declared = {classifier.removeprefix(_CLASSIFIER)
                for classifier in metadata.get_all("Classifier") or ()
                if classifier.startswith("License :: ")}
    if declared:
        return declared <= PERMISSIVE_CLASSIFIERS
    return "License" in metadata and _allows(metadata["License"])


def _allows(expression: str) -> bool:
    """Whether an SPDX expression is permissive; False in doubt."""
    # AND binds tighter than OR; with parentheses, every licence has to be permissive.
    if "(" in expression:
        names = re.sub(r"[()]", " ", expression).split()
        return all(name in PERMISSIVE for name in names if name not in ("AND", "OR"))
    return any(all(name.strip() in PERMISSIVE for name in choice.split(" AND "))
               for choice in expression.split(" OR "))


def normalized_name(name: str) -> str:
    """A distribution's name in normalised form (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()

"""Source code in Python: that of its standard library, and that of the installed packages."""

from __future__ import annotations

import importlib.metadata
import os
import re
import sysconfig
from pathlib import Path

from scaling.data.sources.base import Source
from scaling.data.sources.files import of_files
from scaling.errors import UserError

STDLIB_LEFT_OUT = frozenset({"test", "tests", "idlelib", "site-packages"})
"""Folders of the standard library that are no part of the corpus."""

PERMISSIVE = frozenset({
    "0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "BSD-3-Clause-Clear",
    "CC0-1.0", "ISC", "MIT", "MIT-0", "MIT-CMU", "PSF-2.0", "Python-2.0", "Unlicense", "Zlib",
})
"""Licences, by SPDX identifier, under which a package's code is taken."""

PERMISSIVE_CLASSIFIERS = frozenset({
    "Apache Software License", "BSD License", "ISC License (ISCL)", "MIT License",
    "MIT No Attribution License (MIT-0)", "Python Software Foundation License",
    "The Unlicense (Unlicense)", "zlib/libpng License",
})
"""The same as the older classifiers of packages name them."""

_CLASSIFIER = "License :: OSI Approved :: "


def find_stdlib(source: str = "stdlib") -> Source:
    """`stdlib`: always there; its size depends on the version of Python."""
    root = Path(sysconfig.get_path("stdlib"))
    found = []
    for folder, inner, names in os.walk(root):
        inner[:] = [name for name in inner if name not in STDLIB_LEFT_OUT]
        found += [Path(folder, name) for name in names if name.endswith(".py")]
    if not found:
        raise UserError(f"{root}: holds no .py file, so this Python came without the sources of "
                        "its standard library; use another source")
    found.sort(key=lambda path: path.relative_to(root).as_posix())
    return of_files(source, "stdlib", source, tuple(found))


def stdlib_bytes() -> int:
    """Bytes of the standard library's sources."""
    return find_stdlib().size()


def find_packages(source: str = "python-packages") -> Source:
    """`python-packages`: the installed distributions whose metadata declares a permissive licence.

    Ordered by the distributions' names and the files' paths. Which there are depends on the
    environment, so that another one gives another corpus.
    """
    distributions = {_normalized(found.metadata["Name"]): found
                     for found in reversed(list(importlib.metadata.distributions()))
                     if found.metadata["Name"]}
    taken, files = 0, dict[Path, None]()
    for _, distribution in sorted(distributions.items()):
        if is_permissive(distribution.metadata):
            paths = sorted(str(distribution.locate_file(file)) for file in distribution.files or ()
                           if file.suffix == ".py")
            there = [path for path in map(Path, paths) if path.is_file()]
            files.update(dict.fromkeys(there))
            taken += bool(there)
    if not files:
        raise UserError(f"{source}: no package with a permissive licence is installed that has "
                        ".py files; install some, or use another source")
    note = (f"{taken} distributions with a permissive licence, of {len(distributions)} that are "
            "installed")
    return of_files(source, "python-packages", source, tuple(files), note=note)


def is_permissive(metadata: importlib.metadata.PackageMetadata) -> bool:
    """Whether a distribution declares PERMISSIVE licences and no other.

    Its SPDX expression decides; where there is none, its classifiers; where these are silent, a
    License field that is an SPDX expression. A choice (OR) needs one permissive licence.
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
    """Whether a package under an SPDX expression may be taken; unsure ones may not."""
    # AND binds closer than OR; with parentheses, every licence has to be permissive.
    if "(" in expression:
        names = re.sub(r"[()]", " ", expression).split()
        return all(name in PERMISSIVE for name in names if name not in ("AND", "OR"))
    return any(all(name.strip() in PERMISSIVE for name in choice.split(" AND "))
               for choice in expression.split(" OR "))


def _normalized(name: str) -> str:
    """A distribution's name as the index compares it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()

"""The code of installed packages: only with a permissive licence, in a fixed order."""

from __future__ import annotations

from email.message import Message
from pathlib import Path

import pytest

from scaling.data import sources
from scaling.data.sources.python import is_permissive
from scaling.errors import UserError


def metadata(*fields: tuple[str, str]) -> Message:
    message = Message()
    for name, value in fields:
        message[name] = value
    return message


OSI = "License :: OSI Approved :: "


@pytest.mark.parametrize(("expected", "fields"), [
    (True, [("License-Expression", "MIT")]),
    (True, [("License-Expression", "BSD-3-Clause AND MIT")]),
    (True, [("License-Expression", "GPL-3.0-or-later OR MIT")]),
    (True, [("License-Expression", "(MIT OR Apache-2.0) AND ISC")]),
    (False, [("License-Expression", "MIT AND GPL-2.0-only")]),
    (False, [("License-Expression", "MIT AND GPL-2.0-only OR LGPL-3.0-only")]),
    (False, [("License-Expression", "(MIT OR GPL-2.0-only) AND LGPL-3.0-only")]),
    (False, [("License-Expression", "GPL-2.0-only WITH Classpath-exception-2.0")]),
    (False, [("License-Expression", "GPL-2.0-only"), ("Classifier", OSI + "MIT License")]),
    (True, [("Classifier", OSI + "MIT License"), ("Classifier", "Topic :: Text")]),
    (True, [("Classifier", OSI + "BSD License"), ("License", "see file")]),
    (False, [("Classifier", OSI + "MIT License"),
             ("Classifier", OSI + "GNU General Public License v3 (GPLv3)")]),
    (False, [("Classifier", "License :: Other/Proprietary License"), ("License", "MIT")]),
    (True, [("License", "Apache-2.0")]),
    (False, [("License", "MPL-2.0 AND MIT")]),
    (False, [("License", "UNKNOWN")]),
    (False, [("License", "")]),
    (False, []),
])
def test_a_licence_is_permissive_only_if_all_of_it_is(expected, fields):
    assert is_permissive(metadata(*fields)) == expected


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Installs distributions into the only folder on sys.path."""
    monkeypatch.setattr("sys.path", [str(tmp_path)])

    def install(name: str, licence: str, *files: str) -> None:
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Name: {name}\nLicense-Expression: {licence}\n")
        (info / "RECORD").write_text("".join(f"{file},,\n" for file in files))
        for file in files:
            if not file.startswith("gone"):
                path = Path(tmp_path, file)
                path.parent.mkdir(exist_ok=True)
                path.write_text(f"# {file}\n")

    return install


def test_packages_are_their_python_files(installed):
    installed("B_b", "MIT", "b/z.py", "b/tests.py", "b/data.json", "gone.py")
    installed("a", "Apache-2.0", "a/a.py", "shared.py")
    installed("c", "GPL-3.0-only", "c/c.py")
    installed("b-c", "ISC", "shared.py", "e.py")
    source = sources.find("python-packages")
    assert list(source.documents()) == [
        f"# {file}\n" for file in ("a/a.py", "shared.py", "b/tests.py", "b/z.py", "e.py")
    ]
    assert source.note == "3 of 4 installed distributions have a permissive licence"


def test_no_permissive_package_is_reported(installed):
    installed("c", "GPL-3.0-only", "c/c.py")
    with pytest.raises(UserError,
                       match="python-packages: no installed package with a permissive licence"):
        sources.find("python-packages")

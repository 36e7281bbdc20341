"""The chitchat dataset (MIT): 7,168 conversations between two people, from a dependency of this
package."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from pathlib import Path

from scaling.data.sources.base import Decode, Part, Source
from scaling.errors import UserError
from scaling.files import parse_json, read_bytes

DISTRIBUTION = "chitchat-dataset"
VERSION = "0.9.0"
SHA256 = "d2a5d0bf6acf354fef51f3af39cbece2220d3b8f6086b658c3d335105798312a"
TEXT_BYTES = 12_737_727


def find_chitchat(source: str) -> Source:
    """`wheel:chitchat-dataset`, read from the installed distribution."""
    try:
        # The metadata is read without an import, which would run the package's code.
        distribution = importlib.metadata.distribution(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        raise UserError(f"{source}: {DISTRIBUTION} is not installed; {_install()}") from None
    if distribution.version != VERSION:
        raise UserError(f"{source}: {DISTRIBUTION} {distribution.version} is installed, but the "
                        f"text of {VERSION} is expected; {_install()}")
    path = Path(str(distribution.locate_file("chitchat_dataset/dataset.json")))
    if not path.is_file():
        raise UserError(f"{path}: missing from {DISTRIBUTION}; {_install(force=True)}")
    return Source(source, "chitchat", source, (path,), _conversations, pinned_sha256=SHA256,
                  fix=_install(force=True))


def _install(force: bool = False) -> str:
    again = "--force-reinstall " if force else ""
    return f"install it with: pip install {again}{DISTRIBUTION}=={VERSION}"


def _conversations(part: Part, decode: Decode) -> Iterator[str | None]:
    try:
        conversations = parse_json(read_bytes(part.path), str(part.path))
        for conversation in conversations.values():
            texts = (message["text"] for turn in conversation["messages"] for message in turn)
            yield "\n".join(text for text in texts if text.strip())
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{part.path}: not a chitchat dataset ({type(error).__name__}: {error}); "
                        f"{_install(force=True)}") from None

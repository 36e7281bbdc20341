"""7,168 conversations between two people (MIT), of a distribution that comes with this package."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Iterator
from pathlib import Path

from scaling.data.sources.base import Decode, Part, Source
from scaling.errors import UserError

DISTRIBUTION = "chitchat-dataset"
VERSION = "0.9.0"
SHA256 = "d2a5d0bf6acf354fef51f3af39cbece2220d3b8f6086b658c3d335105798312a"
TEXT_BYTES = 12_737_727


def find_chitchat(source: str) -> Source:
    """`wheel:chitchat-dataset`, read from where it is installed."""
    try:
        # Asking the distribution, not the package, runs none of the package's code.
        distribution = importlib.metadata.distribution(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        raise UserError(f"{source}: {DISTRIBUTION} is not installed; {_install()}") from None
    if distribution.version != VERSION:
        raise UserError(f"{source}: {DISTRIBUTION} {distribution.version} is installed, and its "
                        f"text is not that of {VERSION}; {_install()}")
    path = Path(str(distribution.locate_file("chitchat_dataset/dataset.json")))
    if not path.is_file():
        raise UserError(f"{path}: missing from {DISTRIBUTION}; {_install(force=True)}")
    return Source(source, "chitchat", source, (path,), _conversations, pinned_sha256=SHA256,
                  mend=_install(force=True))


def _install(force: bool = False) -> str:
    again = "--force-reinstall " if force else ""
    return f"install it with: pip install {again}{DISTRIBUTION}=={VERSION}"


def _conversations(part: Part, decode: Decode) -> Iterator[str | None]:
    try:
        conversations = json.loads(part.path.read_bytes())
        for conversation in conversations.values():
            texts = (said["text"] for turn in conversation["messages"] for said in turn)
            yield "\n".join(text for text in texts if text.strip())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{part.path}: not a chitchat dataset ({type(error).__name__}: {error}); "
                        f"{_install(force=True)}") from None

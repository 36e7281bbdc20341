"""The byte-to-character map of byte-level BPE: every byte as a visible character."""

from __future__ import annotations

from itertools import chain

from scaling.data.tokenizers.base import BYTES, WHITE

_VISIBLE = frozenset(chain(range(ord("!"), ord("~") + 1), range(ord("¡"), ord("¬") + 1),
                           range(ord("®"), ord("ÿ") + 1)))


def _alphabet() -> tuple[str, ...]:
    invisible = [byte for byte in range(BYTES) if byte not in _VISIBLE]
    replacement = {byte: chr(BYTES + k) for k, byte in enumerate(invisible)}
    return tuple(replacement.get(byte, chr(byte)) for byte in range(BYTES))


ALPHABET = _alphabet()
"""The character of each byte: its Latin-1 character if that is visible, otherwise the next free one
after U+00FF; a space is "Ġ" (Radford et al. 2019, the published encoder)."""

WHITE_CHARACTERS = frozenset(ALPHABET[byte] for byte in WHITE)


def to_characters(token: bytes) -> str:
    """Bytes as a string of `ALPHABET`."""
    return "".join(ALPHABET[byte] for byte in token)

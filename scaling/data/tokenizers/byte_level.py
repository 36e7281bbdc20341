"""Bytes written as visible characters, as byte-level BPE has them in its files."""

from __future__ import annotations

from itertools import chain

from scaling.data.tokenizers.base import BYTES, WHITE

_VISIBLE = frozenset(chain(range(ord("!"), ord("~") + 1), range(ord("¡"), ord("¬") + 1),
                           range(ord("®"), ord("ÿ") + 1)))


def _alphabet() -> tuple[str, ...]:
    hidden = [byte for byte in range(BYTES) if byte not in _VISIBLE]
    instead = {byte: chr(BYTES + k) for k, byte in enumerate(hidden)}
    return tuple(instead.get(byte, chr(byte)) for byte in range(BYTES))


ALPHABET = _alphabet()
"""The character of each byte: itself in Latin-1 where that is visible, else the next one after
U+00FF; a space is "Ġ" (Radford et al. 2019, the published encoder)."""

WHITE_CHARACTERS = frozenset(ALPHABET[byte] for byte in WHITE)


def written(token: bytes) -> str:
    """Some bytes in that alphabet."""
    return "".join(ALPHABET[byte] for byte in token)

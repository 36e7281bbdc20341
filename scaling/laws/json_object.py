"""Typed access to untrusted JSON: every value is checked for its type and size when it is read."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaling.errors import UserError, option

Array = NDArray[np.float64]

_MAX_SHOWN = 40      # characters of a value in a message
_MAX_SIZE = 10_000   # characters of a string, and keys of an object
_MAX_COUNT = 2**63


class JsonObject:
    """An object of a JSON file, read key by key.

    Every method raises UserError for a wrong value: the message names the file, the path inside
    it, the value and what is expected. A null counts as an absent key.

    Args:
        content: the parsed JSON value.
        source: name of the file in messages.
        path: dotted path of this object inside the file, for messages.
        writer: what writes such files, for messages; by default what writes laws.
    """

    def __init__(
        self, content: Any, source: str, path: str = "", writer: str | None = None
    ) -> None:
        self.source, self._path = source, path
        self._writer = writer or option("Fit.save", "scaling fit --save")
        if not isinstance(content, dict) or len(content) > _MAX_SIZE:
            raise self.error("", content, "an object")
        self._content: dict[str, Any] = content

    def error(self, key: str, value: Any, expected: str) -> UserError:
        """The exception to raise for a wrong value of a key."""
        text = "no value" if value is None else repr(value)
        if isinstance(value, list | dict):
            text = "a list" if isinstance(value, list) else "an object"
        text = text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."
        path = ".".join(part for part in (self._path, key) if part)
        return UserError(f"{self.source}: {f'{path}: ' if path else ''}{text}, where {expected} "
                         f"is expected; `{self._writer}` writes such files")

    def __contains__(self, key: str) -> bool:
        return self._content.get(key) is not None

    def __iter__(self) -> Any:
        return iter(self._content)

    def object(self, key: str) -> JsonObject:
        """A nested object; empty if absent."""
        value = self._content.get(key)
        return JsonObject({} if value is None else value, self.source,
                          f"{self._path}.{key}" if self._path else key, self._writer)

    def items(self, key: str, most: int, exactly: bool = False) -> list[Any]:
        """A list of at most `most` values, or of exactly `most`; empty if absent."""
        value = self._content.get(key)
        value = [] if value is None else value
        if not isinstance(value, list | tuple) or len(value) > most or (
                exactly and len(value) != most):
            bound = "" if exactly else "at most "
            raise self.error(key, value, f"a list of {bound}{most:,} values")
        return [*value]

    def text(self, key: str, allowed: Collection[str] = ()) -> str:
        """A string, one of `allowed` unless that is empty."""
        value = self._content.get(key)
        if not isinstance(value, str) or len(value) > _MAX_SIZE:
            raise self.error(key, value, "a string")
        if allowed and value not in allowed:
            raise self.error(key, value, f"one of {', '.join(allowed)}")
        return value

    def texts(self, key: str, most: int) -> tuple[str, ...]:
        """A list of at most `most` strings."""
        values = self.items(key, most)
        for value in values:
            if not isinstance(value, str) or len(value) > _MAX_SIZE:
                raise self.error(key, value, "a string")
        return tuple(values)

    def boolean(self, key: str) -> bool | None:
        """True or false; None if absent."""
        value = self._content.get(key)
        if value is not None and not isinstance(value, bool):
            raise self.error(key, value, "true or false")
        return value

    def count(self, key: str) -> int:
        """A non-negative integer."""
        value = self._content.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _MAX_COUNT:
            raise self.error(key, value, "a non-negative integer")
        return value

    def number(self, key: str) -> float:
        """A finite number."""
        value = self.optional(key)
        if value is None:
            raise self.error(key, None, "a number")
        return value

    def optional(self, key: str) -> float | None:
        """A finite number; None if absent."""
        return self._number(key, self._content.get(key))

    def numbers(self, names: Collection[str]) -> dict[str, float | None]:
        """A finite number or None for each key of the object; every key is one of `names`."""
        return {key: self.optional(key) for key in self.keys_among(names)}

    def keys_among(self, names: Collection[str]) -> list[str]:
        """The keys of the object, each of which is one of `names`."""
        for key in self._content:
            if key not in names:
                raise self.error("", key, f"one of {', '.join(names)}")
        return [*self._content]

    def scalar(self, key: str) -> str | float | None:
        """A string or a finite number; None if absent."""
        if isinstance(self._content.get(key), str):
            return self.text(key)
        return self.optional(key)

    def pair(self, key: str) -> tuple[float, float] | None:
        """A lower and an upper end; None if absent or if either is null."""
        if key not in self:
            return None
        low, high = (self._number(key, value) for value in self.items(key, 2, exactly=True))
        return None if low is None or high is None else (low, high)

    def array(
        self, key: str, most: int, width: int | None = None, *, exactly: bool = False
    ) -> Array:
        """Numbers, [B] or [B, width], with B <= most, or B = most if `exactly`; null is NaN."""
        rows = self.items(key, most, exactly)
        if width is None:
            return self._row(key, rows)
        for row in rows:
            if not isinstance(row, list) or len(row) != width:
                raise self.error(key, row, f"a list of {width} numbers")
        return np.array([self._row(key, row) for row in rows]).reshape(-1, width)

    def _row(self, key: str, values: Sequence[Any]) -> Array:
        numbers = [self._number(key, value) for value in values]
        return np.array([math.nan if value is None else value for value in numbers])

    def _number(self, key: str, value: Any) -> float | None:
        if value is None:
            return None
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise self.error(key, value, "a number")
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise self.error(key, number, "a finite number")
        return number

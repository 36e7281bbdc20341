"""A parser for untrusted YAML, which returns plain data.

It follows YAML 1.2 where 1.1 is surprising: there are no dates and no base-60 numbers (`1:30`), and
1e-3 is a number. It refuses what is surprising in either version: duplicate keys, numbers with
leading zeros, keys that are not strings, and tags.
"""

from __future__ import annotations

import difflib
import math
import re
from pathlib import Path
from typing import Any, NoReturn

import yaml
from yaml.composer import Composer
from yaml.parser import Parser
from yaml.reader import Reader, ReaderError
from yaml.resolver import BaseResolver
from yaml.scanner import Scanner

from scaling.errors import UserError
from scaling.files import read_text

LARGEST_TEXT = 2**20
"""Largest size of a file in bytes, or of an override in characters: a thousand times the usual, and
parsed in seconds."""

MAX_DEPTH = 32
"""Largest depth of nesting."""

_MAX_VALUES = 100_000
"""Largest number of values in a text; values that an alias repeats count each time."""

_MAX_DIGITS = 400  # floats end at 1e308


class _Nodes(Reader, Scanner, Parser, Composer, BaseResolver):
    """Composes nodes from text, without resolving tags. It stops as soon as the limits on the
    number of values or on depth are exceeded."""

    def __init__(self, text: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)
        Composer.__init__(self)
        BaseResolver.__init__(self)
        self.depth = self.nodes = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.nodes += 1
        if self.nodes > 2 * _MAX_VALUES:  # keys are nodes too
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(
                problem=f"more than {_MAX_VALUES:,} values; give a smaller configuration",
                problem_mark=event.start_mark)
        if self.depth > MAX_DEPTH:
            raise RecursionError
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


_TAG = "tag:yaml.org,2002:"
_CONSTANTS = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **{form(word): True for word in ("yes", "true", "on")
       for form in (str.lower, str.capitalize, str.upper)},
    **{form(word): False for word in ("no", "false", "off")
       for form in (str.lower, str.capitalize, str.upper)},
    **{sign + form(".inf"): float(f"{sign}inf") for sign in ("", "+", "-")
       for form in (str.lower, lambda word: ".Inf", str.upper)},
    **dict.fromkeys((".nan", ".NaN", ".NAN"), math.nan),
}
"""Plain scalars that are constants."""
_INTEGER = re.compile(r"[-+]?(?:0b[01_]+|0o[0-7_]+|0x[0-9a-fA-F_]+|[0-9][0-9_]*)")
_FLOAT = re.compile(
    r"[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?")

_Nodes.add_implicit_resolver(f"{_TAG}scalar", re.compile(""), None)


def parse_yaml(text: str, source: str) -> Any:
    """Parse YAML text into mappings with string keys, lists, strings, numbers, booleans and None.

    Args:
        text: YAML.
        source: the origin of the text, for the error message.

    Raises:
        UserError: the text is not valid YAML, or exceeds the limits on size and depth; the message
            has line and column.
    """
    if len(text) > LARGEST_TEXT:
        raise UserError(f"{source}: is longer than {LARGEST_TEXT:,} characters; give a shorter "
                        "configuration")
    try:
        node = _Nodes(text).get_single_node()
        return None if node is None else _PlainData(source).convert(node)
    except ReaderError as error:
        raise UserError(f"{source}: not valid YAML: character {error.position + 1:,} is a control "
                        "character or invalid; remove it") from None
    except yaml.MarkedYAMLError as error:
        problem = ", ".join(part for part in (error.context, error.problem) if part)
        problem = problem.replace("'\\x00'", "the end").replace("'<stream end>'", "the end")
        if "'\\t'" in problem:
            problem = "a tab, where spaces are expected; indent with spaces"
        _raise_at(source, error.problem_mark or error.context_mark, f"not valid YAML: {problem}")
    except RecursionError:
        raise UserError(f"{source}: is nested too deeply; at most {MAX_DEPTH} levels are allowed"
                        ) from None
    except UserError:
        raise
    except (ValueError, OverflowError):  # "\UFFFFFFFF", and a version of 5,000 digits
        raise UserError(f"{source}: not valid YAML: an escape or a directive has too large a "
                        "number") from None


class _PlainData:
    """Converts nodes to plain data. An alias gives a copy, which counts towards the limit."""

    def __init__(self, source: str) -> None:
        self.source, self.left = source, _MAX_VALUES

    def convert(self, node: yaml.Node, depth: int = 0) -> Any:
        self.left -= 1
        if self.left < 0:
            _raise_at(self.source, node.start_mark, f"more than {_MAX_VALUES:,} values, including "
                      "those that aliases (*name) repeat; give a smaller configuration")
        if depth > MAX_DEPTH:
            _raise_at(self.source, node.start_mark,
                      f"is nested too deeply; at most {MAX_DEPTH} levels are allowed")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, depth)
        if isinstance(node, yaml.SequenceNode):
            self._check_tag(node, f"{_TAG}seq")
            return [self.convert(each, depth + 1) for each in node.value]
        return self._scalar(node)

    def _mapping(self, node: yaml.MappingNode, depth: int) -> dict[str, Any]:
        self._check_tag(node, f"{_TAG}map")
        content: dict[str, Any] = {}
        for key_node, value in node.value:
            scalar = isinstance(key_node, yaml.ScalarNode)
            key = self._scalar(key_node) if scalar else None
            if not isinstance(key, str) or not key:
                text = one_line(key_node.value or "(empty)") if scalar else "a list or mapping"
                _raise_at(self.source, key_node.start_mark,
                          f"not valid YAML: key {text} is not a name; write a name, or quote it")
            if key == "<<" and key_node.style is None:
                _raise_at(self.source, key_node.start_mark, "merge keys (<<) are not supported; "
                          "write the keys out, or give one whole value an anchor (&name, *name)")
            if key in content:
                _raise_at(self.source, key_node.start_mark,
                          f"not valid YAML: key {one_line(repr(key))} occurs twice; keep one")
            content[key] = self.convert(value, depth + 1)
        return content

    def _scalar(self, node: yaml.Node) -> Any:
        text = node.value
        if not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text):
            _raise_at(self.source, node.start_mark, "not valid YAML: half a surrogate pair is not "
                      "a character; write the character itself")
        if node.tag == f"{_TAG}str":  # quoted, a block, or tagged as a string
            return text
        self._check_tag(node, f"{_TAG}scalar")
        if text in _CONSTANTS:
            return _CONSTANTS[text]
        number = _INTEGER.fullmatch(text) or _FLOAT.fullmatch(text)
        return self._number(node, text) if number else text

    def _number(self, node: yaml.Node, text: str) -> int | float:
        if len(text) > _MAX_DIGITS:
            _raise_at(self.source, node.start_mark, f"a number of {len(text):,} characters; write "
                      "a shorter one")
        digits = text.replace("_", "")
        if not _INTEGER.fullmatch(text):
            return float(digits)
        plain = digits.lstrip("+-")
        if plain[:1] == "0" and plain.strip("0") and plain.isdecimal():
            _raise_at(self.source, node.start_mark, f"{text} begins with zero, which some readers "
                      f"take for an octal number; write {int(digits)}, or quote it if it is text")
        return int(digits, 10 if plain.isdecimal() else 0)

    def _check_tag(self, node: yaml.Node, usual: str) -> None:
        if node.tag != usual:
            _raise_at(self.source, node.start_mark, "not valid YAML: the tag "
                      f"{one_line(node.tag.replace(_TAG, '!!'))} is not supported; leave it out")


def _raise_at(source: str, mark: yaml.Mark | None, message: str) -> NoReturn:
    where = f"{source}:{mark.line + 1}:{mark.column + 1}" if mark else source
    raise UserError(f"{where}: {message}")


def one_line(text: str, max_length: int = 60) -> str:
    """Text for an error message: cut to `max_length` characters, on one line."""
    short = text if len(text) <= max_length else f"{text[:max_length]}..."
    return short if short.isprintable() else repr(short)[1:-1]


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        UserError: there is no such file, or it is not valid YAML, or not a mapping.
        OSError: the file cannot be read; the error names it.
    """
    try:
        text = read_text(path, LARGEST_TEXT)
    except FileNotFoundError:
        near = difflib.get_close_matches(path.name, _yaml_files(path.parent), n=3, cutoff=0.4)
        hint = f"; there is {', '.join(str(path.parent / name) for name in near)}" if near else ""
        raise UserError(f"{path}: no such file{hint}") from None
    content = parse_yaml(text, str(path))
    if not isinstance(content, dict):
        kind = ("nothing" if content is None else "a list" if isinstance(content, list)
                else "a single value")
        raise UserError(f"{path}: contains {kind}, where `key: value` lines are expected")
    return content


def _yaml_files(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.glob("*.yaml")) if folder.is_dir() else []

"""Conditions on the columns of a table, such as `tokens > 1e9 and corpus == 'c4'`.

The expression is parsed with `ast` and evaluated by an interpreter with a fixed list of allowed
nodes, so that a condition can only read columns, compare and compute.
"""

from __future__ import annotations

import ast
import operator
import re
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scaling.errors import UserError, option
from scaling.laws.columns import column_names

_ARITHMETIC: Mapping[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
    ast.Div: operator.truediv, ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_COMPARISON: Mapping[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le,
    ast.Gt: operator.gt, ast.GtE: operator.ge,
}
_JUNCTION: Mapping[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.And: operator.and_, ast.Or: operator.or_, ast.BitAnd: operator.and_,
    ast.BitOr: operator.or_,
}
_MAX_CHARS = 2_000  # of a condition
_MAX_SHOWN = 80  # characters of a condition in a message
# A string literal, inside which backticks are ordinary characters, or a name in backticks.
_QUOTED = re.compile(r"""('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")|`([^`]*)`""")


def row_mask(frame: pd.DataFrame, text: str, source: str) -> NDArray[np.bool_]:
    """The mask of the rows for which a condition is true, bool [R].

    A condition consists of columns (in backticks if their names are not identifiers), numbers,
    strings, arithmetic, comparisons, `in` and `not in` a list, `and`, `or`, `not`, and `&`, `|`,
    `~` between parentheses. A comparison with a missing value, or with a number divided by zero, is
    not true.

    Args:
        frame: the table.
        text: the condition.
        source: name of the table in messages.

    Raises:
        UserError: the text is not such a condition, contains an unknown column, or is true for no
            row.
    """
    columns = column_names(frame)
    shown = repr(text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}...")
    shown = option(f"where={shown}", f"--where {shown}")
    if len(text) > _MAX_CHARS:
        raise UserError(f"{shown}: is {len(text):,} characters long, where at most "
                        f"{_MAX_CHARS:,} are allowed; filter the table itself")
    names: dict[str, str] = {}

    def placeholder(match: re.Match[str]) -> str:
        if match[1] is not None:
            return match[1]
        stand_in = f"quoted_{len(names)}_"
        while stand_in in text or stand_in in frame.columns:
            stand_in += "_"
        names[stand_in] = match[2]
        return f" {stand_in} "

    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            tree = ast.parse(_QUOTED.sub(placeholder, text).strip(), mode="eval")
            result = _Evaluator(frame, names).evaluate(tree.body)
        if not _is_boolean(result) or not isinstance(result, pd.Series):
            raise _ConditionError("it is not true or false for every row")
    except (SyntaxError, ValueError, TypeError, ArithmeticError, RecursionError, MemoryError
            ) as error:
        reason = _reason(error)
        raise UserError(f"{shown}: not a condition on the columns of {source} ({reason}); "
                        "a condition such as \"params_total > 1e5\" is expected; columns are "
                        f"{columns} (write names with spaces in backticks)") from None
    mask = result.to_numpy(dtype=bool, na_value=False)
    if not mask.any():
        raise UserError(f"{shown}: is true for no row of {source}; a condition that is "
                        "true for at least one row is expected")
    return np.asarray(mask)


class _ConditionError(ValueError):
    """An error in a condition, with a message for the user."""


def _source_text(node: ast.expr) -> str:
    text = ast.unparse(node)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


def _reason(error: Exception) -> str:
    match error:
        case _ConditionError():
            return " ".join(str(error).split())
        case SyntaxError() if "Exceeds the limit" in error.msg:
            return "a number in it is too large"
        case SyntaxError():  # its message only: its text has placeholders for names in backticks
            return error.msg
        case UnicodeError():
            return "it contains characters that are not valid text"
        case RecursionError() | MemoryError():
            return "it is nested too deeply"
        case ArithmeticError():
            return "it divides by zero, or a number in it is too large"
        case _:
            return "it combines values of different types, such as text and numbers"


class _Evaluator:
    """Evaluates the allowed nodes of a condition over one table."""

    def __init__(self, frame: pd.DataFrame, names: Mapping[str, str]) -> None:
        self._frame, self._names = frame, names

    def evaluate(self, node: ast.expr) -> Any:
        match node:
            case ast.Constant(value=int() | float() | str()):
                return node.value
            case ast.Name():
                return self._column(self._names.get(node.id, node.id))
            case ast.BinOp(op=op) if type(op) in _ARITHMETIC:
                left, right = self._number(node.left), self._number(node.right)
                if isinstance(op, ast.Div | ast.FloorDiv | ast.Mod):
                    right = _divisor(right)
                return _ARITHMETIC[type(op)](left, right)
            case ast.BinOp(op=op) if type(op) in _JUNCTION:
                return _JUNCTION[type(op)](self._boolean(node.left), self._boolean(node.right))
            case ast.BoolOp():
                result = self._boolean(node.values[0])
                for value in node.values[1:]:
                    result = _JUNCTION[type(node.op)](result, self._boolean(value))
                return result
            case ast.UnaryOp(op=ast.Not() | ast.Invert()):
                return ~self._boolean(node.operand)
            case ast.UnaryOp(op=ast.USub()):
                return -self._number(node.operand)
            case ast.Compare():
                return self._comparisons(node)
            case _:
                raise _ConditionError(f"{_source_text(node)}: only columns, numbers, strings, "
                                      "arithmetic and comparisons are allowed")

    def _column(self, name: str) -> pd.Series:
        if name not in self._frame.columns:
            raise _ConditionError(f"there is no column {name}")
        column = self._frame[name]
        if isinstance(column, pd.DataFrame):
            raise _ConditionError(f"there are {column.shape[1]} columns {name}")
        return column

    def _number(self, node: ast.expr) -> Any:
        value = self.evaluate(node)
        if isinstance(value, str):
            raise _ConditionError(f"{_source_text(node)}: a number is expected")
        # Floats, because powers of integers could overflow or take unbounded time.
        return value.astype(float) if isinstance(value, pd.Series) else float(value)

    def _boolean(self, node: ast.expr) -> Any:
        value = self.evaluate(node)
        if not _is_boolean(value):
            raise _ConditionError(f"{_source_text(node)} is not true or false; write comparisons "
                                  "next to & and | in parentheses")
        return value

    def _comparisons(self, node: ast.Compare) -> Any:
        sides, result = [node.left, *node.comparators], None
        for left, op, right in zip(sides, node.ops, sides[1:], strict=False):
            if isinstance(op, ast.In | ast.NotIn):
                part = self._is_in(left, right)
                part = ~part if isinstance(op, ast.NotIn) else part
            elif type(op) in _COMPARISON:
                a, b = self.evaluate(left), self.evaluate(right)
                # Comparisons with a missing value are false, even !=.
                part = _COMPARISON[type(op)](a, b) & _present(a) & _present(b)
            else:
                raise _ConditionError("`is` does not compare values; write ==")
            result = part if result is None else result & part
        return result

    def _is_in(self, left: ast.expr, right: ast.expr) -> Any:
        value = self.evaluate(left)
        if not isinstance(value, pd.Series) or not isinstance(right, ast.List | ast.Tuple):
            raise _ConditionError("`in` needs a column and a list, such as [1, 2]")
        return value.isin([self.evaluate(item) for item in right.elts])


def _divisor(value: Any) -> Any:
    """A divisor; missing in rows where it is zero."""
    if isinstance(value, pd.Series):
        return value.where(value != 0)
    if value == 0:
        raise ZeroDivisionError
    return value


def _is_boolean(value: Any) -> bool:
    return isinstance(value, pd.Series) and pd.api.types.is_bool_dtype(value.dtype)


def _present(value: Any) -> Any:
    return value.notna() if isinstance(value, pd.Series) else True

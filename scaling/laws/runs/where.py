"""Conditions on the columns of a table, such as `tokens > 1e9 and corpus == 'c4'`.

The expression is parsed, and every node is looked up here; nothing is evaluated that this file
does not name, so that a condition reads columns, compares and computes, and does nothing else.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scaling.errors import UserError

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
# A string, in which a backtick means nothing, or a name in backticks.
_QUOTED = re.compile(r"""('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")|`([^`]*)`""")


def condition(frame: pd.DataFrame, text: str, source: str) -> NDArray[np.bool_]:
    """The rows for which a condition is true, [R].

    It may hold columns (those whose names are no identifiers in backticks), numbers, strings,
    arithmetic, comparisons, `in` and `not in` a list, `and`, `or`, `not`, and `&`, `|`, `~` between
    parentheses. A comparison with a missing value is not true.

    Raises:
        UserError: it is no such condition, names no column, or is true for no row.
    """
    there = ", ".join(map(str, frame.columns))
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
        tree = ast.parse(_QUOTED.sub(placeholder, text).strip(), mode="eval")
        found = _Reader(frame, names).read(tree.body)
        if not _is_condition(found) or not isinstance(found, pd.Series):
            raise ValueError("it is not true or false for every row")
    except (SyntaxError, ValueError, TypeError, ArithmeticError, RecursionError, MemoryError
            ) as error:
        # Of a syntax error the message alone: the text that it points into is not the user's.
        why = error.msg if isinstance(error, SyntaxError) else " ".join(str(error).split())
        raise UserError(f"--where {text!r}: not a condition on the columns of {source} ({why}); "
                        f"such as \"params_total > 1e5\"; columns are {there} (names with spaces "
                        "stand in backticks)") from None
    mask = found.to_numpy(dtype=bool, na_value=False)
    if not mask.any():
        raise UserError(f"--where {text!r}: no row of {source} is left; a condition that some "
                        "row meets is expected")
    return np.asarray(mask)


class _Reader:
    """Reads the allowed nodes of a condition over one table."""

    def __init__(self, frame: pd.DataFrame, names: Mapping[str, str]) -> None:
        self._frame, self._names = frame, names

    def read(self, node: ast.expr) -> Any:
        match node:
            case ast.Constant(value=int() | float() | str()):
                return node.value
            case ast.Name():
                return self._column(self._names.get(node.id, node.id))
            case ast.BinOp(op=op) if type(op) in _ARITHMETIC:
                return _ARITHMETIC[type(op)](self._number(node.left), self._number(node.right))
            case ast.BinOp(op=op) if type(op) in _JUNCTION:
                return _JUNCTION[type(op)](self._truth(node.left), self._truth(node.right))
            case ast.BoolOp():
                found = self._truth(node.values[0])
                for value in node.values[1:]:
                    found = _JUNCTION[type(node.op)](found, self._truth(value))
                return found
            case ast.UnaryOp(op=ast.Not() | ast.Invert()):
                return ~self._truth(node.operand)
            case ast.UnaryOp(op=ast.USub()):
                return -self._number(node.operand)
            case ast.Compare():
                return self._comparisons(node)
            case _:
                raise ValueError(f"{ast.unparse(node)}: columns, numbers, strings, arithmetic and "
                                 "comparisons alone are read here")

    def _column(self, name: str) -> pd.Series[Any]:
        if name not in self._frame.columns:
            raise ValueError(f"there is no column {name}")
        column = self._frame[name]
        if isinstance(column, pd.DataFrame):
            raise ValueError(f"there are {column.shape[1]} columns {name}")
        return column

    def _number(self, node: ast.expr) -> Any:
        value = self.read(node)
        if isinstance(value, str):
            raise ValueError(f"{ast.unparse(node)}: no number")
        # As floats, so that no power of whole numbers runs over, or on and on.
        return value.astype(float) if isinstance(value, pd.Series) else float(value)

    def _truth(self, node: ast.expr) -> Any:
        value = self.read(node)
        if not _is_condition(value):
            raise ValueError(f"{ast.unparse(node)} is not true or false; comparisons beside & and "
                             "| stand in parentheses")
        return value

    def _comparisons(self, node: ast.Compare) -> Any:
        sides, found = [node.left, *node.comparators], None
        for left, op, right in zip(sides, node.ops, sides[1:], strict=False):
            if isinstance(op, ast.In | ast.NotIn):
                part = self._among(left, right)
                part = ~part if isinstance(op, ast.NotIn) else part
            elif type(op) in _COMPARISON:
                a, b = self.read(left), self.read(right)
                # A missing value is compared to nothing, not even as unequal.
                part = _COMPARISON[type(op)](a, b) & _there(a) & _there(b)
            else:
                raise ValueError("`is` compares no values; write ==")
            found = part if found is None else found & part
        return found

    def _among(self, left: ast.expr, right: ast.expr) -> Any:
        value = self.read(left)
        if not isinstance(value, pd.Series) or not isinstance(right, ast.List | ast.Tuple):
            raise ValueError("`in` stands between a column and a list, such as [1, 2]")
        return value.isin([self.read(item) for item in right.elts])


def _is_condition(value: Any) -> bool:
    return isinstance(value, pd.Series) and pd.api.types.is_bool_dtype(value.dtype)


def _there(value: Any) -> Any:
    return value.notna() if isinstance(value, pd.Series) else True

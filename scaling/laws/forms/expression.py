"""Formulas as text, such as "E + A*n**-alpha + B*d**-beta": parsed without executing any code, and
traced from Python functions.

Only what has a derivative everywhere is allowed: numbers, names, arithmetic, and `FUNCTIONS`. So
the complex step of `formula.py` is exact for every expression.
"""

from __future__ import annotations

import ast
import functools
import inspect
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from scaling.errors import UserError

_MAX_CHARS = 2_000
_SHOWN = 60  # characters of a part in a message


def _sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "exp": np.exp, "log": np.log, "sqrt": np.sqrt, "tanh": np.tanh, "sin": np.sin, "cos": np.cos,
    "log1p": np.log1p, "expm1": np.expm1, "sigmoid": _sigmoid,
}
"""Functions that a formula may call, of one argument each."""

_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
    ast.Div: operator.truediv, ast.Pow: operator.pow,
}


@functools.lru_cache(maxsize=256)
def parse_expression(text: str) -> ast.expr:
    """The syntax tree of a formula.

    Raises:
        UserError: the text is not a formula, or is too long.
    """
    if len(text) > _MAX_CHARS:
        raise UserError(f"formula: {len(text):,} characters, where at most {_MAX_CHARS:,} are "
                        "allowed")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        _check(tree)
    except SyntaxError as error:
        raise UserError(f"formula {text!r}: {error.msg}; a formula such as "
                        "\"E + A*n**-alpha\" is expected") from None
    except UserError:
        raise
    except (ValueError, RecursionError, MemoryError):
        raise UserError("formula: it is nested too deeply, or has characters that are not text"
                        ) from None
    return tree


def _check(node: ast.expr) -> None:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            if not abs(number) < math.inf:
                raise UserError("formula: a number in it is too large")
        case ast.Name():
            if node.id in FUNCTIONS:
                raise UserError(f"formula: {node.id} is a function, and is called as "
                                f"{node.id}(...)")
        case ast.BinOp(op=op) if type(op) in _ARITHMETIC:
            _check(node.left)
            _check(node.right)
        case ast.UnaryOp(op=ast.USub() | ast.UAdd()):
            _check(node.operand)
        case ast.Call(func=ast.Name(id=name), args=[argument], keywords=[]) if name in FUNCTIONS:
            _check(argument)
        case ast.BinOp(op=ast.BitXor()):
            raise UserError(f"formula: {ast.unparse(node):.60}: a power is written with **, as in "
                            "n**-alpha")
        case _:
            shown = ast.unparse(node)
            shown = shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."
            raise UserError(
                f"formula: {shown}: only numbers, names, + - * / ** and the functions "
                f"{', '.join(FUNCTIONS)} of one argument are allowed, which have a derivative "
                "everywhere")


def names_in(text: str) -> tuple[str, ...]:
    """The names of a formula, in the order in which they are written; not those of functions."""
    found: dict[str, None] = {}

    def visit(node: ast.AST) -> None:
        match node:
            case ast.Call():
                visit(node.args[0])
            case ast.Name():
                found[node.id] = None
            case _:
                for child in ast.iter_child_nodes(node):
                    visit(child)

    visit(parse_expression(text))
    return tuple(found)


def places_of_names(text: str) -> dict[str, set[str]]:
    """Where each name of a formula occurs: in the "base" of a power, which includes divisors and
    arguments of functions; in an "exponent"; or in neither, as a "term"."""
    found: dict[str, set[str]] = {}

    def visit(node: ast.AST, place: str) -> None:
        match node:
            case ast.Call():
                visit(node.args[0], "base" if place == "term" else place)
            case ast.Name():
                found.setdefault(node.id, set()).add(place)
            case ast.BinOp(op=ast.Pow()):
                visit(node.left, "base" if place == "term" else place)
                visit(node.right, "exponent")
            case ast.BinOp(op=ast.Div()):
                visit(node.left, place)
                visit(node.right, "base" if place == "term" else place)
            case _:
                for child in ast.iter_child_nodes(node):
                    visit(child, place)

    visit(parse_expression(text), "term")
    return found


def evaluate(text: str, values: Mapping[str, Any]) -> Any:
    """The value of a formula, from arrays by name, which may be complex."""
    def value(node: ast.expr) -> Any:
        match node:
            case ast.Constant(value=int() | float() as number):
                return float(number)
            case ast.Name():
                return values[node.id]
            case ast.BinOp():
                return _ARITHMETIC[type(node.op)](value(node.left), value(node.right))
            case ast.UnaryOp(op=ast.USub()):
                return -value(node.operand)
            case ast.UnaryOp():
                return value(node.operand)
            case ast.Call(func=ast.Name(id=name)):
                return FUNCTIONS[name](value(node.args[0]))
        raise AssertionError(node)  # parse_expression has refused all others

    return value(parse_expression(text))


_SIGNS: dict[np.ufunc, str] = {
    np.add: "+", np.subtract: "-", np.multiply: "*", np.true_divide: "/", np.power: "**"}


class _Traced:
    """Stands for a value while a function is traced: it records what is computed with it."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if method == "__call__" and not kwargs:
            if ufunc in _SIGNS:
                return _binary(inputs[0], _SIGNS[ufunc], inputs[1])
            if ufunc is np.negative:
                return -self
            for name, function in FUNCTIONS.items():
                if ufunc is function:
                    return _Traced(f"{name}({_text(inputs[0])})")
        raise UserError(f"law: {ufunc.__name__} is not a function of a formula, which has a "
                        f"derivative everywhere; use {', '.join(FUNCTIONS)} and arithmetic")

    def __bool__(self) -> bool:
        raise UserError("law: the function decides by a value; a formula without conditions is "
                        "expected")

    def __float__(self) -> float:
        raise UserError("law: the function turns a value into a plain number; use NumPy's "
                        "functions, such as np.exp, on values as they are")

    def __int__(self) -> int:
        return int(float(self))

    def __add__(self, other: Any) -> Any:
        return _binary(self, "+", other)

    def __radd__(self, other: Any) -> Any:
        return _binary(other, "+", self)

    def __sub__(self, other: Any) -> Any:
        return _binary(self, "-", other)

    def __rsub__(self, other: Any) -> Any:
        return _binary(other, "-", self)

    def __mul__(self, other: Any) -> Any:
        return _binary(self, "*", other)

    def __rmul__(self, other: Any) -> Any:
        return _binary(other, "*", self)

    def __truediv__(self, other: Any) -> Any:
        return _binary(self, "/", other)

    def __rtruediv__(self, other: Any) -> Any:
        return _binary(other, "/", self)

    def __pow__(self, other: Any) -> Any:
        return _binary(self, "**", other)

    def __rpow__(self, other: Any) -> Any:
        return _binary(other, "**", self)

    def __neg__(self) -> Any:
        return _Traced(f"(-{self.text})")

    def __pos__(self) -> Any:
        return self


def _binary(left: Any, sign: str, right: Any) -> _Traced:
    return _Traced(f"({_text(left)} {sign} {_text(right)})")


def _text(value: Any) -> str:
    if isinstance(value, _Traced):
        return value.text
    if isinstance(value, int | float | np.number):
        return repr(float(value))
    raise UserError(f"law: the function computes with a {type(value).__name__}; numbers and its "
                    "arguments are expected")


def trace(function: Callable[..., Any]) -> str:
    """The formula that a Python function of numbers computes, as text.

    The function is called once, with stand-ins for its arguments.

    Raises:
        UserError: it does something that is no formula, such as a decision by a value.
    """
    parameters = inspect.signature(function).parameters.values()
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters):
        raise UserError(f"law: {function.__name__} takes any number of arguments; name them, as in "
                        "def law(n, d, E, A, alpha)")
    try:
        result = function(**{p.name: _Traced(p.name) for p in parameters})
    except TypeError as error:
        raise UserError(f"law: {function.__name__} is not a formula of its arguments ({error}); "
                        "use arithmetic and NumPy's functions") from None
    return ast.unparse(ast.parse(_text(result), mode="eval"))

"""Arguments of the public functions, checked against their annotations.

A notebook has no command line in front of it, so `fit(frame, delta="a")` reaches the arithmetic.
`checked` refuses it in one sentence that names the argument, and so do all public functions and
methods: what each of them accepts is written once, in its signature.
"""

from __future__ import annotations

import difflib
import inspect
import numbers
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache, wraps
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np
import pandas as pd

from scaling.errors import UserError

P = ParamSpec("P")
R = TypeVar("R")

_MAX_SHOWN = 40  # characters of a value in a message
_COLUMNS = ("n", "d", "c", "loss", "cluster", "run")
_SUCH_AS = {
    "fix": "{'E': 1.69}", "tie": "[('alpha', 'beta')]", "extra": "{'experts': 'num_experts'}",
    "given": "{'experts': 8}", "budgets": "[1e18, 1e19]", "where": "'tokens > 1e9'",
    "delta": "1e-3", "level": "0.9", "seed": "0", "resamples": "1000",
    "noise": "0.002", "start": "{'alpha': [0.1, 0.3]}", "formula": "'E + A*n**-alpha'",
}
_INSTEAD = {"interval": "a coverage is given as level=0.9"}
_MEANT = {"flops": ("compute", "c"), "budget": ("compute",), "tokens": ("d",), "params": ("n",),
          "parameters": ("n",), "model_size": ("n",), "c": ("compute",)}
"""Arguments that are meant by other names."""
_VARIABLE = "a further variable of a law is given as extra={%r: COLUMN}"
_BESIDE_FIT = {
    "accuracy": "fit_chain(...) fits the task's loss from N and D, and its accuracy from that",
    **dict.fromkeys(("lr", "learning_rate", "batch", "batch_size"), "best_hyperparameters(...) "
                    "finds the best learning rate and batch in a grid of runs; "
                    + _VARIABLE % "lr"),
    **dict.fromkeys(("step", "steps", "schedule"), "laws of loss curves are those of "
                    "schedule_law(...), which read the columns step and schedule; "
                    + _VARIABLE % "step"),
}
"""What is asked for by arguments that `fit` does not have."""
_WORDS = {
    "bool": "True or False", "int": "an integer", "float": "a number", "str": "text",
    "Path": "a path", "PosixPath": "a path", "dict": "a dictionary", "DataFrame": "a data frame",
    "NoneType": "None", "Fit": "a fit", "Law": "a law", "Published": "a published law",
    "Frontier": "a frontier", "FrontierLike": "a frontier", "Form": "a form", "Curves": "curves",
    "RunsTable": "a table of runs from read", "ndarray": "an array", "Series": "a series",
    "bytes": "bytes", "NAType": "a missing value", "builtin_function_or_method": "a function",
}
"""Types in words, by their names."""


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """A public function that refuses arguments whose types are not those of its annotations.

    Numbers are numbers of any library, and sequences may be arrays or series. An annotation of
    which only a type checker can tell what it accepts, such as `ArrayLike`, accepts everything.

    Raises:
        UserError: an argument is missing, unknown or of another type.
    """
    signature = inspect.signature(function)

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise UserError(_not_bound(function.__name__, signature, str(error), kwargs)) from None
        hints = _hints(function)
        for name, value in bound.arguments.copy().items():
            kind = signature.parameters[name].kind
            each = (value.items() if kind is inspect.Parameter.VAR_KEYWORD else
                    [(name, one) for one in value] if kind is inspect.Parameter.VAR_POSITIONAL
                    else [(name, value)])
            for named, one in each:
                if name in hints and not _is(one, hints[name]):
                    raise UserError(_refusal(named, one, hints[name]))
            is_array = isinstance(value, np.ndarray | pd.Series | pd.Index)
            if is_array and _wants_list(hints.get(name)):
                bound.arguments[name] = value.tolist()
        return function(*bound.args, **bound.kwargs)

    return call


@cache
def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of the parameters; the type that is returned may be known to type checkers
    only."""
    own = {name: hint for name, hint in function.__annotations__.items() if name != "return"}
    return get_type_hints(types.SimpleNamespace(__annotations__=own),
                          inspect.unwrap(function).__globals__)


def _not_bound(
    name: str, signature: inspect.Signature, problem: str, given: Mapping[str, Any]
) -> str:
    names = [each for each in signature.parameters if each != "self"]
    for unknown in given:
        if unknown not in names:
            if name == "fit" and unknown in _BESIDE_FIT:
                return f"fit: has no argument {unknown}; {_BESIDE_FIT[unknown]}"
            meant = [each for each in _MEANT.get(unknown.lower(), ()) if each in names]
            near = meant or difflib.get_close_matches(unknown.lower(), names, n=1)
            hint = f"did you mean {near[0]}? It" if near else "it"
            return f"{name}: has no argument {unknown}; {hint} has {', '.join(names)}"
    return f"{name}: {problem}; its arguments are {', '.join(names)}"


def _wants_list(hint: Any) -> bool:
    """Whether a sequence is expected, and not an array, too."""
    origins = {get_origin(kind) for kind in _alternatives(hint)}
    return Sequence in origins and np.ndarray not in origins


def _is(value: Any, hint: Any) -> bool:
    """Whether a value is of an annotated type; true for types that are not known here."""
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin in (Union, types.UnionType):
        return any(_is(value, each) for each in inner)
    if origin is Literal:
        return isinstance(value, str) and value in inner
    if hint in (int, float, bool):
        return _is_number(value, hint)
    if origin is Callable or hint is Callable:
        return callable(value)
    if _is_mapping(hint):
        return isinstance(value, Mapping) and (not inner or all(
            _is(key, inner[0]) and _is(each, inner[1]) for key, each in value.items()))
    if origin in (Sequence, Iterable, list, tuple):
        return _is_sequence(value, origin, inner)
    if origin is np.ndarray:
        return isinstance(value, np.ndarray)
    return not isinstance(hint, type) or isinstance(value, hint)


def _is_number(value: Any, kind: type) -> bool:
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    is_bool = isinstance(value, bool | np.bool_)
    if kind is bool or is_bool:
        return is_bool and kind is bool
    if kind is int or not isinstance(value, numbers.Real):
        return kind is int and isinstance(value, numbers.Integral)
    with suppress(OverflowError):  # an integer larger than any float
        float(value)
        return True
    return False


def _is_sequence(value: Any, origin: Any, inner: tuple[Any, ...]) -> bool:
    if isinstance(value, str | bytes | Mapping):
        return False
    if isinstance(value, np.ndarray | pd.Series | pd.Index):
        if np.ndim(value) != 1 or origin is Iterable:
            return False
        value = value.tolist()
    if isinstance(value, pd.DataFrame):
        return False
    if origin is Iterable:
        return isinstance(value, Iterable)  # not read here: it may be read only once
    if not isinstance(value, Sequence):
        return False
    if origin is tuple and inner[-1] is not Ellipsis:
        return len(value) == len(inner) and all(map(_is, value, inner))
    return not inner or all(_is(each, inner[0]) for each in value)


def _refusal(name: str, value: Any, hint: Any) -> str:
    """The message about an argument, or about the first item of one that is of another type."""
    for kind in _alternatives(hint):
        inner = get_args(kind)
        items: Iterable[tuple[Any, Any]] = ()
        if _is_mapping(kind) and isinstance(value, Mapping):
            items = value.items()
        elif get_origin(kind) is Sequence and isinstance(value, list | tuple):
            items = enumerate(value)
        for key, item in items:
            if _is_mapping(kind) and not _is(key, inner[0]):
                return _refusal(f"a key of {name}", key, inner[0])
            if not _is(item, inner[-1]):
                return _refusal(f"{name}[{key!r:.{_MAX_SHOWN}}]", item, inner[-1])
    is_column = name in _COLUMNS and str in _alternatives(hint)
    expected = "the name of a column" if is_column else _expected(hint)
    such_as = f", such as {_SUCH_AS[name]}" if name in _SUCH_AS else ""
    fix = f"; {_INSTEAD[name]}" if name in _INSTEAD else _fix(value, hint)
    if isinstance(value, str | bool | numbers.Real | type(None)):
        return f"{name}={_shown(value)}: {expected} is expected{such_as}{fix}"
    return f"{name}: {expected} is expected, not {a_type(value)}{such_as}{fix}"


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # an integer of thousands of digits
        return "an integer of thousands of digits"
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


def _alternatives(hint: Any) -> tuple[Any, ...]:
    is_union = get_origin(hint) in (Union, types.UnionType)
    return get_args(hint) if is_union else (hint,)


def _is_mapping(hint: Any) -> bool:
    origin = get_origin(hint)
    return isinstance(origin, type) and issubclass(origin, Mapping)


def _expected(hint: Any) -> str:
    """What an annotation accepts, in words."""
    kinds = _alternatives(hint)
    words: dict[str, None] = {}
    for kind in kinds:
        if kind is str and Path in kinds:
            continue  # as a path
        if get_origin(kind) is Literal:
            words |= dict.fromkeys(f'"{each}"' for each in get_args(kind))
        elif kind is not type(None):
            words |= dict.fromkeys(["True", "False"] if kind is bool else [_words(kind)])
    *first, last = words
    return f"{', '.join(first)} or {last}" if first else last


def _words(kind: Any) -> str:
    """One alternative of an annotation in words."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Callable or kind is Callable:
        return "a function"
    if _is_mapping(kind):
        return f"a dictionary of {_plural(inner[1])} by name" if inner else "a dictionary"
    if origin is tuple and inner[-1] is not Ellipsis:
        return {2: "a pair", 3: "a triple"}.get(len(inner), f"a tuple of {len(inner)}")
    if origin in (Sequence, Iterable, list, tuple):
        return f"a list of {_plural(inner[0])}" if inner else "a list"
    if origin is np.ndarray:
        return "an array"
    return a_class(kind)


def _plural(hint: Any) -> str:
    """The items of a list in words."""
    if get_origin(hint) is tuple:
        return {2: "pairs", 3: "triples"}.get(len(get_args(hint)), "tuples")
    each = [_words(kind).removeprefix("a ").removeprefix("an ") for kind in _alternatives(hint)
            if kind is not type(None)]
    return " or ".join(dict.fromkeys(
        word if word in ("text", "Any") else f"{word}s" for word in each))


def a_type(value: Any) -> str:
    """What a value is, in words: `a list`, `an ndarray`."""
    return a_class(type(value))


def a_class(kind: Any) -> str:
    """A class in words."""
    name = kind.__name__ if isinstance(kind, type) else str(kind)
    if name in _WORDS:
        return _WORDS[name]
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


def _fix(value: Any, hint: Any) -> str:
    """How to make what is expected of what is given."""
    kinds = _alternatives(hint)
    law = getattr(value, "law", None)
    if law is not None and any(isinstance(kind, type) and isinstance(law, kind) for kind in kinds
                               if kind is not Any):
        return "; give its law, as in fit.law"
    if pd.DataFrame not in kinds:
        return ""
    if callable(getattr(value, "to_pandas", None)):
        return "; make one with its method to_pandas()"
    if isinstance(value, list | dict | np.ndarray):
        return "; make one with pandas.DataFrame(...)"
    return "; make one with its method to_frame()" if isinstance(value, pd.Series) else ""

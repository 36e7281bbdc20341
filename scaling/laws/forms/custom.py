"""Laws that users write: by a formula as text, or by a Python function."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from scaling.errors import UserError
from scaling.laws.arguments import checked
from scaling.laws.forms.expression import evaluate, names_in, places_of_names, trace
from scaling.laws.forms.form import EXPONENT_STARTS
from scaling.laws.forms.formula import Formula
from scaling.laws.forms.variables import VARIABLES, Counting

Array = NDArray[np.float64]

MOST_NAMES = 40
MOST_STARTS = 1_000
_OTHER_STARTS = (0.1, 0.3, 1.0, 10.0)  # of positive parameters: no exponents, and not linear
_FREE_STARTS = (-1.0, 0.1, 1.0)
_PROBES = 5
_USUAL_PARAMETERS = ("c", "l", "s", "u")  # variables whose names are often those of parameters
_SYMBOLS = ("N", "D", "C")                # of variables that are written in lower case


@dataclass(frozen=True, kw_only=True, repr=False)
class CustomLaw(Formula):
    """A law given by a formula of its variables and parameters. Created by `law`."""

    expression: str
    declared_exponents: tuple[str, ...] = ()
    floor: str | None = None
    """The parameter that is the outcome at infinite size and data; None without one."""

    @property
    def exponents(self) -> tuple[str, ...]:
        return tuple(p for p in self.declared_exponents if p not in self.signed)

    @property
    def scaling_params(self) -> frozenset[str]:
        return frozenset(self.parameters) - {self.floor}

    @property
    def coefficients(self) -> tuple[str, ...]:
        return tuple(p for p in self.linear if p != self.floor)

    def outcome_of(self, p: Any, v: Any) -> Any:
        return evaluate(self.expression, {**vars(p), **vars(v)})

    def to_json(self) -> dict[str, Any]:
        """The arguments of `law` that make this form."""
        return {
            "formula": self.expression, "name": self.name, "variables": list(self.variables),
            "free": list(self.signed), "exponents": list(self.declared_exponents),
            "floor": self.floor, "units": dict(self.units), "outcome": self.outcome,
            "link": self.link, "counting": self.counting, "source": self.source,
            "start": {name: list(values) for name, values in self.grid.items()},
        }


@checked
def law(
    formula: str | Callable[..., Any] | None = None,
    *,
    name: str | None = None,
    variables: Sequence[str] | None = None,
    free: Sequence[str] = (),
    exponents: Sequence[str] | None = None,
    floor: str | None = None,
    units: Mapping[str, str] | None = None,
    start: Mapping[str, Sequence[float]] | None = None,
    outcome: str = "loss, nats per token",
    link: Literal["log", "identity"] = "log",
    counting: Counting = "total",
    source: str = "own law",
) -> Any:
    """A law of one's own, which is fitted, saved and allocated like all others.

    `law("E + A*n**-alpha + B*d**-beta", exponents=["alpha", "beta"], floor="E")`; or as a decorator
    of a function of variables and parameters, `def mine(n, d, E, A, B, alpha, beta)`, which is
    called once to record its formula.

    Args:
        formula: the outcome as a formula of names, numbers, arithmetic and `FUNCTIONS`; or a
            function.
        name: by default the function's, or "custom".
        variables: which names are variables of a run, by default those in `VARIABLES` such as n, d
            and c. Others are read from columns of the same name. All other names are parameters.
        free: parameters of either sign; the others are positive.
        exponents: parameters that are exponents, which the runs are checked for and whose fits
            start between 0.05 and 1.1.
        floor: the parameter that is the outcome at infinite size and data.
        units: of parameters.
        start: initial values by parameter, instead of the default ones.
        outcome: the predicted quantity and its unit; "loss, ..." for a loss.
        link: "log" if residuals are of the outcome's logarithm, "identity" for the outcome itself.
        counting: which parameters N counts.
        source: where the law is from.

    Returns:
        The form, a `CustomLaw`; a decorator if no formula is given.

    Raises:
        UserError: the formula is not one that has derivatives, or a name is not in it.
    """
    options: dict[str, Any] = {
        "name": name, "variables": variables, "free": free, "exponents": exponents, "floor": floor,
        "units": units, "start": start, "outcome": outcome, "link": link, "counting": counting,
        "source": source}
    if formula is None:
        return lambda function: law(function, **options)
    if callable(formula):
        options["name"] = name or formula.__name__
        return law(trace(formula), **options)
    named = names_in(formula)
    if len(named) > MOST_NAMES:
        raise UserError(f"formula: {len(named)} names, where at most {MOST_NAMES} are allowed")
    own = tuple(variables) if variables is not None else tuple(n for n in named if n in VARIABLES)
    parameters = tuple(n for n in named if n not in own)
    if variables is None:
        _check_guessed(formula, own, parameters)
    _check_names(named, own, parameters, free=free, exponents=exponents or (),
                 floor=() if floor is None else (floor,), units=units or {}, start=start or {})
    if link not in ("log", "identity"):
        raise UserError(f"link {link}: log or identity is expected")
    form = CustomLaw(
        name=name or "custom", formula=formula, source=source, variables=own,
        parameters=parameters, units=dict(units or {}), counting=counting, outcome=outcome,
        link=link, signed=tuple(free), expression=formula, floor=floor,
        declared_exponents=tuple(exponents or ()))
    _check_values(form)
    given = {p: tuple(map(float, values)) for p, values in (start or {}).items()}
    linear = tuple(p for p in _linear(form) if p not in given)
    return CustomLaw(**{**{field: getattr(form, field) for field in form.__dataclass_fields__},
                        "linear": linear, "grid": _grid(form, linear, given)})


def _check_guessed(formula: str, variables: Sequence[str], parameters: Sequence[str]) -> None:
    """Check that names which are taken for variables, or not, are used so.

    Raises:
        UserError: one is not, and has to be declared.
    """
    places = places_of_names(formula)
    for name in variables:
        if name in _USUAL_PARAMETERS and places[name] == {"term"}:
            others = [other for other in variables if other != name] or [
                other for other in parameters if "base" in places[other]]
            if not others:
                continue
            known = VARIABLES[name]
            raise UserError(f"formula: {name} is a variable of a run, {known.symbol} "
                            f"({known.unit}), and has no power here; name the parameter "
                            f"otherwise, or say which names are variables: variables={others}")
    for name in parameters:
        if name in _SYMBOLS and variables and "base" in places[name]:
            raise UserError(f"formula: {name} would be a parameter; the variable is written "
                            f"{name.lower()}, or is declared as in variables="
                            f"{[*variables, name]}")


def _check_names(
    named: Sequence[str], variables: Sequence[str], parameters: Sequence[str],
    **choices: Sequence[str] | Mapping[str, Any],
) -> None:
    for variable in variables:
        if variable not in named:
            raise UserError(f"variables: {variable} is not in the formula, whose names are "
                            f"{', '.join(named)}")
    if not variables:
        raise UserError(f"formula: none of {', '.join(named) or 'its names'} is a variable such as "
                        "n, d or c; name them in variables=")
    if not parameters:
        raise UserError("formula: it has no parameter to fit")
    for choice, chosen in choices.items():
        for parameter in chosen:
            if parameter not in parameters:
                raise UserError(f"{choice}: {parameter} is not a parameter of the formula, which "
                                f"are {', '.join(parameters)}")


def _probe(form: CustomLaw, seed: int) -> tuple[Array, Array]:
    """Random parameters, [1, P], and variables, [3, V], at which a formula is tried."""
    draw = np.random.default_rng(seed)
    theta = draw.uniform(0.2, 0.9, (1, len(form.parameters)))
    theta[:, form._positive] = np.log(theta[:, form._positive])
    return theta, draw.uniform(1.5, 4.0, (3, len(form.variables)))


def _check_values(form: CustomLaw) -> None:
    """Raise if the formula is a number nowhere that it is tried. Its derivatives need no check:
    those of everything that `parse_expression` allows are exact."""
    with np.errstate(all="ignore"):
        if not any(np.isfinite(form.predict(*_probe(form, seed))).any() for seed in range(_PROBES)):
            raise UserError(f"formula {form.expression!r}: is not a number at any of {_PROBES} "
                            "points between 0.2 and 4; check signs and parentheses")


def _linear(form: CustomLaw) -> tuple[str, ...]:
    """Parameters in which the outcome is linear together, found by trying it at random points."""
    linear: list[str] = []
    for name in form.parameters:
        together = [*linear, name]
        if all(_is_linear(form, together, seed) for seed in range(_PROBES)):
            linear.append(name)
    return tuple(linear)


def _params(form: CustomLaw, seed: int) -> tuple[dict[str, float], Array]:
    theta, x = _probe(form, seed)
    return dict(zip(form.parameters, form.to_params(theta, np.zeros(1))[0], strict=True)), x


def _is_linear(form: CustomLaw, names: Sequence[str], seed: int) -> bool:
    params, x = _params(form, seed)
    with np.errstate(all="ignore"):
        at = [form._outcome(params | {name: factor * params[name] for name in names}, x)
              for factor in (1.0, 2.0, 3.0)]
    return bool(np.allclose(at[2] - at[1], at[1] - at[0], rtol=1e-9, atol=1e-12))


def _grid(
    form: CustomLaw, linear: Sequence[str], given: Mapping[str, tuple[float, ...]]
) -> dict[str, tuple[float, ...]]:
    """Initial values of the parameters that are not linear, thinned to `MOST_STARTS` points."""
    grid: dict[str, tuple[float, ...]] = {}
    places = places_of_names(form.expression)
    for name in form.parameters:
        if name in given:
            grid[name] = given[name]
        elif name not in linear:
            is_declared = name in form.declared_exponents
            in_exponents = places[name] == {"exponent"}
            grid[name] = (_FREE_STARTS if name in form.signed and not is_declared
                          else EXPONENT_STARTS if is_declared or in_exponents else _OTHER_STARTS)
    while math.prod(map(len, grid.values())) > MOST_STARTS:
        longest = max((n for n in grid if n not in given), key=lambda n: len(grid[n]), default="")
        if not longest or len(grid[longest]) == 1:
            raise UserError(f"start: makes {math.prod(map(len, grid.values())):,} combinations of "
                            f"initial values, where at most {MOST_STARTS:,} are allowed")
        grid[longest] = grid[longest][::2]
    return grid

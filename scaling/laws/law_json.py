"""Parse a law from untrusted JSON: every value is checked, and errors name the wrong one."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import replace
from typing import Any, Literal, get_args

import numpy as np

from scaling.errors import UserError
from scaling.laws.arguments import checked
from scaling.laws.fitting.bootstrap import ResampleUnit
from scaling.laws.forms.catalogue import NAMED
from scaling.laws.forms.constrained import constrain
from scaling.laws.forms.custom import MOST_NAMES, MOST_STARTS, law
from scaling.laws.forms.form import Form
from scaling.laws.forms.losses import KINDS
from scaling.laws.forms.schedule_laws import ScheduleLaw, add_schedules
from scaling.laws.forms.schedules import MOST_KNOTS, schedule
from scaling.laws.forms.variables import VARIABLES, Counting
from scaling.laws.forms.wrapped import RESIDUALS, of_raw_outcome
from scaling.laws.json_object import JsonObject
from scaling.laws.law import (
    KEPT_LEFT_OUT,
    KEPT_RESIDUALS,
    KEPT_SAMPLES,
    Bootstrap,
    Interval,
    Law,
    Method,
)

MOST_WARNINGS = 100_000  # approach 2 has one for each budget that it leaves out
_TEXT_KEYS = ("d", "c", "loss")  # of a convention
_BY: dict[str, ResampleUnit] = {unit: unit for unit in get_args(ResampleUnit)}
_COUNTINGS: dict[str, Counting] = {counting: counting for counting in get_args(Counting)}
_LINKS: dict[str, Literal["log", "identity"]] = {"log": "log", "identity": "identity"}
_METHODS: dict[str, Method] = {method: method for method in get_args(Method)}


@checked
def law_from_json(content: Any, source: str, path: str = "") -> Law:
    """A law from the data that `Law.to_json` returns; every value is checked.

    Args:
        content: parsed JSON.
        source: name of the file in messages.
        path: dotted path of the law inside the file, for messages.

    Raises:
        UserError: a value is not one that `to_json` returns, or the form is unknown.
    """
    fields = JsonObject(content, source, path)
    form = _form(fields)
    quantities = (*form.parameters, "a", "b")
    law = Law(
        form=form, convention=convention_of(fields.object("convention"), form.variables),
        params=_params(fields, form),
        n_runs=fields.count("n_runs") if "n_runs" in fields else None,
        excluded=counts_of(fields.object("excluded")), objective=fields.optional("objective"),
        se=fields.object("se").numbers(quantities),
        se_delta=fields.object("se_delta").numbers(quantities),
        intervals={key: intervals.pair(key) for intervals in [fields.object("intervals")]
                   for key in intervals.keys_among(quantities)},
        exponents=fields.object("exponents").numbers(("a", "b")),
        convergence=_convergence(fields.object("convergence")),
        warnings=fields.texts("warnings", MOST_WARNINGS),
        heldout=_heldout(fields.object("heldout")),
        data_sha256=fields.text("data_sha256") if "data_sha256" in fields else None,
    )
    boot = fields.object("bootstrap")
    return replace(law, bootstrap=_bootstrap(boot, len(form.parameters))) if [*boot] else law


def _form(fields: JsonObject) -> Form:
    form = (_custom(fields.object("form")) if "form" in fields
            else _with_schedules(NAMED[fields.text("law", NAMED)], fields))
    if "residuals" in fields and fields.text("residuals", RESIDUALS) == "raw":
        form = of_raw_outcome(form)
    constraints = fields.object("constraints")
    fixed = constraints.object("fixed").numbers(form.parameters)
    tied = constraints.items("tied", len(form.parameters))
    for pair in tied:
        if not (isinstance(pair, list) and len(pair) == 2
                and all(isinstance(name, str) and name in form.parameters for name in pair)):
            raise constraints.error("tied", pair, "pairs of parameters")
    try:
        return constrain(form, {name: math.nan if value is None else value
                                for name, value in fixed.items()},
                         [(first, second) for first, second in tied])
    except UserError as reason:
        raise UserError(f"{fields.source}: constraints of {form.name}: {reason}") from None


def _with_schedules(form: Form, fields: JsonObject) -> Form:
    """The form with the schedules of its file, if it is a law of schedules."""
    if not isinstance(form, ScheduleLaw):
        return form
    given = fields.object("schedules")
    found = {}
    for name in given:
        knots = given.object(name)
        steps, rates = knots.array("steps", MOST_KNOTS), knots.array("rates", MOST_KNOTS)
        if len(steps) != len(rates):
            raise knots.error("rates", rates.tolist(), f"a list of {len(steps)} numbers")
        try:
            found[name] = schedule(name, np.stack([steps, rates], axis=-1))
        except UserError as reason:
            raise UserError(f"{fields.source}: {reason}") from None
    return add_schedules(form, found, fields.count("warmup") if "warmup" in fields else None)


def _custom(fields: JsonObject) -> Form:
    """A user's own law, from its formula."""
    names = fields.texts("variables", MOST_NAMES)
    start = fields.object("start")
    counting = _COUNTINGS[fields.text("counting", _COUNTINGS)]
    link = _LINKS[fields.text("link", _LINKS)]
    units = fields.object("units")
    try:
        form: Form = law(
            fields.text("formula"), name=fields.text("name"), variables=names,
            free=fields.texts("free", MOST_NAMES), exponents=fields.texts("exponents", MOST_NAMES),
            floor=fields.text("floor") if "floor" in fields else None,
            units={name: units.text(name) for name in units},
            start={name: start.array(name, MOST_STARTS).tolist() for name in start},
            outcome=fields.text("outcome"), link=link, counting=counting,
            source=fields.text("source"))
        return form
    except UserError as reason:
        raise UserError(f"{fields.source}: {reason}") from None


def _params(fields: JsonObject, form: Form) -> dict[str, float]:
    """The printed parameters: exactly those of the form; null is NaN."""
    entry = fields.object("params")
    values = entry.numbers(form.parameters)
    for name in form.parameters:
        if name not in values:
            raise entry.error("", [*values], f"a number for each of {', '.join(form.parameters)}")
    params = {p: math.nan if (value := values[p]) is None else value for p in form.parameters}
    point = np.array([[*params.values()]])
    with np.errstate(all="ignore"):
        theta = form.from_params(point)
    if np.isfinite(point).all() and np.isnan(theta).any():
        raise entry.error("", str(params), "a law with positive coefficients")
    return params


def convention_of(fields: JsonObject, variables: Collection[str] = ()) -> dict[str, Any]:
    """The convention of N, D, C and the loss, the objective, and the `range` of the fitted runs.

    Args:
        fields: the object.
        variables: those of a user's own law, which may have ranges, too.
    """
    convention: dict[str, Any] = {"n": fields.text("n")}
    for key in fields:
        if key == "range":
            convention["range"] = _ranges(fields.object("range"), variables)
        elif key in ("objective", "delta"):
            convention[key] = fields.text(key, KINDS) if key == "objective" else fields.number(key)
        else:
            convention[key] = fields.text(key) if key in _TEXT_KEYS else fields.scalar(key)
    if not convention.get("delta", 1.0) > 0:
        raise fields.error("delta", convention["delta"], "a positive number")
    return dict.fromkeys(_TEXT_KEYS, "not recorded") | convention


def _ranges(fields: JsonObject, variables: Collection[str]) -> dict[str, Interval]:
    ranges = {}
    for variable in fields.keys_among({*VARIABLES, *variables}):
        pair = fields.pair(variable)
        if pair is None or not 0 <= pair[0] <= pair[1]:
            raise fields.error(variable, str(pair), "a lower and an upper end")
        ranges[variable] = pair
    return ranges


def counts_of(fields: JsonObject) -> dict[str, int]:
    """A non-negative integer for each key."""
    return {key: fields.count(key) for key in fields}


def _convergence(fields: JsonObject) -> dict[str, float | bool | None]:
    numbers = ("start_agreement", "grad_norm", "condition")
    return {key: fields.boolean(key) if key == "converged" else fields.optional(key)
            for key in fields.keys_among((*numbers, "converged"))}


def _heldout(fields: JsonObject) -> dict[str, dict[str, Any]]:
    rows = {}
    for run in fields:
        row = fields.object(run)
        numbers = ("n", "d", "predicted", "measured", "relative_error")
        rows[run] = {"interval": row.pair("interval"), **{v: row.optional(v) for v in numbers}}
    return rows


_MOST_WIDENING = 2.0  # of intervals, for the parameters that were fitted


def _bootstrap(fields: JsonObject, n_params: int) -> Bootstrap:
    samples = fields.array("samples", KEPT_SAMPLES, n_params)
    residuals = fields.array("residuals", KEPT_RESIDUALS)
    if len(samples) and not (len(residuals) and np.isfinite(residuals).all()):
        raise fields.error("residuals", residuals.tolist(), "a list of numbers")
    widening = fields.number("widening") if "widening" in fields else 1.0
    if not 1 <= widening <= _MOST_WIDENING:
        raise fields.error("widening", widening, f"a number from 1 to {_MOST_WIDENING:g}")
    return Bootstrap(
        fields.count("resamples"), fields.count("converged"), fields.count("seed"), samples,
        residuals, fields.array("left_out", KEPT_LEFT_OUT, n_params),
        _BY[fields.text("by", _BY)] if "by" in fields else "case",
        _METHODS[fields.text("method", _METHODS)] if "method" in fields else "percentile",
        widening)

"""Diagnostics of a fit: warnings, and the parameters that the runs do not determine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from scaling.laws.fitting.fit_evidence import Evidence, Finding
from scaling.laws.fitting.interval_checks import (
    few_resamples,
    large_errors,
    lost_resamples,
    skewed_intervals,
    wide_intervals,
)
from scaling.laws.fitting.misfit import (
    MIN_SPREAD,
    SIGNIFICANT,
    dependence,
    far_runs,
    lack_of_fit,
    patterns,
    terms_with_parameters,
    without_term,
)
from scaling.laws.fitting.preflight import check_losses
from scaling.laws.fitting.search import large_exponents
from scaling.laws.forms.custom import CustomLaw
from scaling.laws.forms.form import Form
from scaling.laws.forms.sigmoidal import MOST_ALPHA, Sigmoidal
from scaling.laws.forms.variables import VARIABLES
from scaling.laws.forms.wrapped import unwrapped

Array = NDArray[np.float64]
_CONDITION = 1e10     # of the Hessian, scaled to a unit diagonal
_EFFECT = 1e-8        # of a unit of a coordinate of theta on a prediction
_AT_BOUND = 1e-3      # relative distance
_AGREEMENT = 0.5      # share of the starts
_MAX_LISTED = 10      # values in one message
_ONE_VARIABLE = {"n": "henighan-d", "d": "henighan-n"}
"""What remains of Chinchilla's law without the term of a variable."""
_LEAST_DOF = 3        # runs beyond the parameters, of a test whether a term is absent
_FEW_WILD = 5         # clusters, below which their signs are too few
_FEW_UNITS = 10       # sizes or clusters, below which resamples of them are too alike


def diagnose(evidence: Evidence) -> tuple[list[str], set[str]]:
    """Warnings, and the names of the parameters and exponents that the runs do not determine."""
    checks = (_not_converged, _input_warnings, _losses_below_floor, _few_runs, _collinear,
              _zero_constants, _not_finite, _upper_bound, _large_exponents,
              _conditioning, _start_agreement, _not_the_longest, _far_runs,
              _lack_of_fit, _patterns, few_resamples, lost_resamples)
    findings = [finding for check in checks for finding in check(evidence)]
    absent = [*_absent_terms(evidence)]
    gone = {name for _, names in absent for name in names}
    findings += [*absent, *_negative_exponents(evidence, gone), *_without_effect(evidence, gone)]
    unknown = {name for _, names in findings for name in names}
    findings += [*wide_intervals(evidence, unknown), *large_errors(evidence, unknown)]
    unknown = {name for _, names in findings for name in names}
    findings += skewed_intervals(evidence, unknown)
    if unknown & {*evidence.form.exponents}:
        unknown |= {"a", "b"}
    return [warning for warning, _ in findings], unknown


def _not_converged(e: Evidence) -> Iterator[Finding]:
    if not e.convergence["converged"]:
        yield ("the fit did not converge: its parameters are those of the optimizer's last step, "
               "not a law", {*e.form.parameters})


def _input_warnings(e: Evidence) -> Iterator[Finding]:
    """Warnings about the table, which do not depend on the fit."""
    for warning in (*e.table.warnings, *check_losses(e.form, e.table)):
        yield warning, set()


def fixed_floors(form: Form) -> dict[str, float]:
    """Irreducible losses that a constrained form fixes, by name."""
    fixed: Mapping[str, float] = form.constraints.get("fixed", {})
    return {name: value for name, value in fixed.items() if form.outcome.startswith("loss")
            and name not in form.scaling_params and name not in form.signed}


def _losses_below_floor(e: Evidence) -> Iterator[Finding]:
    for name, value in fixed_floors(e.form).items():
        below = int((e.fitted.loss <= value).sum())
        if below:
            yield (f"{name} is fixed at {value:g}, and {below} of {e.fitted.loss.size} losses are "
                   "not above it, which this law cannot reach at any size", set())


def _collinear(e: Evidence) -> Iterator[Finding]:
    slope, spread = dependence(e.form, e.x)
    if spread < MIN_SPREAD:
        yield (f"N determines D in these runs (D ~ N^{slope:.2f}, and at given N, D varies by only "
               f"{100 * spread:.1f}%), so the effects of N and D cannot be distinguished; train "
               "some size on several token counts", {*e.form.scaling_params})


def _absent_terms(e: Evidence) -> Iterator[Finding]:
    """Terms without which the fit is as good, up to chance: their parameters are not known, and
    neither is a constant that would take their place."""
    # With one or two degrees of freedom, a test without power would call every term absent.
    if len(e.y) < len(e.theta) + _LEAST_DOF or dependence(e.form, e.x)[1] < MIN_SPREAD:
        return
    for term, own in terms_with_parameters(e.form):
        p_value, _ = without_term(e.form, term, own, e.x, e.y, e.theta, e.starts, e.robust)
        if p_value <= SIGNIFICANT:
            continue
        variables = " and ".join(VARIABLES[v].symbol for v, _ in term.powers)
        unknown = {*own, *e.form.constants}
        rest = f", only {' + '.join([*e.form.constants, 'this term'])} is" \
            if e.form.constants else ""
        simpler = _ONE_VARIABLE.get(term.powers[0][0], "")
        yield (f"the fit is as good without the term of {term.coefficient} (p = {p_value:.2g}): "
               f"these runs show no effect of {variables}, and do not determine "
               f"{' or '.join(sorted(unknown))}{rest}; fit a law without {variables}"
               f"{f', such as {simpler},' if simpler and e.form.name == 'chinchilla' else ''} or "
               f"train over a wider range of {variables}", unknown)


def _zero_constants(e: Evidence) -> Iterator[Finding]:
    for name in e.form.constants:
        if e.params[name] == 0:
            yield (f"{name} is at its bound of 0: these runs show no limit that the outcome "
                   "approaches, and a law with one would predict more beyond them", set())


def _upper_bound(e: Evidence) -> Iterator[Finding]:
    """An upper bound of the outcome, e_0 of M4, that the runs do not show."""
    base = unwrapped(e.form)
    if not isinstance(base, Sigmoidal) or not {"alpha", "e_0"} <= {*e.form.fitted_parameters}:
        return
    largest = float(e.fitted.loss.max())
    if e.params["alpha"] > MOST_ALPHA * (1 - _AT_BOUND):
        yield (f"alpha is at its bound of {MOST_ALPHA:g}: these runs show no upper bound that the "
               "outcome comes from, and do not determine e_0; a law without one, such as "
               f"m2-{base.variables[0]}, may do", {"alpha", "e_0", "beta"})
    elif e.params["e_0"] <= largest * (1 + _AT_BOUND):
        yield (f"e_0 is at its bound, the largest outcome ({largest:.4g}): the runs show no "
               "approach to an upper bound, and only the largest outcomes determine e_0",
               {"alpha", "e_0", "beta"})


def _large_exponents(e: Evidence) -> Iterator[Finding]:
    """Exponents at their bound."""
    for name in large_exponents(e.form, e.theta):
        yield (f"{name} is at its bound of {e.params[name]:g}: its term acts on the runs at one "
               "end of its variable alone, so these runs do not determine it; use a law without "
               "that term", {name, *e.form.bounded_exponents[name]})


def _without_effect(e: Evidence, absent: set[str]) -> Iterator[Finding]:
    """Parameters that change no prediction, because the fit follows a valley to its end; but for
    those of absent terms."""
    slopes = np.abs(e.form.gradient(e.theta[None], e.x)[1][0]).max(axis=0)
    reported = {name for name in e.form.constants if e.params[name] == 0}
    reported |= {name for _, names in (*_upper_bound(e), *_large_exponents(e)) for name in names}
    names = [name for name, slope in zip(e.form.fitted_parameters, slopes, strict=True)
             if slope < _EFFECT and name not in reported | absent]
    if names:
        yield (f"{' and '.join(names)} {'has' if len(names) == 1 else 'have'} no effect on the "
               "predictions at the optimum, and these runs do not determine "
               f"{'it' if len(names) == 1 else 'them'}; use a law without"
               f"{_held_positive(e, names)}", {*names})


def _held_positive(e: Evidence, names: list[str]) -> str:
    """How to let parameters of a user's own law be negative, which ended at their bound of 0."""
    base = unwrapped(e.form)
    held = [name for name in names if name not in base.signed]
    if not isinstance(base, CustomLaw) or not held:
        return ""
    return (", or name it" if len(held) == 1 else ", or name them") + (
        f" in free={held}: the parameters of a formula are positive unless law() is told "
        "otherwise")


def _negative_exponents(e: Evidence, absent: set[str]) -> Iterator[Finding]:
    """Exponents of a loss that are not positive, but for those of absent terms."""
    for name in e.form.exponents if e.is_loss else ():
        value = e.params[name]
        if not value > 0 and name not in absent:
            yield (f"{name} is {value:.3g}: the loss does not decrease with its variable in these "
                   "runs, so a power law is meaningless", {*e.form.scaling_params})


def _not_finite(e: Evidence) -> Iterator[Finding]:
    names = [name for name in e.form.parameters if not np.isfinite(e.params[name])
             or not np.isfinite(e.intervals.get(name) or 0.0).all()]
    if names:
        yield (f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'} not finite in the fit "
               "or in its resamples: these runs do not determine "
               f"{'it' if len(names) == 1 else 'them'}", {*names})


def _conditioning(e: Evidence) -> Iterator[Finding]:
    condition = e.convergence["condition"]
    if condition is not None and condition > _CONDITION:
        yield (f"the Hessian's condition number is {condition:.1e}: some combination of parameters "
               "hardly affects the fit, so use the parameters together, not separately", set())


def _start_agreement(e: Evidence) -> Iterator[Finding]:
    agreement = float(e.convergence["start_agreement"] or 0)
    if agreement < _AGREEMENT:
        yield (f"only {100 * agreement:.0f}% of the starts end at the best optimum: there are "
               "other optima, and possibly a better one", set())


def _few_runs(e: Evidence) -> Iterator[Finding]:
    runs, parameters = e.fitted.loss.size, len(e.form.parameters)
    if runs <= len(e.theta):
        yield (f"{runs} runs for {len(e.theta)} parameters: the law interpolates the runs, which "
               "leaves nothing to judge it by; it has no standard errors and no intervals", set())
    elif runs < 2 * parameters:
        yield (f"{runs} runs for {parameters} parameters: the intervals are too narrow", set())
    is_wild = e.boot is not None and e.boot.by == "wild"
    if e.boot is not None and (e.boot.by in ("size", "cluster") or (is_wild
                               and e.fitted.cluster.size)):
        values = e.fitted.n if e.boot.by == "size" else e.fitted.cluster
        units = len(np.unique(values))
        if units < (max(_FEW_WILD, len(e.theta)) if is_wild else _FEW_UNITS):
            what = "sizes" if e.boot.by == "size" else "clusters"
            yield (f"resamples {'are of' if is_wild else 'draw from'} {units} {what}: the "
                   "intervals are not reliable", set())


def _not_the_longest(e: Evidence) -> Iterator[Finding]:
    """Laws of N or of D alone require that the other variable does not limit the loss."""
    if e.form.envelope not in ("n", "d"):
        return
    this, other = ("n", "d") if e.form.envelope == "n" else ("d", "n")
    values, rest = getattr(e.table, this), getattr(e.table, other)
    levels, level_of, times = np.unique(values, return_inverse=True, return_counts=True)
    at_fitted = np.searchsorted(levels, getattr(e.fitted, this))
    single = int((times[at_fitted] == 1).sum())
    if single > e.fitted.loss.size / 2:
        yield (f"{single} of {e.fitted.loss.size} values of {this.upper()} have only one run, "
               f"whose loss may be limited by {other.upper()}, while this law describes the lowest "
               f"loss over {other.upper()}", set())
    if this == "n" and len(np.unique(e.fitted.d)) == 1:
        return  # all sizes are compared at the same number of tokens
    longest = np.full(len(levels), -np.inf)
    np.maximum.at(longest, level_of, rest)
    affected = getattr(e.fitted, this)[getattr(e.fitted, other) < longest[at_fitted]]
    if len(affected):
        listed = ", ".join(f"{value:.3g}" for value in affected[:_MAX_LISTED]) + (
            f" and {len(affected) - _MAX_LISTED} more" if len(affected) > _MAX_LISTED else "")
        yield (f"at {this.upper()} = {listed} the lowest loss is not that of the largest "
               f"{other.upper()}: noise, or a run that overfits or diverged unnoticed", set())


def _far_runs(e: Evidence) -> Iterator[Finding]:
    far, distance = far_runs(e.residuals, len(e.theta))
    if not len(far):
        return
    listed = ", ".join(f"{e.fitted.run_label(int(run))} by {d:.0f}"
                       for run, d in zip(far[:3], distance, strict=False))
    more = f" and {len(far) - 3} more" if len(far) > 3 else ""
    yield (f"far from the law, in robust standard deviations: {listed}{more}; a run that diverged "
           "or crashed, a wrong number, or a law that does not hold there: find out, and set its "
           "status, or leave it out", set())


def _lack_of_fit(e: Evidence) -> Iterator[Finding]:
    found = lack_of_fit(e.residuals, len(e.theta), e.x[:, :len(e.form.variables)])
    if found is not None and found[2] < SIGNIFICANT:
        miss, scatter, p_value = (_percent(e, found[0]), _percent(e, found[1]), found[2])
        yield (f"lack of fit: the law misses points by {miss}, where runs of one point, such as "
               f"seeds, scatter by {scatter} (p = {p_value:.1g}); another form may predict better",
               set())


def _patterns(e: Evidence) -> Iterator[Finding]:
    variables = {v: e.fitted.values[v] for v in dict.fromkeys((*e.form.variables, "n", "d", "c"))
                 if v in e.fitted.values}
    for found in patterns(e.residuals, len(e.theta), variables):
        low, middle, high = (_percent(e, value, "+")
                             for value in (found.lowest, found.middle, found.highest))
        symbol = VARIABLES[found.variable].symbol
        yield (f"residuals follow {symbol}: {low} on average in its lowest third, {middle} in the "
               f"middle and {high} in the highest (p = {found.p_value:.1g}), so predictions beyond "
               "the runs are biased; another form may predict better", set())


def _percent(e: Evidence, residual: float, sign: str = "") -> str:
    """A residual in percent of the outcome, or as it is if the form predicts the outcome itself."""
    return (f"{100 * np.expm1(residual):{sign}.2g}%" if e.form.link == "log"
            else f"{residual:{sign}.2g}")

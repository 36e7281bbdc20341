"""Checks of the runs before a fit, which depend on the form."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from scaling.errors import DataError, UserError, option
from scaling.laws.forms.form import Form
from scaling.laws.forms.hyperparameters import BATCH, LEARNING_RATE
from scaling.laws.forms.powers import PowerSum
from scaling.laws.forms.variables import MOST_LOSS, VARIABLES
from scaling.laws.forms.wrapped import unwrapped
from scaling.laws.table import RunsTable, excluded_text

Array = NDArray[np.float64]

_LARGE = 1e3                         # rather N, D or C than a loss or a perplexity
_PERPLEXITY = 20.0                   # above any loss of a trained model, in nats per token
_RISES, _RISES_SURELY = 0.5, 0.8     # rank correlations for a warning and for an error
_MIN_COMPARABLE = 8                  # runs in groups for a rank correlation
_MIN_DISTINCT = 3                    # values of a variable in such a group
_SAME_LEVEL = 0.03                   # of the range of a variable's logarithm
_NO_LOSSES = (LEARNING_RATE, BATCH, "critical batch, tokens", "tokens")  # outcomes of laws
_NAMES_OF = {
    "bits": ("bpb", "bpc", "bpt", "bpw", "bits"),
    "perplexities": ("ppl", "perplexity"),
    "accuracies": ("acc", "accuracy", "top1", "f1", "bleu"),
}


def check_losses(form: Form, table: RunsTable) -> list[str]:
    """Check that the outcomes can be losses, if the form predicts a loss.

    Returns:
        Warnings; empty for a form of another outcome.

    Raises:
        UserError: the column cannot be losses in nats per token, or an outcome whose logarithm the
            form predicts is not positive.
    """
    if form.link == "log":
        check_positive(table, f"{form.name} predicts its logarithm")
    y, label = table.loss, f"{table.prefix}{table.column_label('loss')}"
    if form.outcome in _NO_LOSSES and "loss" in _words(table.columns.get("loss", "")):
        best = ("; " + option("best_hyperparameters(...)", "--optima") + " finds them in a grid of "
                "runs" if form.outcome in (LEARNING_RATE, BATCH) else "")
        raise UserError(f"{label}: {form.name} predicts {form.outcome}, and the column seems to "
                        f"hold losses; choose another with {option('loss=', '--loss')}{best}")
    if not form.outcome.startswith("loss") or table.loss.size < 2:
        return []
    if y.min() == y.max():
        raise UserError(f"{label}: is {y[0]:g} in every run, which determines no law; choose the "
                        f"column of losses with {option('loss=', '--loss')}")
    for v in ("n", "d"):
        x = table.values[v]
        if np.median(y) > _LARGE and x.max() < _PERPLEXITY:
            raise UserError(f"{label}: from {y.min():.3g} to {y.max():.3g}, while {v.upper()} "
                            f"({table.column_label(v)}) is from {x.min():.3g} to {x.max():.3g}: "
                            f"{option(f'loss= and {v}=', f'--loss and --{v}')} seem to be swapped; "
                            "exchange them")
    return [*_large_losses(table, label), *_loss_name(table), *_rising(table, label)]


def check_positive(table: RunsTable, why: str) -> None:
    """Check that all outcomes are positive.

    Args:
        table: the runs.
        why: why they have to be, as part of a sentence.

    Raises:
        UserError: one is zero or negative.
    """
    wrong = table.loss <= 0
    if wrong.any():
        other = option("for an outcome that may be zero or negative fit a law with "
                       "link=\"identity\"", "choose another column with --loss")
        raise UserError(f"{table.prefix}{table.first_label(wrong)}, {table.column_label('loss')}: "
                        f"{float(table.loss[wrong].min()):.4g}, where a positive number is "
                        f"expected, since {why}; fix it, drop the row, or {other}")


def levels(values: Array) -> int:
    """The number of distinct values of a variable, positive [R], of which those that differ by
    less than 3% of the range (of the logarithm) count as one: 1.0e7, 1.01e7 and 1e9 are two, from
    which no fit can tell an exponent and a constant.
    """
    ordered = np.log(np.unique(values))
    width = _SAME_LEVEL * (ordered[-1] - ordered[0])
    count, first = 0, -np.inf
    for value in ordered:
        if value > first + width:
            count, first = count + 1, value
    return count


def levels_needed(form: Form, variable: str) -> int:
    """The number of values of N, D or C that a form needs: one less for a sum of powers in which a
    constant, or a parameter of the variable's term, is fixed or tied."""
    base = unwrapped(form)
    if not isinstance(base, PowerSum):
        return form.distinct
    own = {*base.constants} | {name for term in base.terms for v, exponent in term.powers
                               if v == variable for name in (term.coefficient, exponent)}
    return max(2, form.distinct - 1) if own - {*form.fitted_parameters} else form.distinct


def check_enough_runs(form: Form, table: RunsTable, fitted: RunsTable) -> None:
    """Check that there are as many runs as parameters, at enough values of N, D and C.

    Args:
        form: the form.
        table: all runs.
        fitted: those that the form is fitted to.

    Raises:
        DataError: there are not.
    """
    out = excluded_text(table.excluded)
    left_out = f"; left out: {out}" if out else ""
    count = fitted.loss.size
    for variable in form.variables:
        is_amount = variable in ("n", "d", "c")
        values = fitted.values[variable]
        distinct = len(np.unique(values))
        needed = levels_needed(form, variable) if is_amount else form.distinct_others
        apart = levels(values) if is_amount and distinct >= needed else distinct
        if apart < needed:
            s = "s" * (apart != 1)
            quantity = {"n": f"size{s} N", "d": f"token count{s} D", "c": f"budget{s} C"}.get(
                variable, f"value{s} of {VARIABLES[variable].symbol}")
            alike = (f" (values within {_SAME_LEVEL:.0%} of the range of their logarithm count as "
                     "one)" if apart < distinct else "")
            raise DataError(f"{form.name}: {apart} distinct {quantity} "
                            f"({table.convention[variable]}) among {count} finished "
                            f"run{'s' * (count != 1)}, where at least {needed} are "
                            f"needed{alike}{left_out}")
    if count < len(form.parameters):
        raise DataError(f"{form.name}: {count} run{'s' * (count != 1)} for {len(form.parameters)} "
                        f"parameters ({', '.join(form.parameters)}); train more, or choose a "
                        f"simpler law{left_out}")


def check_varied(form: Form, fitted: RunsTable) -> None:
    """Check that the values of the variables can determine the parameters: a fit would wander along
    a valley otherwise.

    Raises:
        DataError: they cannot.
    """
    for variable, names in form.undetermined(form.coordinates(fitted.values)).items():
        known = VARIABLES[variable]
        raise DataError(f"{form.name}: {known.symbol} ({known.unit}) follows the other variables "
                        f"in these runs, which do not determine {', '.join(names)}; train several "
                        "values of it at the same N and D, or choose a law without it")


def _large_losses(table: RunsTable, label: str) -> Iterator[str]:
    y, limit = table.loss, MOST_LOSS
    for over in (y > _LARGE, y > _PERPLEXITY, y > limit):
        if not over.any():
            continue
        cell = f"{table.first_label(over)}, {table.column_label('loss')}: {y[over].max():.4g}"
        if y[over].min() <= _PERPLEXITY:
            yield (f"{cell} nats per token, more than the loss of a uniform prediction over any "
                   f"vocabulary ({limit:.3g}): a run that diverged, or perplexities (take their "
                   "logarithm)")
            return
        if np.median(y) > _LARGE:
            raise UserError(f"{label}: from {y.min():.3g} to {y.max():.3g}, where losses in nats "
                            "per token are expected; these look like N, D or C: choose the column "
                            f"of losses with {option('loss=', '--loss')}")
        raise UserError(f"{table.prefix}{cell}, where a loss in nats per token is expected, at "
                        f"most {limit:.3g} for any vocabulary; if the column holds perplexities, "
                        "take their logarithm; if the run diverged, set its status to diverged")


def _words(column: str) -> set[str]:
    """The words of a column's name."""
    return {*re.split(r"[^a-z0-9]+", column.lower())}


def _loss_name(table: RunsTable) -> Iterator[str]:
    column = table.columns.get("loss", "")
    words = _words(column)
    for quantity, names in _NAMES_OF.items():
        if words & {*names}:
            fix = {"bits": f"multiply them by ln 2 = {np.log(2):.4f}, or read E and the "
                            "coefficients in bits",
                    "perplexities": "take their logarithm",
                    "accuracies": "a loss decreases with N and D"}[quantity]
            yield (f"column {column}: seems to hold {quantity} by its name, where losses in nats "
                   f"per token are expected; {fix}")


def _rising(table: RunsTable, label: str) -> Iterator[str]:
    correlations = {v: _rank_correlation(table.values[v], table.loss, table.values[other])
                    for v, other in (("n", "d"), ("d", "n"))}
    rises = {v: rho for v, rho in correlations.items() if rho is not None and rho > _RISES}
    if len(rises) == 2 and min(rises.values()) > _RISES_SURELY:
        raise UserError(f"{label}: increases with N at given D and with D at given N (rank "
                        f"correlations {rises['n']:.2f} and {rises['d']:.2f}), where a loss is "
                        "expected, which decreases with both; if the column holds accuracies, fit "
                        "1 minus them; otherwise choose the column of losses with "
                        f"{option('loss=', '--loss')}")
    for v, rho in rises.items():
        yield (f"{table.column_label('loss')}: increases with {v.upper()} "
               f"({table.column_label(v)}) at given {'D' if v == 'n' else 'N'} (rank correlation "
               f"{rho:.2f}), where a loss decreases; check that neither column is another "
               "quantity, and that no run overfits")


def _rank_correlation(x: Array, y: Array, given: Array) -> float | None:
    """Spearman's correlation of x and y, pooled over groups of nearly equal `given`; None if too
    few runs can be compared."""
    if np.isnan(x).any() or np.isnan(given).any():
        return None
    bins = np.round(np.log10(given) * 10)  # of a factor 1.26, narrow relative to x
    groups = [bins == value for value in np.unique(bins)]
    groups = [group for group in groups if len(np.unique(x[group])) >= _MIN_DISTINCT]
    if sum(map(np.count_nonzero, groups)) < _MIN_COMPARABLE:
        return None
    a, b = (np.concatenate([_centred_ranks(values[group]) for group in groups])
            for values in (x, y))
    size = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / size if size > 0 else None


def _centred_ranks(x: Array) -> Array:
    """Ranks of the values less their mean; equal values have the mean of their ranks."""
    _, index, counts = np.unique(x, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[index] - (len(x) + 1) / 2)

"""Laws converted between ways of counting parameters: total and non-embedding.

Which N a law counts, and with it C = 6 N D, alone moves the exponent of N* from .50 to .78 (Pearce
and Song 2024). A law of one N is also a law of the other, given the relation between the two in
the family of models; only the closed form of its optimum is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray

from scaling.errors import UserError, option
from scaling.laws.forms.form import Form
from scaling.laws.forms.variables import N_COLUMNS, SIX_ND, Counting
from scaling.laws.law import Law
from scaling.laws.published import counting as published_counting

Array = NDArray[np.float64]
CountFunction = Callable[[Array], Array]
"""An increasing function from one count of parameters to another."""

_BISECTIONS = 60
_MAX_OMEGA = 1e9  # corresponds to a vocabulary of billions


@dataclass(frozen=True)
class Relation:
    """The relation between total and non-embedding parameters in a family of models."""

    total: CountFunction
    """Total N from non-embedding N."""
    non_embedding: CountFunction
    """Non-embedding N from total N."""
    source: str
    published: bool = False
    """Whether the models are those of a paper, not those of the law that is recounted."""

    def to(self, counting: Counting) -> CountFunction:
        """The function from the other count to this one."""
        return self.total if counting == "total" else self.non_embedding


def published_relation(omega: float | None = None) -> Relation:
    """N_total = N + omega N^(1/3) (Pearce and Song 2024, section 3).

    Embeddings are V d, and N = 12 L d^2 at a fixed d/L, so omega = V (d / (12 L))^(1/3).

    Args:
        omega: value for another vocabulary or shape; by default the paper's, for Chinchilla's
            models.

    Raises:
        UserError: omega is not positive or too large.
    """
    paper = published_counting()
    w = float(paper["omega"]) if omega is None else omega
    if not 0 < w <= _MAX_OMEGA:
        raise UserError(f"omega {w:g}: a positive number up to {_MAX_OMEGA:g} is expected, such "
                        f"as {paper['omega']}")
    source = f"N_total = N + {w:g} N^(1/3)" + (f" ({paper['citation']})" if omega is None else "")

    def non_embedding(n: Array) -> Array:
        # y^3 + w y = N_total for y = N^(1/3): Cardano's solution, in the form without cancellation.
        scale = np.sqrt(w / 3)
        return np.asarray((2 * scale * np.sinh(np.arcsinh(n / (2 * scale**3)) / 3)) ** 3)

    return Relation(lambda n: np.asarray(n + w * np.cbrt(n)), non_embedding, source,
                    published=omega is None)


def relation_between(total: Array, non_embedding: Array, source: str) -> Relation:
    """The relation in a table of models: interpolated between the models in log-log, and a power
    law beyond them.

    Raises:
        UserError: fewer than two sizes, or one count does not increase with the other.
    """
    to_total = monotone_interpolation(
        non_embedding, total, f"{source}: {N_COLUMNS['non-embedding']}", N_COLUMNS["total"])
    return Relation(to_total, lambda n: _invert(to_total, n), f"the models of {source}")


def monotone_interpolation(x: Array, y: Array, x_name: str, y_name: str) -> CountFunction:
    """y as an increasing function of x: monotone cubics in log-log through the geometric means at
    each x (Fritsch and Carlson 1980), and a power law beyond the ends.

    Args:
        x: positive numbers, [R].
        y: positive numbers, [R].
        x_name: name of x in messages.
        y_name: name of y in messages.

    Raises:
        UserError: fewer than two values of x, or y does not increase with x.
    """
    sizes = np.unique(np.asarray(x, dtype=float))
    mean_log_y = np.array([np.log(y[x == size]).mean() for size in sizes])
    if len(sizes) < 2 or not (np.diff(mean_log_y) > 0).all():
        raise UserError(f"{x_name}: {len(sizes)} distinct sizes, with {y_name} "
                        f"{', '.join(f'{v:.4g}' for v in np.exp(mean_log_y))}; at least two are "
                        "needed, and the larger size must have the larger count")
    interpolant = scipy.interpolate.PchipInterpolator(np.log(sizes), mean_log_y)
    ends = np.log(sizes[[0, -1]])
    end_slopes = interpolant(ends, 1)

    def evaluate(n: Array) -> Array:
        log_n = np.log(n)
        inside = np.clip(log_n, *ends)
        slope = np.where(log_n < ends[0], end_slopes[0], end_slopes[1])
        return np.asarray(np.exp(interpolant(inside) + slope * (log_n - inside)))

    return evaluate


def recount(law: Law, counting: Counting, relation: Relation | None = None) -> Law:
    """The same law as a function of another N, with C = 6 N D of that N.

    Args:
        law: a law whose convention is `total` or `non-embedding`.
        counting: which parameters N counts in the result.
        relation: between the two; Pearce and Song's by default.

    Raises:
        UserError: N is not a variable of the law, or which parameters it counts is unknown.
    """
    own = law.convention.get("n")
    if own == counting:
        return law
    if own not in N_COLUMNS:
        raise UserError(f"the law {law.name} counts N as {own}, which may be total or "
                        "non-embedding; specify which by fitting it again with "
                        f"{option('counting=', '--n-convention')}")
    if "n" not in law.form.variables:
        raise UserError(f"the law {law.name} is not a function of N, so it cannot be recounted")
    relation = relation or published_relation()
    form = law.form
    common: dict[str, Any] = {name: getattr(form, name) for name in Form.__dataclass_fields__}
    common |= {"name": f"{form.name} of {counting} N", "counting": counting, "centred": False}
    to_base = relation.to("total" if own == "total" else "non-embedding")
    convention: dict[str, Any] = {**law.convention, "n": counting, "c": SIX_ND,
                                  "relation": relation.source}
    if "range" in convention:
        convention["range"] = _recount_range(convention["range"], relation.to(counting))
    warnings = law.warnings
    if relation.published and law.n_runs is not None:
        warnings += (f"recounted by {relation.source}, which holds for Chinchilla's models with a "
                     "vocabulary of 32,000; for other models, give a table of them or an omega",)
    return replace(law, form=Recounted(**common, base=form, to_base=to_base),
                   convention=convention, exponents={}, heldout={}, warnings=warnings)


@dataclass(frozen=True, kw_only=True, repr=False)
class Recounted(Form):
    """`base` as a function of another N; parameters and theta are those of `base`."""

    base: Form
    to_base: CountFunction
    """N as `base` counts it, from this form's N."""

    @property
    def exponents(self) -> tuple[str, ...]:
        return self.base.exponents

    @property
    def scaling_params(self) -> frozenset[str]:
        return self.base.scaling_params

    def coordinates(self, values: Mapping[str, Array]) -> Array:
        n = np.asarray(values["n"], dtype=float)
        base_n = self.to_base(n)
        base_values = {**values, "n": base_n}
        if "c" in values:
            base_values["c"] = values["c"] * base_n / n
        return self.base.coordinates(base_values)

    def predict(self, theta_BP: Array, x_RV: Array) -> Array:
        return self.base.predict(theta_BP, x_RV)

    def gradient(self, theta_BP: Array, x_RV: Array) -> tuple[Array, Array]:
        return self.base.gradient(theta_BP, x_RV)

    def starts(self, x_RV: Array, outcome_R: Array) -> Array:
        return self.base.starts(x_RV, outcome_R)

    def to_params(self, theta_BP: Array, centre_V: Array) -> Array:
        return self.base.to_params(theta_BP, centre_V)

    def from_params(self, params_BP: Array) -> Array:
        return self.base.from_params(params_BP)


def _recount_range(ranges: Mapping[str, Any], convert: CountFunction) -> dict[str, Any]:
    """Ranges of the fitted runs under the other count. The compute of each run is not stored: the
    smallest model is assumed to have had the least, and the largest the most."""
    recounted = dict(ranges)
    if "n" in ranges:
        n = np.array(ranges["n"], dtype=float)
        recounted["n"] = [float(value) for value in convert(n)]
        if "c" in ranges:
            recounted["c"] = [float(value) for value in np.array(ranges["c"]) * convert(n) / n]
    return recounted


def _invert(increasing: CountFunction, y: Array) -> Array:
    """x at which an increasing function of positive numbers equals y, by bisection."""
    target = np.log(np.asarray(y, dtype=float))
    low, high = np.zeros_like(target), np.full_like(target, 150.0)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        above = np.log(increasing(np.exp(middle))) > target
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    return np.asarray(np.exp((low + high) / 2))

"""Laws from one way of counting parameters to another: total, or without embeddings.

Which N a law counts, and which N its C = 6 N D counts, alone moves the exponent of N* from .50 to
.78 (Pearce and Song 2024). A law of the one N is also a law of the other, once it is known how
the two follow from each other in the family of models; what does not carry over is the closed
form of its optimum.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator

from scaling.errors import UserError
from scaling.laws.forms.form import Form
from scaling.laws.law import Law
from scaling.laws.published import counting as published_counting
from scaling.laws.runs.table import N_COLUMNS, SIX_ND, Counting

Array = NDArray[np.float64]
Curve = Callable[[Array], Array]

_BISECTIONS = 60


@dataclass(frozen=True)
class Relation:
    """How the two counts of a family of models follow from each other: growing functions."""

    total: Curve
    """N with embeddings from N without."""
    non_embedding: Curve
    """N without embeddings from N with."""
    source: str
    published: bool = False
    """Whether it is of a paper's models, and not of those whose law is recounted."""

    def to(self, counting: Counting) -> Curve:
        """The function to this count, from the other."""
        return self.total if counting == "total" else self.non_embedding


def published_relation(omega: float | None = None) -> Relation:
    """N_total = N + omega N^(1/3) (Pearce and Song 2024, section 3).

    Embeddings are V d, and N = 12 L d^2 at a fixed d/L, so omega = V (d / (12 L))^(1/3).

    Args:
        omega: for another vocabulary or shape; the paper's, of Chinchilla's models, by default.
    """
    known = published_counting()
    w = float(known["omega"]) if omega is None else omega
    if not (np.isfinite(w) and w > 0):
        raise UserError(f"omega {w:g}: a positive number is expected, such as {known['omega']}")
    source = f"N_total = N + {w:g} N^(1/3)" + (f" ({known['citation']})" if omega is None else "")

    def non_embedding(n: Array) -> Array:
        # y^3 + w y = N_total for y = N^(1/3): Cardano's solution, in the form without cancellation.
        scale = np.sqrt(w / 3)
        return np.asarray((2 * scale * np.sinh(np.arcsinh(n / (2 * scale**3)) / 3)) ** 3)

    return Relation(lambda n: np.asarray(n + w * np.cbrt(n)), non_embedding, source,
                    published=omega is None)


def relation_between(total: Array, non_embedding: Array, source: str) -> Relation:
    """The relation in a user's own table of models: a smooth curve through the models in log-log,
    and a power law beyond them.

    Raises:
        UserError: fewer than two sizes, or one count does not grow with the other.
    """
    forward = curve(non_embedding, total, f"{source}: {N_COLUMNS['non-embedding']}",
                    N_COLUMNS["total"])
    return Relation(forward, lambda n: _inverse(forward, n), f"the models of {source}")


def curve(x: Array, y: Array, of: str, what: str) -> Curve:
    """y as a growing function of x: monotone cubics in log-log through the geometric means at
    each x (Fritsch and Carlson 1980), and a power law beyond the ends.

    Raises:
        UserError: fewer than two values of x, or y does not grow with x.
    """
    known = np.unique(np.asarray(x, dtype=float))
    mean = np.array([np.log(y[x == value]).mean() for value in known])
    if len(known) < 2 or not (np.diff(mean) > 0).all():
        raise UserError(f"{of}: {len(known)} distinct sizes, with {what} "
                        f"{', '.join(f'{v:.4g}' for v in np.exp(mean))}; at least two are needed, "
                        "and the larger size must have the larger count")
    line = PchipInterpolator(np.log(known), mean)
    ends = np.log(known[[0, -1]])
    slopes = line(ends, 1)

    def evaluate(n: Array) -> Array:
        at = np.log(n)
        inside = np.clip(at, *ends)
        slope = np.where(at < ends[0], slopes[0], slopes[1])
        return np.asarray(np.exp(line(inside) + slope * (at - inside)))

    return evaluate


def recount(law: Law, counting: Counting, relation: Relation | None = None) -> Law:
    """The same law with another N in it, and in its C = 6 N D.

    Args:
        law: one whose convention says `total` or `non-embedding`.
        counting: what N is to count.
        relation: between the two; Pearce and Song's by default.

    Raises:
        UserError: the law is of no N, or does not say which parameters its N counts.
    """
    own = law.convention.get("n")
    if own == counting:
        return law
    if own not in N_COLUMNS:
        raise UserError(f"the law {law.name} counts N as {own}, which may be total or "
                        "non-embedding; fit it again with --n-convention to say which")
    if "n" not in law.form.variables:
        raise UserError(f"the law {law.name} is not one of N: no other count changes it")
    relation = relation or published_relation()
    form = law.form
    common: dict[str, Any] = {name: getattr(form, name) for name in Form.__dataclass_fields__}
    common |= {"name": f"{form.name} of {counting} N", "counting": counting, "centred": False}
    to_own = relation.to("total" if own == "total" else "non-embedding")
    convention: dict[str, Any] = {**law.convention, "n": counting, "c": SIX_ND,
                                  "relation": relation.source}
    if "range" in convention:
        convention["range"] = _range(convention["range"], relation.to(counting))
    warnings = law.warnings
    if relation.published and law.n_runs is not None:
        warnings += (f"recounted by {relation.source}, which is of Chinchilla's models and a "
                     "vocabulary of 32,000; where yours are others, give a table of them, or an "
                     "omega",)
    return replace(law, form=Recounted(**common, of=form, own=to_own), convention=convention,
                   exponents={}, heldout={}, warnings=warnings)


@dataclass(frozen=True, kw_only=True)
class Recounted(Form):
    """`of`, of another N; parameters and theta are those of `of`."""

    of: Form
    own: Curve
    """N as `of` counts it."""

    @property
    def exponents(self) -> tuple[str, ...]:
        return self.of.exponents

    @property
    def of_variables(self) -> frozenset[str]:
        return self.of.of_variables

    def coordinates(self, values: Mapping[str, Array]) -> Array:
        n = np.asarray(values["n"], dtype=float)
        own = self.own(n)
        known = {**values, "n": own}
        if "c" in values:
            known["c"] = values["c"] * own / n
        return self.of.coordinates(known)

    def predict(self, theta_BP: Array, x_RV: Array) -> Array:
        return self.of.predict(theta_BP, x_RV)

    def gradient(self, theta_BP: Array, x_RV: Array) -> tuple[Array, Array]:
        return self.of.gradient(theta_BP, x_RV)

    def starts(self, x_RV: Array, outcome_R: Array) -> Array:
        return self.of.starts(x_RV, outcome_R)

    def report(self, theta_BP: Array, centre_V: Array) -> Array:
        return self.of.report(theta_BP, centre_V)

    def internal(self, params_BP: Array) -> Array:
        return self.of.internal(params_BP)


def _range(known: Mapping[str, Any], to: Curve) -> dict[str, Any]:
    """Ranges of the fitted runs in the other count. Which run had how much compute is no longer
    known: the smallest model is taken to have had the least, and the largest the most."""
    changed = dict(known)
    if "n" in known:
        n = np.array(known["n"], dtype=float)
        changed["n"] = [float(value) for value in to(n)]
        if "c" in known:
            changed["c"] = [float(value) for value in np.array(known["c"]) * to(n) / n]
    return changed


def _inverse(growing: Curve, y: Array) -> Array:
    """x at which a growing function of positive numbers has the value y."""
    target = np.log(np.asarray(y, dtype=float))
    low, high = np.zeros_like(target), np.full_like(target, 150.0)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        above = np.log(growing(np.exp(middle))) > target
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    return np.asarray(np.exp((low + high) / 2))

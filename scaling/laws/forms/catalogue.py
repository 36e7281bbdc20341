"""All laws that can be fitted, by name: Kaplan's and Hoffmann's, and those of the other files.

`scaling/laws/forms/__init__.py` explains how a law is added.
"""

from __future__ import annotations

from scaling.laws.forms import (
    annealing,
    batch,
    curves,
    data,
    experts,
    farseer,
    hyperparameters,
    mixture,
    powers,
    precision,
    pruning,
    step_loss,
    streams,
    vocabulary,
)
from scaling.laws.forms.form import Form
from scaling.laws.forms.kaplan import KaplanJoint
from scaling.laws.forms.losses import ResidualLoss
from scaling.laws.forms.powers import Chinchilla, Power, Term
from scaling.laws.forms.schedule_laws import SCHEDULE_FORMS
from scaling.laws.forms.variables import VARIABLES


def _kaplan(variable: str, section: str) -> Power:
    """Kaplan's law of one variable, fitted by least squares of the log-loss: its few points are
    already the best of many runs, and an absolute loss would interpolate two of them."""
    x = variable.upper()
    return Power(
        name=f"kaplan-{variable}", formula=f"({x}_c/{x})^alpha_{x}",
        source=f"Kaplan et al. 2020, {section}", variables=(variable,),
        parameters=(f"{x}_c", f"alpha_{x}"), units={f"{x}_c": VARIABLES[variable].unit},
        counting="non-embedding", robust=ResidualLoss("squared"), envelope=variable,
        terms=(Term(f"{x}_c", ((variable, f"alpha_{x}"),)),),
    )


_ALL: tuple[Form, ...] = (
    _kaplan("n", "eq. 1.1"),
    _kaplan("d", "eq. 1.2"),
    _kaplan("c", "section 3.3"),
    KaplanJoint(
        name="kaplan-nd", formula="[(N_c/N)^(alpha_N/alpha_D) + D_c/D]^alpha_D",
        source="Kaplan et al. 2020, eq. 1.5", variables=("n", "d"),
        parameters=("N_c", "D_c", "alpha_N", "alpha_D"),
        units={"N_c": VARIABLES["n"].unit, "D_c": VARIABLES["d"].unit}, distinct=3,
        counting="non-embedding",
    ),
    Chinchilla(
        name="chinchilla", formula="E + A/N^alpha + B/D^beta",
        source="Hoffmann et al. 2022, eq. 2", variables=("n", "d"),
        parameters=("E", "A", "B", "alpha", "beta"), counting="total", distinct=3,
        terms=(Term("E"), Term("A", (("n", "alpha"),)), Term("B", (("d", "beta"),))),
    ),
    *batch.FORMS,
    *powers.FORMS,
    *data.FORMS,
    *farseer.FORMS,
    *experts.FORMS,
    *precision.FORMS,
    *annealing.FORMS,
    *mixture.FORMS,
    *vocabulary.FORMS,
    *streams.FORMS,
    *pruning.FORMS,
    *curves.FORMS,
    *hyperparameters.FORMS,
    *step_loss.FORMS,
)

class Catalogue(dict[str, Form]):
    """Forms by name."""

    def __repr__(self) -> str:
        return f"{len(self)} laws: {', '.join(self)}"


FORMS: dict[str, Form] = Catalogue({form.name: form for form in _ALL})
"""Every form that can be fitted, by name."""

NAMED: dict[str, Form] = FORMS | SCHEDULE_FORMS
"""Every form by name, with those that can be fitted once they have learning rate schedules."""

DEFAULT = ("kaplan-n", "kaplan-d", "kaplan-c", "kaplan-nd", "chinchilla", "q-family")
"""Laws of the loss that can be fitted to any sweep over N and D."""

CHOSEN_FROM = ("chinchilla", "kaplan-nd", "q-family")
"""Laws of all runs among these, from which the one is chosen that predicts larger runs best."""

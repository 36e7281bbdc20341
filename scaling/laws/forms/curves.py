"""Laws of one variable: learning curves that bend, saturate or break.

The forms of `learning_curves` exist for each of N, D and C, such as `m2-n`, `m2-d` and `m2-c`. They
are fitted to every run. If another variable differs between the runs, select rows with one value of
it, or the lower envelope (`dataclasses.replace(form, envelope="c")`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaling.laws.forms import downstream
from scaling.laws.forms.broken import broken
from scaling.laws.forms.curve import Curve
from scaling.laws.forms.form import Form
from scaling.laws.forms.losses import ResidualLoss
from scaling.laws.forms.powers import PowerProduct, PowerSum, Term
from scaling.laws.forms.sigmoidal import Sigmoidal
from scaling.laws.forms.variables import VARIABLES

Array = NDArray[np.float64]

_SQUARED = ResidualLoss("squared")


class Saturating(Curve):
    """beta (1/x + gamma)^c: M3, whose power law ends at about x = 1/gamma."""

    def outcome_of(self, p: Any, v: Any) -> Any:
        return p.beta * (1 / self._x(v) + p.gamma) ** p.c


class Shifted(Curve):
    """A (x + d)^-alpha + E, whose power law begins at about x = d."""

    def outcome_of(self, p: Any, v: Any) -> Any:
        return p.A * (self._x(v) + p.d) ** -p.alpha + p.E


def learning_curves(variable: str) -> tuple[Form, ...]:
    """M1 to M4 and a law with one break, as functions of N, D or C.

    Alabdulmohsin et al. print M1, M2 and M4 as beta x^c with a negative c; here c is positive in
    all four.
    """
    symbol, unit = VARIABLES[variable].symbol, VARIABLES[variable].unit
    source = "Alabdulmohsin et al. 2022, section 3"
    common: dict[str, Any] = {"source": source, "variables": (variable,), "robust": _SQUARED}
    power = Term("beta", ((variable, "c"),))
    return (
        PowerSum(**common, name=f"m1-{variable}", formula=f"beta {symbol}^-c",
                 parameters=("beta", "c"), terms=(power,)),
        PowerSum(**common, name=f"m2-{variable}", formula=f"beta {symbol}^-c + e_inf",
                 parameters=("beta", "c", "e_inf"), distinct=3, terms=(power, Term("e_inf"))),
        Saturating(**common, name=f"m3-{variable}", formula=f"beta (1/{symbol} + gamma)^c",
                   parameters=("beta", "c", "gamma"), units={"gamma": f"1/{unit}"}, distinct=3,
                   linear=("beta",), grid={"c": (0.1, 0.3, 0.7), "gamma": (0.03, 1.0)},
                   scales_as={"gamma": -1.0}, decay_exponents=("c",), asymptotes=()),
        Sigmoidal(**common, name=f"m4-{variable}",
                  formula=f"the eps with (eps - e_inf)/(e_0 - eps)^alpha = beta {symbol}^-c",
                  parameters=("beta", "c", "e_inf", "e_0", "alpha"), distinct=5,
                  decay_exponents=("c",), asymptotes=("e_inf",)),
        broken(variable),
    )


FORMS: tuple[Form, ...] = (
    *(form for variable in ("n", "d", "c") for form in learning_curves(variable)),
    Shifted(
        name="zhai", formula="A (C + d)^-alpha + E", source="Zhai et al. 2022, section 3",
        variables=("c",), parameters=("A", "d", "alpha", "E"), units={"d": VARIABLES["c"].unit},
        distinct=4, outcome="error", robust=_SQUARED, linear=("A", "E"),
        grid={"alpha": (0.1, 0.3, 0.7), "d": (0.01, 0.3)}, scales_as={"d": 1.0},
        decay_exponents=("alpha",), asymptotes=("E",),
    ),
    PowerProduct(
        name="cherti", formula="beta C^-alpha", source="Cherti et al. 2023, eq. 1",
        variables=("c",), parameters=("beta", "alpha"), outcome="error", robust=_SQUARED,
        terms=(Term("beta", (("c", "alpha"),)),),
    ),
    PowerProduct(
        name="hernandez", formula="k D_F^alpha N^beta", source="Hernandez et al. 2021, eq. 1.2",
        variables=("finetuning", "n"), parameters=("k", "alpha", "beta"),
        counting="non-embedding", outcome="tokens", robust=_SQUARED,
        terms=(Term("k", (("finetuning", "alpha"), ("n", "beta"))),), numerator=("alpha", "beta"),
    ),
    *downstream.FORMS,
)
"""Learning curves of N, D and C; laws of errors, of transfer and of downstream tasks."""

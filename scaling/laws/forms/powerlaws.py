"""Further laws that are sums of power laws: of one variable with a floor, and of two stacks."""

from __future__ import annotations

from scaling.laws.forms.form import Form
from scaling.laws.forms.powers import Power, PowerSum, Term
from scaling.laws.variables import VARIABLES


def _henighan(variable: str) -> Power:
    """Henighan's law of one variable: what Kaplan's is, above a floor. Of the runs it sees the
    lower envelope, since it says what is reached when nothing else is short."""
    x = variable.upper()
    return Power(
        name=f"henighan-{variable}", formula=f"L_inf + ({x}_0/{x})^alpha_{x}",
        source="Henighan et al. 2020, eq. 1.1", variables=(variable,),
        parameters=("L_inf", f"{x}_0", f"alpha_{x}"), units={f"{x}_0": VARIABLES[variable].unit},
        counting="non-embedding", distinct=3, envelope=variable,
        terms=(Term("L_inf"), Term(f"{x}_0", ((variable, f"alpha_{x}"),))),
    )


FORMS: tuple[Form, ...] = (
    _henighan("n"),
    _henighan("d"),
    _henighan("c"),
    # The paper writes A as alpha times powers of the sizes of a reference model, which no fit can
    # tell apart from alpha.
    PowerSum(
        name="ghorbani", formula="L_inf + A/(N_e^p_e N_d^p_d)",
        source="Ghorbani et al. 2021, eq. 2", variables=("encoder", "decoder"),
        parameters=("L_inf", "A", "p_e", "p_d"), counting="non-embedding", distinct=3,
        terms=(Term("L_inf"), Term("A", (("encoder", "p_e"), ("decoder", "p_d")))),
    ),
)
"""Laws whose terms are power laws and nothing else."""

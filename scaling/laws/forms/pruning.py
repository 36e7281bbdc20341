"""The law of sparse pretraining, in which a model is pruned gradually while it is trained.

The loss follows Chinchilla's form with the average number of parameters over training in the place
of N, so that one law holds for dense and for sparse models.
"""

from __future__ import annotations

from typing import Literal

from scipy.special import hyp2f1

from scaling.errors import UserError
from scaling.laws.arguments import checked
from scaling.laws.forms.form import Form
from scaling.laws.forms.powers import PowerSum, Term

PRUNING_START, PRUNING_END = 0.25, 0.75
"""Shares of training between which Jin et al. 2025 recommend to prune, by their losses."""


@checked
def average_parameters(
    n: float, sparsity: float, *, start: float = PRUNING_START, end: float = PRUNING_END,
    of: Literal["compute", "tokens"] = "compute",
) -> float:
    """The average number of parameters over training under a gradual pruning schedule: the variable
    `n_average` of the law `jin`.

    The model is dense until `start`; its sparsity then rises as sparsity (1 - (1 - x)^3) with the
    progress x to `end` (Zhu and Gupta 2017, arXiv:1710.01878, eq. 1), and stays. The average is
    over training tokens, so that training takes 6 n_average D FLOPs. Over shares of the tokens it
    is the mean of the parameter count, n (1 - sparsity (1 - end + 3/4 (end - start))). Over shares
    of the compute, as in Jin et al. 2025, it is the harmonic mean, since a smaller model sees more
    tokens for the same compute.

    Args:
        n: parameters of the dense model, positive.
        sparsity: share of them that is pruned at the end, at least 0 and below 1.
        start: share of training at which pruning begins.
        end: share of training at which pruning ends, not below `start`.
        of: what shares of training are shares of.

    Returns:
        The average number of parameters, from n (1 - sparsity) to n.

    Raises:
        UserError: a number is out of its range.
    """
    if not 0 < n < float("inf"):
        raise UserError(f"n={n:g}: a positive number of parameters is expected, such as 1e9")
    if not 0 <= sparsity < 1:
        raise UserError(f"sparsity={sparsity:g}: a share of the parameters is expected, at least 0 "
                        "and below 1, such as 0.8")
    if not 0 <= start <= end <= 1:
        raise UserError(f"start={start:g}, end={end:g}: shares of training are expected, with 0 <= "
                        f"start <= end <= 1, such as {PRUNING_START:g} and {PRUNING_END:g}")
    kept = 1 - sparsity
    if of == "tokens":
        return float(n * (start + (end - start) * (1 - 0.75 * sparsity) + (1 - end) * kept))
    # The integral over u from 0 to 1 of 1 / (kept + sparsity u^3), by the series of u^3.
    during = hyp2f1(1.0, 1 / 3, 4 / 3, -sparsity / kept) / kept
    return float(n / (start + (end - start) * during + (1 - end) / kept))


FORMS: tuple[Form, ...] = (
    # The formula was read in the paper's abstract, and no constants of the paper were checked.
    PowerSum(
        name="jin", formula="E + A/N_avg^alpha + B/D^beta",
        source="Jin et al. 2025, arXiv:2501.12486; average_parameters gives N_avg",
        variables=("n_average", "d"), parameters=("E", "A", "B", "alpha", "beta"), distinct=3,
        terms=(Term("E"), Term("A", (("n_average", "alpha"),)), Term("B", (("d", "beta"),))),
    ),
)
"""Laws of pretraining with pruning."""

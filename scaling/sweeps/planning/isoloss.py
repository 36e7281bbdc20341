"""Tokens at which a law predicts a loss."""

from __future__ import annotations

import numpy as np
from scipy.optimize import brentq

from scaling.config.grids import IsoLoss
from scaling.errors import UserError
from scaling.laws import Law, laws_of_loss
from scaling.sweeps.planning.shapes import Shape

_TOKENS = (1.0, 1e18)
"""Between which an answer is looked for."""


def tokens_by_loss(
    grid: IsoLoss, ladder: list[Shape], source: str
) -> list[tuple[Shape, int]]:
    """Each size and the tokens that take it to each loss; sizes that never get there left out.

    Raises:
        UserError: the file has no law of N and D, or no size reaches one of the losses.
    """
    law = _law(grid, source)
    counting = law.convention["n"]
    found: list[tuple[Shape, int]] = []
    for loss in grid.losses:
        reached = [(shape, tokens) for shape in ladder
                   if (tokens := _tokens(law, shape.n(counting), loss)) is not None]
        if not reached:
            low, high = (
                [_loss(law, shape.n(counting), tokens) for shape in ladder] for tokens in
                reversed(_TOKENS))
            raise UserError(
                f"{source}: by {law.name} in {grid.law} no size comes to a loss of {loss:g}: they "
                f"begin at {max(high):.4g} and never fall below {min(low):.4g}; choose losses in "
                "between, or larger sizes"
            )
        found += reached
    return found


def _law(grid: IsoLoss, source: str) -> Law:
    laws = [law for law in laws_of_loss(grid.law) if set(law.form.variables) == {"n", "d"}
            and law.convention.get("n") in ("total", "non-embedding")]
    chosen = [law for law in laws if grid.form in (None, law.name)]
    if not chosen:
        there = ", ".join(law.name for law in laws) or "none"
        raise UserError(f"{source}: {grid.law} has no law of parameters and tokens"
                        f"{f' called {grid.form}' if grid.form else ''} (there is: {there}); fit "
                        "one with `scaling fit RUNS --law chinchilla --json FILE`")
    return chosen[0]


def _loss(law: Law, n: float, tokens: float) -> float:
    return float(law.loss({"n": np.array([float(n)]), "d": np.array([tokens])})[0])


def _tokens(law: Law, n: int, loss: float) -> int | None:
    """None where the law has the size at a lower loss from the first token on, or never there."""
    def above(log_tokens: float) -> float:
        return _loss(law, n, float(np.exp(log_tokens))) - loss

    low, high = np.log(_TOKENS)
    if above(low) <= 0 or above(high) >= 0:
        return None
    return round(float(np.exp(brentq(above, low, high, xtol=1e-9))))

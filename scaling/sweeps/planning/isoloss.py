"""Isoloss grids: tokens at which a law predicts a given loss."""

from __future__ import annotations

import numpy as np
from scipy.optimize import brentq

from scaling.config.grids import IsoLoss
from scaling.errors import UserError
from scaling.laws import Law, load_loss_laws
from scaling.sweeps.planning.shapes import ModelShape

_TOKENS = (1.0, 1e18)
"""Bounds of the search."""


def tokens_by_loss(
    grid: IsoLoss, ladder: list[ModelShape], source: str
) -> list[tuple[ModelShape, int]]:
    """(size, tokens) pairs at which the law predicts each loss, without sizes that do not reach it.

    Raises:
        UserError: the file has no law of N and D, or no size reaches one of the losses.
    """
    law = _law(grid, source)
    counting = law.convention["n"]
    found: list[tuple[ModelShape, int]] = []
    for loss in grid.losses:
        reached = [(shape, tokens) for shape in ladder
                   if (tokens := _tokens(law, shape.n(counting), loss)) is not None]
        if not reached:
            low, high = (
                [_loss(law, shape.n(counting), tokens) for shape in ladder] for tokens in
                reversed(_TOKENS))
            raise UserError(
                f"{source}: by {law.name} in {grid.law} no size reaches a loss of {loss:g}: they "
                f"start at {max(high):.4g} and stay above {min(low):.4g}; choose losses in "
                "between, or larger sizes"
            )
        found += reached
    return found


def _law(grid: IsoLoss, source: str) -> Law:
    laws = [law for law in load_loss_laws(grid.law) if set(law.form.variables) == {"n", "d"}
            and law.convention.get("n") in ("total", "non-embedding")]
    chosen = [law for law in laws if grid.form in (None, law.name)]
    if not chosen:
        names = ", ".join(law.name for law in laws) or "none"
        raise UserError(f"{source}: {grid.law} has no law of parameters and tokens"
                        f"{f' called {grid.form}' if grid.form else ''} (it has: {names}); fit "
                        "one with `scaling fit RUNS --law chinchilla --save FILE`")
    return chosen[0]


def _loss(law: Law, n: float, tokens: float) -> float:
    return float(law.loss({"n": np.array([float(n)]), "d": np.array([tokens])})[0])


def _tokens(law: Law, n: int, loss: float) -> int | None:
    """Tokens at which a size reaches a loss; None if it is below from the first token, or never."""
    def excess(log_tokens: float) -> float:
        return _loss(law, n, float(np.exp(log_tokens))) - loss

    low, high = np.log(_TOKENS)
    if excess(low) <= 0 or excess(high) >= 0:
        return None
    return round(float(np.exp(brentq(excess, low, high, xtol=1e-9))))

"""Bias of Hoffmann's approach 2 on runs without noise.

Hypothesis (arXiv:2603.22339): on a law E + A/N^alpha + B/D^beta without noise, parabolas on grids
centred on the optimum recover the exponent exactly, but N* and D* with a bias that grows with the
width of the grid, because the IsoFLOP profile is skewed if alpha != beta. The paper's figures: with
15 runs per budget, C from 1e17 to 1e21, D* at 1e24 has an error of -.33% / -1.3% / -2.9% / -5.1%
for grids of x2 / x4 / x8 / x16.

Method: the losses of Hoffmann's third law, with the constants of the paper's TeX source and those
that the paper prints; grids from N*/width to width N*, evenly spaced in ln N; parabolas of the loss
and of its logarithm; also grids whose centre is off the optimum at every budget, and grids whose
centre drifts from one side of it to the other. The errors are those without the screen that
excludes such budgets; `excluded_budgets` is the number that it would exclude. Approach 3, a fit of
the law to the same runs, is included for comparison.

    python experiments/approach_two_bias.py            # half a minute on one core

Result, as measured: results/approach_two_bias/bias.csv. D* at 1e24, parabolas of the loss, grids
centred on the optimum:

    grid                        x2        x4        x8       x16
    printed constants       -0.327%   -1.301%   -2.903%   -5.100%
    TeX constants           -0.296%   -1.178%   -2.631%   -4.628%

- The paper's figures agree with the printed constants (.34, .28); "x2" is N*/2 to 2 N*, and the
  parabola is of the loss. The skew, and with it the error, is proportional to alpha - beta: .060
  against .0543 for the unrounded constants, whose errors are a tenth smaller.
- The exponent is exact to rounding with parabolas of the loss. With parabolas of the log-loss it is
  not, because E makes the shape of the profile depend on the budget: +1.9e-4 at x16 (printed).
- Grids whose centre is off the optimum by the same factor at every budget do not change the
  exponent, but change N*: for a x8 grid around N*/4 D* is 9.1% too high, for one around 4 N* 3.5%
  too low. The screen excludes all five budgets of both.
- A x8 grid whose centre drifts from N*/4 to 4 N* changes the exponent by .011 and D* at 1e24 by
  -12%; the screen excludes the smallest and the largest budget. With a drift from N*/1.5 to 1.5 N*
  the changes are -.0007 and -1.9%.
- Approach 3 is exact to 1e-12 in D* everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from scaling.console import out
from scaling.files import write_atomically
from scaling.laws import Law, RunsTable, fit_law, from_frame
from scaling.laws.approaches import Screen, fit_approach, group_by_budget
from scaling.laws.approaches.optima import screen_optima
from scaling.laws.approaches.parabola import ParabolaTarget, polynomial_minima
from scaling.laws.published import published_named

CONSTANTS = ("hoffmann2022-3-printed", "hoffmann2022-3")
BUDGETS = tuple(float(c) for c in np.logspace(17, 21, 5))
RUNS_PER_BUDGET = 15
TARGET_FLOPS = 1e24
"""Compute at which N* and D* are compared."""
RESULTS = Path("results/approach_two_bias")


@dataclass(frozen=True)
class Design:
    """Grids from centre/width to centre*width. The centre is N* times `first` at the smallest
    budget and N* times `last` at the largest, with geometric interpolation in between."""

    width: float
    first: float = 1.0
    last: float = 1.0


DESIGNS = (
    *(Design(width) for width in (2.0, 4.0, 8.0, 16.0)),
    *(Design(8.0, offset, offset) for offset in (1 / 4, 1 / 2, 2.0, 4.0)),
    *(Design(8.0, 1 / offset, offset) for offset in (1.5, 2.0, 4.0)),
)


def optimal_size(law: Law, c: float) -> float:
    """The exact N* of the law."""
    optimum = law.form.optimum(law.point, c)
    assert optimum is not None  # a Chinchilla law has one
    return float(optimum[0])


def runs(law: Law, design: Design) -> RunsTable:
    """The runs of a design, with the exact losses of the law."""
    offsets = np.geomspace(design.first, design.last, len(BUDGETS))
    n = np.concatenate([
        optimal_size(law, c) * offset
        * np.geomspace(1 / design.width, design.width, RUNS_PER_BUDGET)
        for c, offset in zip(BUDGETS, offsets, strict=True)
    ])
    c = np.repeat(BUDGETS, RUNS_PER_BUDGET)
    frame = pd.DataFrame({"N": n, "C": c})
    frame["loss"] = law.loss({"n": n, "d": c / (6 * n)})
    return from_frame(frame, "the design", n="N", c="C")


def errors(name: str, target: ParabolaTarget, design: Design) -> dict[str, float | str]:
    """Errors of approaches 2 and 3 for one design: of the exponent a the difference from the law,
    of N* and D* the relative error at TARGET_FLOPS."""
    law = published_named(name).law
    assert law is not None  # both entries of CONSTANTS are laws
    table = runs(law, design)
    frontier = fit_approach(table, "approach-2", target=target, screen=Screen(0.0, np.inf))
    groups, _ = group_by_budget(table)
    kept = screen_optima(groups, polynomial_minima(groups, target), Screen()).used
    optimal_tokens = TARGET_FLOPS / (6 * optimal_size(law, TARGET_FLOPS))
    approach_3 = fit_law(table, law.form, resamples=0)
    approach_3_tokens = TARGET_FLOPS / (6 * optimal_size(approach_3, TARGET_FLOPS))
    return {
        "constants": name, "parabola": target, "width": design.width,
        "first_centre": design.first, "last_centre": design.last,
        "a_error": frontier.exponents["a"] - float(law.exponents["a"] or 0.0),
        "n_error": frontier.n.at(TARGET_FLOPS) * optimal_tokens * 6 / TARGET_FLOPS - 1,
        "d_error": frontier.d.at(TARGET_FLOPS) / optimal_tokens - 1,
        "excluded_budgets": int((~kept).sum()),
        "approach_3_d_error": approach_3_tokens / optimal_tokens - 1,
    }


def main() -> None:
    """Compute the errors of every design, write the table and print it."""
    table = pd.DataFrame([errors(name, target, design) for name in CONSTANTS
                          for target in ("loss", "log-loss") for design in DESIGNS])
    # Rounding errors are set to zero, so that the file is the same on every machine.
    numbers = table.select_dtypes("number").columns
    table[numbers] = table[numbers].round(10) + 0.0
    write_atomically(RESULTS / "bias.csv", table.to_csv(index=False, float_format="%.6g"))
    out.print(table.to_string(index=False, float_format=lambda v: f"{v:.4g}"), markup=False)


if __name__ == "__main__":
    main()

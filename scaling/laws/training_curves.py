"""Training curves: losses during training, of many runs, and the noise of their points."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scaling.errors import UserError
from scaling.laws.arguments import checked
from scaling.laws.columns import parse_numbers, require_column
from scaling.laws.forms.variables import FLOPS_PER_PARAMETER_TOKEN

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Curves:
    """Training curves: losses during training, sorted by run and tokens.

    Attributes:
        run: index of the run of each point, [P].
        n: parameters, [P].
        d: tokens seen, ascending within a run, [P].
        loss: nats per token, [P].
        run_id: the name of each run.
    """

    run: NDArray[np.intp]
    n: Array
    d: Array
    loss: Array
    run_id: tuple[str, ...]

    @property
    def c(self) -> Array:
        """FLOPs spent at each point, 6 N D, [P]."""
        return FLOPS_PER_PARAMETER_TOKEN * self.n * self.d

    def rows(self, run: int) -> NDArray[np.intp]:
        """Indices of the points of one run."""
        return np.flatnonzero(self.run == run)


@checked
def curves_from_frame(
    frame: pd.DataFrame, source: str, *, run: str = "run_id", n: str = "n", d: str = "d",
    loss: str = "loss",
) -> Curves:
    """Training curves from a table with one row per point.

    Args:
        frame: the table.
        source: name of the table in messages.
        run: column of the run's name.
        n: column of parameters.
        d: column of tokens seen so far.
        loss: column of losses in nats per token.

    Raises:
        UserError: a column is missing, a cell is not a positive number, or a run has several
            sizes or several losses at one number of tokens.
    """
    if not all(isinstance(name, str) for name in frame.columns):
        frame = frame.set_axis([str(name) for name in frame.columns], axis=1)
    for column in (run, n, d, loss):
        try:
            require_column(frame, source, column, "another option")
        except UserError as reason:
            raise UserError(f"{reason}; training curves need one row per point, with columns of "
                            "the run, its parameters, the tokens seen and the loss") from None
    if frame.empty:
        raise UserError(f"{source}: has a header and no rows; points of curves are expected")
    numbers = {}
    for column in (n, d, loss):
        values = parse_numbers(frame[column])
        valid = np.isfinite(values) & (values > 0)
        if not valid.all():
            row = int(np.argmin(valid))
            raise UserError(f"{source}: row {row + 1}, column {column}: "
                            f"{frame[column].iloc[row]!r}, where a positive number is "
                            "expected; fix it, or drop the row")
        numbers[column] = values
    names, runs = np.unique(frame[run].astype(str).to_numpy(dtype=str), return_inverse=True)
    order = np.lexsort((numbers[d], runs))
    size, tokens, run_of = numbers[n][order], numbers[d][order], runs[order].astype(np.intp)
    same = run_of[1:] == run_of[:-1]
    for invalid, problem in ((size[1:] != size[:-1], f"has more than one {n}"),
                             (tokens[1:] == tokens[:-1], f"has two rows of the same {d}")):
        if (same & invalid).any():
            name = names[run_of[int(np.argmax(same & invalid))]]
            raise UserError(f"{source}: run {name} {problem}, where every run has one size, and "
                            "one loss at each number of tokens; fix its rows")
    return Curves(run_of, size, tokens, numbers[loss][order], tuple(map(str, names)))


def point_noise(log_losses: Sequence[Array]) -> float:
    """Standard deviation of the log-loss between the points of curves; 0 if all have fewer than
    five points.

    Fourth differences of a smooth curve are nearly zero, and have 70 times the variance of
    independent noise. The median is robust to the steep beginnings of curves.

    Args:
        log_losses: the log-loss at the points of each curve, in order.
    """
    fourth = np.concatenate([np.diff(each, 4) for each in log_losses])
    return float(np.median(np.abs(fourth)) / 0.6745 / math.sqrt(70)) if len(fourth) else 0.0

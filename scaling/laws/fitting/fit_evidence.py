"""The inputs and results of a fit that its diagnostics examine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from scaling.laws.forms.form import Form
from scaling.laws.forms.losses import ResidualLoss
from scaling.laws.law import Bootstrap, Interval
from scaling.laws.table import RunsTable

Array = NDArray[np.float64]
Finding = tuple[str, set[str]]
"""A warning, and the parameters that it marks as undetermined."""


@dataclass(frozen=True)
class Evidence:
    """The inputs and results of a fit that the diagnostics examine.

    Attributes:
        form: the form.
        table: all runs.
        fitted: the runs that the form was fitted to.
        x: variables in the form's coordinates, centred, [R, V].
        y: outcomes on the scale of the form's predictions, [R].
        theta: the optimum, [P].
        starts: starting points of the fit, [S, P].
        robust: loss of the residuals.
        params: printed parameters.
        convergence: convergence measures of the law.
        boot: the bootstrap; None if there was none.
        intervals: 90% intervals of the parameters.
        percentile: those by percentiles, where `intervals` are by another method.
        se_delta: standard errors of the parameters by the delta method.
    """

    form: Form
    table: RunsTable
    fitted: RunsTable
    x: Array
    y: Array
    theta: Array
    starts: Array
    robust: ResidualLoss
    params: Mapping[str, float]
    convergence: Mapping[str, float | bool | None]
    boot: Bootstrap | None
    intervals: Mapping[str, Interval | None]
    percentile: Mapping[str, Interval | None] = field(default_factory=dict)
    se_delta: Mapping[str, float | None] = field(default_factory=dict)

    @property
    def residuals(self) -> Array:
        """Measured less predicted, [R]."""
        return np.asarray(self.y - self.form.predict(self.theta[None], self.x)[0])

    @property
    def is_loss(self) -> bool:
        """Whether the law predicts a loss, which falls with N and D."""
        return self.form.outcome.startswith("loss")

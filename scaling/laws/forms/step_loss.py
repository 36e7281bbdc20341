"""The loss as a function of learning rate, batch size, N and D, near the best rate and batch.

It is fitted to all runs of grids of rates and batches, so that runs with other rates than the best
count, too. The best rate and batch are those of the Step law (Li et al. 2025, arXiv:2503.04715,
eq. 1), and the loss about them is its expansion to second order in their logarithms. This law is
not an equation of that paper.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scaling.laws.forms.form import Form, constant_of, log_of_constant, project_coefficients

Array = NDArray[np.float64]

MIN_VARIED = 0.25
"""Spread of a logarithm about a plane in those of other variables, below which it follows these:
rates that are rounded to powers of two spread by 0.2, and three of them, in steps of the square
root of two, by 0.28."""
_EXPONENTS = (0.15, 0.35, 0.6)  # initial values of alpha and beta
_STARTS = 12
_LEAST_CURVATURE = 1e-3         # at a starting point, nats per token
_LEAST_SHARE = 0.1              # of an outcome, that is left for E, A and B at a starting point
_LOGS = ("A", "B", "H", "J", "k", "m")
_OF_RATE = ("E", "A", "B", "alpha", "beta", "H", "k", "gamma", "delta")
_OF_BATCH = ("J", "m", "epsilon", "omega")


@dataclass(frozen=True, kw_only=True, repr=False)
class StepLoss(Form):
    """E + A/N^alpha + B/D^beta + H/2 u^2 + J/2 v^2 with v = ln(batch/batch*) and
    u = ln(lr/lr*), where batch* = m D^epsilon and lr* = k N^-gamma D^delta (batch/batch*)^omega.

    omega tilts the valley: 1/2 is the square root rule of Adam (Malladi et al. 2022,
    arXiv:2205.10287), and 0 a best rate that is the same for every batch. H and J are curvatures in
    nats per token. Without the variable `batch`, the terms of v and the factor of omega are absent.
    theta holds the logarithms of E, A, B, H, J, k and m, and the other parameters unchanged.
    """

    @property
    def exponents(self) -> tuple[str, ...]:
        return ("alpha", "beta")

    @property
    def coefficients(self) -> tuple[str, ...]:
        return tuple(p for p in self.parameters if p in _LOGS)

    @property
    def constants(self) -> tuple[str, ...]:
        return ("E",)

    @property
    def scaling_params(self) -> frozenset[str]:
        return frozenset(self.parameters) - {"E"}

    def _at(self, theta_BP: Array) -> dict[str, Array]:
        """The coordinates of theta by parameter, [B, 1] each; omega is 0 without a batch."""
        return {"omega": np.zeros((len(theta_BP), 1))} | {
            name: theta_BP[:, i, None] for i, name in enumerate(self.parameters)}

    def _columns(self, x_RV: Array) -> tuple[Array, Array, Array, Array | None]:
        """ln N, ln D, ln lr and ln batch, [R] each."""
        n, d, rate = (x_RV[:, self.variables.index(v)] for v in ("n", "d", "lr"))
        return n, d, rate, x_RV[:, self.variables.index("batch")] if self._has_batch else None

    @property
    def _has_batch(self) -> bool:
        return "batch" in self.variables

    @property
    def has_hessian(self) -> bool:
        return True

    def undetermined(self, x_RV: Array) -> dict[str, tuple[str, ...]]:
        """Those of the rate or the batch, if it hardly varies at given N and D."""
        n, d, rate, batch = self._columns(x_RV)

        def spread(values: Array, *others: Array) -> float:
            basis = np.stack([np.ones_like(n), n, d, *others], axis=-1)
            fitted, *_ = np.linalg.lstsq(basis, values, rcond=None)
            return float(np.std(values - basis @ fitted))

        found: dict[str, tuple[str, ...]] = {}
        if spread(rate, *(() if batch is None else (batch,))) < MIN_VARIED:
            found["lr"] = ("H", "k", "gamma", "delta", *(("omega",) if self._has_batch else ()))
        if batch is not None and spread(batch) < MIN_VARIED:
            found["batch"] = _OF_BATCH
        return found

    def predict(self, theta_BP: Array, x_RV: Array) -> Array:
        return self._value_and_slopes(theta_BP, x_RV)[0]

    def gradient(self, theta_BP: Array, x_RV: Array) -> tuple[Array, Array]:
        log_loss, slopes = self._value_and_slopes(theta_BP, x_RV)
        shape = log_loss.shape
        return log_loss, np.stack(
            [np.broadcast_to(slopes[name], shape) * np.exp(-log_loss) for name in self.parameters],
            axis=-1)

    def _distances(self, p: Mapping[str, Array], x_RV: Array) -> tuple[Array, Array]:
        """u and v, [B, R]; v is 0 without a batch."""
        n, d, rate, batch = self._columns(x_RV)
        v = np.zeros((1, 1)) if batch is None else batch - p["m"] - p["epsilon"] * d
        return rate - p["k"] + p["gamma"] * n - p["delta"] * d - p["omega"] * v, v

    def _value_and_slopes(self, theta_BP: Array, x_RV: Array) -> tuple[Array, dict[str, Array]]:
        """The log-loss, [B, R], and the derivatives of the loss by parameter, [B, R] each."""
        p = self._at(theta_BP)
        n, d, _, batch = self._columns(x_RV)
        u, v = self._distances(p, x_RV)
        e = np.exp(p["E"])
        of_n, of_d = np.exp(p["A"] - p["alpha"] * n), np.exp(p["B"] - p["beta"] * d)
        by_u = np.exp(p["H"]) * u
        loss = e + of_n + of_d + by_u * u / 2
        slopes = {"E": e, "A": of_n, "B": of_d, "alpha": -of_n * n, "beta": -of_d * d,
                  "H": by_u * u / 2, "k": -by_u, "gamma": by_u * n, "delta": -by_u * d}
        if batch is not None:
            by_v = np.exp(p["J"]) * v
            loss = loss + by_v * v / 2
            by_m = by_u * p["omega"] - by_v
            slopes |= {"J": by_v * v / 2, "m": by_m, "epsilon": by_m * d, "omega": -by_u * v}
        return np.log(loss), slopes

    def hessian(self, theta_BP: Array, x_RV: Array, w_BR: Array, j_BRP: Array) -> Array:
        # The loss is a sum of exponentials, and of squares of u and v, which are linear in theta
        # but for the product of omega and v.
        p = self._at(theta_BP)
        n, d, _, batch = self._columns(x_RV)
        u, v = self._distances(p, x_RV)
        h = np.exp(p["H"])
        weight_BR = w_BR * np.exp(-self.predict(theta_BP, x_RV))
        of_n, of_d = np.exp(p["A"] - p["alpha"] * n), np.exp(p["B"] - p["beta"] * d)
        place = {name: i for i, name in enumerate(self.parameters)}
        second = np.zeros((len(theta_BP), len(place), len(place)))

        def add(first: str, other: str, values_BR: Array) -> None:
            total = (weight_BR * values_BR).sum(axis=1)
            second[:, place[first], place[other]] += total
            if first != other:
                second[:, place[other], place[first]] += total

        for first, other, values in (
            ("E", "E", np.exp(p["E"])), ("A", "A", of_n), ("A", "alpha", -of_n * n),
            ("alpha", "alpha", of_n * n * n), ("B", "B", of_d), ("B", "beta", -of_d * d),
            ("beta", "beta", of_d * d * d), ("H", "H", h * u * u / 2),
        ):
            add(first, other, values)
        by_u: dict[str, Array | float] = {"k": -1.0, "gamma": n, "delta": -d}
        if batch is not None:
            by_u |= {"m": p["omega"], "epsilon": p["omega"] * d, "omega": -v}
        parts: list[tuple[str, Array, Array, dict[str, Array | float]]] = [("H", h, u, by_u)]
        if batch is not None:
            j = np.exp(p["J"])
            parts.append(("J", j, v, {"m": -1.0, "epsilon": -d}))
            add("J", "J", j * v * v / 2)
            add("omega", "m", h * u)
            add("omega", "epsilon", h * u * d)
        for curvature, factor, distance, slopes in parts:
            g_BRP = np.zeros(j_BRP.shape)
            for name, slope in slopes.items():
                g_BRP[..., place[name]] = slope
                add(curvature, name, factor * distance * g_BRP[..., place[name]])
            second += g_BRP.swapaxes(-1, -2) @ ((weight_BR * factor)[..., None] * g_BRP)
        return np.asarray(second - j_BRP.swapaxes(-1, -2) @ (w_BR[..., None] * j_BRP))

    def to_params(self, theta_BP: Array, centre_V: Array) -> Array:
        p = self._at(theta_BP)
        centre = dict(zip(self.variables, centre_V, strict=True))
        n, d = centre["n"], centre["d"]
        shift = {"A": p["alpha"] * n, "B": p["beta"] * d,
                 "k": centre["lr"] + p["gamma"] * n - p["delta"] * d}
        if self._has_batch:
            shift["m"] = centre["batch"] - p["epsilon"] * d
        params = np.array(theta_BP, dtype=float)
        for i, name in enumerate(self.parameters):
            if name in _LOGS:
                with np.errstate(over="ignore"):
                    params[:, i] = np.exp(theta_BP[:, i] + np.ravel(shift.get(name, 0.0)))
        params[:, 0] = constant_of(theta_BP[:, 0])
        return params

    def from_params(self, params_BP: Array) -> Array:
        theta = np.array(params_BP, dtype=float)
        logs = [i for i, name in enumerate(self.parameters) if name in _LOGS]
        with np.errstate(divide="ignore", invalid="ignore"):
            theta[:, logs] = np.log(theta[:, logs])
        theta[:, 0] = log_of_constant(theta[:, 0])
        return theta

    def starts(self, x_RV: Array, outcome_R: Array) -> Array:
        """Valleys from least squares, and from the lowest loss of each N and D, each with a grid of
        alpha and beta and the best E, A and B; of all these, the ones that are nearest."""
        n, d = self._columns(x_RV)[:2]
        starts = []
        for valley in self._valleys(x_RV, outcome_R):
            theta = np.zeros((1, len(self.parameters)))
            for name, value in valley.items():
                theta[0, self.parameters.index(name)] = value
            theta[0, :3] = -np.inf  # without E, A and B only the valley is left
            excess = np.exp(self.predict(theta, x_RV)[0])
            rest = np.maximum(outcome_R - excess, _LEAST_SHARE * outcome_R)
            for alpha, beta in itertools.product(_EXPONENTS, _EXPONENTS):
                terms = np.stack([np.ones_like(n), np.exp(-alpha * n), np.exp(-beta * d)], axis=-1)
                start = theta[0].copy()
                start[:3] = project_coefficients(terms, rest, outcome_R)
                start[3:5] = alpha, beta
                starts.append(start)
        every = np.array(starts)
        misses = ((self.predict(every, x_RV) - np.log(outcome_R)) ** 2).sum(axis=1)
        return every[np.argsort(misses, kind="stable")[:_STARTS]]

    def _valleys(self, x_RV: Array, outcome_R: Array) -> list[dict[str, float]]:
        """Starting points of the parameters of u and v, by name."""
        lowest = self._from_lowest(x_RV, outcome_R)
        first = self._from_quadratic(x_RV, outcome_R)
        if first is None:
            return [lowest]
        # The runs near the valley, since a quadratic does not hold far from it.
        theta = np.full((1, len(self.parameters)), -np.inf)
        for name, value in first.items():
            theta[0, self.parameters.index(name)] = value
        theta[0, 3:5] = 0.0
        excess = self.predict(theta, x_RV)[0]
        near = excess <= np.median(excess)
        second = self._from_quadratic(x_RV[near], outcome_R[near])
        return [lowest, first, *([] if second is None else [second])]

    def _from_quadratic(self, x_RV: Array, outcome_R: Array) -> dict[str, float] | None:
        """The valley of a least-squares polynomial of second order in the logarithms of all
        variables; None if it has no minimum along rate and batch, or too few runs."""
        n, d, *tuned = self._columns(x_RV)
        z = [each for each in tuned if each is not None]
        columns = [np.ones_like(n), n, d, n * n, n * d, d * d]
        columns += [column for each in z for column in (each, each * n, each * d)]
        columns += [a * b for a, b in itertools.combinations_with_replacement(z, 2)]
        if len(n) < len(columns):
            return None
        found, *_ = np.linalg.lstsq(np.stack(columns, axis=-1), outcome_R, rcond=None)
        linear = found[6:6 + 3 * len(z)].reshape(len(z), 3)
        curvature = np.zeros((len(z), len(z)))
        curvature[np.triu_indices(len(z))] = found[6 + 3 * len(z):]
        curvature = curvature + curvature.T
        if np.linalg.eigvalsh(curvature)[0] <= _LEAST_CURVATURE:
            return None
        by_rate, *by_batch = -np.linalg.solve(curvature, linear)
        h = curvature[0, 0]
        valley = {"H": np.log(h), "k": by_rate[0], "gamma": -by_rate[1], "delta": by_rate[2]}
        if by_batch:
            omega = -curvature[0, 1] / h
            valley |= {"J": np.log(curvature[1, 1] - h * omega**2), "m": by_batch[0][0],
                       "epsilon": by_batch[0][2], "omega": omega}
        return valley

    def _from_lowest(self, x_RV: Array, outcome_R: Array) -> dict[str, float]:
        """Straight lines through the rates and batches of the lowest loss of each N and D."""
        n, d, rate, batch = self._columns(x_RV)
        points, group = np.unique(np.round(np.stack([n, d]), 2), axis=1, return_inverse=True)
        group = np.ravel(group)
        order = np.lexsort((outcome_R, group))
        best = order[np.unique(group[order], return_index=True)[1]]
        basis = np.stack([np.ones(points.shape[1]), n[best], d[best]], axis=-1)
        by_rate, *_ = np.linalg.lstsq(basis, rate[best], rcond=None)
        u = rate - np.stack([np.ones_like(n), n, d], axis=-1) @ by_rate
        valley = {"k": by_rate[0], "gamma": -by_rate[1], "delta": by_rate[2]}
        squares = u * u
        if batch is not None:
            by_batch, *_ = np.linalg.lstsq(basis[:, [0, 2]], batch[best], rcond=None)
            valley |= {"m": by_batch[0], "epsilon": by_batch[1], "omega": 0.0}
            squares = squares + (batch - by_batch[0] - by_batch[1] * d) ** 2
        excess = outcome_R - outcome_R[best][group]
        ratio = 2 * float(excess.mean()) / max(float(squares.mean()), 1e-12)
        level = np.log(max(ratio, _LEAST_CURVATURE))
        return valley | {"H": level} | ({} if batch is None else {"J": level})


_SOURCE = ("second order about the optimum of the Step law, Li et al. 2025, arXiv:2503.04715, "
           "eq. 1; not a published equation")


def _step_loss(name: str, more: str, best: str, batch: bool) -> StepLoss:
    return StepLoss(
        name=name, formula=f"E + A/N^alpha + B/D^beta + H/2 ln(lr/lr*)^2{more}, lr* = {best}",
        source=_SOURCE, variables=("n", "d", "lr", *(("batch",) if batch else ())),
        parameters=(*_OF_RATE, *(_OF_BATCH if batch else ())), counting="non-embedding",
        signed=("gamma", "delta", *(("epsilon", "omega") if batch else ())), distinct=3,
        distinct_others=3)


FORMS: tuple[Form, ...] = (
    _step_loss("step-loss", " + J/2 ln(batch/batch*)^2",
               "k N^-gamma D^delta (batch/batch*)^omega, batch* = m D^epsilon", True),
    _step_loss("step-loss-lr", "", "k N^-gamma D^delta", False),
)
"""Laws of the loss with the learning rate and the batch size, and with the learning rate alone."""

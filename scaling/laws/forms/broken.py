"""The broken neural scaling law: smoothly joined power laws of one variable."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaling.laws.forms.curve import Curve
from scaling.laws.forms.losses import ResidualLoss
from scaling.laws.forms.variables import VARIABLES

Array = NDArray[np.float64]

_MOST_PLACES = 24  # of the break of a law with one, in the range of log x
_WIDTHS = (0.02, 0.15, 0.5, 1.5)
_FLOORS = (0.01, 0.5, 0.9, 0.99)  # E, relative to the lowest outcome
_FIRST = 3  # index of the first break's parameters, after E, A and c0


class Broken(Curve):
    """E + A x^-c0 prod_i (1 + (x/d_i)^(1/f_i))^(-c_i f_i).

    Beyond the break at d_i the exponent is larger by c_i, which may be negative; f_i is the
    width of the break in log x. E and A are a and b in the paper.
    """

    def outcome_of(self, p: Any, v: Any) -> Any:
        log_x = np.log(self._x(v))
        decay = p.c0 * log_x
        for i in range(1, self._n_breaks + 1):
            c, d, f = (getattr(p, f"{letter}{i}") for letter in "cdf")
            decay = decay + c * f * _softplus((log_x - np.log(d)) / f)
        return p.E + p.A * np.exp(-decay)

    def starts(self, x_RV: Array, outcome_R: Array) -> Array:
        """With one break: for each of several places between runs, and widths, the E with the
        lowest error of a few. At fixed d_1, f_1 and E, log(y - E) is linear in log A, c_0 and c_1.
        With several breaks: every point of `grid`."""
        if self._n_breaks > 1:
            return super().starts(x_RV, outcome_R)
        log_x = np.log(x_RV[:, 0])
        distinct = np.unique(log_x)
        places = (distinct[1:] + distinct[:-1]) / 2
        thinned = np.linspace(0, len(places) - 1, _MOST_PLACES).round().astype(int)
        places = places[np.unique(thinned)]
        starts = []
        for place, width in itertools.product(places, _WIDTHS):
            terms_RK = np.stack([np.ones_like(log_x), -log_x,
                                 -width * np.logaddexp(0, (log_x - place) / width)], axis=-1)
            floors = np.array(_FLOORS) * outcome_R.min()
            linear, *_ = np.linalg.lstsq(terms_RK, np.log(outcome_R[:, None] - floors), rcond=None)
            theta = np.stack([np.log(floors), *linear, np.full_like(floors, place),
                              np.full_like(floors, np.log(width))], axis=-1)
            error = ((self.predict(theta, x_RV) - np.log(outcome_R)) ** 2).sum(axis=-1)
            starts.append(theta[np.argmin(error)])
        return np.array(starts)

    @property
    def _n_breaks(self) -> int:
        return (len(self.parameters) - _FIRST) // 3

    def gradient(self, theta_BP: Array, x_RV: Array) -> tuple[Array, Array]:
        return self._slopes(theta_BP, x_RV)[:2]

    def hessian(self, theta_BP: Array, x_RV: Array, w_BR: Array, j_BRP: Array) -> Array:
        _, _, share, power_BRP = self._slopes(theta_BP, x_RV)
        difference = power_BRP.copy()
        difference[..., 0] = -1.0  # derivative of the power's logarithm minus that of log E
        h_BPP = np.einsum("br,brp,brq->bpq", w_BR * share * (1 - share), difference, difference)
        w = w_BR * share
        for i in range(self._n_breaks):
            c, d, f = range(_FIRST + 3 * i, _FIRST + 3 * i + 3)
            height, width, z, softplus, sigmoid = self._break(theta_BP, x_RV, i)
            bump = sigmoid * (1 - sigmoid)
            lag = softplus - z * sigmoid
            # Second derivatives of -c f softplus((log x - log d)/f) by c, log d and log f.
            second = {(c, d): sigmoid, (c, f): -width * lag, (d, d): -height * bump / width,
                      (d, f): -height * bump * z, (f, f): -height * width * (lag + z**2 * bump)}
            for (first, other), value in second.items():
                total = (w * value).sum(axis=-1)
                h_BPP[:, first, other] += total
                if first != other:
                    h_BPP[:, other, first] += total
        return np.asarray(h_BPP)

    def _break(
        self, theta_BP: Array, x_RV: Array, i: int
    ) -> tuple[Array, Array, Array, Array, Array]:
        """c_i and f_i, [B, 1]; z = log(x/d_i)/f_i, softplus(z) and its derivative, [B, R]."""
        c, log_d, log_f = theta_BP[:, _FIRST + 3 * i:_FIRST + 3 * i + 3].T[..., None]
        width = np.exp(log_f)
        z = (np.log(x_RV[:, 0]) - log_d) / width
        with np.errstate(over="ignore"):
            return c, width, z, np.logaddexp(0, z), 1 / (1 + np.exp(-z))

    def _slopes(self, theta_BP: Array, x_RV: Array) -> tuple[Array, Array, Array, Array]:
        """log y, [B, R], and its derivative, [B, R, P]; the share of the power in y, [B, R]; and
        the derivative of the power's logarithm, [B, R, P]."""
        log_e, log_a, c0 = theta_BP[:, :_FIRST].T[..., None]
        log_x = np.log(x_RV[:, 0])
        power = log_a - c0 * log_x
        power_BRP = np.zeros((*power.shape, len(self.parameters)))
        power_BRP[..., 1], power_BRP[..., 2] = 1.0, -log_x
        for i in range(self._n_breaks):
            height, width, z, softplus, sigmoid = self._break(theta_BP, x_RV, i)
            power = power - height * width * softplus
            first = _FIRST + 3 * i
            power_BRP[..., first] = -width * softplus
            power_BRP[..., first + 1] = height * sigmoid
            power_BRP[..., first + 2] = -height * width * (softplus - z * sigmoid)
        log_y = np.logaddexp(log_e, power)
        share = np.exp(power - log_y)
        j_BRP = share[..., None] * power_BRP
        j_BRP[..., 0] = 1 - share
        return log_y, j_BRP, share, power_BRP


def _softplus(u: Any) -> Any:
    """log(1 + e^u), for real and complex u."""
    with np.errstate(all="ignore"):
        minus_abs = np.where(np.real(u) > 0, -u, u)
        return np.where(np.real(u) > 0, u, 0) + np.log1p(np.exp(minus_abs))


def broken(variable: str, breaks: int = 1) -> Broken:
    """The broken neural scaling law of N, D or C with the given number of breaks."""
    numbered = range(1, breaks + 1)
    symbol, unit = VARIABLES[variable].symbol, VARIABLES[variable].unit
    factors = " ".join(f"(1 + ({symbol}/d{i})^(1/f{i}))^(-c{i} f{i})" for i in numbered)
    grid: dict[str, tuple[float, ...]] = {"c0": (0.05, 0.3)}
    for i in numbered:
        # Initial breaks are spread over the range of the variable.
        centre = 10.0 ** (2 * (2 * i - 1 - breaks) / breaks)
        grid |= {f"c{i}": (-0.2, 0.3), f"d{i}": (centre / 3, centre * 3), f"f{i}": (0.3,)}
    return Broken(
        name=f"broken-{variable}" + (f"-{breaks}" if breaks > 1 else ""),
        formula=f"E + A {symbol}^-c0 {factors}",
        source="Caballero et al. 2023, arXiv:2210.14891, eq. 1", variables=(variable,),
        parameters=("E", "A", "c0", *(f"{letter}{i}" for i in numbered for letter in "cdf")),
        units={f"d{i}": unit for i in numbered}, distinct=_FIRST + 3 * breaks,
        robust=ResidualLoss("squared"), signed=("c0", *(f"c{i}" for i in numbered)),
        linear=("E", "A"), grid=grid, scales_as={f"d{i}": 1.0 for i in numbered}, asymptotes=("E",),
    )

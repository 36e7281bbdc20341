"""Laws of the loss at every step of any learning rate schedule, for one model size.

Both sum a kernel with fitted parameters over all earlier steps, so the forms hold their schedules.
The laws of annealing.py need no schedules, since nothing in their sums is fitted.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray

from scaling.errors import DataError, UserError, option
from scaling.laws.forms.constrained import Constrained
from scaling.laws.forms.form import Form
from scaling.laws.forms.formula import Formula
from scaling.laws.forms.schedules import History, Measure, Schedule, history
from scaling.laws.forms.wrapped import RawOutcome, unwrapped

Array = NDArray[np.float64]

_KEPT_STARTS = 8      # starts, the best ones of the grid: a fit of one costs seconds
_SCALES = (0.3, 3.0, 30.0, 300.0)  # inverse scale of the kernel, times its median distance
_CACHED = 50_000      # nodes of all rows and problems at once, which fit a core's cache
_EXPONENTS = (0.3, 0.6, 1.0)
_MIN_SHARE = 0.02     # of the loss, that a term has at a starting point


@dataclass(frozen=True, kw_only=True, repr=False)
class ScheduleLaw(Formula):
    """L_0 + A T^-decay + B times a sum over earlier steps, with T the sum of the rates.

    The sum is of a measure of the steps times (scale eta^-rate_power S + 1)^-power, less one for
    drops of the rate, with S the sum of the rates since the step. The variables are `step`, counted
    from 1 with the warm-up, and `schedule`, the index of a name among `schedules`.
    """

    schedules: Mapping[str, Schedule] = field(default_factory=dict)
    warmup: int | None = None
    """Steps of the warm-up of every schedule; None for the steps at its start at which it rises."""
    linear: tuple[str, ...] = ("L_0", "A", "B")
    measure: Measure
    decay: str
    """Name of the exponent of T, and below of the kernel's parameters."""
    scale: str
    power: str
    rate_power: str | None = None

    @property
    def labels(self) -> Mapping[str, tuple[str, ...]]:
        return {"schedule": tuple(self.schedules)}

    @property
    def exponents(self) -> tuple[str, ...]:
        return tuple(p for p in (self.decay, self.power, self.rate_power) if p is not None)

    @property
    def scaling_params(self) -> frozenset[str]:
        return frozenset(self.parameters) - {"L_0"}

    def coordinates(self, values: Mapping[str, Array]) -> Array:
        """Steps and indices of schedules, [R, 2].

        Raises:
            UserError: a step is beyond the last one of its schedule.
        """
        if not self.schedules:
            raise UserError(f"{self.name}: has no schedules; {how_to_give()}")
        x_RV = super().coordinates(values)
        last = np.array([each.last for each in self.schedules.values()])
        index = np.clip(x_RV[:, 1].round().astype(np.intp), 0, len(last) - 1)
        beyond = (x_RV[:, 0] > last[index]) | (x_RV[:, 0] < 1)
        if beyond.any():
            row = int(np.argmax(beyond))
            raise UserError(f"{self.name}: step {x_RV[row, 0]:.12g} of schedule "
                            f"{[*self.schedules][index[row]]}, where a step from 1 to "
                            f"{last[index[row]]:,} is expected, since its rates end there; give "
                            "the rates of all steps")
        return x_RV

    def _variables(self, x_RV: Array) -> Any:
        return history([*self.schedules.values()], self.warmup, self.measure,
                       x_RV[:, 0], x_RV[:, 1])

    def outcome_of(self, p: Any, v: Any) -> Any:
        scale, power = (getattr(p, name)[..., None] for name in (self.scale, self.power))
        distance = self._distance(p, v)
        total = (v.weight * (1 + scale * distance)**-power).sum(axis=-1) - self._offset(v)
        return p.L_0 + p.A * v.area**-getattr(p, self.decay) + p.B * total

    def _distance(self, p: Any, v: History) -> Any:
        """What the scale multiplies in the kernel, [B, R, K]."""
        if self.rate_power is None:
            return v.distance
        return v.distance * np.exp(-getattr(p, self.rate_power)[..., None] * v.log_rate)

    def _offset(self, v: History) -> Any:
        """The sum of the drops up to each row, [R], since G is one less than the kernel; or 0."""
        return v.weight.sum(axis=-1) if self.measure == "drops" else 0.0

    def _kernel(self, p: Any, v: History) -> dict[tuple[str, ...], Array]:
        """The sum over earlier steps with B = 1, under (), and its first and second derivatives
        with respect to the logarithms of the kernel's parameters, [B, R] each."""
        sums: dict[tuple[str, ...], list[Array]] = {}
        length = max(1, _CACHED // max(1, v.weight.size))
        rates = np.stack([v.log_rate**i for i in range(3)])
        for first in range(0, len(p.B), length):
            part = SimpleNamespace(
                **{name: value[first:first + length] for name, value in vars(p).items()})
            power = getattr(part, self.power)
            x = getattr(part, self.scale)[..., None] * self._distance(part, v)
            log = power[..., None] * np.log1p(x)
            kernel = v.weight * np.exp(-log)
            share = x / (1 + x)
            slope = -power[..., None] * share * kernel   # along log x
            bend = slope * (1 - share - power[..., None] * share)
            mixed = slope * (1 - log)
            found = {
                (): kernel.sum(axis=-1) - self._offset(v),
                (self.scale,): slope.sum(axis=-1), (self.scale, self.scale): bend.sum(axis=-1),
                (self.power,): -(kernel * log).sum(axis=-1),
                (self.power, self.power): -(kernel * log * (1 - log)).sum(axis=-1),
                (self.scale, self.power): mixed.sum(axis=-1)}
            if self.rate_power is not None:  # it acts through x alone
                q = -getattr(part, self.rate_power)
                each, along, twice = (np.einsum("brk,rk->br", of, rates[i]) * q**i for of, i in (
                    (slope, 1), (bend, 1), (bend, 2)))
                found |= {
                    (self.rate_power,): each, (self.scale, self.rate_power): along,
                    (self.rate_power, self.rate_power): twice + each,
                    (self.power, self.rate_power): q * np.einsum("brk,rk->br", mixed, rates[1])}
            for name, value in found.items():
                sums.setdefault(name, []).append(value)
        return {name: np.concatenate(parts) for name, parts in sums.items()}

    def _derivatives(
        self, theta_BP: Array, x_RV: Array
    ) -> tuple[Array, dict[tuple[str, ...], Array]]:
        """The outcome, [B, R], and its first and second derivatives with respect to theta, [B, R]
        each, of pairs of parameters in one order; without those that are zero."""
        v = self._variables(x_RV)
        p = SimpleNamespace(**{name: value[:, None] for name, value in zip(
            self.parameters, self._natural(theta_BP).T, strict=True)})
        with np.errstate(all="ignore"):
            total = {names: p.B * each for names, each in self._kernel(p, v).items()}
            log = getattr(p, self.decay) * np.log(v.area)
            power = p.A * np.exp(-log)
            floor = np.broadcast_to(p.L_0, power.shape)
            noise = total.pop(())
            found = total | {("B", *names): each for names, each in total.items()
                             if len(names) == 1}
            return floor + power + noise, found | {
                ("L_0",): floor, ("L_0", "L_0"): floor, ("A",): power, ("A", "A"): power,
                (self.decay,): -log * power, ("A", self.decay): -log * power,
                (self.decay, self.decay): -log * (1 - log) * power,
                ("B",): noise, ("B", "B"): noise}

    def gradient(self, theta_BP: Array, x_RV: Array) -> tuple[Array, Array]:
        outcome, slopes = self._derivatives(theta_BP, x_RV)
        j_BRP = np.stack([slopes[(name,)] for name in self.parameters], axis=-1)
        with np.errstate(all="ignore"):
            return np.asarray(np.log(outcome)), j_BRP / outcome[..., None]

    @property
    def has_hessian(self) -> bool:
        return True

    def hessian(self, theta_BP: Array, x_RV: Array, w_BR: Array, j_BRP: Array) -> Array:
        outcome, derivatives = self._derivatives(theta_BP, x_RV)
        with np.errstate(all="ignore"):
            # The prediction is the logarithm of the outcome.
            h_BPP = -np.asarray((w_BR[..., None] * j_BRP).swapaxes(-1, -2) @ j_BRP)
            for names, second in derivatives.items():
                if len(names) == 2:
                    i, j = map(self.parameters.index, names)
                    value = (w_BR * second / outcome).sum(axis=-1)
                    h_BPP[:, i, j] += value
                    if i != j:
                        h_BPP[:, j, i] += value
            return h_BPP

    def starts(self, x_RV: Array, outcome_R: Array) -> Array:
        """The best points of a grid, with the linear parameters by non-negative least squares.

        Raises:
            DataError: nothing is summed in any row, so the rows do not determine the sum's
                parameters.
        """
        v = self._variables(x_RV)
        used = v.weight != 0
        if not used.any():
            raise DataError(f"{self.name}: no schedule changes its rate between the warm-up and a "
                            "measured step, so that only L_0, A and alpha are determined; add runs "
                            "whose rate decays, or fit a curve")
        found = []
        for values in itertools.product(*self.grid.values(), _SCALES):
            params = dict(zip((*self.grid, self.scale), values, strict=True))
            point = SimpleNamespace(**{name: np.array([[each]]) for name, each in params.items()})
            distance = np.broadcast_to(self._distance(point, v), (1, *used.shape))[0][used]
            params[self.scale] /= float(np.median(distance[distance > 0]))
            terms = np.stack([self._outcome(params | dict.fromkeys(self.linear, 0.0) | {name: 1.0},
                                            x_RV) for name in self.linear], axis=-1)
            relative = terms / outcome_R[:, None]
            if not np.isfinite(relative).all():
                continue
            coefficients, error = scipy.optimize.nnls(relative, np.ones(len(relative)))
            mean = np.abs(relative.mean(axis=0))
            params |= zip(self.linear, np.maximum(
                coefficients, _MIN_SHARE / np.maximum(mean, 1e-12)), strict=True)
            found.append((float(error), [params[name] for name in self.parameters]))
        best = sorted(found)[:_KEPT_STARTS]
        return self.from_params(np.array([params for _, params in best]))


_ALL: tuple[ScheduleLaw, ...] = (
    # G(x) = 1 - (C x + 1)^-beta, with S_k the sum of the rates from step k on.
    ScheduleLaw(
        name="multi-power",
        formula="L_0 + A (S_1 + S_W)^-alpha - B sum_k (eta_{k-1} - eta_k) G(eta_k^-gamma S_k)",
        source="Luo et al. 2025", variables=("step", "schedule"),
        parameters=("L_0", "A", "alpha", "B", "C", "beta", "gamma"),
        measure="drops", decay="alpha", scale="C", power="beta", rate_power="gamma",
        grid={"alpha": (0.3, 0.5, 0.8), "beta": _EXPONENTS, "gamma": _EXPONENTS},
    ),
    # Written from memory of the paper (arXiv:2509.19189): neither the discrete sum, nor the scale
    # of its kernel, nor any constants were checked against it. In its theory gamma is 2 - 1/beta.
    ScheduleLaw(
        name="functional", formula="L_0 + A T^-s + B sum_k eta_k^2 (1 + kappa (T - T_k))^-gamma",
        source="after Li et al. 2025", variables=("step", "schedule"),
        parameters=("L_0", "A", "s", "B", "kappa", "gamma"),
        measure="squares", decay="s", scale="kappa", power="gamma",
        grid={"s": (0.3, 0.5, 0.8), "gamma": (0.5, 1.0, 1.7)},
    ),
)

SCHEDULE_FORMS: dict[str, Form] = {form.name: form for form in _ALL}
"""Laws that are fitted only once they have schedules, by name."""


def how_to_give() -> str:
    """How schedules are given, for messages."""
    return option("give them, as in schedule_law(\"multi-power\", schedules={\"cosine\": rates})",
                  "give them with --schedules RATES.csv, a table with the columns schedule, step "
                  "and rate")


def add_schedules(form: Form, schedules: Mapping[str, Schedule], warmup: int | None = None) -> Form:
    """A form with further schedules, which may have no other rates than those of the same name.

    Args:
        form: a law of learning rate schedules.
        schedules: by name.
        warmup: number of warm-up steps; None to leave it as it is.

    Raises:
        UserError: the law has no schedules, or one of the same name with other rates.
    """
    if isinstance(form, Constrained | RawOutcome):
        return replace(form, base=add_schedules(form.base, schedules, warmup))
    if not isinstance(form, ScheduleLaw):
        raise UserError(f"{form.name}: is not a law of learning rate schedules, which are "
                        f"{', '.join(SCHEDULE_FORMS)}; leave the schedules out")
    for name, each in schedules.items():
        if form.schedules.get(name, each) != each:
            raise UserError(f"schedule {name}: the law has other rates under this name; give the "
                            "new schedule another name")
    return replace(form, schedules={**form.schedules, **schedules},
                   warmup=form.warmup if warmup is None else warmup)


def schedules_json(form: Form) -> dict[str, Any]:
    """The schedules of a form and their warm-up as JSON-compatible data; empty without any."""
    base = unwrapped(form)
    if not isinstance(base, ScheduleLaw):
        return {}
    return {"schedules": {name: {"steps": list(each.steps), "rates": list(each.rates)}
                          for name, each in base.schedules.items()}, "warmup": base.warmup}

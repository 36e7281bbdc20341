"""Optima of fits, against SciPy from many starts.

Hypothesis: a fit never ends at a worse optimum than an independent implementation with many starts.

Method: random designs (product grids, IsoFLOP profiles and scattered runs; few runs and many) of
twelve laws, one of each family, with random constants, and noise of the log-loss of 0, .3 or 2%, in
some designs with 5% of outliers. Each is fitted by `fit_law` with a fixed loss of the residuals:
Huber's with the delta that the adaptive loss finds, or the squared loss for the laws that use it.
The rival minimises the same objective by `scipy.optimize.least_squares` from 32 random starts and
from the true constants, which no fit knows; its formulas are written again here, and it continues
from the best five of the starts to full precision. The objective of our fit is computed from its
printed parameters by the formula of this file, so that a wrong prediction would be seen, too.

Ours is worse if its objective is more than a millionth above the rival's, and higher by more than a
residual of 1e-8 in every run: without noise, both objectives are rounding errors. A fit that is
worse because rising terms were dropped that the runs show no sign of is compared by its optimum
before (column `dropped`). Both have the same bounds, without which no optimum exists or none can be
printed: M4's alpha (`MOST_ALPHA`), exponents of Abnar's and Farseer's laws (`MOST_EXPONENT`). The
rival's alpha_D of Kaplan's law is at most 1e6: beyond, the power multiplies rounding errors until
they fit the noise.

    python experiments/optima.py                # an hour on two cores; continues where it was ended
    python experiments/optima.py --designs 5    # two minutes

Result: results/optima/ (one row for each design in designs.csv, a summary of the laws in
optima.csv), and experiments/LOG.md. To begin anew, move the folder away.
"""

from __future__ import annotations

import argparse
import os
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import least_squares

from scaling.console import out, print_table, progress
from scaling.errors import DataError, UserError
from scaling.files import write_atomically
from scaling.laws import FORMS, Law, ResidualLoss, fit_law, from_frame
from scaling.laws.fitting.search import at_bounds, follow_valleys, lowest_few, search
from scaling.laws.forms.form import MOST_EXPONENT
from scaling.laws.forms.sigmoidal import MOST_ALPHA
from scaling.laws.table import RunsTable

RESULTS = Path("results/optima")
DESIGNS = 200
STARTS = 32
NOISE = (0.0, 0.003, 0.02)  # standard deviations of the log-loss
RTOL = 1e-6
RESIDUAL = 1e-8             # in every run, below which objectives are rounding errors
_MOST_ALPHA_D = 1e6         # of Kaplan's law, beyond which rounding errors fit the noise
_CONTINUED = 5              # best starts that are continued to full precision
_FIRST, _LAST = 40, 2000    # evaluations from each start, and in its continuation

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Rival:
    """A law as the rival writes it.

    Attributes:
        formula: the outcome, [B, R], from parameters `p.NAME`, [B, 1], which may be complex, and
            variables `v.NAME`, [R].
        parameters: names of the parameters.
        positive: those whose logarithms the rival fits.
        draw: random constants, for variables divided by their geometric means.
        variables: names of the variables.
        bounded: the largest sizes of parameters.
    """

    formula: Callable[[Any, Any], Any]
    parameters: str
    positive: str
    draw: Callable[[np.random.Generator], tuple[float, ...]]
    variables: str = "n d"
    bounded: Mapping[str, float] = field(default_factory=dict)


def _powers(p: Any, v: Any) -> Any:
    return p.E + p.A * v.n**-p.alpha + p.B * v.d**-p.beta


def _kaplan(p: Any, v: Any) -> Any:
    return ((p.N_c / v.n) ** (p.alpha_N / p.alpha_D) + p.D_c / v.d) ** p.alpha_D


def _family(p: Any, v: Any) -> Any:
    of_n, of_d = p.A * v.n**-p.alpha, p.B * v.d**-p.beta
    top = np.where(of_n.real > of_d.real, of_n, of_d)
    return p.E + top * ((of_n / top) ** (1 / p.q) + (of_d / top) ** (1 / p.q)) ** p.q


def _repeated(p: Any, v: Any) -> Any:
    u = np.minimum(v.u, v.d)
    best = (p.alpha * p.A / (p.beta * p.B) * u**p.beta) ** (1 / p.alpha)
    base = np.where(best.real < v.n, best, v.n)

    def worth(unique: Any, total: Any, r: Any) -> Any:
        return unique + unique * r * -np.expm1((1 - total / unique) / r)

    return p.E + p.A * worth(base, v.n, p.R_N) ** -p.alpha + p.B * worth(u, v.d, p.R_D) ** -p.beta


def _farseer(p: Any, v: Any) -> Any:
    slope = np.exp(p.a1 * v.n**p.alpha + p.b1)
    return (np.exp(p.a3 * v.n**p.gamma + p.b3)
            + np.exp(p.a2 * v.n**p.beta + p.b2 - slope * np.log(v.d)))


def _routed(p: Any, v: Any) -> Any:
    inverse = 1 / (v.experts - 1 + 1 / (1 / p.E_start - 1 / p.E_max)) + 1 / p.E_max
    n, e = np.log10(v.n), -np.log10(inverse)
    return 10 ** (p.a_N * n + p.b_E * e + p.c_NE * n * e + p.d)


def _sparse(p: Any, v: Any) -> Any:
    active = 1 - v.sparsity
    return (_powers(p, v) + p.c * active ** -getattr(p, "lambda")
            + p.d * active**-p.delta * v.n**-p.gamma)


def _bounded(p: Any, v: Any) -> Any:
    """By bisection in the logit of the outcome's place between its bounds, and a Newton step that
    carries the derivative."""
    e_0 = p.e_0
    span, right = e_0 - p.e_inf, np.log(p.beta) - p.c * np.log(v.n)
    right = right + (p.alpha - 1) * np.log(span)

    def excess(t: Any, alpha: Any, level: Any) -> Any:
        return alpha * np.logaddexp(0, t) - np.logaddexp(0, -t) - level

    low = np.full(np.broadcast_shapes(right.shape, v.n.shape), -300.0)
    high = -low
    for _ in range(45):
        middle = (low + high) / 2
        above = excess(middle, p.alpha.real, right.real) > 0
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    t = (low + high) / 2
    slope = p.alpha.real / (1 + np.exp(-t)) + 1 / (1 + np.exp(t))
    t = t - excess(t, p.alpha, right) / slope
    inside = (span.real > 0) & (p.alpha.real <= MOST_ALPHA)
    return np.where(inside, p.e_inf + span / (1 + np.exp(-t)), np.nan)


def _broken(p: Any, v: Any) -> Any:
    z = (np.log(v.d) - np.log(p.d1)) / p.f1
    bend = np.where(z.real > 0, z + np.log1p(np.exp(-np.where(z.real > 0, z, 0))),
                    np.log1p(np.exp(np.where(z.real > 0, 0, z))))
    return p.E + p.A * np.exp(-p.c0 * np.log(v.d) - p.c1 * p.f1 * bend)


def _farseer_constants(rng: np.random.Generator) -> tuple[float, ...]:
    """Of the logarithms of the exponent, the coefficient and the floor at two sizes."""
    slopes, terms, floors = (rng.uniform(*ends, 2) for ends in ((0.15, 0.5), (0.3, 1.5), (0.8, 2)))
    found = []
    for low, high in (np.log(slopes), np.log(terms) + slopes * np.log(1e10), np.log(floors)):
        power = rng.choice([-1, 1]) * rng.uniform(0.03, 0.35)
        a = (high - low) / (1e9**power - 1e7**power)
        found += [a, low - a * 1e7**power, power]
    return tuple(found)


RIVALS = {
    "chinchilla": Rival(_powers, "E A B alpha beta", "E A B", lambda r: (
        r.uniform(0.2, 2), *r.uniform(0.2, 1.2, 2), *r.uniform(0.15, 0.6, 2))),
    "kaplan-nd": Rival(_kaplan, "N_c D_c alpha_N alpha_D", "N_c D_c", lambda r: (
        *np.exp(r.uniform(2, 9, 2)), *r.uniform(0.05, 0.2, 2)),
        bounded={"alpha_D": _MOST_ALPHA_D}),
    "q-family": Rival(_family, "E A B alpha beta q", "E A B q", lambda r: (
        r.uniform(0.2, 2), *r.uniform(0.2, 1.2, 2), *r.uniform(0.15, 0.6, 2),
        r.uniform(0.2, 1.3))),
    "henighan-n": Rival(lambda p, v: p.L_inf + (p.N_0 / v.n) ** p.alpha_N, "L_inf N_0 alpha_N",
                        "L_inf N_0", lambda r: (
        r.uniform(0.3, 2), np.exp(r.uniform(-2, 1)), r.uniform(0.1, 0.5)), "n"),
    "muennighoff": Rival(_repeated, "E A B alpha beta R_D R_N", "E A B alpha beta R_D R_N",
                         lambda r: (
        r.uniform(0.5, 2), *r.uniform(0.2, 1, 2), *r.uniform(0.2, 0.5, 2), r.uniform(2, 30),
        r.uniform(1, 10)), "n d u"),
    "farseer": Rival(_farseer, "a1 b1 alpha a2 b2 beta a3 b3 gamma", "", _farseer_constants,
        bounded=dict.fromkeys(("alpha", "beta", "gamma"), MOST_EXPONENT)),
    "clark": Rival(_routed, "a_N b_E c_NE d E_start E_max", "E_start E_max", lambda r: (
        *r.uniform(-0.15, -0.04, 2), r.uniform(-0.01, 0.02), r.uniform(0.3, 0.6), r.uniform(1.1, 4),
        r.uniform(60, 800)), "n experts"),
    "abnar": Rival(_sparse, "E A B c d alpha beta lambda delta gamma", "E A B c d", lambda r: (
        r.uniform(0.3, 1.5), *r.uniform(0.1, 0.6, 4), *r.uniform(0.2, 0.5, 2),
        r.uniform(-0.5, -0.1), r.uniform(0.05, 0.4), r.uniform(0.1, 0.5)), "n d sparsity",
        dict.fromkeys(("alpha", "beta", "lambda", "delta", "gamma"), MOST_EXPONENT)),
    "tissue": Rival(lambda p, v: p.L_0 + p.A * v.lr_area**-p.alpha - p.C * v.drop_area,
                    "L_0 A C alpha", "L_0 A alpha", lambda r: (
        r.uniform(1.5, 3), r.uniform(0.3, 1.5), r.uniform(0.0, 0.2), r.uniform(0.2, 0.9)),
        "lr_area drop_area"),
    "m4-n": Rival(_bounded, "beta c e_inf e_0 alpha", "beta c e_inf e_0 alpha", lambda r: (
        np.exp(r.uniform(-2, 2)), r.uniform(0.2, 0.7), r.uniform(0.8, 2), r.uniform(5, 11),
        r.uniform(0.3, 2)), "n"),
    "broken-d": Rival(_broken, "E A c0 c1 d1 f1", "E A d1 f1", lambda r: (
        r.uniform(0.3, 1.5), r.uniform(0.5, 2), r.uniform(0.03, 0.3), r.uniform(-0.2, 0.4),
        np.exp(r.uniform(-1.5, 1.5)), r.uniform(0.1, 1)), "d"),
    "gadre": Rival(lambda p, v: p.E + (p.A * (v.d / v.n) ** p.eta + p.B * (v.d / v.n) ** -p.eta)
                   * v.c**-p.eta, "E A B eta", "E A B eta", lambda r: (
        r.uniform(0.5, 2), *r.uniform(0.2, 1, 2), r.uniform(0.05, 0.3)), "n d c"),
}
"""One law of each family."""


@dataclass(frozen=True)
class Design:
    """The runs of a design: the table, its variables as fitted by the rival and as printed, and the
    constants behind the former."""

    table: RunsTable
    scaled: Any
    raw: Any
    truth: Array


def design(name: str, seed: int) -> Design:
    """A random design of a law, with random constants and noise."""
    rival = RIVALS[name]
    rng = np.random.default_rng([seed, list(RIVALS).index(name)])
    count = len(rival.parameters.split())
    few = rng.random() < 0.3
    values = _variables(rival.variables, rng, count + int(rng.integers(2, 7)) if few
                        else int(rng.integers(24, 80)))
    # Farseer's law is not of the same form in other units, and shares of parameters have no unit.
    fixed = {*values} if name == "farseer" else {"experts", "sparsity"}
    mean = {v: float(np.exp(np.log(values["d" if v == "u" else v]).mean()))
            for v in values if v not in fixed and v != "drop_area"}
    truth = np.array(rival.draw(rng))
    noise = NOISE[seed % len(NOISE)]
    loss = _outcomes(rival, truth[None], SimpleNamespace(**{
        v: x / mean.get(v, 1.0) for v, x in values.items()}))[0]
    z = rng.standard_normal(loss.size)
    loss = loss * np.exp(noise * z)
    if noise and rng.random() < 0.3:
        loss = loss * np.exp((rng.random(loss.size) < 0.05) * np.abs(0.1 * z))
    columns = {v: v for v in ("n", "d", "c") if v in values}
    others = {v: v for v in values if v not in columns}
    table = from_frame(pd.DataFrame(values | {"loss": loss}), "design", needs=tuple(columns),
                       extra=others, **columns)
    raw = SimpleNamespace(**{v: table.values[v] for v in values})  # in the order of the table
    scaled = SimpleNamespace(**{v: table.values[v] / mean.get(v, 1.0) for v in values})
    return Design(table, scaled, raw, truth)


def _variables(names: str, rng: np.random.Generator, runs: int) -> dict[str, Array]:
    """Values of the variables in one of three arrangements."""
    wide = np.exp(rng.uniform(np.log(30), np.log(1000)))
    n_ends, d_ends = 1e7 * np.array([1, wide]), 1e9 * np.array([1, wide])
    kind = rng.integers(3) if " " in names else 0
    if kind == 0:
        side = int(np.ceil(runs**0.5)) if " " in names else runs
        n, d = (axis.ravel() for axis in np.meshgrid(
            np.geomspace(*n_ends, max(side, 4)), np.geomspace(*d_ends, max(side, 4))))
        if " " not in names:
            n, d = np.geomspace(*n_ends, max(side, 8)), np.geomspace(*d_ends, max(side, 8))
    elif kind == 1:
        c, factor = np.meshgrid(6 * np.geomspace(n_ends[0] * d_ends[0], n_ends[1] * d_ends[1],
                                                 max(4, runs // 7)), np.geomspace(1 / 5, 5, 7))
        n = (c * n_ends[0] / (6 * d_ends[0])).ravel() ** 0.5 * factor.ravel()
        d = c.ravel() / (6 * n)
    else:
        n, d = np.exp(rng.uniform(*np.log(n_ends), runs)), np.exp(rng.uniform(
            *np.log(d_ends), runs))
    levels = rng.permutation(np.arange(n.size))
    area = np.geomspace(5, 5 * wide, n.size)
    found = {"n": n, "d": d, "c": 6 * n * d,
             "u": d / np.array([1.0, 1, 2, 5, 20, 60])[levels % 6],
             "experts": 2.0 ** (levels % 10),
             "sparsity": np.array([0, 0.5, 0.75, 0.9, 0.95, 0.98])[levels % 6],
             "lr_area": area, "drop_area": rng.uniform(0, 1, n.size) * (levels % 3)}
    return {name: found[name] for name in names.split()}


def _outcomes(rival: Rival, params: Any, v: Any) -> Any:
    p = SimpleNamespace(**dict(zip(rival.parameters.split(), params.T[..., None], strict=True)))
    with np.errstate(all="ignore"):
        return rival.formula(p, v)


def ours(name: str, case: Design) -> tuple[Law, ResidualLoss]:
    """Our fit, with the fixed loss of the residuals that the rival gets, too."""
    form = FORMS[name]
    robust = form.robust
    if robust.kind == "adaptive":
        adaptive = fit_law(case.table, form, resamples=0)
        robust = ResidualLoss("huber", float(adaptive.convention["delta"]))
    return fit_law(case.table, form, robust=robust, resamples=0), robust


def with_all_terms(law: Law, table: RunsTable) -> Array:
    """The printed parameters of our optimum before terms were dropped."""
    x = law.form.coordinates(table.values)
    form = law.form.scaled_to(x)
    centre = x.mean(axis=0) if form.centred else np.zeros(x.shape[1])
    x, y, robust = x - centre, form.apply_link(table.loss), law.residual_loss
    minima = follow_valleys(form, x, y, robust, search(form, x, y, table.loss, robust)[1])
    found = [at_bounds(form, x, y, robust, minima.theta[i]) for i in lowest_few(minima)]
    value = [robust.cost(y - form.predict(theta[None], x)[0]).sum() for theta in found]
    return form.to_params(found[int(np.argmin(value))][None], centre)[0]


def objective(name: str, params: Array, v: Any, loss: Array, robust: ResidualLoss) -> float:
    """The objective of natural parameters, by the rival's formula."""
    predicted = _outcomes(RIVALS[name], params[None], v)[0]
    r = loss - predicted if FORMS[name].link == "identity" else np.log(loss / predicted)
    size = np.abs(r)
    delta = robust.delta if robust.has_delta else np.inf
    return float(np.where(size <= delta, size**2 / 2, delta * (size - min(delta, 1e9) / 2)).sum())


def theirs(name: str, case: Design, robust: ResidualLoss, seed: int) -> float:
    """The lowest objective that SciPy finds."""
    rival, loss = RIVALS[name], case.table.loss
    names = rival.parameters.split()
    log = np.array([p in rival.positive.split() for p in names])
    identity = FORMS[name].link == "identity"

    def natural(theta: Any) -> Any:
        if name != "farseer":
            return np.where(log, np.exp(np.where(log, theta, 0)), theta)
        low, high, power = (theta[:, i::3] for i in range(3))
        n = case.raw.n
        a = (high - low) / (n.max()**power - n.min()**power)
        return np.stack([a, low - a * n.min()**power, power], axis=-1).reshape(len(theta), -1)

    def to_theta(params: Array) -> Array:
        if name != "farseer":
            return np.where(log, np.log(np.where(log, params, 1)), params)
        a, b, power = (params[i::3] for i in range(3))
        n = case.raw.n
        return np.stack([a * n.min()**power + b, a * n.max()**power + b, power], axis=-1).ravel()

    def predict(theta: Any) -> Any:
        with np.errstate(all="ignore"):
            outcome = np.asarray(_outcomes(rival, natural(theta), case.scaled))
            return outcome if identity else np.log(outcome)

    y = loss if identity else np.log(loss)

    def residuals(theta: Array) -> Array:
        return np.asarray(predict(theta[None].astype(complex)).real[0] - y)

    def jacobian(theta: Array) -> Array:
        steps = theta + 1e-30j * np.eye(len(theta))
        return np.asarray(predict(steps).imag.T / 1e-30)

    most = np.array([rival.bounded.get(name, np.inf) for name in names])
    smooth: dict[str, Any] = ({"loss": "huber", "f_scale": robust.delta} if robust.has_delta
                              else {"loss": "linear"})

    def solve(start: Array, evaluations: int, tolerance: float) -> tuple[float, Array] | None:
        try:
            found = least_squares(residuals, start, jacobian, x_scale="jac", ftol=tolerance,
                                  xtol=tolerance, gtol=tolerance, max_nfev=evaluations,
                                  bounds=(-most, most), **smooth)
        except (ValueError, np.linalg.LinAlgError):  # no finite value at the start, or on the way
            return None
        return float(found.cost), found.x

    rng = np.random.default_rng([seed, 7])
    starts = [to_theta(case.truth)]
    for i in range(STARTS):
        start = to_theta(np.array(rival.draw(rng)))
        starts.append(start + (i % 2) * 0.3 * rng.standard_normal(len(start)) * np.where(
            log, 1.0, np.abs(start)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first = [found for start in starts if (found := solve(start, _FIRST, 1e-8)) is not None]
        first.sort(key=lambda found: found[0])
        last = [solve(theta, _LAST, 1e-15) for _, theta in first[:_CONTINUED]]
    return min(found[0] for found in (*first, *last) if found is not None)


def compare(name: str, seed: int) -> dict[str, Any]:
    """Both optima of one design. A design that no law may be fitted to, such as one whose losses
    rise with N and D, is drawn again."""
    first_seed = seed
    while True:
        case = design(name, seed)
        try:
            law, robust = ours(name, case)
        except (DataError, UserError):
            seed += 10_000
            continue
        break
    loss = case.table.loss
    mine = objective(name, law.point[0], case.raw, loss, robust)
    other = theirs(name, case, robust, seed)
    rounding = loss.size * RESIDUAL**2 / 2
    is_dropped = False
    if not mine + rounding <= (1 + RTOL) * (other + rounding):
        complete = objective(name, with_all_terms(law, case.table), case.raw, loss, robust)
        is_dropped = complete < mine * (1 - RTOL)
        mine = complete if is_dropped else mine
    return {"law": name, "seed": first_seed, "drawn": seed, "runs": loss.size, "ours": mine,
            "dropped": is_dropped, "reported": law.objective, "theirs": other,
            "ratio": (mine + rounding) / (other + rounding), "converged": law.converged}


def study(
    designs: int, names: tuple[str, ...] = tuple(RIVALS), first: int = 0, out: Path = RESULTS
) -> pd.DataFrame:
    """One row for each law and design, of consecutive seeds; rows in `out`/designs.csv are kept,
    and new ones are added to the file as they come."""
    path = out / "designs.csv"
    rows = pd.read_csv(path).to_dict("records") if path.exists() else []
    wanted = [(name, seed) for name in names for seed in range(first, first + designs)]
    done = {(row["law"], row["seed"]) for row in rows}
    left = [each for each in wanted if each not in done]
    os.environ["OMP_NUM_THREADS"] = "1"  # of the workers, which start anew
    with (ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool,
          progress("designs", len(left)) as bar):
        for count, future in enumerate(as_completed([pool.submit(compare, *each) for each in left]),
                                       1):
            rows.append(future.result())
            table = pd.DataFrame(rows).sort_values(["law", "seed"])
            write_atomically(path, table.to_csv(index=False, float_format="%.9g"))
            bar.update(count)
    return pd.DataFrame([row for row in rows if (row["law"], row["seed"]) in {*wanted}])


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """The worst ratio of the objectives, and the shares of designs, by law."""
    groups = rows.assign(equal=(rows["ratio"] - 1).abs() <= RTOL, lower=rows["ratio"] < 1 - RTOL,
                         worse=~(rows["ratio"] <= 1 + RTOL)).groupby("law", sort=False)
    return pd.DataFrame({
        "designs": groups.size(), "worst_ratio": groups["ratio"].max(),
        **{f"share_{name}": groups[name].mean() for name in ("equal", "lower", "worse")},
        "share_dropped": groups["dropped"].mean(),
        "share_converged": groups["converged"].mean()}).reset_index()


def main() -> None:
    """Run the study, write its table and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--designs", type=int, default=DESIGNS,
                        help="Number of designs of each law; %(default)s by default.")
    parser.add_argument("--first", type=int, default=0, metavar="SEED",
                        help="Seed of the first design of each law; %(default)s by default.")
    parser.add_argument("--laws", nargs="+", choices=[*RIVALS], default=[*RIVALS], metavar="LAW",
                        help="Laws to compare; all by default.")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="DIR",
                        help="Folder of the tables; %(default)s by default.")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    table = summary(study(arguments.designs, tuple(arguments.laws), arguments.first,
                          arguments.out))
    path = arguments.out / "optima.csv"
    write_atomically(path, table.to_csv(index=False, float_format="%.9g"))
    print_table(f"optima of {arguments.designs} designs a law", list(table.columns), [
        [f"{v:.7g}" if isinstance(v, float) else str(v) for v in row]
        for row in table.itertuples(index=False)])
    out.print(f"wrote {path}", markup=False)


if __name__ == "__main__":
    main()

"""Compute saved by suggested runs, compared with uniform designs.

Hypothesis: after the fit of a small pilot sweep, runs that are chosen for one target (N* at a
budget far beyond the sweep, or the loss there) narrow its interval as much as a uniform grid with
several times the compute.

Method: simulated runs of a known law (Hoffmann 2022, approach 3) with log-normal noise of 0.3% and
of 1%. A pilot of 12 runs is fitted; `suggest` then chooses at most 20 runs for a further budget, by
that fit and not by the true law. They are compared with three designs that do not depend on the
pilot: a grid of 5 sizes by 4 ratios D/N in the pilot's range (5 to 80), the same over the range
that the suggestion may use (1.25 to 320), and IsoFLOP profiles, 4 budgets by 5 sizes around the
true N*. All include the pilot and have the same total compute, and the same limit on the cost of a
run, 1e20 FLOP; a design at that limit is repeated with new seeds. Targets are at 10 and 100 times
that cost. The width of an interval is log(high / low) of the central 90% of the estimates of many
simulated and fitted sweeps; the width expected by the linear theory is reported as well. The
compute that a uniform design needs for equal width is interpolated on its curve of width against
compute, up to 3e21 FLOP.

    python experiments/next_runs.py                     # 2.3 minutes of one core

Result (results/next_runs/, medians over 5 pilots; ratios of compute exclude the pilot): for N* the
interval of the grid of equal compute is 2.1 to 2.5 times as wide as that of the suggested runs, and
the grid needs 5.4 to 25 times the compute for the same width; for the loss, it is 1.1 to 2.3 times
as wide and needs 1.2 to 5.4 times the compute. The smaller the budget, the larger the saving. The
wide grid is mostly worse than the narrow one: evenly spaced ratios over a wider range of D/N do not
help here. IsoFLOP profiles come close, but they are centred on the true N*, which is unknown in
practice: 1.0 to 1.25 times as wide for N* (1.1 to 3.4 times the compute), 1.0 to 1.5 for the loss
(1.0 to 3.6). The ratios hardly depend on the noise. A poor pilot can mislead: at 1% and 3e19 FLOP
the worst of the five led to an interval of the loss 2.3 times as wide as the median one. Simulated
widths are 0.78 to 1.31 of those expected by the linear theory (mean 0.99; a width from 150 sweeps
has an error of about 7%). If each of 40 sweeps is simulated end to end, with its own pilot, its own
suggestion and the fit of both, N* at 1e21 after 1e20 FLOP has a width of 0.19, compared with 0.42
for the grid (noise 0.3%), and 0.64 compared with 1.56 (1%).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from scaling.console import out, print_table, progress
from scaling.errors import UserError
from scaling.files import write_atomically
from scaling.laws import Law, RunsTable, fit_law, from_frame
from scaling.laws.design.fisher import INTERVAL_HALF_WIDTH, Noise, target_named
from scaling.laws.design.grid import Design, by_ratio, isoflop
from scaling.laws.design.simulate import simulate, simulate_study
from scaling.laws.design.suggest import suggest
from scaling.laws.published import published_named

RESULTS = Path("results/next_runs")
PILOT_SIZES = (2e7, 4.3e7, 9.3e7, 2e8)
PILOT_RATIOS = (5.0, 20.0, 80.0)  # D/N
WIDE_RATIOS = (1.25, 320.0)  # smallest and largest D/N of suggestions and of the wide grid
MAX_RUN_FLOPS = 1e20
MAX_RUNS = 20  # of a suggestion
UNIFORM_DESIGNS = ("grid", "wide grid", "isoflop")


@dataclass(frozen=True)
class Config:
    """Settings of the comparison. Budgets are in FLOPs and exclude the pilot."""

    truth: str = "hoffmann2022-3"
    """Name of the published law that is simulated."""
    noises: tuple[float, ...] = (0.003, 0.01)
    """Standard deviations of the log-loss."""
    targets: tuple[tuple[str, float], ...] = (
        ("n-star", 1e21), ("n-star", 1e22), ("loss", 1e21), ("loss", 1e22))
    """Names of targets, and their compute in FLOPs."""
    budgets: tuple[float, ...] = (3e19, 1e20, 3e20)
    """Budgets of suggestions."""
    uniform_budgets: tuple[float, ...] = (3e19, 1e20, 3e20, 1e21, 3e21)
    """Budgets of uniform designs."""
    pilots: int = 5
    """Number of simulated pilots, each with its own suggestions."""
    sweeps: int = 150
    """Number of simulated sweeps per width."""
    end_to_end_sweeps: int = 40
    """Number of sweeps of the end-to-end check, each with its own pilot, suggestion and fit."""


def pilot() -> Design:
    """The pilot design of twelve small runs."""
    return by_ratio(PILOT_SIZES, PILOT_RATIOS)


def joined(first: Design, second: Design) -> Design:
    """The runs of both designs."""
    return Design(np.concatenate([first.n, second.n]), np.concatenate([first.d, second.d]))


def uniform(kind: str, flops: float, truth: str) -> Design:
    """A uniform design of given compute. Its largest size or budget is scaled until its most
    expensive run costs `MAX_RUN_FLOPS`, and beyond that it is repeated with new seeds.

    Args:
        kind: one of UNIFORM_DESIGNS.
        flops: compute of all runs.
        truth: name of the published law whose N* is the centre of IsoFLOP profiles.
    """
    law = published_named(truth).law

    def scaled(scale: float) -> Design:
        if kind == "isoflop":
            return isoflop(np.geomspace(1e17, scale, 4).tolist(), law=law)
        low, high = (PILOT_RATIOS[0], PILOT_RATIOS[-1]) if kind == "grid" else WIDE_RATIOS
        top = np.sqrt(scale / (6 * high))
        return by_ratio(np.geomspace(PILOT_SIZES[0], top, 5).tolist(),
                        np.geomspace(low, high, 4).tolist())

    largest = scaled(MAX_RUN_FLOPS)
    if largest.flops <= flops:
        return largest.with_seeds(max(1, round(flops / largest.flops)))
    low, high = np.log(1e17), np.log(MAX_RUN_FLOPS)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if scaled(np.exp(middle)).flops < flops else (low, middle)
    return scaled(np.exp(low))


@cache
def fitted_pilot(truth: str, noise: float, draw: int) -> tuple[Law, RunsTable]:
    """The law fitted to one simulated pilot, and the pilot's table of runs. `draw` is the seed."""
    law = published_named(truth).law
    assert law is not None
    table = from_frame(simulate(law, pilot(), Noise(noise), draw=draw), "pilot")
    return fit_law(table, law.form, resamples=0), table


def suggested(config: Config, noise: float, name: str, at: float, budget: float, draw: int
              ) -> Design | None:
    """The runs that `suggest` proposes after one fitted pilot; None if it has no solution."""
    fitted, table = fitted_pilot(config.truth, noise, draw)
    try:
        runs = suggest(fitted, table, target_named(fitted.form, name, at), budget, at=at,
                       max_flops_per_run=MAX_RUN_FLOPS, ratios=WIDE_RATIOS, runs=MAX_RUNS,
                       noise=Noise(noise)).runs
    except UserError:
        return None
    return Design(np.array([run.n for run in runs]), np.array([run.d for run in runs]))


def widths(config: Config, report: Callable[[int], None] = lambda done: None) -> pd.DataFrame:
    """The width of every target's interval under every design, one row each. `report` is called
    with the number of rows that are done."""
    law = published_named(config.truth).law
    assert law is not None
    targets = {pair: target_named(law.form, *pair) for pair in config.targets}
    rows = []

    def add(kind: str, noise: float, design: Design, draw: int,
            pairs: tuple[tuple[str, float], ...]) -> None:
        study = simulate_study(law, joined(pilot(), design), Noise(noise), config.sweeps,
                               [targets[pair] for pair in pairs], draw=draw)
        for (name, at), result in zip(pairs, study.targets, strict=True):
            low, high = result.interval
            rows.append({"noise": noise, "target": name, "at": at, "design": kind, "pilot": draw,
                         "runs": len(design.n), "flops": design.flops,
                         "width": np.log(high / low),
                         "expected": 2 * INTERVAL_HALF_WIDTH * result.expected_sd,
                         "lost": result.lost})
        report(len(rows))

    for noise in config.noises:
        for kind in UNIFORM_DESIGNS:
            for flops in config.uniform_budgets:
                add(kind, noise, uniform(kind, flops, config.truth), 0, config.targets)
        for draw in range(config.pilots):
            for name, at in config.targets:
                for budget in config.budgets:
                    design = suggested(config, noise, name, at, budget, draw)
                    if design is not None:
                        add("suggested", noise, design, draw, ((name, at),))
    return pd.DataFrame(rows)


def savings(rows: pd.DataFrame) -> pd.DataFrame:
    """The median and largest width over the suggestions of all pilots, by noise, target and budget.
    For each uniform design, the ratios of its width at equal compute and of its compute at equal
    width to those of the suggestions (medians). Compute excludes the pilot."""
    keys = ["noise", "target", "at"]
    table = []
    suggestions = rows[rows["design"] == "suggested"].copy()
    suggestions["budget"] = suggestions["flops"].map(lambda c: f"{c:.0e}")
    for key, group in suggestions.groupby([*keys, "budget"]):
        same_target = rows[(rows[keys] == list(key[:3])).all(axis=1)]
        flops, width = float(group["flops"].median()), float(group["width"].median())
        line = dict(zip(keys, key[:3], strict=True)) | {
            "flops": flops, "pilots": len(group), "width": width, "expected":
            float(group["expected"].median()), "worst": float(group["width"].max())}
        for kind in UNIFORM_DESIGNS:
            curve = same_target[same_target["design"] == kind].sort_values("flops")
            x, y = np.log(curve["flops"].to_numpy()), np.log(curve["width"].to_numpy())
            line[f"{kind}: times as wide"] = float(
                np.exp(np.interp(np.log(flops), x, y)) / width)
            line[f"{kind}: times the compute"] = float(
                np.exp(_log_compute(x, y, np.log(width)))) / flops
        table.append(line)
    return pd.DataFrame(table).sort_values([*keys, "flops"], ignore_index=True)


def _log_compute(x: np.ndarray, y: np.ndarray, log_width: float) -> float:
    """Log compute at which a curve reaches a log width. The curve has log widths y at log compute
    x; beyond its end, the design is repeated and the width decreases as C^-1/2."""
    y = np.minimum.accumulate(y)
    if log_width < y[-1]:
        return float(x[-1] + 2 * (y[-1] - log_width))
    return float(np.interp(-log_width, -y, x))


def end_to_end(config: Config, noise: float, budget: float, report: Callable[[int], None]
               ) -> tuple[float, float]:
    """Widths for the first target with suggested runs and with the grid, over sweeps that each have
    their own pilot and suggestion and are fitted to the losses of the pilot and of the new runs.
    `report` is called with the number of sweeps that are done."""
    law = published_named(config.truth).law
    assert law is not None
    name, at = config.targets[0]
    target = target_named(law.form, name, at)
    estimates: dict[str, list[float]] = {"suggested": [], "grid": []}
    for draw in range(config.end_to_end_sweeps):
        seed = 10_000 + draw
        pilot_runs = simulate(law, pilot(), Noise(noise), draw=seed)
        for kind, values in estimates.items():
            design = (uniform("grid", budget, config.truth) if kind == "grid"
                      else suggested(config, noise, name, at, budget, seed))
            if design is None:
                continue
            new_runs = simulate(law, design, Noise(noise), draw=seed + config.end_to_end_sweeps)
            new_runs = new_runs.assign(run_id="next-" + new_runs["run_id"])
            frame = pd.concat([pilot_runs, new_runs])
            fitted = fit_law(from_frame(frame, "sweep"), law.form, resamples=0)
            values.append(float(target.evaluate(fitted.point)[0]))
        report(draw + 1)
    interval_widths = []
    for values in estimates.values():
        low, high = np.nanquantile(values, [0.05, 0.95])
        interval_widths.append(float(np.log(high / low)))
    return interval_widths[0], interval_widths[1]


def main() -> None:
    """Compare, write the tables and print the result."""
    config = Config()
    total = len(config.noises) * len(config.targets) * (
        len(UNIFORM_DESIGNS) * len(config.uniform_budgets) + config.pilots * len(config.budgets))
    with progress("designs", total) as bar:
        rows = widths(config, bar.update)
    summary = savings(rows)
    write_atomically(RESULTS / "widths.csv", rows.to_csv(index=False, float_format="%.5g"))
    write_atomically(RESULTS / "savings.csv", summary.to_csv(index=False, float_format="%.4g"))
    print_table("", [str(name) for name in summary],
                [[f"{value:.3g}" if isinstance(value, float) else str(value) for value in line]
                 for line in summary.itertuples(index=False)])
    for noise in config.noises:
        with progress("end to end", config.end_to_end_sweeps) as bar:
            suggested_width, grid_width = end_to_end(config, noise, config.budgets[1], bar.update)
        out.print(f"noise {noise:g}, end to end: width {suggested_width:.3g} with suggested runs, "
                  f"{grid_width:.3g} with the grid", markup=False)


if __name__ == "__main__":
    main()

"""Compute saved by an optimal choice of the next runs.

Hypothesis: after a small pilot sweep is fitted, runs chosen for one target (N* at a budget far
beyond the sweep, or the loss there) narrow its interval as much as a uniform grid with several
times the compute.

Method: a known law (Hoffmann 2022, approach 3) with log-normal noise of 0.3% and of 1%. A pilot of
12 runs is fitted; `suggest` then spends a further budget on at most 20 runs, chosen by that fit,
not by the true law. It is compared with three designs that do not depend on the pilot: a grid of 5
sizes by 4 ratios D/N in the pilot's range (5 to 80), the same over the range that the suggestion
may use (1.25 to 320), and IsoFLOP profiles, 4 budgets by 5 sizes around the true N*. All include
the pilot and have the same total compute and the same cost of the most expensive run, 1e20 FLOP; a
design at that limit is repeated with new seeds. Targets are at 10 and 100 times that cost. The
width of an interval is that of many simulated and refitted sweeps, log(high / low) of the central
90%; the expectation of the linear theory is reported as well. The compute that a uniform design
needs for equal width is interpolated on its curve of width against compute, up to 3e21 FLOP.

    python experiments/next_runs.py                     # 2.3 minutes of one core

Result (results/next_runs/, medians over 5 pilots; ratios of compute exclude the pilot): for N* the
suggested runs narrow the interval 2.1 to 2.5 times as much as the grid of equal compute, which
needs 5.4 to 25 times the compute for the same width; for the loss 1.1 to 2.3 times as much, which
takes 1.2 to 5.4 times the compute. The smaller the budget, the larger the saving. The wide grid is
mostly worse than the narrow one: evenly spaced ratios over a wider range of D/N do not help here.
IsoFLOP profiles come close, but they are centred on the true N*, which is unknown in practice: 1.0
to 1.25 times as wide for N* (1.1 to 3.4 times the compute), 1.0 to 1.5 for the loss (1.0 to 3.6).
Noise of 0.3% or 1% changes the ratios little. A poor pilot can mislead: at 1% and 3e19 FLOP the
worst of the five led to an interval of the loss 2.3 times as wide as the median one. Simulated
widths are 0.78 to 1.31 of those expected by the linear theory (mean 0.99; a width from 150 sweeps
has an error of about 7%). If each of 40 sweeps is simulated end to end, from its own pilot's losses
to its own suggestion and the fit of both, N* at 1e21 after 1e20 FLOP has a width of 0.19 against
the grid's 0.42 (noise 0.3%) and 0.64 against 1.56 (1%).
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
PILOT_RATIOS = (5.0, 20.0, 80.0)
WIDE_RATIOS = (1.25, 320.0)
MAX_RUN_FLOPS = 1e20
RUNS = 20


@dataclass(frozen=True)
class Config:
    """Settings of the comparison."""

    truth: str = "hoffmann2022-3"
    noises: tuple[float, ...] = (0.003, 0.01)
    targets: tuple[tuple[str, float], ...] = (
        ("n-star", 1e21), ("n-star", 1e22), ("loss", 1e21), ("loss", 1e22))
    budgets: tuple[float, ...] = (3e19, 1e20, 3e20)
    uniform_budgets: tuple[float, ...] = (3e19, 1e20, 3e20, 1e21, 3e21)
    pilots: int = 5
    sweeps: int = 150
    end_to_end_sweeps: int = 40
    """Sweeps of the end-to-end check, each with its own pilot, suggestion and final fit."""


def pilot() -> Design:
    """The pilot design of twelve small runs."""
    return by_ratio(PILOT_SIZES, PILOT_RATIOS)


def joined(first: Design, second: Design) -> Design:
    """The runs of both designs."""
    return Design(np.concatenate([first.n, second.n]), np.concatenate([first.d, second.d]))


def uniform(kind: str, flops: float, truth: str) -> Design:
    """A uniform design of this compute: its largest size or budget is scaled until its most
    expensive run costs `MAX_RUN_FLOPS`, and beyond that it is repeated with new seeds."""
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
    """The law fitted to one simulated pilot, and the pilot's table."""
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
                       max_flops_per_run=MAX_RUN_FLOPS, ratios=WIDE_RATIOS, runs=RUNS,
                       noise=Noise(noise)).runs
    except UserError:
        return None
    return Design(np.array([run.n for run in runs]), np.array([run.d for run in runs]))


def widths(config: Config, watch: Callable[[int], None] = lambda done: None) -> pd.DataFrame:
    """The width of every target's interval under every design, one row each."""
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
        watch(len(rows))

    for noise in config.noises:
        for kind in ("grid", "wide grid", "isoflop"):
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
    """Median and largest width over pilots of the suggestions, by noise, target and budget; and for
    each uniform design its width at equal compute, and its compute at the median width, as ratios.
    Compute excludes the pilot."""
    keys = ["noise", "target", "at"]
    table = []
    chosen = rows[rows["design"] == "suggested"].copy()
    chosen["budget"] = chosen["flops"].map(lambda c: f"{c:.0e}")
    for key, group in chosen.groupby([*keys, "budget"]):
        same = rows[(rows[keys] == list(key[:3])).all(axis=1)]
        flops, width = float(group["flops"].median()), float(group["width"].median())
        line = dict(zip(keys, key[:3], strict=True)) | {
            "flops": flops, "pilots": len(group), "width": width, "expected":
            float(group["expected"].median()), "worst": float(group["width"].max())}
        for kind in ("grid", "wide grid", "isoflop"):
            curve = same[same["design"] == kind].sort_values("flops")
            x, y = np.log(curve["flops"].to_numpy()), np.log(curve["width"].to_numpy())
            line[f"{kind}: times as wide"] = float(
                np.exp(np.interp(np.log(flops), x, y)) / width)
            line[f"{kind}: times the compute"] = float(np.exp(_needed(x, y, np.log(width)))) / flops
        table.append(line)
    return pd.DataFrame(table).sort_values([*keys, "flops"], ignore_index=True)


def _needed(x: np.ndarray, y: np.ndarray, width: float) -> float:
    """log compute at which a curve of log width y, at log compute x, reaches a width. Beyond its
    end a design at the limit is repeated, and the width decreases as C^-1/2."""
    y = np.minimum.accumulate(y)
    if width < y[-1]:
        return float(x[-1] + 2 * (y[-1] - width))
    return float(np.interp(-width, -y, x))


def end_to_end(config: Config, noise: float, budget: float, watch: Callable[[int], None]
               ) -> tuple[float, float]:
    """Width for the first target, with a pilot and a suggestion for every sweep, and the pilot's
    losses kept in the final fit; and the width for the grid with the same pilots."""
    law = published_named(config.truth).law
    assert law is not None
    name, at = config.targets[0]
    target = target_named(law.form, name, at)
    estimates: dict[str, list[float]] = {"suggested": [], "grid": []}
    for draw in range(config.end_to_end_sweeps):
        seed = 10_000 + draw
        first = simulate(law, pilot(), Noise(noise), draw=seed)
        for kind, values in estimates.items():
            design = (uniform("grid", budget, config.truth) if kind == "grid"
                      else suggested(config, noise, name, at, budget, seed))
            if design is None:
                continue
            more = simulate(law, design, Noise(noise), draw=seed + config.end_to_end_sweeps)
            frame = pd.concat([first, more.assign(run_id="next-" + more["run_id"])])
            fitted = fit_law(from_frame(frame, "sweep"), law.form, resamples=0)
            values.append(float(target.evaluate(fitted.point)[0]))
        watch(draw + 1)
    interval_widths = []
    for values in estimates.values():
        low, high = np.nanquantile(values, [0.05, 0.95])
        interval_widths.append(float(np.log(high / low)))
    return interval_widths[0], interval_widths[1]


def main() -> None:
    """Compare, print and write the tables."""
    config = Config()
    total = len(config.noises) * len(config.targets) * (
        3 * len(config.uniform_budgets) + config.pilots * len(config.budgets))
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
            ours, grid = end_to_end(config, noise, config.budgets[1], bar.update)
        out.print(f"noise {noise:g}, end to end: width {ours:.3g} suggested, {grid:.3g} grid",
                  markup=False)


if __name__ == "__main__":
    main()

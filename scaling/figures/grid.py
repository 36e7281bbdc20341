"""Figure of a planned sweep: the sizes, tokens and states of its runs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from scaling.laws.plots.style import (
    ACCENT,
    GRID,
    INK,
    MUTED,
    Drawing,
    canvas,
    count_axis,
    in_style,
    scientific,
)

_COLOURS = {
    "done": "#0f766e", "running": "#2563eb", "partial": "#7c9fe8", "new": "#9ca3af",
    "changed": "#ca8a04", "failed": "#b91c1c", "diverged": "#7e22ce", "over budget": GRID,
}
"""Colours of the states of a run, in the order of the legend."""

_MARGIN = 0.35
"""Margin around the points, in natural logarithms."""


@in_style
def planned_grid(runs: pd.DataFrame, budgets: Sequence[float], title: str) -> Drawing:
    """Tokens against parameters, one point per run, with lines of equal compute.

    Args:
        runs: `params_non_embedding, params_total, tokens, flops_counted, role, state`, and
            `run_id`; runs at the same point (seeds, choices) are drawn as one, in the least
            advanced of their states.
        budgets: counted FLOPs of the IsoFLOP lines; if empty, four budgets that span the runs.
        title: the sweep's name.
    """
    figure, (axes,) = canvas(6.6, 4.4)
    axes.set_xscale("log")
    axes.set_yscale("log")
    n, d = runs["params_non_embedding"].astype(float), runs["tokens"].astype(float)
    margin = np.exp(_MARGIN)
    axes.set_xlim(n.min() / margin, n.max() * margin)
    axes.set_ylim(d.min() / margin, d.max() * margin)
    lines = _lines(runs, budgets or _round_budgets(runs), axes.get_xlim())
    labels = []
    for _, line in lines.groupby("flops", sort=True):
        axes.plot(line["n"], line["tokens"], color=MUTED, lw=0.7, ls=":", zorder=1)
        inside = line[line["tokens"].between(*axes.get_ylim())]
        if len(inside):
            last = inside.iloc[-1]
            labels.append((last["n"], last["tokens"], last["flops"]))
    for x, y, budget in labels:
        axes.annotate(f"${scientific(budget)}$", (x, y), xytext=(3, 2), color=MUTED, fontsize=7,
                      textcoords="offset points", annotation_clip=False)

    rank = {state: index for index, state in enumerate(_COLOURS)}
    points = runs.assign(rank=runs["state"].map(rank)).sort_values(
        "rank", kind="stable").groupby(["params_non_embedding", "tokens", "role"]).agg(
        state=("state", "last"), runs=("run_id", "size")).reset_index()
    for state, colour in _COLOURS.items():
        for role, marker in (("grid", "o"), ("heldout", "D")):
            here = points[(points["state"] == state) & (points["role"] == role)]
            axes.plot(here["params_non_embedding"], here["tokens"], marker, color=colour, ms=5.5,
                      mec=ACCENT if role == "heldout" else MUTED if state == "over budget" else
                      "white", mew=1.2 if role == "heldout" else 0.6, zorder=3)
    handles = [axes.plot([], [], "o", color=colour, ms=5.5,
                         mec=MUTED if state == "over budget" else "white",
                         label=f"{state} ({(runs['state'] == state).sum()})")[0]
               for state, colour in _COLOURS.items() if (runs["state"] == state).any()]
    if (runs["role"] == "heldout").any():
        handles += axes.plot([], [], "D", color="white", mec=ACCENT, mew=1.2, ms=5.5,
                             label="held-out run")
    handles += axes.plot([], [], ":", color=MUTED, lw=0.9, label="counted FLOPs of a run")
    axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.03, 1.0))
    for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
        count_axis(axis, low, high)
    axes.set_xlabel("non-embedding parameters N", color=INK)
    axes.set_ylabel("training tokens D")
    axes.set_title(f"{title}: {len(runs)} runs")
    return Drawing(figure, pd.concat([points.assign(series="run"), lines.assign(series="compute")],
                                     ignore_index=True))


def _round_budgets(runs: pd.DataFrame) -> list[float]:
    flops = runs["flops_counted"].astype(float)
    return [float(f"{budget:.1g}") for budget in np.geomspace(flops.min(), flops.max(), 4)]


def _lines(
    runs: pd.DataFrame, budgets: Sequence[float], x_range: tuple[float, float]
) -> pd.DataFrame:
    """Lines of equal compute: tokens by size for each budget. Counted FLOPs per token are
    interpolated between the runs' sizes in log-log, and extrapolated in proportion to N."""
    per_token = (runs["flops_counted"].astype(float) / runs["tokens"]).groupby(
        runs["params_non_embedding"]).mean()
    sizes, costs = per_token.index.to_numpy(dtype=float), per_token.to_numpy()
    grid = np.geomspace(*x_range, 60)
    beyond = grid / np.clip(grid, sizes[0], sizes[-1])
    cost = np.exp(np.interp(np.log(grid), np.log(sizes), np.log(costs))) * beyond
    return pd.concat([
        pd.DataFrame({"flops": budget, "n": grid, "tokens": budget / cost})
        for budget in dict.fromkeys(budgets)], ignore_index=True)

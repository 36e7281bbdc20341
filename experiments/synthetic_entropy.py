"""The irreducible loss E of a fitted Chinchilla law against the entropy of the language.

Hypothesis: for a language of known entropy, E agrees with it within its 90% interval, and a fit
with E fixed at the entropy predicts a larger model better.

Method: three languages of scaling/data/synthetic, whose lowest possible loss in a context of 64
tokens is known exactly. For each, configs/sweeps/synthetic_entropy.yaml: 14 GPTs of 3.5k to 98k
non-embedding parameters on 0.1M to 2.7M tokens, without repetition, at the learning rates of
experiments/learning_rate_rule.py; and a held-out model of 186k parameters on 1.2M tokens (2.4 times
the compute of the most expensive grid run). Chinchilla's law is fitted with E free and with E fixed
at the entropy, with N counted with embeddings (as below) and without. One seed; the finite sample
of 4,096 evaluation sequences, the same for all runs, shifts E with a standard deviation of 0.2 to
0.3% (`loss_se` over the floor).

    python experiments/synthetic_entropy.py     # 34 minutes of one shared core

Result, as measured (results/synthetic_entropy/entropy.csv; `above` is the excess of the lowest loss
of the grid over the entropy, and `error` that of E; errors of the held-out loss are predicted /
measured - 1):

                entropy  above        E   90% interval   error   held out: E free   E fixed
    zipf-bigram  2.137    1.8%    2.092   1.985 to 2.134  -2.1%            -1.10%    -0.09%
    markov       1.213    4.6%    1.202   1.172 to 1.220  -0.9%            -0.39%    -0.15%
    hierarchy    1.385   20.8%    1.332       0 to 1.616  -3.8%            +2.00%    +2.47%

- E is below the entropy in all three, by 1 to 4%. The Markov chain's interval is narrow and
  contains the truth; that of the bigrams ends 0.003 below it, which is within the sample's standard
  error; the hierarchy's is uninformative, because its models are far from the floor, and the fit
  warns of it.
- With a smaller E, the fitted exponents are smaller. Fixing E at the entropy changes alpha from
  0.88 to 1.13 and beta from 0.67 to 0.85 (bigrams), from 0.66 to 0.73 and from 0.68 to 0.73
  (Markov), from 0.24 to 0.29 and not at all (hierarchy); a = beta / (alpha + beta) changes by 0.04
  at most.
- Bigrams: the law with E free predicts 2.142 where 2.166 was measured, and from 1.5M tokens on its
  curve of the held-out size is below the entropy, which is impossible. Its residuals have a
  pattern: the largest model is 0.8% below the law at 0.1M tokens and 0.8% above it at 0.9M. This
  suggests that the form, a sum of a term of N and a term of D, is wrong; the interval does not
  account for errors of the form.
- Knowing E improves the prediction if the grid has losses within 5% of it. It does not for the
  hierarchy, whose losses scatter by 1.4% around either law.
- N without embeddings gives the same picture: errors of E of -2.3%, -1.0% and -5.7%.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from scaling.config import SweepConfig, load
from scaling.console import out, print_table, progress
from scaling.data.prepare import prepare
from scaling.data.store import language_folder
from scaling.data.synthetic import Entropy
from scaling.figures.files import write
from scaling.files import write_atomically
from scaling.launch.train import train_runs
from scaling.laws import LEVEL, Law, RunsTable, constrain, fit_law, form_named, from_frame
from scaling.laws.forms.variables import N_COLUMNS
from scaling.laws.plots.style import (
    ACCENT,
    INK,
    MUTED,
    Drawing,
    canvas,
    count_axis,
    in_style,
    loss_axis,
    size_colours,
)
from scaling.laws.show import percent, short, span
from scaling.runs.planned import GRID, HELDOUT
from scaling.runs.state import run_state
from scaling.sweeps.plan import Plan, make_plan
from scaling.sweeps.table import runs_table
from scaling.training.signals import stop_requests

SWEEP = Path("configs/sweeps/synthetic_entropy.yaml")
LANGUAGES = (
    "synthetic:zipf-bigram,vocab=256,successors=8,bigram_share=0.9",
    "synthetic:markov,vocab=64,order=2,successors=8,smoothing=0.05,exponent=1.5",
    "synthetic:hierarchy,vocab=64,levels=3,rules=4,exponent=1.5",
)
FORM = form_named("chinchilla")
LOWER_LIMIT = 0.85  # of the losses in the figure, relative to the floor
RUNS = Path("runs")
RESULTS = Path("results/synthetic_entropy")


@dataclass(frozen=True)
class Study:
    """One language: its sweep, and the lowest loss that a model can reach in its context."""

    plan: Plan
    floor: Entropy

    @property
    def corpus(self) -> str:
        """The language's name in tables."""
        return self.plan.store.manifest.corpus


def make_study(source: str) -> Study:
    """The sweep over one language, whose token store is prepared if missing."""
    store = prepare(source, "none", None, language_folder(source))
    sweep = load(SweepConfig, SWEEP, [f"run.data.store={store.path}"])
    language = store.manifest.language
    assert language is not None  # the source is synthetic
    plan = make_plan(sweep, str(SWEEP), RUNS)
    return Study(plan, language.floor(plan.runs[0].run.model.context))


def train(studies: list[Study]) -> None:
    """Train the runs that are not finished, the held-out ones last."""
    runs = [run for role in (GRID, HELDOUT) for study in studies
            for run in study.plan.runs_of_role(role)]
    if all(run_state(run).over for run in runs):
        return
    with stop_requests() as requested, progress("runs", len(runs)) as bar:
        stopped_by = train_runs(runs, None, RUNS / "logs", "synthetic_entropy", requested,
                                lambda now: bar.update(sum(s.over for s in now)))
    if stopped_by:
        raise SystemExit("stopped, with all progress saved; run the same command again to continue")


def row(law: Law, study: Study, table: RunsTable) -> dict[str, object]:
    """The row of one fit in the table: fitted and true values, and the prediction of the held-out
    loss."""
    e_low, e_high = law.intervals.get("E") or (np.nan, np.nan)
    (heldout,) = law.heldout.values()
    values: dict[str, object] = {
        "corpus": study.corpus, "n": law.convention["n"],
        "fixed": " ".join(law.form.constraints.get("fixed", ())), "runs": law.n_runs,
        "floor": study.floor.rate, "lowest_loss": float(table.loss.min()),
        "E": law.params["E"], "E_low": e_low, "E_high": e_high,
        "E_error": law.params["E"] / study.floor.rate - 1,
    }
    for name in FORM.exponents:
        low, high = law.intervals.get(name) or (np.nan, np.nan)
        values |= {name: law.params[name], f"{name}_low": low, f"{name}_high": high}
    return values | {
        "heldout_measured": heldout["measured"], "heldout_predicted": heldout["predicted"],
        "heldout_error": heldout["relative_error"], "residual_sd": residual_sd(law, table),
        "start_agreement": law.convergence["start_agreement"], "warnings": len(law.warnings),
    }


def residual_sd(law: Law, table: RunsTable) -> float:
    """Standard deviation of the residuals of the log-loss, corrected for the fitted parameters."""
    residuals = np.log(table.loss / law.loss(table.values))
    n_free = len(law.form.parameters) - len(law.form.constraints.get("fixed", ()))
    return float(np.sqrt((residuals**2).sum() / (len(residuals) - n_free)))


@in_style
def figure(studies: list[tuple[Study, RunsTable, Law]]) -> Drawing:
    """One panel per language: losses against tokens with the law's curves, the entropy, and on the
    right the fitted E with its interval."""
    canvas_figure, panels = canvas(3.5 * len(studies), 3.6, columns=len(studies))
    data = []
    for axes, (study, table, law) in zip(panels, studies, strict=True):
        e, floor = law.params["E"], study.floor.rate
        low, high = law.intervals.get("E") or (np.nan, np.nan)
        last = max([*table.d, *(run.d for run in table.heldout)])
        tokens, x_of_e = np.geomspace(min(table.d), last, 40), last * 2
        axes.set_xscale("log")
        axes.set_xlim(min(table.d) * 0.7, x_of_e * 2.2)
        # An interval that extends below the lower limit is cut off.
        lowest = max(np.nan_to_num(low, nan=e), LOWER_LIMIT * floor)
        loss_axis(axes, [*table.loss, floor, e, lowest], headroom=1.1)
        colours = size_colours([*table.n, *(run.n for run in table.heldout)])
        for size in np.unique(table.n):
            of_size = table.n == size
            d, loss = table.d[of_size], table.loss[of_size]
            axes.plot(d, loss, "o", ms=4.5, color=colours[size], mec="white", mew=0.6, zorder=4,
                      label=short(size))
            data.append(pd.DataFrame({"corpus": study.corpus, "series": "run", "n": size,
                                      "d": d, "loss": loss}))
        for run in table.heldout:
            measured = np.nan if run.loss is None else run.loss
            axes.plot(run.d, measured, "D", ms=5.5, color=colours[run.n], mec="white", mew=0.7,
                      zorder=5, label=f"{short(run.n)}, held out")
            data.append(pd.DataFrame({"corpus": [study.corpus], "series": "heldout", "n": run.n,
                                      "d": run.d, "loss": measured}))
        for size, colour in colours.items():
            curve = law.loss({"n": np.full_like(tokens, size), "d": tokens})
            axes.plot(tokens, curve, "--", color=colour, lw=1.0, zorder=3)
            data.append(pd.DataFrame({"corpus": study.corpus, "series": "law", "n": size,
                                      "d": tokens, "loss": curve}))
        axes.axhline(floor, color=INK, lw=1.2, zorder=2)
        axes.annotate(f"entropy {floor:.3f}", (min(table.d), floor), (0, -4), color=INK,
                      textcoords="offset points", va="top", fontsize=8)
        axes.plot([x_of_e, x_of_e], [low, high], color=ACCENT, lw=3, alpha=0.5, zorder=4,
                  solid_capstyle="butt")
        axes.plot(x_of_e, e, "_", ms=10, mew=2, color=ACCENT, zorder=5)
        axes.annotate(f"E {e:.3f}", (x_of_e, e), (-8, -2), color=ACCENT, ha="right", va="top",
                      textcoords="offset points", fontsize=8)
        data.append(pd.DataFrame({"corpus": study.corpus, "series": ["floor", "E"],
                                  "loss": [floor, e], "low": [np.nan, low],
                                  "high": [np.nan, high]}))
        count_axis(axes.xaxis, *axes.get_xlim())
        axes.set_xlabel("training tokens D")
        axes.set_title(f"{study.corpus}: E {percent(e / floor - 1)}")
        legend = axes.legend(loc="upper right", title="N", handlelength=1.0, labelspacing=0.3)
        legend.set_alignment("left")
        legend.get_title().set(color=MUTED, fontsize=8)
    panels[0].set_ylabel("held-out loss (nats per token)")
    return Drawing(canvas_figure, pd.concat(data, ignore_index=True))


def main() -> None:
    """Train, fit with E free and fixed at the entropy, and write the tables and the figure."""
    studies = [make_study(source) for source in LANGUAGES]
    train(studies)
    frame = pd.concat([runs_table(study.plan).assign(floor=study.floor.rate) for study in studies],
                      ignore_index=True)
    write_atomically(RESULTS / "runs.csv", frame.to_csv(index=False))
    rows, fits = [], []
    for study in studies:
        runs = frame[frame["corpus"] == study.corpus]
        for counting in N_COLUMNS:
            table = from_frame(runs, study.corpus, counting=counting)
            free = fit_law(table, FORM)
            fixed = fit_law(table, constrain(FORM, {"E": study.floor.rate}))
            se = float(runs["loss_se"].min())
            rows += [row(law, study, table) | {"loss_se": se} for law in (free, fixed)]
            if counting == FORM.counting:
                fits.append((study, table, free))
            for warning in free.warnings:
                out.print(f"{study.corpus}, N {counting}: {warning}", markup=False)
    results = pd.DataFrame(rows)
    write_atomically(RESULTS / "entropy.csv", results.to_csv(index=False, float_format="%.6g"))
    write(figure(fits), RESULTS / "losses")
    print_table("", ("language", "N", "fixed", "floor", "lowest loss", "E",
                     f"{LEVEL:.0%} interval", "error", "alpha", "beta", "held-out error"), [
        [r["corpus"], r["n"], r["fixed"], f"{r['floor']:.4f}", f"{r['lowest_loss']:.4f}",
         f"{r['E']:.4f}", span(None if r["fixed"] else (r["E_low"], r["E_high"])),
         percent(r["E_error"]), f"{r['alpha']:.3f}", f"{r['beta']:.3f}",
         percent(r["heldout_error"])]
        for r in results.to_dict("records")])


if __name__ == "__main__":
    main()

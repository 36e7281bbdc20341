"""Is the irreducible loss E of a fitted Chinchilla law the entropy of the language?

Hypothesis: for a language whose entropy is known, E agrees with it within its 90% interval, and a
fit with E held at the truth foretells a larger model better.

Method: three languages of scaling/data/synthetic, whose least possible loss in a context of 64
tokens is exact. For each, configs/sweeps/synthetic_entropy.yaml: 14 GPTs of 3.5k to 98k parameters
outside the embeddings on 0.1M to 2.7M tokens, none of them repeated, at the learning rates that
experiments/learning_rate_rule.py found; and one of 186k parameters on 1.2M tokens (2.4 times the
compute of the dearest), which no fit sees. Chinchilla's law is fitted with E free and with E held
at the truth, with N counted with the embeddings (as below) and without. One seed; the 4,096
sequences of the evaluation, the same for all runs, shift E by chance with a standard deviation of
0.2 to 0.3% (`loss_se` over the floor).

    python experiments/synthetic_entropy.py     # 34 minutes of one core that others used as well

Result, as measured (results/synthetic_entropy/entropy.csv; `above` is how far the lowest loss of
the grid lies above the truth, errors of the held-out loss are predicted / measured - 1):

                 truth   above        E   90% interval     off   held out: E free   E held
    zipf-bigram  2.137    1.8%    2.092   1.985 to 2.134  -2.1%            -1.10%   -0.09%
    markov       1.213    4.6%    1.202   1.172 to 1.220  -0.9%            -0.39%   -0.15%
    hierarchy    1.385   20.8%    1.332       0 to 1.616  -3.8%            +2.00%   +2.47%

- E lies below the entropy in all three, by 1 to 4%. The Markov chain's interval holds the truth and
  is narrow; that of the bigrams ends 0.003 below it, which is within the sample's standard error;
  the hierarchy's, whose models are still far away, says nothing, and the fit warns of it.
- Too low an E comes with too small exponents. E held at the truth moves alpha from 0.88 to 1.13 and
  beta from 0.67 to 0.85 (bigrams), from 0.66 to 0.73 and from 0.68 to 0.73 (Markov), from
  0.24 to 0.29 and not at all (hierarchy); a = beta / (alpha + beta) moves by 0.04 at most.
- Bigrams: the free law foretells 2.142 where 2.166 was measured, and from 1.5M tokens on its curve
  of the held-out size is below the entropy, where no model can be. Its residuals have a pattern:
  the largest model is 0.8% below the law at 0.1M tokens and 0.8% above it at 0.9M. That points at
  the form, a sum of a term of N and a term of D, which the interval takes for granted.
- Knowing E improves the prediction where the grid comes within 5% of it. It does not for the
  hierarchy, whose losses scatter by 1.4% about either law.
- N without embeddings gives the same picture: E off by -2.3%, -1.0% and -5.7%.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from scaling.cli.terminal import out, print_table, progress
from scaling.config import SweepConfig, load
from scaling.data.prepare import prepare
from scaling.data.store import language_folder
from scaling.data.synthetic import Entropy
from scaling.figures.style import (
    ACCENT,
    INK,
    MUTED,
    Drawing,
    canvas,
    count_axis,
    in_style,
    loss_axis,
    size_colours,
    write,
)
from scaling.files import write_atomically
from scaling.laws import LEVEL, Law, RunsTable, constrain, fit, form_named, from_frame
from scaling.laws.runs.table import N_COLUMNS
from scaling.laws.show import percent, short, span
from scaling.sweeps.ledger import standing
from scaling.sweeps.local import launch
from scaling.sweeps.plan import GRID, HELDOUT, Plan, make_plan
from scaling.sweeps.table import runs_table
from scaling.training.signals import stop_requests

SWEEP = Path("configs/sweeps/synthetic_entropy.yaml")
LANGUAGES = (
    "synthetic:zipf-bigram,vocab=256,successors=8,bigram_share=0.9",
    "synthetic:markov,vocab=64,order=2,successors=8,smoothing=0.05,exponent=1.5",
    "synthetic:hierarchy,vocab=64,levels=3,rules=4,exponent=1.5",
)
FORM = form_named("chinchilla")
LOWEST = 0.85  # of the floor: where the figure ends at the latest
RUNS = Path("runs")
RESULTS = Path("results/synthetic_entropy")


@dataclass(frozen=True)
class Study:
    """One language: its sweep, and the least loss that a model can have in its context."""

    plan: Plan
    floor: Entropy

    @property
    def corpus(self) -> str:
        """What tables call the language."""
        return self.plan.store.manifest.corpus


def study(source: str) -> Study:
    """The sweep over one language, whose store is made if it is not there."""
    store = prepare(source, "none", None, language_folder(source))
    sweep = load(SweepConfig, SWEEP, [f"run.data.store={store.path}"])
    language = store.manifest.language
    assert language is not None  # the source is a synthetic one
    plan = make_plan(sweep, str(SWEEP), RUNS)
    return Study(plan, language.floor(plan.runs[0].run.model.context))


def train(studies: list[Study]) -> None:
    """Train what is not trained yet, and the held-out runs last."""
    runs = [run for role in (GRID, HELDOUT) for one in studies for run in one.plan.stage(role)]
    if all(standing(run).over for run in runs):
        return
    with stop_requests() as requested, progress("runs", len(runs)) as bar:
        stopped_by = launch(runs, None, RUNS / "logs", "synthetic_entropy", requested,
                            lambda now: bar.update(sum(s.over for s in now)))
    if stopped_by:
        raise SystemExit("stopped, all saved; the same command goes on from there")


def row(law: Law, one: Study, table: RunsTable) -> dict[str, object]:
    """What one fit says, beside the truth."""
    ends = law.intervals.get("E") or (np.nan, np.nan)
    (heldout,) = law.heldout.values()
    found: dict[str, object] = {
        "corpus": one.corpus, "n": law.convention["n"],
        "held": " ".join(law.form.constraints.get("fixed", ())), "runs": law.n_runs,
        "floor": one.floor.rate, "least_loss": float(table.loss.min()),
        "E": law.params["E"], "E_low": ends[0], "E_high": ends[1],
        "E_error": law.params["E"] / one.floor.rate - 1,
    }
    for name in FORM.exponents:
        low, high = law.intervals.get(name) or (np.nan, np.nan)
        found |= {name: law.params[name], f"{name}_low": low, f"{name}_high": high}
    return found | {
        "heldout_measured": heldout["measured"], "heldout_predicted": heldout["predicted"],
        "heldout_error": heldout["relative_error"], "residual_sd": residual_sd(law, table),
        "start_agreement": law.convergence["start_agreement"], "warnings": len(law.warnings),
    }


def residual_sd(law: Law, table: RunsTable) -> float:
    """Standard deviation of the residuals of the log-loss, less the freedom that the law took."""
    left = np.log(table.loss / law.loss(table.values))
    free = len(law.form.parameters) - len(law.form.constraints.get("fixed", ()))
    return float(np.sqrt((left**2).sum() / (len(left) - free)))


@in_style
def figure(studies: list[tuple[Study, RunsTable, Law]]) -> Drawing:
    """A panel for each language: losses against tokens with the law's curves, the true floor, and
    to the right the fitted E with its interval."""
    whole, panels = canvas(3.5 * len(studies), 3.6, columns=len(studies))
    drawn = []
    for axes, (one, table, law) in zip(panels, studies, strict=True):
        e, floor = law.params["E"], one.floor.rate
        low, high = law.intervals.get("E") or (np.nan, np.nan)
        last = max([*table.d, *(run.d for run in table.heldout)])
        tokens, aside = np.geomspace(min(table.d), last, 40), last * 2
        axes.set_xscale("log")
        axes.set_xlim(min(table.d) * 0.7, aside * 2.2)
        # An interval that reaches further down goes out of the picture.
        lowest = max(np.nan_to_num(low, nan=e), LOWEST * floor)
        loss_axis(axes, [*table.loss, floor, e, lowest], room=1.1)
        colours = size_colours([*table.n, *(run.n for run in table.heldout)])
        for size in np.unique(table.n):
            at = table.n == size
            axes.plot(table.d[at], table.loss[at], "o", ms=4.5, color=colours[size], mec="white",
                      mew=0.6, zorder=4, label=short(size))
            drawn.append(pd.DataFrame({"corpus": one.corpus, "series": "run", "n": size,
                                       "d": table.d[at], "loss": table.loss[at]}))
        for run in table.heldout:
            measured = np.nan if run.loss is None else run.loss
            axes.plot(run.d, measured, "D", ms=5.5, color=colours[run.n], mec="white", mew=0.7,
                      zorder=5, label=f"{short(run.n)}, held out")
            drawn.append(pd.DataFrame({"corpus": [one.corpus], "series": "heldout", "n": run.n,
                                       "d": run.d, "loss": measured}))
        for size, colour in colours.items():
            curve = law.loss({"n": np.full_like(tokens, size), "d": tokens})
            axes.plot(tokens, curve, "--", color=colour, lw=1.0, zorder=3)
            drawn.append(pd.DataFrame({"corpus": one.corpus, "series": "law", "n": size,
                                       "d": tokens, "loss": curve}))
        axes.axhline(floor, color=INK, lw=1.2, zorder=2)
        axes.annotate(f"entropy {floor:.3f}", (min(table.d), floor), (0, -4), color=INK,
                      textcoords="offset points", va="top", fontsize=8)
        axes.plot([aside, aside], [low, high], color=ACCENT, lw=3, alpha=0.5, zorder=4,
                  solid_capstyle="butt")
        axes.plot(aside, e, "_", ms=10, mew=2, color=ACCENT, zorder=5)
        axes.annotate(f"E {e:.3f}", (aside, e), (-8, -2), color=ACCENT, ha="right", va="top",
                      textcoords="offset points", fontsize=8)
        drawn.append(pd.DataFrame({"corpus": one.corpus, "series": ["floor", "E"],
                                   "loss": [floor, e], "low": [np.nan, low],
                                   "high": [np.nan, high]}))
        count_axis(axes.xaxis, *axes.get_xlim())
        axes.set_xlabel("training tokens D")
        axes.set_title(f"{one.corpus}: E {percent(e / floor - 1)}")
        legend = axes.legend(loc="upper right", title="N", handlelength=1.0, labelspacing=0.3)
        legend.set_alignment("left")
        legend.get_title().set(color=MUTED, fontsize=8)
    panels[0].set_ylabel("held-out loss (nats per token)")
    return Drawing(whole, pd.concat(drawn, ignore_index=True))


def main() -> None:
    """Train, fit with E free and held at the truth, and write tables and figure."""
    studies = [study(source) for source in LANGUAGES]
    train(studies)
    frame = pd.concat([runs_table(one.plan).assign(floor=one.floor.rate) for one in studies],
                      ignore_index=True)
    write_atomically(RESULTS / "runs.csv", frame.to_csv(index=False))
    rows, shown = [], []
    for one in studies:
        runs = frame[frame["corpus"] == one.corpus]
        for counting in N_COLUMNS:
            table = from_frame(runs, one.corpus, counting=counting)
            free = fit(table, FORM)
            held = fit(table, constrain(FORM, {"E": one.floor.rate}))
            se = float(runs["loss_se"].min())
            rows += [row(law, one, table) | {"loss_se": se} for law in (free, held)]
            if counting == FORM.counting:
                shown.append((one, table, free))
            for warning in free.warnings:
                out.print(f"{one.corpus}, N {counting}: {warning}", markup=False)
    found = pd.DataFrame(rows)
    write_atomically(RESULTS / "entropy.csv", found.to_csv(index=False, float_format="%.6g"))
    write(figure(shown), RESULTS / "losses")
    print_table("", ("language", "N", "held", "floor", "least loss", "E",
                     f"{LEVEL:.0%} interval", "error", "alpha", "beta", "held-out"), [
        [r["corpus"], r["n"], r["held"], f"{r['floor']:.4f}", f"{r['least_loss']:.4f}",
         f"{r['E']:.4f}", span(None if r["held"] else (r["E_low"], r["E_high"])),
         percent(r["E_error"]), f"{r['alpha']:.3f}", f"{r['beta']:.3f}",
         percent(r["heldout_error"])]
        for r in found.to_dict("records")])


if __name__ == "__main__":
    main()

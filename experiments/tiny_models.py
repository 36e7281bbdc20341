"""Loss of every pretraining objective, compared with the unigram entropy of its targets.

Hypothesis: small models of seven published families, each trained with its own objective, reach a
loss clearly below the unigram entropy of their targets on two million bytes of real text.

Method: configs/runs/{bert,roberta,albert,electra,t5,bart,gpt2}_tiny.yaml, each trained as by
`scaling train`, on one store. The held-out loss and the training loss of each are divided by the
entropy of the frequencies of the held-out targets (for ELECTRA, the targets of its generator).

    scaling data prepare wheel:chitchat-dataset --special cls,sep,mask,pad --sentinels 48 \\
        --out stores/chitchat-marked
    python experiments/tiny_models.py                   # about twenty minutes on two cores

Result: results/tiny_models/ and experiments/LOG.md.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from scaling.config import RunConfig, load
from scaling.console import out, progress
from scaling.data.store import TokenStore
from scaling.figures.files import write
from scaling.files import write_atomically
from scaling.launch.train import train_runs
from scaling.laws.plots.style import INK, MUTED, Drawing, canvas, in_style, size_colours
from scaling.runs.folder import RunFolder
from scaling.runs.planned import GRID, PlannedRun
from scaling.runs.record import describe_run
from scaling.training.resolve import resolve
from scaling.training.signals import stop_requests

FAMILIES = ("bert", "roberta", "albert", "electra", "t5", "bart", "gpt2")
RUNS, RESULTS = Path("runs"), Path("results/tiny_models")
COLUMNS = (
    "run_id", "mode", "family", "objective", "corpus", "params_total", "params_non_embedding",
    "tokens", "epochs", "flops_counted", "loss", "loss_se", "target_entropy", "status",
)


def planned_runs() -> list[PlannedRun]:
    """The runs, one for each of FAMILIES."""
    planned = []
    for family in FAMILIES:
        run = load(RunConfig, Path(f"configs/runs/{family}_tiny.yaml"))
        store = TokenStore.open(run.data.store)
        run = resolve(run, store)
        facts = describe_run(run, store)
        planned.append(PlannedRun(run, GRID, facts, RunFolder(RUNS / facts["run_id"])))
    return planned


@in_style
def curves(planned: list[PlannedRun]) -> Drawing:
    """Training loss, divided by the entropy of the targets, against tokens."""
    figure, (axes,) = canvas(6.4, 3.8)
    colours = size_colours(list(range(len(planned))))
    rows, ends = [], []
    for index, run in enumerate(planned):
        record = run.folder.record() or {}
        lines = [line for line in run.folder.metrics() if "loss" in line]
        tokens = [line["tokens"] / 1e6 for line in lines]
        shares = [line["loss"] / record["target_entropy"] for line in lines]
        axes.plot(tokens, shares, color=colours[index], linewidth=1.1)
        ends.append((record["loss"] / record["target_entropy"], index, run.facts["family"]))
        rows += [{"family": run.facts["family"], "tokens": round(1e6 * t), "loss_share": share}
                 for t, share in zip(tokens, shares, strict=True)]
    # The height of a label is the held-out loss; labels that would overlap are moved upwards.
    height = 0.0
    for share, index, family in sorted(ends):
        height = max(share, height + 0.045)
        axes.annotate(f"{family} {share:.2f}", (1.01, height), color=colours[index], va="center",
                      xycoords=("axes fraction", "data"), fontsize=8, annotation_clip=False)
    axes.axhline(1, color=MUTED, linewidth=0.9, linestyle=(0, (4, 2)))
    axes.annotate("unigram entropy of the targets", (0.99, 1.015), ha="right", color=INK,
                  xycoords=("axes fraction", "data"), fontsize=8)
    axes.set_ylim(0.35, 1.25)
    axes.set_xlim(left=0)
    axes.set_xlabel("million tokens of text")
    axes.set_ylabel("loss / entropy of the targets")
    axes.set_title("Small models of seven families, each with its own objective")
    return Drawing(figure, pd.DataFrame(rows))


def main() -> None:
    """Train the runs that are not finished, and write their results."""
    planned = planned_runs()
    with stop_requests() as requested, progress("tiny models", len(planned)) as bar:
        stopped_by = train_runs(
            planned, None, RUNS / "logs", "tiny_models", requested,
            lambda now: bar.update(sum(s.step / p.run.steps
                                       for s, p in zip(now, planned, strict=True))))
    if stopped_by:
        raise SystemExit("stopped, with all progress saved; run the same command again to continue")
    table = pd.DataFrame([p.folder.record() for p in planned])[list(COLUMNS)]
    RESULTS.mkdir(parents=True, exist_ok=True)
    write_atomically(RESULTS / "runs.csv", table.to_csv(index=False))
    write(curves(planned), RESULTS / "curves")
    for row in table.to_dict("records"):
        out.print(f"{row['family']:8} loss {row['loss']:.3f} ± {row['loss_se']:.3f}, unigram "
                  f"entropy of the targets {row['target_entropy']:.3f} (nats per token)",
                  markup=False)


if __name__ == "__main__":
    main()

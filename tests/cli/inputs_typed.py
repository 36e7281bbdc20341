"""Invalid command lines, by command."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

from scaling.data.prepare import prepare
from tests.cli.inputs import Input

SIZES = (1e7, 3e7, 1e8, 3e8)
LENGTHS = (1e9, 3e9, 1e10, 3e10)


def runs(header: str = "params,tokens,loss", form: str = "{n:g},{d:g},{loss:.4f}") -> str:
    """A table of 16 runs that follow Chinchilla's law: a line of `header`, then runs by `form`."""
    lines = [form.format(n=n, d=d, c=6 * n * d, loss=1.7 + 400 / n ** 0.34 + 410 / d ** 0.28)
             for n in SIZES for d in LENGTHS]
    return "\n".join([header, *lines]) + "\n"


def csv(header: str = "params,tokens,loss", form: str = "{n:g},{d:g},{loss:.4f}",
        encoding: str = "utf-8") -> dict[str, bytes]:
    """The file own.csv with that table."""
    return {"own.csv": runs(header, form).encode(encoding)}


def linked(link: str, target: str) -> Callable[[Path], None]:
    """`link` leads to `target`; both are paths below the working folder."""
    def make(work: Path) -> None:
        (work / link).parent.mkdir(parents=True, exist_ok=True)
        (work / link).symlink_to(work / target)
    return make


def folders(*names: str) -> Callable[[Path], None]:
    """Existing folders, each with a file of the user."""
    def make(work: Path) -> None:
        for name in names:
            (work / name).mkdir(parents=True)
            (work / name / "notes.txt").write_text("mine\n")
    return make


def store_of(text: str) -> Callable[[Path], None]:
    """The store own, of 40 documents of this text, each with its number."""
    def make(work: Path) -> None:
        lines = [json.dumps({"text": f"{text} {number}"}) for number in range(40)]
        (work / "own.jsonl").write_text("\n".join(lines))
        prepare(f"jsonl:{work}/own.jsonl#text", "byte", None, work / "own", 0.2)
    return make


def fifo(name: str) -> Callable[[Path], None]:
    """A pipe without a writer."""
    return lambda work: os.mkfifo(work / name)


OWN_COLUMNS = "--n params --d tokens --loss loss"

MODELS = [
    Input("models: an ordinary size", "models gpt3/6.7B", codes=(0,), says="6.7B"),
    Input("models: a context of 30 digits", "models gpt2/124M --context " + "9" * 30,
          says="context"),
    Input("models: full-width digits in a size", "models gpt3/\uff16.\uff17B", says="gpt3"),
    Input("models: a size that a rule would make, without end", "models sweep/1e400B"),
    Input("models: a name that turns the direction of writing", "models gpt3/\u202eB7.6\x1b[31m"),
]
SCHEMA = [
    Input("schema: the file instead of its kind", "schema sweep.yaml", says="sweep.yaml"),
]
DATA = [
    Input("data list: the cache is a file", "data list", codes=(0, 2),
          environment={"SCALING_CACHE": "corpus.jsonl"}),
    Input("prepare: an option of the installer as a wheel",
          "data prepare wheel:--target=stolen --out new", says="--target=stolen"),
    Input("prepare: the store is a link to the corpus",
          "data prepare jsonl:corpus.jsonl#text --out new",
          prepare=linked("new", "corpus.jsonl")),
    Input("prepare: into a folder with files of the user's",
          "data prepare jsonl:corpus.jsonl#text --out mine", prepare=folders("mine")),
    Input("prepare: a device as text", "data prepare text:/dev/zero --out new"),
    Input("prepare: fractions that leave nothing to train on",
          "data prepare jsonl:corpus.jsonl#text --out new --validation-fraction 0.7 "
          "--test-fraction 0.7"),
    Input("prepare: one special token twice",
          "data prepare jsonl:corpus.jsonl#text --out new --special pad,pad", codes=(0,)),
    Input("prepare: a special token with control characters",
          "data prepare jsonl:corpus.jsonl#text --out new --special 'pad\x1b[2J,\u202e'"),
    Input("prepare: a thousand million sentinels",
          "data prepare jsonl:corpus.jsonl#text --out new --sentinels 1000000000"),
    Input("prepare: a vocabulary of 10^18",
          "data prepare jsonl:corpus.jsonl#text --out new --tokenizer bpe --vocab-size "
          + "9" * 18),
    Input("prepare: a mix of one mix of one mix",
          "data prepare '" + "mix:1*" * 3000 + "stdlib' --out new"),
    Input("prepare: more synthetic tokens than a disk holds",
          "data prepare synthetic:markov,vocab=8,seed=1,tokens=1e30 --out new"),
    Input("prepare: a language's matrix beyond the memory",
          "data prepare synthetic:markov,vocab=1e9,seed=1,tokens=1e4 --out new"),
    Input("prepare: by Slurm, without the number of jobs",
          "data prepare jsonl:corpus.jsonl#text --out new --launcher slurm", says="--workers"),
    Input("prepare: a wall time without Slurm",
          "data prepare jsonl:corpus.jsonl#text --out new --time 5", says="--launcher slurm"),
    Input("show: text that reads like pictures", "data show own --samples 1", codes=(0,),
          says=":fire: and :x:", prepare=store_of("a :fire: and :x: of document")),
    Input("show: more samples than there are numbers", "data show store --samples " + "9" * 25,
          codes=(0, 2)),
]
TRAIN = [
    Input("train: YAML that unfolds to a thousand million",
          "train run.yaml 'seed=[&a [1,1,1,1,1,1,1,1], &b [*a,*a,*a,*a,*a,*a,*a,*a], "
          "&c [*b,*b,*b,*b,*b,*b,*b,*b], &d [*c,*c,*c,*c,*c,*c,*c,*c], "
          "&e [*d,*d,*d,*d,*d,*d,*d,*d], &f [*e,*e,*e,*e,*e,*e,*e,*e], "
          "&g [*f,*f,*f,*f,*f,*f,*f,*f], &h [*g,*g,*g,*g,*g,*g,*g,*g]]'"),
    Input("train: brackets 3000 deep", "train run.yaml 'seed=" + "[" * 3000 + "'"),
    Input("train: a time of day as tokens", "train run.yaml tokens=25:36", says="tokens"),
    Input("train: a model wider than any memory", "train run.yaml model.d_model=1e8",
          codes=(1, 2)),
    Input("train: half of an emoji as the name of a store", "train run.yaml data.store=\udc80"),
    Input("train: from a run that is not there", "train run.yaml init.run=nowhere",
          says="init.run = nowhere: does not exist"),
    Input("train: from a checkpoint that is the run", "train run.yaml init.checkpoint=runs",
          says="give RUN/checkpoints/STEP"),
    Input("train: from a folder without a model", "train run.yaml init.hf=runs",
          says="config.json"),
    Input("train: from a device", "train run.yaml init.hf=/dev/zero", says="is not a folder"),
    Input("train: from two models", "train run.yaml 'init={run: a, hf: b}'", says="run and hf"),
    Input("train: a head without parameters", "train run.yaml trainable.parts=[head]",
          says="no parameters"),
    Input("train: layers that are not there", "train run.yaml trainable.layers='last 99'",
          says="layers"),
    Input("train: a lease of one word", "train run.yaml seed=3",
          environment={"SCALING_LEASE_SECONDS": "60s"}, says="SCALING_LEASE_SECONDS"),
    Input("train: beside a history of the user's", "train run.yaml seed=3 --out mine",
          files={"mine/metrics.jsonl": b'{"step": 100, "loss": 3.0}\n'}, says="metrics.jsonl"),
    Input("train: beside a description of the user's", "train run.yaml seed=3 --out mine",
          files={"mine/environment.json": b'{"mine": 1}\n'}, says="environment.json"),
    Input("train: where the user keeps checkpoints", "train run.yaml seed=3 --out mine",
          files={"mine/checkpoints/100/weights": b"mine"}, says="checkpoints"),
    Input("train: a key given twice", "train own.yaml", says="tokens",
          files={"own.yaml": b"model: {d_model: 8, n_layers: 1, n_heads: 1, context: 16}\n"
                             b"data: {store: store}\nbatch_sequences: 4\n"
                             b"tokens: 1536\ntokens: 3072\n"}),
]
SWEEPS = [
    Input("plan: a ladder of a million rungs", "sweep plan sweep.yaml --no-measure "
          "'sizes={kind: ladder, params: [1e3, 1e30], count: 1000000}'"),
    Input("plan: a name that leads out", "sweep plan sweep.yaml name=../../out --no-measure"),
    Input("plan: a figure in place of the corpus",
          "sweep plan sweep.yaml --no-measure --figure corpus.png",
          prepare=linked("corpus.png", "corpus.jsonl")),
    Input("plan: a figure whose table is the user's",
          "sweep plan sweep.yaml --no-measure --figure own.png", files=csv()),
    Input("plan: varied a hundred million ways", "sweep plan sweep.yaml --no-measure "
          "'grids.0.vary={seed: " + str(list(range(1000))) + ", optimizer.b2: "
          + str([i / 2000 for i in range(1, 1000)]) + ", optimizer.weight_decay: "
          + str([i / 2000 for i in range(1, 1000)]) + "}'"),
    Input("run: Slurm's options without Slurm", "sweep run sweep.yaml --partition gpu",
          says="partition"),
    Input("run: a launcher that there is not", "sweep run sweep.yaml --launcher slrm",
          says="did you mean slurm?"),
    Input("run: an option that the launcher has not",
          "sweep run sweep.yaml --launcher-option queue=long", says="queue"),
    Input("run: held-out runs that the sweep has not", "sweep run sweep.yaml --heldout"),
    Input("run: into a folder of runs with logs of the user's",
          "sweep run sweep.yaml --runs mine --out new --workers 1", says="logs",
          files={"mine/logs/sweep.grid.plan.json": b'{"mine": 1}\n'}),
    Input("status: a folder of runs that is a device",
          "sweep status sweep.yaml --runs /dev/null", says="/dev/null"),
    Input("log: an identity that leads out", "sweep log ../runs sweep.yaml"),
    Input("log: more lines than there are numbers",
          "sweep log 1ecf sweep.yaml --lines " + "9" * 30, codes=(0, 2)),
    Input("retry: the key of an override misspelt", "sweep retry sweep.yaml naem=x", says="naem"),
    Input("retry: a folder of runs that is a pipe", "sweep retry sweep.yaml --runs pipe",
          prepare=fifo("pipe")),
    Input("cancel: a sweep by its name", "sweep cancel sweep", says="sweep"),
    Input("prune: the checkpoints are a link to the store",
          "sweep prune sweep.yaml --runs linked --keep none", codes=(0, 2),
          prepare=linked("linked/1ecfca610953aaca/checkpoints", "store")),
    Input("export: events in place of the runs table",
          "sweep export sweep.yaml --tensorboard results/runs.csv", says="runs.csv"),
    Input("export: a project without a name", "sweep export sweep.yaml --wandb ''"),
    Input("export: a project that W&B refuses", "sweep export sweep.yaml --wandb a/b",
          environment={"WANDB_MODE": "offline"}, says="a/b"),
    Input("export: over a table of the user's", "sweep export sweep.yaml --out mine",
          files={"mine/runs.csv": runs().encode(), "mine/curves.csv": b"step,loss\n1,2\n"}),
    Input("suggest: ratios from high to low", f"sweep suggest own.csv {OWN_COLUMNS} --target a "
          "--budget 1e20 --ratio-range 80:5 --bootstrap 0", files=csv(), says="80:5"),
    Input("suggest: a list of a thousand million sizes", f"sweep suggest own.csv {OWN_COLUMNS} "
          "--target a --budget 1e20 --sizes 1e7:1e9:1e9 --bootstrap 0", files=csv()),
]
FIT = [
    Input("fit: semicolons and decimal commas",
          f"fit own.csv {OWN_COLUMNS} --law chinchilla --bootstrap 0",
          files={"own.csv": runs().replace(",", ";").replace(".", ",").encode()}),
    Input("fit: a table as spreadsheets save Unicode text",
          f"fit own.csv {OWN_COLUMNS} --law chinchilla --bootstrap 0",
          files=csv(encoding="utf-16")),
    Input("fit: sizes as people write them",
          f"fit own.csv {OWN_COLUMNS} --law chinchilla --bootstrap 0",
          files=csv(form="{n:.0f}M,{d:g},{loss:.4f}"), says="params"),
    Input("fit: every loss the same", f"fit own.csv {OWN_COLUMNS} --law chinchilla --bootstrap 20",
          files=csv(form="{n:g},{d:g},2.5"), says="2.5"),
    Input("fit: a power tower as the condition",
          "fit results --where 'tokens ** tokens ** tokens > 1' --bootstrap 0",
          codes=(0,)),
    Input("fit: a condition of brackets", "fit results --where '" + "(" * 5000 + "'"),
    Input("fit: held and kept equal", f"fit own.csv {OWN_COLUMNS} --law chinchilla "
          "--fix alpha=0.3 --fix beta=0.4 --tie alpha=beta --bootstrap 0", files=csv()),
    Input("fit: kept equal in a circle", f"fit own.csv {OWN_COLUMNS} --law chinchilla "
          "--tie alpha=beta --tie beta=alpha --bootstrap 0", files=csv()),
    Input("fit: laws and evidence in one file", "fit results --law kaplan-d --bootstrap 0 "
          "--checklist --save both.json --evidence ./both.json", says="both.json"),
    Input("fit: laws onto a device that is full",
          "fit results --law kaplan-d --bootstrap 0 --save /dev/full", says="/dev/full"),
    Input("fit: laws through a link onto the store's manifest",
          "fit results --law kaplan-d --bootstrap 0 --save new.json",
          prepare=linked("new.json", "store/manifest.json")),
    Input("fit: laws into a link that leads to itself",
          "fit results --law kaplan-d --bootstrap 0 --save new.json", says="new.json",
          prepare=linked("new.json", "new.json")),
    Input("fit: a name that reads like a picture", "fit nosuch:fire:.csv", says=":fire:"),
    Input("fit: an ordinary table of the user's",
          f"fit own.csv {OWN_COLUMNS} --law chinchilla --bootstrap 20 --save own.json",
          files=csv(), codes=(0,)),
]
ALLOCATE = [
    Input("allocate: a loss below every loss", "allocate besiroglu2024 --target-loss 0.5",
          codes=(1, 2), says="0.5"),
    Input("allocate: a size as people write it",
          "allocate besiroglu2024 --compute 1e22 --fixed-n 7B", says="7B"),
    Input("allocate: onto them by another name",
          "allocate results/laws.json --compute 1e12 --out other.json",
          prepare=lambda work: os.link(work / "results/laws.json", work / "other.json")),
    Input("compare: into a link that leads to itself", "compare besiroglu2024 --out new.json",
          prepare=linked("new.json", "new.json"), says="new.json"),
    Input("compare: text for models", "compare besiroglu2024 kaplan2020 --convention total "
          "--models corpus.jsonl", says="corpus.jsonl"),
    Input("compare: onto the models' table", "compare besiroglu2024 kaplan2020 --convention "
          "total --models results/runs.csv --out results/runs.csv"),
    Input("simulate: outliers beyond all numbers",
          "simulate besiroglu2024 --budgets 1e18,1e19 --outliers 1 --outlier-size 1e308 "
          "--out new.csv"),
    Input("simulate: all runs diverge, and sweeps of them are fitted",
          "simulate besiroglu2024 --budgets 1e18,1e19 --diverged 1 --repeats 5", codes=(0, 1, 2)),
    Input("simulate: into a link that leads to itself",
          "simulate besiroglu2024 --budgets 1e18 --out new.csv",
          prepare=linked("new.csv", "new.csv"), says="new.csv"),
    Input("simulate: onto the table that it is like",
          "simulate besiroglu2024 --like results --out results/runs.csv", says="runs.csv"),
]
PICTURES = [
    Input("plot: the figures' folder is a file", "plot results",
          files={"results/figures": b"mine\n"}, says="figures"),
    Input("plot: the figures' folder is a link to the store", "plot results",
          prepare=linked("results/figures", "store"), codes=(0, 2)),
    Input("plot: a table of the user's among the figures", "plot results", says="kaplan.csv",
          files={"results/figures/kaplan.csv": b"my own,table\n1,2\n"}),
    Input("plot: an invalid date", "plot results", codes=(0, 2), changes=("results/figures",),
          environment={"SOURCE_DATE_EPOCH": "yesterday"}),
    Input("report: the page is a link to the corpus", "report results",
          prepare=linked("results/report.html", "corpus.jsonl")),
]
INPUTS = [*MODELS, *SCHEMA, *DATA, *TRAIN, *SWEEPS, *FIT, *ALLOCATE, *PICTURES]

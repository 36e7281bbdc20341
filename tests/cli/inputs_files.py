"""Invalid and hostile files, by kind of file."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import os
import shutil
import socket
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.cli.inputs import Input

Prepare = Callable[[Path], None]

RUN = b"""\
model: {d_model: 8, n_layers: 2, n_heads: 2, context: 16}
data: {store: store}
tokens: 1536
batch_sequences: 4
schedule: {kind: wsd, warmup_steps: 3}
evaluation: {sequences: 10}
logging: {every_steps: 5}
"""
SWEEP = b"""\
name: other
sizes: [{d_model: 8, n_layers: 1, n_heads: 1}]
run: {data: {store: store}, batch_sequences: 4, evaluation: {sequences: 10}, model: {context: 16}}
grids: [{kind: product, tokens: [1536]}]
learning_rate: {rule: power, learning_rate: 0.01, reference_params: 1000, exponent: 0}
"""
TABLE = b"N,D,loss\n" + b"".join(
    b"%d,%d,%.4f\n" % (n, d, 1.7 + 400 / n**0.34 + 400 / d**0.28)
    for n in (10**6, 10**7, 10**8) for d in (10**8, 10**9, 10**10))
FIT = "fit table.csv --n N --d D --law chinchilla --bootstrap 0"
PREPARE = "data prepare jsonl:given.jsonl#text --out new"


def after(*steps: object) -> None:
    """Does nothing; its arguments have been evaluated."""


def nested(depth: int, opening: str = "[", closing: str = "]") -> bytes:
    """Brackets in brackets."""
    return (opening * depth + closing * depth).encode()


def edit(path: str, change: Callable[[Any], object]) -> Prepare:
    """Change the content of a JSON file in place."""
    def prepare(work: Path) -> None:
        content = json.loads((work / path).read_bytes())
        change(content)
        (work / path).write_text(json.dumps(content))
    return prepare


def replace(path: str, make: Callable[[Path], object]) -> Prepare:
    """Put something else where a file or folder is."""
    def prepare(work: Path) -> None:
        place = work / path
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
        else:
            place.unlink(missing_ok=True)
        place.parent.mkdir(parents=True, exist_ok=True)
        make(place)
    return prepare


def link(target: str) -> Callable[[Path], object]:
    """A symbolic link with this text."""
    return lambda place: place.symlink_to(target)


def listen(place: Path) -> None:
    """A socket without a listener."""
    before = Path.cwd()
    os.chdir(place.parent)  # the name of a socket is short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(place.name)
    finally:
        os.chdir(before)


def folders(work: Path) -> list[Path]:
    """The folders of the sweep's runs, in the order of its table."""
    with (work / "results/runs.csv").open() as file:
        return [work / "runs" / row["run_id"] for row in csv.DictReader(file)]


def alone(work: Path) -> Path:
    """The folder of the run that belongs to no sweep."""
    ended = (path.parent for path in sorted(work.glob("runs/*/record.json")))
    return next(folder for folder in ended if folder not in folders(work))


def in_run(change: Callable[[Path], object]) -> Prepare:
    """Do something to the folder of the sweep's first run."""
    return lambda work: after(change(folders(work)[0]))


def in_record(**values: object) -> Prepare:
    """Override values of the record of the sweep's first run."""
    def change(folder: Path) -> None:
        path = folder / "record.json"
        path.write_text(json.dumps(json.loads(path.read_bytes()) | values))
    return in_run(change)


def unfinished(change: Callable[[Path], object]) -> Prepare:
    """Remove the record of the run that belongs to no sweep, and change its folder."""
    def prepare(work: Path) -> None:
        folder = alone(work)
        (folder / "record.json").unlink()
        change(folder)
    return prepare


def table(change: Callable[[dict[str, str]], object], name: str = "results/runs.csv") -> Prepare:
    """Change every row of a table."""
    def prepare(work: Path) -> None:
        with (work / name).open(newline="") as file:
            rows = list(csv.DictReader(file))
        for row in rows:
            change(row)
        with (work / name).open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return prepare


def law(**values: object) -> Prepare:
    """Override values of the law in laws.json."""
    return edit("results/laws.json", lambda content: content["laws"][0].update(values))


def chinchilla(**params: object) -> Prepare:
    """Make the law in laws.json one of Chinchilla's form."""
    values = {"E": 1.7, "A": 400.0, "B": 400.0, "alpha": 0.34, "beta": 0.28}
    return edit("results/laws.json", lambda content: content["laws"][0].update(
        law="chinchilla", params=values | params, se=values, se_delta=values, bootstrap=None,
        intervals={name: [value, value] for name, value in values.items()}))


def header_npy(text: bytes, size: int = 64) -> bytes:
    """An array file of this header, and some bytes of content."""
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + b"\0" * size


def greedy_xz() -> bytes:
    """A line in an .xz file whose header asks for a dictionary of 4 GiB."""
    content = bytearray(lzma.compress(b'{"text": "a few words"}\n'))
    end = 12 + 4 * (content[12] + 1)  # the block header begins after 12 bytes; its last 4: CRC-32
    content[content.index(b"\x21\x01", 12, end) + 2] = 40
    content[end - 4:end] = zlib.crc32(content[12:end - 4]).to_bytes(4, "little")
    return bytes(content)


def array(values: object, **options: Any) -> bytes:
    """An .npy file."""
    file = io.BytesIO()
    np.save(file, np.array(values, **options), allow_pickle=True)
    return file.getvalue()


def store(**values: object) -> Prepare:
    """Override values of the store's manifest."""
    return edit("store/manifest.json", lambda content: content.update(values))


def train_split(**values: object) -> Prepare:
    """Override values of the train split in the store's manifest."""
    return edit("store/manifest.json", lambda content: content["train"].update(values))


def shard(**values: object) -> Prepare:
    """Override values of the first shard in the store's manifest."""
    return edit("store/manifest.json",
                lambda content: content["train"]["shards"][0].update(values))


def newest(folder: Path) -> Path:
    """The newest checkpoint of a run."""
    return max((folder / "checkpoints").iterdir(), key=lambda path: int(path.name))


def swap_checkpoints(work: Path) -> None:
    """Give the unfinished run the checkpoint of a run of another shape."""
    folder = alone(work)
    (folder / "record.json").unlink()
    mine, other = newest(folder), newest(folders(work)[2])
    shutil.rmtree(mine)
    shutil.copytree(other, mine)


def odd_steps(folder: Path) -> None:
    """Checkpoints whose names Python reads as numbers of steps."""
    for name in ("2_4", "\u0662\u0664", "+24", " 24", "0024", "9" * 200):
        (folder / "checkpoints" / name).mkdir()


def relist(checkpoint: Path, *more: str) -> None:
    """List the files of a checkpoint, and others, with the checksums that they have."""
    names = [str(path.relative_to(checkpoint)) for path in sorted(checkpoint.rglob("*"))
             if path.is_file() and path.name != "files.json"]
    content = {name: (checkpoint / name).read_bytes() for name in (*names, *more)}
    (checkpoint / "files.json").write_text(json.dumps(
        {name: [len(text), zlib.crc32(text)] for name, text in content.items()}))


def copy_over(source: Callable[[Path], Path], target: Callable[[Path], Path]) -> Prepare:
    """Replace a folder by a copy of another."""
    def prepare(work: Path) -> None:
        given, place = source(work), target(work)
        shutil.rmtree(place)
        shutil.copytree(given, place)
    return prepare


def other_store(work: Path) -> None:
    """A store of the same name and shape, with other tokens."""
    path = work / "store/train-00000.bin"
    path.write_bytes(path.read_bytes()[::-1])


def lease(**values: object) -> Prepare:
    """A further lease on the run that belongs to no sweep, which is not finished."""
    content = {"machine": "elsewhere", "host": "h", "pid": 1, "started": "1", "seconds": 60.0,
               "released": False} | values
    return unfinished(lambda folder: (folder / "lease.000002.json").write_text(
        json.dumps(content)))


YAML = [
    Input("YAML: aliases that double 40 times", "train bomb.yaml",
          {"bomb.yaml": b"a0: &a0 [x]\n" + b"".join(
              b"a%d: &a%d [*a%d, *a%d]\n" % (i, i, i - 1, i - 1) for i in range(1, 41))},
          says="bomb.yaml"),
    Input("YAML: brackets in brackets, 50,000 deep", "train deep.yaml",
          {"deep.yaml": b"model: " + nested(50_000)}, says="deep.yaml"),
    Input("YAML: a mapping that is its own value", "train own.yaml",
          {"own.yaml": b"model: &m {d_model: *m}\n"}, says="own.yaml"),
    Input("YAML: a list that a merge key merges into itself", "sweep plan own.yaml",
          {"own.yaml": b"name: a\nrun: &r {<<: [*r, *r]}\n"}, says="own.yaml"),
    Input("YAML: a number of 10,000 digits", "train long.yaml",
          {"long.yaml": RUN.replace(b"1536", b"1" * 10_000)}, says="long.yaml"),
    Input("YAML: a store whose name holds a NUL", "train nul.yaml",
          {"nul.yaml": RUN.replace(b"store: store", b'store: "sto\\0re"')}, says="store"),
    Input("YAML: a store whose name is half of a surrogate pair", "train half.yaml",
          {"half.yaml": RUN.replace(b"store: store", b'store: "\\ud800"')}, says="half.yaml"),
    Input("YAML: a store whose name is too long for the system", "train long.yaml",
          {"long.yaml": RUN.replace(b"store: store", b"store: " + b"s" * 5000)}),
    Input("YAML: keys that are lists, numbers and nothing", "train keys.yaml",
          {"keys.yaml": RUN + b"? [1, 2]\n: 3\n7: 1\n~: 2\n"}, says="keys.yaml"),
    Input("YAML: a key twice, the second in quotes", "train twice.yaml",
          {"twice.yaml": RUN + b'"tokens": 64\n'}, says="tokens"),
    Input("YAML: a date in place of tokens, a set in place of sizes", "sweep plan odd.yaml",
          {"odd.yaml": SWEEP.replace(b"[1536]", b"[2020-02-30]").replace(
              b"sizes: [", b"sizes: !!set {a, b}\nold: [")}, says="odd.yaml"),
    Input("YAML: UTF-16 with a byte order mark", "sweep status wide.yaml",
          {"wide.yaml": SWEEP.decode().encode("utf-16")}, says="wide.yaml"),
    Input("YAML: escape sequences and a bidirectional mark in a key", "sweep plan marks.yaml",
          {"marks.yaml": SWEEP + b'"\\e]0;title\\a\\u202enekot": 1\n'}, says="marks.yaml"),
    Input("YAML: a sweep whose name leads out of the folder", "sweep run out.yaml --workers 1",
          {"out.yaml": SWEEP.replace(b"name: other", b"name: ../../../other")}, says="name"),
    Input("YAML: a grid of 10^12 runs in a kilobyte", "sweep plan grid.yaml",
          {"grid.yaml": SWEEP + (
        b"vary:\n  seed: &s [" + b",".join(b"%d" % i for i in range(100)) + b"]\n" + b"".join(
            b"  optimizer.%s: [%s]\n" % (key, b",".join(b"0.%02d" % i for i in range(1, 99)))
            for key in (b"learning_rate", b"b1", b"b2", b"epsilon", b"weight_decay")))},
          says="runs"),
    Input("YAML: a device behind a link", "sweep status zero.yaml",
          prepare=replace("zero.yaml", link("/dev/zero")), says="zero.yaml"),
    Input("YAML: links in a circle", "train a.yaml", prepare=lambda work: after(
        (work / "a.yaml").symlink_to("b.yaml"), (work / "b.yaml").symlink_to("a.yaml")),
          says="a.yaml"),
]

TABLES = [
    Input("runs.csv: an identity that is a path, then exported",
          "sweep export sweep.yaml --out results",
          prepare=table(lambda row: row.update(run_id="../../corpus.jsonl")), says="runs.csv"),
    Input("runs.csv: two columns of one name", FIT,
          {"table.csv": TABLE.replace(b"N,D,loss", b"N,N,loss")}, says="N"),
    Input("runs.csv: a cell of 20 MB", FIT,
          {"table.csv": lambda: TABLE + b"1," + b"9" * 20_000_000 + b",2\n"}, says="table.csv"),
    Input("runs.csv: 300,000 columns", FIT,
          {"table.csv": lambda: b",".join(b"c%d" % i for i in range(300_000)) + b"\n1,2\n"},
          says="table.csv"),
    Input("runs.csv: a NUL within a number", FIT,
          {"table.csv": TABLE.replace(b"1000000,", b"1000\x00000,", 1)}, says="table.csv"),
    Input("runs.csv: a quote that never ends", FIT,
          {"table.csv": TABLE.replace(b"\n1000000,", b'\n"1000000,', 1)}, says="table.csv"),
    Input("runs.csv: UTF-16", FIT, {"table.csv": TABLE.decode().encode("utf-16")},
          says="table.csv"),
    Input("runs.csv: a byte order mark, CR and LF, blanks about the numbers", FIT,
          {"table.csv": b"\xef\xbb\xbf" + TABLE.replace(b"\n", b" \r\n").replace(b",", b", ")},
          codes=(0, 2)),
    Input("runs.csv: digits of another script, and underscores", FIT, {"table.csv": TABLE.replace(
        b"1000000,", "\u0661_000_000,".encode(), 1)}, says="table.csv"),
    Input("runs.csv: numbers whose product is infinite", FIT, {"table.csv": TABLE.replace(
        b"1000000,", b"1e308,").replace(b"10000000000,", b"1e308,")}, codes=(1, 2)),
    Input("runs.csv: the smallest numbers that there are", FIT, {"table.csv": TABLE.replace(
        b"1000000,", b"5e-324,").replace(b"10000000000,", b"5e-324,")}, codes=(0, 1, 2)),
    Input("runs.csv: nothing but a header, drawn", "plot results",
          {"results/runs.csv": b"run_id,tokens,loss\n"}),
    Input("runs.csv: a corpus whose name is a broken formula of TeX", "plot results",
          prepare=table(lambda row: row.update(corpus=r"$\frac{x^$", family=r"$\nosuch{_")),
          codes=(0, 2)),
    Input("runs.csv: a Parquet file by its name and its first bytes alone",
          "fit table.parquet --law chinchilla",
          {"table.parquet": b"PAR1" + b"\xff" * 64 + b"\xff\xff\xff\x7fPAR1"}),
    Input("curves.csv: losses and tokens at the ends of what a number can be", "plot results",
          prepare=table(lambda row: row.update(loss="5e-324", tokens="1e308"),
                        "results/curves.csv"), codes=(0, 2)),
    Input("curves.csv: not a number, infinity and less than nothing", "plot results",
          prepare=table(lambda row: row.update(loss="nan", tokens="-inf"), "results/curves.csv"),
          says="curves.csv"),
    Input("curves.csv: a socket", "report results",
          prepare=replace("results/curves.csv", listen), says="curves.csv"),
    Input("curves.csv: runs that nobody knows, under names that steer a terminal",
          "sweep export sweep.yaml --out results", prepare=table(
              lambda row: row.update(run_id="\x1b[2J\u202e" + row["run_id"]), "results/curves.csv"),
          codes=(0, 2), changes=("results/curves.csv",)),
    Input("curves.csv: a link to the corpus, then exported",
          "sweep export sweep.yaml --out results",
          prepare=replace("results/curves.csv", link("../corpus.jsonl"))),
]

JSON = [
    Input("sweep.json: objects in objects, 100,000 deep", "sweep export sweep.yaml --out results",
          {"results/sweep.json": nested(100_000, '{"a":', "}").replace(b":}", b":1}")},
          says="sweep.json"),
    Input("sweep.json: a list, then trained into", "sweep run sweep.yaml --out results --workers 1",
          {"results/sweep.json": b"[1, 2]"}, says="sweep.json"),
    Input("sweep.json: half of a surrogate pair for a name", "report results",
          prepare=edit("results/sweep.json", lambda content: content.update(name="\ud800<b>")),
          codes=(0, 2)),
    Input("sweep.json: of another sweep", "sweep export sweep.yaml --out results", prepare=edit(
        "results/sweep.json", lambda content: content.update(name="other", data="0" * 64)),
          says="results"),
    Input("sweep.json: a pipe that nobody writes to", "sweep run sweep.yaml --out results",
          prepare=replace("results/sweep.json", os.mkfifo), says="sweep.json"),
    Input("laws.json: a parameter of 1,000 digits", "allocate results --compute 1e18",
          prepare=chinchilla(A=10**1000), says="params.A"),
    Input("laws.json: not numbers", "allocate results --compute 1e18",
          prepare=law(params={"D_c": float("nan"), "alpha_D": float("inf")}), says="laws.json"),
    Input("laws.json: exponents that are negative and tiny", "allocate results --compute 1e18",
          prepare=chinchilla(alpha=-1e-300, beta=1e-300), codes=(0, 1, 2)),
    Input("laws.json: exponents and factors that are huge", "simulate results --law chinchilla "
          "--budgets 1e18 --seed 1", prepare=chinchilla(alpha=1e300, A=1e308, E=-1e308),
          codes=(1, 2)),
    Input("laws.json: resamples of unequal length, with words and nothing in them",
          "allocate results --compute 1e18", prepare=law(bootstrap={
              "resamples": 20, "converged": 10**30, "seed": "x", "level": 5, "by": "case",
              "method": "bca", "samples": [[1], ["a", None], [[[]]]], "residuals": {}}),
          codes=(1, 2)),
    Input("laws.json: a name that is a path and a list", "compare results --compute 1e18",
          prepare=law(law=["../chinchilla"]), says="laws.json"),
    Input("laws.json: the same law 3,000 times", "simulate results --budgets 1e18 --seed 1",
          prepare=edit("results/laws.json", lambda content: content.update(
              laws=content["laws"] * 3000)), says="laws.json"),
    Input("laws.json: no laws at all, drawn", "plot results",
          {"results/laws.json": b'{"command": "scaling fit", "laws": []}'}, codes=(0, 2)),
    Input("laws.json: warnings that steer a terminal and a page", "report results", prepare=law(
        warnings=["\x1b[31m<script>alert(1)</script>\u202e"]), codes=(0,)),
    Input("laws.json: a user's own file as the output of a fit",
          "fit results --law kaplan-d --bootstrap 0 --save mine.json",
          {"mine.json": b'{"laws": "I wrote these"}'}, says="mine.json"),
]

CORPORA = [
    Input("corpus: a line of brackets in brackets", PREPARE,
          {"given.jsonl": b'{"text": "a", "b": ' + nested(100_000) + b"}\n"}, says="given.jsonl"),
    Input("corpus: a number of 10,000 digits beside the text", PREPARE,
          {"given.jsonl": b'{"text": "a", "b": ' + b"1" * 10_000 + b"}\n"}, codes=(0, 2, 1)),
    Input("corpus: half of a surrogate pair in the text", PREPARE,
          {"given.jsonl": b'{"text": "a \\ud83d b"}\n'}, says="given.jsonl"),
    Input("corpus: .xz that asks for 4 GiB of memory",
          "data prepare jsonl:given.jsonl.xz#text --out new",
          {"given.jsonl.xz": greedy_xz}, codes=(0, 2, 1)),
    Input("corpus: .gz that ends in other bytes", "data prepare text:given.gz --out new",
          {"given.gz": gzip.compress(b"one\n\n" * 99) + b"and more" * 9}, codes=(2, 1),
          says="given.gz"),
    Input("corpus: .bz2 with a byte turned", "data prepare text:given.bz2 --out new",
          {"given.bz2": lambda: bytes(b ^ (i == 40) for i, b in enumerate(
              bz2.compress(b"some words\n" * 999)))}, codes=(2, 1), says="given.bz2"),
    Input("corpus: .zst that is none", "data prepare text:given.zst --out new",
          {"given.zst": b"\x28\xb5\x2f\xfd" + b"\xff" * 99}, codes=(2, 1)),
    Input("corpus: UTF-16", "data prepare text:given.txt --out new",
          {"given.txt": "Some words.\n".encode("utf-16") * 9}, codes=(2, 1), says="given.txt"),
    Input("corpus: a pipe, a socket and a folder among the files",
          "data prepare text:given/*.txt --out new", {"given/a.txt": b"Some words.\n"},
          prepare=lambda work: after(os.mkfifo(work / "given/b.txt"), listen(work / "given/c.txt"),
                                (work / "given/d.txt").mkdir()), says="given/b.txt"),
    Input("corpus: Parquet that is none", "data prepare parquet:given.parquet#text --out new",
          {"given.parquet": b"PAR1\x00\x00\x00\x7fPAR1"}),
    Input("corpus: the store's folder is the corpus's", "data prepare text:given/*.txt --out given",
          {"given/a.txt": b"Some words.\n" * 99}, says="given"),
    Input("corpus: the store is to be behind a link to another store", PREPARE, {
        "given.jsonl": b"".join(b'{"text": "words %d"}\n' % i for i in range(200))},
          prepare=replace("new", link("store"))),
]

STORES = [
    Input("store: a shard outside of it", "data show store", prepare=shard(
        file="../corpus.jsonl"), says="manifest.json"),
    Input("store: a shard that is a link out of it", "data show store --verify",
          prepare=replace("store/train-00000.bin", link("/dev/zero")), says="train-00000.bin"),
    Input("store: more tokens than a disk can hold", "train run.yaml seed=1",
          prepare=lambda work: after(shard(tokens=2**62)(work), train_split(tokens=2**62)(work)),
          says="store"),
    Input("store: an index that says it has 10^15 entries", "data show store", {
        "store/train.index.npy": header_npy(
            b"{'descr': '<i8', 'fortran_order': False, 'shape': (1000000000000000,), }\n")},
          says="train.index.npy"),
    Input("store: an index of objects", "train run.yaml seed=1",
          {"store/train.index.npy": array([{"a": 1}], dtype=object)}, says="train.index.npy"),
    Input("store: an index whose header is 9,000 brackets deep", "data show store",
          {"store/train.index.npy": header_npy(nested(9_000, "(", ")"))}, says="train.index.npy"),
    Input("store: tokens beyond the vocabulary", "train run.yaml seed=1",
          prepare=lambda work: after((work / "store/train-00000.bin").write_bytes(
              b"\xff" * (work / "store/train-00000.bin").stat().st_size)), codes=(2, 1)),
    Input("store: numbers of another kind, of the other end first", "data show store",
          prepare=store(dtype=">u8", vocab_size=2**40), says="manifest.json"),
    Input("store: special tokens beyond the vocabulary", "train run.yaml seed=1",
          prepare=edit("store/manifest.json", lambda content: content["special"].update(
              eos=10**9, pad=-1, sentinels=[1.5])), says="manifest.json"),
    Input("store: a corpus and a source that steer a terminal", "data show store", prepare=store(
        corpus="=cmd|' /C calc'!A0\x1b[2J", source="\u202e\x9b31m" + "x" * 10_000), codes=(0, 2)),
    Input("store: a published tokenizer whose file is a bomb of brackets",
          "data prepare jsonl:corpus.jsonl#text --tokenizer tokenizer.json --out new",
          {"tokenizer.json": b'{"model": ' + nested(200_000) + b"}"}, says="tokenizer.json"),
    Input("store: a tokenizer that is expected there and is a pipe", "data show store",
          prepare=lambda work: after(os.mkfifo(work / "store/tokenizer.json"), store(
              tokenizer="bpe", tokenizer_bytes=10)(work))),
    Input("store: other tokens under the same name, the sweep goes on",
          "sweep run sweep.yaml --out results --workers 1", prepare=lambda work: after(
              other_store(work), shutil.rmtree(folders(work)[0])),
          codes=(1,), says="train-00000.bin", changes=("results/",)),
]

RUNS = [
    Input("run: a checkpoint with a pipe in place of its arrays", "train run.yaml",
          prepare=unfinished(lambda folder: (
              [replace(path.name, os.mkfifo)(path.parent)
               for path in newest(folder).glob("state/d/*")], relist(newest(folder)))),
          codes=(0,), says="loss", changes=("runs/",)),
    Input("run: the folder of one run under the name of another",
          "sweep export sweep.yaml --out results",
          prepare=copy_over(lambda work: folders(work)[1], lambda work: folders(work)[0]),
          codes=(0,), says="another run", changes=("results/curves.csv",)),
    Input("run: the folder of one run under the name of another, trained", "train run.yaml",
          prepare=copy_over(lambda work: folders(work)[1], alone), says="runs"),
    Input("run: a record that is done without a loss", "sweep status sweep.yaml --json",
          prepare=in_record(loss=None), codes=(0,), says="not readable"),
    Input("run: a record of absurd numbers", "sweep status sweep.yaml", prepare=in_record(
        loss=1e308, steps=10**40, tokens_per_second=-1e308, seconds=1e308, params_total=10**400),
          codes=(0,)),
    Input("run: a record whose words steer a terminal and a table",
          "sweep export sweep.yaml --out results", prepare=in_record(
              corpus="=1+1\x1b[2J", family="@SUM(A1)", mode="+decoder"), codes=(0, 1, 2)),
    Input("run: metrics whose steps go backwards and whose losses are words",
          "sweep export sweep.yaml --out results", prepare=in_run(
              lambda folder: (folder / "metrics.jsonl").write_bytes(
                  b'{"step": 20, "loss": "low"}\n{"step": -3, "tokens": 1e999, "loss": 1}\n'
                  b"[]\n\xff\xfe\n" + nested(90_000) + b"\n" + b'{"step":' + b"1" * 9000 + b"}\n")),
          codes=(0,), changes=("results/curves.csv",)),
    Input("run: metrics that are another file behind a link, trained again", "train run.yaml",
          prepare=unfinished(lambda folder: (
              (folder / "metrics.jsonl").unlink(),
              (folder / "metrics.jsonl").symlink_to("../../corpus.jsonl"))),
          says="is a link", changes=("runs/",)),
    Input("run: a configuration that is a pipe", "sweep run sweep.yaml --out results --workers 1",
          prepare=in_run(lambda folder: ((folder / "record.json").unlink(),
                                         replace("config.json", os.mkfifo)(folder))),
          codes=(1,), says="config.json", changes=("results/curves.csv",)),
    Input("run: a lease for ever, by a negative process", "train run.yaml",
          prepare=lease(pid=-1, seconds=1e308), environment={"SCALING_LEASE_SECONDS": "1"},
          codes=(0,), says="takes over the run", changes=("runs/",)),
    Input("run: a lease with the largest number that a name can have", "train run.yaml",
          prepare=unfinished(lambda folder: (folder / "lease.999999999999.json").write_text("{}")),
          says="lease.999999999999.json"),
    Input("run: a failure whose words steer a terminal", "sweep status sweep.yaml", prepare=in_run(
        lambda folder: ((folder / "record.json").unlink(), (folder / "failure.json").write_text(
            json.dumps({"error": "\x1b]0;x\x07\u202e" * 999, "when": [], "attempts": 1e400})))),
          codes=(0,)),
    Input("run: a checkpoint of a run of another shape", "train run.yaml",
          prepare=swap_checkpoints, says="was saved by a model of other arrays",
          changes=("runs/",)),
    Input("run: checksums of files outside of the checkpoint", "train run.yaml",
          prepare=unfinished(lambda folder: relist(newest(folder), "../../../../corpus.jsonl")),
          codes=(0, 2), changes=("runs/",)),
    Input("run: a checkpoint that describes itself wrongly", "train run.yaml",
          prepare=unfinished(lambda folder: ((newest(folder) / "_CHECKPOINT_METADATA").write_text(
              '{"item_handlers": 1, "init_timestamp_nsecs": 1.5, "custom_metadata": []}'),
              relist(newest(folder)))), codes=(0, 2), changes=("runs/",)),
    Input("run: a checkpoint whose arrays lie a hundred thousand brackets deep", "train run.yaml",
          prepare=unfinished(lambda folder: (
              (newest(folder) / "state/_METADATA").write_bytes(nested(100_000)),
              relist(newest(folder)))), says="no proof that it is damaged",
          changes=("runs/",)),
    Input("run: checkpoints under names that only Python takes for numbers", "train run.yaml",
          prepare=unfinished(odd_steps), codes=(0, 2),
          changes=("runs/",)),
    Input("run: a checkpoint that is a link out of the folder, removed", "sweep prune sweep.yaml "
          "--keep none", prepare=in_run(lambda folder: (
              newest(folder).rename(folder.parent.parent / "kept"),
              (folder / "checkpoints/24").symlink_to("../../../kept"))), codes=(0,),
          changes=("runs/",)),
    Input("run: a log that is a link to the corpus",
          "sweep run sweep.yaml --out results --workers 1",
          prepare=lambda work: after(shutil.rmtree(folders(work)[0]), replace(
              "runs/logs/sweep.grid.worker-0.log", link("../../corpus.jsonl"))(work)),
          says="is a link"),
    Input("run: an index and a plan that are bombs", "sweep status sweep.yaml", {
        "runs/logs/sweep.index.json": nested(100_000),
        "runs/logs/sweep.grid.plan.json": b'{"runs": [{"folder": "../../.."}], "workers": 1e999}'},
          codes=(0, 2)),
    Input("run: trunks that are a link to a folder of others, removed",
          "sweep prune sweep.yaml --keep none", prepare=lambda work: after(
              shutil.copytree(alone(work), work / "kept/0123456789abcdef"),
              replace("runs/trunks", link("../kept"))(work)),
          codes=(0,), changes=("runs/",)),
    Input("cache: times of steps that are no times", "sweep plan sweep.yaml",
          {"../cache/step_times.json": b'{"a": NaN, "b": [[1e999]], "c": {"d": "\\u001b"}}'},
          codes=(0, 2)),
]

INPUTS = [
    Input("a folder in place of a YAML file", "train store", says="store"),
    *YAML, *TABLES, *JSON, *CORPORA, *STORES, *RUNS,
]

"""Peak memory and speed of `scaling data prepare` for a synthetic corpus of any size.

    python benchmarks/prepare.py [--gigabytes 1] [--only plain|selecting] [--json FILE]

The corpus consists of lines of the standard library's sources, drawn at random into documents of
about 2 kB: one in ten differs from an earlier document in a single line, and one in fifty is an
exact copy. It is tokenized to bytes: once with all documents (`plain`), and once without
near-duplicates and without contaminated documents (`selecting`).

Peak memory is sampled about ten times per second, and is the sum over the command and its workers
of anonymous, shared and swapped pages, which the kernel can only swap out. It excludes pages of
mapped files, which the kernel can drop when memory is short; `with_files_megabytes` includes them.
Speed is also given as a ratio to reading and decoding the lines of the same files in one process.
The temporary files are at most three times as large as the corpus.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from scaling.data.sources.python import find_stdlib

FILES = 8
DOCUMENT_BYTES = 2000  # mean size of a document
LOG_SIZE_SD = 0.7  # standard deviation of the logarithm of a document's size
NEAR_COPIES, EXACT_COPIES = 0.1, 0.02  # shares of the documents
MAX_DISTANCE = 10**4  # largest number of documents between a document and its copy
DISK_FACTOR = 3  # bytes of disk that are needed per byte of the corpus
SAMPLE_SECONDS = 0.1
OPTIONS = {
    "plain": ["--deduplicate", "none"],
    "selecting": ["--deduplicate", "near", "--contamination", "drop"],
}
"""Options of `scaling data prepare` that are measured, by name."""


def documents(seed: int) -> Iterator[list[bytes]]:
    """An endless stream of documents, each a list of lines that are escaped for JSON."""
    text = "".join(find_stdlib().documents())
    lines = [json.dumps(line)[1:-1].encode() for line in dict.fromkeys(text.splitlines())]
    mean = sum(map(len, lines)) / len(lines)
    rng = np.random.default_rng(seed)
    recent: deque[list[bytes]] = deque(maxlen=MAX_DISTANCE)
    while True:
        sizes = rng.lognormal(
            np.log(DOCUMENT_BYTES) - LOG_SIZE_SD**2 / 2, LOG_SIZE_SD, MAX_DISTANCE)
        counts = np.maximum(sizes / mean, 1).astype(int)
        chosen = rng.integers(0, len(lines), counts.sum()).tolist()
        kinds, positions = rng.random(MAX_DISTANCE).tolist(), rng.random(MAX_DISTANCE).tolist()
        start = 0
        for count, kind, position in zip(counts.tolist(), kinds, positions, strict=True):
            document = [lines[index] for index in chosen[start:start + count]]
            start += count
            if kind < NEAR_COPIES + EXACT_COPIES and recent:
                document, new = list(recent[int(position * len(recent))]), document
                if kind < NEAR_COPIES:
                    document[int(position * len(document))] = new[0]
            recent.append(document)
            yield document


def write_corpus(folder: Path, size: float) -> int:
    """Write about `size` bytes of JSON lines; return the number of documents."""
    count = 0
    source = documents(seed=0)
    for number in range(FILES):
        with (folder / f"{number}.jsonl").open("wb", buffering=2**20) as file:
            while file.tell() < size / FILES:
                file.write(b'{"text": "%b"}\n' % b"\\n".join(next(source)))
                count += 1
    return count


def read(folder: Path) -> float:
    """Seconds to read and decode all lines of the corpus."""
    start = time.perf_counter()
    for path in sorted(folder.glob("*.jsonl")):
        with path.open("rb") as file:
            for line in file:
                line.decode()
    return time.perf_counter() - start


def memory(session: int) -> tuple[int, int]:
    """Memory of the processes of a session, in bytes: without and with the pages of mapped files.
    Shared pages are divided between the processes that map them."""
    without_files = total = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            # The command name, in parentheses, may contain spaces.
            if int((process / "stat").read_text().rpartition(")")[2].split()[3]) != session:
                continue
            pages = dict(re.findall(r"^(\w+): +(\d+) kB", (process / "smaps_rollup").read_text(),
                                    re.MULTILINE))
        except (OSError, ValueError):  # the process has ended
            continue
        swapped = int(pages["SwapPss"])
        without_files += int(pages["Pss_Anon"]) + int(pages["Pss_Shmem"]) + swapped
        total += int(pages["Pss"]) + swapped
    return without_files * 1024, total * 1024


def prepare(source: str, out: Path, options: list[str]) -> dict[str, float]:
    """Run the command; return its `seconds`, and its peak memory in bytes without (`peak`) and with
    (`with_files`) the pages of mapped files.

    Raises:
        SystemExit: the command failed.
    """
    command = [sys.executable, "-m", "scaling.cli.main", "data", "prepare", source,
               "--tokenizer", "byte", "--out", str(out), *options]
    start = time.perf_counter()
    # The session identifies the processes of the command.
    process = subprocess.Popen(command, start_new_session=True, stdout=sys.stderr)
    peaks = [0, 0]
    try:
        while process.poll() is None:
            peaks = [max(pair) for pair in zip(peaks, memory(process.pid), strict=True)]
            time.sleep(SAMPLE_SECONDS)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit status {process.returncode}, where 0 was "
                         "expected; the messages above state the reason")
    return {"seconds": time.perf_counter() - start, "peak": peaks[0], "with_files": peaks[1]}


def measure(folder: Path, size: float, names: list[str], workers: list[str]) -> dict[str, Any]:
    """All figures.

    Args:
        folder: an empty folder, which the caller removes.
        size: of the corpus, in bytes.
        names: keys of OPTIONS.
        workers: further options of the command.
    """
    figures: dict[str, Any] = {"gigabytes": size / 1e9, "documents": write_corpus(folder, size)}
    for name in names:
        read_seconds = read(folder)
        options = [*OPTIONS[name], *workers]
        measured = prepare(f"jsonl:{folder}/*.jsonl#text", folder / "store", options)
        manifest = json.loads((folder / "store/manifest.json").read_text())
        shutil.rmtree(folder / "store")
        figures[name] = {
            "seconds": round(measured["seconds"], 1),
            "megabytes_per_second": round(size / 1e6 / measured["seconds"], 2),
            "ratio_to_reading": round(read_seconds / measured["seconds"], 4),
            "peak_megabytes": round(measured["peak"] / 1e6),
            "with_files_megabytes": round(measured["with_files"] / 1e6),
            **{key: manifest[key] for key in ("duplicates", "near_duplicates", "contaminated")},
        }
    return figures


def main() -> None:
    """Measure, print and write the figures; see the docstring of this file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=1.0,
                        help="Size of the corpus in GB of JSON lines; %(default)s by default.")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), metavar="DIR",
                        help="Parent of the temporary folder; %(default)s by default.")
    parser.add_argument("--only", choices=OPTIONS, help="Measure only this; by default both.")
    parser.add_argument("--workers", metavar="N",
                        help="Number of worker processes; by default one for each core.")
    parser.add_argument("--json", type=Path, metavar="FILE", help="Also write the figures to FILE.")
    arguments = parser.parse_args()
    size = arguments.gigabytes * 1e9
    free, needed = shutil.disk_usage(arguments.folder).free, DISK_FACTOR * size
    if free < needed:
        parser.error(f"{arguments.folder}: {free / 1e9:.1f} GB are free, where {needed / 1e9:.1f} "
                     "GB are needed; choose another --folder, or fewer --gigabytes")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the folder is removed
    workers = ["--workers", arguments.workers] if arguments.workers else []
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        names = [arguments.only] if arguments.only else list(OPTIONS)
        figures = measure(Path(folder), size, names, workers)
    text = json.dumps({"cores": len(os.sched_getaffinity(0)), **figures}, indent=2)
    print(text)
    if arguments.json is not None:
        arguments.json.write_text(text + "\n")


if __name__ == "__main__":
    main()

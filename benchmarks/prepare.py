"""How much memory `scaling data prepare` takes, and how fast it is, at any size of the corpus.

    python benchmarks/prepare.py [--gigabytes 1] [--only plain|selecting] [--json FILE]

The corpus is the lines of the standard library's sources, shuffled into documents of about 2 kB:
one in ten differs from an earlier one in a single line, one in fifty in nothing. It is prepared as
bytes, once as it is, and once without near-duplicates and with a search for contamination.

Memory is the largest sum, over the command and its workers, of the pages that the kernel could only
swap out: anonymous, shared and swapped ones, looked at some ten times a second. Pages of mapped
files are left out of it, because the kernel drops them when memory is short; `with_files` has them
too. Speed is also given as a ratio to reading the same files' lines and decoding them, which one
process does in the same run. On disk lies three times the corpus at most, until the end.
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
DOCUMENT_BYTES = 2000  # the mean
SPREAD = 0.7  # standard deviation of the logarithm of a document's size
CHANGED, REPEATED = 0.1, 0.02  # shares of the documents
DISTANCE = 10**4  # documents between a document and its copy, at most
DISK = 3  # bytes of disk for each of the corpus
SAMPLE_SECONDS = 0.1
RUNS = {
    "plain": ["--deduplicate", "none"],
    "selecting": ["--deduplicate", "near", "--contamination", "drop"],
}


def documents(seed: int) -> Iterator[list[bytes]]:
    """Documents without end, as lines written for JSON."""
    text = "".join(find_stdlib().documents())
    lines = [json.dumps(line)[1:-1].encode() for line in dict.fromkeys(text.splitlines())]
    mean = sum(map(len, lines)) / len(lines)
    draw = np.random.default_rng(seed)
    recent: deque[list[bytes]] = deque(maxlen=DISTANCE)
    while True:
        sizes = draw.lognormal(np.log(DOCUMENT_BYTES) - SPREAD**2 / 2, SPREAD, DISTANCE)
        counts = np.maximum(sizes / mean, 1).astype(int)
        chosen = draw.integers(0, len(lines), counts.sum()).tolist()
        kinds, where = draw.random(DISTANCE).tolist(), draw.random(DISTANCE).tolist()
        start = 0
        for count, kind, place in zip(counts.tolist(), kinds, where, strict=True):
            document = [lines[number] for number in chosen[start:start + count]]
            start += count
            if kind < CHANGED + REPEATED and recent:
                document, other = list(recent[int(place * len(recent))]), document
                if kind < CHANGED:
                    document[int(place * len(document))] = other[0]
            recent.append(document)
            yield document


def write_corpus(folder: Path, size: float) -> int:
    """Write JSON lines of so many bytes; return the documents."""
    count = 0
    source = documents(seed=0)
    for number in range(FILES):
        with (folder / f"{number}.jsonl").open("wb", buffering=2**20) as file:
            while file.tell() < size / FILES:
                file.write(b'{"text": "%b"}\n' % b"\\n".join(next(source)))
                count += 1
    return count


def read(folder: Path) -> float:
    """Seconds that reading and decoding all lines takes."""
    start = time.perf_counter()
    for path in sorted(folder.glob("*.jsonl")):
        with path.open("rb") as file:
            for line in file:
                line.decode()
    return time.perf_counter() - start


def memory(session: int) -> tuple[int, int]:
    """Bytes of the processes of a session: those that could only be swapped out, and all."""
    held = everything = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            # The name of the command, in parentheses, may have blanks.
            if int((process / "stat").read_text().rpartition(")")[2].split()[3]) != session:
                continue
            pages = dict(re.findall(r"^(\w+): +(\d+) kB", (process / "smaps_rollup").read_text(),
                                    re.MULTILINE))
        except (OSError, ValueError):  # it has ended
            continue
        swapped = int(pages["SwapPss"])
        held += int(pages["Pss_Anon"]) + int(pages["Pss_Shmem"]) + swapped
        everything += int(pages["Pss"]) + swapped
    return held * 1024, everything * 1024


def prepare(source: str, out: Path, options: list[str]) -> dict[str, float]:
    """Run the command; return its seconds, and its peaks of memory in bytes."""
    command = [sys.executable, "-m", "scaling.cli.main", "data", "prepare", source,
               "--tokenizer", "byte", "--out", str(out), *options]
    start = time.perf_counter()
    # A session of its own tells its processes from all others.
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
        raise SystemExit(f"{' '.join(command)}: ended with status {process.returncode}")
    return {"seconds": time.perf_counter() - start, "peak": peaks[0], "with_files": peaks[1]}


def measure(folder: Path, size: float, names: list[str], workers: list[str]) -> dict[str, Any]:
    """All figures; `folder` is empty, and removed by the caller."""
    figures: dict[str, Any] = {"gigabytes": size / 1e9, "documents": write_corpus(folder, size)}
    for name in names:
        reading = read(folder)
        options = [*RUNS[name], *workers]
        found = prepare(f"jsonl:{folder}/*.jsonl#text", folder / "store", options)
        manifest = json.loads((folder / "store/manifest.json").read_text())
        shutil.rmtree(folder / "store")
        figures[name] = {
            "seconds": round(found["seconds"], 1),
            "megabytes_a_second": round(size / 1e6 / found["seconds"], 2),
            "ratio_to_reading": round(reading / found["seconds"], 4),
            "peak_megabytes": round(found["peak"] / 1e6),
            "with_files_megabytes": round(found["with_files"] / 1e6),
            **{key: manifest[key] for key in ("duplicates", "near_duplicates", "contaminated")},
        }
    return figures


def main() -> None:
    """Measure and print; see the head of this file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=1.0, help="of JSON lines")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()),
                        help="where the temporary folder is made")
    parser.add_argument("--only", choices=RUNS, help="one of the two ways to prepare")
    parser.add_argument("--workers", help="processes; by default one for each core")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    arguments = parser.parse_args()
    size = arguments.gigabytes * 1e9
    free, needed = shutil.disk_usage(arguments.folder).free, DISK * size
    if free < needed:
        parser.error(f"{arguments.folder}: {free / 1e9:.1f} GB are free, and {needed / 1e9:.1f} GB "
                     "are needed; choose another --folder, or fewer --gigabytes")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the folder is removed
    workers = ["--workers", arguments.workers] if arguments.workers else []
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        names = [arguments.only] if arguments.only else list(RUNS)
        figures = measure(Path(folder), size, names, workers)
    text = json.dumps({"cores": len(os.sched_getaffinity(0)), **figures}, indent=2)
    print(text)
    if arguments.json is not None:
        arguments.json.write_text(text + "\n")


if __name__ == "__main__":
    main()

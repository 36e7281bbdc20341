"""Whatever is changed in a valid file: it is read, or one UserError names it, in bounded time and
memory.

Every example has a number. A failure says it, and keeps the bytes in build/fuzz; repeat it with

    SCALING_FUZZ_SEED=0 SCALING_FUZZ_ONLY=NUMBER pytest tests/fuzz -k READER
"""

from __future__ import annotations

import os
import random
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from scaling.errors import UserError
from tests.conftest import ROOT
from tests.fuzz.limits import TooLong, at_most, little_memory
from tests.fuzz.mutate import mutated
from tests.fuzz.readers import READERS, Made, Prepared, Reader

SEED = os.environ.get("SCALING_FUZZ_SEED", "0")
ONLY = os.environ.get("SCALING_FUZZ_ONLY")

SECONDS = 20.0
"""For one file."""
GIGABYTES = 2.0
"""Of address space, for all files of a reader together."""
LONGEST_MESSAGE = 10_000
MOST_FAILURES = 10
"""Different failures of a reader that are told."""

# Where one array of several cannot be read, Orbax drops what it has begun to do for the others.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(scope="module")
def made(tmp_path_factory, store_path) -> Made:
    return Made(tmp_path_factory.mktemp("made"), store_path)


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_a_changed_file_is_read_or_refused(reader: Reader, made: Made, tmp_path: Path) -> None:
    check(reader, reader.prepare(tmp_path, made), range(reader.few))


@pytest.mark.fuzz
@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_many_changed_files_are_read_or_refused(
    reader: Reader, made: Made, tmp_path: Path
) -> None:
    check(reader, reader.prepare(tmp_path, made), range(reader.few, reader.few + reader.many))


def test_fewer_examples_have_a_reason() -> None:
    assert len({reader.name for reader in READERS}) == len(READERS)
    for reader in READERS:
        least = 30 if reader.name.startswith("checkpoint") else 50
        assert reader.few >= least
        assert reader.why or (reader.few == 200 and reader.many == 10_000), reader.name


@dataclass
class Failures:
    """What has gone wrong, each kind once."""

    reader: Reader
    kinds: dict[str, str] = field(default_factory=dict)

    def add(self, number: int, content: bytes, kind: str, details: str) -> None:
        """Keep the bytes, unless such a failure is known."""
        if kind in self.kinds or len(self.kinds) >= MOST_FAILURES:
            return
        folder = ROOT / "build" / "fuzz"
        folder.mkdir(parents=True, exist_ok=True)
        name = "".join(letter if letter.isalnum() else "-" for letter in self.reader.name)
        path = folder / f"{name}-{SEED}-{number}"
        path.write_bytes(content)
        shown = repr(content) if len(content) < 1000 else f"{content[:1000]!r}..."
        self.kinds[kind] = (f"example {number} of seed {SEED}: {kind}\n{details}\n"
                            f"{len(content):,} bytes, kept in {path}:\n{shown}\n")

    def tell(self) -> None:
        """Fail, if anything has."""
        if self.kinds:
            pytest.fail(f"{self.reader.name}\n\n" + "\n".join(self.kinds.values()), pytrace=False)


def check(reader: Reader, prepared: Prepared, numbers: range) -> None:
    """Read a valid file, then one for each number."""
    valid = prepared.valid or (prepared.path.read_bytes(),)
    for content in valid:
        _write(prepared, content)
        prepared.read()
    failures = Failures(reader)
    with little_memory(GIGABYTES):
        for number in numbers if ONLY is None else [int(ONLY)]:
            draw = random.Random(f"{SEED} {reader.name} {number}")
            content = mutated(draw.choice(valid), draw)
            _write(prepared, content)
            if problem := problem_of(prepared):
                failures.add(number, content, *problem)
    failures.tell()


def problem_of(prepared: Prepared) -> tuple[str, str] | None:
    """What is wrong with how a file is read: in short, and in full."""
    begun = time.monotonic()
    try:
        with at_most(SECONDS):
            prepared.read()
    except UserError as error:
        message = str(error)
        names = prepared.names or str(prepared.path)
        if names != "*" and names not in message:
            return "a message that does not name the file", message[:1000]
        if len(message) > LONGEST_MESSAGE:
            return f"a message of {len(message):,} characters", message[:1000]
    except (Exception, TooLong) as error:
        ours = [frame for frame in traceback.extract_tb(error.__traceback__)
                if "/scaling/" in frame.filename or "/fuzz/readers" in frame.filename]
        where = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else "?"
        return (f"{type(error).__name__} in {where}",
                "".join(traceback.format_exception(error, limit=-12))[-4000:])
    if time.monotonic() - begun > SECONDS:
        return f"more than {SECONDS:.0f} seconds", ""
    return None


def _write(prepared: Prepared, content: bytes) -> None:
    if prepared.restore is not None:
        prepared.restore()
    prepared.path.write_bytes(content)

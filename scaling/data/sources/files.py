"""The user's own files: plain text, and the globs that select files."""

from __future__ import annotations

import difflib
import errno
import glob
import os
import re
import stat
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from scaling.data.sources.base import Decode, Part, Source, group_by_size, refuse_binary
from scaling.data.sources.compressed import open_decompressed
from scaling.errors import UserError

LARGEST_TEXT = 256 * 2**20
"""Largest size of a file that becomes one document, in bytes: 60 times the King James Version."""

MOST_FILES = 200_000
"""Largest number of files that one glob may match: the list is sent to every worker."""

LONGEST_NAME = 64
"""Largest length of a corpus name in characters."""

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def find_text(source: str) -> Source:
    """`text:GLOB`: a document per file, decompressed if its name ends in .gz, .xz, .bz2 or .zst.

    The text is unchanged, line endings included; only a byte order mark is removed.
    """
    pattern = source.removeprefix("text:")
    return files_source(source, corpus_name(pattern, "text"), "text", match_files(pattern, source))


def files_source(name: str, corpus: str, reading: str, files: tuple[Path, ...],
             note: str = "") -> Source:
    """A source whose documents are whole files; a part is a range of consecutive files."""
    return Source(name, corpus, reading, files, partial(_whole, files), _by_files, note=note)


def split_field(source: str) -> tuple[str, str]:
    """Split KIND:GLOB#FIELD into the glob and the field."""
    kind, _, rest = source.partition(":")
    pattern, mark, field = rest.rpartition("#")
    if not mark or not field:
        raise UserError(f"{source}: which field contains the text? Write {kind}:GLOB#FIELD, for "
                        f"example {source.rstrip('#')}#text")
    return pattern, field


def match_files(pattern: str, source: str) -> tuple[Path, ...]:
    """The files that match a glob, sorted by name; folders are ignored.

    Raises:
        UserError: There is none, there are too many, or one is a pipe, a device or a broken link.
    """
    found, folder = [], None
    for name in glob.iglob(os.path.expanduser(pattern), recursive=True):
        try:
            mode = os.stat(name).st_mode
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ELOOP):
                raise
            if not os.path.lexists(name):
                continue
            raise UserError(f"{source}: matches {name}, which is a broken link; fix the link, or "
                            "choose a glob without it") from None
        if stat.S_ISREG(mode):
            found.append(name)
        elif stat.S_ISDIR(mode):
            folder = name
        else:
            raise UserError(f"{source}: matches {name}, which is a pipe or device, but a file is "
                            "expected; choose a glob without it")
        if len(found) > MOST_FILES:
            raise UserError(f"{source}: matches more than {MOST_FILES:,} files; put their texts "
                            "into fewer files, as JSON lines (jsonl:GLOB#FIELD)")
    if not found:
        folders = f", only folders ({folder})" if folder else ""
        raise UserError(f"{source}: no file matches {pattern!r}{folders}; relative to {Path.cwd()}")
    return tuple(map(Path, sorted(found)))


def corpus_name(pattern: str, default: str) -> str:
    """Corpus name of a glob: its last part without wildcards, such as books for `books/*.txt`."""
    for part in reversed(Path(pattern).parts):
        name = clean_name(part.split(".")[0])
        if name and not glob.has_magic(part):
            return name
    return default


def clean_name(text: str, keep: str = "") -> str:
    """A name for folders and tables: at most LONGEST_NAME ASCII letters, digits and characters of
    `keep`, with runs of all other characters replaced by a dash."""
    name = re.sub(rf"[^A-Za-z0-9{re.escape(keep)}]+", "-", text).strip(f"-{keep}")
    return name[:LONGEST_NAME].rstrip(f"-{keep}")


def suggest_field(field: str, names: list[str]) -> str:
    """A hint for a missing field: the most similar name, or the names that exist."""
    # Only some are compared, since a hostile line could have a million names.
    near = difflib.get_close_matches(field, [name[:100] for name in names[:200]], n=1)
    shown = ", ".join(f"{name:.40}" for name in names[:8]) or "none"
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return f"did you mean {near[0]!r}?" if near else f"it has {shown}{more}"


def _by_files(files: tuple[Path, ...], target_bytes: int) -> list[Part]:
    sizes = (path.stat().st_size for path in files)
    return [Part(files[start], start, stop) for start, stop in group_by_size(sizes, target_bytes)]


def _whole(files: tuple[Path, ...], part: Part, decode: Decode) -> Iterator[str | None]:
    for path in files[part.start:part.stop]:
        with open_decompressed(path) as file:
            pieces, left = list[bytes](), LARGEST_TEXT + 1
            while left > 0 and (piece := file.read(min(left, _PIECE_BYTES))):
                pieces.append(piece)
                left -= len(piece)
        if left <= 0:
            refuse_binary(pieces[0], path, is_utf8=True)
            raise UserError(f"{path}: contains more than {LARGEST_TEXT / 1e6:,.0f} MB of text, "
                            "which is too much for one document; split it into several, for "
                            "example as JSON lines")
        yield decode(b"".join(pieces).removeprefix(BYTE_ORDER_MARK), str(path))


_PIECE_BYTES = 2**20

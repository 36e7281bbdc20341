"""The ledger of forecasts: JSON lines, of which each has the hash of the one before.

A record is canonical JSON (sorted keys, no spaces) with these keys:

    command, version   the command that writes ledgers, and the version of the format
    date               when the forecast was sealed, UTC
    law                name, form, formula, params, convention, objective, n_runs, the hash of the
                       runs that it was fitted to, and that of the law's JSON
    run                run_id or null, and the values of the variables
    fitted_point       whether a run with these values was among the fitted ones; null: not known
    prediction, interval, level, quantiles
                       of one new run's outcome; interval and quantiles are null without resamples
    note               a text of the user
    previous           the hash of the record before; 64 zeros in the first record
    sha256             the hash of the record without this key

A changed record does not have its hash; the record after one that was removed, inserted or moved
has the hash of another. Records that are removed from the end, and a file that is written anew as a
whole, show only in a hash that was noted elsewhere, such as in a commit.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from scaling.errors import UserError, option
from scaling.file_lock import file_lock
from scaling.files import parse_json, read_bytes, write_atomically, write_new
from scaling.laws.arguments import checked
from scaling.laws.frozen import freeze_fields
from scaling.laws.json_object import JsonObject
from scaling.laws.law import LEVEL, Interval
from scaling.outputs import COMMAND, check_place, finite

QUANTILES = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
"""Probabilities of the quantiles that a record keeps."""

_WRITER = "scaling forecast seal"
_VERSION = 1
_FIRST = "0" * 64  # `previous` of the first record
_START = f'{{"{COMMAND}":"{_WRITER}",'.encode()  # of every record: the other keys sort after it
_MAX_BYTES = 64 * 2**20  # some 50,000 records
_MAX_NOTE = 1000


@dataclass(frozen=True)
class ForecastingLaw:
    """What a ledger keeps of the law that made a forecast.

    Attributes:
        name: its name in the file of laws, or that of the publication.
        form: name of its form.
        formula: of the form.
        params: the parameters.
        convention: what N, D and C count, and the columns of other variables.
        objective: the loss of the residuals: its kind, and Huber's delta.
        n_runs: number of fitted runs; None for a published law.
        data_sha256: hash of the fitted runs (`RunsTable.sha256`); None for a published law.
        sha256: hash of the law's JSON.
    """

    name: str
    form: str
    formula: str
    params: Mapping[str, float | None]
    convention: Mapping[str, Any]
    objective: Mapping[str, Any]
    n_runs: int | None
    data_sha256: str | None
    sha256: str

    def __post_init__(self) -> None:
        freeze_fields(self)


@dataclass(frozen=True, repr=False)
class SealedForecast:
    """A record of a ledger.

    Attributes:
        line: its line in the file, from 1.
        date: when it was sealed.
        law: the law that predicted.
        run_id: the run; None for any run with these values of the variables.
        variables: N, D and so on, by name.
        fitted_point: whether a run with these values was among the fitted ones; None if not known.
        prediction: the outcome, in most laws the loss in nats per token.
        interval: of one new run's outcome, at `level`; None for a law without resamples.
        level: nominal coverage of the interval.
        quantiles: of the same distribution, by probability.
        note: a text of the user.
        previous: hash of the record before.
        sha256: hash of the record.
    """

    line: int
    date: datetime
    law: ForecastingLaw
    run_id: str | None
    variables: Mapping[str, float]
    fitted_point: bool | None
    prediction: float
    interval: Interval | None
    level: float
    quantiles: Mapping[float, float]
    note: str
    previous: str
    sha256: str

    def __repr__(self) -> str:
        of = self.run_id or ", ".join(f"{name} = {value:.4g}"
                                      for name, value in self.variables.items())
        ends = "" if self.interval is None else (
            f", {self.level:.0%} interval {self.interval[0]:.4g} to {self.interval[1]:.4g}")
        return (f"line {self.line}, sealed {self.date:%Y-%m-%d %H:%M} UTC: {self.law.name} "
                f"predicts {self.prediction:.4g}{ends} for {of}")

    def __post_init__(self) -> None:
        freeze_fields(self)


def canonical(content: Any) -> str:
    """JSON text that depends on the content alone."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)


def sha256_of(content: Any) -> str:
    """The hash of the canonical JSON."""
    return hashlib.sha256(canonical(content).encode()).hexdigest()


@checked
def read_ledger(path: str | Path) -> list[SealedForecast]:
    """The forecasts of a ledger, in the order in which they were sealed.

    Raises:
        UserError: it is no ledger, or a record was changed, removed, inserted or moved; the message
            names the line.
        OSError: it cannot be read.
    """
    path = Path(path)
    try:
        data = read_bytes(path, _MAX_BYTES)
    except FileNotFoundError:
        writes = option("`seal_forecast`", f"`{_WRITER} LAW --ledger {path}`")
        raise UserError(f"{path}: no such file; {writes} writes it") from None
    return _parse(data, path)


def check_ledger(path: Path) -> None:
    """Check that forecasts can be appended to a ledger, which may be a new file.

    Raises:
        UserError: it is a file of another kind, or its chain is broken.
        OSError: it cannot be created or read.
    """
    if not path.exists():
        if path.is_symlink():
            raise UserError(f"{path}: is a dangling link; give the ledger another name")
        check_place(path)
        return
    read_ledger(path)


def append(path: Path, forecasts: Sequence[Mapping[str, Any]]) -> list[SealedForecast]:
    """Seal forecasts: append them to a ledger, all or none, and flush it to disk.

    A forecast that the ledger has already (of the same law, run and values) is not repeated.

    Args:
        path: the ledger, or a new file. Processes that append at the same time wait for each other.
        forecasts: the keys of records from `law` to `note`.

    Returns:
        The record of each forecast, a new one or the earlier one.

    Raises:
        UserError, OSError: as `check_ledger`; the file is then unchanged.
    """
    check_ledger(path)
    path = path.resolve()  # a link stays one
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        write_new(path, "")
    with file_lock(path):
        data = read_bytes(path, _MAX_BYTES)
        sealed = _parse(data, path)
        known = {_subject(record): record for record in sealed}
        text = data.decode()
        text += "\n" if text and not text.endswith("\n") else ""
        found = []
        for forecast in forecasts:
            content: dict[str, Any] = finite({
                COMMAND: _WRITER, "version": _VERSION, **forecast, "level": LEVEL,
                "date": datetime.now(UTC).isoformat(timespec="microseconds"),
                "previous": sealed[-1].sha256 if sealed else _FIRST})
            line = canonical(content | {"sha256": sha256_of(content)})
            record = _record(line.encode(), len(sealed) + 1, path)
            if _subject(record) not in known:
                known[_subject(record)] = record
                sealed.append(record)
                text += line + "\n"
            found.append(known[_subject(record)])
        if len(text.encode()) > _MAX_BYTES:
            raise UserError(f"{path}: would be larger than {_MAX_BYTES / 1e6:,.0f} MB, the limit "
                            "for a ledger; begin another one")
        if text.encode() != data:
            write_atomically(path, text)
    return found


def check_note(note: str) -> None:
    """Check the text that goes with a forecast.

    Raises:
        UserError: it is too long.
    """
    if len(note) > _MAX_NOTE:
        raise UserError(f"note: {len(note):,} characters, where at most {_MAX_NOTE:,} are "
                        "expected; shorten it")


def _subject(record: SealedForecast) -> tuple[object, ...]:
    """The law and the run of a forecast."""
    return (record.law.sha256, record.law.name, record.run_id,
            tuple(sorted(record.variables.items())))


def _writer() -> str:
    return option("`seal_forecast`", f"`{_WRITER}`")


def _parse(data: bytes, path: Path) -> list[SealedForecast]:
    """The records of a ledger's content, whose chain is checked."""
    if not data.startswith(_START[:len(data)]):
        raise UserError(f"{path}: line 1 was not written by {_writer()}, so the file is neither "
                        "read nor changed; give the ledger of forecasts, or a new file")
    *lines, rest = data.split(b"\n")
    sealed: list[SealedForecast] = []
    previous = _FIRST
    for number, line in enumerate([*lines, *([rest] if rest else [])], start=1):
        whole = number <= len(lines)
        record = _record(line, number, path, whole)
        if record.previous != previous:
            raise UserError(
                f"{path}: line {number} does not follow the record before it: a record was "
                "removed, inserted or moved here; restore the ledger from a copy")
        previous = record.sha256
        sealed.append(record)
    return sealed


def _record(line: bytes, number: int, path: Path, whole: bool = True) -> SealedForecast:
    """A record from its line, whose hash is checked.

    Args:
        line: without the end of the line.
        number: of the line, from 1.
        path: of the ledger, for messages.
        whole: whether the line has its end.
    """
    source = f"{path}: line {number}"
    try:
        content = parse_json(line, source, unique_keys=True)
    except UserError as error:
        if whole:
            raise UserError(f"{error}: it was changed after it was sealed; restore the ledger from "
                            "a copy") from None
        fix = f"keep the {number - 1} before it (head -n {number - 1})" if number > 1 else (
            "remove the file")
        raise UserError(f"{source} is cut off, as by a crash or a full disk, and holds no "
                        f"forecast; {fix}, and seal it again if its run has not begun") from None
    fields = JsonObject(content, source, writer=_writer().strip("`"))
    if content.get("version") != _VERSION:
        raise fields.error("version", content.get("version"),
                           f"{_VERSION}, the format of this version of scaling,")
    unsigned = {key: value for key, value in content.items() if key != "sha256"}
    try:
        intact = (canonical(content).encode() == line
                  and sha256_of(unsigned) == content.get("sha256"))
    except (ValueError, RecursionError):  # NaN, or lists in lists
        intact = False
    if not intact:
        raise UserError(f"{source}: does not have the hash with which it was sealed, so it was "
                        "changed afterwards; restore the ledger from a copy")
    return _from_json(fields, number)


def _from_json(fields: JsonObject, number: int) -> SealedForecast:
    """A record from its content; every value is checked, since anyone can compute a hash."""
    law, run = fields.object("law"), fields.object("run")
    quantiles = fields.object("quantiles")
    convention, objective = law.object("convention"), law.object("objective")
    params, variables = law.object("params"), run.object("variables")
    prediction = fields.number("prediction")
    if not prediction > 0:
        raise fields.error("prediction", prediction, "a positive number")
    return SealedForecast(
        line=number, date=_date(fields),
        law=ForecastingLaw(
            law.text("name"), law.text("form"), law.text("formula"),
            {name: params.optional(name) for name in params},
            {key: convention.scalar(key) for key in convention if key != "range"},
            {"kind": objective.text("kind"), "delta": objective.optional("delta")},
            law.count("n_runs") if "n_runs" in law else None,
            law.text("data_sha256") if "data_sha256" in law else None, law.text("sha256")),
        run_id=run.text("run_id") if "run_id" in run else None,
        variables={name: variables.number(name) for name in variables},
        fitted_point=fields.boolean("fitted_point"),
        prediction=prediction, interval=fields.pair("interval"), level=fields.number("level"),
        quantiles={_share(quantiles, key): quantiles.number(key) for key in quantiles},
        note=fields.text("note"), previous=fields.text("previous"), sha256=fields.text("sha256"))


def _share(quantiles: JsonObject, key: str) -> float:
    with suppress(ValueError):
        if 0 < float(key) < 1:
            return float(key)
    raise quantiles.error("", key, "a probability above 0 and below 1")


def _date(fields: JsonObject) -> datetime:
    text = fields.text("date")
    with suppress(ValueError):
        date = datetime.fromisoformat(text)
        if date.tzinfo is not None:
            return date
    raise fields.error("date", text, "a date and time with its zone")

"""Runs in: a CSV or Parquet table, read, checked and turned into the arrays that fits need."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scaling.errors import UserError
from scaling.laws.runs import cells, checks
from scaling.laws.runs.where import condition
from scaling.laws.variables import VARIABLES

Array = NDArray[np.float64]
Counting = Literal["total", "non-embedding"]

FLOPS_PER_PARAMETER_TOKEN = 6
"""Training FLOPs for each parameter and token: 2 forward, 4 backward (Kaplan et al. 2020, 2.1)."""

N_COLUMNS: dict[Counting, str] = {
    "total": "params_total", "non-embedding": "params_non_embedding",
}
SIX_ND = "6 N D"

_STATUSES = ("done", "diverged", "failed", "planned")
_SYNONYMS = {
    **dict.fromkeys(("finished", "complete", "completed", "success", "ok"), "done"),
    **dict.fromkeys(("crashed", "killed", "error", "preempted", "canceled"), "failed"),
    **dict.fromkeys(("running", "pending", "queued", "scheduled"), "planned"),
}
_ROLES = ("grid", "heldout")


@dataclass(frozen=True)
class HeldOutRun:
    """A run that no fit may see; `loss` is None until it is done."""

    run_id: str
    n: float
    d: float
    c: float
    loss: float | None
    others: Mapping[str, float] = field(default_factory=dict)

    @property
    def values(self) -> dict[str, Array]:
        """Every variable, as an array of one."""
        known = {"n": self.n, "d": self.d, "c": self.c, **self.others}
        return {name: np.array([value]) for name, value in known.items()}


@dataclass(frozen=True)
class RunsTable:
    """The finished grid runs of a table, in an order that does not depend on the file's.

    `n` parameters, `d` tokens, `c` training FLOPs and `loss` nats per token have one entry for
    each run in `run_id`; so have the `others`, by the names of `VARIABLES`. Where a law does not
    need N, D or C and the table does not give it, its entries are NaN. A table that was read for
    another outcome has that in place of the loss. `excluded` counts the rows that are not among
    the runs, by reason. `convention` says what N, D and C are; `notes` what was filled in;
    `warnings` what looks wrong with the numbers, and every law that is fitted repeats them.
    `source`, `columns` (by variable, and the loss's) and `rows` (places in the file, from 0 on)
    are what messages call things.
    """

    n: Array
    d: Array
    c: Array
    loss: Array
    run_id: tuple[str, ...]
    heldout: tuple[HeldOutRun, ...]
    excluded: dict[str, int]
    convention: dict[str, str]
    notes: tuple[str, ...]
    others: Mapping[str, Array] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    source: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)
    rows: cells.Places = field(default_factory=lambda: np.empty(0, dtype=np.intp))

    @property
    def values(self) -> dict[str, Array]:
        """Every variable by name: n, d, c and the others."""
        return {"n": self.n, "d": self.d, "c": self.c, **self.others}

    def take(self, rows: NDArray[np.intp]) -> RunsTable:
        """The table with only these of its runs; the others are not counted as excluded."""
        return replace(
            self, n=self.n[rows], d=self.d[rows], c=self.c[rows], loss=self.loss[rows],
            run_id=tuple(self.run_id[row] for row in rows),
            others={name: values[rows] for name, values in self.others.items()},
            rows=self.rows[rows] if len(self.rows) else self.rows,
        )

    def called(self, run: int) -> str:
        """How a message names a run: its row in the file, and its run_id."""
        name = self.run_id[run]
        if not len(self.rows):
            return name
        plain = cells.row(int(self.rows[run]), None)
        return plain if name == plain else cells.row(int(self.rows[run]), name)

    @property
    def sha256(self) -> str:
        """Hash of the numbers that a fit reads: N, D, C, loss and the others of every run."""
        columns = (self.n, self.d, self.c, self.loss, *self.others.values())
        rows = list(zip(*(column.tolist() for column in columns), strict=True))
        return hashlib.sha256(json.dumps(rows, separators=(",", ":")).encode()).hexdigest()


def read(
    path: Path,
    *,
    n: str | None = None,
    d: str | None = None,
    c: str | None = None,
    loss: str | None = None,
    counting: Counting | None = None,
    others: Mapping[str, str | None] | None = None,
    needs: Sequence[str] = ("n", "d", "c"),
    where: str | None = None,
) -> RunsTable:
    """A runs table from a CSV or Parquet file, or from a folder that holds `runs.csv`.

    Without column names the file is one of ours: N is `params_total` (or the column of
    `counting`), D is `tokens`, and C = 6 N D. A foreign table names its columns, at least two
    of `n`, `d` and `c`; C = 6 N D fills the third.

    Args:
        path: the file, or the folder.
        n: column of parameters.
        d: column of training tokens.
        c: column of training FLOPs.
        loss: column of losses in nats per token; `loss` by default.
        counting: which parameters N counts. Picks the column where `n` does not.
        others: columns of other variables, by the names of `VARIABLES`; None for a column that
            has the variable's own name, or the one that our tables give it.
        needs: which of n, d and c there must be.
        where: a condition on the table's columns, such as `tokens > 1e9 and corpus == 'c4'`,
            with names that are no identifiers in backticks; rows for which it is not true are
            left out and counted.

    Raises:
        UserError: the file cannot be read, a column is missing, a run that should be fitted has
            a number that is none, or the numbers of the runs cannot be what they are said to be.
    """
    path = file_of(path)
    return from_frame(read_frame(path), str(path), n=n, d=d, c=c, loss=loss, counting=counting,
                      others=others, needs=needs, where=where)


def file_of(path: Path) -> Path:
    """The table itself, where a results folder is given.

    Raises:
        UserError: there is no such file, or the folder holds no runs table.
    """
    if path.is_dir():
        for name in ("runs.csv", "runs.parquet"):
            if (path / name).is_file():
                return path / name
        raise UserError(f"{path}: holds no runs.csv; a results folder has one (scaling sweep "
                        "export writes it), or give the CSV or Parquet file itself")
    if not path.exists():
        raise UserError(f"{path}: no such file; a runs table (CSV or Parquet) is expected, or a "
                        "results folder that holds runs.csv")
    return path


def read_frame(path: Path) -> pd.DataFrame:
    """Any CSV or Parquet file as it is.

    Raises:
        UserError: the file cannot be read as a table.
    """
    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        # A run called 1e5 or 007 keeps its name.
        return pd.read_csv(path, dtype={"run_id": str})
    except ImportError:
        raise UserError(f"{path}: reading Parquet needs pyarrow; `pip install pyarrow`, or give "
                        "the table as CSV") from None
    except (ValueError, OSError) as error:  # pandas' parser errors are ValueErrors
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: not readable as a {path.suffix or 'CSV'} table: {reason}"
                        ) from None


def from_frame(
    frame: pd.DataFrame,
    source: str,
    *,
    n: str | None = None,
    d: str | None = None,
    c: str | None = None,
    loss: str | None = None,
    counting: Counting | None = None,
    others: Mapping[str, str | None] | None = None,
    needs: Sequence[str] = ("n", "d", "c"),
    where: str | None = None,
) -> RunsTable:
    """What `read` does, for a table that is in memory already; `source` names it in messages."""
    columns, convention, notes = _choose(frame, source, n, d, c, counting, needs)
    columns["loss"] = cells.known(frame, source, loss or "loss", "--loss")
    _check_apart(columns, source)
    beside = {v: _other(frame, source, v, column) for v, column in (others or {}).items()}
    convention |= {v: f"column {column}" for v, column in beside.items()}
    if frame.empty:
        raise UserError(f"{source}: has a header and no rows; runs are expected")

    names = cells.run_ids(frame, source)
    roles = cells.labels(frame, source, "role", _ROLES, names, {})
    statuses = cells.labels(frame, source, "status", _STATUSES, names, _SYNONYMS)
    chosen = np.ones(len(frame), dtype=bool) if where is None else condition(frame, where, source)

    grid = (roles == "grid") & chosen
    fitted, held = np.flatnonzero(grid & (statuses == "done")), np.flatnonzero(roles == "heldout")
    excluded = {s: int((grid & (statuses == s)).sum()) for s in _STATUSES if s != "done"}
    excluded["heldout"] = len(held)
    if where is not None:
        excluded["where"] = int(((roles == "grid") & ~chosen).sum())

    def numbers(variable: str, places: cells.Places) -> Array:
        return cells.numbers(frame, source, columns[variable], places, names)

    def more(places: cells.Places) -> dict[str, Array]:
        return {v: cells.numbers(frame, source, column, places, names, VARIABLES[v].may_be_zero)
                for v, column in beside.items()}

    def sizes(places: cells.Places) -> dict[str, Array]:
        known: dict[str, Array] = {v: numbers(v, places) for v in ("n", "d", "c") if v in columns}
        return _fill(known, len(places))

    x, y, z = sizes(fitted), numbers("loss", fitted), more(fitted)
    # The order of the rows, and so the draws of the bootstrap, is the data's own.
    order = np.lexsort((y, x["c"], x["d"], x["n"]))
    rows = fitted[order]
    table = RunsTable(
        x["n"][order], x["d"][order], x["c"][order], y[order], _named(rows, names),
        _heldout(held, statuses, names, sizes, numbers, more), excluded, convention, notes,
        {v: column[order] for v, column in z.items()},
        source=source, columns=columns | beside, rows=rows,
    )
    return checks.checked(table, frame)


def _heldout(
    held: cells.Places, statuses: NDArray[np.str_], names: list[str] | None,
    sizes: Callable[[cells.Places], dict[str, Array]],
    numbers: Callable[[str, cells.Places], Array],
    more: Callable[[cells.Places], dict[str, Array]],
) -> tuple[HeldOutRun, ...]:
    """The runs at the held-out rows, with the losses of those that are done."""
    done = held[statuses[held] == "done"]
    measured = dict(zip(done.tolist(), numbers("loss", done).tolist(), strict=True))
    at, rest = sizes(held), more(held)
    return tuple(
        HeldOutRun(name, float(at["n"][i]), float(at["d"][i]), float(at["c"][i]),
                   measured.get(int(held[i])), {v: float(column[i]) for v, column in rest.items()})
        for i, name in enumerate(_named(held, names))
    )


def _named(places: cells.Places, names: list[str] | None) -> tuple[str, ...]:
    if names is None:
        return tuple(cells.row(place, None) for place in places.tolist())
    return tuple(names[place] for place in places.tolist())


def _check_apart(columns: Mapping[str, str], source: str) -> None:
    """One column is not two quantities."""
    first: dict[str, str] = {}
    for variable, column in columns.items():
        if column in first:
            raise UserError(f"{source}: column {column} is named as --{first[column]} and as "
                            f"--{variable}; a column of its own is expected for each")
        first[column] = variable


def _choose(
    frame: pd.DataFrame, source: str, n: str | None, d: str | None, c: str | None,
    counting: Counting | None, needs: Sequence[str],
) -> tuple[dict[str, str], dict[str, str], tuple[str, ...]]:
    """Columns of n, d and c, the convention that they make, and what is filled in."""
    named = {v: name for v, name in (("n", n), ("d", d), ("c", c)) if name is not None}
    for variable, name in named.items():
        cells.known(frame, source, name, f"--{variable}")
    columns = dict(named)
    if len(named) < 2:
        # Less than two are named: our own columns stand in for n and d.
        filled = {*needs, *(("n", "d") if "c" in needs and "c" not in named else ())}
        if "n" not in columns and "n" in filled:
            hint = "--n, or the other --n-convention"
            columns["n"] = cells.known(frame, source, N_COLUMNS[counting or "total"], hint)
        if "d" not in columns and "d" in filled:
            columns["d"] = cells.known(frame, source, "tokens", "--d")
    convention = {v: f"column {name}" for v, name in columns.items()}
    if "n" in columns and ("n" not in named or counting is not None):
        convention["n"] = counting or "total"
    if columns.get("d") == "tokens":
        convention["d"] = "tokens"
    notes: tuple[str, ...] = ()
    absent = [v for v in ("n", "d", "c") if v not in columns]
    convention |= dict.fromkeys(absent, "not given")
    if len(absent) == 1:
        missing = absent[0]
        six = FLOPS_PER_PARAMETER_TOKEN
        formula = {"n": f"C / ({six} D)", "d": f"C / ({six} N)", "c": SIX_ND}[missing]
        convention[missing] = formula
        notes = (f"{missing.upper()} = {formula} fills the column that is not given",)
    if not named:
        notes = ()  # one of our own tables: 6 N D is what its C is
    return columns, {v: convention[v] for v in ("n", "d", "c")}, notes


def _other(frame: pd.DataFrame, source: str, variable: str, column: str | None) -> str:
    """The column of a variable that is not N, D or C."""
    own = VARIABLES[variable].column
    if column is None and own is not None and variable not in frame.columns:
        column = own
    return cells.known(frame, source, column or variable, f"--column {variable}=COLUMN")


def six_nd(n: Array, d: Array) -> Array:
    """Training FLOPs of N parameters on D tokens."""
    return FLOPS_PER_PARAMETER_TOKEN * n * d


def _fill(known: dict[str, Array], size: int) -> dict[str, Array]:
    """n, d and c, of which C = 6 N D gives the one that is missing."""
    six = FLOPS_PER_PARAMETER_TOKEN
    if len(known) < 2:  # nothing follows from one of them, and no law asked for more
        return dict.fromkeys(("n", "d", "c"), np.full(size, np.nan)) | known
    if "c" not in known:
        return known | {"c": six_nd(known["n"], known["d"])}
    if "d" not in known:
        return known | {"d": known["c"] / (six * known["n"])}
    if "n" not in known:
        return known | {"n": known["c"] / (six * known["d"])}
    return known

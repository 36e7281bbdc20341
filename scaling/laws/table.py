"""Runs in: a CSV or Parquet table, read, checked and turned into the arrays that fits need."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scaling.errors import UserError
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
    the runs, by reason. `convention` says what N, D and C are; `notes` what was filled in.
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

    @property
    def values(self) -> dict[str, Array]:
        """Every variable by name: n, d, c and the others."""
        return {"n": self.n, "d": self.d, "c": self.c, **self.others}

    def take(self, rows: NDArray[np.intp]) -> RunsTable:
        """The table with only these of its runs; the others are not counted as excluded."""
        return RunsTable(
            self.n[rows], self.d[rows], self.c[rows], self.loss[rows],
            tuple(self.run_id[row] for row in rows),
            self.heldout, self.excluded, self.convention, self.notes,
            {name: values[rows] for name, values in self.others.items()},
        )

    @property
    def sha256(self) -> str:
        """Hash of the numbers that a fit reads: N, D, C, loss and the others of every run."""
        columns = (self.n, self.d, self.c, self.loss, *self.others.values())
        rows = [list(row) for row in zip(*map(_plain, columns), strict=True)]
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
        where: an expression of the table's columns, as `pandas.DataFrame.query` reads it; rows
            for which it is not true are left out and counted.

    Raises:
        UserError: the file cannot be read, a column is missing, or a run that should be fitted
            has a number that is none.
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
    columns["loss"] = _known(frame, source, loss or "loss", "--loss")
    beside = {v: _other(frame, source, v, column) for v, column in (others or {}).items()}
    convention |= {v: f"column {column}" for v, column in beside.items()}
    if frame.empty:
        raise UserError(f"{source}: has a header and no rows; runs are expected")

    names = [str(v) for v in frame["run_id"]] if "run_id" in frame else [
        f"row {place}" for place in range(1, len(frame) + 1)
    ]
    most, times = Counter(names).most_common(1)[0]
    if times > 1:
        raise UserError(f"{source}: run_id {most} stands on {times} rows; every run has a name of "
                        "its own")
    roles = _labels(frame, source, "role", _ROLES, names)
    statuses = _labels(frame, source, "status", _STATUSES, names)
    chosen = _chosen(frame, source, where)

    grid = [r == "grid" and chosen[place] for place, r in enumerate(roles)]
    fitted = [place for place, s in enumerate(statuses) if grid[place] and s == "done"]
    held = [place for place, r in enumerate(roles) if r == "heldout"]
    excluded = {s: sum(g and t == s for g, t in zip(grid, statuses, strict=True))
                for s in _STATUSES if s != "done"}
    excluded["heldout"] = len(held)
    if where is not None:
        excluded["where"] = sum(r == "grid" and not ok for r, ok in zip(roles, chosen, strict=True))

    def numbers(variable: str, places: list[int]) -> Array:
        return _numbers(frame, source, columns[variable], places, names)

    def more(places: list[int]) -> dict[str, Array]:
        return {v: _numbers(frame, source, column, places, names, VARIABLES[v].may_be_zero)
                for v, column in beside.items()}

    def sizes(places: list[int]) -> dict[str, Array]:
        known: dict[str, Array] = {}
        for variable in ("n", "d", "c"):
            if variable in columns:
                known[variable] = numbers(variable, places)
        return _fill(known, len(places))

    x, y, z = sizes(fitted), numbers("loss", fitted), more(fitted)
    # The order of the rows, and so the draws of the bootstrap, is the data's own.
    order = np.lexsort((y, x["c"], x["d"], x["n"]))
    done = [place for place in held if statuses[place] == "done"]
    measured = dict(zip(done, numbers("loss", done), strict=True))
    at, rest = sizes(held), more(held)
    heldout = tuple(
        HeldOutRun(names[p], float(at["n"][i]), float(at["d"][i]), float(at["c"][i]),
                   float(measured[p]) if p in measured else None,
                   {v: float(column[i]) for v, column in rest.items()})
        for i, p in enumerate(held)
    )
    return RunsTable(
        x["n"][order], x["d"][order], x["c"][order], y[order],
        tuple(names[fitted[i]] for i in order), heldout, excluded, convention, notes,
        {v: column[order] for v, column in z.items()},
    )


def _choose(
    frame: pd.DataFrame, source: str, n: str | None, d: str | None, c: str | None,
    counting: Counting | None, needs: Sequence[str],
) -> tuple[dict[str, str], dict[str, str], tuple[str, ...]]:
    """Columns of n, d and c, the convention that they make, and what is filled in."""
    named = {v: name for v, name in (("n", n), ("d", d), ("c", c)) if name is not None}
    for variable, name in named.items():
        _known(frame, source, name, f"--{variable}")
    columns = dict(named)
    if len(named) < 2:
        # Less than two are named: our own columns stand in for n and d.
        filled = {*needs, *(("n", "d") if "c" in needs and "c" not in named else ())}
        if "n" not in columns and "n" in filled:
            hint = "--n, or the other --n-convention"
            columns["n"] = _known(frame, source, N_COLUMNS[counting or "total"], hint)
        if "d" not in columns and "d" in filled:
            columns["d"] = _known(frame, source, "tokens", "--d")
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


def _known(frame: pd.DataFrame, source: str, column: str, option: str) -> str:
    """The column's name, if the table has it."""
    if column in frame.columns:
        return column
    there = [str(name) for name in frame.columns]
    lower = {name.lower(): name for name in there}
    near = difflib.get_close_matches(column.lower(), lower, n=1, cutoff=0.4)
    hint = f"did you mean {lower[near[0]]}? " if near else ""
    raise UserError(f"{source}: has no column {column}; {hint}It has {', '.join(there)}. Name "
                    f"another with {option}")


def _other(frame: pd.DataFrame, source: str, variable: str, column: str | None) -> str:
    """The column of a variable that is not N, D or C."""
    own = VARIABLES[variable].column
    if column is None and own is not None and variable not in frame.columns:
        column = own
    return _known(frame, source, column or variable, f"--column {variable}=COLUMN")


def _chosen(frame: pd.DataFrame, source: str, where: str | None) -> list[bool]:
    """Which rows `where` is true for; all, where there is none."""
    if where is None:
        return [True] * len(frame)
    try:
        found = frame.eval(where, engine="python", local_dict={}, global_dict={})
        mask = np.asarray(found)
        if mask.shape != (len(frame),) or mask.dtype != np.bool_:
            raise ValueError("it is not true or false for every row")
    except Exception as error:  # pandas raises whatever the expression led it to
        there = ", ".join(map(str, frame.columns))
        raise UserError(f"--where {where!r}: not a condition on the columns of {source} ({error}); "
                        f"such as \"params_total > 1e5\"; columns are {there} (names with spaces "
                        "stand in backticks)") from None
    if not mask.any():
        raise UserError(f"--where {where!r}: no row of {source} is left")
    return [bool(value) for value in mask]


def _labels(
    frame: pd.DataFrame, source: str, column: str, allowed: tuple[str, ...], names: list[str]
) -> list[str]:
    """A column of words; the first allowed word where the table has no such column."""
    if column not in frame:
        return [allowed[0]] * len(frame)
    found = [str(value) for value in frame[column]]
    for place, value in enumerate(found):
        if value not in allowed:
            raise UserError(f"{source}: {_row(place, names)}, column {column}: {value!r}; "
                            f"expected is one of {', '.join(allowed)}")
    return found


def _numbers(
    frame: pd.DataFrame, source: str, column: str, places: list[int], names: list[str],
    zero: bool = False,
) -> Array:
    """Positive numbers of one column at some rows, or also zeros."""
    raw = frame[column].iloc[places]
    values = pd.to_numeric(raw, errors="coerce").to_numpy(dtype=np.float64)
    fine = np.isfinite(values) & ((values >= 0) if zero else (values > 0))
    if not fine.all():
        i = int(np.argmin(fine))
        found = "nothing" if pd.isna(raw.iloc[i]) else repr(str(raw.iloc[i]))
        raise UserError(f"{source}: {_row(places[i], names)}, column {column}: {found}, where a "
                        f"{'number from zero on' if zero else 'positive number'} is expected; mend "
                        "it, drop the row, or set its status to diverged or failed")
    return values


def _row(place: int, names: list[str]) -> str:
    name = names[place]
    return f"row {place + 1}" + ("" if name == f"row {place + 1}" else f" (run_id {name})")


def _fill(known: dict[str, Array], size: int) -> dict[str, Array]:
    """n, d and c, of which C = 6 N D gives the one that is missing."""
    six = FLOPS_PER_PARAMETER_TOKEN
    if len(known) < 2:  # nothing follows from one of them, and no law asked for more
        return dict.fromkeys(("n", "d", "c"), np.full(size, np.nan)) | known
    if "c" not in known:
        return known | {"c": six * known["n"] * known["d"]}
    if "d" not in known:
        return known | {"d": known["c"] / (six * known["n"])}
    if "n" not in known:
        return known | {"n": known["c"] / (six * known["d"])}
    return known


def _plain(values: Array) -> list[float]:
    return [float(value) for value in values]

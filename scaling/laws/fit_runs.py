"""`fit`: from a table of runs to a law in one call, and the comparison of several."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pandas as pd

from scaling.errors import UserError, option
from scaling.laws.approaches.frontier import Frontier
from scaling.laws.arguments import checked
from scaling.laws.choice import choose
from scaling.laws.compute_frontier import FrontierKind
from scaling.laws.fitted import Fit
from scaling.laws.fitting.bootstrap import ResampleUnit
from scaling.laws.fitting.fit_law import RESAMPLES, fit_law, form_named
from scaling.laws.forms.catalogue import CHOSEN_FROM, FORMS
from scaling.laws.forms.constrained import constrain
from scaling.laws.forms.custom import CustomLaw
from scaling.laws.forms.custom import law as own_law
from scaling.laws.forms.expression import places_of_names
from scaling.laws.forms.form import Form
from scaling.laws.forms.losses import KINDS, ResidualLoss
from scaling.laws.forms.variables import N_COLUMNS, VARIABLES, Counting
from scaling.laws.forms.wrapped import Residuals, of_raw_outcome, unwrapped
from scaling.laws.io import load_with_choice
from scaling.laws.io import save as save_laws
from scaling.laws.law import Law, Method
from scaling.laws.read import curves_of, frame_of, from_frame
from scaling.laws.table import RunsTable

if TYPE_CHECKING:
    from scaling.laws.evidence import Comparison


@checked
def fit(
    runs: RunsTable | pd.DataFrame | str | Path,
    law: str | Form | Callable[..., object] | None = None,
    *,
    n: str | None = None,
    d: str | None = None,
    c: str | None = None,
    loss: str | None = None,
    counting: Counting | None = None,
    extra: Mapping[str, str | None] | None = None,
    where: str | None = None,
    cluster: str | None = None,
    final: bool = False,
    smooth: int = 1,
    curves: pd.DataFrame | str | Path | None = None,
    strict: bool = False,
    frontier: FrontierKind | None = None,
    bins: int | None = None,
    fix: Mapping[str, float] | None = None,
    tie: Sequence[tuple[str, str]] = (),
    objective: str | ResidualLoss | None = None,
    delta: float | None = None,
    residuals: Residuals = "log",
    resamples: int = RESAMPLES,
    resample: ResampleUnit = "case",
    interval: Method = "bca",
    seed: int = 0,
    watch: Callable[[int], None] = lambda done: None,
) -> Fit:
    """Fit a law to runs.

    `sl.fit(frame, "chinchilla", n="params", d="tokens", fix={"E": 1.69})`

    Without `law`, Chinchilla's form, Kaplan's L(N, D) and the q-family that contains both are
    fitted, and the one is returned that predicts larger runs best; its `choice` has the others.

    Args:
        runs: a table of runs from `read`; or a data frame or a file, which is read with the
            columns below as by `read`.
        law: a law's name (`FORMS` has all), or one of one's own: from `law`, as a formula, or as a
            function; by default it is chosen.
        n: column of parameters.
        d: column of training tokens.
        c: column of training FLOPs.
        loss: column of the losses.
        counting: which parameters N counts; by default those of the law's paper.
        extra: columns of further variables, by name.
        where: a condition on the table's columns.
        cluster: column that tells which rows are of one run.
        final: fit only the last row of each run.
        smooth: number of last rows of each run whose loss is averaged, with `final`.
        curves: training curves, as for `check_health`; by default those of `curves.csv` beside the
            file of the runs.
        strict: leave out runs that are unhealthy (`check_health`), instead of warning about them.
        frontier: fit only the runs of the lowest loss for their compute: "pareto" for those that
            no run of as much compute or less surpasses, "binned" for the best one of each bin.
        bins: number of bins of equal width in log C, for "binned"; 10 by default.
        fix: parameters that are fixed at values.
        tie: pairs of parameters; the second takes the value of the first.
        objective: loss of the residuals: "adaptive", "huber", "l1" or "squared"; by default the
            law's own. "huber" with its default delta is that of Hoffmann et al. 2022.
        delta: residual beyond which Huber's loss is linear; the adaptive one estimates it.
        residuals: of the logarithm of the outcome ("log"), unless the law is of another scale, or
            of the outcome itself ("raw").
        resamples: bootstrap resamples; 0 for no intervals.
        resample: what is resampled: runs ("case"), residuals, sizes with all of their runs,
            clusters of rows, which is the default where a table has them, or a random factor for
            the residuals of each cluster, or run ("wild").
        interval: method of the intervals: "bca" or "percentile".
        seed: seed of the resamples.
        watch: called with the number of resamples done.

    Raises:
        UserError: a name is unknown, or the columns are not those of runs.
        DataError: there are too few runs for the law.
    """
    if law is None and (fix or tie):
        raise UserError(f"{'fix' if fix else 'tie'}=: parameters of which law? name it, such as "
                        "fit(runs, \"chinchilla\", ...)")
    forms = [FORMS[name] for name in CHOSEN_FROM] if law is None else [as_form(law)]
    if residuals == "raw":
        forms = [of_raw_outcome(each) for each in forms]
    forms = [constrain(each, fix, tie) for each in forms]
    form = forms[0]
    if isinstance(runs, RunsTable):
        check_read_already({
            "n": n, "d": d, "c": c, "loss": loss, "counting": counting, "extra": extra,
            "where": where, "cluster": cluster, "final": final or None,
            "smooth": None if smooth == 1 else smooth, "curves": curves,
            "strict": strict or None, "frontier": frontier,
            "bins": bins})
        table = runs
    else:
        frame, source = frame_of(runs)
        for each in forms:
            check_no_column_is_fitted(each, frame)
        table = from_frame(
            frame, source, n=n, d=d, c=c, loss=loss, where=where, cluster=cluster, final=final,
            smooth=smooth, curves=curves_of(runs, curves), strict=strict,
            frontier=frontier, bins=bins,
            counting=counting or (form.counting if n is None else None),
            extra={v: (extra or {}).get(v) for v in form.variables if v not in ("n", "d", "c")},
            labels=form.labels, needs=columns_read(form, frame))
    fits = []
    for each in forms:
        robust = (objective if isinstance(objective, ResidualLoss)
                  else residual_loss(each.robust, objective, delta))
        fitted = fit_law(table, each, robust=robust, resamples=resamples, seed=seed, by=resample,
                         method=interval, watch=watch)
        fits.append(Fit(fitted, fitted.residual_loss, table))
    return fits[0] if law is not None else best_of(fits)


def best_of(fits: Sequence[Fit]) -> Fit:
    """The fit that predicts larger runs best, with the choice; the first if only it converged."""
    usable = [fit for fit in fits if fit.law.converged]
    if len(usable) < 2:
        return (usable or fits)[0]
    choice = choose(usable)
    best = next(fit for fit in usable if fit.law is choice.laws[choice.best])
    return replace(best, choice=choice)


def check_read_already(options: Mapping[str, object]) -> None:
    """Check that no option of `read` is given for runs that were read already.

    Args:
        options: by name; None for those that are not given.

    Raises:
        UserError: one is given.
    """
    given = [name for name, value in options.items() if value is not None]
    if given:
        raise UserError(f"{given[0]}=: the runs were read already; give it to read")


def as_form(law: str | Form | Callable[..., object]) -> Form:
    """The form of a name, of a formula as text, or of a function."""
    if isinstance(law, Form):
        return law
    if callable(law) or any(sign in law for sign in "+*/^("):
        own: Form = own_law(law)
        return own
    return form_named(law)


def check_no_column_is_fitted(form: Form, frame: pd.DataFrame) -> None:
    """Check that a parameter of a user's own law is not meant to be a column of the table.

    Raises:
        UserError: a parameter has the name of a column, and a power or a function of it is fitted.
    """
    base = unwrapped(form)
    if not isinstance(base, CustomLaw):
        return
    places = places_of_names(base.expression)
    for name in base.parameters:
        if name in frame.columns and "base" in places[name]:
            variables = [*base.variables, name]
            raise UserError(f"{base.name}: {name} is a column of the table, and a parameter of the "
                            f"law that would be fitted; declare it, as in law(formula, variables="
                            f"{variables}), or rename the parameter")


def columns_read(form: Form, frame: pd.DataFrame) -> tuple[Literal["n", "d", "c"], ...]:
    """Which of N, D and C are read for a form: those of the form, and those in a column of this
    package's tables."""
    ours = {"n": N_COLUMNS[form.counting], "d": VARIABLES["d"].column}
    return tuple(v for v in ("n", "d", "c") if v in form.variables or ours.get(v) in frame.columns)


def residual_loss(
    own: ResidualLoss, objective: str | None, delta: float | None
) -> ResidualLoss:
    """The loss of the residuals for a law; a delta alone does not change laws without one.

    Args:
        own: the law's own loss.
        objective: the name of another one, or None.
        delta: residual beyond which Huber's loss is linear, or None.

    Raises:
        UserError: the name is unknown, or the delta is not positive or not of Huber's loss.
    """
    if objective is not None and objective not in KINDS:
        raise UserError(f"{option('objective=', '--objective ')}{objective}: one of "
                        f"{', '.join(KINDS)} is expected")
    kind = objective or own.kind
    if delta is None:
        return own if kind == own.kind else ResidualLoss(kind)  # type: ignore[arg-type]
    named = option(f"delta={delta:g}", f"--delta {delta:g}")
    if not 0 < delta < float("inf"):
        raise UserError(f"{named}: a positive number is expected, such as 1e-3")
    if objective in ("adaptive", "l1", "squared"):
        why = "estimates its delta" if objective == "adaptive" else "has no delta"
        raise UserError(f"{named} is an option of the huber objective; {objective} {why}")
    return ResidualLoss("huber", delta) if kind in ("adaptive", "huber") else own


@checked
def compare(*fits: Fit | Iterable[Fit] | Mapping[str, Fit]) -> Comparison:
    """Compare laws fitted to the same runs by how well they predict sizes that are left out:
    `compare(a, b)`, `compare([a, b])` or `compare({"mine": a, "theirs": b})`.

    Raises:
        UserError: fewer than two fits are given, or their runs differ.
    """
    from scaling.laws.evidence import compare_forms

    every: list[Fit] = []
    for each in fits:
        every += ([each] if isinstance(each, Fit)
                  else each.values() if isinstance(each, Mapping) else each)
    if len(every) < 2 or not all(isinstance(each, Fit) for each in every):
        raise UserError("compare: at least two fits are expected, such as compare(a, b)")
    first = every[0]
    for other in every[1:]:
        if other.runs.sha256 != first.runs.sha256:
            columns = [each.runs.columns.get("loss") for each in (first, other)]
            what = ("runs" if columns[0] == columns[1] else
                    f"losses (columns {columns[0]} and {columns[1]})")
            raise UserError(f"compare: {other.law.name} was fitted to other {what} than "
                            f"{first.law.name}; fit both to one table and outcome")
    return compare_forms(first.runs, [each.law.form for each in every], robust=first.objective)


@checked
def load(path: str | Path) -> dict[str, Fit | Frontier]:
    """The laws of a file that `Fit.save` or `scaling fit --save` wrote, by name, such as
    "chinchilla of c4_loss" if it has laws of several outcomes. Further ones of the same name are
    "chinchilla 2" and so on. They predict and allocate as when they were
    fitted; their runs are not in the file. If the form was chosen, the one that predicts best has
    the `choice`.

    Raises:
        UserError: the file is absent, or holds no laws.
    """
    found: dict[str, Fit | Frontier] = {}
    times: Counter[str] = Counter()
    laws, choice = load_with_choice(Path(path))
    for law in laws:
        times[law.name] += 1
        name = law.name if times[law.name] == 1 else f"{law.name} {times[law.name]}"
        is_best = choice is not None and choice.laws[choice.best] is law
        found[name] = law if not isinstance(law, Law) else Fit(
            law, law.residual_loss, choice=choice if is_best else None)
    return found


@checked
def save(
    laws: Sequence[Fit | Law | Frontier] | Mapping[str, Fit | Frontier], path: str | Path
) -> None:
    """Write laws to a JSON file, which `load` and the commands read.

    Args:
        laws: fits, laws and frontiers, such as `[a, b]`, or what `load` returns.
        path: a new file, or one that this function or `scaling fit --save` wrote before.

    Raises:
        UserError: the file was not written so, or there are no laws.
    """
    every = [*(laws.values() if isinstance(laws, Mapping) else laws)]
    if not every:
        raise UserError("save: at least one law is expected, such as [fit]")
    save_laws([each.law if isinstance(each, Fit) else each for each in every], Path(path))

"""`scaling simulate`: sweeps drawn from a law, before any is paid for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scaling.cli.terminal import err, out, print_json, print_table, progress
from scaling.errors import UserError

if TYPE_CHECKING:
    from scaling.laws import Law
    from scaling.laws.planning.design import Design
    from scaling.laws.planning.fisher import Noise
    from scaling.laws.planning.simulate import Faults, Study

_SHOWN_TARGETS = ("n-star", "loss", "a")
_MOST_NUMBERS = 10_000


def simulate(
    law: Annotated[str, typer.Argument(
        metavar="LAW", help="Name of a published law, a JSON file that `scaling fit` wrote, or a "
                            "results folder with laws.json.")],
    form: Annotated[str | None, typer.Option(
        "--law", help="Which law of a file that holds several.", show_default=False)] = None,
    sizes: Annotated[str | None, typer.Option(
        metavar="LIST", help="N: `1e7,3e7`, or `1e7:1e9:5` for 5 from 1e7 to 1e9, evenly in the "
                             "logarithm.", show_default=False)] = None,
    tokens: Annotated[str | None, typer.Option(
        metavar="LIST", help="D, for every size.", show_default=False)] = None,
    ratios: Annotated[str | None, typer.Option(
        metavar="LIST", help="Tokens per parameter, for every size.", show_default=False)] = None,
    budgets: Annotated[str | None, typer.Option(
        metavar="LIST", help="C, for every size; without --sizes, five about N* of each.",
        show_default=False)] = None,
    like: Annotated[Path | None, typer.Option(
        metavar="RUNS", help="Take sizes and tokens from a runs table, trained or only planned.",
        show_default=False)] = None,
    noise: Annotated[float, typer.Option(
        help="Standard deviation of the log-loss of runs about the law.")] = 0.01,
    noise_growth: Annotated[float, typer.Option(
        help="Noise grows as C^-g towards smaller runs; --noise is that of the largest.")] = 0.0,
    seeds: Annotated[int, typer.Option(help="Runs at each point.")] = 1,
    draw: Annotated[int, typer.Option(help="Seed of the draws.")] = 0,
    outliers: Annotated[float, typer.Option(help="Share of runs that end too high.")] = 0.0,
    outlier_size: Annotated[float, typer.Option(
        help="How much too high in log-loss, on average.")] = 0.1,
    diverged: Annotated[float, typer.Option(help="Share of runs that diverge.")] = 0.0,
    out_file: Annotated[Path | None, typer.Option(
        "--out", metavar="FILE", help="Write the runs table to this CSV file.",
        show_default=False)] = None,
    repeats: Annotated[int, typer.Option(
        help="Also fit so many such sweeps, and show the intervals to expect.")] = 0,
    target: Annotated[list[str] | None, typer.Option(
        help="With --repeats: n-star, loss, a, or a parameter; may be given again.",
        show_default=False)] = None,
    at: Annotated[float | None, typer.Option(
        metavar="FLOPS", help="With --repeats: the budget of n-star and loss.",
        show_default=False)] = None,
    json_output: Annotated[bool, typer.Option(
        "--json", help="Print the expected intervals as JSON.")] = False,
) -> None:
    """Draw a sweep's losses from a law, and see what a fit of it would be worth.

    Example: `scaling simulate hoffmann2022-3 --sizes 1e7:1e9:5 --ratios 5,20,80 --seeds 2 --out
    runs.csv`

    Example: `scaling simulate besiroglu2024 --budgets 1e18:1e20:4 --repeats 200 --at 1e22`

    The table has our columns, so `scaling fit` reads it. Where a design gives N alone, both of
    the table's parameter counts are that N.
    """
    from scaling.files import write_atomically
    from scaling.laws.planning import simulate as simulations
    from scaling.laws.planning.fisher import Noise

    chosen = law_called(law, form)
    if not chosen.converged:
        err.print(f"warning: {law}: this fit did not converge", style="yellow", markup=False)
    if repeats < 0 or (repeats == 0 and (target or at is not None or json_output)):
        raise UserError("--target, --at and --json belong to --repeats, a whole number such as 200")
    design = _design(chosen, sizes, tokens, ratios, budgets, like)
    spread = Noise(noise, noise_growth, float(design.c.max()))
    faults = simulations.Faults(outliers, outlier_size, diverged)
    table = simulations.simulate(
        chosen, design, spread, seeds=seeds, draw=draw, faults=faults, source=law)
    if out_file is not None:
        _check_replaceable(out_file)
        write_atomically(out_file, table.to_csv(index=False))
        err.print(f"wrote {out_file}: {len(table)} runs, {seeds * design.flops:.3g} FLOP at 6 N D",
                  markup=False)
    elif not repeats:
        typer.echo(table.to_csv(index=False), nl=False)
    if repeats:
        study = _study(chosen, design.times(seeds), spread, repeats, target, at, draw, faults)
        if json_output:
            print_json(study.to_json() | {"runs": len(table), "flops": seeds * design.flops})
        else:
            _print_study(study, len(table), seeds * design.flops)


def law_called(name: str, form: str | None = None) -> Law:
    """A published law by its name, or one of a file or a results folder.

    Raises:
        UserError: there is none, or the file holds several and none is named.
    """
    from scaling.laws import laws_of_loss
    from scaling.laws.published import published, published_named

    path = Path(name)
    if not path.exists():
        entry = published_named(name)
        if entry.law is None:
            there = ", ".join(key for key, other in published().items() if other.law is not None)
            raise UserError(f"{name}: publishes optimal sizes and no law of the loss; laws are "
                            f"published as {there}")
        return entry.law
    path = path / "laws.json" if path.is_dir() else path
    laws = {law.name: law for law in laws_of_loss(path)}
    if not laws:
        raise UserError(f"{path}: holds no law of the loss, only optimal sizes; fit one, such as "
                        "chinchilla")
    if form is None and len(laws) == 1:
        return next(iter(laws.values()))
    if form not in laws:
        holds = f"{path}: holds {', '.join(laws)}"
        raise UserError(f"{holds}; choose one with --law" if form is None else
                        f"{holds}, and no {form}; choose one of them with --law")
    return laws[form]


def numbers(text: str, option: str) -> list[float]:
    """`1e7,3e7`, or `1e7:1e9:5` for numbers evenly spaced in the logarithm, ends included.

    Raises:
        UserError: it is neither, or a number is not positive.
    """
    try:
        if ":" in text:
            low, high, count = text.split(":")
            first, last, many = float(low), float(high), int(count)
            if not (0 < first <= last < float("inf") and 2 <= many <= _MOST_NUMBERS):
                raise ValueError
            return [first * (last / first) ** (k / (many - 1)) for k in range(many)]
        found = [float(part) for part in text.split(",")]
        if not all(0 < value < float("inf") for value in found):
            raise ValueError
        return found
    except ValueError:
        raise UserError(f"{option} {text}: positive numbers are expected, such as 1e7,3e7,1e8, or "
                        "LOW:HIGH:COUNT, such as 1e7:1e9:5") from None


def _design(
    law: Law, sizes: str | None, tokens: str | None, ratios: str | None, budgets: str | None,
    like: Path | None,
) -> Design:
    from scaling.laws.planning import design
    from scaling.laws.runs.table import file_of, read_frame

    given = [name for name, value in (("--tokens", tokens), ("--ratios", ratios),
                                      ("--budgets", budgets), ("--like", like)) if value]
    if len(given) != 1 or (sizes is not None and like is not None):
        raise UserError("give the design as --sizes with one of --tokens, --ratios and --budgets, "
                        "as --budgets alone, or as --like RUNS; given is "
                        f"{', '.join([*(['--sizes'] if sizes else []), *given]) or 'nothing'}")
    if like is not None:
        path = file_of(like)
        return design.like(read_frame(path), str(path), law)
    n = None if sizes is None else numbers(sizes, "--sizes")
    if budgets is not None:
        return design.isoflop(numbers(budgets, "--budgets"), n, law)
    if n is None:
        raise UserError(f"{given[0]} needs --sizes, such as --sizes 1e7:1e9:5")
    if tokens is not None:
        return design.rectangle(n, numbers(tokens, "--tokens"))
    return design.by_ratio(n, numbers(str(ratios), "--ratios"))


def _check_replaceable(path: Path) -> None:
    """Runs that somebody trained are not overwritten with runs that nobody did."""
    from scaling.laws.runs.table import read_frame

    if path.suffix != ".csv":
        raise UserError(f"--out {path}: a file that ends in .csv is expected")
    if path.exists():
        there = read_frame(path)
        if "sweep" not in there or not (there["sweep"] == "simulated").all():
            raise UserError(f"--out {path}: holds something that was not simulated; it is kept. "
                            "Give another file")


def _study(
    law: Law, design: Design, noise: Noise, repeats: int, named: list[str] | None,
    at: float | None, draw: int, faults: Faults,
) -> Study:
    from scaling.laws.planning.fisher import target
    from scaling.laws.planning.simulate import simulate_study

    wanted = named or [name for name in _SHOWN_TARGETS if at is not None or name == "a"]
    targets = [target(law.form, name, at) for name in wanted]
    with progress("simulated sweeps", repeats) as bar:
        return simulate_study(law, design, noise, repeats, targets, faults=faults, draw=draw,
                              watch=bar.update)


def _print_study(study: Study, runs: int, flops: float) -> None:
    from scaling.laws import show

    print_table(
        f"{study.sweeps} sweeps of {runs} runs, {flops:.3g} FLOP each at 6 N D",
        ("target", "truth", "90% of the sweeps find", "width", "sd", "by theory"),
        [(f.target.name, show.number(f.truth), show.span(f.interval),
          f"x {f.width:.3g}" if f.target.log else show.number(f.width, 3),
          show.number(f.sd, 3), show.number(f.expected_sd, 3)) for f in study.found],
    )
    out.print("sd is relative where the width is a factor.", markup=False)
    lost = study.sweeps - study.converged
    if lost:
        out.print(f"warning: {lost} of the fits did not converge and are left out", style="yellow",
                  markup=False)
    for f in study.found:
        if f.lost > lost / study.sweeps + 1e-9:
            out.print(f"warning: {f.lost:.0%} of the sweeps give {f.target.name} no value",
                      style="yellow", markup=False)

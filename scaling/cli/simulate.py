"""`scaling simulate`: sweeps simulated from a law, to plan a real one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scaling.cli.allocate import laws_file
from scaling.cli.options import JsonSwitch
from scaling.console import err, out, print_json, print_table, print_text, progress
from scaling.errors import UserError

if TYPE_CHECKING:
    from scaling.laws import Law
    from scaling.laws.design.fisher import Noise
    from scaling.laws.design.grid import Design
    from scaling.laws.design.simulate import Faults, Study
    from scaling.outputs import Output

_DEFAULT_TARGETS = ("n-star", "loss", "a")
_MAX_NUMBERS = 10_000


def simulate(
    law: Annotated[str, typer.Argument(
        metavar="LAW", help="Name of a published law, a JSON file that `scaling fit` wrote, or a "
                            "results folder with laws.json.")],
    form: Annotated[str | None, typer.Option(
        "--law", help="The law to use of a file with several.", show_default=False)] = None,
    sizes: Annotated[str | None, typer.Option(
        metavar="LIST", help="Values of N: `1e7,3e7`, or `1e7:1e9:5` for 5 values from 1e7 to 1e9, "
                             "evenly spaced in the logarithm.", show_default=False)] = None,
    tokens: Annotated[str | None, typer.Option(
        metavar="LIST", help="Values of D for every size.", show_default=False)] = None,
    ratios: Annotated[str | None, typer.Option(
        metavar="LIST", help="Tokens per parameter, for every size.", show_default=False)] = None,
    budgets: Annotated[str | None, typer.Option(
        metavar="LIST", help="Values of C for every size; without --sizes, five sizes around N* of "
                             "each budget.", show_default=False)] = None,
    like: Annotated[Path | None, typer.Option(
        metavar="RUNS", help="Use the sizes and tokens of a runs table, trained or planned.",
        show_default=False)] = None,
    noise: Annotated[float, typer.Option(
        help="Standard deviation of the log-loss of runs around the law.")] = 0.01,
    noise_growth: Annotated[float, typer.Option(
        help="Exponent g: the noise grows as C^-g towards smaller runs; --noise is that of the "
             "largest run.")] = 0.0,
    seeds: Annotated[int, typer.Option(
        help="Runs at each point; at most a million runs in total.")] = 1,
    seed: Annotated[int, typer.Option(help="Seed of the simulation.")] = 0,
    outliers: Annotated[float, typer.Option(
        help="Fraction of runs whose loss is too high.")] = 0.0,
    outlier_size: Annotated[float, typer.Option(
        help="Mean excess log-loss of outliers.")] = 0.1,
    diverged: Annotated[float, typer.Option(help="Fraction of runs that diverge.")] = 0.0,
    out_file: Annotated[Path | None, typer.Option(
        "--out", metavar="FILE", help="Write the runs table to this CSV file.",
        show_default=False)] = None,
    repeats: Annotated[int, typer.Option(
        help="Also simulate and fit this number of sweeps, at most 100,000, and show the expected "
             "intervals.")] = 0,
    target: Annotated[list[str] | None, typer.Option(
        help="With --repeats: n-star, loss, a, or a parameter; may be repeated.",
        show_default=False)] = None,
    at: Annotated[float | None, typer.Option(
        metavar="FLOPS", help="With --repeats: the compute budget of n-star and loss.",
        show_default=False)] = None,
    json_output: JsonSwitch = False,
) -> None:
    """Simulate the losses of a sweep from a law, and the precision of fits to it.

    Example: `scaling simulate hoffmann2022-3 --sizes 1e7:1e9:5 --ratios 5,20,80 --seeds 2 --out
    runs.csv`

    Example: `scaling simulate besiroglu2024 --budgets 1e18:1e20:4 --repeats 200 --at 1e22`

    The table has the columns that `scaling fit` reads. If a design has only one N, both
    parameter counts of the table are that N. `--json` needs `--repeats` and prints the expected
    intervals.
    """
    from scaling.laws.design import simulate as simulations
    from scaling.laws.design.fisher import Noise
    from scaling.laws.frames import table_path
    from scaling.outputs import csv_text

    if out_file is not None:
        output = _output(out_file, [laws_file(Path(law)), *([table_path(like)] if like else [])])
        output.check()
    chosen = load_law(law, form)
    if not chosen.converged:
        err.print(f"warning: {law}: this fit did not converge", style="yellow", markup=False)
    if repeats < 0 or (repeats == 0 and (target or at is not None or json_output)):
        raise UserError("--target, --at and --json belong to --repeats, a whole number such as 200")
    grid = _design(chosen, sizes, tokens, ratios, budgets, like)
    grid.check_runs(seeds)
    if repeats:
        simulations.check_sweeps(grid.with_seeds(seeds), repeats)
    run_noise = Noise(noise, noise_growth, float(grid.c.max()))
    faults = simulations.Faults(outliers, outlier_size, diverged)
    table = simulations.simulate(
        chosen, grid, run_noise, seeds=seeds, draw=seed, faults=faults, source=law)
    if out_file is not None:
        output.write(csv_text(table))
        err.print(f"wrote {out_file}: {len(table)} runs, {seeds * grid.flops:.3g} FLOP at 6 N D",
                  markup=False)
    elif not repeats:
        print_text(csv_text(table))
    if repeats:
        study = _study(chosen, grid.with_seeds(seeds), run_noise, repeats, target, at, seed, faults)
        if json_output:
            print_json(study.to_json() | {"runs": len(table), "flops": seeds * grid.flops})
        else:
            _print_study(study, len(table), seeds * grid.flops)


def load_law(name: str, form: str | None = None) -> Law:
    """A published law, or a law of a file or a results folder.

    Args:
        name: of the published law, or the path.
        form: the law to use of a file with several.

    Raises:
        UserError: there is none, or the file has several and none is named.
    """
    from scaling.laws import load_loss_laws
    from scaling.laws.published import published, published_named

    path = Path(name)
    if not path.exists():
        entry = published_named(name)
        if entry.law is None:
            names = ", ".join(key for key, other in published().items() if other.law is not None)
            raise UserError(f"{name}: publishes optimal sizes, not a law of the loss; published "
                            f"laws of the loss are {names}")
        return entry.law
    path = laws_file(path)
    laws = {law.name: law for law in load_loss_laws(path)}
    if not laws:
        raise UserError(f"{path}: has no law of the loss, only optimal sizes; fit one, such as "
                        "chinchilla")
    if form is None and len(laws) == 1:
        return next(iter(laws.values()))
    if form not in laws:
        listed = f"{path}: has {', '.join(laws)}"
        raise UserError(f"{listed}; choose one with --law" if form is None else
                        f"{listed}, not {form}; choose one of them with --law")
    return laws[form]


def numbers(text: str, option: str) -> list[float]:
    """`1e7,3e7`, or `1e7:1e9:5` for numbers evenly spaced in the logarithm, ends included.

    Raises:
        UserError: it is neither, or a number is not positive.
    """
    parts = text.split(",")
    if len(parts) > _MAX_NUMBERS:
        raise UserError(f"{option}: {len(parts):,} numbers; at most {_MAX_NUMBERS:,} are "
                        "expected")
    try:
        if ":" in text:
            low, high, count = text.split(":")
            first, last, n = float(low), float(high), int(count)
            if not (0 < first <= last < float("inf") and 2 <= n <= _MAX_NUMBERS):
                raise ValueError
            return [first * (last / first) ** (k / (n - 1)) for k in range(n)]
        found = [float(part) for part in parts]
        if not all(0 < value < float("inf") for value in found):
            raise ValueError
        return found
    except ValueError:
        raise UserError(f"{option} {text}: positive numbers are expected, such as 1e7,3e7,1e8, or "
                        f"LOW:HIGH:COUNT, such as 1e7:1e9:5, with LOW up to HIGH and a COUNT "
                        f"from 2 to {_MAX_NUMBERS:,}") from None


def _design(
    law: Law, sizes: str | None, tokens: str | None, ratios: str | None, budgets: str | None,
    like: Path | None,
) -> Design:
    from scaling.laws.design import grid
    from scaling.laws.frames import read_frame, table_path

    given = [name for name, value in (("--tokens", tokens), ("--ratios", ratios),
                                      ("--budgets", budgets), ("--like", like)) if value]
    if len(given) != 1 or (sizes is not None and like is not None):
        raise UserError("give the design as --sizes with one of --tokens, --ratios and --budgets, "
                        "as --budgets alone, or as --like RUNS; given: "
                        f"{', '.join([*(['--sizes'] if sizes else []), *given]) or 'nothing'}")
    if like is not None:
        path = table_path(like)
        return grid.from_table(read_frame(path), str(path), law)
    n = None if sizes is None else numbers(sizes, "--sizes")
    if budgets is not None:
        return grid.isoflop(numbers(budgets, "--budgets"), n, law)
    if n is None:
        raise UserError(f"{given[0]} needs --sizes, such as --sizes 1e7:1e9:5")
    if tokens is not None:
        return grid.rectangle(n, numbers(tokens, "--tokens"))
    return grid.by_ratio(n, numbers(str(ratios), "--ratios"))


def _output(path: Path, inputs: Sequence[Path]) -> Output:
    """A runs table that may overwrite a simulated one, but not one of trained runs."""
    from scaling.outputs import Output

    if path.suffix != ".csv":
        raise UserError(f"--out {path}: a file that ends in .csv is expected")
    return Output(path, "scaling simulate", _is_simulated, inputs)


def _is_simulated(content: bytes) -> bool:
    rows = content.decode("utf-8", "replace").splitlines()
    names = rows[0].split(",")[:2] if rows else []
    return names == ["run_id", "sweep"] and all(
        row.split(",")[1:2] == ["simulated"] for row in rows[1:])


def _study(
    law: Law, design: Design, noise: Noise, repeats: int, names: list[str] | None,
    at: float | None, seed: int, faults: Faults,
) -> Study:
    from scaling.laws.design.fisher import target_named
    from scaling.laws.design.simulate import simulate_study

    names = names or [name for name in _DEFAULT_TARGETS if at is not None or name == "a"]
    targets = [target_named(law.form, name, at) for name in names]
    with progress("simulated sweeps", repeats) as bar:
        return simulate_study(law, design, noise, repeats, targets, faults=faults, draw=seed,
                              watch=bar.update)


def _print_study(study: Study, n_runs: int, flops: float) -> None:
    from scaling.laws import show

    print_table(
        f"{study.sweeps} sweeps of {n_runs} runs, {flops:.3g} FLOP each at 6 N D",
        ("target", "truth", "90% of the sweeps", "width", "sd", "expected sd"),
        [(f.target.name, show.number(f.truth), show.span(f.interval),
          f"x {f.width:.3g}" if f.target.log else show.number(f.width, 3),
          show.number(f.sd, 3), show.number(f.expected_sd, 3)) for f in study.targets],
    )
    out.print("sd is relative if the width is a factor.", markup=False)
    lost = study.sweeps - study.converged
    if lost:
        out.print(f"warning: {lost} of the fits did not converge and were left out", style="yellow",
                  markup=False)
    for f in study.targets:
        if f.lost > lost / study.sweeps + 1e-9:
            out.print(f"warning: {f.lost:.0%} of the sweeps give {f.target.name} no value",
                      style="yellow", markup=False)

"""What a health check of runs finds: findings by run and kind, and the warnings made of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from scaling.errors import option
from scaling.laws.frozen import freeze_fields
from scaling.laws.show import PrintableResult, TextTable, text_table

Kind = Literal["late_divergence", "short_cooldown", "long_warmup", "no_collapse"]

KINDS: dict[Kind, str] = {
    "late_divergence": "the loss rises and does not recover",
    "short_cooldown": "the cool-down is too short",
    "long_warmup": "the warm-up is too long",
    "no_collapse": "the normalised training curve is far from those of the other runs",
}
"""What each kind of finding means, as a clause. A run of several kinds is left out for the first of
them; runs of the first three are no reference for the last."""

_MOST_NAMED = 4  # runs in a warning


@dataclass(frozen=True, repr=False)
class Finding(PrintableResult):
    """Why a run should not be in a fit.

    Attributes:
        run_id: the name of the run.
        kind: one of `KINDS`.
        sentence: the reason with its numbers, without the name of the run.
        figure: the number that was compared with a threshold: the rise of the loss as a fraction of
            it, the cool-down or the warm-up as a fraction of the run, or the root mean square of
            the deviation of the curve in standard deviations. NaN if the curve ends in losses that
            are not numbers.
    """

    run_id: str
    kind: Kind
    sentence: str
    figure: float

    def parts(self) -> list[str | TextTable]:
        """The run and the sentence."""
        return [f"{self.run_id}: {self.sentence}"]


@dataclass(frozen=True, repr=False)
class Health(PrintableResult):
    """The findings about the runs of a table, and how many runs each check could be made for.

    Attributes:
        findings: sorted by kind, in the order of `KINDS`, then as the runs are in the table.
        runs: number of runs.
        checked: number of runs that could be checked, by kind.
        deviations: by run, the figure of `no_collapse` of each run that was compared, whether it is
            a finding or not.
    """

    findings: tuple[Finding, ...]
    runs: int
    checked: dict[Kind, int]
    deviations: Mapping[str, float]

    def __post_init__(self) -> None:
        freeze_fields(self)

    @property
    def reasons(self) -> dict[str, Kind]:
        """The first kind of finding of each run that has one, by run."""
        return {each.run_id: each.kind for each in reversed(self.findings)}

    @property
    def warnings(self) -> tuple[str, ...]:
        """One warning for each kind of finding, which names the first runs."""
        return tuple(self._warnings())

    def _warnings(self) -> Iterator[str]:
        for kind, meaning in KINDS.items():
            found = [each for each in self.findings if each.kind == kind]
            if not found:
                continue
            named = "; ".join(f"{each.run_id} {each.sentence}" for each in found[:_MOST_NAMED])
            more = len(found) - _MOST_NAMED
            rest = f"; and {more} more" if more > 0 else ""
            them = "it" if len(found) == 1 else "them"
            yield (f"{meaning} in {len(found)} of {self.checked[kind]} runs: {named}{rest}; leave "
                   f"{them} out with {option('strict=True', '--strict')}")

    def to_frame(self) -> pd.DataFrame:
        """The findings as a data frame with the columns `run_id`, `kind`, `figure` and `sentence`.
        """
        return pd.DataFrame(
            [(each.run_id, each.kind, each.figure, each.sentence) for each in self.findings],
            columns=["run_id", "kind", "figure", "sentence"]).astype({"figure": float})

    def parts(self) -> list[str | TextTable]:
        """The number of runs that were checked for each kind, and the findings."""
        counts = text_table(("check", "runs checked", "found"), [
            (kind.replace("_", " "), self.checked[kind],
             sum(each.kind == kind for each in self.findings)) for kind in KINDS])
        found = text_table(("run", "check", "finding"), [
            (each.run_id, each.kind.replace("_", " "), each.sentence) for each in self.findings])
        return [f"{self.runs} runs, {len(self.reasons)} with findings", counts,
                *([found] if self.findings else [])]

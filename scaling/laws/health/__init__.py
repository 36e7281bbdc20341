"""The health of runs before a fit: which runs should not be in it, and why.

`check_health` returns a `Health`; `scaling.laws.read` and `fit` warn about its findings, or leave
these runs out:

    check.py            the entry point
    screen.py           all checks of a runs table, and the table with or without its unhealthy runs
    late_divergence.py  a loss that rises and does not recover
    schedule.py         a cool-down that is too short, a warm-up that is too long
    collapse.py         a training curve that is not like the others
    findings.py         the result
"""

from scaling.laws.health.findings import KINDS, Finding, Health
from scaling.laws.health.screen import curves_beside, screened, with_curve_columns

__all__ = ["KINDS", "Finding", "Health", "curves_beside", "screened", "with_curve_columns"]

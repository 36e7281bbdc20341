"""Evidence beyond the point fit: profiles, sensitivities, validation by extrapolation, comparison
of forms, residuals, and a reporting checklist.

    profile.py, constrained_profile.py
                    the lowest objective at each value of a parameter or of an exponent
    sensitivity.py  fits with other objectives, and without some of the runs
    rolling.py      fits to small runs that predict the larger ones
    comparison.py   forms compared by held-out error, AIC and likelihood ratios
    residuals.py    residuals of each run, and their trends
    checklist.py    the reporting checklist
    refit.py        a fit with its arrays, which the others refit

Not imported by `scaling.laws`, so that a plain fit does not load it.
"""

from scaling.laws.evidence.checklist import as_markdown, as_text, checklist
from scaling.laws.evidence.comparison import (
    Comparison,
    LikelihoodRatio,
    compare_forms,
    likelihood_ratio,
)
from scaling.laws.evidence.profile import Profile, profile
from scaling.laws.evidence.residuals import Residuals, residuals
from scaling.laws.evidence.rolling import Rolling, rolling_origin
from scaling.laws.evidence.sensitivity import (
    Sensitivity,
    leave_one_size_out,
    objective_sensitivity,
    outlier_sensitivity,
)

__all__ = [
    "Comparison", "LikelihoodRatio", "Profile", "Residuals", "Rolling", "Sensitivity",
    "as_markdown", "as_text", "checklist", "compare_forms", "leave_one_size_out",
    "likelihood_ratio", "objective_sensitivity", "outlier_sensitivity", "profile", "residuals",
    "rolling_origin",
]

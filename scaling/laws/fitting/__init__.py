"""Fits of a form to a runs table, with uncertainty and convergence diagnostics.

    fit_law.py            the entry point: many starts, one optimum, and its diagnostics
    preflight.py          checks of the runs before a fit
    search.py             the lowest minimum: starts, valleys, bounds of exponents
    minimise.py           batched Newton's method for robust objectives
    valley.py             searches along flat, curved valleys
    bootstrap.py          bootstrap and jackknife refits
    intervals.py          BCa intervals, and standard errors by the delta method
    likelihood_ratio.py   the scale of the objective, sandwich variances
    misfit.py             runs far from the law, patterns, lack of fit, absent terms
    diagnose.py, interval_checks.py, fit_evidence.py
                          warnings about a fit and its intervals, and what they are drawn from
"""

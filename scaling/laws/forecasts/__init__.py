"""Forecasts of runs that are sealed before the runs exist, and checked afterwards.

    ledger.py      the ledger: an append-only file of records, each with the hash of the one before
    seal.py        forecasts of one run or of the held-out runs of a table
    outcomes.py    the finished run that a forecast is about, and when it was trained
    check.py       forecasts against outcomes
    scores.py      errors, coverage, sharpness and calibration
"""

from scaling.laws.forecasts.check import ForecastCheck, check_forecasts
from scaling.laws.forecasts.ledger import SealedForecast, read_ledger
from scaling.laws.forecasts.seal import seal_forecast, seal_heldout

__all__ = ["ForecastCheck", "SealedForecast", "check_forecasts", "read_ledger", "seal_forecast",
           "seal_heldout"]

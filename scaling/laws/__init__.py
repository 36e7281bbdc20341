"""Scaling laws: forms, fits with their uncertainty and evidence, published constants, allocation.

    frames.py, columns.py, where.py, read.py
                     a CSV or Parquet file to a data frame, its columns, conditions on its rows, and
                     the runs table made of them
    table.py         `RunsTable`: the runs that laws are fitted to
    frozen.py        values that cannot be changed
    checks.py, compute_checks.py
                     checks of a runs table: units, compute, repeated rows
    checkpoints.py   rows that are checkpoints of fewer runs
    compute_frontier.py
                     the runs of the lowest loss for their compute
    health           runs that should not be in a fit
    training_curves.py
                     losses during training
    forms            functional forms, and the catalogue of those that are fitted by name
    fitting          fits of a form, their convergence and uncertainty
    fit_runs.py, fitted.py, prediction.py, values.py
                     `fit`, and `Fit`: a law with its runs, as used in a notebook; what it predicts,
                     and the values that it predicts for
    arguments.py     arguments of the public functions, checked against their annotations
    best_hyperparameters.py
                     `best_hyperparameters`: the best learning rate and batch of each N and D
    choice.py, form_choice.py
                     `choose`: which of several forms predicts larger runs best, and their average
    schedule_law.py  `schedule_law`: laws of loss curves under given learning rate schedules
    fit_chain.py     `fit_chain`: from N and D to the loss on a task, and on to its accuracy
    speedup.py       `speedup`: how much more compute or data one recipe needs than another
    suggest_runs.py  `suggest`: the runs to train next
    law.py           `Law`: a form with its parameters, fitted or published
    published.py     published laws, with the constants of published.json
    io.py, law_json.py, json_object.py
                     laws in JSON files
    approaches       N*(C) without a law of the loss
    allocation       optimal N and D under a law
    conventions      ways of counting N and C
    evidence         profiles, comparisons, rolling forecasts, residuals, checklist
    forecasts        predictions that are sealed before their runs exist, and checked afterwards
    design           expected uncertainty of planned runs, and the runs to train next
    plots            figures of laws and their runs
    show.py          numbers and equations as text

Depends on NumPy, SciPy and pandas only, and on matplotlib when something is drawn, so it can be
used on any table of runs. Modules that take long to import are named in full, as
scipy.optimize.nnls: SciPy imports them when they are first used.
"""

from scaling.errors import DataError, UserError
from scaling.laws.allocation.allocate import Allocation, allocate
from scaling.laws.allocation.chain import Chained, chain
from scaling.laws.approaches import (
    Curves,
    Frontier,
    curves_from_frame,
    disagreement,
    fit_approach,
)
from scaling.laws.best_hyperparameters import BestHyperparameters, best_hyperparameters
from scaling.laws.choice import choose
from scaling.laws.fit_chain import ChainFit, fit_chain
from scaling.laws.fit_runs import compare, fit, load, save
from scaling.laws.fitted import Fit
from scaling.laws.fitting.fit_law import fit_law, form_named, with_heldout
from scaling.laws.forecasts import (
    ForecastCheck,
    SealedForecast,
    check_forecasts,
    read_ledger,
    seal_forecast,
    seal_heldout,
)
from scaling.laws.form_choice import FormChoice
from scaling.laws.forms.catalogue import FORMS
from scaling.laws.forms.constrained import constrain
from scaling.laws.forms.custom import law
from scaling.laws.forms.form import Form
from scaling.laws.forms.losses import ResidualLoss
from scaling.laws.forms.powers import PowerSum, Term
from scaling.laws.forms.pruning import average_parameters
from scaling.laws.health.check import check_health
from scaling.laws.health.findings import Finding, Health
from scaling.laws.io import load_loss_laws
from scaling.laws.law import LEVEL, Bootstrap, Law
from scaling.laws.law_json import law_from_json
from scaling.laws.plots import plot_envelope
from scaling.laws.prediction import Prediction
from scaling.laws.published import Published, published
from scaling.laws.read import from_frame, read
from scaling.laws.schedule_law import schedule_law, with_schedules
from scaling.laws.speedup import Speedup, speedup
from scaling.laws.suggest_runs import suggest
from scaling.laws.table import RunsTable

__all__ = [
    "FORMS", "LEVEL", "Allocation", "BestHyperparameters", "Bootstrap", "ChainFit", "Chained",
    "Curves", "DataError", "Finding", "Fit", "ForecastCheck", "Form", "FormChoice", "Frontier",
    "Health", "Law", "PowerSum", "Prediction", "Published", "ResidualLoss", "RunsTable",
    "SealedForecast", "Speedup", "Term", "UserError", "allocate", "average_parameters",
    "best_hyperparameters", "chain", "check_forecasts", "check_health", "choose", "compare",
    "constrain", "curves_from_frame", "disagreement", "fit", "fit_approach", "fit_chain",
    "fit_law", "form_named", "from_frame", "law", "law_from_json", "load", "load_loss_laws",
    "plot_envelope", "published", "read", "read_ledger", "save", "schedule_law", "seal_forecast",
    "seal_heldout", "speedup", "suggest", "with_heldout", "with_schedules",
]

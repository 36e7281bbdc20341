"""Functional forms of scaling laws, and the catalogue of those that can be fitted by name.

    form.py             base class: prediction, gradient, starting points, printed parameters
    formula.py          base class of a law that is given by its formula only
    powers.py           sums and products of powers; Chinchilla's optimum; Henighan, Ghorbani
    kaplan.py           Kaplan's joint law of N and D
    data.py             how N and D combine; repeated data; overtraining
    farseer.py, experts.py, precision.py, annealing.py, batch.py, hyperparameters.py, mixture.py,
    vocabulary.py, streams.py, pruning.py, step_loss.py
                        laws of further variables and outcomes
    curve.py, curves.py, sigmoidal.py, broken.py, downstream.py
                        laws of one variable, and of downstream tasks
    schedules.py, schedule_laws.py
                        learning rate schedules as data, and laws of loss curves under them
    custom.py, expression.py
                        laws that users write, as a formula or a function
    constrained.py      a form with parameters fixed or tied
    wrapped.py          forms with residuals of the raw outcome, or in units of each run's noise
    losses.py           robust losses of the residuals
    variables.py        the variables of laws, with symbols, units and columns
    catalogue.py        all forms by name

To add a law, add an entry to the `FORMS` of the file with its topic: a `PowerSum` with its terms if
the law is a sum of power laws, otherwise a subclass of `Formula` with the method `outcome_of`.
Everything else (gradient, intervals, the `scaling fit` option) follows from the entry. A `Formula`
starts its fits from its `grid`, with the `linear` parameters solved for. A law with a power of a
sum overrides `starts`, as `QFamily` in data.py does. A new file's `FORMS` is added to
`catalogue.py`, a new variable to `variables.py`, and the paper's constants to
`scaling/laws/published.json`.
"""

"""Compute-optimal allocation: model size N*, tokens D* and predicted loss under a law.

budgets.py   `AllocationBudget`: compute or a target loss, and the constraints of an allocation.
optimise.py  Numerical optimum of any law of N and D, for all bootstrap resamples at once.
search.py    Minimum of a loss in log N, which optimise.py is made of.
allocate.py  `allocate`: optimum, intervals and warnings of fitted and published laws.
chain.py     `chain`: a law of N and D followed by a law of the loss, for downstream outcomes.
"""

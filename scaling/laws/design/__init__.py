"""Design of runs: expected uncertainty, simulated sweeps, and the runs to train next.

grid.py      `Design`: sizes and tokens of planned runs, as grids, IsoFLOP budgets, or from a table.
fisher.py    Expected uncertainty of a fit by the delta method; noise, targets, Fisher information.
simulate.py  `simulate`: runs drawn from a law; `simulate_study`: fits of many simulated sweeps.
exchange.py  `CandidateSet`: greedy c-optimal choice of runs with exchanges.
candidates.py
             Runs to choose from, with their costs: a grid, or the rows of a table.
suggest.py   `suggest`: the runs that narrow the interval of a target the most for their compute.
"""

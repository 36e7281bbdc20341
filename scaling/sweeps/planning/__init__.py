"""Planning: the points of a sweep's grids, its model shapes, and the status of its runs.

    size_ladder.py       model sizes in geometric steps of their parameters
    shapes.py            the models of a sweep, each validated and counted once
    points.py            the points of each kind of grid
    isoloss.py           tokens at which a law predicts a given loss
    isoflop_warnings.py  warnings about budgets with too few sizes
    run_status.py        which runs are new, changed, done or shared, and why
"""

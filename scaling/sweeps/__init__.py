"""Sweeps: the plan of a grid of runs, its cost and status, and the tables of its results.

    plan.py              `make_plan`: from the configuration of a sweep to runs with identities
    planning             the points of its grids, its model shapes, and the status of each run
    cost.py, measure.py  the time of a sweep, from step times measured on this machine
    index.py             a cache of the planned runs, for `scaling sweep status` and `log`
    status.py            the state and speed of each run, and the compute done
    launch_progress.py   compute done and speed while `scaling sweep run` waits
    table.py, kept_rows.py
                         the runs table and the learning curves; rows of earlier tables that stay
    wandb_export.py, tensorboard_export.py
                         histories for Weights & Biases and for TensorBoard
    prune.py             removal of checkpoints that no run needs

Workers, which train the runs, are started by scaling/launch.
"""

"""Launchers: workers that train the runs of a plan, or prepare a corpus, on this machine or on a
cluster.

    launcher.py      the protocol of launchers, and the command of a worker
    registry.py      the launchers by name; other packages add some by entry point
    local.py         the local launcher: processes on this machine's cores or GPUs
    slurm.py         the Slurm launcher: an array of jobs, each a worker (slurm_worker.py)
    supervise.py     starts the workers of any launcher, replaces lost ones, waits for their jobs
    train.py         trains the runs of a plan by workers
    prepare.py       runs the tasks of `scaling data prepare` by workers
    worker.py        a worker process: claims jobs one after the other
    jobs.py          the runs of a plan as jobs, each with its trunk
    worker_plan.py   the file of jobs that a launcher hands to its workers
    claim.py         claims a run: holds its lease, trains it, records the outcome
    piece_worker.py  claims a piece of a corpus, and runs its task
    packing.py       how many runs of one shape are trained side by side
    cancel.py        finds local workers and asks them, or their launchers, to stop
    disk_full.py     workers that stop because their disk is full
"""

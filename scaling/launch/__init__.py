"""Launchers: worker processes that train the runs of a plan, on this machine or on a cluster.

    jobs.py          the runs of a plan as jobs, each with its trunk
    worker_plan.py   the file of jobs that a launcher hands to its workers
    worker.py        a worker process: claims jobs one after the other
    claim.py         claims a job: holds its lease, trains it, records the outcome
    packing.py       how many runs of one shape are trained side by side
    local.py         the local launcher: workers on this machine's cores or GPUs
    slurm.py         the Slurm launcher: an array of jobs, each a worker (slurm_worker.py)
    cancel.py        asks the local launchers of a sweep to stop
    disk_full.py     workers that stop because their disk is full
"""

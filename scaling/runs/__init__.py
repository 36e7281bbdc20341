"""The files of a run, and what is read from them.

    folder.py            the run folder: paths of its files, how they are written and claimed
    files.py             readers of its files, which check types and ranges
    checkpoint_files.py  the list of a checkpoint's files, and the detection of damage
    lease.py             the lease with a heartbeat that the process that trains a run holds
    record.py            the record of a finished run, and the columns of the runs table
    state.py             the state of a run (new, running, done, failed, ...), and its failures
    logs.py              the lines of worker logs about a run
    trunk.py             checkpoints of a constant learning rate that runs share
    planned.py           a run of a sweep before it is trained
    trunk_groups.py      runs that share a trunk, and their costs

The run folder is the only source of facts about a run: everything else is derived from it. Training
and launching write these files; sweeps, reports and the command line read them.
"""

from pathlib import Path

RUNS = Path("runs")
"""Folder of all runs by default."""

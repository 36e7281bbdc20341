"""Optimizers and learning-rate schedules.

    optimizers.py  OPTIMIZERS: update directions by the kind of the configuration, and their numbers
    schedule.py    the learning rate at each step

To add an optimizer, write its configuration in scaling/config/training.py and enter it in the union
there, then its transformation in optimizers.py.
"""

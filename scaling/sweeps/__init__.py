"""Plan a grid of runs, train them in worker processes, and collect the results."""

"""Plan a grid of runs, train them in worker processes, and gather what came out."""

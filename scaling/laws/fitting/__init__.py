"""Fits: the objective, its minimum, resamples and intervals, and what a fit must admit."""

"""Noise functions of objectives: corruption, masking and pairing of text, in numpy."""

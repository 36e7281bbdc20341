"""Runs in: tables read, checked, and turned into the arrays that fits need."""

"""Calls the public functions of `scaling.laws` with values of the wrong types, and prints each call
that raises anything but a UserError, and last the number of calls."""

from __future__ import annotations

import inspect
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import scaling.laws as sl


class _Other:
    """Nothing that any function expects."""


JUNK = [
    None, "a", 3, -1, 1.5, float("nan"), True, [], {}, [1, "a"], {"a": "b"}, {1: 2}, _Other(),
    np.array([1.0, 2.0]), np.zeros((2, 2)), pd.Series(["a"]), pd.DataFrame(), b"a", object, 1j,
    pd.NA, 10**400, [("alpha",)], np.rec.array([(1, 2.0)], dtype=[("a", int), ("b", float)]),
]
"""Values that are wrong for most arguments. Nothing but a UserError may come of them."""


def calls(folder: Path) -> dict[str, tuple[Any, tuple[Any, ...]]]:
    """Public functions and methods that take little time, with the arguments that they need."""
    n, d = map(np.ravel, np.meshgrid(np.geomspace(1e7, 1e9, 5), np.geomspace(1e9, 3e10, 4)))
    noise = np.random.default_rng(0).normal(0, 0.003, n.size)
    frame = pd.DataFrame({"n": n, "d": d, "loss": (
        1.7 + 400 / n**0.34 + 410 / d**0.28) * np.exp(noise)})
    table = sl.read(frame, n="n", d="d")
    fit = sl.fit(table, resamples=40)
    return {
        "read": (sl.read, (frame,)), "predict": (fit.predict, ()),
        "intervals": (fit.intervals, ()), "allocate": (fit.allocate, (1e20,)),
        "save": (fit.save, (folder / "law.json",)), "load": (sl.load, (folder / "law.json",)),
        "sl.save": (sl.save, ([fit], folder / "laws.json")),
        "sl.allocate": (sl.allocate, (fit.law, 1e20)), "form_named": (sl.form_named, ("kaplan-n",)),
        "constrain": (sl.constrain, (sl.FORMS["chinchilla"],)),
        "law": (sl.law, ("E + A*n**-alpha",)), "law.loss": (fit.law.loss, ({"n": n, "d": d},)),
        "chain": (sl.chain, (fit.law, fit.law, {})), "choose": (sl.choose, (fit, fit)),
        "compare": (sl.compare, (fit,)), "rolling": (fit.rolling, ("loss",)),
        "profile": (fit.profile, ("gamma",)), "read_ledger": (sl.read_ledger, (folder / "none",)),
        "fit_approach": (sl.fit_approach, (table, "approach-2")),
        "curves": (sl.curves_from_frame, (frame, "frame")),
        "seal": (sl.seal_forecast, (fit, folder / "ledger.jsonl")),
        "check": (sl.check_forecasts, (folder / "ledger.jsonl", frame)),
        "law_from_json": (sl.law_from_json, (fit.law.to_json(), "law")),
        "residual_loss": (sl.ResidualLoss, ("huber",)),
        "with_heldout": (sl.with_heldout, (fit.law, table)),
        "speedup": (sl.speedup, (fit, fit)), "check_health": (sl.check_health, (frame, frame)),
        "suggest": (sl.suggest, (fit, "gamma", 1e20)),
        "best_hyperparameters": (sl.best_hyperparameters, (frame,)),
        "average_parameters": (sl.average_parameters, (1e9, 0.8)),
        "fit_chain": (sl.fit_chain, (frame, "chinchilla", "none")),
    }


def main() -> None:
    """Make all calls."""
    count = 0
    for name, (function, needed) in calls(Path.cwd()).items():
        parameters = [p.name for p in inspect.signature(function).parameters.values()
                      if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        for value in JUNK:
            for place, parameter in enumerate(parameters):
                args, named = [*needed], {}
                if place < len(args):
                    args[place] = value
                else:
                    named = {parameter: value}
                count += 1
                try:
                    function(*args, **named)
                except (sl.UserError, OSError):
                    continue
                except Exception as error:  # what this looks for
                    print(f"{name}({parameter}={value!r:.30}): {error!r:.100}")
    print(count)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:  # in which paths such as "a" are written
        os.chdir(folder)
        main()

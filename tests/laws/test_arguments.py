"""Wrong types and values in a notebook: each is refused in one sentence, whatever is called."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest

import scaling.laws as sl
from scaling.laws.arguments import checked

ROOT = Path(__file__).resolve().parents[2]


@checked
def planned(
    sizes: Sequence[float], by: Literal["n", "d"] = "n", *, seed: int = 0, final: bool = False,
    fix: dict[str, float] | None = None, where: str | Path | None = None, **values: float,
) -> list[Any]:
    """A public function of this test."""
    return [sizes, by, seed, final, fix, where, values]


@pytest.mark.parametrize(("given", "message"), [
    ({}, "planned: missing a required argument: 'sizes'; its arguments are sizes, by, "),
    ({"sizes": 1}, "sizes=1: a list of numbers is expected"),
    ({"sizes": "12"}, "sizes='12': a list of numbers is expected"),
    ({"sizes": [1, "a"]}, "sizes[1]='a': a number is expected"),
    ({"sizes": [[1]]}, "sizes[0]: a number is expected, not a list"),
    ({"sizes": [1], "by": "m"}, "by='m': \"n\" or \"d\" is expected"),
    ({"sizes": [1], "seed": 1.5}, "seed=1.5: an integer is expected, such as 0"),
    ({"sizes": [1], "seed": None}, "seed=None: an integer is expected, such as 0"),
    ({"sizes": [1], "seed": True}, "seed=True: an integer is expected, such as 0"),
    ({"sizes": [1], "final": 1}, "final=1: True or False is expected"),
    ({"sizes": [1], "fix": [("E", 1)]},
     "fix: a dictionary of numbers by name is expected, not a list, such as {'E': 1.69}"),
    ({"sizes": [1], "fix": {"E": "a"}}, "fix['E']='a': a number is expected"),
    ({"sizes": [1], "fix": {1: 1}}, "a key of fix=1: text is expected"),
    ({"sizes": [1], "where": 3}, "where=3: a path is expected, such as 'tokens > 1e9'"),
    ({"sizes": [1], "n": "a"}, "n='a': a number is expected"),
    ({"sizes": [10**400]}, "sizes[0]=1000000000000000000000000000000000000000...: a number is"),
])
def test_an_argument_of_another_type_is_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(sl.UserError, match=f"^{re.escape(message)}"):
        planned(**given)


@pytest.mark.parametrize("sizes", [
    [1, 2], (1, 2), np.array([1, 2]), np.array([1.0, 2.0], np.float32), pd.Series([1, 2], [5, 6]),
    pd.Index([1, 2]), [np.int64(1), np.float64(2)]])
def test_numbers_and_sequences_of_other_libraries_are_accepted(sizes: Any) -> None:
    found = planned(sizes, seed=np.int64(3), final=np.bool_(True), fix={"E": np.float32(1)},
                    n=np.array(2.0))
    assert list(found[0]) == [1, 2]
    assert isinstance(found[0], list | tuple)  # which `or` and `in` can be asked about


def test_an_unknown_argument_gets_the_nearest_name() -> None:
    @checked
    def only(seed: int = 0) -> int:
        return seed

    with pytest.raises(sl.UserError, match="only: has no argument sed; did you mean seed"):
        only(sed=1)


def test_a_user_error_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="did you mean chinchilla"):
        sl.form_named("chinchila")
    assert issubclass(sl.DataError, sl.UserError)


@pytest.mark.slow
def test_nothing_but_a_user_error_comes_of_any_value() -> None:
    """In a process of its own, since the tests' check of types comes before that of a notebook."""
    done = subprocess.run([sys.executable, "-m", "tests.laws.wrong_arguments"], cwd=ROOT,
                          capture_output=True, text=True, check=True)
    *raised, count = done.stdout.splitlines()
    assert not raised
    assert int(count) > 2_000


def test_several_fits_are_fits(grid: Any) -> None:
    fit = sl.fit(grid(0.003), "kaplan-n", resamples=0)
    for wrong in (3, np.array([1.0]), pd.Series([1.0]), pd.DataFrame({"a": [1]}), "fit"):
        for function in (sl.choose, sl.compare):
            with pytest.raises(sl.UserError, match=r"fits?.* expected"):
                function(fit, wrong)


def test_a_notebook_is_told_what_to_give_instead() -> None:
    code = ("import numpy, pandas, scaling.laws as sl\n"
            "for runs in ([{'n': 1}], pandas.Series([1]), numpy.zeros(2)):\n"
            "    try: sl.fit(runs)\n"
            "    except ValueError as error: print(error)\n"
            "try: sl.fit(pandas.DataFrame({'n': [1]}), n=5)\n"
            "except ValueError as error: print(error)\n"
            "try: sl.ResidualLoss('hubber')\n"
            "except ValueError as error: print(error)\n")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          check=True, cwd=ROOT)
    table = "runs: a table of runs from read, a data frame or a path is expected, not "
    assert done.stdout.splitlines() == [
        f"{table}a list; make one with pandas.DataFrame(...)",
        f"{table}a series; make one with its method to_frame()",
        f"{table}an array; make one with pandas.DataFrame(...)",
        "n=5: the name of a column is expected",
        "objective 'hubber': one of adaptive, huber, l1, squared is expected"]

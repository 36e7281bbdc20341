"""Conditions on rows: columns, comparisons and arithmetic, and nothing else of Python."""

from __future__ import annotations

import re
import time
import warnings

import numpy as np
import pandas as pd
import pytest

from scaling.errors import UserError
from scaling.laws.where import row_mask

pytestmark = pytest.mark.quick

FRAME = pd.DataFrame({"n": [1e6, 2e6, 4e6], "name": ["a", "b", None], "k": [1, 2, 3],
                      "Model Size": [1, 2, 3]})

WRONG = {
    "nothing": ("", "invalid syntax"),
    "blank": ("   ", "invalid syntax"),
    "parentheses": ("(" * 500 + "n > 1" + ")" * 500, "nested|parentheses"),
    "brackets": ("n in " + "[" * 900 + "]" * 900, "nested|parentheses|number"),
    "signs": ("-" * 1900 + "n > 1", "nested"),
    "not not": ("not " * 450 + "n > 1", None),
    "tildes": ("~" * 1900 + "(n > 1)", "nested"),
    "length": ("n > 1 or " * 1000 + "n > 1", "9,005 characters long"),
    "import": ("__import__('os').system('false')", "columns, numbers, strings"),
    "call": ("print(n) > 1", "columns, numbers, strings"),
    "attribute": ("n.values > 1", "columns, numbers, strings"),
    "subscript": ("n[0] > 1", "columns, numbers, strings"),
    "lambda": ("(lambda: n)() > 1", "columns, numbers, strings"),
    "walrus": ("(x := n) > 1", "columns, numbers, strings"),
    "f-string": ("name == f'{n}'", "columns, numbers, strings"),
    "list of calls": ("n in [print(1)]", "columns, numbers, strings"),
    "comprehension": ("n in [x for x in n]", "no column x|list|columns, numbers"),
    "local": ("n > @limit", "invalid syntax"),
    "tower of powers": ("n > 9**9**9", "number in it is too large"),
    "tower with a column": ("9**9**n > 1", None),
    "large number": ("n > " + "9" * 1900, "no row|too large"),
    "larger number": ("n ** " + "9" * 1900 + " > 1", "too large"),
    "zero": ("n > 1/0", "divides by zero"),
    "zero below a column": ("n / 0 > 1", "divides by zero"),
    "remainder of zero": ("n % 0 >= 0", "divides by zero"),
    "text and a number": ("name > 1", "text and numbers"),
    "number and text": ("n > 'a'", "text and numbers"),
    "arithmetic on text": ("name * 2 > 1", "text and numbers"),
    "long text": ("'x' * 99999999999 == name", "a number is expected"),
    "unknown": ("m > 1", "there is no column m"),
    "no condition": ("n", "not true or false"),
    "a number": ("1", "not true or false"),
    "a constant": ("1 > 2", "not true or false"),
    "assignment": ("n = 1", "invalid syntax|Maybe you meant"),
    "statement": ("import os", "invalid syntax"),
    "two": ("n > 1; n > 2", "invalid syntax"),
    "is": ("n is 1", "write =="),
    "none is left": ("n > 1e9", "no row"),
    "half a character": ("n > 1 \udc80", "not valid text"),
    "backtick": ("`Model > 1", "invalid syntax"),
}


@pytest.mark.parametrize("case", WRONG)
def test_invalid_conditions_are_errors_without_delay(case: str) -> None:
    text, said = WRONG[case]
    start = time.monotonic()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            row_mask(FRAME, text, "runs.csv")
            assert said is None
        except UserError as error:
            message = str(error)
            assert message.startswith("where=")
            assert "\n" not in message
            assert len(message) < 700
            assert said is None or re.search(said, message), message
            assert not re.search("instances of|dtype|unsupported operand", message), message
    assert time.monotonic() - start < 5


def test_conditions_may_compute() -> None:
    for text, rows in (("6 * n * k > 2e7", [False, True, True]),
                       ("n ** 400 > 1", [True, True, True]), ("n / 2 > 1", [True, True, True]),
                       ("`Model Size` in [1, 3] and not name == 'a'", [False, False, True]),
                       ("name != 'a'", [False, True, False]),
                       ("n == 1e6 or n == 2e6 or n == 4e6", [True, True, True]),
                       ("n > 1e6 and k > 1 and name != 'a'", [False, True, False]),
                       ("'a' != name", [False, True, False]),
                       ("k <= `Model Size`", [True, True, True])):
        np.testing.assert_array_equal(row_mask(FRAME, text, "runs.csv"), rows)


@pytest.mark.parametrize(("text", "kept"), [
    ("k + 1 == 3", [2]), ("k - 1 == 2", [3]), ("k * 2 == 4", [2]), ("k / 2 == 1.5", [3]),
    ("k // 2 == 1", [2, 3]), ("k % 2 == 1", [1, 3, 5]), ("k ** 2 == 9", [3]), ("-k == -3", [3]),
    ("k == 2", [2]), ("k != 2", [1, 3, 4, 5]), ("k < 2", [1]), ("k <= 2", [1, 2]),
    ("k > 4", [5]), ("k >= 4", [4, 5]), ("(k > 3) | (k < 2)", [1, 4, 5]), ("k in (2, 5)", [2, 5]),
    ("(k > 1) & (k < 4)", [2, 3]), ("k // (k - 1) > 1", [2]), ("3 > k > 1", [2]),
    ("5 > k < 3", [1, 2]), ("`a b` < `c d`", [1, 2]), ("`a b` == quoted_0_", [4]),
    ("not k > 1 or k > 4", [1, 5]), ("`a b` % (k - 1) >= 0", [2, 3, 4, 5]),
])
def test_every_operator_by_hand(text: str, kept: list[int]) -> None:
    frame = pd.DataFrame({"k": [1, 2, 3, 4, 5], "a b": [0, 1, 2, 3, 4], "c d": [1, 2, 2, 2, 2],
                          "quoted_0_": [9, 9, 9, 3, 9]})
    assert frame["k"][row_mask(frame, text, "runs.csv")].tolist() == kept


def test_a_division_by_zero_is_not_true() -> None:
    frame = FRAME.assign(zero=[0, 0, 2])
    assert row_mask(frame, "n / zero > 1", "runs.csv").tolist() == [False, False, True]
    assert row_mask(frame, "-n / zero < 1", "runs.csv").tolist() == [False, False, True]
    with pytest.raises(UserError, match="no row"):
        row_mask(frame, "n / (k - k) > 1", "runs.csv")

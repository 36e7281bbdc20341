"""What an allocation is asked: how much may be spent, on what, and what is fixed beforehand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaling.errors import UserError
from scaling.laws.forms.form import Form
from scaling.laws.runs.table import FLOPS_PER_PARAMETER_TOKEN
from scaling.laws.variables import VARIABLES

Array = NDArray[np.float64]

FORWARD_SHARE = 1 / 3
"""Of the FLOPs that a token takes in training, those of its forward pass: 2 N of 6 N."""

_GIVEN = tuple(name for name in VARIABLES if name not in ("n", "d", "c", "u", "l"))


@dataclass(frozen=True)
class Budget:
    """A budget of FLOPs or a loss to reach, and what is known of the model beforehand.

    Exactly one of `c` and `loss` is given. With `inference_tokens` the budget is of training and
    inference together: C = 6 N D + 2 N D_inference (Sardana et al. 2024, eq. 1 and 2).
    """

    c: float | None = None
    """FLOPs, of training and of inference if there is a demand."""
    loss: float | None = None
    """Nats per token; the cheapest way to it is sought."""
    inference_tokens: float = 0.0
    """Tokens that the trained model will read and write in its life."""
    unique_tokens: float | None = None
    """Distinct training tokens that there are; None for as many as are wanted. Only a law of
    repeated data (`u` among its variables) can tell what a repetition is worth."""
    n: float | None = None
    """Parameters, where the size is fixed."""
    d: float | None = None
    """Training tokens, where their number is fixed."""
    given: Mapping[str, float] = field(default_factory=dict)
    """Values of other variables, by the names of `VARIABLES`; a law takes those that it has."""
    flops_per_token: Callable[[Array], Array] | None = None
    """FLOPs of training on one token, a growing function of N; 6 N by default. A forward pass
    takes a third of it."""

    def __post_init__(self) -> None:
        if (self.c is None) == (self.loss is None):
            raise UserError("a budget is either compute in FLOPs or a loss to reach, not both")
        if self.n is not None and self.d is not None:
            raise UserError("N and D are both fixed: nothing is left to choose; fix one of them")
        for name, value, unit, example in (
            ("compute", self.c, "FLOPs", "1e21"), ("loss", self.loss, "nats per token", "2.5"),
            ("fixed N", self.n, "parameters", "7e9"), ("fixed D", self.d, "tokens", "1e12"),
            ("unique tokens", self.unique_tokens, "tokens", "1e11"),
        ):
            if value is not None and not (np.isfinite(value) and value > 0):
                raise UserError(f"{name} {value:g}: a positive number of {unit} is expected, such "
                                f"as {example}")
        for name, value in self.given.items():
            if name not in _GIVEN:
                raise UserError(f"{name}: no variable of a law that a value could be given for; "
                                f"there are {', '.join(_GIVEN)}")
            if not (np.isfinite(value) and value >= 0 and (value or VARIABLES[name].may_be_zero)):
                raise UserError(f"{name} {value:g}: a number "
                                f"{'from zero on' if VARIABLES[name].may_be_zero else 'above zero'}"
                                f" is expected, of {VARIABLES[name].unit}")
        if not (np.isfinite(self.inference_tokens) and self.inference_tokens >= 0):
            raise UserError(f"inference tokens {self.inference_tokens:g}: a number of tokens from "
                            "zero on is expected, such as 1e12")

    @property
    def plain(self) -> bool:
        """Whether the question is N* at C = 6 N D and nothing else."""
        return (self.c is not None and self.n is None and self.d is None and self.six_nd
                and self.unique_tokens is None)

    @property
    def six_nd(self) -> bool:
        """Whether all compute goes into training, counted as 6 N D."""
        return self.inference_tokens == 0 and self.flops_per_token is None

    def training(self, n: Any) -> Any:
        """FLOPs of training on one token."""
        if self.flops_per_token is not None:
            return self.flops_per_token(n)
        return FLOPS_PER_PARAMETER_TOKEN * n

    def total(self, n: Any, d: Any) -> Any:
        """FLOPs of training on `d` tokens, and of the inference that follows."""
        return self.training(n) * (d + FORWARD_SHARE * self.inference_tokens)

    def tokens(self, n: Any, total: Any) -> Any:
        """Training tokens that `total` FLOPs leave; none or fewer where inference takes it all."""
        return total / self.training(n) - FORWARD_SHARE * self.inference_tokens

    def values(self, n: Array, d: Array) -> dict[str, Array]:
        """Every variable of a law, from sizes and token counts of one shape."""
        unique = d if self.unique_tokens is None else np.full_like(d, self.unique_tokens)
        others = {name: np.full_like(d, value) for name, value in self.given.items()}
        return {"n": n, "d": d, "c": self.training(n) * d, "u": unique} | others

    def check(self, form: Form, source: str) -> None:
        """See that a law can answer.

        Raises:
            UserError: it knows nothing of repeated data, or is not told a variable that it needs.
        """
        if self.unique_tokens is not None and "u" not in form.variables:
            raise UserError(f"{source}: the law {form.name} does not know what repeated data is "
                            "worth; unique tokens need a law of U_D, such as muennighoff")
        needed = {*form.variables} - {"n", "d", "c", "u"}
        for name in sorted(needed - {*self.given}):
            raise UserError(f"{source}: the law {form.name} is also one of "
                            f"{VARIABLES[name].symbol} ({VARIABLES[name].unit}); give its value "
                            f"with --at {name}=VALUE")


def divides(form: Form) -> bool:
    """Whether a form says how to divide compute between parameters and tokens."""
    return form.outcome.startswith("loss") and len({"n", "d", "c"} & {*form.variables}) > 1

"""Budgets of an allocation: compute or a target loss, and the quantities that are fixed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaling.errors import UserError, option
from scaling.laws.forms.form import Form
from scaling.laws.forms.variables import (
    FLOPS_PER_PARAMETER_TOKEN,
    MOST_LOSS,
    VARIABLES,
    check_amount,
)

Array = NDArray[np.float64]

_MAX_GIVEN = 1e20
FORWARD_SHARE = 1 / 3
"""Share of the training FLOPs of a token that its forward pass takes: 2 N of 6 N."""

_OWN_ARGUMENTS = {"n": ("n=", "--fixed-n"), "d": ("d=", "--fixed-d"),
                  "c": ("compute=", "--compute"), "l": ("loss=", "--target-loss"),
                  "u": ("unique_tokens=", "--unique-tokens")}
"""The arguments of variables that a budget has itself, in Python and in the command."""
_PROBED = np.geomspace(1e3, 1e13, 11)  # sizes N at which FLOPs per token are tried


@dataclass(frozen=True)
class AllocationBudget:
    """A compute budget or a target loss, with the constraints of an allocation.

    Exactly one of `c` and `loss` is given, or neither if N and D are both fixed, which is a
    prediction. With `inference_tokens` the budget covers training and inference: C = 6 N D + 2 N
    D_inference (Sardana et al. 2024, eq. 1 and 2).
    """

    c: float | None = None
    """FLOPs of training, plus those of inference if `inference_tokens` is set."""
    loss: float | None = None
    """Target loss, nats per token, to be reached at the least total FLOPs."""
    inference_tokens: float = 0.0
    """Tokens that the trained model will process in its lifetime."""
    unique_tokens: float | None = None
    """Distinct training tokens available; None for unlimited data. Only a law of repeated data
    (with `u` among its variables) supports it."""
    n: float | None = None
    """Fixed number of parameters, or None."""
    d: float | None = None
    """Fixed number of training tokens, or None."""
    given: Mapping[str, float] = field(default_factory=dict)
    """Values of other variables, by the names of `VARIABLES`; a law uses those that it has."""
    flops_per_token: Callable[[Array], Array] | None = None
    """Training FLOPs per token as an increasing function of N; 6 N by default. A forward pass
    takes a third of it."""

    def __post_init__(self) -> None:
        self._check_number_given()
        self._check_flops_per_token()
        for name, value, variable, example in (
            ("compute", self.c, "c", "1e21"), ("fixed N", self.n, "n", "7e9"),
            ("fixed D", self.d, "d", "1e12"), ("unique tokens", self.unique_tokens, "d", "1e11"),
            ("inference tokens", self.inference_tokens or None, "d", "1e12"),
        ):
            if value is not None:
                check_amount(name, value, variable, example)
        if self.loss is not None and not 0 < self.loss <= MOST_LOSS:
            raise UserError(f"loss {self.loss:g}: a positive number of nats per token is expected, "
                            f"at most {MOST_LOSS:.3g} (that of a uniform prediction), such as 2.5")
        for name, value in self.given.items():
            if name in _OWN_ARGUMENTS:
                raise UserError(f"{name}: not a variable of a law whose value can be given, since "
                                f"the budget has it; give {option(*_OWN_ARGUMENTS[name])}")
            if not (0 <= value <= _MAX_GIVEN and (value or VARIABLES[name].may_be_zero)):
                lowest = "of at least zero" if VARIABLES[name].may_be_zero else "above zero"
                raise UserError(f"{name} {value:g}: a number {lowest} is expected "
                                f"({VARIABLES[name].unit})")
        self._check_affordable()

    def _check_number_given(self) -> None:
        """Check that neither too little nor too much of C, the loss, N and D is given."""
        compute, loss = option("compute=", "--compute"), option("loss=", "--target-loss")
        n, d = option("n=", "--fixed-n"), option("d=", "--fixed-d")
        if self.is_prediction:
            for name, value in ((compute, self.c), (loss, self.loss)):
                if value is not None:
                    raise UserError(f"{name}, {n} and {d} are all given, where at most two of them "
                                    "are expected, since the third follows from two; leave one "
                                    "out")
        elif (self.c is None) == (self.loss is None):
            raise UserError("a budget is either compute in FLOPs or a target loss: give "
                            f"{compute} or {loss}; or both {n} and {d}, for the loss that they "
                            "give")

    def _check_flops_per_token(self) -> None:
        """Check that FLOPs per token increase with N and are positive."""
        if self.flops_per_token is None:
            return
        flops = np.broadcast_to(self.training_flops(_PROBED), _PROBED.shape)
        if not (flops > 0).all() or not (np.diff(flops) > 0).all():
            raise UserError("flops_per_token: positive FLOPs per token that increase with N are "
                            f"expected, and the function gives {flops[0]:.3g} at N = "
                            f"{_PROBED[0]:g} and {flops[-1]:.3g} at N = {_PROBED[-1]:g}; an "
                            "example is lambda n: 6 * n")

    def _check_affordable(self) -> None:
        """Check that the compute covers at least one parameter and one token."""
        if self.n is not None and self.d is not None:
            check_amount(f"N {self.n:g} and D {self.d:g} take compute",
                         float(self.total_flops(self.n, self.d)), "c", "1e21")
        if self.c is None:
            return
        n = 1.0 if self.n is None else self.n
        d = 1.0 if self.d is None else self.d
        least = float(self.total_flops(np.array(n), np.array(d)))
        if least > self.c * (1 + 1e-9):
            parts = [f"{value:.4g} {unit}" for unit, value in (
                ("parameters", self.n), ("training tokens", self.d),
                ("inference tokens", self.inference_tokens or None)) if value is not None]
            left = "one training token" if self.d is None else "one parameter"
            raise UserError(f"compute {self.c:g}: leaves less than {left}, because "
                            f"{' and '.join(parts)} take at least {least:.3g} FLOPs; raise the "
                            "compute or lower them")

    @property
    def is_prediction(self) -> bool:
        """Whether N and D are both fixed, which leaves nothing to allocate."""
        return self.n is not None and self.d is not None

    @property
    def is_plain(self) -> bool:
        """Whether this is a compute budget C = 6 N D without further constraints."""
        return (self.c is not None and self.n is None and self.d is None and self.is_six_nd
                and self.unique_tokens is None)

    @property
    def is_six_nd(self) -> bool:
        """Whether all compute is spent on training and counted as 6 N D."""
        return self.inference_tokens == 0 and self.flops_per_token is None

    def training_flops(self, n: Any) -> Any:
        """Training FLOPs per token."""
        if self.flops_per_token is None:
            return FLOPS_PER_PARAMETER_TOKEN * n
        try:
            flops = np.asarray(self.flops_per_token(n), dtype=float)
        except UserError:
            raise
        except Exception as error:  # of a function that the user wrote
            raise UserError("flops_per_token: FLOPs per token are expected for an array of sizes "
                            f"N, and the function raises {type(error).__name__}: {error!s:.100}"
                            ) from None
        if flops.shape not in ((), np.shape(n)):
            raise UserError(f"flops_per_token: returns an array of shape {flops.shape} for sizes N "
                            f"of shape {np.shape(n)}, where the same shape is expected")
        return flops

    def total_flops(self, n: Any, d: Any) -> Any:
        """FLOPs of training on `d` tokens, and of inference on `inference_tokens`."""
        return self.training_flops(n) * (d + FORWARD_SHARE * self.inference_tokens)

    def training_tokens(self, n: Any, total_flops: Any) -> Any:
        """Training tokens affordable with `total_flops`; zero or negative if inference takes all
        of them."""
        return total_flops / self.training_flops(n) - FORWARD_SHARE * self.inference_tokens

    def values(self, n: Array, d: Array) -> dict[str, Array]:
        """Values of every variable of a law, from sizes and token counts of the same shape."""
        unique = d if self.unique_tokens is None else np.full_like(d, self.unique_tokens)
        given = {name: np.full_like(d, value) for name, value in self.given.items()}
        return {"n": n, "d": d, "c": self.training_flops(n) * d, "u": unique} | given

    def check_form(self, form: Form, source: str) -> None:
        """Check that a form can be evaluated at this budget.

        Raises:
            UserError: the form does not model repeated data, a variable that it needs has no
                value, or a value is given for a variable of no law.
        """
        if self.unique_tokens is not None and "u" not in form.variables:
            raise UserError(f"{source}: the law {form.name} does not model repeated data; unique "
                            "tokens need a law of U_D, such as muennighoff")
        # A built-in variable that this form lacks may be one of another law of the same budget.
        for name in self.given:
            if name not in form.variables and name not in VARIABLES:
                known = dict.fromkeys((*form.variables, *VARIABLES))
                raise UserError(f"{source}: {name}: not a variable of a law whose value can be "
                                "given; expected is one of "
                                f"{', '.join(v for v in known if v not in _OWN_ARGUMENTS)}")
        needed = {*form.variables} - {"n", "d", "c", "u"}
        for name in sorted(needed - {*self.given}):
            raise UserError(f"{source}: the law {form.name} also depends on "
                            f"{VARIABLES[name].symbol} ({VARIABLES[name].unit}); give its value "
                            f"with {option(f'given={{{name!r}: VALUE}}', f'--given {name}=VALUE')}")


def divides_compute(form: Form) -> bool:
    """Whether a form determines how to divide compute between parameters and tokens."""
    return form.outcome.startswith("loss") and len({"n", "d", "c"} & {*form.variables}) > 1

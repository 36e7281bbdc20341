"""Peak arithmetic rates of accelerators, for model FLOPs utilisation and GPU-hours.

Dense bfloat16 matrix products, per device, as the makers state them. A device that is not here
has no known peak, and then there is no utilisation rather than a wrong one.
"""

from __future__ import annotations

import difflib

from scaling.errors import UserError

PEAK_BF16_FLOPS = {
    "A100": 312e12,
    "H100": 989e12,  # SXM
    "H200": 989e12,  # SXM
    "TPU v4": 275e12,
    "TPU v5e": 197e12,
    "TPU v5p": 459e12,
    "TPU v6e": 918e12,
}
"""FLOP/s of one device."""

MEMORY_BYTES = {
    "A100": 80e9,  # the larger of the two that are sold
    "H100": 80e9,
    "H200": 141e9,
    "TPU v4": 32e9,
    "TPU v5e": 16e9,
    "TPU v5p": 95e9,
    "TPU v6e": 32e9,
}
"""Memory of one device, as the makers state it."""

_KIND_MARKS = {
    # What JAX's `device_kind` says, in part, and the name above. Longer marks stand first.
    "a100": "A100",
    "h100": "H100",
    "h200": "H200",
    "tpu v4": "TPU v4",
    "tpu v5 lite": "TPU v5e",
    "tpu v5e": "TPU v5e",
    "tpu v5": "TPU v5p",
    "tpu v6": "TPU v6e",
}


def peak_flops(name: str) -> float:
    """Peak FLOP/s (dense bfloat16) of the accelerator that a user names.

    Raises:
        UserError: the name is not known.
    """
    return PEAK_BF16_FLOPS[accelerator_named(name)]


def accelerator_named(name: str) -> str:
    """The accelerator's name as the tables have it, whatever the case in which a user gives it.

    Raises:
        UserError: the name is not known.
    """
    by_lower = {known.lower(): known for known in PEAK_BF16_FLOPS}
    if name.lower() in by_lower:
        return by_lower[name.lower()]
    near = difflib.get_close_matches(name.lower(), by_lower, n=1)
    hint = f"did you mean {by_lower[near[0]]}? " if near else ""
    raise UserError(f"{name}: no accelerator known by that name; {hint}known are "
                    f"{', '.join(PEAK_BF16_FLOPS)}")


def peak_flops_of_kind(device_kind: str) -> float | None:
    """Peak FLOP/s of a device by JAX's `device_kind`, or None where no peak is known."""
    for mark, name in _KIND_MARKS.items():
        if mark in device_kind.lower():
            return PEAK_BF16_FLOPS[name]
    return None

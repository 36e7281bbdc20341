"""Accelerators: peak FLOP/s and memory, for model FLOPs utilisation and GPU-hours.

Peaks are for dense bfloat16 matrix products (float16 for the V100, which has no bfloat16), as
published by the vendors. Vendors often print the peak with 2:4 sparsity, which is twice the dense
one. A device that is not listed has no peak, and its utilisation is null.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from scaling.errors import UserError

_TERA, _GIGA, _GIBI = 1e12, 1e9, 2.0**30

_VOLTA = "V100 and V100S data sheets (nvidia.com): Tensor performance"
_AMPERE = "A100 data sheet (nvidia.com): 312 dense, 624 with sparsity"
_HOPPER = "H100 data sheet (nvidia.com): 1,979 SXM, 1,513 PCIe, 1,671 NVL, each with sparsity"
_H200 = "H200 data sheet (nvidia.com): 1,979 SXM, 1,671 NVL, each with sparsity"
_GRACE = "GH200 data sheet (nvidia.com): 990 dense, 1,979 with sparsity"
_HGX = "HGX data sheet (nvidia.com): 36 PFLOPS of 8 GPUs, with sparsity"
_NVL72 = "GB200 and GB300 NVL72 data sheets (nvidia.com): 360 PFLOPS of 72 GPUs, with sparsity"
_ADA = "L4, L40 and L40S data sheets (nvidia.com): 242, 362.1 and 733 with sparsity"
_CDNA = "MI300X and MI325X data sheets (amd.com): 1,307.4 dense, 2,614.9 with sparsity"
_TPU = "https://docs.cloud.google.com/tpu/docs/"


@dataclass(frozen=True)
class Accelerator:
    """An accelerator product: a GPU or a TPU chip."""

    name: str
    flops: float
    """Peak FLOP/s, dense bfloat16."""
    memory_bytes: float
    source: str
    """Where the vendor publishes the peak, and in which form."""
    kinds: str
    """Regular expression that matches the whole of JAX's `device_kind`, in lower case."""
    devices: int = 1
    """Number of JAX devices of the accelerator: each core of a TPU v2, v3 and TPU7x is one
    (jax.experimental.pallas.tpu.ChipVersion: they have no megacore)."""


ACCELERATORS = (
    Accelerator("V100 SXM 16GB", 125 * _TERA, 16 * _GIGA, _VOLTA, r"tesla v100-sxm2-16gb"),
    Accelerator("V100 SXM 32GB", 125 * _TERA, 32 * _GIGA, _VOLTA, r"tesla v100-sxm[23]-32gb"),
    Accelerator("V100 PCIe 16GB", 112 * _TERA, 16 * _GIGA, _VOLTA, r"tesla v100-pcie-16gb"),
    Accelerator("V100 PCIe 32GB", 112 * _TERA, 32 * _GIGA, _VOLTA, r"tesla v100-pcie-32gb"),
    Accelerator("V100S", 130 * _TERA, 32 * _GIGA, _VOLTA, r"tesla v100s-pcie-32gb"),
    Accelerator("A100 40GB", 312 * _TERA, 40 * _GIGA, _AMPERE,
                r"(nvidia )?a100-(sxm4|pcie)-40gb"),
    Accelerator("A100 80GB", 312 * _TERA, 80 * _GIGA, _AMPERE,
                r"(nvidia )?a100(-sxm4-80gb|-pcie-80gb| 80gb pcie)"),
    Accelerator("H100 SXM", 989 * _TERA, 80 * _GIGA, _HOPPER, r"nvidia h100 80gb hbm3"),
    Accelerator("H100 PCIe", 756 * _TERA, 80 * _GIGA, _HOPPER, r"nvidia h100 pcie"),
    Accelerator("H100 NVL", 835 * _TERA, 94 * _GIGA, _HOPPER, r"nvidia h100 nvl"),
    Accelerator("H200 SXM", 989 * _TERA, 141 * _GIGA, _H200, r"nvidia h200"),
    Accelerator("H200 NVL", 835 * _TERA, 141 * _GIGA, _H200, r"nvidia h200 nvl"),
    Accelerator("GH200 96GB", 989 * _TERA, 96 * _GIGA, _GRACE, r"nvidia gh200 480gb"),
    Accelerator("GH200 144GB", 989 * _TERA, 144 * _GIGA, _GRACE, r"nvidia gh200 144g hbm3e"),
    Accelerator("B200", 2250 * _TERA, 180 * _GIGA, _HGX, r"nvidia b200"),
    Accelerator("B300", 2250 * _TERA, 288 * _GIGA, _HGX, r"nvidia b300( sxm6 ac)?"),
    Accelerator("GB200", 2500 * _TERA, 186 * _GIGA, _NVL72, r"nvidia gb200"),
    Accelerator("GB300", 2500 * _TERA, 288 * _GIGA, _NVL72, r"nvidia gb300"),
    Accelerator("L4", 121 * _TERA, 24 * _GIGA, _ADA, r"nvidia l4"),
    Accelerator("L40", 181 * _TERA, 48 * _GIGA, _ADA, r"nvidia l40"),
    Accelerator("L40S", 362 * _TERA, 48 * _GIGA, _ADA, r"nvidia l40s"),
    Accelerator("MI300X", 1307.4 * _TERA, 192 * _GIGA, _CDNA, r"amd instinct mi300x( oam)?"),
    Accelerator("MI325X", 1307.4 * _TERA, 256 * _GIGA, _CDNA, r"amd instinct mi325x( oam)?"),
    Accelerator("TPU v2", 45 * _TERA, 16 * _GIBI, _TPU + "v2", r"tpu v2", devices=2),
    Accelerator("TPU v3", 123 * _TERA, 32 * _GIBI, _TPU + "v3", r"tpu v3", devices=2),
    Accelerator("TPU v4", 275 * _TERA, 32 * _GIBI, _TPU + "v4", r"tpu v4"),
    Accelerator("TPU v5e", 197 * _TERA, 16 * _GIGA, _TPU + "v5e", r"tpu v5( lite|e)"),
    Accelerator("TPU v5p", 459 * _TERA, 95 * _GIGA, _TPU + "v5p", r"tpu v5p?"),
    Accelerator("TPU v6e", 918 * _TERA, 32 * _GIGA, _TPU + "v6e", r"tpu v6( lite|e)"),
    Accelerator("TPU7x", 2307 * _TERA, 192 * _GIBI, _TPU + "tpu7x", r"tpu ?v?7x", devices=2),
)

_SHORT_NAMES = {
    "v100": "V100 SXM 32GB", "a100": "A100 80GB", "h100": "H100 SXM", "h200": "H200 SXM",
    "gh200": "GH200 96GB", "tpuv7x": "TPU7x", "ironwood": "TPU7x", "trillium": "TPU v6e",
}
"""Accelerators of short names: the SXM module, with the larger memory of the A100 and V100."""


def peak_flops(name: str) -> float:
    """Peak FLOP/s (dense bfloat16) of the accelerator with the given name.

    Raises:
        UserError: the name is unknown or ambiguous.
    """
    return accelerator_named(name).flops


def accelerator_named(name: str) -> Accelerator:
    """The accelerator with the given name, as in ACCELERATORS or JAX's `device_kind`. Case, spaces,
    dashes and the vendor are ignored.

    Raises:
        UserError: the name is unknown or ambiguous.
    """
    by_key = {_key(known.name): known for known in ACCELERATORS}
    key = _key(name)
    if found := by_key.get(_key(_SHORT_NAMES.get(key, key))):
        return found
    known = f"known names are {', '.join(known.name for known in ACCELERATORS)}"
    # A prefix must not end inside a number: an H20 is not an H200.
    begins = re.compile(rf"{re.escape(key)}((?<!\d)|\D)")
    several = [a.name for other, a in by_key.items() if key and begins.match(other)]
    if len(several) > 1:
        raise UserError(f"--gpu {name}: is ambiguous between {', '.join(several)}; give one of "
                        f"them; {known}")
    if found := _of_kind(name):
        return found
    names = {other: a.name for other, a in by_key.items()} | _SHORT_NAMES
    near = several or [names[other] for other in difflib.get_close_matches(key, names, n=1)]
    hint = f"did you mean {near[0]}? " if near else ""
    raise UserError(f"--gpu {name}: is not a known accelerator; {hint}{known}")


def peak_flops_of_kind(device_kind: str) -> float | None:
    """Peak FLOP/s of one JAX device by its `device_kind`; None if the peak is not known, as for a
    part of a GPU (MIG) or a GPU that only resembles a listed one."""
    found = _of_kind(device_kind)
    return found.flops / found.devices if found else None


def _of_kind(device_kind: str) -> Accelerator | None:
    kind = " ".join(device_kind.lower().split())
    return next((a for a in ACCELERATORS if re.fullmatch(a.kinds, kind)), None)


def _key(name: str) -> str:
    words = re.sub(r"[\s_-]+", " ", name.lower()).split()
    key = "".join(re.sub(r"^sxm\d$", "sxm", word) for word in words
                  if word not in ("nvidia", "amd", "instinct", "tesla"))
    return re.sub(r"^(a100)(sxm|pcie)", r"\1", key)  # both forms have the same peak and memory

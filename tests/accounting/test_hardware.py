"""Peaks by names of users and by JAX's device kinds; no device gets the peak of another."""

from __future__ import annotations

import re

import pytest

from scaling.accounting.hardware import (
    ACCELERATORS,
    accelerator_named,
    peak_flops,
    peak_flops_of_kind,
)
from scaling.errors import UserError

pytestmark = pytest.mark.quick

# Dense TFLOP/s of one JAX device, by cudaDeviceProp.name, libtpu's and HIP's names.
KINDS = {
    "Tesla V100-SXM2-16GB": 125, "Tesla V100-SXM3-32GB": 125, "Tesla V100-PCIE-16GB": 112,
    "Tesla V100S-PCIE-32GB": 130,
    "NVIDIA A100-SXM4-40GB": 312, "A100-SXM4-40GB": 312, "NVIDIA A100-PCIE-40GB": 312,
    "NVIDIA A100 80GB PCIe": 312, "NVIDIA A100-SXM4-80GB": 312,
    "NVIDIA H100 80GB HBM3": 989, "NVIDIA H100 PCIe": 756, "NVIDIA H100 NVL": 835,
    "NVIDIA H200": 989, "NVIDIA H200 NVL": 835, "NVIDIA GH200 480GB": 989,
    "NVIDIA B200": 2250, "NVIDIA B300 SXM6 AC": 2250, "NVIDIA GB200": 2500, "NVIDIA GB300": 2500,
    "NVIDIA L4": 121, "NVIDIA L40": 181, "NVIDIA L40S": 362,
    "AMD Instinct MI300X": 1307.4, "AMD Instinct MI325X": 1307.4,
    "TPU v2": 22.5, "TPU v3": 61.5, "TPU v4": 275, "TPU v5 lite": 197, "TPU v5e": 197,
    "TPU v5": 459, "TPU v5p": 459, "TPU v6 lite": 918, "TPU v6e": 918, "TPU7x": 1153.5,
}
UNKNOWN = (
    "cpu", "", "NVIDIA H20", "NVIDIA H800", "NVIDIA A10", "NVIDIA A10G", "NVIDIA A100X",
    "NVIDIA A800-SXM4-80GB", "NVIDIA L20", "NVIDIA L4 MIG", "NVIDIA H100", "TPU v4 lite", "TPU",
    "NVIDIA A100-SXM4-40GB MIG 1g.5gb", "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "NVIDIA A100-SXM-64GB",
    "NVIDIA GeForce RTX 4090", "NVIDIA RTX A4000", "AMD Instinct MI300A", "AMD Instinct MI250X",
    "TPU8i", "NVIDIA GB10", "Tesla T4", "GRID V100D-16Q",
)


@pytest.mark.parametrize("kind", KINDS)
def test_each_device_has_its_own_peak(kind):
    assert peak_flops_of_kind(kind) == pytest.approx(KINDS[kind] * 1e12)


@pytest.mark.parametrize("kind", UNKNOWN)
def test_a_device_that_is_not_listed_has_no_peak(kind):
    assert peak_flops_of_kind(kind) is None


def test_every_entry_is_reached_by_its_name_and_by_one_pattern_alone():
    for one in ACCELERATORS:
        assert accelerator_named(one.name) is one
        assert accelerator_named(one.name.lower().replace(" ", "-")) is one
    for kind in KINDS:
        assert sum(bool(re.fullmatch(a.kinds, kind.lower())) for a in ACCELERATORS) == 1


@pytest.mark.parametrize(("name", "meant"), [
    ("h100", "H100 SXM"), ("NVIDIA H100", "H100 SXM"), ("H100-SXM5", "H100 SXM"),
    ("a100", "A100 80GB"), ("A100-SXM4-40GB", "A100 40GB"), ("a100 sxm", "A100 80GB"),
    ("NVIDIA A100 80GB PCIe", "A100 80GB"), ("v100", "V100 SXM 32GB"), ("mi300x", "MI300X"),
    ("NVIDIA H100 80GB HBM3", "H100 SXM"), ("tpu_v5e", "TPU v5e"), ("TPU v5 lite", "TPU v5e"),
    ("TPU v7x", "TPU7x"), ("l40s", "L40S"), ("L4", "L4"), ("H200", "H200 SXM"),
    ("gh200", "GH200 96GB"), ("ironwood", "TPU7x"), ("trillium", "TPU v6e"),
])
def test_variants_of_names_are_accepted(name, meant):
    assert accelerator_named(name).name == meant


# As the vendors print it: in GB of GPUs, and for some TPUs in GiB.
MEMORY = {
    "V100 SXM 16GB": 16, "V100 SXM 32GB": 32, "V100 PCIe 16GB": 16, "V100 PCIe 32GB": 32,
    "V100S": 32, "A100 40GB": 40, "A100 80GB": 80, "H100 SXM": 80, "H100 PCIe": 80,
    "H100 NVL": 94, "H200 SXM": 141, "H200 NVL": 141, "GH200 96GB": 96, "GH200 144GB": 144,
    "B200": 180, "B300": 288, "GB200": 186, "GB300": 288, "L4": 24, "L40": 48, "L40S": 48,
    "MI300X": 192, "MI325X": 256, "TPU v5e": 16, "TPU v5p": 95, "TPU v6e": 32,
}
MEMORY_GIB = {"TPU v2": 16, "TPU v3": 32, "TPU v4": 32, "TPU7x": 192}


def test_the_memory_of_each_accelerator():
    found = {each.name: each.memory_bytes for each in ACCELERATORS}
    assert found == {name: size * 10**9 for name, size in MEMORY.items()} | {
        name: size * 1024**3 for name, size in MEMORY_GIB.items()}


def test_a_name_gives_the_peak_of_a_whole_chip():
    assert peak_flops("TPU v3") == 2 * peak_flops_of_kind("TPU v3") == 123e12


@pytest.mark.parametrize(("name", "words"), [
    ("A10O", "did you mean A100"), ("A10G", "not a known accelerator"),
    ("X9", "not a known accelerator"), ("", "not a known accelerator"),
    ("H20", "not a known accelerator"), ("MI3", "not a known accelerator"),
    ("TPU v5", "ambiguous between TPU v5e, TPU v5p"), ("tpu", "ambiguous between TPU v2"),
    ("V100 SXM", "ambiguous between V100 SXM 16GB, V100 SXM 32GB"),
    ("h100 pci", "did you mean H100"),
])
def test_an_unknown_or_ambiguous_name_lists_those_that_are_known(name, words):
    with pytest.raises(UserError) as caught:
        peak_flops(name)
    assert words in str(caught.value)
    assert all(a.name in str(caught.value) for a in ACCELERATORS)

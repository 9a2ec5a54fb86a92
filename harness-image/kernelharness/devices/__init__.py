"""One file per kind of device; `open_device` chooses by the profile's vendor, `missing_device` says when it cannot."""

from __future__ import annotations

from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kernelharness.devices.base import Device


_NVIDIA_NODES = ("/dev/nvidia[0-9]*", "/dev/dxg")
_AMD_NODE = "/dev/kfd"


def missing_device(vendor: str) -> str:
    """Why kernels for this vendor can be compiled here, but not run; empty when they can be run.

    Looks for the device's nodes alone: a device that is there and does not open is a fault of this machine, no reason
    to judge differently. Vendors that are not known here run on the CPU.
    """
    if vendor == "nvidia" and not any(glob(pattern) for pattern in _NVIDIA_NODES):
        return "this machine has no NVIDIA device"
    if vendor == "amd":
        there = Path(_AMD_NODE).exists()
        return "the judge cannot run kernels on an AMD device yet" if there else "this machine has no AMD device"
    return ""


def open_device(vendor: str) -> Device:
    """The device of this vendor. To be called after the last fork. Raise RuntimeError when there is none."""
    if vendor == "nvidia":
        from kernelharness.devices.cuda import CudaDevice

        return CudaDevice()
    from kernelharness.devices.cpu import CpuDevice

    return CpuDevice()

"""One file per kind of device; the profile's vendor chooses. Vendors that have none here bring a plugin.

`missing_device` says when kernels for a vendor can be compiled here, but not run.
"""

from __future__ import annotations

from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING

from kernelharness.devices.accelerator import find_accelerator

if TYPE_CHECKING:
    from kernelharness.devices.base import Device
    from kernelharness.languages.base import Language

_BUILT_IN = ("cpu", "nvidia", "amd")
_NVIDIA_NODES = ("/dev/nvidia[0-9]*", "/dev/dxg")
_AMD_NODE = "/dev/kfd"


def expect_device(vendor: str, language: Language) -> None:
    """Raise ValueError when no device here serves this vendor, or none of this vendor this language. Without torch."""
    if vendor in _BUILT_IN:
        return
    find_accelerator(vendor)
    if not language.is_native:
        raise ValueError(
            f"language {language.name!r} runs in torch, which has no devices of vendor {vendor!r} here; give the"
            " profile a language with a command that compiles kernels against problem.h"
        )


def missing_device(vendor: str) -> str:
    """Why kernels for this vendor can be compiled here, but not run; empty when they can be run.

    Looks for the device's nodes alone: a device that is there and does not open is a fault of this machine, no reason
    to judge differently.
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
    if vendor == "cpu":
        from kernelharness.devices.cpu import CpuDevice

        return CpuDevice()
    from kernelharness.devices.host_copy import HostCopyDevice

    return HostCopyDevice(find_accelerator(vendor))

"""One file per kind of device; `open_device` chooses by the profile's vendor."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kernelharness.devices.base import Device


def open_device(vendor: str) -> Device:
    """The device of this vendor. To be called after the last fork. Raise RuntimeError when there is none."""
    if vendor == "nvidia":
        from kernelharness.devices.cuda import CudaDevice

        return CudaDevice()
    from kernelharness.devices.cpu import CpuDevice

    return CpuDevice()

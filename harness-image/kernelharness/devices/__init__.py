"""One file per kind of device; the profile's vendor chooses. Vendors that have none here bring a plugin."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kernelharness.devices.accelerator import find_accelerator

if TYPE_CHECKING:
    from kernelharness.devices.base import Device
    from kernelharness.languages.base import Language

_BUILT_IN = ("cpu", "nvidia")


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

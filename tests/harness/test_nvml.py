"""What NVIDIA's driver is asked without CUDA, with a library that answers what a test says."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace
from typing import Any

import pytest
from kernelharness.devices.nvml import Nvml

NOT_SUPPORTED = 3


def driver(*, reasons: int, code: int = 0) -> Nvml:
    """One whose library answers with this code and these reasons."""

    def query(*arguments: Any) -> int:
        arguments[-1]._obj.value = reasons
        return code

    made = Nvml.__new__(Nvml)
    made._device = ctypes.c_void_p()
    library: Any = SimpleNamespace(nvmlDeviceGetCurrentClocksThrottleReasons=query)
    made._library = library
    return made


@pytest.mark.parametrize("reason", [0x8, 0x20, 0x40, 0x80])
def test_heat_and_the_power_supply_hold_clocks_down(reason: int) -> None:
    assert driver(reasons=reason | 0x1).is_throttled()
    assert not driver(code=NOT_SUPPORTED, reasons=reason).is_throttled()


@pytest.mark.parametrize("reason", [0x1, 0x4])
def test_an_idle_device_and_its_power_cap_are_as_it_is(reason: int) -> None:
    assert not driver(reasons=reason).is_throttled()


def test_without_a_driver_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> ctypes.CDLL:
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", missing)
    nvml = Nvml("0000:00:00.0")
    assert (nvml.driver(), nvml.is_throttled()) == ("", False)

"""What NVIDIA's driver is asked without CUDA, with a library that answers what a test says."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace
from typing import Any

import pytest
from kernelharness.devices.nvml import Nvml

NOT_SUPPORTED = 3


def driver(*, code: int = 0, clock: int = 0, reasons: int = 0) -> Nvml:
    """One whose library answers every query with this code and these numbers."""

    def answering(value: int) -> Any:
        def query(*arguments: Any) -> int:
            arguments[-1]._obj.value = value
            return code

        return query

    made = Nvml.__new__(Nvml)
    made._device = ctypes.c_void_p()
    library: Any = SimpleNamespace(
        nvmlDeviceGetClockInfo=answering(clock), nvmlDeviceGetCurrentClocksThrottleReasons=answering(reasons)
    )
    made._library = library
    return made


def test_clock_of_the_multiprocessors() -> None:
    assert driver(clock=1755).clock_mhz() == 1755
    assert driver(code=NOT_SUPPORTED, clock=1755).clock_mhz() == 0


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
    assert (nvml.driver(), nvml.clock_mhz(), nvml.is_throttled()) == ("", 0, False)

"""What the NVIDIA driver tells of a device without CUDA: its version, and why clocks are lower than they could be.

Everything here is optional: where the library or a query is missing, nothing is known. Neighbour: cuda.py.
"""

from __future__ import annotations

import ctypes

_HARDWARE_SLOWDOWN, _SOFTWARE_THERMAL, _HARDWARE_THERMAL, _POWER_BRAKE = 0x8, 0x20, 0x40, 0x80
_VOIDING = _HARDWARE_SLOWDOWN | _SOFTWARE_THERMAL | _HARDWARE_THERMAL | _POWER_BRAKE
"""Not the power cap: it is part of how a kernel runs on this device."""


class Nvml:
    """One device, by its PCI bus id as CUDA tells it."""

    def __init__(self, bus_id: str) -> None:
        self._device = ctypes.c_void_p()
        try:
            self._library: ctypes.CDLL | None = ctypes.CDLL("libnvidia-ml.so.1")
        except OSError:
            self._library = None
            return
        found = self._library.nvmlInit_v2() == 0 and (
            self._library.nvmlDeviceGetHandleByPciBusId_v2(bus_id.encode(), ctypes.byref(self._device)) == 0
        )
        if not found:
            self._library = None

    def driver(self) -> str:
        """The driver's version; empty when unknown."""
        text = ctypes.create_string_buffer(96)
        if self._library is None or self._library.nvmlSystemGetDriverVersion(text, 96) != 0:
            return ""
        return text.value.decode(errors="replace")

    def is_throttled(self) -> bool:
        """Heat or the power supply holds the clocks down now."""
        reasons = ctypes.c_ulonglong()
        if self._library is None:
            return False
        query = self._library.nvmlDeviceGetCurrentClocksThrottleReasons
        return query(self._device, ctypes.byref(reasons)) == 0 and bool(reasons.value & _VOIDING)

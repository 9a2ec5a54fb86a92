"""An accelerator whose memory no two processes share: a round begins and ends in host memory, copies included.

To everybody but the candidate this is the CPU: slots are memfds, references run there with torch, results are read out
of a stopped process. The candidate's runner (../host_copy.py) copies inputs to its device and results back inside the
time that T takes, because only T can take time, and only the runner can copy. So the headline compares calls with
tensors in host memory, and every result says so. What T adds is its own look at the device: is it still at work?
Neighbours: accelerator.py (what a vendor writes), cpu.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from kernelharness.channel import Order
from kernelharness.devices.accelerator import load_accelerator
from kernelharness.devices.base import Ceilings, OutputFault
from kernelharness.devices.cpu import CpuDevice
from kernelharness.processes import Runner
from kernelharness.protocol import Verdict

HOST_COPY = "host_copy"
"""Flag: times hold the copies to the device and back."""
CPU_REFERENCE = "cpu_reference"
"""Flag: the baselines are torch's on the CPU."""
_CEILING_BYTES = 64 << 20
_COPIES = 5


class HostCopyDevice(CpuDevice):
    """One accelerator beside the CPUs of this process."""

    gates_calls = False  # a run copies the inputs of all its slots
    singly_spread_ns = 0.0
    inputs_are_read_only = False  # what a candidate can write are its own copies, made anew for every run
    flags = (HOST_COPY, CPU_REFERENCE)

    def __init__(self, accelerator: str) -> None:
        """`accelerator`: 'module:Class'. Raise AcceleratorError when its device is not there."""
        super().__init__()
        self._plugin = accelerator
        self._accelerator = load_accelerator(accelerator)
        self._accelerator.open()
        self._suspect: Runner | None = None
        self.name = f"{self._accelerator.name}, in host-copy mode; references on {self.name}"
        self.driver = ", ".join(filter(None, (self._accelerator.driver, self.driver)))

    def runner_config(self, *, trusted: bool) -> dict[str, Any]:
        return {} if trusted else {"device": "host_copy", "accelerator": self._plugin}

    def admit(self, runner: Runner) -> None:
        self._suspect = runner

    def forget(self, runner: Runner) -> None:
        super().forget(runner)
        if runner is self._suspect:
            self._suspect = None

    def run(self, runner: Runner, order: Order, deadline: float) -> int:
        took_ns = super().run(runner, order, deadline)
        if runner is self._suspect and self._accelerator.is_idle() is False:
            raise OutputFault(Verdict.BACKGROUND_WORK, "the device was still at work after a call had returned")
        return took_ns

    def evict(self, slot_bytes: int) -> None:
        super().evict(slot_bytes)
        self._accelerator.flush_caches()

    def resources(self) -> dict[str, float]:
        peak = self._accelerator.peak_bytes()
        return {} if peak is None else {"peak_bytes": float(peak)}

    def measure_ceilings(self) -> Ceilings:
        """What both directions of the way to the device carry together; what it computes is not ours to measure."""
        host = torch.ones(_CEILING_BYTES // 4)
        block = self._accelerator.allocate(_CEILING_BYTES)
        try:
            there = _seconds(lambda: self._accelerator.write(block, host.data_ptr(), _CEILING_BYTES))
            back = _seconds(lambda: self._accelerator.read(host.data_ptr(), block, _CEILING_BYTES))
        finally:
            self._accelerator.free(block)
        return Ceilings(_CEILING_BYTES / there + _CEILING_BYTES / back, {})


def _seconds(work: Callable[[], None]) -> float:
    """The best of several."""
    times = []
    for _ in range(_COPIES):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return min(times)

"""What needs no device of the CUDA device: when work between calls is the candidate's and when it is chance."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from kernelharness.devices.base import OutputFault
from kernelharness.devices.cuda import CudaDevice
from kernelharness.protocol import Verdict

CANDIDATE: Any = SimpleNamespace(trusted=False, pid=1)
REFERENCE: Any = SimpleNamespace(trusted=True, pid=2)


@pytest.fixture
def device() -> CudaDevice:
    made = CudaDevice.__new__(CudaDevice)
    made._late, made._busy = "", False
    made.admit(CANDIDATE)
    return made


def run(device: CudaDevice, runner: Any, *, late: bool) -> None:
    device._late = "the device was at work" if late else ""
    device._weigh(runner)


def test_a_late_check_now_and_then_is_chance(device: CudaDevice) -> None:
    for index in range(100):
        run(device, CANDIDATE, late=index % 5 == 0)
        run(device, REFERENCE, late=index % 20 == 0)
    device.expect_clean()


def test_late_in_nearly_all_of_the_last_runs_is_background_work(device: CudaDevice) -> None:
    for late in [False] * 50 + [True] * 5:
        run(device, CANDIDATE, late=late)
    with pytest.raises(OutputFault) as raised:
        run(device, CANDIDATE, late=True)
    assert raised.value.verdict is Verdict.BACKGROUND_WORK
    assert raised.value.text == "the device was at work"


def test_late_in_a_third_of_all_runs_is_background_work(device: CudaDevice) -> None:
    for index in range(30):
        run(device, CANDIDATE, late=index % 3 == 0)
    with pytest.raises(OutputFault, match=r"at work between calls in 10 of 30 runs"):
        device.expect_clean()


def test_work_that_waits_for_a_reference_counts_too(device: CudaDevice) -> None:
    for index in range(30):
        run(device, CANDIDATE, late=False)
        run(device, REFERENCE, late=index % 2 == 0)
    with pytest.raises(OutputFault):
        device.expect_clean()


def test_each_candidate_begins_without_suspicion(device: CudaDevice) -> None:
    for index in range(12):
        run(device, CANDIDATE, late=index % 2 == 0)
    device.admit(CANDIDATE)
    device.expect_clean()

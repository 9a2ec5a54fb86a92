"""What needs no device of the CUDA device: when work between calls is the candidate's and when it is chance."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from kernelharness.devices.base import OutputFault
from kernelharness.devices.cuda import CudaDevice
from kernelharness.devices.cuda_outputs import _spread
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


@pytest.mark.parametrize("nbytes", [1, 4096, 4097, 65_539, 7_516_192_768])
@pytest.mark.parametrize("phase", [0.0, 0.37, 1.0])
def test_a_glimpse_is_spread_over_the_whole_output_and_stays_in_it(nbytes: int, phase: float) -> None:
    rows = _spread(1000, nbytes, phase)
    end = rows.address + (rows.count - 1) * rows.pitch + rows.width
    assert rows.address >= 1000
    assert end <= 1000 + nbytes
    assert rows.count == 1 or rows.pitch >= rows.width
    # No gap is longer than two rows are apart.
    assert rows.address - 1000 < 2 * max(rows.pitch, 1)
    assert 1000 + nbytes - end < 2 * max(rows.pitch, 1)
    if phase == 1.0:
        assert end == 1000 + nbytes  # what is written last


def test_short_runs_make_intervals_wider(device: CudaDevice) -> None:
    device.process_spread = 0.002
    assert device.spread(1e12) == pytest.approx(0.002)
    assert device.spread(4e6) == pytest.approx(0.0036, abs=1e-4)

"""What needs no device of the CUDA device: when work outside calls is the candidate's, and where T looks at outputs."""

from __future__ import annotations

import pytest
from kernelharness.cuda_memory import Block, DevicePool
from kernelharness.devices.base import OutputFault
from kernelharness.devices.cuda import CudaDevice
from kernelharness.devices.cuda_looks import Pick, spread
from kernelharness.devices.lateness import Lateness
from kernelharness.protocol import Verdict

LIMIT_NS = 100.0


def run(lateness: Lateness, *, late: bool, trusted: bool = False, returned_ns: float = 300_000.0) -> None:
    lateness.begin_run()
    lateness.judge("when a test said so", 2 * LIMIT_NS if late else LIMIT_NS, LIMIT_NS)
    lateness.returned(returned_ns, trusted=trusted)
    lateness.end_run(trusted=trusted)


def test_a_late_check_now_and_then_is_chance() -> None:
    lateness = Lateness()
    for index in range(100):
        run(lateness, late=index % 5 == 0)
        run(lateness, late=index % 20 == 0, trusted=True)
    lateness.expect_none()


def test_late_in_nearly_all_of_the_last_runs_is_background_work() -> None:
    lateness = Lateness()
    for late in [False] * 50 + [True] * 5:
        run(lateness, late=late)
    with pytest.raises(OutputFault) as raised:
        run(lateness, late=True)
    assert raised.value.verdict is Verdict.BACKGROUND_WORK
    assert raised.value.text == "the device was at work when a test said so: 0 us for what takes 0 us at most"


def test_late_in_a_third_of_all_runs_is_background_work() -> None:
    lateness = Lateness()
    for index in range(30):
        run(lateness, late=index % 3 == 0)
    with pytest.raises(OutputFault, match=r"at work between calls in 10 of 30 runs"):
        lateness.expect_none()


def test_work_that_waits_for_a_reference_counts_too() -> None:
    lateness = Lateness()
    for index in range(30):
        run(lateness, late=False)
        run(lateness, late=index % 2 == 0, trusted=True)
    with pytest.raises(OutputFault):
        lateness.expect_none()


def test_each_candidate_begins_without_suspicion() -> None:
    lateness = Lateness()
    for index in range(12):
        run(lateness, late=index % 2 == 0, returned_ns=900_000.0)
    lateness.reset()
    lateness.expect_none()


def test_a_device_that_is_always_back_late_was_at_work() -> None:
    lateness = Lateness()
    for index in range(20):
        run(lateness, late=False, returned_ns=390_000.0 if index % 7 else 2e6)
        run(lateness, late=False, trusted=True)
    with pytest.raises(OutputFault) as raised:
        lateness.expect_none()
    assert raised.value.verdict is Verdict.BACKGROUND_WORK
    assert "the device was still at work 1" in raised.value.text
    assert raised.value.text.endswith("us after a call had returned, on average")


def test_a_device_that_is_back_late_once_or_a_little_is_not_suspicious() -> None:
    lateness = Lateness()
    for index in range(20):
        run(lateness, late=False, returned_ns=335_000.0 if index else 9e6)
        run(lateness, late=False, trusted=True)
    lateness.expect_none()


def test_too_few_runs_say_nothing_of_when_the_device_was_back() -> None:
    lateness = Lateness()
    for _ in range(5):
        run(lateness, late=False, returned_ns=900_000.0)
        run(lateness, late=False, trusted=True)
    lateness.expect_none()


@pytest.mark.parametrize("nbytes", [1, 4096, 4097, 65_539, 7_516_192_768])
@pytest.mark.parametrize("phase", [0.0, 0.37, 1.0])
@pytest.mark.parametrize("slack", [0.0, 0.81, 0.999999])
@pytest.mark.parametrize("count", [64, 512])
def test_a_glimpse_is_spread_over_an_output_and_stays_in_it(
    nbytes: int, phase: float, slack: float, count: int
) -> None:
    rows = spread(1000, nbytes, Pick(report=0, rows=count, slack=slack, phase=phase))
    end = rows.address + (rows.count - 1) * rows.pitch + rows.width
    assert rows.address >= 1000
    assert end <= 1000 + nbytes
    assert rows.count == 1 or rows.pitch >= rows.width
    assert end - rows.address >= nbytes - 2 * rows.pitch - rows.count
    if phase == 1.0:
        assert end == 1000 + nbytes  # what is written last


def test_results_lie_where_those_of_the_run_before_lay() -> None:
    pool = DevicePool(cudart=_Memory(), stream=0)  # type: ignore[arg-type]
    kept: list[Block] = []
    runs = []
    for _ in range(3):
        kept.clear()
        kept += [pool.take(1000) for _ in range(5)]
        runs.append([block.address for block in kept])
    assert len(set(runs[0])) == 5
    assert runs[0] == runs[1] == runs[2]


class _Memory:
    """A device's memory that is never touched."""

    def malloc(self, nbytes: int) -> int:
        return 1 << 21


def test_short_runs_make_intervals_wider() -> None:
    device = CudaDevice.__new__(CudaDevice)
    device.process_spread = 0.002
    assert device.spread(1e12) == pytest.approx(0.002)
    assert device.spread(4e6) == pytest.approx(0.0036, abs=1e-4)

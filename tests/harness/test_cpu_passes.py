"""The judge's own code for a CPU says what torch says, of outputs that lie in another process."""

from __future__ import annotations

import math
import os
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from kernelharness.channel import BOARD_BYTES, Board, OutputReport, make_memory, pack_report
from kernelharness.compare import Comparer
from kernelharness.devices.base import OutputFault
from kernelharness.devices.cpu import CpuDevice
from kernelharness.devices.cpu_passes import CpuPasses
from kernelharness.protocol import TensorFact, Tolerance, Verdict

CALLS, SIZE = 3, 70_001
FACT = TensorFact(name="out", shape=[SIZE], dtype="float32")


@pytest.fixture(scope="module")
def passes() -> CpuPasses:
    built = CpuPasses.build()
    assert built is not None, "tests need g++"
    return built


@pytest.fixture(scope="module")
def device() -> CpuDevice:
    return CpuDevice()


def numbers(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """What calls return, a gap behind each."""
    made = torch.randn(CALLS, SIZE + 63, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return made.to(dtype)[:, :SIZE]


def addresses(stack: torch.Tensor) -> list[int]:
    return [call.data_ptr() for call in stack]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_errors_and_sums_are_torchs(passes: CpuPasses, dtype: torch.dtype) -> None:
    want = numbers(dtype)
    got = [call + 1e-5 * torch.rand(SIZE) for call in want]
    got[2][SIZE - 1] += 0.25
    found = passes.errors(os.getpid(), [call.data_ptr() for call in got], want)
    assert found is not None
    assert found.largest == max(float((mine - call).abs().max()) for mine, call in zip(got, want, strict=True))
    assert found.count == CALLS * SIZE
    assert found.total == pytest.approx(float(want.double().sum()), rel=1e-9)
    assert found.squares == pytest.approx(float(want.double().square().sum()), rel=1e-9)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 40_000, SIZE - 1])
@pytest.mark.parametrize("in_both", [False, True])
def test_an_error_that_is_no_number_is_below_nothing(
    passes: CpuPasses, value: float, place: int, in_both: bool
) -> None:
    want = numbers()
    got = want.clone()
    got[1][place] = value
    if in_both:
        want[1][place] = value
    found = passes.errors(os.getpid(), addresses(got), want)
    assert found is not None
    assert not found.largest < math.inf
    assert not Comparer(Tolerance()).holds([found], [want])


@pytest.mark.parametrize(("error", "holds"), [(0.9e-4, True), (1.1e-4, False), (3.0, False)])
def test_what_holds_is_within_the_tolerance_alone(passes: CpuPasses, error: float, holds: bool) -> None:
    want = numbers()
    got = want.clone()
    got[2][5] = want[2][5] + error
    found = passes.errors(os.getpid(), addresses(got), want)
    assert found is not None
    assert Comparer(Tolerance()).holds([found], [want]) is holds
    assert Comparer(Tolerance()).compare([got], [want]).ok is (error < 1)


@pytest.mark.parametrize("address", [0, 4096, (1 << 63) + 64])
def test_memory_that_is_not_there_is_not_covered(passes: CpuPasses, address: int) -> None:
    want = numbers()
    assert passes.errors(os.getpid(), [*addresses(want)[:2], address], want) is None


@pytest.mark.parametrize(
    "want", [torch.ones(3, 70_000, dtype=torch.int64), torch.ones(3, 70_000).half(), torch.ones(3, 8)]
)
def test_what_gains_nothing_is_left_to_torch(passes: CpuPasses, want: torch.Tensor) -> None:
    assert passes.errors(os.getpid(), addresses(want), want) is None


def test_without_a_compiler_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert CpuPasses.build() is None
    assert CpuDevice().errors(SimpleNamespace(pid=os.getpid()), [FACT], [numbers()]) is None  # type: ignore[arg-type]


@pytest.fixture
def runner() -> Any:
    board = Board(make_memory("board", BOARD_BYTES))
    return SimpleNamespace(pid=os.getpid(), board=board, name="the candidate")


def report(runner: Any, got: torch.Tensor, **changed: Any) -> None:
    told = {"dtype": "float32", "shape": (SIZE,), "stride": (1,), **changed}
    runner.board.write_reports(b"".join(pack_report(OutputReport(address, **told)) for address in addresses(got)))


def test_a_device_says_so_of_all_calls_of_a_run(device: CpuDevice, runner: Any) -> None:
    want = numbers()
    got = want.clone()
    got[1][7] += 0.5
    report(runner, got)
    found = device.errors(runner, [FACT], [want])
    assert found is not None
    assert found[0].largest == pytest.approx(0.5)


def test_forms_are_checked_all_the_same(device: CpuDevice, runner: Any) -> None:
    report(runner, numbers(), shape=(SIZE - 1,))
    with pytest.raises(OutputFault) as fault:
        device.errors(runner, [FACT], [numbers()])
    assert fault.value.verdict is Verdict.WRONG_SHAPE
    report(runner, numbers(), stride=(2,))
    assert device.errors(runner, [FACT], [numbers()]) is None

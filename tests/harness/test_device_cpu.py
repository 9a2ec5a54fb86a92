"""Inputs cannot be written by whoever was given them, and outputs are read whatever a runner claims of them."""

from __future__ import annotations

import fcntl
import mmap
import os
import signal
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from kernelharness import syscalls
from kernelharness.channel import BOARD_BYTES, Board, Order, OrderKind, OutputReport, make_memory, pack_report
from kernelharness.compare import POISON_BYTE
from kernelharness.devices.base import OutputFault, Window
from kernelharness.devices.cpu import CpuDevice
from kernelharness.processes import RunnerFault
from kernelharness.protocol import TensorFact, Verdict

FACT = TensorFact(name="out", shape=[3, 4], dtype="float32")
F_SEAL_FUTURE_WRITE = 0x10


@pytest.fixture(scope="module")
def device() -> CpuDevice:
    return CpuDevice()


@pytest.fixture
def values() -> torch.Tensor:
    return torch.arange(24, dtype=torch.float32).share_memory_()


@pytest.fixture
def runner(values: torch.Tensor) -> Iterator[Any]:
    """A stopped copy of this process: `values` lies there at the same address, and is what it is here."""
    pid = os.fork()
    if pid == 0:
        signal.pause()
        os._exit(0)
    os.kill(pid, signal.SIGSTOP)
    os.waitpid(pid, os.WUNTRACED)
    fd = make_memory("board", BOARD_BYTES)
    yield SimpleNamespace(pid=pid, board=Board(fd), name="the candidate", trusted=False)
    os.close(fd)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def report(runner: Any, *reports: OutputReport) -> None:
    runner.board.write_reports(b"".join(map(pack_report, reports)))


@pytest.mark.parametrize("name", ["arena", "gallery"])
def test_inputs_cannot_be_mapped_writable_by_any_way(device: CpuDevice, name: str) -> None:
    fd = device.runner_memory(trusted=False)[name]
    assert fcntl.fcntl(fd, fcntl.F_GET_SEALS) & F_SEAL_FUTURE_WRITE
    with pytest.raises(PermissionError):
        mmap.mmap(fd, 4096)
    again = os.open(f"/proc/self/fd/{fd}", os.O_RDWR)
    try:
        with pytest.raises(PermissionError):
            mmap.mmap(again, 4096)
        with pytest.raises(PermissionError):
            os.pwrite(again, b"x", 0)
    finally:
        os.close(again)


def test_candidates_are_never_given_the_desk(device: CpuDevice) -> None:
    assert "desk" not in device.runner_memory(trusted=False)
    assert "desk" in device.runner_memory(trusted=True)


def test_outputs_of_all_calls_are_read_whatever_their_strides(
    device: CpuDevice, runner: Any, values: torch.Tensor
) -> None:
    report(
        runner,
        OutputReport(values.data_ptr(), "float32", (3, 4), (4, 1)),
        OutputReport(values.data_ptr(), "float32", (3, 4), (1, 3)),
        OutputReport(values.data_ptr() + 8, "float32", (3, 4), (0, 0)),
    )
    (stack,) = device.read_outputs(runner, 3, [FACT])
    assert torch.equal(stack[0], values[:12].view(3, 4))
    assert torch.equal(stack[1], values[:12].view(4, 3).t())
    assert torch.equal(stack[2], torch.full((3, 4), 2.0))


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({"shape": (4, 3), "stride": (3, 1)}, Verdict.WRONG_SHAPE),
        ({"shape": (12,), "stride": (1,)}, Verdict.WRONG_SHAPE),
        ({"dtype": "float64"}, Verdict.WRONG_DTYPE),
        ({"dtype": "complex64"}, Verdict.WRONG_DTYPE),
        ({"stride": (-4, 1)}, Verdict.WRONG_SHAPE),
        ({"stride": (1 << 40, 1)}, Verdict.WRONG_SHAPE),
        ({"address": 0}, Verdict.MEMORY_FAULT),
        ({"address": (1 << 63) + 64}, Verdict.MEMORY_FAULT),
    ],
)
def test_impossible_outputs_are_refused(
    device: CpuDevice, runner: Any, values: torch.Tensor, changed: dict[str, Any], verdict: Verdict
) -> None:
    told = {"address": values.data_ptr(), "dtype": "float32", "shape": (3, 4), "stride": (4, 1), **changed}
    report(runner, OutputReport(**told))
    with pytest.raises(OutputFault) as fault:
        device.read_outputs(runner, 1, [FACT])
    assert fault.value.verdict is verdict


def test_a_missing_report_is_the_runners_fault(device: CpuDevice, runner: Any) -> None:
    runner.board.forget_reports(1)
    with pytest.raises(RunnerFault):
        device.read_outputs(runner, 1, [FACT])


def test_reused_memory_is_seen(device: CpuDevice, runner: Any, values: torch.Tensor) -> None:
    one = OutputReport(values.data_ptr(), "float32", (3, 4), (4, 1))
    behind = OutputReport(values.data_ptr() + 48, "float32", (3, 4), (4, 1))
    report(runner, one, behind)
    assert not device.share_memory(runner, 2, [FACT])
    report(runner, one, one)
    assert device.share_memory(runner, 2, [FACT])


STRIDE = 64
RUN = Order(OrderKind.RUN, 3)


@pytest.fixture
def slots(device: CpuDevice, runner: Any, values: torch.Tensor) -> torch.Tensor:
    """The bytes of three slots, and a runner that was pointed at them and says of all three where its output is."""
    device.show(runner, Window("arena", 0, STRIDE, RUN.a, (FACT,)))
    report(runner, *[OutputReport(values.data_ptr(), "float32", (3, 4), (4, 1))] * RUN.a)
    found = torch.frombuffer(device._maps["arena"], dtype=torch.uint8, count=RUN.a * STRIDE).view(RUN.a, STRIDE)
    found[:] = torch.arange(1, 1 + RUN.a, dtype=torch.uint8).unsqueeze(1)
    return found


def test_inputs_of_a_call_come_when_the_one_before_is_over(
    device: CpuDevice, runner: Any, slots: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[int]] = []

    def run(_runner: Any, order: Order, _deadline: float) -> int:
        assert order.a == 1
        assert slots.eq(slots[:, :1]).all()
        seen.append(slots[:, 0].tolist())
        return [70, 10, 20][order.b]

    monkeypatch.setattr(device, "run", run)
    assert device.run_one_by_one(runner, RUN, 0.0).ns == 20
    assert seen == [[1, POISON_BYTE, POISON_BYTE], [1, 2, POISON_BYTE], [1, 2, 3]]


def test_an_output_that_changes_after_its_call_is_late(
    device: CpuDevice, runner: Any, slots: torch.Tensor, values: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(_runner: Any, order: Order, _deadline: float) -> int:
        values[0] = order.b
        return 10

    monkeypatch.setattr(device, "run", run)
    with pytest.raises(OutputFault) as fault:
        device.run_one_by_one(runner, RUN, 0.0)
    assert fault.value.verdict is Verdict.LATE_OUTPUT


def test_nobody_looks_into_a_reference(
    device: CpuDevice, runner: Any, slots: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a pod the kernel would not let us. T reads its own memory instead, so that a reference waits as long."""
    read: list[int] = []
    call = syscalls.call

    def recorded(name: str, pid: int, *more: Any) -> int:
        read.append(pid)
        return call(name, pid, *more)

    runner.trusted, runner.pid = True, 0
    device.show(runner, Window("arena", 0, STRIDE, RUN.a, (FACT,)))
    monkeypatch.setattr(device, "run", lambda *_: 10)
    monkeypatch.setattr(syscalls, "call", recorded)
    assert device.run_one_by_one(runner, RUN, 0.0).ns == 10
    assert read == [os.getpid()] * RUN.a


def test_ceilings_are_measured(device: CpuDevice) -> None:
    ceilings = device.measure_ceilings()
    assert 1e8 < ceilings.bytes_per_second < 1e13
    assert ceilings.flops_per_second["float32"] > 1e8

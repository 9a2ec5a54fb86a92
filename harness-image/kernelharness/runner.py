"""What a runner process executes: obey T's orders, call forward, say where the results are.

One loop for all arms, so that all pay the same for being asked: E and A (eager), C (compiled), U (the candidate). The
arms differ in their `Arm` only. In U everything here may be rewritten by the candidate once it is loaded; T believes
nothing of it. Neighbours: torch_arms.py, native_arm.py (ctypes), channel.py, processes.py (T's end).
"""

from __future__ import annotations

import ctypes
import faulthandler
import os
import socket
import tempfile
import traceback
from collections.abc import Sequence
from typing import Any, Protocol

from kernelharness import channel, host_memory, isolation
from kernelharness.channel import Board, Failure, Order, OrderKind, Reply, ReplyKind, RunFlag

TRACEBACK_BYTES = 8 * 1024


class ArmError(Exception):
    """The arm cannot do it, and knows why."""

    def __init__(self, failure: Failure, text: str) -> None:
        super().__init__(text)
        self.failure = failure
        self.text = text


class Pool(Protocol):
    """Where a native arm's outputs come from: blocks with an address, given back with the object."""

    def take(self, nbytes: int) -> Any:
        """A block. Raise MemoryError."""
        ...

    def copy(self, target: Any, source: Any, nbytes: int) -> None: ...


class Gate(Protocol):
    """What keeps calls that were made ahead from beginning."""

    def wait(self, calls: int) -> None:
        """What is asked of the device from now on begins when T has allowed so many calls."""
        ...

    def tell_end(self, calls: int) -> None:
        """Let T see when everything that was asked of the device so far is over: so many calls."""
        ...


class Memory(Protocol):
    """What a runner has of the device: T's memories, a pool of its own, and what to do around a run."""

    device_type: int
    """Where calls' tensors lie, as DLPack numbers it (languages/native.py)."""
    rights: isolation.DeviceRights
    pool: Any
    """A `Pool`."""
    stream: int
    """Where a native arm's work goes; 0 on a CPU."""

    @property
    def gate(self) -> Gate | None:
        """None where calls are never asked for one by one."""
        ...

    def attach(self) -> None:
        """Make it usable. Before the candidate is there, and before its rights are given up."""
        ...

    def map(self, name: str) -> Any:
        """T's memory of this name, for torch: an mmap, or a region of the device."""
        ...

    def place(self, name: str, offset: int, nbytes: int, *, refilled: bool) -> int:
        """The address where a native arm's calls read these bytes of T's memory.

        `refilled`: T writes them anew before every run, and so does `fetch`; one such place is in use at a time.
        """
        ...

    def fd(self, name: str) -> int: ...

    def fetch(self) -> None:
        """Bring what T wrote since the last run to where calls read it. Timed."""
        ...

    def show(self, board: Board, packed: bytes) -> None:
        """Let T reach what these output reports point to."""
        ...

    def touch(self) -> None:
        """The least work that there is."""
        ...

    def finish(self) -> None:
        """Wait until all work is done. Raise what went wrong in it."""
        ...

    def failure_of(self, error: Exception) -> Failure:
        """What an error that nobody expected says."""
        ...


class Arm(Protocol):
    """One thing that can be timed. `Call` is whatever the arm needs for one slot."""

    def load(self, case: int, state_offset: int) -> None:
        """Make it ready for a case; parameters lie in the gallery at this offset."""
        ...

    def prepare(self, case: int, memory: str, offsets: Sequence[int]) -> list[Any]:
        """Everything for calls on these slots that is not part of a call: views, bound addresses. Untimed."""
        ...

    def call(self, prepared: Any) -> Any:
        """One call of forward; the result owns its outputs. Timed."""
        ...

    def copy(self, result: Any) -> Any:
        """The result in memory of its own."""
        ...

    def report(self, results: list[Any]) -> tuple[bytes, int]:
        """Packed output reports of these results, and how many. Timed, as cheap as possible."""
        ...

    def handle(self, order: Order, results: list[Any]) -> Reply:
        """Orders that only some arms know."""
        ...


def run(config: dict[str, Any], fds: list[int]) -> None:
    """The entry that a zygote calls in a fresh process. fds: channel, board, then the memories that config names."""
    link = socket.socket(fileno=fds[0])
    board = Board(fds[1])
    given = dict(zip(config["memory"], fds[2:], strict=True))
    memory = _make_memory(config, given, board)
    os.environ.update(config.get("env", {}))
    if config.get("isolate"):
        readable = [config["folder"]] if "folder" in config else []
        tempfile.tempdir = config.get("folder", tempfile.tempdir)
        if config.get("warmup"):
            layers, listener = isolation.isolate_warmup(config["folder"], memory.attach, memory.rights)
        else:
            layers, listener = isolation.isolate_runner(config["memory_bytes"], memory.attach, memory.rights, readable)
        hello = Reply(ReplyKind.READY, a=board.write_text("\n".join(f"{k}: {v}" for k, v in layers.items())))
        socket.send_fds(link, [hello.pack()], [] if listener is None else [listener])
        if listener is not None:
            os.close(listener)
    else:
        isolation.set_dumpable(False)
        memory.attach()
    _touch_memory(config.get("touch_bytes", 0))
    if config["arm"] == "python":
        faulthandler.register(channel.STACK_SIGNAL, file=2, all_threads=True)
    arm = _make_arm(config, memory, board)
    kept: list[Any] = []
    prepared: list[Any] = []
    while data := link.recv(channel.ORDER_BYTES):
        order = Order.unpack(data)
        try:
            if order.kind == OrderKind.LOAD:
                kept.clear()
                arm.load(order.a, order.b)
                reply = Reply(ReplyKind.READY)
            elif order.kind == OrderKind.PREPARE:
                kept.clear()
                prepared = arm.prepare(order.a, order.memory, range(order.b, order.b + order.c * order.d, order.d))
                reply = Reply(ReplyKind.READY)
            elif order.kind == OrderKind.RUN:
                chosen = prepared[order.b : order.b + order.a if order.a else None]
                run_calls = _run_gated if order.flags & RunFlag.ONE_BY_ONE and memory.gate else _run
                reply = run_calls(arm, memory, board, chosen, kept, order)
            elif order.kind == OrderKind.DROP:
                kept.clear()
                reply = Reply(ReplyKind.READY)
            else:
                reply = arm.handle(order, kept)
            memory.finish()
        except ArmError as error:
            reply = _failed(board, error.failure, error.text)
        except MemoryError as error:
            reply = _failed(board, Failure.OOM, f"MemoryError: {error}")
        except Exception as error:
            failure = memory.failure_of(error)
            reply = _failed(board, failure, traceback.format_exc()[-TRACEBACK_BYTES:])
        link.send(reply.pack())


def _run(arm: Arm, memory: Memory, board: Board, prepared: list[Any], kept: list[Any], order: Order) -> Reply:
    """The timed part. Results of the last run are dropped first: their memory is what this run's results get.

    Reports are written before the device is waited for: while it works, they cost nothing.
    """
    flags = order.flags
    if not (flags & RunFlag.ONE_BY_ONE and order.b):
        kept.clear()
    before = len(kept)
    if flags & RunFlag.EMPTY:
        memory.touch()
        return Reply(ReplyKind.DONE)
    memory.fetch()
    call = arm.call
    if flags & RunFlag.COPY_OUT:
        copy = arm.copy
        for slot in prepared:
            kept.append(copy(call(slot)))
    else:
        for slot in prepared:
            kept.append(call(slot))
    packed, count = arm.report(kept[before:])
    board.write_reports(packed, count // len(prepared) * before)
    memory.show(board, packed)
    return Reply(ReplyKind.DONE, a=count)


def _run_gated(arm: Arm, memory: Memory, board: Board, prepared: list[Any], kept: list[Any], order: Order) -> Reply:
    """The same with a gate before each call. All are made ahead, so that what one takes is the device's time alone."""
    kept.clear()
    assert memory.gate is not None
    reports = 0
    for calls, slot in enumerate(prepared, 1):
        memory.gate.wait(calls)
        if order.flags & RunFlag.EMPTY:
            memory.touch()
            memory.gate.tell_end(calls)
        else:
            result = arm.call(slot)
            kept.append(arm.copy(result) if order.flags & RunFlag.COPY_OUT else result)
            memory.gate.tell_end(calls)
            packed, count = arm.report(kept[-1:])
            board.write_reports(packed, reports)
            memory.show(board, packed)
            reports += count
        board.write_turn(channel.TURN_MADE, calls)
    return Reply(ReplyKind.DONE, a=reports)


def _touch_memory(nbytes: int) -> None:
    """Let the allocator own this much memory that was touched already, in one piece: the same start for every arm."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    libc.malloc.argtypes = (ctypes.c_size_t,)
    libc.free.argtypes = (ctypes.c_void_p,)
    libc.memset.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t)
    if block := libc.malloc(nbytes):
        libc.memset(block, 0, nbytes)
        libc.free(block)


def _failed(board: Board, failure: Failure, text: str) -> Reply:
    return Reply(ReplyKind.FAILED, failure, board.write_text(text))


def _make_memory(config: dict[str, Any], fds: dict[str, int], board: Board) -> Memory:
    if config.get("device") == "cuda":
        from kernelharness.cuda_memory import CudaMemory

        return CudaMemory(fds, config["regions"], board, uses_torch=config["arm"] != "native")
    if config.get("device") == "host_copy":
        from kernelharness.host_copy import HostCopyMemory

        return HostCopyMemory(fds, config["accelerator"])
    return host_memory.HostMemory(fds, frozenset(config.get("writable", ())), config.get("private", {}))


def _make_arm(config: dict[str, Any], memory: Memory, board: Board) -> Arm:
    if config["arm"] == "native":
        from kernelharness.native_arm import NativeArm

        return NativeArm(config, memory)
    from kernelharness import torch_arms

    return torch_arms.make(config, memory, board)

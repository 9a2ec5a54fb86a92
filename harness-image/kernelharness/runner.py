"""What a runner process executes: obey T's orders, call forward, say where the results are.

One loop for all arms, so that all pay the same for being asked: E and A (eager), C (compiled), U (the candidate). The
arms differ in their `Arm` only. In U everything here may be rewritten by the candidate once it is loaded; T believes
nothing of it. Neighbours: torch_arms.py, native_arm.py (ctypes), channel.py, processes.py (T's end).
"""

from __future__ import annotations

import mmap
import os
import socket
import traceback
from collections.abc import Sequence
from typing import Any, Protocol

from kernelharness import channel, isolation
from kernelharness.channel import Board, Failure, Order, OrderKind, Reply, ReplyKind, RunFlag

TRACEBACK_BYTES = 8 * 1024


class ArmError(Exception):
    """The arm cannot do it, and knows why."""

    def __init__(self, failure: Failure, text: str) -> None:
        super().__init__(text)
        self.failure = failure
        self.text = text


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


class Memory:
    """The memfds that T handed over, mapped on first use."""

    def __init__(self, fds: dict[str, int], writable: frozenset[str], private: dict[str, int]) -> None:
        """`private`: of these so many bytes may be written, seen by this process alone; only to explain a fault."""
        self._fds = fds
        self._writable = writable | private.keys()
        self._private = private
        self._maps: dict[str, mmap.mmap] = {}

    def map(self, name: str) -> mmap.mmap:
        if name not in self._maps:
            protection = mmap.PROT_READ | (mmap.PROT_WRITE if name in self._writable else 0)
            sharing = mmap.MAP_PRIVATE if name in self._private else mmap.MAP_SHARED
            size = self._private.get(name) or os.fstat(self._fds[name]).st_size
            self._maps[name] = mmap.mmap(self._fds[name], size, sharing, protection)
        return self._maps[name]

    def fd(self, name: str) -> int:
        return self._fds[name]


def run(config: dict[str, Any], fds: list[int]) -> None:
    """The entry that a zygote calls in a fresh process. fds: channel, board, then the memories that config names."""
    link = socket.socket(fileno=fds[0])
    board = Board(fds[1])
    given = dict(zip(config["memory"], fds[2:], strict=True))
    memory = Memory(given, frozenset(config.get("writable", ())), config.get("private", {}))
    if config.get("isolate"):
        layers, listener = isolation.isolate_runner(config["memory_bytes"])
        hello = Reply(ReplyKind.READY, a=board.write_text("\n".join(f"{k}: {v}" for k, v in layers.items())))
        socket.send_fds(link, [hello.pack()], [] if listener is None else [listener])
        if listener is not None:
            os.close(listener)
    else:
        isolation.set_dumpable(False)
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
                reply = _run(arm, board, prepared, kept, order.flags)
            elif order.kind == OrderKind.DROP:
                kept.clear()
                reply = Reply(ReplyKind.READY)
            else:
                reply = arm.handle(order, kept)
        except ArmError as error:
            reply = _failed(board, error.failure, error.text)
        except MemoryError as error:
            reply = _failed(board, Failure.OOM, f"MemoryError: {error}")
        except Exception as error:
            failure = Failure.OOM if "allocate memory" in str(error) else Failure.ERROR
            reply = _failed(board, failure, traceback.format_exc()[-TRACEBACK_BYTES:])
        link.send(reply.pack())


def _run(arm: Arm, board: Board, prepared: list[Any], kept: list[Any], flags: int) -> Reply:
    """The timed part. Results of the last run are dropped first: their memory is what this run's results get."""
    kept.clear()
    if flags & RunFlag.EMPTY:
        return Reply(ReplyKind.DONE)
    call = arm.call
    if flags & RunFlag.COPY_OUT:
        copy = arm.copy
        for slot in prepared:
            kept.append(copy(call(slot)))
    else:
        for slot in prepared:
            kept.append(call(slot))
    packed, count = arm.report(kept)
    board.write_reports(packed)
    return Reply(ReplyKind.DONE, a=count)


def _failed(board: Board, failure: Failure, text: str) -> Reply:
    return Reply(ReplyKind.FAILED, failure, board.write_text(text))


def _make_arm(config: dict[str, Any], memory: Memory, board: Board) -> Arm:
    if config["arm"] == "native":
        from kernelharness.native_arm import NativeArm

        return NativeArm(config, memory)
    from kernelharness import torch_arms

    return torch_arms.make(config, memory, board)

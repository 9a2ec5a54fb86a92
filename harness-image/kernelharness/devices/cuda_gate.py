"""A run whose calls begin one by one on the device, each when T has brought its inputs.

In an ordinary run all inputs lie there before the first call, so that calls could share work that no user's calls
could. Here the runner puts its calls on its stream ahead, each behind a gate, so what one takes is the device's time,
and not that of launching it. Neighbours: cuda.py (what surrounds it), cuda_looks.py, ../cuda_memory.py (the gate).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np

from kernelharness.channel import TURN_ALLOWED, TURN_ENDED, TURN_MADE, Order, Reply, RunFlag
from kernelharness.devices.base import OutputFault
from kernelharness.devices.cuda_looks import Look
from kernelharness.devices.cuda_outputs import RemoteOutputs
from kernelharness.processes import FaultKind, Runner, RunnerFault
from kernelharness.protocol import Verdict

_PATIENCE = 0.02
"""So many seconds a call may take to be made; it is let begin then, because it waits for the device."""


class GatedRun:
    """One such run of one runner."""

    def __init__(self, runner: Runner, outputs: RemoteOutputs, random: np.random.Generator, deadline: float) -> None:
        self._runner = runner
        self._board = runner.board
        self._outputs = outputs
        self._random = random
        self._deadline = deadline
        self._looks: list[tuple[Look, bytes]] = []
        self._made_late = 0
        self._reply: Reply | None = None

    def obey(self, order: Order, bring: Callable[[int], None]) -> float:
        """Let the stopped runner obey; ns of one of `order.a` calls, on average. Raise RunnerFault.

        `bring`: copy the inputs of the call of this number to where it reads them.
        """
        for turn in (TURN_ALLOWED, TURN_MADE, TURN_ENDED):
            self._board.write_turn(turn, 0)
        self._runner.tell(replace(order, flags=order.flags | RunFlag.ONE_BY_ONE))
        self._runner.resume()
        took = [self._call(call, bring) for call in range(order.a)]
        if self._reply is None:
            self._runner.wait(self._deadline, spin=True)
        return sum(took) / order.a

    @property
    def waits(self) -> bool:
        """Most calls were not made before their inputs were there: each waits for the device before it returns."""
        return 2 * self._made_late > len(self._looks)

    def expect_settled(self) -> None:
        """The runner stands still. Raise OutputFault when what was seen of an output is not what lies there."""
        moved = not all(self._outputs.is_where(call) for call in range(len(self._looks)))
        if moved or any(look.see() != seen for look, seen in self._looks):
            raise OutputFault(Verdict.LATE_OUTPUT, "outputs were still being written when the call had returned")

    def _call(self, call: int, bring: Callable[[int], None]) -> int:
        """Ns from its inputs on until T has seen rows of its outputs: nothing is won by saying too early that it ended.

        Where the outputs of a call that is not made yet will lie is a guess, and a wrong one costs time.
        """
        made = partial(self._reached, TURN_MADE, call)
        patience = time.monotonic() + _PATIENCE
        self._wait(lambda: made() or time.monotonic() > patience)
        early = made()
        self._made_late += not early
        look = self._outputs.look(self._random, call, made=early)
        bring(call)
        begin = time.perf_counter_ns()
        self._board.write_turn(TURN_ALLOWED, call + 1)
        self._wait(partial(self._reached, TURN_ENDED, call))
        seen = look.see()
        end = time.perf_counter_ns()
        self._wait(made)
        if not self._outputs.is_where(call):
            look = self._outputs.look(self._random, call, made=True)
            seen = look.see()
            end = time.perf_counter_ns()
        self._looks.append((look, seen))
        return end - begin

    def _reached(self, turn: int, call: int) -> bool:
        return self._board.read_turn(turn) > call

    def _wait(self, until: Callable[[], bool]) -> None:
        self._reply = self._runner.watch(until, self._deadline) or self._reply
        if self._reply is not None and not until():
            raise RunnerFault(self._runner, FaultKind.PROTOCOL, f"{self._runner.name} was done before its calls were")

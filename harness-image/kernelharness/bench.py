"""One case on one device: slots, arms, and rounds in which exactly one arm runs at a time.

A round: T fills R slots with secrets, then each arm in turn is continued, told to run, and stopped again before T looks
at the clock, so nothing that an arm does outside its own turn can help it or hurt another. All results of a round are
compared afterwards, while every arm stands still. Neighbours: judge.py (decides), samples.py (blocks), slots.py.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

import torch
from torch import Tensor

from kernelharness.channel import MAX_REPORTS, Order, OrderKind, RunFlag
from kernelharness.devices.base import Alone, Device, Window
from kernelharness.layout import Layout, layout_of, widened
from kernelharness.processes import Runner
from kernelharness.protocol import CaseFact
from kernelharness.roofline import Bound
from kernelharness.secret import Secret
from kernelharness.slots import Refill, distort, has_structure
from kernelharness.timing import Rule, calls_per_round

CALIBRATION_ROUNDS = 40
CANDIDATE = "candidate"
"""The arm that nobody trusts."""
AGAIN = "again"
"""A second eager arm: what two equal arms differ by is the noise."""
MOST_CALLS = 256
WHOLE = (0, 0)
"""All slots of a round."""
AT_ONCE_BYTES = 16 << 20
"""Input sets that E makes at once, unless one has more: asking it takes longer than making a small one."""
_LARGE_BYTES = 256 << 20
"""Copying results of a call next to those of another takes longer than one more pass."""
_BASE_SETS = 3
_WARM_ROUNDS = 5
_FIRST_RUN_NS = 2_000_000
_LONG_RUN_NS = 5_000_000
_LEAST_NS = 200.0
"""No call is taken to be shorter."""


@dataclass(frozen=True)
class SetSeeds:
    """A correctness set that is made anew whenever it is needed."""

    inputs: int
    distortion: int


@dataclass
class CaseBench:
    """What T holds of one case: facts, layouts, base sets, correctness sets and what the reference says of them.

    Correctness sets lie in the gallery, with their answers in `expected`; or, where they are too large, `streamed` says
    how to make each of them in the arena.
    """

    index: int
    fact: CaseFact
    inputs: Layout
    outputs: Layout
    working_bytes: int = 0
    """Of device memory that a call of the reference takes beside inputs and results; 0 where nobody counts."""
    state_offset: int = 0
    gallery: list[int] = field(default_factory=list)
    """Offsets of the correctness sets in the gallery."""
    gallery_end: int = 0
    streamed: list[SetSeeds] = field(default_factory=list)
    at_once: int = 1
    """So many of the streamed sets lie in the arena together."""
    distributions: list[str] = field(default_factory=list)
    expected: list[list[Tensor]] = field(default_factory=list)
    exact: list[Tensor] | None = None
    """Outputs for the first correctness set in float64."""
    given: list[tuple[list[Tensor], list[Tensor]]] = field(default_factory=list)
    """Inputs and outputs of the sets that are as the problem makes them, or how they begin."""
    given_rms: list[float] = field(default_factory=list)
    """Of the outputs for the first correctness set, which is as the problem makes it."""
    base_sets: list[list[Tensor]] = field(default_factory=list)
    structured: bool = False
    refill: Refill | None = None
    fixed_cost_ns: float = 0.0
    baseline_ns: dict[str, float] = field(default_factory=dict)
    compile_ratio: float | None = None
    """torch.compile's time over eager's, when the probe measured it and this batch does not."""
    bound: Bound | None = None
    noise: float = 0.0
    """Log ratio below which two equal arms cannot be told apart here."""

    @property
    def call_bytes(self) -> int:
        """What one call reads and writes."""
        return self.fact.bytes_min

    @property
    def sets(self) -> list[tuple[int, int]]:
        """(first, count) of the correctness sets that a runner can be shown together."""
        count = len(self.streamed)
        firsts = range(0, count, self.at_once)
        return [(first, min(self.at_once, count - first)) for first in firsts] or [(0, len(self.gallery))]

    @staticmethod
    def of(index: int, fact: CaseFact, working_bytes: int = 0) -> CaseBench:
        return CaseBench(index, fact, layout_of(fact.inputs), layout_of(fact.outputs), working_bytes)


class Bench:
    """The arms of one batch around one device."""

    def __init__(self, device: Device, reference: Runner, secret: Secret, limit_seconds: float) -> None:
        self.device = device
        self.reference = reference
        self.secret = secret
        self.limit_seconds = limit_seconds
        self.waited_ns = 0
        """How long trusted arms have waited for a CPU in their turns, in all rounds so far."""

    def deadline(self) -> float:
        return time.monotonic() + self.limit_seconds

    def tell(self, runner: Runner, order: Order) -> None:
        """An untimed order: the runner runs alone until it answered, then stands still."""
        runner.ask(order, self.deadline())
        runner.stop()

    def load(self, runner: Runner, case: CaseBench) -> None:
        self.tell(runner, Order(OrderKind.LOAD, case.index, case.state_offset))

    def show_gallery(self, runner: Runner, case: CaseBench, position: int, count: int) -> None:
        """Point the runner at `count` correctness sets."""
        offset = case.gallery[position]
        self._show(runner, case, "gallery", offset, count)
        self.tell(runner, Order(OrderKind.PREPARE, case.index, offset, count, case.inputs.stride, RunFlag.GALLERY))
        runner.reports = count * len(case.fact.outputs)

    def show_sets(self, runner: Runner, case: CaseBench, first: int, count: int) -> list[list[Tensor]]:
        """Point the runner at correctness sets (`case.sets`); what is expected for each."""
        if not case.streamed:
            self.show_gallery(runner, case, first, count)
            return case.expected[first : first + count]
        several = slice(first, first + count)
        expected = self.stage(case, case.streamed[several], case.distributions[several])
        self.show_arena(runner, case, count)
        return expected

    def stage(self, case: CaseBench, seeds: Sequence[SetSeeds], distributions: Sequence[str]) -> list[list[Tensor]]:
        """Make streamed sets in the arena's first slots; the reference's answers, valid until it runs again."""
        for slot, (seed, distribution) in enumerate(zip(seeds, distributions, strict=True)):
            target = self.device.tensors("arena", case.inputs, slot * case.inputs.stride)
            self._make_set(case, target, seed, distribution)
        self.load(self.reference, case)
        self.show_arena(self.reference, case, len(seeds))
        self.run(self.reference)
        return [[stack[0] for stack in self.collect(case, 1, first=slot)] for slot in range(len(seeds))]

    def place(self, case: CaseBench, position: int, seeds: SetSeeds, distribution: str) -> list[Tensor]:
        """Make a correctness set in the gallery; the reference's answer."""
        slot = self.device.tensors("gallery", case.inputs, case.gallery[position])
        self._make_set(case, slot, seeds, distribution)
        self.show_gallery(self.reference, case, position, 1)
        self.run(self.reference)
        return [stack[0].clone() for stack in self.collect(case, 1)]

    def _make_set(self, case: CaseBench, slot: list[Tensor], seeds: SetSeeds, distribution: str) -> None:
        generator = torch.Generator(self.device.torch_device).manual_seed(seeds.distortion)
        for target, source in zip(slot, self.generate(case, seeds.inputs), strict=True):
            target.copy_(source)
            distort(target, distribution, generator)

    def show_arena(self, runner: Runner, case: CaseBench, calls: int) -> None:
        """Point the runner at the first `calls` slots of the arena."""
        self._show(runner, case, "arena", 0, calls)
        self.tell(runner, Order(OrderKind.PREPARE, case.index, 0, calls, case.inputs.stride))
        runner.reports = calls * len(case.fact.outputs)

    def _show(self, runner: Runner, case: CaseBench, memory: str, offset: int, calls: int) -> None:
        outputs = tuple(case.fact.outputs)
        self.device.show(runner, Window(memory, offset, case.inputs.stride, calls, outputs))

    def generate(self, case: CaseBench, seed: int | None = None) -> list[Tensor]:
        """An input set on the desk, as the problem makes it from this seed, or from a fresh secret one."""
        return [stack[0] for stack in self._generate(case, 1, seed)]

    def _generate(self, case: CaseBench, count: int, seed: int | None = None) -> list[Tensor]:
        """Each input of so many sets as one tensor."""
        seed = self.secret.draw() if seed is None else seed
        self.tell(self.reference, Order(OrderKind.GENERATE, case.index, seed, count))
        return self.device.stacks("desk", case.inputs, 0, count)

    def collect(self, case: CaseBench, calls: int, first: int = 0) -> list[Tensor]:
        """The reference's kept results of `calls` calls from the `first` on, each output of them as one tensor; valid
        until the desk is used again, or the reference runs.
        """
        if self.device.reads_references:
            return self.device.read_outputs(self.reference, calls, case.fact.outputs, first)
        self.tell(self.reference, Order(OrderKind.COLLECT, case.index))
        return self.device.stacks("desk", case.outputs, first * case.outputs.stride, calls)

    def portions(self, case: CaseBench, calls: int) -> list[tuple[int, int]]:
        """(first, count) of the calls whose results are looked at together: all, but large ones one by one where they
        need not be copied for that.
        """
        large = self.device.reads_references and case.outputs.stride > _LARGE_BYTES
        return [(call, 1) for call in range(calls)] if large else [(0, calls)]

    def exact(self, case: CaseBench, offset: int, flags: int = RunFlag.NONE) -> list[Tensor] | None:
        """The reference's outputs for one slot in float64, valid until the desk is used again; None when its code
        cannot run in that type.
        """
        reply = self.reference.ask(Order(OrderKind.EXACT, case.index, offset, flags=flags), self.deadline())
        self.reference.stop()
        if not reply.a:
            return None
        return self.device.tensors("desk", layout_of(widened(case.fact.outputs)), 0)

    def run(self, runner: Runner, flags: int = 0, part: tuple[int, int] = WHOLE) -> int:
        """One timed run of what was prepared, or of a part of its slots (first, count); ns from before it was continued
        until it was done and stood still.
        """
        first, count = part
        runner.expect_silence()
        if not flags & RunFlag.EMPTY:
            runner.board.forget_reports(runner.reports)
        return self.device.run(runner, Order(OrderKind.RUN, count, first, flags=flags), self.deadline())

    def make_base_sets(self, case: CaseBench) -> None:
        """What timed slots are made of. Decides whether inputs have a structure that only the problem can make."""
        first = [tensor.clone() for tensor in self.generate(case)]
        case.structured = any(has_structure(tensor) for tensor in first)
        if not case.structured:
            others = 0 if case.streamed else _BASE_SETS - 1
            case.base_sets = [first, *([tensor.clone() for tensor in self.generate(case)] for _ in range(others))]

    def allow_signs(self, case: CaseBench, allowed: bool) -> None:
        """Timed slots may have mixed signs where the reference stays finite with them."""
        if not case.structured:
            case.refill = self.device.refill(self.secret.draw(), signs=allowed)

    def fill_arena(self, case: CaseBench, calls: int) -> None:
        """Fresh secrets in every slot; none is ever used twice."""
        slots = self.device.stacks("arena", case.inputs, 0, calls)
        if case.refill is None:
            at_once = max(1, AT_ONCE_BYTES // case.inputs.stride)
            for first in range(0, calls, at_once):
                count = min(at_once, calls - first)
                for stack, made in zip(slots, self._generate(case, count), strict=True):
                    stack[first : first + count].copy_(made)
            return
        for index, stack in enumerate(slots):
            case.refill.fill_stack(stack, [base[index] for base in case.base_sets])

    def calibrate(self, case: CaseBench) -> None:
        """What a round costs when nothing is called. The first ones cost more."""
        times = [self.run(self.reference, RunFlag.EMPTY) for _ in range(CALIBRATION_ROUNDS)]
        case.fixed_cost_ns = float(median(times[CALIBRATION_ROUNDS // 4 :]))

    def round(
        self,
        case: CaseBench,
        arms: dict[str, Runner],
        order: Sequence[str],
        calls: int,
        flags: int = 0,
        part: tuple[int, int] = WHOLE,
        *,
        cold: bool = True,
    ) -> dict[str, float]:
        """Fresh secrets in `calls` slots, then every arm once, in this order. All stand still on return.

        `flags` are the candidate's: what its results need must not cost a baseline time, because nobody can see whether
        the candidate really does it. `part`: of the slots, those that are called on (first, count).
        `cold`: the times are looked at, so every arm begins without slots in its caches.
        """
        self.fill_arena(case, calls)
        times: dict[str, float] = {}
        for name in order:
            self.waited_ns -= self._waited_ns(name, arms)
            if cold:
                self.device.evict(calls * case.inputs.stride)
            asked = flags if name == CANDIDATE else RunFlag.NONE
            times[name] = max(1.0, self.run(arms[name], asked, part) - case.fixed_cost_ns)
            self.waited_ns += self._waited_ns(name, arms)
        return times

    def _waited_ns(self, name: str, arms: dict[str, Runner]) -> int:
        """A candidate with too many threads waits for its own, and that is its own time."""
        return 0 if name == CANDIDATE else self.device.waited_ns(arms[name])

    def one_by_one(
        self, case: CaseBench, arms: dict[str, Runner], calls: int, flags: int = 0
    ) -> tuple[dict[str, Alone], float]:
        """A round in which no inputs are there before the call before is over: (by arm, ns when nothing is called).
        Where the device `gates_calls`.
        """
        self.fill_arena(case, calls)
        nothing = self._gated(self.reference, calls, RunFlag.EMPTY)
        asked = {name: flags if name == CANDIDATE else RunFlag.NONE for name in arms}
        return {name: self._gated(arm, calls, asked[name]) for name, arm in arms.items()}, nothing.ns

    def _gated(self, runner: Runner, calls: int, flags: int) -> Alone:
        runner.expect_silence()
        if not flags & RunFlag.EMPTY:
            runner.board.forget_reports(runner.reports)
        return self.device.run_one_by_one(runner, Order(OrderKind.RUN, calls, flags=flags), self.deadline())

    def call_ns(self, case: CaseBench, runner: Runner, flags: int = 0) -> float:
        """A first idea of the time of one call, on warm slots.

        Of a short call, a run of one is mostly the run's beginning; then of as many as make it a longer run.
        """
        alone = self._fastest_ns(case, runner, flags, 1)
        calls, _ = calls_per_round(alone, _FIRST_RUN_NS, self._most_calls(case))
        return alone if calls == 1 else self._fastest_ns(case, runner, flags, calls)

    def _fastest_ns(self, case: CaseBench, runner: Runner, flags: int, calls: int) -> float:
        """The best of three runs after one; after a long one, one is enough."""
        self.fill_arena(case, calls)
        self.show_arena(runner, case, calls)
        more = 1 if self.run(runner, flags) > _LONG_RUN_NS else 3
        fastest = min(self.run(runner, flags) for _ in range(more))
        return max(_LEAST_NS, (fastest - case.fixed_cost_ns) / calls)

    def warm_up(self, case: CaseBench, arms: dict[str, Runner], calls: int, flags: int = RunFlag.NONE) -> None:
        """Rounds until no arm touches new memory any more: at least one, at most `_WARM_ROUNDS`."""
        self.settle(arms)
        for _ in range(_WARM_ROUNDS):
            before = sum(runner.page_faults() for runner in arms.values())
            self.round(case, arms, list(arms), calls, flags, cold=False)
            self.settle(arms)
            if sum(runner.page_faults() for runner in arms.values()) == before:
                break

    def settle(self, arms: dict[str, Runner]) -> None:
        for runner in arms.values():
            self.device.settle(runner)

    def plan(self, case: CaseBench, slowest_ns: float, rule: Rule, arms: int) -> tuple[int, int]:
        """(calls of a round, rounds of a block) that make a block of the slowest arm as long as the rule wants."""
        calls, rounds = calls_per_round(slowest_ns, rule.block_ns, self._most_calls(case))
        return calls, rule.balanced(rounds, arms, calls * slowest_ns)

    def _most_calls(self, case: CaseBench) -> int:
        most = min(MOST_CALLS, MAX_REPORTS // max(1, len(case.fact.outputs)), self.fitting(case))
        # A result that lies where the one before lay is seen in the correctness sets that are shown together.
        return max(1, min(most, case.at_once) if case.streamed else most)

    def fitting(self, case: CaseBench) -> int:
        """Slots that there is memory for, results included; at least one."""
        slot = case.inputs.stride + case.outputs.stride
        return max(1, min(self.device.capacity("arena") // case.inputs.stride, self.device.round_bytes // slot))

"""Blocks of timed rounds, and the times that come of them.

Neighbours: bench.py (a round), timing.py (statistics), trial.py and reference.py (who measure).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from kernelharness.bench import CANDIDATE, Bench, CaseBench
from kernelharness.processes import Runner
from kernelharness.timing import MIN_BLOCKS, Rule

PLANS, SLOW_START = 3, 4
"""How often blocks are planned, at most, and how many times faster than expected calls may be."""
_DISTURBED_SHARE = 0.25
"""Of a trusted arm's time, spent by its threads waiting for a CPU. Waking up on an idle machine makes up to 0.12."""


@dataclass(frozen=True)
class Block:
    """One block of interleaved rounds."""

    ns: dict[str, float]
    """By arm: the time of all its calls, fixed cost taken off."""
    disturbed: bool
    """Others took CPU time away while the block ran, or the container was throttled."""


def blocks(
    bench: Bench,
    case: CaseBench,
    arms: dict[str, Runner],
    calls: int,
    rounds: int,
    check: Callable[[], None],
    flags: int = 0,
) -> Iterator[Block]:
    """Endless blocks of `rounds` rounds, order rotated. `check` compares what a round produced."""
    names = list(arms)
    turn = 0
    while True:
        bench.device.watch()
        total = dict.fromkeys(names, 0.0)
        before = bench.waited_ns
        for _ in range(rounds):
            order = names[turn % len(names) :] + names[: turn % len(names)]
            turn += 1
            for name, ns in bench.round(case, arms, order, calls, flags).items():
                total[name] += ns
            check()
        waited = bench.waited_ns - before
        bench.settle(arms)
        spent = sum(total[name] for name in names if name != CANDIDATE)
        seen = bench.device.watch()
        yield Block(total, seen.throttled or seen.busy or waited > _DISTURBED_SHARE * spent)


class Samples:
    """Times by arm from blocks; those of disturbed blocks only count when there are not enough others."""

    def __init__(self, arms: Sequence[str], calls: int, rounds: int = 1) -> None:
        """A block is the time of `rounds` runs of each arm, and a run that of so many calls."""
        self._names = list(arms)
        self._calls = calls
        self._rounds = rounds
        self._clean: list[dict[str, float]] = []
        self._all: list[dict[str, float]] = []

    def add(self, block: Block) -> None:
        self._all.append(block.ns)
        if not block.disturbed:
            self._clean.append(block.ns)

    @property
    def count(self) -> int:
        """Of all blocks."""
        return len(self._all)

    @property
    def disturbed(self) -> int:
        return self.count - len(self._clean)

    @property
    def is_noisy(self) -> bool:
        """True when more than half of the blocks were disturbed."""
        return 2 * self.disturbed > self.count

    @property
    def _used(self) -> list[dict[str, float]]:
        return self._clean if len(self._clean) >= MIN_BLOCKS else self._all

    def ratios(self, arm: str, to: str) -> list[float]:
        """ln(time of `arm` / time of `to`), one for each block that counts."""
        return [math.log(block[arm] / block[to]) for block in self._used]

    def clean_ratios(self, arm: str, to: str) -> list[float]:
        """The same of undisturbed blocks alone."""
        return [math.log(block[arm] / block[to]) for block in self._clean]

    def call_ns(self, arm: str) -> float:
        """Median time of one call."""
        return self.run_ns(arm) / self._calls

    def run_ns(self, arm: str) -> float:
        """Median time of one run."""
        return median(block[arm] for block in self._used) / self._rounds


def sample(
    bench: Bench,
    case: CaseBench,
    arms: dict[str, Runner],
    plan: tuple[int, int],
    rule: Rule,
    *,
    enough: Callable[[Samples, int], bool],
    check: Callable[[], None] = lambda: None,
    flags: int = 0,
) -> Samples:
    """Blocks of (calls, rounds) until `enough` says so, of them and of the ns that they took, or the rule gives up."""
    calls, rounds = plan
    samples = Samples(list(arms), calls, rounds)
    begin = time.perf_counter_ns()
    for block in blocks(bench, case, arms, calls, rounds, check, flags):
        samples.add(block)
        spent = time.perf_counter_ns() - begin
        if enough(samples, spent) or rule.gives_up(samples.count, spent):
            break
    return samples

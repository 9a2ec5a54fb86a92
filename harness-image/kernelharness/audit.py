"""Does a call take as long when its inputs come one by one, the call before being over, as users' do?

All inputs of a timed round lie there before its first call, so that calls could share work that no user's calls could,
or be answered ahead. Where the device can make each call wait for its inputs (`Device.gates_calls`), that is timed too;
elsewhere a round stops after one call. Neighbours: trial.py (asks), bench.py (one_by_one), devices/*.py (how).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from kernelharness.bench import CANDIDATE, Bench, CaseBench
from kernelharness.devices.base import Alone
from kernelharness.processes import Runner
from kernelharness.protocol import Verdict
from kernelharness.samples import Block, Samples
from kernelharness.timing import MIN_BLOCKS, estimate
from kernelharness.verdicts import Rejection

_AUDITS, _MOST_AUDITS = 3, 12
"""More than the first number only as long as a call alone takes too long: others on the machine may have made it."""
_MOST_GATED = 16
_WAITS = (
    "every call waits for the device before it returns, which the reference does not: "
    "leave out synchronize(), item(), cpu() and whatever else needs a result on the host"
)


@dataclass(frozen=True)
class Audit:
    """One candidate in one case whose rounds have more than one call, after they were timed."""

    bench: Bench
    case: CaseBench
    arms: dict[str, Runner]
    calls: int
    """Of a round."""
    row: Samples
    """What calls of a round took."""
    lead: str
    """The fastest baseline."""
    flags: int
    compare: Callable[[int], None]
    """Look at the results of so many slots. Raises Rejection."""

    def run(self) -> Samples | None:
        """Raise Rejection when calls of a round answer for those that follow, whose inputs no user could have shown.

        What calls took whose inputs came one by one, where that can be compared with a baseline's
        (`Device.singly_spread_ns`); fewer than MIN_BLOCKS when they speak for the candidate.
        """
        device = self.bench.device
        factor, longer_ns = device.alone_limit
        row_ns = self.row.call_ns(CANDIDATE)
        ratio = estimate(self.row.ratios(self.lead, CANDIDATE)).mean
        compares = device.singly_spread_ns > 0
        seen: list[tuple[dict[str, Alone], float]] = []
        alone = waiting = math.inf
        for audits in range(1, _MOST_AUDITS + 1):
            found = self._one_by_one(seen, turns=compares) if device.gates_calls else self._first()
            alone, waiting = min(alone, found[0]), min(waiting, found[1])  # others only make them longer
            ahead = alone - waiting > factor * row_ns + longer_ns
            singly = self._singly(seen) if compares else None
            slower = singly is not None and estimate(singly.ratios(self.lead, CANDIDATE)).mean < ratio
            if not ahead and audits >= (MIN_BLOCKS if slower else _AUDITS):
                return singly
        times = f"{(alone - waiting) / 1e3:.0f} us, one of {self.calls} in a row {row_ns / 1e3:.0f} us"
        why = "it works ahead, on inputs that users do not have yet, or waits for its own threads"
        raise Rejection(Verdict.TIMING_MISMATCH, f"a call alone took {times}: {why}")

    def _singly(self, seen: list[tuple[dict[str, Alone], float]]) -> Samples:
        """A block for each audit. What nothing takes is the median of all audits': it is measured in a moment of its
        own, and a bad one would leave nothing of its audit's calls.
        """
        nothing = median(ns for _, ns in seen)
        singly = Samples([*self.case.baseline_ns, CANDIDATE], 1)
        for found, _ in seen:
            singly.add(Block({name: max(1.0, alone.ns - nothing) for name, alone in found.items()}, disturbed=False))
        return singly

    def _one_by_one(self, seen: list[tuple[dict[str, Alone], float]], *, turns: bool) -> tuple[float, float]:
        """(ns of a call whose inputs come when the one before is over, what of it is waiting). What was seen of all
        arms, and what nothing takes, to `seen`. `turns`: of all baselines and the candidate in being the first.

        Raise Rejection when the candidate's calls wait for the device and eager's do not: nobody knows how long.
        """
        calls = min(self.calls, _MOST_GATED)
        names = ["eager", CANDIDATE]  # eager's say what is right
        if turns:
            names = [*self.case.baseline_ns, CANDIDATE]
            first = len(seen) % len(names)
            names = names[first:] + names[:first]
        arms = {name: self.arms[name] for name in names}
        found, nothing = self.bench.one_by_one(self.case, arms, calls, self.flags)
        self.compare(calls)
        seen.append((found, nothing))
        eager, candidate = found["eager"], found[CANDIDATE]
        if candidate.waits and not eager.waits:
            raise Rejection(Verdict.TIMING_MISMATCH, _WAITS)
        waiting = eager.ns - nothing - self.row.call_ns("eager") if eager.waits else 0.0
        return candidate.ns, nothing + max(0.0, waiting)

    def _first(self) -> tuple[float, float]:
        """(ns of the first call of a round, which stops there, what waking up took the fastest reference's).

        The rest is called with other inputs.
        """
        some = {name: self.arms[name] for name in dict.fromkeys(("eager", self.lead, CANDIDATE))}
        found = self.bench.round(self.case, some, list(some), self.calls, self.flags, (0, 1))
        self.compare(1)
        self.bench.round(self.case, some, list(some), self.calls, self.flags, (1, self.calls - 1), cold=False)
        self.compare(self.calls - 1)
        return found[CANDIDATE], max(0.0, found[self.lead] - self.row.call_ns(self.lead))

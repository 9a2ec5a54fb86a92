"""Work on a device outside a call: when it is the candidate's, and when it is the machine's chance.

After every call, and before, T asks the device for a piece of work whose time it knows, a canary; somebody else's work
keeps it back. A single late one says little, so they are weighed together: over all runs of a candidate, and against
those of the references that ran beside it. Neighbour: cuda.py, which asks.
"""

from __future__ import annotations

from collections.abc import Sequence

from kernelharness.devices.base import OutputFault
from kernelharness.protocol import Verdict

_RECENT, _RECENT_LATE = 8, 6
_LEAST_LATE, _LATE_SHARE = 3, 1 / 3
"""A late run now and then is the machine's. So many of the last ones, or such a share of all, are the candidate's."""
_LEAST_RETURNS = 8
_LINGER_NS = 80_000.0
"""The device may be back so much later after a candidate's calls than after a reference's, on average. Of 27 honest
candidates on an H100 the latest was 35 us behind; work of less than 130 us ends before the device has switched to T.
"""
_TRIMMED = 0.1
"""Of the times that are averaged, those that are left out at each end."""


class Lateness:
    """What was late since a candidate was admitted."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """A candidate is admitted: what was late before is not its fault."""
        self._now = ""
        self._runs: dict[bool, list[bool]] = {True: [], False: []}
        """By trust: which runs had something late in them."""
        self._returns: dict[bool, list[float]] = {True: [], False: []}
        """By trust: ns from the end of a call until the device had done a canary."""

    def begin_run(self) -> None:
        self._now = ""

    @property
    def is_late(self) -> bool:
        """Whether anything of the run that is going on was."""
        return bool(self._now)

    def judge(self, when: str, took_ns: float, limit_ns: float) -> None:
        """Note that a canary, or a copy, took too long for one run."""
        if took_ns > limit_ns:
            times = f"{took_ns / 1e3:.0f} us for what takes {limit_ns / 1e3:.0f} us at most"
            self._now = f"the device was at work {when}: {times}"

    def returned(self, ns: float, *, trusted: bool) -> None:
        """The device was back so long after a call had returned."""
        self._returns[trusted].append(ns)

    def end_run(self, *, trusted: bool) -> None:
        """Raise OutputFault when nearly all of the last runs were late."""
        runs = self._runs[trusted]
        runs.append(self.is_late)
        if sum(runs[-_RECENT:]) >= _RECENT_LATE:
            raise OutputFault(Verdict.BACKGROUND_WORK, self._now or "the device was at work between calls")

    def expect_none(self) -> None:
        """Raise OutputFault when runs were late too often, or the device came back too late on average, for chance."""
        for runs in self._runs.values():
            if sum(runs) >= max(_LEAST_LATE, _LATE_SHARE * len(runs)):
                text = f"the device was at work between calls in {sum(runs)} of {len(runs)} runs"
                raise OutputFault(Verdict.BACKGROUND_WORK, text)
        own, others = self._returns[False], self._returns[True]
        if min(len(own), len(others)) >= _LEAST_RETURNS:
            lingered = _trimmed_mean(own) - _trimmed_mean(others)
            if lingered > _LINGER_NS:
                text = f"the device was still at work {lingered / 1e3:.0f} us after a call had returned, on average"
                raise OutputFault(Verdict.BACKGROUND_WORK, text)


def _trimmed_mean(values: Sequence[float]) -> float:
    left_out = int(_TRIMMED * len(values))
    kept = sorted(values)[left_out : len(values) - left_out]
    return sum(kept) / len(kept)

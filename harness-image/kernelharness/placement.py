"""A CPU for each busy thread of a runner, the same ones for every runner.

A runner is stopped and continued for every run. Left alone, the kernel often wakes two of its threads on one CPU and
takes milliseconds to notice, and one arm may live on a CPU whose neighbours leave it less than the other arm's. Done
from outside, so that it is the same for whatever library a candidate takes its threads from. Neighbour: devices/cpu.py.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_BUSY_SHARE = 0.2
"""Of the busiest thread's time: who has run less than this waits for work elsewhere."""
_GONE_SHARE = 0.1
"""Of a process's time, spent by threads that are gone."""
_CPU_CLOCK = 2
"""Of a whole process, as clock_getcpuclockid(3) numbers it."""


@dataclass
class _Seen:
    """CPU time so far, in ns."""

    whole: int
    by_thread: dict[int, int]
    is_placed: bool = False


class Placement:
    """Of all runners of a batch on these CPUs."""

    def __init__(self, cpus: Sequence[int]) -> None:
        """`cpus`: all that the runners may use, and that nobody else does; none: the kernel places them."""
        self._cpus = sorted(cpus)
        self._seen: dict[int, _Seen] = {}

    def update(self, pid: int) -> None:
        """Place the threads of a stopped process by what they have done since the last update.

        A process whose threads come and go is left to the kernel: new ones would share their maker's CPU.
        """
        if not self._cpus:
            return
        before, now = self._seen.get(pid), _look(pid)
        self._seen[pid] = now
        if before is None:
            return
        if now.by_thread.keys() != before.by_thread.keys() or _gone_share(before, now) > _GONE_SHARE:
            if before.is_placed:
                for thread in now.by_thread:
                    _allow(thread, self._cpus)
            return
        now.is_placed = before.is_placed
        if now.is_placed:
            return
        ran = {thread: ns - before.by_thread[thread] for thread, ns in now.by_thread.items()}
        busy = [thread for thread in ran if ran[thread] > _BUSY_SHARE * max(ran.values())]
        if 0 < len(busy) <= len(self._cpus):
            for thread, cpu in zip(busy, self._cpus, strict=False):
                _allow(thread, [cpu])
            now.is_placed = True

    def forget(self, pid: int) -> None:
        self._seen.pop(pid, None)


def _look(pid: int) -> _Seen:
    """Threads are in the order of their numbers, the first one first. Nothing of a process that is gone."""
    seen = _Seen(0, {})
    with contextlib.suppress(OSError):
        seen.whole = time.clock_gettime_ns(~pid << 3 | _CPU_CLOCK)
        for thread in sorted(map(int, os.listdir(f"/proc/{pid}/task"))):
            seen.by_thread[thread] = int(Path(f"/proc/{pid}/task/{thread}/schedstat").read_text().split()[0])
    return seen


def _gone_share(before: _Seen, now: _Seen) -> float:
    whole = now.whole - before.whole
    return (whole - sum(now.by_thread.values()) + sum(before.by_thread.values())) / max(1, whole)


def _allow(thread: int, cpus: Sequence[int]) -> None:
    with contextlib.suppress(OSError):
        os.sched_setaffinity(thread, cpus)

"""A process that may outlive its parent: found by (pid, start time, boot), awaited by pidfd, killed with its tree.

A pid alone names nobody for long: it is reused. Start time and boot id make it unique, so a process of a dead parent
can be waited for or killed without ever hitting a stranger. Linux only, like everything that judges.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_KILL_ROUNDS = 300
"""At 10 ms each; what then still lives is stuck in the kernel and dies when it leaves it."""


@dataclass(frozen=True)
class ProcessId:
    """Names one process since the machine started. `start_ticks` is field 22 of /proc/PID/stat."""

    pid: int
    start_ticks: int
    boot_id: str

    @classmethod
    def of(cls, pid: int) -> ProcessId:
        """Raise ProcessLookupError when there is no such process."""
        stat = _stat(pid)
        if stat is None:
            raise ProcessLookupError(f"no process {pid}")
        return cls(pid=pid, start_ticks=stat.start_ticks, boot_id=_boot_id())

    @property
    def is_alive(self) -> bool:
        """False for a zombie too: it has ended, only its parent has not asked."""
        stat = _stat(self.pid)
        return stat is not None and stat.start_ticks == self.start_ticks and not stat.ended and self._same_boot

    @property
    def _same_boot(self) -> bool:
        return self.boot_id == _boot_id()


@dataclass(frozen=True)
class _Stat:
    parent: int
    start_ticks: int
    ended: bool


def _stat(pid: int) -> _Stat | None:
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text[text.rindex(")") + 2 :].split()  # the name before it may hold spaces and parentheses
    return _Stat(parent=int(fields[1]), start_ticks=int(fields[19]), ended=fields[0] in "ZX")


def _boot_id() -> str:
    return (_PROC / "sys/kernel/random/boot_id").read_text().strip()


async def wait_for_exit(process: ProcessId) -> None:
    """Return when the process ended, whoever its parent is. Does not reap it."""
    try:
        pidfd = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    try:
        if not process.is_alive:  # the pid was reused before the descriptor was opened
            return
        loop.add_reader(pidfd, ended.set)
        await ended.wait()
    finally:
        loop.remove_reader(pidfd)
        os.close(pidfd)


async def kill_tree(process: ProcessId) -> None:
    """Kill the process and all its descendants, whatever groups and sessions they are in. Idempotent.

    The root is stopped first and killed last: it adopts orphans (a child subreaper), so while it lives nobody escapes
    the walk to init, and while it is stopped it starts nobody new.
    """
    if not process.is_alive:
        return
    _signal(process.pid, signal.SIGSTOP)
    for _ in range(_KILL_ROUNDS):
        if not (descendants := _descendants(process.pid)):
            break
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in descendants:
                _signal(pid, number)
        await asyncio.sleep(0.01)  # a kill takes effect when the victim is next scheduled
    _signal(process.pid, signal.SIGKILL)
    await wait_for_exit(process)


def _descendants(root: int) -> list[int]:
    """Living descendants, by one reading of /proc."""
    children: dict[int, list[int]] = {}
    for entry in _PROC.iterdir():
        stat = _stat(int(entry.name)) if entry.name.isdecimal() else None
        # An ended process is no target, and what it leaves behind is found under its adopter in the next reading.
        if stat is not None and not stat.ended:
            children.setdefault(stat.parent, []).append(int(entry.name))
    found: list[int] = []
    pending = [root]
    while pending:
        below = children.get(pending.pop(), [])
        found += below
        pending += below
    return found


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)

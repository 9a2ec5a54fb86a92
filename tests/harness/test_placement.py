"""Where the threads of a stopped process are placed: real processes, real threads, the kernel's own answer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from kernelharness.placement import Placement

CPUS = sorted(os.sched_getaffinity(0))[:2]

BUSY_THREADS = """
import hashlib, threading
def work():
    hashlib.pbkdf2_hmac("sha256", b"", b"", 1 << 30)
for _ in range({others}):
    threading.Thread(target=work, daemon=True).start()
idle = threading.Event()
threading.Thread(target=idle.wait, daemon=True).start()
print("ready", flush=True)
work()
"""
"""They work without the interpreter's lock, which is handed on as it comes: one of three could get none of 0.1 s."""
COMING_AND_GOING = """
import threading
print("ready", flush=True)
while True:
    thread = threading.Thread(target=lambda: sum(range(20_000)))
    thread.start()
    thread.join()
"""


@contextmanager
def running(source: str) -> Iterator[int]:
    with subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process.pid
        finally:
            process.kill()


def one_run(pid: int) -> None:
    os.kill(pid, signal.SIGCONT)
    time.sleep(0.1)
    os.kill(pid, signal.SIGSTOP)
    os.waitid(os.P_PID, pid, os.WSTOPPED)


def allowed(pid: int) -> list[set[int]]:
    return [os.sched_getaffinity(thread) for thread in sorted(map(int, os.listdir(f"/proc/{pid}/task")))]


@pytest.mark.skipif(len(CPUS) < 2, reason="one CPU: there is nothing to choose")
@pytest.mark.parametrize(("others", "expected"), [(0, [{CPUS[0]}]), (1, [{CPUS[0]}, {CPUS[-1]}])])
def test_busy_threads_get_a_cpu_each_and_idle_ones_none(others: int, expected: list[set[int]]) -> None:
    placement = Placement(CPUS)
    with running(BUSY_THREADS.format(others=others)) as pid:
        placement.update(pid)
        one_run(pid)
        placement.update(pid)
        placed = allowed(pid)
    assert placed[: len(expected)] == expected
    assert placed[-1] == os.sched_getaffinity(0)


@pytest.mark.skipif(len(CPUS) < 2, reason="one CPU: there is nothing to choose")
def test_more_busy_threads_than_cpus_are_left_to_the_kernel() -> None:
    placement = Placement(CPUS)
    with running(BUSY_THREADS.format(others=2)) as pid:
        placement.update(pid)
        one_run(pid)
        placement.update(pid)
        assert set(map(frozenset, allowed(pid))) == {frozenset(os.sched_getaffinity(0))}


def test_threads_that_come_and_go_are_left_to_the_kernel() -> None:
    placement = Placement(CPUS)
    with running(COMING_AND_GOING) as pid:
        for _ in range(3):
            one_run(pid)
            placement.update(pid)
        assert allowed(pid)[0] == os.sched_getaffinity(0)


def test_a_process_that_is_gone_is_no_error() -> None:
    placement = Placement(CPUS)
    with running(BUSY_THREADS.format(others=0)) as pid:
        placement.update(pid)
    placement.update(pid)
    placement.forget(pid)

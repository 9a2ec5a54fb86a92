"""T's hand on its runners: start, tell, wait, stop, continue, kill, and see that nothing outlives them.

Everything that a runner does wrong while T waits is one `RunnerFault` with a kind; what it means for a verdict is
decided in judge.py. T always blocks in poll(2), never spins, and drains the runner's output so that a flood is seen.
Neighbours: zygote.py (forks), channel.py (structs), runner.py (the other end).
"""

from __future__ import annotations

import contextlib
import os
import select
import selectors
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from kernelharness import channel
from kernelharness.channel import Order, Reply, ReplyKind
from kernelharness.notifier import Notifier
from kernelharness.zygote import Zygote

OUTPUT_KEPT = 8 * 1024
"""Bytes of stdout and of stderr kept, at the end."""
OUTPUT_LIMIT = 1024 * 1024
"""A runner that prints more is a flood."""
_PROBE_SECONDS = 10.0
_STACK_SECONDS, _STACK_PAUSE_SECONDS = 1.0, 0.1


class FaultKind(StrEnum):
    DIED = "died"
    TIMEOUT = "timeout"
    FLOOD = "flood"
    """More output than any honest candidate prints."""
    FORBIDDEN = "forbidden"
    """A system call that reaches other processes or the outside."""
    PROTOCOL = "protocol"
    """A message that nobody asked for, or that is none."""
    FAILED = "failed"
    """The runner itself reported a failure."""


class RunnerFault(Exception):
    """A runner did not do what it was told."""

    def __init__(self, runner: Runner, kind: FaultKind, text: str, *, status: int = 0, signal_number: int = 0) -> None:
        super().__init__(text)
        self.runner = runner
        self.kind = kind
        self.text = text
        self.status = status
        """The runner's own Failure code, for FAILED."""
        self.signal_number = signal_number
        """What it died of, for DIED; 0 when it exited."""


@dataclass
class _Pipe:
    fd: int
    kept: bytearray
    total: int = 0

    def drain(self) -> bool:
        """Read what is there. False at the end of file."""
        try:
            data = os.read(self.fd, 64 * 1024)
        except BlockingIOError:
            return True
        self.total += len(data)
        self.kept += data
        del self.kept[:-OUTPUT_KEPT]
        return bool(data)


class Runner:
    """One runner process, from fork to reaping."""

    def __init__(
        self, name: str, zygote: Zygote, config: dict[str, Any], memory_fds: dict[str, int], code: bytes = b""
    ) -> None:
        """Fork it. `memory_fds` are handed over in this order, after channel, stdout, stderr and board.

        `code`: what a candidate's runner executes, library or source, to explain what it does.
        """
        self.name = name
        self.trusted = not config.get("isolate", False)
        """It runs the problem's code and ours, but no candidate's."""
        self.code = code
        self.is_python = config.get("arm") == "python"
        self.memory_bytes: int = config.get("memory_bytes", 0)
        """What it may use beyond what it begins with; 0 without a limit."""
        self.peak_bytes = 0
        """The most memory that it had at once; known when it is dead."""
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        board_fd = channel.make_memory(f"board-{name}", channel.BOARD_BYTES)
        outs = [os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK) for _ in range(2)]
        for _, writable in outs:
            os.set_blocking(writable, True)
        fds = [theirs.fileno(), *(writable for _, writable in outs), board_fd, *memory_fds.values()]
        try:
            self.pid = zygote.spawn({**config, "memory": list(memory_fds)}, fds)
        finally:
            theirs.close()
            for _, writable in outs:
                os.close(writable)
        self.board = channel.Board(board_fd)
        os.close(board_fd)
        self._pipes = [_Pipe(readable, bytearray()) for readable, _ in outs]
        self.reports = 0
        """Output reports that the next run owes."""
        self._stopped = False
        self._status: int | None = None
        self._notifier: Notifier | None = None
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._socket, selectors.EVENT_READ, "reply")
        for pipe in self._pipes:
            self._selector.register(pipe.fd, selectors.EVENT_READ, pipe)

    @property
    def output(self) -> str:
        """The tail of what the runner printed, stderr last. Untrusted text."""
        return "".join(pipe.kept.decode(errors="replace") for pipe in self._pipes)

    @property
    def is_alive(self) -> bool:
        return self._status is None

    def adopt_notifier(self, deadline: float) -> Reply:
        """Receive the seccomp listener, which an isolated runner sends before it runs a line of the candidate."""
        self._socket.settimeout(max(0.01, deadline - time.monotonic()))
        try:
            data, fds, _, _ = socket.recv_fds(self._socket, channel.MESSAGE_BYTES, 1)
        except TimeoutError as error:
            raise RunnerFault(self, FaultKind.TIMEOUT, f"{self.name} did not isolate itself in time") from error
        finally:
            self._socket.settimeout(None)
        if not data:
            self._wait_dead()
        if fds:
            self._notifier = Notifier(fds[0])
            self._selector.register(fds[0], selectors.EVENT_READ, "notification")
        return Reply.unpack(data)

    def tell(self, order: Order) -> None:
        """Send one order; the runner must be running. Raise RunnerFault when it is gone."""
        try:
            self._socket.send(order.pack())
        except (BrokenPipeError, ConnectionResetError):
            self._wait_dead()

    def wait(self, deadline: float, *, spin: bool = False) -> Reply:
        """The reply to the last order. Raise RunnerFault for everything else that can happen before `deadline`.

        `spin`: look all the time, where a CPU can be spared and waking up would be most of what is measured.
        """
        while (reply := self._look(deadline, spin=spin)) is None:
            pass
        return reply

    def watch(self, until: Callable[[], bool], deadline: float) -> Reply | None:
        """Look all the time until something is so, or the reply is there. Raise RunnerFault as `wait` does."""
        while not until():
            if (reply := self._look(deadline, spin=True)) is not None:
                return reply
        return None

    def _look(self, deadline: float, *, spin: bool) -> Reply | None:
        """What came meanwhile; the reply, if it is among it."""
        left = deadline - time.monotonic()
        events = self._selector.select(0.0 if spin else max(0.0, left))
        # A runner that always has something for T (a call to refuse, a line to drain) is late all the same.
        if left <= 0 and all(key.data != "reply" for key, _ in events):
            raise RunnerFault(self, FaultKind.TIMEOUT, f"{self.name} gave no answer in time")
        reply: Reply | None = None
        for key, _ in events:
            if key.data == "reply":
                reply = self._receive()
            elif key.data == "notification":
                self._judge_call()
            else:
                self._drain(key.data)
        if reply is not None and reply.kind == ReplyKind.FAILED:
            raise RunnerFault(self, FaultKind.FAILED, self.board.read_text(reply.a), status=reply.status)
        return reply

    def ask(self, order: Order, deadline: float) -> Reply:
        self.resume()
        self.tell(order)
        return self.wait(deadline)

    def stop(self) -> None:
        """Stop every thread; on return none runs. Raise RunnerFault when the runner is dead."""
        if self._stopped:
            return
        os.kill(self.pid, signal.SIGSTOP)
        _, status = self._reap(os.WUNTRACED)
        if not os.WIFSTOPPED(status):
            self._bury(status)
        self._stopped = True

    def resume(self) -> None:
        if self._stopped:
            os.kill(self.pid, signal.SIGCONT)
            self._stopped = False

    def expect_silence(self) -> None:
        """Raise RunnerFault when the runner sent or printed more than it was asked for. Non-blocking."""
        for key, _ in self._selector.select(0):
            if key.data == "reply":
                raise RunnerFault(self, FaultKind.PROTOCOL, f"{self.name} sent a message that nobody asked for")
            if key.data == "notification":
                self._judge_call()
            else:
                self._drain(key.data)

    def waited_ns(self, *, first_thread: bool = False) -> int:
        """How long its threads, or its first one, were ready to run but had no CPU, so far. 0 where the kernel does not
        say.
        """
        total = 0
        tasks = Path(f"/proc/{self.pid}/task")
        with contextlib.suppress(OSError):
            for task in [tasks / str(self.pid)] if first_thread else tasks.iterdir():
                total += int((task / "schedstat").read_text().split()[1])
        return total

    def page_faults(self) -> int:
        """How often it touched memory that it had not yet, so far."""
        with contextlib.suppress(OSError):
            return int(Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[7])
        return 0

    def kill(self) -> None:
        """End it and everything that it may have left. Idempotent."""
        if self._status is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                _, self._status = self._reap(0)
        for pipe in self._pipes:
            while pipe.fd >= 0 and pipe.total <= OUTPUT_LIMIT and self._has_data(pipe):
                if not pipe.drain():
                    break
        self._close()

    def _reap(self, options: int) -> tuple[int, int]:
        """waitpid(2), with the peak of the memory of a process that ended."""
        pid, status, used = os.wait4(self.pid, options)
        self.peak_bytes = max(self.peak_bytes, used.ru_maxrss * 1024)
        return pid, status

    def ask_for_stack(self) -> str:
        """What a Python runner prints when it is asked where it is; it may be dead, or lie. See runner.py."""
        self.resume()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, channel.STACK_SIGNAL)
        pipe = self._pipes[1]
        end, wait = time.monotonic() + _STACK_SECONDS, _STACK_SECONDS
        while wait > 0 and select.select([pipe.fd], [], [], wait)[0] and pipe.drain() and pipe.total <= OUTPUT_LIMIT:
            wait = min(_STACK_PAUSE_SECONDS, end - time.monotonic())
        return pipe.kept.decode(errors="replace")

    def _has_data(self, pipe: _Pipe) -> bool:
        return any(key.data is pipe for key, _ in self._selector.select(0))

    def _close(self) -> None:
        if self._selector.get_map() is None:
            return
        self._selector.close()
        self._socket.close()
        if self._notifier is not None:
            self._notifier.close()
        for pipe in self._pipes:
            os.close(pipe.fd)
            pipe.fd = -1

    def _receive(self) -> Reply:
        try:
            data = self._socket.recv(channel.MESSAGE_BYTES + 1)
        except ConnectionResetError:
            data = b""
        if not data:
            self._wait_dead()
        try:
            return Reply.unpack(data)
        except ValueError as error:
            raise RunnerFault(self, FaultKind.PROTOCOL, f"{self.name} sent {error}") from error

    def _drain(self, pipe: _Pipe) -> None:
        if not pipe.drain():
            self._selector.unregister(pipe.fd)
        if pipe.total > OUTPUT_LIMIT:
            raise RunnerFault(self, FaultKind.FLOOD, f"{self.name} printed more than {OUTPUT_LIMIT >> 20} MiB")

    def _judge_call(self) -> None:
        assert self._notifier is not None
        try:
            forbidden = self._notifier.answer()
        except ProcessLookupError:
            self._selector.unregister(self._notifier.fd)
            return
        if forbidden is not None:
            raise RunnerFault(self, FaultKind.FORBIDDEN, forbidden)

    def _wait_dead(self) -> None:
        """The channel is closed: the runner is dying, or closed it to look dead. Either way it ends here."""
        end = time.monotonic() + 1
        self._selector.unregister(self._socket)
        while self._status is None and time.monotonic() < end:
            pid, status = self._reap(os.WNOHANG)
            if pid:
                self._bury(status)
            for key, _ in self._selector.select(0.01):
                if key.data == "notification":
                    self._judge_call()
                elif key.data != "reply":
                    self._drain(key.data)
        raise RunnerFault(self, FaultKind.PROTOCOL, f"{self.name} closed its channel")

    def _bury(self, status: int) -> None:
        self._status = status
        for pipe in self._pipes:
            while pipe.total <= OUTPUT_LIMIT and self._has_data(pipe) and pipe.drain():
                pass
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        how = f"signal {number} ({signal.Signals(number).name})" if number else f"exit code {os.WEXITSTATUS(status)}"
        raise RunnerFault(self, FaultKind.DIED, f"{self.name} ended with {how}", signal_number=number)


def probe_isolation(zygote: Zygote, device: dict[str, Any]) -> dict[str, str]:
    """What a candidate's runner can give up on this machine: layer -> 'on' or why not. Raise RunnerFault."""
    config = {"isolate": True, "arm": "native", "facts": [], "memory_bytes": 1 << 30}
    runner = Runner("the isolation probe", zygote, config | device, {})
    try:
        reply = runner.adopt_notifier(time.monotonic() + _PROBE_SECONDS)
        lines = runner.board.read_text(reply.a).splitlines()
        return dict(line.split(": ", 1) for line in lines)
    finally:
        runner.kill()


def children(pid: int) -> list[int]:
    """Direct children of a process, zombies included."""
    found: list[int] = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                # The name before the last parenthesis is the process's own and may hold anything.
                fields = Path(f"/proc/{entry}/stat").read_text(errors="replace").rpartition(")")[2].split()
                if int(fields[1]) == pid:
                    found.append(int(entry))
    return found


def kill_survivors(known: set[int]) -> list[int]:
    """Kill and reap every child of this process that it did not start itself; their pids."""
    survivors: list[int] = []
    while strays := [pid for pid in children(os.getpid()) if pid not in known]:
        for pid in strays:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
        survivors += strays
    return survivors

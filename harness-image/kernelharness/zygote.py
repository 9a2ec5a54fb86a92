"""Fork servers: processes that hold Python (and torch), but no secret, and become a fresh runner on request.

There are two: a light one without torch, for native candidates and the compiler, and one that imported torch once for
the references and Python candidates. A zygote forks twice, so that the runner becomes a child of T (the subreaper),
which alone stops, waits for and kills it. Neighbours: processes.py (asks), runner.py and compiler.py (what is run).
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import signal
import socket
import struct
import traceback
from collections.abc import Callable
from typing import Any

from kernelharness import isolation

MAX_FDS = 16
_LENGTH = struct.Struct("<I")
_PID = struct.Struct("<i")
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8

Entry = Callable[[dict[str, Any], list[int]], None]
"""What a runner executes: its configuration and the descriptors that it was given."""


class Zygote:
    """T's end of one fork server."""

    def __init__(self, entry: Entry) -> None:
        """Fork now. `entry` runs in every runner; whatever this process holds at this moment, they all hold."""
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        judge = os.getpid()
        gc.freeze()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                self._socket.close()
                _serve(theirs, entry, judge)
            finally:
                os._exit(0)
        theirs.close()

    def spawn(self, config: dict[str, Any], fds: list[int]) -> int:
        """A fresh runner, a child of this process; its pid. Raise OSError when the zygote cannot fork or is gone."""
        data = json.dumps(config).encode()
        socket.send_fds(self._socket, [_LENGTH.pack(len(data))], fds)
        self._socket.sendall(data)
        answer = self._socket.recv(_PID.size, socket.MSG_WAITALL)
        if len(answer) != _PID.size or (pid := _PID.unpack(answer)[0]) <= 0:
            raise OSError("the fork server could not start a runner")
        return int(pid)

    def close(self) -> None:
        self._socket.close()
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def retain_memory() -> None:
    """One allocator for all arms: nothing is given back to the kernel, so that no timed call pays for page faults.

    Huge pages are off for all alike: which process gets some is luck, and worth a fifth of a memory-bound time.
    """
    isolation.disable_huge_pages()
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)
    mallopt(_M_TOP_PAD, 16 << 20)
    mallopt(_M_ARENA_MAX, 1)


def _serve(channel: socket.socket, entry: Entry, judge: int) -> None:
    isolation.die_with_parent(judge)
    isolation.set_dumpable(False)
    while True:
        header, fds, _, _ = socket.recv_fds(channel, _LENGTH.size, MAX_FDS)
        if len(header) < _LENGTH.size:
            return
        wanted = _LENGTH.unpack(header)[0]
        data = bytearray()
        while len(data) < wanted and (piece := channel.recv(wanted - len(data))):
            data += piece
        pid = _fork_twice(channel, entry, json.loads(data), list(fds), judge)
        for fd in fds:
            os.close(fd)
        channel.sendall(_PID.pack(pid))


def _fork_twice(channel: socket.socket, entry: Entry, config: dict[str, Any], fds: list[int], judge: int) -> int:
    readable, writable = os.pipe()
    middle = os.fork()
    if middle == 0:
        code = 1
        try:
            pid = os.fork()
            if pid == 0:
                os.close(readable)
                os.close(writable)
                _become_runner(channel, entry, config, fds, judge)
            os.write(writable, _PID.pack(pid))
            code = 0
        finally:
            os._exit(code)
    os.close(writable)
    answer = os.read(readable, _PID.size)
    os.close(readable)
    os.waitpid(middle, 0)
    return int(_PID.unpack(answer)[0]) if len(answer) == _PID.size else -1


def _become_runner(channel: socket.socket, entry: Entry, config: dict[str, Any], fds: list[int], judge: int) -> None:
    code = 1
    try:
        channel.close()
        kept = isolation.keep_only(fds)
        isolation.die_with_parent(judge)
        entry(config, kept)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)

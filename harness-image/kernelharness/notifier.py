"""What a filter sends to somebody for a decision: the calls that are pending, and the answers.

Whoever answers sees the caller's memory only as it is at that moment, so a call is refused, or done in the caller's
place; it goes on only where something else decides, whatever was seen here.
Neighbours: seccomp.py (the filters), processes.py (T, for runners), tool_sockets.py.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
import tempfile
from dataclasses import dataclass

from kernelharness import syscalls
from kernelharness.seccomp import FILE_WRITES, NVIDIA_DEVICES

_NOTIFICATION = struct.Struct("<QIIiIQ6Q")
_ANSWER = struct.Struct("<QqiI")
_ADDED = struct.Struct("<QIIII")
_RECEIVE, _SEND, _ADD_FD = 0xC0502100, 0xC0182101, 0x40182103
_ADD_AND_SEND = 2
_CONTINUE = 1
_HARMLESS_PATHS = ("/dev/null", "/dev/tty", "/tmp/", "/var/tmp/")
"""Where libraries try to write without meaning harm; refused like every other path, but no offence."""


@dataclass(frozen=True)
class Call:
    """A system call whose caller waits."""

    id: int
    pid: int
    """Of the thread."""
    name: str
    args: tuple[int, ...]


def receive(listener: int) -> Call:
    """The next pending call. Raise ProcessLookupError when nobody is left who could call."""
    buffer = bytearray(_NOTIFICATION.size)
    try:
        fcntl.ioctl(listener, _RECEIVE, buffer)
    except OSError as error:
        raise ProcessLookupError(error.errno, "the filtered process is gone") from error
    ident, pid, _, number, _, _, *args = _NOTIFICATION.unpack(buffer)
    return Call(ident, pid, syscalls.NAMES.get(number, str(number)), tuple(args))


def answer(listener: int, call: Call, error: int) -> None:
    """Let the caller have this error, or 0: done."""
    with contextlib.suppress(OSError):  # the caller died meanwhile
        fcntl.ioctl(listener, _SEND, _ANSWER.pack(call.id, 0, -error, 0))


def pass_on(listener: int, call: Call) -> None:
    """Let the kernel do it: for calls that other rules, as Landlock's, judge as they really are."""
    with contextlib.suppress(OSError):  # the caller died meanwhile
        fcntl.ioctl(listener, _SEND, _ANSWER.pack(call.id, 0, 0, _CONTINUE))


def give(listener: int, call: Call, fd: int, flags: int) -> None:
    """Answer with a descriptor: the caller gets a duplicate of this one, as open(2) with these flags gives it."""
    try:
        fcntl.ioctl(listener, _ADD_FD, _ADDED.pack(call.id, _ADD_AND_SEND, fd, 0, flags & os.O_CLOEXEC))
    except OSError:
        answer(listener, call, errno.EACCES)


def open_flags(call: Call) -> int:
    return call.args[2 if call.name == "openat" else 1]


def path_of(call: Call) -> str | None:
    """The path in the caller's memory, which may change under our eyes; None when there is none."""
    at = 1 if call.name.endswith("at") or call.name == "renameat2" else 0
    try:
        return read_memory(call, call.args[at], 256).split(b"\0")[0].decode(errors="replace")
    except OSError:
        return None


def read_memory(call: Call, address: int, size: int) -> bytes:
    """Of the caller: at most `size` bytes, which it may change at any time. Raise OSError where none can be read."""
    with open(f"/proc/{call.pid}/mem", "rb", buffering=0) as memory:
        try:
            memory.seek(address)
        except (ValueError, OverflowError) as error:
            raise OSError(errno.EFAULT, "no such address") from error
        return memory.read(size)


class Notifier:
    """T's end of a runner's filter: names what the runner tried, and refuses it.

    One thing it may get by asking: a device of NVIDIA's, opened by T by a name of T's own.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def answer(self) -> str | None:
        """Refuse the pending call. What was forbidden about it, or None when it is no offence.

        Raise ProcessLookupError when nobody is left who could call.
        """
        call = receive(self.fd)
        is_file = call.name in FILE_WRITES or call.name in ("open", "openat")
        path = path_of(call) if is_file else None  # while the caller waits: afterwards it may be gone
        if call.name in ("open", "openat") and path in NVIDIA_DEVICES:
            self._give(call, NVIDIA_DEVICES[NVIDIA_DEVICES.index(path)])
            return None
        answer(self.fd, call, errno.EROFS if is_file else errno.EPERM)
        if not is_file:
            return f"the system call {call.name}"
        if path is not None and path.startswith((*_HARMLESS_PATHS, tempfile.gettempdir())):
            return None
        return f"the system call {call.name}, which would write to the file system" + (f" ({path!r})" if path else "")

    def close(self) -> None:
        os.close(self.fd)

    def _give(self, call: Call, path: str) -> None:
        """Open it here and put the descriptor into the caller: what is opened cannot change under our eyes."""
        flags = open_flags(call)
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | (flags & os.O_NONBLOCK))
        except OSError as error:
            answer(self.fd, call, error.errno or errno.EACCES)
            return
        give(self.fd, call, fd, flags)
        os.close(fd)

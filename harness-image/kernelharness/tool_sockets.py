"""The sockets of a tool and of the program that it watches, which is a candidate's: made by a third process, or not.

compute-sanitizer speaks to its target by an abstract Unix socket that is named after the target's process, and CUDA
does not start without one of its own. A filter cannot tell such a name from the path of, say, a container engine's
socket, and Landlock knows no paths of sockets. So connect() and bind() wait for this process. It stands outside of the
filter and inside of the same Landlock domain, whose scope ends at the sandbox; it copies the address, refuses every
other form, and makes the call itself with the caller's socket: what is looked at is what is used.

CUDA also names its threads by files below /proc, which Landlock could only allow for all processes and all of /proc. It
gets a descriptor that leads nowhere instead; every other file is opened, or not, as Landlock says.
Neighbours: isolation.py (starts it), notifier.py, landlock.py.
"""

from __future__ import annotations

import errno
import os
import re
import select
import socket
import struct
from pathlib import Path

from kernelharness import notifier, syscalls
from kernelharness.notifier import Call

_FAMILY = struct.Struct("=H")
_LONGEST_ADDRESS = 110
_NAMES = {
    "connect": re.compile(rb"\0nv_target_process_[0-9]{1,10}"),
    "bind": re.compile(rb"\0(?:nv_target_process_|cuda-uvmfd-[0-9]{1,10}-)(?P<process>[0-9]{1,10})\0*"),
}
"""What may be connected to (Landlock says whose), and what a process may call itself: its number is in it."""


_THREAD_NAME = re.compile(r"/proc/(?:self|[0-9]{1,10})/task/[0-9]{1,10}/comm")


def serve(listener: int, child: int) -> int:
    """Answer what the processes behind `listener` ask until `child` ends; its wait status."""
    ended, nowhere = os.pidfd_open(child), os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    poll = select.poll()
    poll.register(ended, select.POLLIN)
    poll.register(listener, select.POLLIN)
    while True:
        ready = dict(poll.poll())
        if ended in ready:
            return os.waitpid(child, 0)[1]
        if not ready[listener] & select.POLLIN:
            poll.unregister(listener)  # nobody is left who could ask
            continue
        try:
            call = notifier.receive(listener)
        except ProcessLookupError:
            continue  # the caller died meanwhile
        if call.name in _NAMES:
            notifier.answer(listener, call, _make(call))
        elif _THREAD_NAME.fullmatch(notifier.path_of(call) or ""):
            notifier.give(listener, call, nowhere, notifier.open_flags(call))
        else:
            notifier.pass_on(listener, call)


def _make(call: Call) -> int:
    """Make the call in the caller's place; its error, or 0."""
    try:
        process = _process_of(call.pid)
        # From here on the number is the caller's, or that of a process which Landlock keeps out of reach.
        pidfd = os.pidfd_open(process)
        try:
            name = _name_in(call)
            found = _NAMES[call.name].fullmatch(name)
            if found is None or int(found.groupdict().get("process", process)) != process:
                return errno.ENOENT if call.name == "connect" and name[:1].strip(b"\0") else errno.EPERM
            with socket.socket(fileno=syscalls.call("pidfd_getfd", pidfd, call.args[0] & 0xFFFFFFFF, 0)) as copy:
                (copy.bind if call.name == "bind" else copy.connect)(name)
        finally:
            os.close(pidfd)
    except OSError as error:
        return error.errno or errno.EPERM
    return 0


def _name_in(call: Call) -> bytes:
    """What the caller names: a path, or after a zero an abstract name. Empty when it is neither."""
    size = call.args[2] & 0xFFFFFFFF
    if not _FAMILY.size < size <= _LONGEST_ADDRESS:
        return b""
    address = notifier.read_memory(call, call.args[1], size)
    if len(address) != size or _FAMILY.unpack_from(address)[0] != socket.AF_UNIX:
        return b""
    return address[_FAMILY.size :]


def _process_of(thread: int) -> int:
    """Raise ProcessLookupError when it is gone."""
    for line in Path(f"/proc/{thread}/status").read_text(errors="replace").splitlines():
        if line.startswith("Tgid:"):
            return int(line.split()[1])
    raise ProcessLookupError(errno.ESRCH, "no such process")

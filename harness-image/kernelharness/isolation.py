"""What a process gives up before it runs code that nobody trusts, and what the judge does to keep its secrets.

Every layer is used where the kernel offers it and named in the returned dict, never silently skipped: `'on'`, or why it
is off. Works as root and as an unprivileged user in a restricted pod. Neighbours: seccomp.py, landlock.py (layers),
runner.py and compiler.py (who is isolated), judge.py (`protect_judge`).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import resource
import signal
import socket
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kernelharness import landlock, seccomp, syscalls, tool_sockets

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_CAPBSET_DROP, _PR_SET_SECUREBITS = 1, 4, 24, 28
_PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 36, 38, 47
_PR_SET_THP_DISABLE = 41
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_SECURE_NO_ROOT = 0b101111
"""NOROOT and NO_SETUID_FIXUP, both locked: uid 0 means nothing any more."""
_CAPABILITY_VERSION = 0x20080522
_LAST_CAPABILITY = 63
_MAX_FILES = 256
_LARGEST_FILE = 256 << 20
_NO_RANDOM_ADDRESSES = 0x0040000
"""So that AddressSanitizer finds its shadow free, and the same fault reads the same."""
_FIRST_KEPT, _PARKING = 3, 128

Layers = dict[str, str]


@dataclass(frozen=True)
class DeviceRights:
    """What a runner may do beyond computing on the CPU, because its device's driver does it."""

    paths: tuple[str, ...] = ()
    """May be opened, read, written and controlled. Without `is_cuda` opened for writing while attaching only."""
    ioctls: tuple[int, ...] = ()
    """Requests that the driver makes in calls, exactly these numbers. Those of attaching need not be named."""
    is_cuda: bool = False
    """Also whatever the CUDA driver asks of NVIDIA's devices, at any time."""


NO_DEVICE = DeviceRights()

_libc = ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, *args: int) -> None:
    wide = [ctypes.c_ulong(arg) for arg in (*args, *(0,) * (4 - len(args)))]
    if _libc.prctl(option, *wide) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}): {os.strerror(number)}")


def set_dumpable(dumpable: bool) -> None:
    """Not dumpable: no process of the same user can read our memory, environment or descriptors."""
    _prctl(_PR_SET_DUMPABLE, int(dumpable))


def disable_huge_pages() -> None:
    """For this process and all that it forks; harmless where the kernel has none."""
    with contextlib.suppress(OSError):
        _prctl(_PR_SET_THP_DISABLE, 1)


def become_subreaper() -> Layers:
    """Orphans among our descendants become our children: nothing can outlive us unseen. Before the first fork."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    return {"subreaper": "on"}


def protect_judge() -> Layers:
    """Called once, before the secret is drawn."""
    set_dumpable(False)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    return {"non-dumpable": "on"}


def die_with_parent(parent: int) -> None:
    """Ask the kernel to kill us when `parent` ends; first wait until we are its child."""
    while os.getppid() != parent:
        if os.getppid() == 1:
            os._exit(1)
        time.sleep(0.0002)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def keep_only(fds: Sequence[int]) -> list[int]:
    """Close every descriptor but these. fds[1] and fds[2] become stdout and stderr; the others' new numbers return."""
    parked = [fcntl.fcntl(fd, fcntl.F_DUPFD, _PARKING) for fd in fds]
    parked += [os.open(os.devnull, os.O_RDONLY)]
    for fd, number in ((parked.pop(), 0), (parked.pop(1), 1), (parked.pop(1), 2)):
        os.dup2(fd, number)
    os.closerange(_FIRST_KEPT, _PARKING)
    moved = [os.dup2(fd, _FIRST_KEPT + index, inheritable=False) for index, fd in enumerate(parked)]
    os.closerange(_FIRST_KEPT + len(moved), os.sysconf("SC_OPEN_MAX"))
    return moved


def isolate_runner(
    memory_bytes: int,
    attach: Callable[[], None] = lambda: None,
    device: DeviceRights = NO_DEVICE,
    readable: Sequence[str] = (),
) -> tuple[Layers, int | None]:
    """Give up everything that a candidate has no use for. The layers, and the seccomp listener for T (or None).

    `attach` makes the device usable and runs when files and capabilities are gone already, but limits and the filter
    are not there yet: CUDA's initialisation needs sockets and a lot of memory. Memory counts from behind it.
    """
    layers: Layers = {}
    set_dumpable(True)  # T reads our outputs; the zygote was not dumpable
    layers["capabilities"] = _drop_capabilities()
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    layers["landlock"] = _restrict_files((), device, readable)
    attach()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (_MAX_FILES, _MAX_FILES))
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0))
    limit = _data_bytes() + memory_bytes
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    layers["rlimits"] = "on"
    layers["seccomp"], listener = _filter_runner(device)
    return layers, listener


def isolate_warmup(folder: str, attach: Callable[[], None], device: DeviceRights) -> tuple[Layers, int | None]:
    """For a runner that compiles when it is called: it may start compilers and write its own folder. No listener."""
    set_dumpable(True)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    layers = {"capabilities": _drop_capabilities()}
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    layers["landlock"] = _restrict_files((folder,), device)
    attach()
    resource.setrlimit(resource.RLIMIT_FSIZE, (_LARGEST_FILE, _LARGEST_FILE))
    try:
        seccomp.install(seccomp.compiler_filter(), listener=False)
        layers["seccomp"] = "on"
    except OSError as error:
        layers["seccomp"] = f"off: {error.strerror}"
    return layers, None


def isolate_compiler(folder: str, memory_bytes: int, seconds: int) -> Layers:
    """The same for a compiler: it may start processes and write its own folder, and nothing else."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_LARGEST_FILE, _LARGEST_FILE))
    layers = {"rlimits": "on", "capabilities": _drop_capabilities()}
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    layers["landlock"] = _restrict_files((folder,))
    try:
        seccomp.install(seccomp.compiler_filter(), listener=False)
        layers["seccomp"] = "on"
    except OSError as error:
        layers["seccomp"] = f"off: {error.strerror}"
    return layers


def isolate_program(folder: str, seconds: int, cuda: bool) -> None:
    """For a program made of a candidate's source, which is watched by a tool once: see closer_look.py.

    It may read its folder and start threads. A tool for CUDA starts the program itself, writes the folder, and speaks
    to it by a socket that a process of its own makes for it (tool_sockets.py), the only one that it has.
    Raise OSError where the kernel cannot hold it to that: then it is not started at all.
    Memory is not limited here, for a checker reserves more addresses than there are: T looks at what is used.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    written = _LARGEST_FILE if cuda else 0
    resource.setrlimit(resource.RLIMIT_FSIZE, (written, written))
    _drop_capabilities()
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    if not cuda:
        _restrict_files((), readable=(folder,))
        _libc.personality(_NO_RANDOM_ADDRESSES)
        seccomp.install(seccomp.program_filter(tool=False), listener=False)
        return
    if not landlock.has_scopes():
        raise OSError(errno.ENOSYS, "Landlock here cannot keep sockets inside of the sandbox")
    landlock.restrict((folder,), landlock.nvidia_devices())
    _fork_filtered(seccomp.program_filter(tool=True))


def _fork_filtered(program: bytes) -> None:
    """Return in a child under this filter. This process makes its sockets, and ends as the child does.

    It cannot be looked into: the child is of the same user and the same Landlock domain.
    """
    set_dumpable(False)
    watcher = os.getpid()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    if (child := os.fork()) == 0:
        ours.close()
        die_with_parent(watcher)
        with theirs:
            listener = seccomp.install(program, listener=True)
            assert listener is not None
            socket.send_fds(theirs, [b"x"], [listener])
            os.close(listener)
        return
    theirs.close()
    with ours:
        _, listeners, _, _ = socket.recv_fds(ours, 1, 1)
    status = tool_sockets.serve(listeners[0], child) if listeners else os.waitpid(child, 0)[1]
    os._exit(abs(os.waitstatus_to_exitcode(status)))


def _filter_runner(device: DeviceRights) -> tuple[str, int | None]:
    def program(*, listener: bool) -> bytes:
        return seccomp.runner_filter(os.getpid(), listener=listener, cuda=device.is_cuda, ioctls=device.ioctls)

    try:
        return "on", seccomp.install(program(listener=True), listener=True)
    except OSError as error:
        first = error
    try:
        seccomp.install(program(listener=False), listener=False)
    except OSError as error:
        return f"off: {error.strerror}", None
    return f"on, killing (no listener: {first.strerror})", None


def _restrict_files(writable: Sequence[str], device: DeviceRights = NO_DEVICE, readable: Sequence[str] = ()) -> str:
    try:
        return f"on (ABI {landlock.restrict(writable, device.paths, readable)})"
    except OSError as error:
        return f"off: {error.strerror}"


def _drop_capabilities() -> str:
    """Root without capabilities is nobody special: it cannot look into a process that is not dumpable."""
    for capability in range(_LAST_CAPABILITY + 1):
        try:
            _prctl(_PR_CAPBSET_DROP, capability)
        except OSError:
            break  # not ours to drop, or past the last one
    try:
        _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
        if os.geteuid() == 0:
            _prctl(_PR_SET_SECUREBITS, _SECURE_NO_ROOT)
    except OSError:
        pass  # without CAP_SETPCAP; an empty capability set is what counts
    header = struct.pack("<Ii", _CAPABILITY_VERSION, 0)
    empty = bytes(24)
    try:
        syscalls.call(
            "capset", ctypes.create_string_buffer(header, len(header)), ctypes.create_string_buffer(empty, len(empty))
        )
    except OSError as error:
        return f"off: {error.strerror}"
    return "dropped"


def _data_bytes() -> int:
    """Private writable memory that counts against RLIMIT_DATA now."""
    with open("/proc/self/status", encoding="ascii") as status:
        for line in status:
            if line.startswith("VmData:"):
                return int(line.split()[1]) * 1024
    return 0

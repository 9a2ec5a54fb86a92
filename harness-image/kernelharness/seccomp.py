"""Which system calls a runner may make: an allow-list, with everything hostile reported to T by name.

Calls that reach another process by number, make processes, sockets or sessions, or change files are sent to T
(SECCOMP_RET_USER_NOTIF), which names them, refuses them, and ends the candidate. Where the kernel has no listener the
runner is killed on the spot. Whatever is neither allowed nor hostile does not exist (ENOSYS). The compiler's filter
is the reverse: everything but the hostile calls that no compiler makes. Neighbours: syscalls.py, isolation.py,
notifier.py (who answers).
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import socket
import struct
from collections.abc import Sequence

from kernelharness import syscalls

_RET_ALLOW = 0x7FFF0000
_RET_ERRNO = 0x00050000
_RET_NOTIFY = 0x7FC00000
_RET_KILL = 0x80000000
_LOAD, _JUMP_EQUAL, _JUMP_BITS, _JUMP_GREATER_EQUAL, _RETURN, _AND = 0x20, 0x15, 0x45, 0x35, 0x06, 0x54
_OFFSET_NUMBER, _OFFSET_ARCH, _OFFSET_ARGS = 0, 4, 16
_X32_BIT = 0x40000000
_SET_MODE_FILTER, _TSYNC, _NEW_LISTENER, _TSYNC_ESRCH = 1, 1, 8, 16
_CLONE_THREAD, _CLONE_VFORK, _CLONE_NAMESPACES = 0x00010000, 0x00004000, 0x7E020000
_WRITE_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_FCNTL_COMMANDS = (fcntl.F_GETFD, fcntl.F_SETFD, fcntl.F_GETFL, fcntl.F_SETFL, fcntl.F_DUPFD, fcntl.F_DUPFD_CLOEXEC)
_PR_SET_NAME, _PR_GET_NAME, _PR_GET_DUMPABLE, _PR_SET_VMA = 15, 16, 3, 0x53564D41
_NVIDIA_TYPE = ord("F") << 8
_NVIDIA_REQUESTS = (
    *(0x27, 0x29, 0x2A, 0x2B, 0x32, 0x35, 0x37, 0x41, 0x4A, 0x4E, 0x4F, 0x52, 0x54, 0x57, 0x58, 0x59, 0x5E),
    *range(200, 219),
)
"""Of the driver's resource manager: allocate, control, map, free, and asking about the card."""
_NVIDIA_THEFT = (0x34, 0x5C, 0x5D)
"""The first duplicates another process's object: it would open memory that T never shared. The others are its kin."""
_UVM_REQUESTS = 0x200
_UVM_START_STOP = (0x30000001, 0x30000002)
MOST_IOCTLS = 200
"""Jumps of the filter are a byte long."""
NVIDIA_DEVICES = ("/dev/nvidiactl", "/dev/nvidia-uvm", *(f"/dev/nvidia{index}" for index in range(16)))


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


ALLOWED = _words(
    "read write close stat fstat lstat poll lseek mmap mprotect munmap brk rt_sigaction rt_sigprocmask rt_sigreturn "
    "pread64 pwrite64 readv writev access pipe select sched_yield mremap msync mincore madvise dup dup2 pause "
    "nanosleep getpid sendto recvfrom exit uname getdents getcwd readlink gettimeofday getrlimit getrusage "
    "sysinfo times getuid getgid geteuid getegid getppid getpgrp getgroups getresuid getresgid rt_sigpending "
    "rt_sigtimedwait rt_sigsuspend sigaltstack statfs fstatfs sched_getparam sched_getscheduler "
    "sched_get_priority_max sched_get_priority_min mlock munlock arch_prctl gettid time futex sched_getaffinity "
    "epoll_create getdents64 set_tid_address restart_syscall fadvise64 clock_gettime clock_getres clock_nanosleep "
    "exit_group epoll_wait epoll_ctl newfstatat readlinkat faccessat faccessat2 pselect6 ppoll set_robust_list "
    "epoll_pwait eventfd2 epoll_create1 dup3 pipe2 preadv getcpu getrandom membarrier preadv2 pkey_mprotect statx "
    "rseq umask getpriority capget sendmsg recvmsg"
)
HOSTILE = _words(
    "fork vfork execve execveat kill tkill rt_sigqueueinfo rt_tgsigqueueinfo ptrace process_vm_readv "
    "process_vm_writev process_madvise process_mrelease pidfd_open pidfd_getfd pidfd_send_signal kcmp socket "
    "socketpair connect bind listen accept setsid setpgid unshare setns mount umount2 chroot move_mount open_tree "
    "fsopen bpf userfaultfd perf_event_open io_uring_setup io_uring_enter io_uring_register seccomp shmget shmat "
    "semget msgget add_key keyctl init_module finit_module reboot swapon setuid setgid open_by_handle_at "
    "sched_setaffinity sched_setscheduler setpriority wait4 waitid"
)
FILE_WRITES = _words(
    "creat truncate ftruncate rename renameat renameat2 mkdir mkdirat rmdir link linkat unlink unlinkat symlink "
    "symlinkat mknod mknodat chmod fchmod fchmodat chown fchown lchown fchownat utimensat"
)
_COMPILER_DENIED = HOSTILE - {"fork", "vfork", "execve", "execveat", "wait4", "waitid", "sched_setaffinity"}

_Instruction = tuple[int, int, int, int]


class _Assembler:
    """BPF: one block per system call, each ending in a return."""

    def __init__(self) -> None:
        self.code: list[_Instruction] = []

    def add(self, code: int, k: int, jump_true: int = 0, jump_false: int = 0) -> None:
        self.code.append((code, jump_true, jump_false, k))

    def on(self, name: str, block: list[_Instruction]) -> None:
        """Run `block`, which returns, when the call is `name`; ignored where the architecture has no such call."""
        if (number := syscalls.NUMBERS.get(name)) is not None:
            self.add(_JUMP_EQUAL, number, 0, len(block))
            self.code += block

    def pack(self) -> bytes:
        return b"".join(struct.pack("<HBBI", code, jt, jf, k) for code, jt, jf, k in self.code)


def _return(action: int) -> list[_Instruction]:
    return [(_RETURN, 0, 0, action)]


def _argument(index: int) -> _Instruction:
    """Load the low half; callers that compare numbers accept only arguments that fit 32 bits."""
    return (_LOAD, 0, 0, _OFFSET_ARGS + 8 * index)


def _if_bits(index: int, bits: int, then: int, otherwise: int) -> list[_Instruction]:
    return [_argument(index), (_JUMP_BITS, 0, 1, bits), (_RETURN, 0, 0, then), (_RETURN, 0, 0, otherwise)]


def _if_thread(then: int, otherwise: int) -> list[_Instruction]:
    """A clone() makes a thread, and its caller does not wait for it: nothing but death ends that wait, so a process
    with such a thread never stands still, and T would wait for ever."""
    return [
        _argument(0),
        (_JUMP_BITS, 2, 0, _CLONE_VFORK),
        (_JUMP_BITS, 0, 1, _CLONE_THREAD),
        (_RETURN, 0, 0, then),
        (_RETURN, 0, 0, otherwise),
    ]


def _if_equal(index: int, values: tuple[int, ...], then: int, otherwise: int) -> list[_Instruction]:
    block = [_argument(index)]
    for place, value in enumerate(values):
        block.append((_JUMP_EQUAL, len(values) - place, 0, value))
    return [*block, (_RETURN, 0, 0, otherwise), (_RETURN, 0, 0, then)]


def _if_own(pid: int, then: int, otherwise: list[_Instruction]) -> list[_Instruction]:
    """The first argument is the caller's own process, by its number or by 0."""
    own = [_argument(0), (_JUMP_EQUAL, 1, 0, 0), (_JUMP_EQUAL, 0, 1, pid), (_RETURN, 0, 0, then)]
    return [*own, *otherwise]


def _if_null(index: int, then: int, otherwise: int) -> list[_Instruction]:
    """Both halves of a pointer are zero."""
    low = _OFFSET_ARGS + 8 * index
    return [
        (_LOAD, 0, 0, low),
        (_JUMP_EQUAL, 0, 3, 0),
        (_LOAD, 0, 0, low + 4),
        (_JUMP_EQUAL, 0, 1, 0),
        (_RETURN, 0, 0, then),
        (_RETURN, 0, 0, otherwise),
    ]


def _if_unix_link(then: int, otherwise: int) -> list[_Instruction]:
    """A socket() within this machine whose messages go where it is connected to, and nowhere else; any flags."""
    return [
        _argument(0),
        (_JUMP_EQUAL, 0, 5, socket.AF_UNIX),
        _argument(1),
        (_AND, 0, 0, 0xF),
        (_JUMP_EQUAL, 1, 0, socket.SOCK_STREAM),
        (_JUMP_EQUAL, 0, 1, socket.SOCK_SEQPACKET),
        (_RETURN, 0, 0, then),
        (_RETURN, 0, 0, otherwise),
    ]


def _prologue(assembler: _Assembler) -> None:
    assembler.add(_LOAD, _OFFSET_ARCH)
    assembler.add(_JUMP_EQUAL, syscalls.AUDIT_ARCH, 1, 0)
    assembler.add(_RETURN, _RET_KILL)
    assembler.add(_LOAD, _OFFSET_NUMBER)
    if syscalls.MACHINE == "x86_64":
        assembler.add(_JUMP_GREATER_EQUAL, _X32_BIT, 0, 1)
        assembler.add(_RETURN, _RET_KILL)


def _if_nvidia(then: int, otherwise: int) -> list[_Instruction]:
    """The request of an ioctl is one of the NVIDIA driver's that computing needs. Its size and direction may be any."""
    numbers = [(_JUMP_EQUAL, len(_NVIDIA_REQUESTS) - place, 0, n) for place, n in enumerate(_NVIDIA_REQUESTS)]
    manager = [_argument(1), (_AND, 0, 0, 0xFF), *numbers, (_RETURN, 0, 0, otherwise), (_RETURN, 0, 0, then)]
    return [
        _argument(1),
        (_JUMP_GREATER_EQUAL, 1, 0, _UVM_REQUESTS),
        (_RETURN, 0, 0, then),
        (_JUMP_EQUAL, 0, 1, _UVM_START_STOP[0]),
        (_RETURN, 0, 0, then),
        (_JUMP_EQUAL, 0, 1, _UVM_START_STOP[1]),
        (_RETURN, 0, 0, then),
        (_AND, 0, 0, 0xFF00),
        (_JUMP_EQUAL, 1, 0, _NVIDIA_TYPE),
        (_RETURN, 0, 0, otherwise),
        *manager,
    ]


def _if_theft(then: int, otherwise: int) -> list[_Instruction]:
    """The request of an ioctl is one of `_NVIDIA_THEFT`, whatever its size and direction."""
    requests = [_NVIDIA_TYPE | number for number in _NVIDIA_THEFT]
    jumps = [(_JUMP_EQUAL, len(requests) - place, 0, request) for place, request in enumerate(requests)]
    return [_argument(1), (_AND, 0, 0, 0xFFFF), *jumps, (_RETURN, 0, 0, otherwise), (_RETURN, 0, 0, then)]


def runner_filter(pid: int, *, listener: bool, cuda: bool, ioctls: Sequence[int] = ()) -> bytes:
    """The program for runner `pid`. Without a listener hostile calls kill. With `cuda` it may talk to that driver.

    `ioctls`: requests of another driver, at most `MOST_IOCTLS`. Raise ValueError for more, or one beyond 32 bits.
    """
    if len(ioctls) > MOST_IOCTLS or any(not 0 <= request < 1 << 32 for request in ioctls):
        raise ValueError(f"a device may name {MOST_IOCTLS} ioctl requests of 32 bits at most")
    hostile = _RET_NOTIFY if listener else _RET_KILL
    missing = _RET_ERRNO | errno.ENOSYS
    denied = _RET_ERRNO | errno.EPERM
    read_only = _RET_NOTIFY if listener else _RET_ERRNO | errno.EROFS
    assembler = _Assembler()
    _prologue(assembler)
    # The commonest calls first: a filter is read from the top.
    for name in ("futex", "read", "write", "mmap", "munmap", "sendto", "recvfrom", "sched_yield"):
        assembler.on(name, _return(_RET_ALLOW))
    assembler.on("clone", _if_thread(_RET_ALLOW, hostile))
    assembler.on("clone3", _return(missing))
    assembler.on("tgkill", _if_equal(0, (pid,), _RET_ALLOW, hostile))
    assembler.on("open", _if_bits(1, _WRITE_FLAGS, read_only, _RET_ALLOW))
    assembler.on("openat", _if_bits(2, _WRITE_FLAGS, read_only, _RET_ALLOW))
    assembler.on("prctl", _if_equal(0, (_PR_SET_NAME, _PR_GET_NAME, _PR_GET_DUMPABLE, _PR_SET_VMA), _RET_ALLOW, denied))
    # Its own limits it may change, as libraries do: the hard ones hold.
    assembler.on("prlimit64", _if_own(pid, _RET_ALLOW, _if_null(2, _RET_ALLOW, hostile)))
    # F_SETOWN and F_SETSIG would send any signal to any process: only these commands exist.
    assembler.on("fcntl", _if_equal(1, _FCNTL_COMMANDS, _RET_ALLOW, denied))
    refused = _RET_ERRNO | errno.ENOTTY
    named = _if_equal(1, tuple(ioctls), _RET_ALLOW, refused)
    assembler.on("ioctl", _if_nvidia(_RET_ALLOW, refused) if cuda else named)
    for name in sorted(ALLOWED):
        assembler.on(name, _return(_RET_ALLOW))
    for name in sorted(FILE_WRITES):
        assembler.on(name, _return(read_only))
    for name in sorted(HOSTILE):
        assembler.on(name, _return(hostile))
    assembler.add(_RETURN, missing)
    return assembler.pack()


def compiler_filter() -> bytes:
    """Everything but what reaches other processes or the network; refused calls say EPERM."""
    denied = _RET_ERRNO | errno.EPERM
    assembler = _Assembler()
    _prologue(assembler)
    assembler.on("ioctl", _if_theft(denied, _RET_ALLOW))
    for name in sorted(_COMPILER_DENIED | {"tgkill"}):
        assembler.on(name, _return(denied))
    assembler.add(_RETURN, _RET_ALLOW)
    return assembler.pack()


def program_filter(*, tool: bool) -> bytes:
    """For a program that is started once to be looked at: the compiler's, and threads are all that it makes.

    `tool`: a tool starts it, asks whether it lives, and speaks to it by a Unix socket. A filter cannot read addresses
    and paths, so connect(), bind() and opening to write wait for whoever holds the listener: see tool_sockets.py.
    """
    denied = _RET_ERRNO | errno.EPERM
    refused = _COMPILER_DENIED | {"tgkill"}
    assembler = _Assembler()
    _prologue(assembler)
    assembler.on("clone3", _return(_RET_ERRNO | errno.ENOSYS))
    assembler.on("ioctl", _if_theft(denied, _RET_ALLOW))
    if tool:
        assembler.on("clone", _if_bits(0, _CLONE_NAMESPACES, denied, _RET_ALLOW))
        assembler.on("socket", _if_unix_link(_RET_ALLOW, denied))
        assembler.on("connect", _return(_RET_NOTIFY))
        assembler.on("bind", _return(_RET_NOTIFY))
        assembler.on("open", _if_bits(1, _WRITE_FLAGS, _RET_NOTIFY, _RET_ALLOW))
        assembler.on("openat", _if_bits(2, _WRITE_FLAGS, _RET_NOTIFY, _RET_ALLOW))
        assembler.on("kill", _if_equal(1, (0,), _RET_ALLOW, denied))
        refused -= {"listen", "accept"}
    else:
        assembler.on("clone", _if_thread(_RET_ALLOW, denied))
        refused |= {"fork", "vfork"}
    for name in sorted(refused):
        assembler.on(name, _return(denied))
    assembler.add(_RETURN, _RET_ALLOW)
    return assembler.pack()


def install(program: bytes, *, listener: bool) -> int | None:
    """Filter all threads from now on; needs no_new_privs. The listener's descriptor, if one was asked for.

    Raise OSError when the kernel or an outer filter refuses.
    """
    buffer = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("<HxxxxxxQ", len(program) // 8, ctypes.addressof(buffer))
    flags = _TSYNC | _TSYNC_ESRCH | (_NEW_LISTENER if listener else 0)
    result = syscalls.call("seccomp", _SET_MODE_FILTER, flags, ctypes.create_string_buffer(header, len(header)))
    return result if listener else None

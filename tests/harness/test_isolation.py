"""Every system call that a candidate must not make is really refused, in a real child under the real filter."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import signal
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kernelharness import isolation, landlock, seccomp, syscalls
from kernelharness.notifier import Notifier

pytestmark = pytest.mark.skipif(not syscalls.NUMBERS, reason="no system call table for this architecture")

THREAD, VFORK = 0x00010F00, 0x00004000
"""clone()'s flags: a thread of this process; its maker waits, and no signal but SIGKILL ends that."""
DENIED, ALLOWED, KILLED = "denied", "allowed", "killed"


def run_isolated(
    action: Callable[[], object],
    device: isolation.DeviceRights = isolation.NO_DEVICE,
    attach: Callable[[], None] = lambda: None,
) -> tuple[str, str | None]:
    """What became of `action` in an isolated child, and what the judge's end heard of it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        code = 2
        try:
            ours.close()
            _, listener = isolation.isolate_runner(1 << 30, attach, device)
            assert listener is not None
            socket.send_fds(theirs, [b"x"], [listener])
            os.close(listener)
            try:
                action()
                code = 0
            except OSError as error:
                code = 1 if error.errno in (errno.EPERM, errno.EROFS, errno.ENOSYS, errno.EACCES, errno.ENOTTY) else 3
        finally:
            os._exit(code)
    theirs.close()
    with ours:
        _, fds, _, _ = socket.recv_fds(ours, 1, 1)
    notifier = Notifier(fds[0])
    heard: str | None = None
    try:
        while True:
            try:
                heard = notifier.answer() or heard
            except ProcessLookupError:
                break
    finally:
        notifier.close()
        _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return KILLED, heard
    return {0: ALLOWED, 1: DENIED}.get(os.WEXITSTATUS(status), f"exit {os.WEXITSTATUS(status)}"), heard


def call(name: str, *arguments: int) -> Callable[[], object]:
    return lambda: syscalls.call(name, *arguments)


REPORTED = {
    "fork": call("clone", signal.SIGCHLD, 0, 0, 0, 0),
    "a thread that is waited for": call("clone", THREAD | VFORK, 0, 0, 0, 0),
    "kill the parent": lambda: os.kill(os.getppid(), 0),
    "kill everybody": lambda: os.kill(-1, signal.SIGCONT),
    "tgkill of another": lambda: syscalls.call("tgkill", os.getppid(), os.getppid(), 0),
    "ptrace": lambda: syscalls.call("ptrace", 16, os.getppid(), 0, 0),
    "process_vm_readv": lambda: syscalls.call("process_vm_readv", os.getppid(), 0, 0, 0, 0, 0),
    "process_vm_writev": lambda: syscalls.call("process_vm_writev", os.getppid(), 0, 0, 0, 0, 0),
    "pidfd_open": lambda: syscalls.call("pidfd_open", os.getppid(), 0),
    "pidfd_send_signal": call("pidfd_send_signal", 0, 19, 0, 0),
    "rt_sigqueueinfo": lambda: syscalls.call("rt_sigqueueinfo", os.getppid(), 19, 0),
    "execve": call("execve", 0, 0, 0),
    "socket": lambda: socket.socket(),
    "setsid": lambda: os.setsid(),
    "setpgid": lambda: os.setpgid(0, 0),
    "unshare": call("unshare", 0x10000000),
    "mount": call("mount", 0, 0, 0, 0, 0),
    "bpf": call("bpf", 0, 0, 0),
    "userfaultfd": call("userfaultfd", 0),
    "perf_event_open": call("perf_event_open", 0, 0, 0, 0, 0),
    "io_uring_setup": call("io_uring_setup", 1, 0),
    "kcmp": lambda: syscalls.call("kcmp", os.getppid(), os.getpid(), 0, 0, 0),
    "prlimit of another": lambda: syscalls.call("prlimit64", os.getppid(), 7, 4096, 0),
    "prlimit with a high pointer": lambda: syscalls.call("prlimit64", os.getppid(), 7, 1 << 32, 0),
    "move to other cpus": lambda: os.sched_setaffinity(0, os.sched_getaffinity(0)),
    "another filter": call("seccomp", 1, 0, 0),
    "shared memory segment": call("shmget", 0, 4096, 0o1600),
    "write a file": lambda: os.open("/etc/here", os.O_CREAT | os.O_WRONLY),
    "truncate a file": lambda: os.truncate("/etc/hostname", 0),
    "remove a file": lambda: os.unlink("/etc/hostname"),
    "make a folder": lambda: os.mkdir("/var/here"),
    "rename": lambda: os.rename("/etc/hostname", "/etc/elsewhere"),
    "change a mode": lambda: os.chmod("/etc/hostname", 0o777),
}
SILENT = {
    "clone3": call("clone3", 0, 0),
    "memfd_create": lambda: os.memfd_create("x"),
    "openat2": call("openat2", 0, 0, 0, 0),
    "own another's signals": lambda: __import__("fcntl").fcntl(0, 8, os.getppid()),
    "choose the signal": lambda: __import__("fcntl").fcntl(0, 10, signal.SIGSTOP),
    "become undumpable": lambda: isolation.set_dumpable(False),
    "write where libraries do": lambda: os.open("/tmp/x", os.O_CREAT | os.O_WRONLY),
    "ioctl": lambda: __import__("fcntl").ioctl(0, 0x5412, b"x"),
    "read the disk": lambda: os.listdir("/root" if os.geteuid() == 0 else "/home"),
}


@pytest.mark.parametrize("name", REPORTED)
def test_hostile_call_is_refused_and_reported(name: str) -> None:
    outcome, heard = run_isolated(REPORTED[name])
    assert outcome == DENIED
    assert heard


@pytest.mark.parametrize("name", SILENT)
def test_useless_call_is_refused_without_blame(name: str) -> None:
    if name == "read the disk" and landlock.abi() == 0:
        pytest.skip("no Landlock here")
    outcome, heard = run_isolated(SILENT[name])
    assert outcome == DENIED
    assert heard is None


def test_honest_work_is_allowed() -> None:
    def work() -> None:
        import threading

        thread = threading.Thread(target=lambda: bytearray(1 << 20))
        thread.start()
        thread.join()
        Path("/proc/self/maps").read_text()
        os.sched_getaffinity(0)
        os.pipe()

    assert run_isolated(work) == (ALLOWED, None)


def test_signal_to_itself_is_allowed() -> None:
    assert run_isolated(lambda: signal.raise_signal(signal.SIGTERM)) == (KILLED, None)


def test_thirty_two_bit_calls_end_the_process() -> None:
    if syscalls.MACHINE != "x86_64":
        pytest.skip("only x86_64 has a second table")
    code = bytes([0x40, 0xB8, *struct.pack("<I", 20), 0xCD, 0x80, 0xC3])  # mov eax, 20 (getpid); int 0x80; ret

    def enter() -> None:
        import mmap

        page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        page.write(code)
        ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()

    assert run_isolated(enter)[0] == KILLED


def test_memory_beyond_the_limit_is_refused() -> None:
    def take() -> None:
        try:
            bytearray(4 << 30)
        except MemoryError as error:
            raise OSError(errno.EPERM, "no memory") from error

    assert run_isolated(take)[0] == DENIED


@pytest.fixture
def undumpable_child() -> Iterator[int]:
    """A process like the judge: same user, not dumpable."""
    readable, writable = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            isolation.set_dumpable(False)
            os.write(writable, b"x")
            signal.pause()
        finally:
            os._exit(0)
    os.read(readable, 1)
    yield pid
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(readable)
    os.close(writable)


@pytest.mark.parametrize("name", ["environ", "maps", "mem", "fd/0"])
def test_isolated_process_cannot_look_into_an_undumpable_one(undumpable_child: int, name: str) -> None:
    outcome, _ = run_isolated(lambda: os.open(f"/proc/{undumpable_child}/{name}", os.O_RDONLY))
    assert outcome == DENIED


def test_landlock_lets_a_process_write_its_own_folder_only(tmp_path: Path) -> None:
    if landlock.abi() == 0:
        pytest.skip("no Landlock here")
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    pid = os.fork()
    if pid == 0:
        code = 0
        try:
            isolation.isolate_compiler(str(inside), 1 << 32, 10)
            (inside / "made").write_text("x")
            try:
                (outside / "made").write_text("x")
                code = 1
            except PermissionError:
                pass
            try:
                socket.socket()
                code = 2
            except PermissionError:
                pass
        except BaseException:
            code = 3
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert (inside / "made").exists()
    assert not (outside / "made").exists()


@pytest.mark.parametrize("number", [0x34, 0x5C, 0x5D])
def test_a_warm_up_cannot_take_another_process_s_memory_on_the_device(number: int, tmp_path: Path) -> None:
    pid = os.fork()
    if pid == 0:
        refused = []
        try:
            isolation.isolate_compiler(str(tmp_path), 1 << 32, 10)
            for request in (0xC0204600 | number, 0xC020462B):
                try:
                    fcntl.ioctl(0, request)
                except OSError as error:
                    refused.append(error.errno)
        finally:
            os._exit(0 if refused == [errno.EPERM, errno.ENOTTY] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


FIONREAD, FIONBIO = 0x541B, 0x5421


def test_a_device_has_its_requests_and_its_file_while_it_is_attached_and_no_others(tmp_path: Path) -> None:
    node = tmp_path / "device"
    node.write_bytes(b"12345678")
    device = isolation.DeviceRights(paths=(str(node),), ioctls=(FIONREAD,))
    opened: list[int] = []

    def attach() -> None:
        opened.append(os.open(node, os.O_RDWR))

    def request(number: int) -> Callable[[], object]:
        return lambda: __import__("fcntl").ioctl(opened[0], number, struct.pack("i", 0))

    assert run_isolated(lambda: os.read(opened[0], 1), device, attach) == (ALLOWED, None)
    assert run_isolated(request(FIONREAD), device, attach) == (ALLOWED, None)
    assert run_isolated(request(FIONBIO), device, attach) == (DENIED, None)
    assert run_isolated(lambda: os.open(node, os.O_RDWR), device, attach) == (DENIED, None)


def test_a_device_may_not_ask_for_more_requests_than_a_filter_holds() -> None:
    with pytest.raises(ValueError, match="200 ioctl requests"):
        seccomp.runner_filter(1, listener=True, cuda=False, ioctls=range(201))

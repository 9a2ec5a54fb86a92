"""The sandbox of a tool that speaks to the program it watches: both really run in it, and get one socket, no more.

What runs here in the tool's place does as compute-sanitizer does, or what a hostile program would do instead.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from kernelharness import compiler, isolation, landlock, syscalls
from kernelharness.__main__ import _enter
from kernelharness.compiler import Compiled, Inside, run_in_sandbox
from kernelharness.processes import children
from kernelharness.zygote import Zygote

pytestmark = pytest.mark.skipif(
    not syscalls.NUMBERS or not landlock.has_scopes(), reason="no Landlock with scopes, or no system call table, here"
)

HEAD = f"""
CALLS = {syscalls.NUMBERS}
"""
HEAD += """
import ctypes, errno, os, signal, socket, struct, sys, threading, time

libc = ctypes.CDLL(None, use_errno=True)
OWN = b"\\0nv_target_process_%d" % os.getpid()

def call(name, *arguments):
    if libc.syscall(*map(ctypes.c_long, (CALLS[name], *arguments))) < 0:
        raise OSError(ctypes.get_errno(), "")

def stream():
    return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)

def attempt(action):
    try:
        action()
    except OSError as error:
        print(errno.errorcode[error.errno])
    else:
        print("done")
"""
WATCHES = """
child = os.fork()
if child == 0:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.bind(b"\\0nv_target_process_%d" % os.getpid())
    listening.listen()
    other, _ = listening.accept()
    other.sendall(b"tensor")
    os._exit(0)
os.kill(child, 0)
name = b"\\0nv_target_process_%d" % child
for _ in range(1000):
    link = stream()
    link.setblocking(False)
    try:
        link.connect(name)
        break
    except ConnectionRefusedError:
        link.close()
        time.sleep(0.01)
link.setblocking(True)
print(link.recv(100).decode())
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
CUDA_STARTS = """
link = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
link.bind((b"\\0cuda-uvmfd-4026531836-%d" % os.getpid()).ljust(108, b"\\0"))
link.listen(16)
print("done")
"""
NAMES_A_THREAD = """
name = "/proc/self/task/%d/comm" % threading.get_native_id()
attempt(lambda: open(name, "r+b", buffering=0).write(b"other"))
attempt(lambda: open("/proc/%d/task/1/comm" % os.getpid(), "wb").write(b"other"))
print(open(name).read().strip()[:6])
attempt(lambda: open("/proc/self/comm", "wb"))
attempt(lambda: open("made", "wb").write(b"other"))
"""
ATTEMPTS = {
    "a path in its folder": ("stream().connect('there')", "ENOENT"),
    "a path elsewhere": ("stream().connect(PATH)", "ENOENT"),
    "an address that is none": ("call('connect', stream().fileno(), 0, 110)", "EIO"),
    "another abstract name": ("stream().connect(b'\\0somebody')", "EPERM"),
    "a name with more behind it": ("stream().connect(OWN + b'\\0')", "EPERM"),
    "the name of a process outside": ("stream().connect(b'\\0nv_target_process_%d' % OUTSIDE)", "EPERM"),
    "to be in its folder": ("stream().bind('made')", "EPERM"),
    "to be another process": ("stream().bind(b'\\0nv_target_process_%d' % OUTSIDE)", "EPERM"),
    "to be a name of its own": ("stream().bind(b'\\0somebody')", "EPERM"),
    "to be another process for CUDA": ("stream().bind(b'\\0cuda-uvmfd-4026531836-%d' % OUTSIDE)", "EPERM"),
    "to be whatever is free": ("stream().bind(b'')", "EPERM"),
    "to send to a path": ("stream().sendto(b'x', 'there')", "ENOTSUP"),
    "packets": ("socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)", "EPERM"),
    "packets in order to a path": (
        "socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET).sendto(b'x', 'there')",
        "ENOTCONN",
    ),
    "TCP": ("socket.socket()", "EPERM"),
    "TCP over IPv6": ("socket.socket(socket.AF_INET6)", "EPERM"),
    "netlink": ("socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)", "EPERM"),
    "a pair": ("socket.socketpair()", "EPERM"),
    "whether a process outside lives": ("os.kill(OUTSIDE, 0)", "EPERM"),
    "to end itself by a signal": ("os.kill(os.getpid(), signal.SIGTERM)", "EPERM"),
    "to end its watcher": ("os.kill(os.getppid(), signal.SIGKILL)", "EPERM"),
    "its watcher's memory": ("os.open(f'/proc/{os.getppid()}/mem', os.O_RDWR)", "EACCES"),
    "its watcher's files": ("os.open(f'/proc/{os.getppid()}/fd/1', os.O_WRONLY)", "EACCES"),
    "io_uring": ("call('io_uring_setup', 1, 0)", "EPERM"),
    "a user namespace": ("call('clone', 0x10000000 | signal.SIGCHLD, 0, 0, 0, 0)", "EPERM"),
    "clone3, whose flags lie in memory": ("call('clone3', 0, 88)", "ENOSYS"),
    "shared memory": ("os.open('/dev/shm', os.O_RDONLY)", "EACCES"),
    "another process's object on the device": ("call('ioctl', 1, 0xC0204634, 0)", "EPERM"),
    "an object of its own on what is no device": ("call('ioctl', 1, 0xC020462B, 0)", "ENOTTY"),
}
FLIPS = """
names = [struct.pack("=H", socket.AF_UNIX) + name for name in (OWN, b"there".ljust(len(OWN), b"\\0"))]
address = ctypes.create_string_buffer(names[0], len(names[0]))
over = threading.Event()

def flip():
    while not over.is_set():
        for name in names:
            ctypes.memmove(address, name, len(name))

thread = threading.Thread(target=flip)
thread.start()
heard = set()
for _ in range(2000):
    link = stream()
    result = libc.connect(link.fileno(), address, len(names[0]))
    heard.add(errno.errorcode[ctypes.get_errno()] if result else "done")
    link.close()
over.set()
thread.join()
print(*sorted(heard))
"""
TAKES_MEMORY = """
if os.fork() == 0:
    data = bytearray(os.urandom(1 << 20)) * 600
    time.sleep(60)
os.wait()
"""


@pytest.fixture
def zygote() -> Iterator[Zygote]:
    isolation.become_subreaper()
    made = Zygote(_enter)
    yield made
    made.close()


def run(zygote: Zygote, folder: Path, script: str, seconds: int = 20) -> Compiled:
    known = {zygote.pid, *children(os.getpid())}
    command = [sys.executable, "-I", "-c", HEAD + script]
    return run_in_sandbox(zygote, command, folder, seconds, known, {}, Inside.CUDA_PROGRAM)


def listening(name: str | bytes) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made.bind(name)
    made.listen()
    made.setblocking(False)
    return made


def test_tool_speaks_to_the_program_that_it_started(zygote: Zygote, tmp_path: Path) -> None:
    result = run(zygote, tmp_path, WATCHES)
    assert (result.text, result.ok) == ("tensor\n", True)


def test_names_of_threads_lead_nowhere_and_other_files_are_as_landlock_says(zygote: Zygote, tmp_path: Path) -> None:
    assert run(zygote, tmp_path, NAMES_A_THREAD).text == "done\ndone\npython\nEACCES\ndone\n"


def test_cuda_gets_the_socket_without_which_it_does_not_start(zygote: Zygote, tmp_path: Path) -> None:
    assert run(zygote, tmp_path, CUDA_STARTS).text == "done\n"


@pytest.mark.parametrize("name", ATTEMPTS)
def test_hostile_program_is_refused(zygote: Zygote, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    action, expected = ATTEMPTS[name]
    folder, elsewhere = tmp_path / "folder", tmp_path / "elsewhere"
    folder.mkdir()
    constants = f"OUTSIDE, PATH = {os.getpid()}, {str(elsewhere)!r}\n"
    monkeypatch.chdir(folder)  # so that the path is as short as a socket's may be
    sockets = [
        listening("there"),
        listening(os.path.relpath(elsewhere)),
        listening(b"\0nv_target_process_%d" % os.getpid()),
    ]
    try:
        result = run(zygote, folder, f"{constants}attempt(lambda: {action})\n")
        assert (result.text, result.ok) == (f"{expected}\n", True)
        for each in sockets:
            with pytest.raises(BlockingIOError):
                each.accept()
    finally:
        for each in sockets:
            each.close()
    assert sorted(path.name for path in folder.iterdir()) == ["there"]


def test_address_that_changes_while_it_is_looked_at_reaches_nobody(
    zygote: Zygote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with listening("there") as there:
        result = run(zygote, tmp_path, FLIPS)
        # Refused as a path, or by the kernel, for nobody listens by that name. EPERM: it was half of each.
        assert result.ok
        assert set(result.text.split()) - {"EPERM"} == {"ECONNREFUSED", "ENOENT"}
        with pytest.raises(BlockingIOError):
            there.accept()


def test_memory_of_all_its_processes_counts(zygote: Zygote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "COMPILER_MEMORY_BYTES", 300 << 20)
    result = run(zygote, tmp_path, TAKES_MEMORY)
    assert (result.ok, result.timed_out) == (False, False)


def test_kernel_that_cannot_keep_sockets_inside_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landlock, "abi", lambda: 5)
    monkeypatch.setattr(sys, "stderr", sys.__stderr__)  # pytest's own is no descriptor
    isolation.become_subreaper()
    zygote = Zygote(_enter)
    try:
        result = run(zygote, tmp_path, "print('here')")
    finally:
        zygote.close()
    assert not result.ok
    assert result.text.endswith("OSError: [Errno 38] Landlock here cannot keep sockets inside of the sandbox\n")

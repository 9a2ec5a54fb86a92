"""K: one compile in a sandbox of its own; what it leaves is copied, sealed and hashed before anybody loads it.

The compiler reads a hostile source, so it has no network, no other process, its own folder, and little time. The
folder is gone afterwards; the library lives on in a sealed memfd of T: what is hashed, loaded, timed and published are
the same bytes. Neighbours: isolation.py, languages/base.py (which command), judge.py.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import mmap
import os
import selectors
import shutil
import signal
import stat
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from kernelharness import isolation
from kernelharness.channel import make_memory
from kernelharness.languages.base import Language
from kernelharness.processes import kill_survivors
from kernelharness.protocol import Candidate, CaseFact, Toolchain
from kernelharness.zygote import Zygote

COMPILER_MEMORY_BYTES = 4 << 30
_OUTPUT_HEAD = 256 * 1024
_LARGEST_BINARY = 64 << 20
_GLANCE_SECONDS = 0.1
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


@dataclass(frozen=True)
class Compiled:
    """What came of one compile."""

    ok: bool
    text: str
    """What the compiler printed, its head."""
    seconds: float
    timed_out: bool = False
    survivors: int = 0
    """Processes that outlived the compiler."""
    fd: int = -1
    """The library as a sealed memfd, native languages only; the receiver closes it."""
    content: bytes = b""
    """The same bytes: what was made, or the source where nothing is made."""

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


class Inside(StrEnum):
    """What a sandbox is for."""

    COMPILER = "compiler"
    PROGRAM = "program"
    """What a compiler made of a candidate."""
    CUDA_PROGRAM = "cuda program"


def execute(config: dict[str, Any], fds: list[int]) -> None:
    """In the sandbox process: isolate, then become the compiler, or the program."""
    os.setpgid(0, 0)
    os.chdir(config["folder"])
    if config["inside"] == Inside.COMPILER:
        isolation.isolate_compiler(config["folder"], COMPILER_MEMORY_BYTES, config["seconds"])
    else:
        isolation.isolate_program(config["folder"], config["seconds"], config["inside"] == Inside.CUDA_PROGRAM)
    os.execvpe(config["command"][0], config["command"], config["env"])


def compile_candidate(
    zygote: Zygote,
    language: Language,
    toolchain: Toolchain,
    candidate: Candidate,
    facts: Sequence[CaseFact],
    known_children: set[int],
) -> Compiled:
    """Compile, or check, the candidate's first file; its other files lie beside it."""
    folder = Path(tempfile.mkdtemp(prefix="compile-"))
    try:
        try:
            source = write_sources(folder, language, toolchain, candidate, facts)
        except ValueError as error:
            return Compiled(False, str(error), 0.0)
        command = language.compile_command(toolchain, source, language.output_name(), "include")
        seconds = toolchain.compile_timeout_seconds
        made = run_in_sandbox(zygote, command, folder, seconds, known_children, toolchain.env)
        if not made.ok or not language.is_native:
            content = candidate.files[0].content.encode()
            return Compiled(made.ok, made.text, made.seconds, made.timed_out, made.survivors, content=content)
        return _seal(made, folder / language.output_name())
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_sources(
    folder: Path, language: Language, toolchain: Toolchain, candidate: Candidate, facts: Sequence[CaseFact]
) -> str:
    """Headers and the candidate's files; the name of the one to compile. Raise ValueError for a path with '..'."""
    source = language.source_name(toolchain)
    (folder / "include").mkdir()
    for name, text in language.headers(facts).items():
        (folder / "include" / name).write_text(text)
    for file in candidate.files[1:]:
        path = folder / file.path
        if ".." in path.parts:
            raise ValueError(f"{file.path}: a path may not hold '..'")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(file.content)
    (folder / source).write_text(candidate.files[0].content)
    return source


def run_in_sandbox(
    zygote: Zygote,
    command: list[str],
    folder: Path,
    seconds: int,
    known_children: set[int],
    variables: Mapping[str, str],
    inside: Inside = Inside.COMPILER,
) -> Compiled:
    """Run a command in its own process and folder; `ok` when it ended well, in time, and left nothing behind."""
    environment = {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LANG": "C", "TMPDIR": str(folder)}
    readable, writable = os.pipe2(os.O_CLOEXEC)
    null = os.open(os.devnull, os.O_RDONLY)
    begin = time.monotonic()
    try:
        config = {
            "role": "compiler",
            "command": command,
            "folder": str(folder),
            "env": {**environment, **variables},
            "seconds": seconds,
            "inside": inside,
        }
        pid = zygote.spawn(config, [null, writable, writable])
    finally:
        os.close(writable)
        os.close(null)
    text, in_time = _read_until(readable, begin + seconds, pid)
    os.close(readable)
    if not in_time:
        _kill_group(pid)
    _, status = os.waitpid(pid, 0)
    _kill_group(pid)
    survivors = kill_survivors(known_children)
    ok = in_time and os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0 and not survivors
    return Compiled(
        ok, text.decode(errors="replace"), time.monotonic() - begin, not in_time, len(survivors) if in_time else 0
    )


def _read_until(fd: int, deadline: float, pid: int) -> tuple[bytes, bool]:
    """The head of what comes, and whether the writers were done in time. The rest is read and dropped.

    Process `pid` is killed when it uses more memory than it may: no limit of the kernel's suits every tool.
    """
    os.set_blocking(fd, False)
    head = bytearray()
    with selectors.DefaultSelector() as selector:
        selector.register(fd, selectors.EVENT_READ)
        while (left := deadline - time.monotonic()) > 0:
            if not selector.select(min(left, _GLANCE_SECONDS)):
                if _resident_bytes(pid) > COMPILER_MEMORY_BYTES:
                    _kill_group(pid)
                continue
            data = os.read(fd, 64 * 1024)
            if not data:
                return bytes(head), True
            head += data[: max(0, _OUTPUT_HEAD - len(head))]
    return bytes(head), False


def _resident_bytes(pid: int) -> int:
    with contextlib.suppress(OSError, IndexError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * mmap.PAGESIZE
    return 0


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _seal(made: Compiled, path: Path) -> Compiled:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        return Compiled(False, f"{made.text}\nthe compiler left no {path.name}: {error.strerror}", made.seconds)
    with os.fdopen(fd, "rb") as file:
        facts = os.fstat(fd)
        if not stat.S_ISREG(facts.st_mode) or facts.st_size > _LARGEST_BINARY:
            return Compiled(False, f"{path.name} is no file of at most {_LARGEST_BINARY >> 20} MiB", made.seconds)
        content = file.read()
    memory = make_memory("binary", len(content))
    view = memoryview(content)
    while view:
        view = view[os.write(memory, view) :]
    fcntl.fcntl(memory, fcntl.F_ADD_SEALS, _SEALS)
    return Compiled(True, made.text, made.seconds, fd=memory, content=content)

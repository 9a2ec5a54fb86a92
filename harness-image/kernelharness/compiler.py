"""K: each compile in a sandbox of its own; what it leaves is copied, sealed and hashed before anybody loads it.

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
from dataclasses import dataclass, replace
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
_LIBRARIES = "LD_LIBRARY_PATH"
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


def compile_candidates(
    zygote: Zygote,
    language: Language,
    toolchain: Toolchain,
    candidates: Sequence[Candidate],
    facts: Sequence[CaseFact],
    known_children: set[int],
    flags: Sequence[str] = (),
) -> list[Compiled]:
    """Compile, or check, each candidate's first file, all at the same time; their other files lie beside it.

    `flags`: behind the language's own command. Those who turn out to lack some compile again with them, together.
    """
    folders = [Path(tempfile.mkdtemp(prefix="compile-")) for _ in candidates]
    refused: dict[int, Compiled] = {}
    running: dict[int, _Sandbox] = {}
    try:
        for index, (candidate, folder) in enumerate(zip(candidates, folders, strict=True)):
            try:
                source = write_sources(folder, language, toolchain, candidate, facts)
            except ValueError as error:
                refused[index] = Compiled(False, str(error), 0.0)
                continue
            command = [*language.compile_command(toolchain, source, language.output_name(), "include"), *flags]
            seconds = toolchain.compile_timeout_seconds
            running[index] = _Sandbox(zygote, command, folder, seconds, toolchain.env, Inside.COMPILER)
        _wait(list(running.values()))
        survivors = len(kill_survivors(known_children))
        if survivors and len(running) > 1:
            # Nobody can tell whose they were, so each compiles again where only it can leave any.
            alone = (
                compile_candidates(zygote, language, toolchain, [each], facts, known_children) for each in candidates
            )
            return [compiled for one in alone for compiled in one]
        made = refused | {index: sandbox.result(survivors) for index, sandbox in running.items()}
        finished = [
            _finished(made[index], language, candidate, folder)
            for index, (candidate, folder) in enumerate(zip(candidates, folders, strict=True))
        ]
        lacking = {
            index: more
            for index, compiled in made.items()
            if not (compiled.ok or flags) and (more := language.lacking_flags(toolchain, compiled.text))
        }
        if lacking:
            some = [candidates[index] for index in lacking]
            more = sorted({flag for each in lacking.values() for flag in each})
            again = compile_candidates(zygote, language, toolchain, some, facts, known_children, more)
            for index, compiled in zip(lacking, again, strict=True):
                finished[index] = replace(compiled, seconds=made[index].seconds + compiled.seconds)
        return finished
    finally:
        for sandbox in running.values():
            sandbox.end()
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)


def _finished(made: Compiled, language: Language, candidate: Candidate, folder: Path) -> Compiled:
    if made.ok and language.is_native:
        return _seal(made, folder / language.output_name())
    return replace(made, content=candidate.files[0].content.encode())


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
    sandbox = _Sandbox(zygote, command, folder, seconds, variables, inside)
    try:
        _wait([sandbox])
        return sandbox.result(len(kill_survivors(known_children)))
    finally:
        sandbox.end()


class _Sandbox:
    """One command in a process of its own."""

    def __init__(
        self,
        zygote: Zygote,
        command: list[str],
        folder: Path,
        seconds: int,
        variables: Mapping[str, str],
        inside: Inside,
    ) -> None:
        """Start it. Whoever does so waits for it, or calls `end`."""
        environment = {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LANG": "C", "TMPDIR": str(folder)}
        if libraries := os.environ.get(_LIBRARIES):
            environment[_LIBRARIES] = libraries  # a driver may lie where the image says, and nowhere else
        self.output, writable = os.pipe2(os.O_CLOEXEC)
        """What it prints."""
        null = os.open(os.devnull, os.O_RDONLY)
        self._begin = time.monotonic()
        self.deadline = self._begin + seconds
        self._head = bytearray()
        self._in_time = True
        self._status = 0
        self._seconds = 0.0
        try:
            config = {
                "role": "compiler",
                "command": command,
                "folder": str(folder),
                "env": {**environment, **variables},
                "seconds": seconds,
                "inside": inside,
            }
            self._pid = zygote.spawn(config, [null, writable, writable])
        finally:
            os.close(writable)
            os.close(null)

    def read(self) -> bool:
        """Keep the head of what was printed, drop the rest. False when all writers are gone."""
        data = os.read(self.output, 64 * 1024)
        self._head += data[: max(0, _OUTPUT_HEAD - len(self._head))]
        return bool(data)

    def glance(self) -> None:
        """Kill it when all its processes use more memory than it may: no limit of the kernel's suits every tool."""
        if _resident_bytes(self._pid) > COMPILER_MEMORY_BYTES:
            _kill_group(self._pid)

    def finish(self, *, in_time: bool) -> None:
        """It is done, or is to be stopped."""
        self._in_time = in_time
        if not in_time:
            _kill_group(self._pid)
        _, self._status = os.waitpid(self._pid, 0)
        _kill_group(self._pid)
        self._pid = -1
        self._seconds = time.monotonic() - self._begin

    def result(self, survivors: int) -> Compiled:
        """`survivors`: how many processes outlived it."""
        ok = self._in_time and os.WIFEXITED(self._status) and os.WEXITSTATUS(self._status) == 0 and not survivors
        text = self._head.decode(errors="replace")
        return Compiled(ok, text, self._seconds, not self._in_time, survivors if self._in_time else 0)

    def end(self) -> None:
        """Close its output, and stop it when nobody waited for it."""
        os.close(self.output)
        if self._pid >= 0:
            self.finish(in_time=False)


def _wait(sandboxes: Sequence[_Sandbox]) -> None:
    """Until each is done, or its own time is up; none waits for another."""
    with selectors.DefaultSelector() as selector:
        left = {sandbox.output: sandbox for sandbox in sandboxes}
        for fd in left:
            selector.register(fd, selectors.EVENT_READ)
        while left:
            soonest = min(sandbox.deadline for sandbox in left.values()) - time.monotonic()
            ready = [key.fd for key, _ in selector.select(max(0.0, min(soonest, _GLANCE_SECONDS)))]
            done = [fd for fd in ready if not left[fd].read()]
            late = [fd for fd in left if fd not in done and left[fd].deadline <= time.monotonic()]
            for fd in (*done, *late):
                selector.unregister(fd)
                left.pop(fd).finish(in_time=fd in done)
            for sandbox in left.values():
                sandbox.glance()


def _resident_bytes(pid: int) -> int:
    """Of a process and all that it started."""
    total, left = 0, [pid]
    while left:
        process = Path(f"/proc/{left.pop()}")
        with contextlib.suppress(OSError, IndexError):
            total += int((process / "statm").read_text().split()[1]) * mmap.PAGESIZE
            for thread in (process / "task").iterdir():
                left += map(int, (thread / "children").read_text().split())
    return total


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

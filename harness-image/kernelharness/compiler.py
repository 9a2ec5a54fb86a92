"""K: each compile in a sandbox of its own; what it leaves is copied, sealed and hashed before anybody loads it.

The compiler reads a hostile source, so it has no network, no other process, its own folder, and little time. The
folder is gone afterwards; the library lives on in a sealed memfd of T: what is hashed, loaded, timed and published are
the same bytes. Neighbours: isolation.py, languages/base.py (which command), judge.py.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import selectors
import shutil
import signal
import stat
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
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


def execute(config: dict[str, Any], fds: list[int]) -> None:
    """In the sandbox process: isolate, then become the compiler."""
    os.setpgid(0, 0)
    os.chdir(config["folder"])
    isolation.isolate_compiler(config["folder"], COMPILER_MEMORY_BYTES, config["seconds"])
    os.execvpe(config["command"][0], config["command"], config["env"])


def compile_candidates(
    zygote: Zygote,
    language: Language,
    toolchain: Toolchain,
    candidates: Sequence[Candidate],
    facts: Sequence[CaseFact],
    known_children: set[int],
) -> list[Compiled]:
    """Compile, or check, each candidate's first file, all at the same time; their other files lie beside it."""
    headers = language.headers(facts)
    sandboxes: list[_Sandbox] = []
    try:
        for candidate in candidates:
            sandboxes.append(_Sandbox(zygote, language, toolchain, candidate, headers))
        _wait(sandboxes)
        survivors = kill_survivors(known_children)
        if survivors and len(candidates) > 1:
            # Nobody can tell whose they were, so each compiles again where only it can leave any.
            one_by_one = (
                compile_candidates(zygote, language, toolchain, [candidate], facts, known_children)
                for candidate in candidates
            )
            return [compiled for alone in one_by_one for compiled in alone]
        return [sandbox.result(len(survivors)) for sandbox in sandboxes]
    finally:
        for sandbox in sandboxes:
            sandbox.remove()


class _Sandbox:
    """One compiler process and its folder."""

    def __init__(
        self,
        zygote: Zygote,
        language: Language,
        toolchain: Toolchain,
        candidate: Candidate,
        headers: dict[str, str],
    ) -> None:
        """Write the files and start the compiler."""
        self._language = language
        self._candidate = candidate
        self._folder = Path(tempfile.mkdtemp(prefix="compile-"))
        self._refusal = ""
        self._text = bytearray()
        self._in_time = True
        self._status = 0
        self._begin = time.monotonic()
        self._seconds = 0.0
        self._deadline = self._begin + toolchain.compile_timeout_seconds
        self._output = self._pid = -1
        source = language.source_name(toolchain)
        (self._folder / "include").mkdir()
        for name, text in headers.items():
            (self._folder / "include" / name).write_text(text)
        for file in candidate.files[1:]:
            path = self._folder / file.path
            if ".." in path.parts:
                self._refusal = f"{file.path}: a path may not hold '..'"
                return
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(file.content)
        (self._folder / source).write_text(candidate.files[0].content)
        self._start(zygote, language.compile_command(toolchain, source, language.output_name(), "include"), toolchain)

    def _start(self, zygote: Zygote, command: list[str], toolchain: Toolchain) -> None:
        environment = {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LANG": "C", "TMPDIR": str(self._folder)}
        self._output, writable = os.pipe2(os.O_CLOEXEC)
        null = os.open(os.devnull, os.O_RDONLY)
        try:
            config = {
                "role": "compiler",
                "command": command,
                "folder": str(self._folder),
                "env": {**environment, **toolchain.env},
                "seconds": toolchain.compile_timeout_seconds,
            }
            self._pid = zygote.spawn(config, [null, writable, writable])
        finally:
            os.close(writable)
            os.close(null)

    @property
    def output(self) -> int:
        """The descriptor of what the compiler prints; -1 when none was started."""
        return self._output

    @property
    def deadline(self) -> float:
        return self._deadline

    def read(self) -> bool:
        """Keep the head of what was printed, drop the rest. False when all writers are gone."""
        data = os.read(self._output, 64 * 1024)
        self._text += data[: max(0, _OUTPUT_HEAD - len(self._text))]
        return bool(data)

    def finish(self, *, in_time: bool) -> None:
        """The compiler is done, or is to be stopped."""
        self._in_time = in_time
        if not in_time:
            _kill_group(self._pid)
        _, self._status = os.waitpid(self._pid, 0)
        _kill_group(self._pid)
        self._pid = -1
        self._seconds = time.monotonic() - self._begin

    def result(self, survivors: int) -> Compiled:
        """`survivors`: how many processes outlived the compiler."""
        if self._refusal:
            return Compiled(False, self._refusal, 0.0)
        in_time = self._in_time
        ok = in_time and os.WIFEXITED(self._status) and os.WEXITSTATUS(self._status) == 0 and not survivors
        text = self._text.decode(errors="replace")
        made = Compiled(ok, text, self._seconds, not in_time, survivors if in_time else 0)
        if ok and self._language.is_native:
            return _seal(made, self._folder / self._language.output_name())
        return replace(made, content=self._candidate.files[0].content.encode())

    def remove(self) -> None:
        """Its folder, and the compiler itself when nobody waited for it."""
        if self._output >= 0:
            os.close(self._output)
        if self._pid >= 0:
            _kill_group(self._pid)
            os.waitpid(self._pid, 0)
        shutil.rmtree(self._folder, ignore_errors=True)


def _wait(sandboxes: Sequence[_Sandbox]) -> None:
    """Until each is done, or its own time is up; none waits for another."""
    with selectors.DefaultSelector() as selector:
        left = {sandbox.output: sandbox for sandbox in sandboxes if sandbox.output >= 0}
        for fd in left:
            selector.register(fd, selectors.EVENT_READ)
        while left:
            soonest = min(sandbox.deadline for sandbox in left.values())
            ready = [key.fd for key, _ in selector.select(max(0.0, soonest - time.monotonic()))]
            done = [fd for fd in ready if not left[fd].read()]
            late = [fd for fd in left if fd not in done and left[fd].deadline <= time.monotonic()]
            for fd in (*done, *late):
                selector.unregister(fd)
                left.pop(fd).finish(in_time=fd in done)


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

"""A second look at a memory fault: what was touched, where and how far off, by the checker of the language.

The runner only dies of a fault. Here the candidate's source becomes a program that calls it once in the case that
failed, on inputs that it makes up, under AddressSanitizer or compute-sanitizer, in a sandbox of its own: nothing secret
is in it, and nothing that it says changes the verdict. A batch has 20 s for all of its looks.
Neighbours: languages/caller.py and checkers.py (the program, the tools), compiler.py (the sandbox), diagnose.py.
"""

from __future__ import annotations

import re
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kernelharness import diagnose, landlock
from kernelharness.compiler import Compiled, Inside, run_in_sandbox, write_sources
from kernelharness.languages.base import Language, MemoryCheck
from kernelharness.protocol import Candidate, CaseFact, Toolchain
from kernelharness.zygote import Zygote

BATCH_SECONDS = 20.0
_LEAST_SECONDS = 2.0
_TENSOR = re.compile(r"^tensor (\w{1,64}) 0x([0-9a-f]{1,16}) (\d{1,18})$", re.MULTILINE)


@dataclass
class CloserLook:
    """What is left of a batch's time for it."""

    zygote: Zygote
    language: Language
    toolchain: Toolchain
    seconds: float = BATCH_SECONDS

    def explain(self, candidate: Candidate, facts: Sequence[CaseFact], case: int, known_children: set[int]) -> str:
        """What a checker sees in a call of `facts[case]`, or why nobody looked; empty: no checker."""
        check = self.language.memory_check(self.toolchain, facts, case)
        if check is None:
            return ""
        if obstacle := _obstacle(check):
            return diagnose.of_no_look(check.tool, obstacle)
        if self.seconds < _LEAST_SECONDS:
            return f"{check.tool} was not asked: this batch's {BATCH_SECONDS:.0f} s for it are spent."
        begin = time.monotonic()
        folder = Path(tempfile.mkdtemp(prefix="look-"))
        try:
            write_sources(folder, self.language, self.toolchain, candidate, facts)
            return self._ask(check, folder, candidate.files[0].content, begin + self.seconds, known_children)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            self.seconds -= time.monotonic() - begin

    def _ask(self, check: MemoryCheck, folder: Path, source: str, deadline: float, known_children: set[int]) -> str:
        (folder / check.file).write_text(check.text)

        def run(command: list[str], inside: Inside) -> Compiled:
            left = max(1, int(deadline - time.monotonic()))
            variables = {**self.toolchain.env, **check.environment}
            return run_in_sandbox(self.zygote, command, folder, left, known_children, variables, inside)

        if not (built := run(check.compile_command, Inside.COMPILER)).ok:
            return diagnose.of_no_look(check.tool, _why(built, "the program around the kernel did not compile"))
        watched = run(check.run_command, Inside.CUDA_PROGRAM if check.cuda else Inside.PROGRAM)
        found = check.read(watched.text, self.language.source_name(self.toolchain))
        tensors = [(name, int(at, 16), int(size)) for name, at, size in _TENSOR.findall(watched.text)]
        if found is None and (not tensors or watched.timed_out):
            return diagnose.of_no_look(check.tool, _why(watched, "it did not start"))
        return diagnose.of_look(check.tool, found, tensors, source)


def _obstacle(check: MemoryCheck) -> str:
    """Why nothing need be compiled for the tool; empty: it may work."""
    if not check.cuda:
        return ""
    if shutil.which(check.run_command[0]) is None:
        return "it is not installed"
    return "" if landlock.has_scopes() else "this kernel cannot keep its sockets inside a sandbox (Linux 6.12 can)"


def _why(run: Compiled, otherwise: str) -> str:
    """The reason for a person: the time is up, or the last line that was printed."""
    if run.timed_out:
        return "it did not finish in time"
    lines = [line for line in run.text.splitlines() if line.strip(" =")]
    return f"{otherwise}: {lines[-1].strip()}" if lines else otherwise

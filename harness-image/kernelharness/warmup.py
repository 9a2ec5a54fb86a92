"""U0: a candidate whose kernels are compiled when they are called is called once, in a folder of its own.

The warm-up runner may start compilers and write that folder; it sees fresh inputs that are never used again and is
killed before anything is timed. The folder is frozen and hashed; the timed runner reads it, and starts nothing.
Neighbours: judge.py (starts both runners), isolation.py (their rights), languages/triton.py.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kernelharness import diagnose
from kernelharness.bench import CaseBench
from kernelharness.languages.base import Language
from kernelharness.processes import RunnerFault
from kernelharness.protocol import Candidate, Verdict
from kernelharness.trial import Trial
from kernelharness.verdicts import Rejection


class WarmFolder:
    """What a warm-up left behind."""

    def __init__(self, prepared: Path | None) -> None:
        """`prepared`: what it begins with."""
        self.path = Path(tempfile.mkdtemp(prefix="warm-"))
        if prepared is not None:
            shutil.copytree(prepared, self.path, dirs_exist_ok=True)
        self.digest = ""

    def freeze(self) -> None:
        """Nothing in it may be written from now on."""
        for path in [*self.path.rglob("*"), self.path]:
            if not path.is_symlink():
                os.chmod(path, 0o555 if path.is_dir() else 0o444)
        self.digest = self._hash()

    def expect_frozen(self) -> None:
        """Raise Rejection when it is not as it was frozen."""
        if self._hash() != self.digest:
            raise Rejection(Verdict.TAMPERING, "what was compiled in the warm-up changed while it was timed")

    def digest_with(self, source: str) -> str:
        """The hash of what was timed: the source's and what was made of it."""
        return hashlib.sha256(f"{source}\0{self.digest}".encode()).hexdigest()

    def remove(self) -> None:
        for path in [self.path, *self.path.rglob("*")]:
            if path.is_dir() and not path.is_symlink():
                os.chmod(path, 0o755)
        shutil.rmtree(self.path, ignore_errors=True)

    def _hash(self) -> str:
        found = hashlib.sha256()
        for path in sorted(self.path.rglob("*")):
            found.update(str(path.relative_to(self.path)).encode() + b"\0")
            if path.is_file() and not path.is_symlink():
                found.update(hashlib.sha256(path.read_bytes()).digest())
        return found.hexdigest()


@dataclass
class WarmUp:
    """A candidate's warm-up runner, which sees no line of it before it is loaded, and the folder that it may write."""

    candidate: Candidate
    trial: Trial
    folder: WarmFolder


def warm(trial: Trial, cases: Sequence[CaseBench], language: Language, source: str) -> None:
    """Call an isolated candidate once in every case, on inputs of no further use. Raise Rejection when it fails.

    A call that failed because a kernel does not compile is COMPILE_ERROR, told like a compiler's.
    """
    try:
        for case in cases:
            trial.load(case)
            trial.call_once(case)
    except Rejection as rejection:
        fault = rejection.__cause__
        said = fault.text if isinstance(fault, RunnerFault) else ""
        if rejection.verdict in (Verdict.RUNTIME_ERROR, Verdict.LOAD_ERROR) and language.is_compile_failure(said):
            errors = language.call_errors(said, source)
            told = diagnose.of_compile(errors, source, said)
            text = errors[0].message if errors else rejection.text
            raise Rejection(Verdict.COMPILE_ERROR, text, told) from rejection
        raise

"""What a language must offer, and the registry: a new language is one more file here and one line in `_MODULES`.

Nothing here runs anything. A language names the command that the compiler sandbox runs, reads what the compiler said,
and says how a candidate is called: natively (a shared library, `native.py`) or as a Python module (`pytorch.py`).
Must stay free of torch: the judge and the native runner import this.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module

from kernelharness.protocol import CaseFact, Toolchain

_MODULES = {name: f"kernelharness.languages.{name}" for name in ("cpp", "cuda", "pytorch", "triton")}


class UnknownLanguage(ValueError):
    """No file under languages/ is of this name."""


@dataclass(frozen=True)
class CompileError:
    """One error of the compiler, in the candidate's own lines. `line` 0: of no line (a link error)."""

    message: str
    line: int = 0
    column: int = 0


@dataclass(frozen=True)
class MemoryFinding:
    """What a memory checker says of one access; the program that it watched may have made it up."""

    what: str
    access: str = ""
    """read | write | atomic, where it is known."""
    size: int = 0
    """Bytes; 0 where it is not known."""
    address: int = 0
    function: str = ""
    line: int = 0
    """Of the candidate's own file; 0 where it is not known."""
    place: str = ""
    """What it missed, when the checker says so: a variable, or a block."""
    thread: str = ""


@dataclass(frozen=True)
class MemoryCheck:
    """A program around a candidate's source that calls it once on inputs of its own, and the tool that watches it."""

    tool: str
    file: str
    """The program's own file, which includes the candidate's."""
    text: str
    compile_command: list[str]
    run_command: list[str]
    environment: dict[str, str]
    read: Callable[[str, str], MemoryFinding | None]
    """(what was printed, the candidate's file) -> the first finding."""
    cuda: bool = False
    """It needs the device, and its tool processes and ports of its own."""


class Language(ABC):
    """One language. Instances hold no state."""

    name: str
    suffix: str
    """Of the source file: the compiler chooses by it."""
    is_native: bool
    """True: a library that exports the ABI of README.md. False: a module with `ModelNew`, run in a torch process."""
    needs_warmup: bool = False
    """Compiles when it is first called: see warmup.py."""

    @abstractmethod
    def headers(self, facts: Sequence[CaseFact]) -> dict[str, str]:
        """Files for the include folder, by name. Raises UnsupportedArgument when the problem has no native form."""

    @abstractmethod
    def compile_command(self, toolchain: Toolchain, source: str, output: str, include: str) -> list[str]:
        """The command that makes `output` of `source`, or checks it. The profile's own command comes first."""

    @abstractmethod
    def compile_errors(self, text: str, source_name: str) -> list[CompileError]:
        """What the compiler printed, as errors in the candidate's file, in order."""

    def declarations(self, facts: Sequence[CaseFact]) -> str:
        """What a candidate must define, as its header declares it; empty where there is no header."""
        return ""

    def memory_check(self, toolchain: Toolchain, facts: Sequence[CaseFact], case: int) -> MemoryCheck | None:
        """How to look closer at a memory fault in `facts[case]`; None: this language, or toolchain, has no way."""
        return None

    def source_name(self, toolchain: Toolchain) -> str:
        """The name that the candidate's first file gets, whatever the candidate calls it."""
        return f"kernel{toolchain.file_suffix or self.suffix}"

    def output_name(self) -> str:
        return "kernel.so"

    def resources(self, text: str) -> dict[str, float]:
        """What the compiler said of registers, spills and the like, by the names of protocol.Result.resources."""
        return {}

    def warmup_environment(self, folder: str) -> dict[str, str]:
        """What tells the language where to keep what it compiles; only with `needs_warmup`."""
        return {}

    def prepare_zygote(self) -> None:  # noqa: B027  (most languages need nothing)
        """Import, in the process that all Python runners are forked from, what every candidate would import."""


def fill_command(command: Sequence[str], toolchain: Toolchain, source: str, output: str, include: str) -> list[str]:
    """`{source}`, `{output}`, `{include}` and `{arch}` replaced, wherever they stand; other braces are left alone."""
    values = {"{source}": source, "{output}": output, "{include}": include, "{arch}": toolchain.arch}
    filled = []
    for word in command:
        for key, value in values.items():
            word = word.replace(key, value)
        filled.append(word)
    return filled


def get_language(name: str) -> Language:
    """The language of this name. Raises UnknownLanguage, which lists the ones there are."""
    if name not in _MODULES:
        raise UnknownLanguage(f"language {name!r} is not known; known: {', '.join(sorted(_MODULES))}")
    module = import_module(_MODULES[name])
    language = module.LANGUAGE
    assert isinstance(language, Language)
    return language


def python_syntax_command(source: str) -> list[str]:
    """Checks that a file is Python, without running or writing anything."""
    return [sys.executable, "-I", "-S", "-c", "import sys; p = sys.argv[1]; compile(open(p).read(), p, 'exec')", source]

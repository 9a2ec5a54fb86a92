"""What a language must offer, and the registry: a new language is one more file here and one line in `_MODULES`.

Or no file at all: a profile that gives a compile command and a file suffix has a language of its own (`custom.py`).

Nothing here runs anything. A language names the command that the compiler sandbox runs, reads what the compiler said,
and says how a candidate is called: natively (a shared library, `native.py`) or as a Python module (`pytorch.py`).
Must stay free of torch: the judge and the native runner import this.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from kernelharness.protocol import CaseFact, Toolchain

_NAMES = ("cpp", "cuda", "cutedsl", "flydsl", "hip", "pytorch", "triton")
_MODULES = {name: f"kernelharness.languages.{name}" for name in _NAMES}


class UnknownLanguage(ValueError):
    """No file under languages/ is of this name, and the profile does not say how to compile it."""


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
    """It needs the device, and its tool starts it and speaks to it by a socket."""


class Language(ABC):
    """One language. Instances hold no state."""

    name: str
    suffix: str
    """Of the source file: the compiler chooses by it."""
    is_native: bool
    """True: a library that exports the ABI of README.md. False: a module with `ModelNew`, run in a torch process."""
    needs_warmup: bool = False
    """Compiles when it is first called: see warmup.py."""
    package: str = ""
    """What a candidate of a Python language imports, beside torch."""
    comes_with: str = ""
    """Where the compiler or the package is to be had, for people who lack it."""
    kernel_decorators: tuple[str, ...] = ()
    """What makes a function of the source a kernel, by full name; empty where candidates need not define any."""
    kernel_prefix: str = ""
    """What the compiler puts before that function's name."""
    compile_failures: tuple[str, ...] = ()
    """Names of the exceptions that a call raises when a kernel does not compile; only with `needs_warmup`."""

    @abstractmethod
    def headers(self, facts: Sequence[CaseFact]) -> dict[str, str]:
        """Files for the include folder, by name. Raises UnsupportedArgument when the problem has no native form."""

    @abstractmethod
    def compile_command(self, toolchain: Toolchain, source: str, output: str, include: str) -> list[str]:
        """The command that makes `output` of `source`, or checks it. The profile's own command comes first."""

    def lacking_flags(self, toolchain: Toolchain, text: str) -> list[str]:
        """Flags without which a compiler that printed this will not do, and which cost all other sources time."""
        return []

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

    def missing(self, toolchain: Toolchain) -> str:
        """Which program or package is not installed here, and where it comes from; empty when nothing lacks."""
        program = self.compile_command(toolchain, "source", "output", "include")[0]
        if shutil.which(program, path=toolchain.env.get("PATH", os.environ.get("PATH"))) is None:
            return f"the compiler {program} is not installed{self.comes_with and f': {self.comes_with}'}"
        if self.package and find_spec(self.package) is None:
            return f"the Python package {self.package} is not installed{self.comes_with and f': {self.comes_with}'}"
        return ""

    def is_compile_failure(self, text: str) -> bool:
        """Whether a call that failed with this text did so because a kernel does not compile."""
        return any(name in text for name in self.compile_failures)

    def call_errors(self, text: str, source: str) -> list[CompileError]:
        """The errors of such a call; `text` is its traceback. Without a better way, the traceback itself is shown."""
        return []

    def warmup_environment(self, folder: str, arch: str) -> dict[str, str]:
        """What tells the language where to keep what it compiles; only with `needs_warmup`."""
        return {}

    def stand_in(self, arch: str) -> AbstractContextManager[None]:
        """While it is open, in a runner's process without a device, calls compile for `arch` and launch nothing.

        Only with `needs_warmup`.
        """
        return contextlib.nullcontext()

    def kernels_in(self, folder: Path) -> list[Path]:
        """The binaries among what calls compiled; only with `needs_warmup`."""
        return []

    def resources_of(self, kernels: Sequence[Path]) -> dict[str, float]:
        """What these need of the device, as `resources` names it."""
        return {}

    def prepared_folder(self) -> Path | None:
        """What `prepare_zygote` compiled and every warm-up would compile anew; its folder begins with it."""
        return None

    def prepare_zygote(self, arch: str) -> None:  # noqa: B027  (most languages need nothing)
        """Import, in the process that all Python runners are forked from, what every candidate would import.

        Nothing may open the device here: it would not survive the fork.
        """


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


def language_of(toolchain: Toolchain) -> Language:
    """A profile's language: one that is known here, or one that its own command compiles. Raises UnknownLanguage."""
    name = toolchain.language
    if name in _MODULES:
        return get_language(name)
    if not toolchain.command or not toolchain.file_suffix:
        missing = "command" if not toolchain.command else "fileSuffix"
        raise UnknownLanguage(
            f"language {name!r} is not one of {', '.join(sorted(_MODULES))}, so the profile's toolchain must say how it"
            f" is compiled: {missing} is missing"
        )
    from kernelharness.languages.custom import Custom

    return Custom(name, toolchain.file_suffix)


def python_syntax_command(source: str) -> list[str]:
    """Checks that a file is Python, without running or writing anything."""
    return [sys.executable, "-I", "-S", "-c", "import sys; p = sys.argv[1]; compile(open(p).read(), p, 'exec')", source]

"""C++ for a CPU: one source against `problem.h`, compiled by g++ for the profile's architecture to a plain library."""

from __future__ import annotations

import re
from collections.abc import Sequence

from kernelharness.languages.base import CompileError, Language, MemoryCheck, fill_command
from kernelharness.languages.caller import render_caller
from kernelharness.languages.checkers import address_sanitizer
from kernelharness.languages.header import render_declarations, render_header
from kernelharness.protocol import CaseFact, Toolchain

COMMAND = (
    *("g++", "-std=c++17", "-O3", "-march={arch}", "-fopenmp", "-fPIC", "-shared", "-fvisibility=hidden"),
    *("-fdiagnostics-color=never", "-fno-diagnostics-show-caret", "-fmax-errors=20", "-I{include}"),
    # Undefined symbols are errors here, not crashes at load; libraries that are not used are not asked for.
    *("{source}", "-o", "{output}", "-Wl,-z,defs", "-Wl,--as-needed", "-Wl,--build-id=none"),
)

_PLACE = re.compile(r"^(?P<file>[^:\s][^:]*):(?P<line>\d+):(?:(?P<column>\d+):)? (?P<what>.*)$")
_LINK = re.compile(r"undefined reference to [`'](?P<symbol>[^']+)'|multiple definition of [`'](?P<twice>[^']+)'")


class Cpp(Language):
    name = "cpp"
    suffix = ".cpp"
    is_native = True
    comes_with = "install GCC for C++ (Debian: g++)"

    def headers(self, facts: Sequence[CaseFact]) -> dict[str, str]:
        return {"problem.h": render_header(facts)}

    def compile_command(self, toolchain: Toolchain, source: str, output: str, include: str) -> list[str]:
        return fill_command(toolchain.command or COMMAND, toolchain, source, output, include)

    def declarations(self, facts: Sequence[CaseFact]) -> str:
        return render_declarations(facts)

    def memory_check(self, toolchain: Toolchain, facts: Sequence[CaseFact], case: int) -> MemoryCheck | None:
        if toolchain.command:
            return None  # another compiler, of which nothing is known
        return address_sanitizer(toolchain, render_caller(facts, case, self.source_name(toolchain)))

    def compile_errors(self, text: str, source_name: str) -> list[CompileError]:
        """Errors of g++ and ld. One inside a header is put at the candidate's line that led there."""
        errors: list[CompileError] = []
        last_here = (0, 0)
        for row in text.replace("\u2018", "'").replace("\u2019", "'").splitlines():
            if (place := _PLACE.match(row.strip())) is None:
                if (link := _LINK.search(row)) is not None:
                    errors.append(CompileError(_link_message(link)))
                elif "cc1plus: error:" in row or "g++: error:" in row or "fatal error: Killed" in row:
                    errors.append(CompileError(row.strip()))
                continue
            here = place["file"].rsplit("/", 1)[-1] == source_name
            if here:
                last_here = (int(place["line"]), int(place["column"] or 0))
            kind, _, message = place["what"].partition(": ")
            if kind in ("error", "fatal error"):
                where = message if here else f"{message} (in {place['file'].rsplit('/', 1)[-1]})"
                errors.append(CompileError(where, *last_here))
                last_here = last_here if here else (0, 0)
            elif (link := _LINK.search(place["what"])) is not None:
                errors.append(CompileError(_link_message(link)))
        return list(dict.fromkeys(errors))


def _link_message(link: re.Match[str]) -> str:
    if link["twice"]:
        return f"'{link['twice']}' is defined twice"
    if link["symbol"] in ("forward", "backward", "init", "saved_size", "state_size"):
        return f"'{link['symbol']}' is not defined: define it exactly as problem.h declares it"
    return f"'{link['symbol']}' is not defined, and nothing beyond libc, libm, libstdc++ and libgomp is linked"


LANGUAGE = Cpp()

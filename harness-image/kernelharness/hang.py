"""Where a runner that gave no answer stands: what each of its threads does, by function, just before it is killed.

T has given up on it and its verdict is fixed: this only explains. Everything is read from outside, of a stopped process
(/proc: system call, instruction pointer, stack), names come from the library that T itself hashed; a Python runner is
first asked by a signal for its stack, which faulthandler prints where the candidate could print, too. All of it is
the candidate's word, and quoted as such. Neighbours: verdicts.py (asks), processes.py, runner.py (arms faulthandler).
"""

from __future__ import annotations

import bisect
import contextlib
import re
import struct
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from kernelharness import syscalls
from kernelharness.processes import Runner, RunnerFault

BINARY = "/memfd:binary"
"""What maps of a runner call the candidate's library."""
_SHOWN_THREADS, _SHOWN_FRAMES = 5, 6
_MOST_THREADS = 64
_MOST_SYMBOLS = 20_000
_STACK_BYTES = 64 * 1024
_BLOCK = re.compile(r"(?:Current thread|Thread) 0x[0-9a-f]+(?: \[.*?\])? \(most recent call first\):\n((?:  .*\n?)*)")
_FRAME = re.compile(
    r'^  File "(?P<file>[^"\n]{1,300})", line (?P<line>\d{1,7}) in (?P<function>\S{1,80})$', re.MULTILINE
)
_UNREADABLE = (RunnerFault, OSError, ValueError, IndexError, OverflowError)
"""It died, or its stack pointer points nowhere: then there is less to tell."""
_PLUMBING = ("__tvm_ffi_", "_ZN12kernelsearch", "_ZZ")

_ELF = struct.Struct("<16xHHIQQQIHHHHHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_LOADED, _SYMBOL_TABLE, _FUNCTION = 1, 2, 2


def describe(runner: Runner) -> list[str]:
    """One line for each thread, or frame; none when it died meanwhile. The runner is stopped or dead afterwards."""
    if runner.is_python:
        return frames_of(runner.ask_for_stack(), runner.code.decode(errors="replace"))
    threads: list[str] = []
    with contextlib.suppress(*_UNREADABLE):
        runner.stop()
        maps, symbols = _maps(runner.pid), symbols_of(runner.code)
        for task in _tasks(runner.pid):
            with contextlib.suppress(*_UNREADABLE):
                threads.append(_thread(runner.pid, task, maps, symbols))
    return _grouped(threads)


def frames_of(printed: str, source: str) -> list[str]:
    """The frames of the thread that runs the candidate, innermost first, from what faulthandler printed.

    Down to the candidate's outermost; its own file is the one without a folder.
    """
    rows = source.splitlines()
    stacks = [[*_FRAME.finditer(block)] for block in _BLOCK.findall(printed)]
    stacks.sort(key=lambda stack: not any(_is_own(frame) for frame in stack))
    stack = stacks[0] if stacks else []
    own = [index for index, frame in enumerate(stack) if _is_own(frame)]
    lines = []
    for index, frame in enumerate(stack[: own[-1] + 1 if own else None][:_SHOWN_FRAMES]):
        number = int(frame["line"])
        text = f": {rows[number - 1].strip()}" if index in own and 1 <= number <= len(rows) else ""
        lines.append(f"{'/'.join(frame['file'].split('/')[-2:])}, line {number} in {frame['function']}{text}")
    return lines


@dataclass(frozen=True)
class Symbols:
    """The functions of a library, by where they lie in its file."""

    starts: list[int]
    ends: list[int]
    names: list[str]

    def at(self, offset: int) -> str:
        """The function at this place of the file; empty where there is none."""
        index = bisect.bisect_right(self.starts, offset) - 1
        return self.names[index] if index >= 0 and offset < self.ends[index] else ""


def symbols_of(library: bytes) -> Symbols:
    """Empty for anything that is no 64-bit little-endian ELF: the bytes are the candidate's."""
    found: list[tuple[int, int, str]] = []
    with contextlib.suppress(struct.error, IndexError, ValueError, OverflowError, StopIteration):
        (_, _, _, _, segments_at, sections_at, _, _, size, count, section_size, section_count, _) = _ELF.unpack_from(
            library
        )
        segments = [_SEGMENT.unpack_from(library, segments_at + size * index) for index in range(count)]
        loaded = [(vaddr, filesz, at) for kind, _, at, vaddr, _, filesz, _, _ in segments if kind == _LOADED]
        sections = [_SECTION.unpack_from(library, sections_at + section_size * i) for i in range(section_count)]
        table = next(section for section in sections if section[1] == _SYMBOL_TABLE)
        names_at = sections[table[6]][4]
        for index in range(min(table[5] // _SYMBOL.size, _MOST_SYMBOLS)):
            name, info, _, _, value, nbytes = _SYMBOL.unpack_from(library, table[4] + index * _SYMBOL.size)
            place = next((value - vaddr + at for vaddr, filesz, at in loaded if 0 <= value - vaddr < filesz), None)
            if info & 15 == _FUNCTION and nbytes and place is not None:
                raw = library[names_at + name : names_at + name + 120]
                found.append((place, place + nbytes, raw.split(b"\0")[0].decode(errors="replace")))
    found.sort()
    return Symbols([start for start, _, _ in found], [end for _, end, _ in found], [name for _, _, name in found])


def plain_name(symbol: str) -> str:
    """The function's own name out of a mangled one, as far as that is easy."""
    symbol, outlined, _ = symbol.partition("._omp_fn")
    inner = symbol
    if symbol.startswith("_Z"):
        rest = symbol[2:].lstrip("LNKS")
        while (number := re.match(r"(\d{1,3})(\w+)", rest)) is not None:
            length = int(number[1])
            inner, rest = number[2][:length], number[2][length:].lstrip("L")
    return f"{inner}()" + (", in a parallel region" if outlined else "")


def _is_own(frame: re.Match[str]) -> bool:
    """Of the candidate's file: not of a folder, and no '<frozen runpy>'."""
    return "/" not in frame["file"] and not frame["file"].startswith("<")


# -- pieces ---------------------------------------------------------------------------------------------------------


def _tasks(pid: int) -> list[Path]:
    folder = Path(f"/proc/{pid}/task")
    return sorted(folder.iterdir(), key=lambda path: int(path.name))[:_MOST_THREADS]


def _thread(pid: int, task: Path, maps: list[tuple[int, int, int, str]], symbols: Symbols) -> str:
    """'busy in f(), called by g()' or 'waits in futex, called by f()'."""
    words = (task / "syscall").read_text().split()
    number, stack, counter = int(words[0]), int(words[-2], 16), int(words[-1], 16)
    here = _function(maps, symbols, counter)
    callers = [name for name in _return_addresses(pid, maps, symbols, stack) if name != here]
    does = f"waits in {syscalls.NAMES.get(number, f'system call {number}')}" if number >= 0 else "busy"
    if here:
        does += f" in {plain_name(here)}" if number < 0 else ""
    elif number < 0 and (library := _library(maps, counter)):
        does += f" in {library}"
    return does + (f", called by {plain_name(callers[0])}" if callers else "")


def _maps(pid: int) -> list[tuple[int, int, int, str]]:
    """(start, end, offset in the file, file) of what can be executed."""
    found = []
    for row in Path(f"/proc/{pid}/maps").read_text(errors="replace").splitlines():
        span, rights, offset, _, _, *name = row.split(maxsplit=5)
        if "x" in rights:
            start, end = (int(each, 16) for each in span.split("-"))
            found.append((start, end, int(offset, 16), name[0] if name else ""))
    return found


def _function(maps: list[tuple[int, int, int, str]], symbols: Symbols, address: int) -> str:
    for start, end, offset, name in maps:
        if start <= address < end and name.startswith(BINARY):
            return symbols.at(address - start + offset)
    return ""


def _library(maps: list[tuple[int, int, int, str]], address: int) -> str:
    return next((name.rsplit("/", 1)[-1][:40] for start, end, _, name in maps if start <= address < end), "")


def _return_addresses(pid: int, maps: list[tuple[int, int, int, str]], symbols: Symbols, stack: int) -> list[str]:
    """Functions of the candidate whose addresses lie on the stack, the newest first: mostly who called whom."""
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        memory.seek(stack)
        data = memory.read(_STACK_BYTES)
    names = [_function(maps, symbols, word) for (word,) in struct.iter_unpack("<Q", data[: len(data) // 8 * 8])]
    return [name for name in dict.fromkeys(names) if name and not name.startswith(_PLUMBING)]


def _grouped(threads: list[str]) -> list[str]:
    """Equal threads on one line, the first thread first."""
    counted = Counter(threads)
    lines = [f"{'1 thread' if count == 1 else f'{count} threads'}: {text}" for text, count in counted.items()]
    more = len(lines) - _SHOWN_THREADS
    return lines if more <= 0 else [*lines[:_SHOWN_THREADS], f"and {more} more kinds of threads"]

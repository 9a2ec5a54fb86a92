"""Values that a kernel declares as free, so that the search can vary them without asking a model.

One line declares one, in C++ and Python alike, and its comment lists what to try:

    constexpr int BLOCK = 128;  // tune: 64, 128, 256
    #define BLOCK 128  // tune: 64, 128
    BLOCK = 128  # tune: 64, 128
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations, product

from kernelsearch.search.journal import Tunable

MAX_TUNABLES = 8
MAX_VALUES = 16
MAX_LINE = 400

_value = r"[A-Za-z0-9_.+\-]+"
_macro = re.compile(rf"(?P<head>[ \t]*#[ \t]*define[ \t]+(?P<name>\w+)[ \t]+)(?P<value>{_value})(?P<tail>[ \t]*)")
_assignment = re.compile(
    rf"(?P<head>[^=]*?\b(?P<name>\w+)(?:[ \t]*:[ \t]*\w+)?[ \t]*=[ \t]*)(?P<value>{_value})(?P<tail>[ \t]*;?[ \t]*)"
)
_comment = re.compile(r"(?://|#)[ \t]*tune:")


@dataclass(frozen=True)
class _Line:
    head: str
    tail: str
    tunable: Tunable


def _read(line: str) -> _Line | None:
    """The tunable that a line declares, with what stands before and after its value."""
    if len(line) > MAX_LINE or not (comment := _comment.search(line)):
        return None
    code = line[: comment.start()]
    found = _macro.fullmatch(code) or _assignment.fullmatch(code)
    words = [word.strip() for word in line[comment.end() :].split(",")]
    if not found or not all(re.fullmatch(_value, word) for word in words):
        return None
    values = tuple(dict.fromkeys([*words, found["value"]]))
    if not 2 <= len(values) <= MAX_VALUES:
        return None
    tunable = Tunable(name=found["name"], value=found["value"], values=values)
    return _Line(found["head"], found["tail"] + line[comment.start() :], tunable)


def find_tunables(source: str) -> tuple[Tunable, ...]:
    """The declared tunables in order, the first MAX_TUNABLES. The current value is always one of the values."""
    found: dict[str, Tunable] = {}
    for line in source.split("\n"):
        if read := _read(line):
            found.setdefault(read.tunable.name, read.tunable)
    return tuple(found.values())[:MAX_TUNABLES]


def set_tunables(source: str, values: Mapping[str, str]) -> str:
    """The source with other values. Raise ValueError for a name that it does not declare or a value not listed."""
    known = {tunable.name: tunable for tunable in find_tunables(source)}
    for name, value in values.items():
        if name not in known:
            raise ValueError(f"the source declares no tunable {name!r}; it has: {', '.join(known) or 'none'}")
        if value not in known[name].values:
            raise ValueError(f"{name} may be {', '.join(known[name].values)}, not {value!r}")
    left = dict(values)
    lines = source.split("\n")
    for at, line in enumerate(lines):
        read = _read(line)
        if read and read.tunable.name in left:
            lines[at] = f"{read.head}{left.pop(read.tunable.name)}{read.tail}"
    return "\n".join(lines)


def space_size(tunables: tuple[Tunable, ...]) -> int:
    """How many settings there are."""
    size = 1
    for tunable in tunables:
        size *= len(tunable.values)
    return size


def settings_around(tunables: tuple[Tunable, ...]) -> Iterator[tuple[str, ...]]:
    """Every setting once, nearest first: those that differ in one value, then in two, and so on; never the own one."""
    for distance in range(1, len(tunables) + 1):
        for places in combinations(range(len(tunables)), distance):
            others = [[value for value in tunables[at].values if value != tunables[at].value] for at in places]
            for choice in product(*others):
                setting = [tunable.value for tunable in tunables]
                for at, value in zip(places, choice, strict=True):
                    setting[at] = value
                yield tuple(setting)

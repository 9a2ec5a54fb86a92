"""How numbers and foreign text enter a prompt: four significant digits, and fences that their content cannot close.

1.003 and 1.008 must not look alike, so nothing is rounded further. Sources and program output are data: control
characters go, length is capped with head and tail kept, and the fence is longer than any run of backticks inside.
"""

from __future__ import annotations

import math
import re

_backticks = re.compile(r"`+")
_control = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")
_HEADER_RULE = "// ===="
_UNITS = ((1e9, "s"), (1e6, "ms"), (1e3, "us"), (1.0, "ns"))


def four(value: float) -> str:
    """Four significant digits, never an exponent: 1.003, 12.35, 1235, 0.0001235."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    digits = 3 - int(f"{value:.3e}".partition("e")[2])
    return f"{round(value, digits):.{max(0, digits)}f}"


def times(speedup: float) -> str:
    return f"{four(speedup)}x"


def duration(ns: float) -> str:
    """12345 -> '12.35 us'"""
    for size, unit in _UNITS:
        if ns >= size:
            return f"{four(ns / size)} {unit}"
    return f"{four(ns)} ns"


def cap(text: str, limit: int) -> str:
    """Head and tail of a text, and how much is missing in between."""
    if len(text) <= limit:
        return text
    head = limit * 2 // 3
    return f"{text[:head]}\n[... {len(text) - limit} characters cut ...]\n{text[len(text) - (limit - head) :]}"


def clean(text: str) -> str:
    """Without control characters; line ends and tabs stay."""
    return _control.sub("", text.replace("\r\n", "\n"))


def oneline(text: str, limit: int = 240) -> str:
    """One line of a foreign text, for a list or a heading: no line ends, no fences."""
    line = " ".join(clean(text).replace("`", "'").split())
    return line if len(line) <= limit else f"{line[: limit - 3]}..."


def fenced(text: str, language: str = "", limit: int = 65536) -> str:
    """The text between fence lines that nothing in it can close."""
    body = cap(clean(text), limit).strip("\n")
    longest = max((len(run) for run in _backticks.findall(body)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{body}\n{fence}"


def readable_header(header: str) -> str:
    """The part of problem.h that is to be read: what implements it comes below a rule."""
    return header.partition(_HEADER_RULE)[0].rstrip()

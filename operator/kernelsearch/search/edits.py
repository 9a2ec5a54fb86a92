"""From a model's reply to a source: a plan line, then the whole file in a fence or SEARCH/REPLACE blocks.

Nothing is guessed. A reply without a kernel, with two kernels, or with a SEARCH that does not occur exactly once in the
parent is a `ReplyError`, whose text is sent back for one retry in the same chat; the unchanged parent is never
evaluated in its place. Replies come from outside: they are read line by line, in time linear in their size.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from kernelsearch.search.tunables import find_tunables, set_tunables

__all__ = ["MAX_SOURCE_BYTES", "Reply", "ReplyError", "find_tunables", "parse_reply", "set_tunables"]

MAX_SOURCE_BYTES = 64 * 1024
PLAN_CHARS = 240
MALFORMED = (
    "A SEARCH/REPLACE block is malformed. Each needs the lines `<<<<<<< SEARCH`, `=======` and `>>>>>>> REPLACE`, "
    "in this order."
)

_fence = re.compile(r"(`{3,}|~{3,})[^`]*")
_search = re.compile(r"<{5,9} ?SEARCH")
_middle = re.compile(r"={5,9}")
_replace = re.compile(r">{5,9} ?REPLACE")
_plan = re.compile(r"[ \t*_#>-]*plan[*_ \t]*:[*_ \t]*(?P<plan>\S.*)", re.IGNORECASE)


@dataclass(frozen=True)
class Reply:
    plan: str
    """One line: what the model expects to gain by what."""
    source: str
    """The whole file to evaluate."""


class ReplyError(ValueError):
    """The reply holds no usable kernel. The text says what was wrong and is meant for the model."""


def parse_reply(text: str, base: str | None) -> Reply:
    """The plan and the source of a reply. `base` is what SEARCH blocks refer to; None: only a whole file is valid.

    Raise ReplyError when the plan or the kernel is missing, ambiguous or too large, when a SEARCH does not match
    exactly once, or when the result is the base itself.
    """
    lines = _without_thoughts(text.replace("\r\n", "\n")).splitlines()
    plan = _find_plan(lines)
    edits = any(_search.fullmatch(line.strip()) for line in lines)
    source = _edited(lines, base) if edits else _whole_file(lines)
    if len(source.encode()) > MAX_SOURCE_BYTES:
        raise ReplyError(f"The kernel has {len(source.encode())} bytes; at most {MAX_SOURCE_BYTES} are allowed.")
    if base is not None and source.strip() == base.strip():
        raise ReplyError("The reply leaves the kernel exactly as it was. Change it, or give the whole new file.")
    return Reply(plan, source)


def _without_thoughts(text: str) -> str:
    """Without what a reasoning model may put before its answer, `<think>..</think>`."""
    end = text.rfind("</think>")
    return text if end < 0 else text[end + len("</think>") :]


def _find_plan(lines: list[str]) -> str:
    for line in lines:
        if found := _plan.fullmatch(line[: 4 * PLAN_CHARS]):
            return " ".join(found["plan"].split())[:PLAN_CHARS]
    raise ReplyError("The line `PLAN: <what you change and why it is faster>` is missing. Begin the reply with it.")


def _whole_file(lines: list[str]) -> str:
    bodies: list[str] = []
    fence = ""
    body: list[str] = []
    for line in lines:
        if not fence:
            if opened := _fence.fullmatch(line.rstrip()):
                fence, body = opened[1], []
        elif line.strip() and not line.strip().strip(fence[0]) and len(line.strip()) >= len(fence):
            bodies.append("\n".join(body) + "\n")
            fence = ""
        else:
            body.append(line)
    if fence:
        raise ReplyError("The code fence is not closed: the reply was cut off. Give a shorter file, completely.")
    bodies = [text for text in bodies if text.strip()]
    if not bodies:
        raise ReplyError("There is no code fence in the reply. Give the whole file between ``` lines.")
    if len(bodies) > 1:
        raise ReplyError(
            f"The reply has {len(bodies)} code fences, so it is unclear which one is the kernel. "
            "Give exactly one, with the whole file."
        )
    return bodies[0]


def _edited(lines: list[str], base: str | None) -> str:
    if base is None:
        raise ReplyError("There is nothing to edit: give the whole file between ``` lines, not SEARCH/REPLACE blocks.")
    source = base.replace("\r\n", "\n").splitlines()
    for number, (search, replacement) in enumerate(_blocks(lines), 1):
        source = _replace_once(source, search, replacement, number)
    return "\n".join(source) + "\n"


def _blocks(lines: list[str]) -> list[tuple[list[str], list[str]]]:
    blocks: list[tuple[list[str], list[str]]] = []
    search: list[str] = []
    replacement: list[str] = []
    part: list[str] | None = None
    for line in lines:
        word = line.strip()
        if _search.fullmatch(word):
            if part is not None:
                raise ReplyError(MALFORMED)
            search, replacement = [], []
            part = search
        elif part is search and _middle.fullmatch(word):
            part = replacement
        elif _replace.fullmatch(word):
            if part is not replacement:
                raise ReplyError(MALFORMED)
            blocks.append((search, replacement))
            part = None
        elif part is not None:
            part.append(line)
    if part is not None:
        raise ReplyError(MALFORMED)
    return blocks


def _replace_once(lines: list[str], search: list[str], replacement: list[str], number: int) -> list[str]:
    """Whole lines only, so that a SEARCH for `int i` never changes `uint i`. Blanks at line ends do not count."""
    wanted = [line.rstrip() for line in search]
    if not any(wanted):
        raise ReplyError(f"Block {number}: its SEARCH is empty. Quote the lines to replace, or give the whole file.")
    have = [line.rstrip() for line in lines]
    places = [at for at in range(len(have) - len(wanted) + 1) if have[at : at + len(wanted)] == wanted]
    if len(places) != 1:
        what = "does not occur in" if not places else f"occurs {len(places)} times in"
        advice = "Copy the lines exactly, blanks included" if not places else "Quote more lines around the place"
        quoted = "\n".join(wanted[:6])
        raise ReplyError(
            f"Block {number}: its SEARCH {what} the current kernel. {advice}, or give the whole file. It was:\n{quoted}"
        )
    return [*lines[: places[0]], *replacement, *lines[places[0] + len(wanted) :]]

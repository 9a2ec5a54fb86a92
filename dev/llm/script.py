"""Which scripted reply answers a prompt: decided by the problem, by what is asked, and by what was given before.

A prompt is read as a model would read it: the reference says which problem it is, the task at its end what is wanted,
the fence under its heading what the current kernel is. A reply is given when it fits: SEARCH blocks must apply to the
current kernel, a repair that names its patient goes to that kernel only. Of those that fit, the one given least often
comes first, then the order of the files. So the same questions in the same order have the same answers.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypedDict

from kernelsearch.search.edits import ReplyError, parse_reply
from replies import Scripted, load_problems, load_replies, retry_of, source_of

UNKNOWN = (
    "I am a scripted stand-in for a model and know a few example problems in one language only; this is none of them. "
    "Point spec.llm.models[].endpoint at a real model to search a kernel for it."
)
_TASKS = (
    ("draft", "write a first kernel"),
    ("rewrite", "rewrite the kernel from the ground up"),
    ("repair", "find the cause and mend it"),
    ("edit", "make the current kernel faster"),
)


class Turn(TypedDict):
    role: str
    content: str


class Script:
    """The replies of one folder, and how often each was given. Raise ValueError when the folder holds none."""

    def __init__(self, folder: Path) -> None:
        self._problems = load_problems(folder)
        self._replies = {name: load_replies(folder / name) for name in self._problems}
        self._given: Counter[tuple[str, str]] = Counter()
        if not self._problems:
            raise ValueError(f"{folder} has no folder with replies: a problem's folder holds reference.txt and *.md")

    def answer(self, turns: Sequence[Turn]) -> str:
        """The next reply to this chat, or UNKNOWN."""
        asked = [turn["content"] for turn in turns if turn["role"] == "user"]
        prompt = asked[0] if asked else ""
        problem = next((name for name, line in self._problems.items() if line in prompt), None)
        if problem is None or '"problem.h"' not in prompt:
            return UNKNOWN
        given = [turn["content"] for turn in turns if turn["role"] == "assistant"]
        reply = self._second(problem, given[-1]) if given else None
        reply = reply or self._next(problem, operator_of(prompt), current_kernel(prompt))
        if reply is None:
            return UNKNOWN
        self._given[problem, reply.name] += 1
        return reply.text

    def _second(self, problem: str, first: str) -> Scripted | None:
        """What follows a reply that could not be used."""
        replies = self._replies[problem]
        spoken = next((reply for reply in replies if reply.text.strip() == first.strip()), None)
        return retry_of(spoken, replies) if spoken else None

    def _next(self, problem: str, operator: str, current: str | None) -> Scripted | None:
        replies = self._replies[problem]
        fitting = [reply for reply in replies if reply.operator == operator and fits(reply, replies, current)]
        general = operator == "repair"  # what mends one kernel only goes before what replaces any

        def rank(reply: Scripted) -> tuple[bool, int]:
            return general and reply.base is None, self._given[problem, reply.name]

        return min(fitting, key=rank, default=None)


def fits(reply: Scripted, replies: Sequence[Scripted], current: str | None) -> bool:
    """Whether the reply makes sense for the current kernel: its edits apply, and it is the kernel that it mends."""
    if "<<<<<<< SEARCH" in reply.text:
        return reply.kind == "malformed" or _applies(reply, current)
    return reply.base is None or (current is not None and current.strip() == source_of_base(reply, replies).strip())


def source_of_base(reply: Scripted, replies: Sequence[Scripted]) -> str:
    return source_of(next(other for other in replies if other.name == reply.base), replies)


def _applies(reply: Scripted, current: str | None) -> bool:
    try:
        parse_reply(reply.text, current)
    except ReplyError:
        return False
    return True


def operator_of(prompt: str) -> str:
    """What the task at the end of the prompt asks for; an edit when it says nothing that is known."""
    task = prompt.rpartition("# Your task")[2].lower()
    return next((operator for operator, words in _TASKS if words in task), "edit")


def current_kernel(prompt: str) -> str | None:
    """The source in the fence under 'The current kernel' or 'The failing kernel'."""
    found = re.search(r"^# The (?:current|failing) kernel\b.*?^(`{3,})\w*\n(.*?)^\1$", prompt, re.DOTALL | re.MULTILINE)
    return found[2] if found else None


def tokens_of(texts: Mapping[str, str] | Sequence[str]) -> int:
    """About four characters a token, as models count source code."""
    parts = texts.values() if isinstance(texts, Mapping) else texts
    return sum(-(-len(part) // 4) for part in parts)

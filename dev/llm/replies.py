"""The scripted model's answers: one Markdown file each, `replies/<problem>/NN-name.md`, as a model would send it, after
a short front matter.

    for: draft | edit | repair | rewrite   which request it answers
    kind: good | slow | wrong | subtle | broken | hostile | malformed
    expect: OK                             the verdicts that the judge may give it; `malformed`: it is never judged
    base: NN-name                          the reply whose kernel it changes or mends

`NN-name.retry.md` is the second answer to the same request, after the first could not be used. `reference.txt` is a
line by which the problem is recognised in a prompt. `replies/` is in C++, `replies_cuda/` in CUDA C++. The server makes
nothing of `kind` and `expect`: they are for the tests, which have every one of these kernels judged.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kernelsearch.search.edits import parse_reply

OPERATORS = ("draft", "edit", "repair", "rewrite", "retry")
KINDS = ("good", "slow", "wrong", "subtle", "broken", "hostile", "malformed")


@dataclass(frozen=True)
class Scripted:
    name: str
    operator: str
    kind: str
    expect: tuple[str, ...]
    base: str | None
    text: str
    """What the model says, without the front matter."""


def load_problems(folder: Path) -> dict[str, str]:
    """Name -> the line by which it is recognised, for every problem that has replies here."""
    return {path.parent.name: path.read_text().strip() for path in sorted(folder.glob("*/reference.txt"))}


def load_replies(folder: Path) -> list[Scripted]:
    """All replies of one problem, in the order in which they are given. Raise ValueError naming a bad file."""
    return [_load(path) for path in sorted(folder.glob("*.md"))]


def retry_of(reply: Scripted, replies: Sequence[Scripted]) -> Scripted | None:
    return next((other for other in replies if other.name == f"{reply.name}.retry"), None)


def source_of(reply: Scripted, replies: Sequence[Scripted]) -> str:
    """The kernel that the reply leads to, edits applied to that of its base. Raise ReplyError when there is none."""
    base = next((other for other in replies if other.name == reply.base), None)
    return parse_reply(reply.text, source_of(base, replies) if base else None).source


def _load(path: Path) -> Scripted:
    head, separator, text = path.read_text().removeprefix("---\n").partition("\n---\n")
    if not separator:
        raise ValueError(f"{path} has no front matter between two lines ---")
    fields = dict(_fields(path, head))
    operator, kind = fields.pop("for", ""), fields.pop("kind", "")
    expect = tuple(word.strip() for word in fields.pop("expect", "").split(","))
    base = fields.pop("base", None)
    if operator not in OPERATORS or kind not in KINDS or not all(expect) or fields:
        raise ValueError(f"{path}: the front matter needs for, kind and expect, and may have base: got {head!r}")
    return Scripted(path.name.removesuffix(".md"), operator, kind, expect, base, text)


def _fields(path: Path, head: str) -> Iterator[tuple[str, str]]:
    for line in head.splitlines():
        name, colon, value = line.partition(":")
        if not colon:
            raise ValueError(f"{path}: {line!r} is not `name: value`")
        yield name.strip(), value.strip()

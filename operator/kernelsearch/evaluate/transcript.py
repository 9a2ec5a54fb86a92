"""From the judge's log to an outcome: the same for a pod's log and for a file on this machine.

A log is believed whole only when its count and hash agree (`protocol.parse_log`). Of a log that was cut, the whole
lines are still the judge's own: their results count, and the outcome says why the rest is missing. No I/O here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence

from kernelharness.protocol import (
    Artifact,
    Baseline,
    Bye,
    Hello,
    LogError,
    Message,
    ProblemFact,
    Result,
    from_artifacts,
    parse_line,
    parse_log,
    split_lines,
)

from kernelsearch.evaluate.base import BatchOutcome


def read_outcome(
    log: str, candidates: Collection[str], *, node: str = "", infrastructure: str = "", message: str = ""
) -> BatchOutcome:
    """What the log says of these candidates.

    `infrastructure` and `message` are what the caller already knows of the judge's end (its exit code, its pod); they
    are kept even when the log is whole. A log that is not whole is `LogIncomplete` when nothing better is known.
    """
    try:
        messages: Sequence[Message] = parse_log(log)
    except LogError as error:
        messages = _whole_lines(log)
        infrastructure = infrastructure or "LogIncomplete"
        message = f"{message}; {error}" if message else str(error)
    hello = next((each for each in messages if isinstance(each, Hello)), None)
    bye = next((each for each in messages if isinstance(each, Bye)), None)
    return BatchOutcome(
        results=_results(messages, candidates),
        hello=hello,
        problem=next((each for each in messages if isinstance(each, ProblemFact)), None),
        baselines=tuple(each for each in messages if isinstance(each, Baseline)),
        artifacts=_artifacts(messages, candidates),
        node=node or (hello.node if hello else ""),
        device_seconds=bye.device_seconds if bye else 0.0,
        log=log,
        infrastructure=infrastructure,
        message=message,
    )


def _whole_lines(log: str) -> list[Message]:
    """The messages before the first line that is cut or is none."""
    messages: list[Message] = []
    for line in split_lines(log):
        if not line.endswith("\n"):
            break
        try:
            messages.append(parse_line(line))
        except LogError:
            break
    return messages


def _results(messages: Sequence[Message], candidates: Collection[str]) -> tuple[Result, ...]:
    """The first result of every candidate that was asked for, in the log's order."""
    results: dict[str, Result] = {}
    for each in messages:
        if isinstance(each, Result) and each.candidate in candidates:
            results.setdefault(each.candidate, each)
    return tuple(results.values())


def _artifacts(messages: Sequence[Message], candidates: Collection[str]) -> dict[tuple[str, str], bytes]:
    """The files that came whole; a cut one is as good as none."""
    pieces: defaultdict[tuple[str, str], list[Artifact]] = defaultdict(list)
    for each in messages:
        if isinstance(each, Artifact) and (each.candidate == "" or each.candidate in candidates):
            pieces[each.candidate, each.name].append(each)
    files: dict[tuple[str, str], bytes] = {}
    for key, parts in pieces.items():
        try:
            files[key] = from_artifacts(parts)
        except (LogError, ValueError):
            continue
    return files

"""The judge's only voice: protocol lines on a file descriptor that no runner holds, capped, counted and hashed.

`Bye` and the termination message carry the same count and hash, so a reader can tell a whole log from a cut one.
Neighbours: protocol.py (what a line is), judge.py (who speaks).
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from kernelharness.protocol import (
    MAX_CANDIDATE_BYTES,
    MAX_LINE_BYTES,
    MAX_LOG_BYTES,
    MAX_PROBLEM_BYTES,
    Artifact,
    Bye,
    Output,
    ProblemFact,
    Result,
)

_DIAGNOSTICS_FLOOR = 200


class Log:
    """Writes messages to `fd`. Raise ValueError for a message that cannot be made to fit."""

    def __init__(self, fd: int, termination_message: Path | None = None) -> None:
        self._fd = fd
        self._termination = termination_message
        self._hash = hashlib.sha256()
        self._count = 0
        self._bytes = 0
        self._of_candidate: dict[str, int] = {}

    def write(self, message: Output) -> None:
        """Artifacts that would pass the log's cap are dropped; a result is shortened until it fits its caps."""
        line = _encode(message)
        if isinstance(message, Artifact) and self._bytes + len(line) > MAX_LOG_BYTES - 64 * 1024:
            return
        if isinstance(message, Result):
            room = min(MAX_LINE_BYTES, MAX_CANDIDATE_BYTES - self._of_candidate.get(message.candidate, 0))
            line = _encode(_shorten(message, room))
            self._of_candidate[message.candidate] = self._of_candidate.get(message.candidate, 0) + len(line)
        limit = MAX_PROBLEM_BYTES if isinstance(message, ProblemFact) else MAX_LINE_BYTES
        if len(line) > limit:
            raise ValueError(f"a {type(message).__name__} of {len(line)} bytes does not fit a line of {limit}")
        self._emit(line)

    def close(self, device_seconds: float) -> None:
        """Say bye, then leave count and hash where the kubelet picks them up. The last thing a judge does."""
        bye = Bye(count=self._count, sha256=self._hash.hexdigest(), device_seconds=round(device_seconds, 3))
        self._emit(_encode(bye))
        if self._termination is not None:
            text = json.dumps({"count": bye.count, "sha256": bye.sha256})
            self._termination.write_text(text)

    def _emit(self, line: bytes) -> None:
        self._hash.update(line)
        self._count += 1
        self._bytes += len(line)
        view = memoryview(line)
        while view:
            view = view[os.write(self._fd, view) :]


def _encode(message: Output) -> bytes:
    return message.model_dump_json().encode() + b"\n"


def _shorten(result: Result, room: int) -> Result:
    """Cut diagnostics, then the profile, then the summary, so that the line fits `room` bytes."""
    while len(_encode(result)) > room and len(result.diagnostics) > _DIAGNOSTICS_FLOOR:
        half = result.diagnostics[: len(result.diagnostics) * 2 // 3]
        result = result.model_copy(update={"diagnostics": half})
    if len(_encode(result)) > room:
        result = result.model_copy(update={"profile": None})
    if len(_encode(result)) > room:
        result = result.model_copy(update={"diagnostics": "", "summary": result.summary[:200]})
    return result

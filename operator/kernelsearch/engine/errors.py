"""What makes it impossible to run a search at all; everything else is an event in its journal."""

from __future__ import annotations


class EngineError(RuntimeError):
    """This search cannot be run as it is given; the message says what to do."""


class ProblemChanged(EngineError):
    """The journal is of another problem: its candidates and times say nothing of this one."""

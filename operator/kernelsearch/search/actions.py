"""What `ask` may want done. The engine journals an action first and then performs it.

`ask(state, now_ns)` is pure and level-based: it returns what should be started beyond what is already in flight, so
asking twice without telling gives the same answer, and asking after everything was journalled gives nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from kernelharness.protocol import Purpose

from kernelsearch.search.journal import Operator, StopReason


@dataclass(frozen=True)
class CallModel:
    """Ask an LLM for a candidate: render the prompt, reserve, call, parse, propose."""

    ask_no: int
    target: str
    operator: Operator
    lane: str | None
    """None: the candidate opens its own lane (draft, rewrite)."""
    parent: str | None
    model: str


@dataclass(frozen=True)
class ProposeTuned:
    """Propose the parent's source with other values of its tunables; no model is asked."""

    ask_no: int
    target: str
    lane: str
    parent: str
    values: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class SubmitBatch:
    """Evaluate candidates (none for a probe). `id` is deterministic: <target>-<seq>-<attempt>."""

    id: str
    target: str
    purpose: Purpose
    candidates: tuple[str, ...]
    attempt: int = 0
    avoid_nodes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Stop:
    reason: StopReason
    message: str


Action = CallModel | ProposeTuned | SubmitBatch | Stop

"""The nouns of a search's state: candidates, lanes, targets, the ledger. Frozen, and plain to read.

They are only ever made by the fold (`state.py`); everyone else reads them: the policy to decide, the prompt and the
status to tell, the publisher to know which source and which library to publish.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from kernelharness.protocol import CaseFact, Result, Verdict

from kernelsearch.search.journal import (
    BatchSubmitted,
    CandidateProposed,
    Operator,
    TargetFailed,
    TargetLimits,
    TargetProbed,
)
from kernelsearch.search.scoring import Score

LANE_TOP = 6
LANE_RECENT = 12
LANE_TRAIL = 11
MAX_ATTEMPTS = 2
"""How often an infrastructure failure puts the same candidate back."""


@dataclass(frozen=True)
class Confirmation:
    """One fresh pod's word on a candidate. `score` is None when the verdict was not OK."""

    batch: str
    node: str
    result: Result
    score: Score | None
    artifact_ref: str = ""


@dataclass(frozen=True)
class Candidate:
    """A proposal and everything that was learnt of it."""

    proposal: CandidateProposed
    depth: int = 0
    """Repairs in a row that led here."""
    template: str = ""
    """The candidate whose source this is, but for the values of its tunables; its own id unless tuned."""
    alias_of: str | None = None
    """An earlier candidate with the same source or the same binary: that one stands for both."""
    batch: str | None = None
    """The batch that evaluates or confirms it now."""
    attempts: int = 0
    """Evaluations that ended without a word on this candidate, through no fault of its own."""
    suspect: bool = False
    """It was being judged when its pod died: next time it runs alone, so that it takes no others with it."""
    bad_nodes: tuple[str, ...] = ()
    given_up: str = ""
    """Infrastructure reason, after the last attempt failed too."""
    result: Result | None = None
    """The search's own evaluation; confirmations are apart."""
    node: str = ""
    log_ref: str = ""
    score: float | None = None
    """Weighted mean of ln(speedup): of the confirmations where there are any, else of the first evaluation."""
    se: float = 0.0
    eligible: bool = False
    """It may become the best: scored, and no case below 0.95x."""
    repaired: bool = False
    """A repair of it was asked for."""
    finished_no: int | None = None
    """Place in the order in which candidates finished, over all targets."""
    finished_at_ns: int = 0
    confirmations: tuple[Confirmation, ...] = ()
    confirm_faults: int = 0
    """Confirmations in a row that infrastructure spoilt."""
    refused: str = ""
    """Why its confirmation failed; such a candidate never leads again."""
    verified: bool = False
    """Enough fresh pods agreed. Only such a candidate is ever published."""

    @property
    def id(self) -> str:
        return self.proposal.id

    @property
    def target(self) -> str:
        return self.proposal.target

    @property
    def lane(self) -> str:
        return self.proposal.lane

    @property
    def parent(self) -> str | None:
        return self.proposal.parent

    @property
    def operator(self) -> Operator:
        return self.proposal.operator

    @property
    def plan(self) -> str:
        return self.proposal.plan

    @property
    def source_ref(self) -> str:
        return self.proposal.source_ref

    @property
    def in_flight(self) -> bool:
        return self.batch is not None

    @property
    def finished(self) -> bool:
        return self.result is not None or self.alias_of is not None or bool(self.given_up)

    @property
    def verdict(self) -> Verdict | None:
        return self.result.verdict if self.result else None

    @property
    def results(self) -> tuple[Result, ...]:
        """The evaluation first, then the confirmations."""
        first = (self.result,) if self.result else ()
        return (*first, *(confirmation.result for confirmation in self.confirmations))

    @property
    def estimate(self) -> Score | None:
        return None if self.score is None else Score(self.score, self.se)

    @property
    def speedup(self) -> float | None:
        """Baseline time / candidate time, weighted geometric mean over the cases."""
        return None if self.score is None else Score(self.score, self.se).speedup

    @property
    def artifact_ref(self) -> str:
        """Blob of the library that the latest confirmation timed; empty for Python languages and the unconfirmed."""
        refs = [confirmation.artifact_ref for confirmation in self.confirmations if confirmation.artifact_ref]
        return refs[-1] if refs else ""


@dataclass(frozen=True)
class Lane:
    """A lineage: a seed, draft or rewrite and all that descends from it."""

    id: str
    target: str
    asks: int = 0
    """Candidates finished or in flight, the root included."""
    top: tuple[str, ...] = ()
    """The best scored candidates, best first, without clones."""
    recent: tuple[str, ...] = ()
    """The last candidates proposed, oldest first."""
    trail: tuple[float, ...] = ()
    """The lane's best score after each of its last scored results, oldest first."""


@dataclass(frozen=True)
class Mark:
    """The last significant win of a target."""

    candidate: str
    finished_no: int
    at_ns: int


@dataclass(frozen=True)
class TargetState:
    limits: TargetLimits
    probed: TargetProbed | None = None
    failed: TargetFailed | None = None
    probe_attempts: int = 0
    bad_nodes: tuple[str, ...] = ()
    queue: tuple[str, ...] = ()
    """Candidates that wait for a batch, in order."""
    best: str | None = None
    """The highest score, confirmed or not yet."""
    confirmed_best: str | None = None
    """The highest score among the verified."""
    leaders: tuple[str, ...] = ()
    """Eligible candidates, best first, at most LEADERS."""
    mark: Mark | None = None
    asks: int = 0
    finished: int = 0
    ok: int = 0
    failed_candidates: int = 0
    repairable: tuple[str, ...] = ()
    """The newest failed candidates that a repair may still help."""
    confirmed_last: bool = False
    """The last batch that ended was a confirmation: a search batch goes first now."""
    batch_ns: tuple[int, ...] = ()
    """Wall times of the last batches, as the journal saw them."""
    batch_device_seconds: tuple[float, ...] = ()
    infrastructure: tuple[bool, ...] = ()
    """Of the last batches: did the pod, not a candidate, fail?"""
    drift_first: tuple[float, ...] = ()
    """ln(compile / eager baseline) of the first confirmations; with `drift_last` it shows a measurement that drifts."""
    drift_last: tuple[float, ...] = ()

    @property
    def name(self) -> str:
        return self.limits.name

    @property
    def facts(self) -> tuple[CaseFact, ...]:
        return self.probed.cases if self.probed else ()


@dataclass(frozen=True)
class BatchRecord:
    submitted: BatchSubmitted
    done: bool = False
    node: str = ""
    infrastructure: str = ""


@dataclass(frozen=True)
class ModelHealth:
    """What a model's recent calls say of its endpoint."""

    errors: int = 0
    """In a row."""
    last_error_ns: int = 0
    refused: str = ""
    """Set when it refuses for good (LLMUnauthorized, LLMNotFound); taking the search up again clears it."""
    message: str = ""


@dataclass(frozen=True)
class Failure:
    count: int
    last_message: str
    last_at_ns: int


@dataclass(frozen=True)
class Ledger:
    """What was spent and what is promised. Money in micro-units of the budget's currency."""

    cost_micros: int = 0
    reserved_micros: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    tokens: int = 0
    """Charged in all; more than input + output when a call was lost and its reservation charged."""
    reserved_tokens: int = 0
    calls: int = 0
    candidates: int = 0
    """Every proposal, clones too."""
    evaluations: int = 0
    """Candidates with a verdict, each once; confirmations are apart."""
    confirmations: int = 0
    device_seconds: float = 0.0
    active_ns: int = 0
    """Of the closed stretches; `running_since_ns` opens the current one."""
    running_since_ns: int | None = None

    def active_seconds(self, now_ns: int) -> float:
        """Wall time that was neither suspended nor without a process."""
        running = 0 if self.running_since_ns is None else max(0, now_ns - self.running_since_ns)
        return (self.active_ns + running) / 1e9


@dataclass(frozen=True)
class Reservation:
    """The largest reservation that a model ever needed: what its next call may cost."""

    tokens: int = 0
    cost_micros: int = 0


@dataclass(frozen=True)
class Progress:
    """Counts for a status line."""

    proposed: int = 0
    evaluated: int = 0
    correct: int = 0
    failed: int = 0
    running: int = 0
    pending: int = 0
    by_operator: dict[str, int] = field(default_factory=dict)

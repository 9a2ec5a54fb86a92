"""The journal's events: everything that a search ever learned or decided, in order.

State is a fold over these (`state.py`), so a crash, a restart and a replay are one thing. An event is written before
the act that it announces (reserve, propose, submit) and after the fact that it reports (settle, done). One event is one
transaction: results, usage and the end of a batch are therefore a single `BatchDone`.

Events are append-only and forward compatible: fields are added with a default, never renamed or removed.
Money is in micro-units of the budget's currency (integers), times in nanoseconds since the Unix epoch.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from kernelharness.protocol import Baseline, CaseFact, Purpose, Result
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter


class Operator(StrEnum):
    """How a candidate came to be."""

    SEED = "seed"
    DRAFT = "draft"
    EDIT = "edit"
    TUNE = "tune"
    REPAIR = "repair"
    REWRITE = "rewrite"


class Tunable(BaseModel):
    """A value that a kernel declares as free: `constexpr int BLOCK = 128;  // tune: 64, 128, 256`."""

    model_config = ConfigDict(frozen=True)
    name: str
    value: str
    values: tuple[str, ...]


class EventBase(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")
    at_ns: int
    """When it was written, by the writer's clock; the fold never reads a clock of its own."""


class SearchStarted(EventBase):
    type: Literal["search_started"] = "search_started"
    uid: str
    name: str
    problem_digest: str
    seed: int
    """policy.seed, or a number derived from the uid."""


class LimitsChanged(EventBase):
    """Budget, stopping rules, policy and targets as the spec now says; the first one follows SearchStarted."""

    type: Literal["limits_changed"] = "limits_changed"
    generation: int
    limits: Limits


class Limits(BaseModel):
    """What the policy needs of the spec, resolved: no optional means 'ask the spec'."""

    model_config = ConfigDict(frozen=True)
    candidates: int | None = None
    tokens: int | None = None
    cost_micros: int | None = None
    duration_seconds: int | None = None
    accelerator_seconds: int | None = None
    stop_speedup: float | None = None
    without_improvement: int | None = None
    consecutive_failures: int = 100
    confirm_repeats: int = 3
    confirm_max_spread_percent: int = 5
    has_llm: bool = False
    """False: only seeds and their tunables are searched."""
    models: tuple[ModelLimits, ...] = ()
    max_concurrent_requests: int = 4
    width: int | None = None
    """Asks under way at once per target; None: from the budget (width.py)."""
    targets: tuple[TargetLimits, ...] = ()


class ModelLimits(BaseModel):
    model_config = ConfigDict(frozen=True)
    name: str
    roles: tuple[str, ...] = ()
    """Propose, Repair, Rewrite; empty: all."""
    weight: int = 1
    max_output_tokens: int = 16384
    input_micros_per_mtok: int | None = None
    output_micros_per_mtok: int | None = None


class TargetLimits(BaseModel):
    model_config = ConfigDict(frozen=True)
    name: str
    profile: str
    language: str
    parallelism: int = 1
    batch_size: int = 8


class TargetProbed(EventBase):
    """The reference ran on this target: shapes, baselines, and the header that the model is shown."""

    type: Literal["target_probed"] = "target_probed"
    target: str
    device: str
    node: str = ""
    driver: str = ""
    cases: tuple[CaseFact, ...]
    baselines: tuple[Baseline, ...]
    header_ref: str = ""
    """Blob of problem.h; empty for Python languages."""


class TargetFailed(EventBase):
    """No candidate can be judged on this target: a degenerate problem, no pod in time, no such profile."""

    type: Literal["target_failed"] = "target_failed"
    target: str
    reason: str
    message: str


class LlmReserved(EventBase):
    """Written before the request leaves, with the highest possible price."""

    type: Literal["llm_reserved"] = "llm_reserved"
    call_id: str
    ask_no: int
    target: str
    operator: Operator
    lane: str | None = None
    parent: str | None = None
    model: str
    tokens: int
    cost_micros: int


class LlmSettled(EventBase):
    """What the call really cost. `lost`: the process died in between, so the reservation is charged."""

    type: Literal["llm_settled"] = "llm_settled"
    call_id: str
    outcome: Literal["ok", "invalid_reply", "error", "lost"]
    input_tokens: int
    output_tokens: int
    cost_micros: int
    reason: str = ""
    """CamelCase for conditions: LLMRateLimited, LLMInvalidOutput, LLMUnauthorized, ..."""
    message: str = ""
    permanent: bool = False
    """Asking this model again cannot help until a person changes something."""


class CandidateProposed(EventBase):
    """`id` is c<ask_no>-<target>; a seed's and a tuned candidate's call_id is empty."""

    type: Literal["candidate_proposed"] = "candidate_proposed"
    id: str
    ask_no: int
    target: str
    operator: Operator
    lane: str
    """Id of the lane's root candidate; a draft, a seed or a rewrite is its own."""
    parent: str | None = None
    call_id: str = ""
    model: str = ""
    plan: str = ""
    """The one-line hypothesis that the model had to give."""
    source_ref: str
    """Blob of the source; it is its sha256 too, so equal sources have equal refs."""
    tunables: tuple[Tunable, ...] = ()


class BatchSubmitted(EventBase):
    """Written before the Job exists; `id` names the Job, so submitting twice adopts instead of running twice."""

    type: Literal["batch_submitted"] = "batch_submitted"
    id: str
    target: str
    purpose: Purpose
    candidates: tuple[str, ...]
    attempt: int = 0
    avoid_nodes: tuple[str, ...] = ()


class BatchDone(EventBase):
    """All that came out of one batch. `infrastructure` is set when the pod, not a candidate, is to blame."""

    type: Literal["batch_done"] = "batch_done"
    id: str
    results: tuple[Result, ...]
    node: str = ""
    device_seconds: float = 0.0
    log_ref: str = ""
    artifact_refs: dict[str, str] = {}
    """Candidate id -> blob of the library that this batch timed (confirm batches)."""
    infrastructure: str = ""
    """CamelCase reason: Evicted, OutOfMemory, ImagePull, DeviceFault, LogIncomplete, DeadlineExceeded."""
    message: str = ""


class Published(EventBase):
    type: Literal["published"] = "published"
    digest: str
    reference: str
    """configmap/<namespace>/<name>, repository@sha256:..., or a folder."""
    candidates: dict[str, str]
    """Target -> candidate id."""


class Paused(EventBase):
    """Suspended by its owner, or the process ended in good order: time until `Resumed` is not active time."""

    type: Literal["paused"] = "paused"


class Resumed(EventBase):
    """A process took this search up (again): everything in flight is settled, adopted or asked again."""

    type: Literal["resumed"] = "resumed"
    epoch: int = 0


class StopReason(StrEnum):
    TARGET_REACHED = "TargetReached"
    AT_BOUND = "AtBound"
    BUDGET_EXHAUSTED = "BudgetExhausted"
    PLATEAU = "Plateau"
    EXHAUSTED = "SpaceExhausted"
    """Without an LLM: every setting of every tunable was tried."""
    NO_VIABLE = "NoViable"
    HARNESS_SUSPECT = "HarnessSuspect"
    NO_TARGET_RAN = "NoTargetRan"
    LLM_UNAVAILABLE = "LLMUnavailable"
    """Every configured model refuses for good (401, 404): nothing more can be proposed."""
    CANCELLED = "Cancelled"

    @property
    def is_failure(self) -> bool:
        return self in (
            StopReason.NO_VIABLE,
            StopReason.HARNESS_SUSPECT,
            StopReason.NO_TARGET_RAN,
            StopReason.LLM_UNAVAILABLE,
        )


class Stopped(EventBase):
    """The search ended by itself. Raising the budget appends LimitsChanged, which takes it up again."""

    type: Literal["stopped"] = "stopped"
    reason: StopReason
    message: str


Event = Annotated[
    SearchStarted
    | LimitsChanged
    | TargetProbed
    | TargetFailed
    | LlmReserved
    | LlmSettled
    | CandidateProposed
    | BatchSubmitted
    | BatchDone
    | Published
    | Paused
    | Resumed
    | Stopped,
    Field(discriminator="type"),
]

LimitsChanged.model_rebuild()
Limits.model_rebuild()
_event: TypeAdapter[Event] = TypeAdapter(Event)


def dump_event(event: Event) -> str:
    return event.model_dump_json()


def load_event(text: str) -> Event:
    """Raise pydantic.ValidationError when the text is not an event of this or an earlier version."""
    return _event.validate_json(text)

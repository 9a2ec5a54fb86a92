"""What the controller reports: `KernelSearch.status`.

Everything here is derived: the journal is the truth and the status a view of it, written whole by one writer. Every
string and list has a bound, so that a status can never outgrow what etcd and a watch take.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from kernelsearch.api.base import ATOMIC_LIST, ApiModel, Int64, Timestamp, map_list

Short = Annotated[str, Field(max_length=64)]


class Condition(ApiModel):
    """metav1.Condition. Types: Accepted, Progressing, Degraded, Published, Complete, Failed, Suspended."""

    type: Short
    status: Literal["True", "False", "Unknown"]
    observed_generation: Int64 | None = Field(default=None, ge=0)
    last_transition_time: Timestamp
    reason: str = Field(min_length=1, max_length=64, pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$")
    message: str = Field(max_length=1024)


class Progress(ApiModel):
    """How many candidates are where."""

    proposed: int = 0
    evaluated: int = 0
    correct: int = 0
    failed: int = 0
    running: int = 0
    pending: int = 0
    generation: int = 0


class Usage(ApiModel):
    """What was spent so far."""

    input_tokens: Int64 = 0
    output_tokens: Int64 = 0
    total_tokens: Int64 = 0
    requests: Int64 = 0
    cost: str = Field(default="0", max_length=24)
    """Decimal, in budget.currency."""
    accelerator_seconds: Int64 = 0
    active_seconds: Int64 = 0


class CandidateStatus(ApiModel):
    id: str | None = Field(default=None, max_length=40)
    digest: Short | None = None
    """sha256 of the source."""
    nanoseconds: Int64 | None = None
    speedup: str | None = Field(default=None, max_length=12)
    verified: bool | None = None
    model: Short | None = None
    found_at: Timestamp | None = None


class TargetStatus(ApiModel):
    name: str = Field(max_length=20)
    state: str | None = Field(default=None, max_length=32)
    """Pending, Unschedulable, Queued, Searching, Verifying, Done, Failed."""
    message: str | None = Field(default=None, max_length=1024)
    """Why nothing runs, or what failed, for people."""
    matching_nodes: int | None = None
    device: str | None = Field(default=None, max_length=256)
    """As the judge saw it, e.g. NVIDIA H100 80GB HBM3, driver 570.86."""
    baseline_nanoseconds: Int64 | None = None
    evaluated: int | None = None
    correct: int | None = None
    best: CandidateStatus | None = None
    leaderboard: tuple[CandidateStatus, ...] = Field(default=(), max_length=10, json_schema_extra=ATOMIC_LIST)


class FailureStatus(ApiModel):
    """How often candidates, pods or calls failed for one reason."""

    reason: Short
    """CompileError, WrongResult, Timeout, Crash, OutOfMemory, Tampering, Evicted, ImagePull, LLMRateLimited, ..."""
    count: int
    last_message: str | None = Field(default=None, max_length=512)
    last_time: Timestamp | None = None


class OutputStatus(ApiModel):
    reference: str | None = Field(default=None, max_length=512)
    """configmap/<name> or <repository>@sha256:..."""
    config_map_name: str | None = Field(default=None, max_length=253)
    oci_digest: str | None = Field(default=None, max_length=128)
    published_time: Timestamp | None = None


class KernelSearchStatus(ApiModel):
    observed_generation: Int64 | None = None
    problem_digest: Short | None = None
    """sha256 of the problem as it was read once."""
    controller_epoch: Int64 | None = None
    """Epoch of the controller that wrote this status."""
    phase: Short | None = None
    """For people, derived from the conditions: Pending, Queued, Running, Verifying, Suspended, Succeeded, Failed."""
    start_time: Timestamp | None = None
    completion_time: Timestamp | None = None
    last_improvement_time: Timestamp | None = None
    best_speedup: str | None = Field(default=None, max_length=16)
    """Verified speedup over the baseline, best target."""
    conditions: tuple[Condition, ...] = Field(default=(), max_length=16, json_schema_extra=map_list("type"))
    progress: Progress | None = None
    usage: Usage | None = None
    targets: tuple[TargetStatus, ...] = Field(default=(), max_length=16, json_schema_extra=map_list("name"))
    failures: tuple[FailureStatus, ...] = Field(default=(), max_length=20, json_schema_extra=map_list("reason"))
    outputs: OutputStatus | None = None

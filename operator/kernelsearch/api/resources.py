"""The two kinds themselves: identity, metadata, spec and status, and how `kubectl get` shows them.

`Kind` is what `crds.py` needs beside the schema; everything else about a field stands in its model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, Field

from kernelsearch.api.base import GROUP, VERSION, ApiModel, Int64, rule, rules
from kernelsearch.api.profile import AcceleratorProfileSpec, AcceleratorProfileStatus
from kernelsearch.api.search_spec import KernelSearchSpec
from kernelsearch.api.search_status import KernelSearchStatus


@dataclass(frozen=True)
class Column:
    """A column of `kubectl get`; priority 1 is shown with `-o wide` only."""

    name: str
    type: Literal["string", "integer", "date"]
    json_path: str
    description: str = ""
    priority: int = 0


@dataclass(frozen=True)
class Kind:
    kind: str
    plural: str
    scope: Literal["Namespaced", "Cluster"]
    short_name: str
    columns: tuple[Column, ...]

    @property
    def singular(self) -> str:
        return self.kind.lower()

    @property
    def crd_name(self) -> str:
        return f"{self.plural}.{GROUP}"


class ObjectMeta(ApiModel):
    """metav1.ObjectMeta as far as a person may write it or the controller reads it."""

    name: str = Field(max_length=253, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")
    namespace: str | None = Field(default=None, max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
    finalizers: tuple[str, ...] = ()
    uid: str | None = None
    resource_version: str | None = None
    generation: Int64 | None = None
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    owner_references: tuple[dict[str, Any], ...] = ()


class KernelSearch(ApiModel):
    """Searches for faster kernels for one PyTorch problem and publishes the best verified one of each target."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "size(self.metadata.name) <= 40",
                "choose a name of at most 40 characters; child objects and labels are named after it",
            )
        )
    )
    resource: ClassVar[Kind] = Kind(
        kind="KernelSearch",
        plural="kernelsearches",
        scope="Namespaced",
        short_name="ksearch",
        columns=(
            Column("Phase", "string", ".status.phase"),
            Column("Best", "string", ".status.bestSpeedup", "verified speedup over the baseline, best target"),
            Column("Candidates", "integer", ".status.progress.evaluated"),
            Column("Cost", "string", ".status.usage.cost"),
            Column("Age", "date", ".metadata.creationTimestamp"),
            Column("Reason", "string", '.status.conditions[?(@.type=="Progressing")].reason', priority=1),
            Column("Correct", "integer", ".status.progress.correct", priority=1),
            Column("Running", "integer", ".status.progress.running", priority=1),
            Column("Tokens", "integer", ".status.usage.totalTokens", priority=1),
            Column("Improved", "date", ".status.lastImprovementTime", priority=1),
            Column("Output", "string", ".status.outputs.reference", priority=1),
        ),
    )
    api_version: str = f"{GROUP}/{VERSION}"
    kind: str = "KernelSearch"
    metadata: ObjectMeta
    spec: KernelSearchSpec
    status: KernelSearchStatus | None = None


class AcceleratorProfile(ApiModel):
    """One kind of accelerator that searches may target: scheduling, toolchains, hardware facts, knowledge."""

    resource: ClassVar[Kind] = Kind(
        kind="AcceleratorProfile",
        plural="acceleratorprofiles",
        scope="Cluster",
        short_name="accel",
        columns=(
            Column("Vendor", "string", ".spec.vendor"),
            Column("Arch", "string", ".spec.arch"),
            Column("Device", "string", ".spec.displayName"),
            Column("Nodes", "integer", ".status.matchingNodes"),
            Column("Ready", "string", '.status.conditions[?(@.type=="Ready")].status'),
        ),
    )
    api_version: str = f"{GROUP}/{VERSION}"
    kind: str = "AcceleratorProfile"
    metadata: ObjectMeta
    spec: AcceleratorProfileSpec
    status: AcceleratorProfileStatus | None = None


KINDS: tuple[type[KernelSearch] | type[AcceleratorProfile], ...] = (KernelSearch, AcceleratorProfile)

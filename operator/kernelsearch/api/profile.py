"""What an admin offers: `AcceleratorProfile`, one kind of accelerator and how its pods are built.

Everything that decides where and as what a benchmark pod runs is here and nowhere else, so whoever may create a search
chooses among what admins allow. A new chip is a profile and an image: no code, no CRD change.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from kernelsearch.api.base import (
    ATOMIC_LIST,
    SET_LIST,
    ApiModel,
    DataKey,
    Int64,
    Label,
    ObjectName,
    Quantity,
    map_list,
    rule,
    rules,
)
from kernelsearch.api.search_spec import Language
from kernelsearch.api.search_status import Condition

Positive = Annotated[Int64, Field(ge=1)]


class Toleration(ApiModel):
    """core/v1 Toleration."""

    key: str | None = Field(default=None, max_length=316)
    operator: str | None = Field(default=None, max_length=16)
    """Exists or Equal."""
    value: Label | None = None
    effect: str | None = Field(default=None, max_length=32)
    """NoSchedule, PreferNoSchedule or NoExecute; unset: all."""
    toleration_seconds: Int64 | None = None


class PodResources(ApiModel):
    """CPU, memory and ephemeral storage of an evaluation pod. The accelerator itself is added by the controller."""

    requests: dict[str, Quantity] = Field(default_factory=dict, max_length=16)
    limits: dict[str, Quantity] = Field(default_factory=dict, max_length=16)


class Scheduling(ApiModel):
    """How a pod gets this accelerator. No resourceName and no deviceClassName: a CPU."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "!(has(self.resourceName) && has(self.deviceClassName))",
                "resourceName (device plugin) and deviceClassName (dynamic resource allocation) are alternatives;"
                " remove one of them",
            ),
            rule(
                "!has(self.deviceSelectors) || size(self.deviceSelectors) == 0 || has(self.deviceClassName)",
                "deviceSelectors choose among the devices of a class; set deviceClassName too",
            ),
            rule(
                "!has(self.resourceName) || !has(self.resources)"
                " || (!(has(self.resources.requests) && self.resourceName in self.resources.requests)"
                " && !(has(self.resources.limits) && self.resourceName in self.resources.limits))",
                "leave resourceName out of resources; its count comes from the search's targets[].devices",
            ),
        )
    )
    resource_name: str | None = Field(default=None, min_length=1, max_length=316)
    """Extended resource of a device plugin, e.g. nvidia.com/gpu or amd.com/gpu."""
    device_class_name: ObjectName | None = None
    """DeviceClass of resource.k8s.io/v1."""
    device_selectors: tuple[Annotated[str, Field(max_length=2048)], ...] = Field(
        default=(), max_length=8, json_schema_extra=ATOMIC_LIST
    )
    """CEL selectors for the ResourceClaimTemplate that the controller writes."""
    node_selector: dict[str, Label] = Field(default_factory=dict, max_length=16)
    forbidden_node_labels: dict[str, Label] = Field(default_factory=dict, max_length=16)
    """Becomes NotIn node affinity, e.g. nvidia.com/gpu.sharing-strategy: time-slicing."""
    tolerations: tuple[Toleration, ...] = Field(default=(), max_length=16, json_schema_extra=ATOMIC_LIST)
    runtime_class_name: ObjectName | None = None
    priority_class_name: ObjectName | None = None
    queue_name: ObjectName | None = None
    """Kueue LocalQueue of searches that name none."""
    supplemental_groups: tuple[Int64, ...] = Field(default=(), max_length=8, json_schema_extra=SET_LIST)
    """E.g. the host's render group, which owns /dev/kfd."""
    resources: PodResources | None = None


class ToolchainSpec(ApiModel):
    """One language on this accelerator: the image that judges it, and how it is compiled."""

    language: Language
    image: str = Field(min_length=1, max_length=512)
    """Runs the judge protocol; pin it by digest in production."""
    protocol: str = Field(default="v1", max_length=16)
    command: tuple[Annotated[str, Field(max_length=256)], ...] = Field(
        default=(), max_length=16, json_schema_extra=ATOMIC_LIST
    )
    """Compile command; {source}, {output}, {include} and {arch} are replaced. None: the language's own."""
    env: dict[str, Annotated[str, Field(max_length=1024)]] = Field(default_factory=dict, max_length=32)
    file_suffix: str | None = Field(default=None, max_length=16)
    compile_timeout_seconds: int = Field(default=120, ge=1, le=3600)
    run_timeout_seconds: int = Field(default=60, ge=1, le=3600)


class HardwareFacts(ApiModel):
    """Facts for prompts and for the plausibility gate: a result faster than the roofline is rejected."""

    memory_bytes: Positive | None = None
    memory_bandwidth_bytes_per_second: Positive | None = None
    peak_ops_per_second: dict[str, Positive] = Field(default_factory=dict, max_length=24)
    """By data type, dense: {"fp32": ..., "bf16": ...}."""
    compute_units: int | None = Field(default=None, ge=1)
    """Streaming multiprocessors, compute units or cores."""
    warp_size: int | None = Field(default=None, ge=1)
    shared_memory_bytes_per_unit: Positive | None = None
    l2_bytes: Positive | None = None
    extra: dict[str, Annotated[str, Field(max_length=256)]] = Field(default_factory=dict, max_length=64)
    """Anything else that a kernel writer should know, shown to the model as it stands."""


class ConfigMapKeyRef(ApiModel):
    """One key of a ConfigMap. In a cluster it is read in the operator's own namespace only."""

    namespace: str = Field(min_length=1, max_length=63)
    name: ObjectName
    key: DataKey


class Knowledge(ApiModel):
    """A text for the prompt: a programming guide, a list of pitfalls."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "has(self.text) != has(self.configMapRef)",
                "give the knowledge either as text or by configMapRef, and not both",
            )
        )
    )
    title: str = Field(min_length=1, max_length=128)
    languages: tuple[Language, ...] = Field(default=(), max_length=16, json_schema_extra=SET_LIST)
    """Only for these languages; none means all."""
    text: str | None = Field(default=None, max_length=16384)
    config_map_ref: ConfigMapKeyRef | None = None

    def is_for(self, language: str) -> bool:
        """Whether prompts for this language show it."""
        return not self.languages or language in self.languages


class LabelExpression(ApiModel):
    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "(self.operator in ['In', 'NotIn']) == (has(self.values) && size(self.values) > 0)",
                "In and NotIn need values; Exists and DoesNotExist take none",
            )
        )
    )
    key: str = Field(min_length=1, max_length=316)
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    values: tuple[Label, ...] = Field(default=(), max_length=64, json_schema_extra=SET_LIST)


class LabelSelector(ApiModel):
    """metav1.LabelSelector: all of it must match; an empty one matches everything."""

    match_labels: dict[str, Label] = Field(default_factory=dict, max_length=16)
    match_expressions: tuple[LabelExpression, ...] = Field(default=(), max_length=16, json_schema_extra=ATOMIC_LIST)

    def matches(self, labels: dict[str, str]) -> bool:
        """Whether an object with these labels is selected."""
        return all(labels.get(key) == value for key, value in self.match_labels.items()) and all(
            _matches(expression, labels) for expression in self.match_expressions
        )


def _matches(expression: LabelExpression, labels: dict[str, str]) -> bool:
    match expression.operator:
        case "In":
            return labels.get(expression.key) in expression.values
        case "NotIn":
            return labels.get(expression.key) not in expression.values
        case "Exists":
            return expression.key in labels
        case "DoesNotExist":
            return expression.key not in labels


class AcceleratorProfileSpec(ApiModel):
    vendor: str = Field(min_length=1, max_length=63)
    """Free text: nvidia, amd, intel, cpu, acme."""
    arch: str = Field(min_length=1, max_length=63)
    """The compiler's target: sm_90a, gfx942, x86-64-v4, acme-npu2."""
    display_name: str | None = Field(default=None, max_length=128)
    allowed_namespaces: LabelSelector | None = None
    """Namespaces whose searches may use this profile. Unset: all that the operator serves."""
    allowed_queues: tuple[ObjectName, ...] = Field(default=(), max_length=64, json_schema_extra=SET_LIST)
    """LocalQueues that a target may name, beside scheduling.queueName. None: it may name no other."""
    scheduling: Scheduling
    toolchains: tuple[ToolchainSpec, ...] = Field(min_length=1, max_length=16, json_schema_extra=map_list("language"))
    hardware: HardwareFacts | None = None
    knowledge: tuple[Knowledge, ...] = Field(default=(), max_length=32, json_schema_extra=map_list("title"))

    def toolchain(self, language: str) -> ToolchainSpec:
        """Raise KeyError, listing the languages there are, when the profile has no such toolchain."""
        for toolchain in self.toolchains:
            if toolchain.language == language:
                return toolchain
        known = ", ".join(toolchain.language for toolchain in self.toolchains)
        raise KeyError(f"no toolchain for language {language!r}; the profile has {known}")

    def knowledge_elsewhere(self, languages: Collection[str]) -> Mapping[str, ConfigMapKeyRef]:
        """Title -> where its text lies, of what prompts for these languages show and the profile does not hold."""
        return {
            entry.title: entry.config_map_ref
            for entry in self.knowledge
            if entry.config_map_ref and any(entry.is_for(language) for language in languages)
        }

    def with_knowledge(self, texts: Mapping[str, str]) -> AcceleratorProfileSpec:
        """The spec with these texts (title -> text) in the place of their references."""
        knowledge = tuple(
            entry.model_copy(update={"text": texts[entry.title], "config_map_ref": None})
            if entry.title in texts
            else entry
            for entry in self.knowledge
        )
        return self.model_copy(update={"knowledge": knowledge})


class AcceleratorProfileStatus(ApiModel):
    observed_generation: Int64 | None = None
    matching_nodes: int | None = None
    """Nodes that are ready and could run the profile's pods if they were empty."""
    allocatable_devices: int | None = None
    """Of scheduling.resourceName on these nodes."""
    conditions: tuple[Condition, ...] = Field(default=(), max_length=16, json_schema_extra=map_list("type"))

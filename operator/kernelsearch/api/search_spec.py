"""What a person asks for: `KernelSearch.spec`.

Three rules hold everywhere. Decimals and money are strings. Vendor, language and profile are free text, so that a new
accelerator needs no change here. A target chooses a profile and never an image, a node or a resource: those belong to
the profile, and so to whoever runs the cluster.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from kernelsearch.api.base import (
    ATOMIC_LIST,
    EMPTY_OBJECT,
    SET_LIST,
    ApiModel,
    DataKey,
    Decimal,
    Duration,
    Int32,
    Int64,
    Money,
    ObjectName,
    Scientific,
    map_list,
    rule,
    rules,
)

Language = Annotated[str, Field(min_length=1, max_length=32)]
SourceText = Annotated[str, Field(max_length=65536)]


class InlineFile(ApiModel):
    path: str = Field(max_length=128, pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*$")
    """Relative path; every part of it starts with a letter, a digit or an underscore."""
    content: SourceText


class ConfigMapSource(ApiModel):
    name: ObjectName
    """A ConfigMap in the search's namespace: every key is a file. It is read once; later edits are ignored."""


class OciSource(ApiModel):
    reference: str = Field(max_length=512, pattern=r"@sha256:[a-f0-9]{64}$")
    """An OCI artifact, pinned by digest."""
    pull_secret_name: ObjectName | None = None


class ProblemSource(ApiModel):
    """Where the problem's files come from."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "[has(self.inline), has(self.configMap), has(self.oci)].filter(x, x).size() == 1",
                "give the problem's files in exactly one way: inline, configMap or oci",
            )
        )
    )
    inline: tuple[InlineFile, ...] | None = Field(
        default=None, min_length=1, max_length=8, json_schema_extra=map_list("path")
    )
    """The files themselves."""
    config_map: ConfigMapSource | None = None
    oci: OciSource | None = None


class Seed(ApiModel):
    """A kernel to start from."""

    language: Language
    content: SourceText


class Case(ApiModel):
    """One set of shapes that the kernel must be right and fast for."""

    name: str = Field(max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
    weight: int = Field(default=1, ge=0, le=1000)
    """Share in the headline speedup, a weighted geometric mean. 0: checked for correctness only."""
    dims: dict[str, Annotated[Int64, Field(ge=0)]] = Field(
        default_factory=dict,
        max_length=16,
        json_schema_extra=rules(
            rule(
                "!('true' in self) && !('false' in self)",
                "put dimension names into quotes: YAML reads a bare N, n, no, off as false and Y, y, yes, on as true",
            )
        ),
    )
    """Values for the problem file's top-level constants of these names."""
    dtype: str | None = Field(default=None, max_length=16)
    """float32, float16 or bfloat16 (or fp32, fp16, bf16); unset keeps what the file makes."""
    backward: bool = False
    """Check and time the gradients too."""


class Tolerance(ApiModel):
    """How far a result may be off. Unset: by the output's dtype (fp32 1e-4, fp16 and bf16 1e-2)."""

    rtol: Scientific | None = None
    atol: Scientific | None = None
    max_mismatch_ppm: int = Field(
        default=0, ge=0, le=1_000_000, validation_alias="maxMismatchPPM", serialization_alias="maxMismatchPPM"
    )
    """How many of a million elements may be off by more."""
    seeds: int = Field(default=5, ge=1, le=64)
    """Secret input sets per case."""


class ProblemSpec(ApiModel):
    """What to make fast. It cannot change: a different problem is a different search."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule("self == oldSelf", "spec.problem cannot change; create a new KernelSearch for another problem"),
            rule(
                "!has(self.source.inline) || size(self.source.inline) <= 1"
                " || self.source.inline.exists(f, f.path == self.file)",
                "spec.problem.file names none of the inline files; set it to the path of the reference",
            ),
        )
    )
    source: ProblemSource
    file: str = Field(default="reference.py", max_length=128)
    """The file in KernelBench format: Model, get_inputs, get_init_inputs. A single file may have any name."""
    seeds: tuple[Seed, ...] = Field(default=(), max_length=16, json_schema_extra=ATOMIC_LIST)
    """Kernels to start from; without spec.llm their declared tunables are searched."""
    cases: tuple[Case, ...] = Field(
        default=(),
        max_length=64,
        json_schema_extra={
            **map_list("name"),
            **rules(
                rule(
                    "size(self) == 0 || self.exists(c, c.weight > 0)",
                    "give at least one case a weight above zero; the speedup is taken over those",
                )
            ),
        },
    )
    """None: one case, the file as it stands."""
    tolerance: Tolerance = Field(default_factory=Tolerance, json_schema_extra=EMPTY_OBJECT)


class TargetSpec(ApiModel):
    """One accelerator and language to find a kernel for."""

    name: str = Field(max_length=20, pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$")
    profile: str = Field(min_length=1, max_length=63)
    """Name of a cluster-scoped AcceleratorProfile."""
    language: Language
    """One of the profile's toolchains."""
    devices: int = Field(default=1, ge=1, le=16)
    """Accelerators per evaluation pod."""
    parallelism: int = Field(default=1, ge=1, le=64)
    """Evaluation pods at once."""
    batch_size: int = Field(default=8, ge=1, le=64)
    """Candidates per evaluation pod."""
    queue_name: ObjectName | None = None
    """Kueue LocalQueue in the evaluation namespace, if the profile allows it."""


class SecretKeyRef(ApiModel):
    name: ObjectName
    """A Secret in the search's namespace, labelled kernelsearch.dev/llm-credential=true, whose annotation
    kernelsearch.dev/allowed-origins lists the endpoint's origin."""
    key: DataKey


class Price(ApiModel):
    """Per million tokens, in budget.currency. Both are needed to hold a budget.cost."""

    input: Money
    output: Money


class LlmModel(ApiModel):
    """One model behind an OpenAI-compatible endpoint."""

    name: str = Field(min_length=1, max_length=63)
    model: str = Field(min_length=1, max_length=128)
    """What the endpoint calls it."""
    endpoint: str = Field(
        max_length=512,
        pattern=r"^https?://[^\s/]+(/\S*)?$",
        json_schema_extra=rules(
            rule(
                "!self.matches('[@?#]')",
                "an endpoint is scheme://host[:port]/path without user, query or fragment;"
                " put the key into a Secret and name it in secretKeyRef",
            )
        ),
    )
    """Base URL such as https://llm.example.com/v1. Which private origins may be used is the operator's allow-list."""
    secret_key_ref: SecretKeyRef | None = None
    """The API key. `kernelsearch run` reads KERNELSEARCH_LLM_API_KEY instead."""
    roles: tuple[Literal["Propose", "Repair", "Rewrite"], ...] = Field(
        default=(), max_length=4, json_schema_extra=SET_LIST
    )
    """What this model is asked for; none means everything."""
    weight: int = Field(default=1, ge=0, le=1000)
    """Share of the calls among the models of the same role."""
    max_output_tokens: int = Field(default=16384, ge=256, le=1_000_000)
    temperature: str | None = Field(default=None, max_length=8, pattern=r"^[0-9]+(\.[0-9]+)?$")
    price: Price | None = None


class LlmSpec(ApiModel):
    """Which models write kernels. Absent: only the seeds' tunables are searched."""

    models: tuple[LlmModel, ...] = Field(
        min_length=1,
        max_length=8,
        json_schema_extra={
            **map_list("name"),
            **rules(
                rule(
                    "self.exists(m, m.weight > 0 && (!has(m.roles) || size(m.roles) == 0 || 'Propose' in m.roles))",
                    "at least one model with a weight above zero must have the role Propose; give a model that role,"
                    " or no roles at all, which means every role",
                )
            ),
        },
    )
    max_concurrent_requests: int = Field(default=4, ge=1, le=64)


class PolicySpec(ApiModel):
    """How candidates are chosen."""

    algorithm: str = Field(default="near-greedy", max_length=63)
    seed: Int64 | None = None
    """Makes the search's choices repeatable; unset: derived from the object's uid."""
    parameters: dict[str, Annotated[str, Field(max_length=256)]] = Field(default_factory=dict, max_length=32)


class BudgetSpec(ApiModel):
    """Every limit that is set is a hard stop. Raising one on a finished search continues it."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "has(self.candidates) || has(self.tokens) || has(self.cost) || has(self.duration)",
                "set at least one of candidates, tokens, cost and duration, so that the search ends",
            )
        )
    )
    candidates: int | None = Field(default=None, ge=1, le=100_000)
    tokens: Int64 | None = Field(default=None, ge=1)
    cost: Money | None = None
    """In `currency`, at the prices in spec.llm.models."""
    currency: str = Field(default="USD", pattern=r"^[A-Z]{3}$")
    duration: Duration | None = None
    """Active time (not suspended, not queued), such as "4h30m"."""
    accelerator_seconds: Int64 | None = Field(default=None, ge=1)


class StopSpec(ApiModel):
    """Reasons to end before the budget does."""

    speedup: Decimal | None = None
    """End when a verified kernel of every target is this much faster than its baseline."""
    without_improvement: int | None = Field(default=None, ge=1, le=100_000)
    """End after this many candidates in a row without a new best."""
    pending_timeout: Duration = "1h"
    """A target that starts no pod for this long has failed."""
    consecutive_failures: int = Field(default=100, ge=1, le=10_000)


class VerificationSpec(ApiModel):
    """What a champion must pass before it is published."""

    repeats: int = Field(default=3, ge=1, le=10)
    """Fresh pods that must confirm it."""
    max_spread_percent: int = Field(default=5, ge=1, le=50)


class ConfigMapOutput(ApiModel):
    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "!self.immutable || size(self.name) <= 244",
                "shorten output.configMap.name to 244 characters: immutable adds a digest to it",
            )
        )
    )
    name: ObjectName
    immutable: bool = False
    """Write immutable ConfigMaps <name>-<digest8> and keep the last one in status."""


class OciOutput(ApiModel):
    repository: str = Field(min_length=1, max_length=255)
    tag: str | None = Field(default=None, max_length=128, pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")
    push_secret_name: ObjectName | None = None


class OutputSpec(ApiModel):
    """Where the best verified kernel goes. Default: a ConfigMap <metadata.name>-kernel."""

    config_map: ConfigMapOutput | None = None
    oci: OciOutput | None = None
    publish: Literal["OnComplete", "OnImprovement"] = "OnComplete"
    approval: Literal["None", "Required"] = "None"
    """Required: wait for the annotation kernelsearch.dev/approved-digest before publishing code that a model wrote."""


class KernelSearchSpec(ApiModel):
    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "has(self.llm) || (has(self.problem.seeds) && size(self.problem.seeds) > 0)",
                "set spec.llm, or give spec.problem.seeds to tune without a model",
            ),
            rule(
                "has(self.llm) || !has(self.problem.seeds)"
                " || self.targets.all(t, self.problem.seeds.exists(s, s.language == t.language))",
                "without spec.llm every target needs a seed in its language; add one to spec.problem.seeds, or set"
                " spec.llm",
            ),
            rule(
                "!has(self.budget.cost) || !has(self.llm) || self.llm.models.all(m, has(m.price))",
                "spec.budget.cost can only be held when every model has a price; set price.input and price.output"
                ' (both "0" for a free endpoint), or drop budget.cost',
            ),
        )
    )
    suspend: bool = False
    """Stop proposing, cancel evaluation Jobs, keep all state. Set back to false to continue."""
    problem: ProblemSpec
    targets: tuple[TargetSpec, ...] = Field(
        min_length=1,
        max_length=16,
        json_schema_extra={
            **map_list("name"),
            **rules(
                rule(
                    "oldSelf.all(o, self.exists(n, n.name == o.name && n.profile == o.profile"
                    " && n.language == o.language))",
                    "targets may be added, but not removed or pointed at another profile or language; create a new"
                    " KernelSearch for that",
                )
            ),
        },
    )
    llm: LlmSpec | None = None
    policy: PolicySpec = Field(default_factory=PolicySpec, json_schema_extra=EMPTY_OBJECT)
    budget: BudgetSpec
    stop: StopSpec = Field(default_factory=StopSpec, json_schema_extra=EMPTY_OBJECT)
    verification: VerificationSpec = Field(default_factory=VerificationSpec, json_schema_extra=EMPTY_OBJECT)
    output: OutputSpec = Field(default_factory=OutputSpec, json_schema_extra=EMPTY_OBJECT)
    ttl_seconds_after_finished: Int32 | None = Field(default=None, ge=0)
    """Delete the KernelSearch (not what it published) this long after it finishes."""

    @property
    def has_llm(self) -> bool:
        return self.llm is not None

"""A simulated world for the engine's tests: kernels whose speed is written in their source, and an evaluator of them.

The journal, the store, the policy, the prompts and the LLM client are the real ones. Only judging is simulated: a
kernel's speedup over the reference is BLOCK / 64, unless it says `broken`, in which case its values are wrong.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field

import yaml
from kernelharness.protocol import (
    Baseline,
    CaseFact,
    CaseResult,
    Hello,
    ProblemFact,
    Purpose,
    Result,
    Stage,
    TensorFact,
    Verdict,
)
from kernelsearch.api.documents import load_documents
from kernelsearch.api.profiles import packaged_profiles
from kernelsearch.api.translate import problem_digest
from kernelsearch.engine import Publication, PublishRefused, SearchInputs
from kernelsearch.evaluate.base import BatchOutcome, BatchRequest, OnProgress, Progress
from kernelsearch.llm.client import ModelEndpoint
from kernelsearch.search.state import State

SEED = '#include "problem.h"\nconstexpr int BLOCK = 32;  // tune: 32, 64, 96, 128, 160, 192, 224, 256\n'
REFERENCE = "class Model: ...\n"
MANIFEST = """
apiVersion: kernelsearch.dev/v1alpha1
kind: KernelSearch
metadata: {name: demo}
spec:
  problem:
    source: {inline: [{path: reference.py, content: "class Model: ..."}]}
    seeds: [{language: cpp, content: %s}]
  targets: [{name: cpu, profile: x86-64-v3, language: cpp, batchSize: 2}]
  budget: {candidates: 8}
  verification: {repeats: 2}
"""


def manifest(**spec: object) -> str:
    """The default manifest with some fields of its spec replaced."""
    document = yaml.safe_load(MANIFEST % json.dumps(SEED))
    document["spec"] |= spec
    return yaml.safe_dump(document)


def inputs(*, generation: int = 1, uid: str = "uid-1", endpoint: str = "", **spec: object) -> SearchInputs:
    """A search from a manifest, as the command or the controller would resolve it."""
    documents = load_documents(manifest(**spec))
    search, files = documents.search, documents.problem_files()
    models = search.spec.llm.models if search.spec.llm else ()
    return SearchInputs(
        uid=uid,
        name=search.metadata.name,
        generation=generation,
        spec=search.spec,
        files=files,
        problem_digest=problem_digest(files, search.spec.problem),
        profiles=packaged_profiles(),
        endpoints={m.name: ModelEndpoint(m.name, m.model, endpoint or m.endpoint, timeout_seconds=20) for m in models},
    )


@dataclass
class SimulatedEvaluator:
    """The outside world: what it judged stays known by batch id, like Jobs that outlive the controller."""

    judged: dict[str, BatchOutcome] = field(default_factory=dict)
    runs: list[str] = field(default_factory=list)
    """Ids of the batches that really ran; a batch that is told twice runs once."""
    forgotten: list[str] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    before: Callable[[BatchRequest, OnProgress], object] = lambda request, on_progress: None
    """Called as a batch starts; may return an awaitable to hold it."""
    problem: ProblemFact | None = None
    baselines: tuple[Baseline, ...] = field(default_factory=lambda: BASELINES)

    async def evaluate(self, request: BatchRequest, on_progress: OnProgress) -> BatchOutcome:
        held = self.before(request, on_progress)
        if asyncio.iscoroutine(held):
            await held
        key = request.batch.digest
        if key not in self.judged:
            self.runs.append(request.batch.id)
            self.judged[key] = self._judge(request)
        for result in self.judged[key].results:
            on_progress(Progress(request.target, "Running", "", result))
        return self.judged[key]

    async def forget(self, request: BatchRequest) -> None:
        self.forgotten.append(request.batch.id)

    async def cancel(self, search_uid: str) -> None:
        self.cancelled.append(search_uid)

    def _judge(self, request: BatchRequest) -> BatchOutcome:
        tensor = TensorFact(name="x", shape=[64], dtype="float32")
        facts = ProblemFact(cases=[CaseFact(case="default", inputs=[tensor], outputs=[tensor])])
        confirming = request.batch.purpose is Purpose.CONFIRM
        candidates = [(each.id, each.files[0].content) for each in request.batch.candidates]
        return BatchOutcome(
            results=tuple(judge(id, source) for id, source in candidates),
            hello=Hello(harness="simulated", device="simulated CPU"),
            problem=self.problem or facts,
            baselines=self.baselines,
            artifacts={("", "problem.h"): b"// the header\n"}
            | {(id, "kernel.so"): f"library of {source}".encode() for id, source in candidates if confirming},
            node="node-1",
            device_seconds=1.0,
            log="simulated log\n",
        )


BASELINES = (
    Baseline(case="default", arm="eager", ns=1000),
    Baseline(case="default", arm="compile", ns=1500),
)


def judge(id: str, source: str) -> Result:
    if "broken" in source:
        return Result(candidate=id, verdict=Verdict.WRONG_VALUES, stage=Stage.CORRECTNESS, summary="wrong")
    found = re.search(r"BLOCK = (\d+)", source)
    speedup = int(found[1]) / 64 if found else 0.5
    case = CaseResult(
        case="default",
        ns=int(1000 / speedup),
        low=speedup * 0.99,
        high=speedup * 1.01,
        speedup=speedup,
        baseline_ns=1000,
        mean_log_ratio=math.log(speedup),
        standard_error=0.001,
    )
    return Result(
        candidate=id,
        verdict=Verdict.OK,
        stage=Stage.TIMING,
        cases=[case],
        speedup=speedup,
        low=case.low,
        high=case.high,
        binary_hash=f"binary of {source}",
    )


@dataclass
class KeepingPublisher:
    """Keeps what it was told to publish; refuses while `refusal` is set."""

    published: list[dict[str, str]] = field(default_factory=list)
    refusal: PublishRefused | None = None

    async def publish(self, inputs: SearchInputs, state: State) -> Publication:
        if self.refusal is not None:
            raise self.refusal
        winners = {target: candidate.id for target, candidate in state.winners.items()}
        self.published.append(winners)
        return Publication(digest="d" * 64, reference="folder")

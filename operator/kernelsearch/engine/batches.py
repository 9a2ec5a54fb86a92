"""A batch, there and back: from the action to what an evaluator is asked, from its outcome to events.

Pure. The batch document is built from journal and spec alone, so after a restart it is the same to the byte and the
evaluator recognises what it already runs. Events are unstamped (`at_ns` 0); the engine stamps them as it writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from kernelharness.protocol import Batch, Candidate, File, Problem, Purpose

from kernelsearch.api import AcceleratorProfile
from kernelsearch.api.translate import source_suffix, to_hardware, to_protocol_problem, to_toolchain
from kernelsearch.engine.inputs import SearchInputs
from kernelsearch.evaluate.base import BatchOutcome, BatchRequest
from kernelsearch.search.fold_candidates import failure_reason
from kernelsearch.search.journal import BatchDone, BatchSubmitted, Event, TargetFailed, TargetProbed
from kernelsearch.search.state import State

HEADER = "problem.h"
_MOST_NOISE_PERCENT = 10.0
"""Of the probe's two eager arms, up to which its ratio of baselines is believed."""


def to_request(inputs: SearchInputs, state: State, batch: BatchSubmitted, sources: Mapping[str, str]) -> BatchRequest:
    """What the evaluator is asked. `sources`: candidate id -> source, for the batch's candidates."""
    limits = state.targets[batch.target].limits
    return BatchRequest(
        search_uid=inputs.uid,
        target=batch.target,
        batch=to_batch(
            batch.id,
            batch.purpose,
            to_protocol_problem(inputs.spec.problem, inputs.files),
            inputs.profiles[limits.profile],
            limits.language,
            {id: sources[id] for id in batch.candidates},
            _compile_ratios(state, batch),
        ),
        attempt=batch.attempt,
        avoid_nodes=batch.avoid_nodes,
    )


def to_batch(
    id: str,
    purpose: Purpose,
    problem: Problem,
    profile: AcceleratorProfile,
    language: str,
    sources: Mapping[str, str],
    compile_ratios: dict[str, float] | None = None,
) -> Batch:
    """The document that the judge reads. `sources`: candidate id -> source, judged in this order."""
    toolchain = to_toolchain(profile, language)
    path = "kernel" + source_suffix(language, toolchain.file_suffix)
    return Batch(
        id=id,
        purpose=purpose,
        problem=problem,
        toolchain=toolchain,
        hardware=to_hardware(profile),
        candidates=[Candidate(id=id, files=[File(path=path, content=source)]) for id, source in sources.items()],
        compile_ratios=compile_ratios,
    )


def _compile_ratios(state: State, batch: BatchSubmitted) -> dict[str, float] | None:
    """What the probe found of torch.compile, for a search batch; probes and confirmations measure it themselves, and so
    does every batch when the probe's machine was too busy to tell two copies of the reference apart."""
    probed = state.targets[batch.target].probed
    if probed is None or batch.purpose is not Purpose.SEARCH:
        return None
    if any((baseline.noise_percent or 0.0) > _MOST_NOISE_PERCENT for baseline in probed.baselines):
        return None
    ns = {(baseline.case, baseline.arm): baseline.ns for baseline in probed.baselines}
    times = {case: (ns.get((case, "eager")), ns.get((case, "compile"))) for case, _ in ns}
    return {case: compiled / eager for case, (eager, compiled) in times.items() if eager and compiled}


def to_events(
    batch: BatchSubmitted, outcome: BatchOutcome, log_ref: str, artifact_refs: Mapping[tuple[str, str], str]
) -> tuple[Event, ...]:
    """One transaction: what the batch brought, and for a probe whether its target can be searched.

    `artifact_refs` are the blobs of `outcome.artifacts`. Where candidates are compiled and not run, the machine is to
    blame: a search cannot begin there, and a kernel is to be judged elsewhere.
    """
    if outcome.problem is not None and outcome.problem.not_run and not outcome.infrastructure:
        why = f"kernels can be compiled, but not run: {outcome.problem.not_run}"
        outcome = replace(outcome, infrastructure="NoDevice", message=why)
    done = BatchDone(
        at_ns=0,
        id=batch.id,
        results=outcome.results,
        node=outcome.node,
        device_seconds=outcome.device_seconds,
        log_ref=log_ref,
        artifact_refs={candidate: ref for (candidate, _), ref in artifact_refs.items() if candidate},
        infrastructure=outcome.infrastructure,
        message=outcome.message,
    )
    if batch.purpose is not Purpose.PROBE:
        return (done,)
    verdict = _probe_verdict(batch, outcome, artifact_refs.get(("", HEADER), ""))
    if verdict is None and not outcome.infrastructure:
        reason, message = _harness_fault(outcome)
        done = done.model_copy(update={"infrastructure": reason, "message": message})
    return (done,) if verdict is None else (verdict, done)


def _probe_verdict(batch: BatchSubmitted, outcome: BatchOutcome, header_ref: str) -> TargetProbed | TargetFailed | None:
    """None: the probe says nothing of the target, it has to run again."""
    problem, hello = outcome.problem, outcome.hello
    if outcome.infrastructure == "InvalidBatch":
        return TargetFailed(at_ns=0, target=batch.target, reason="InvalidBatch", message=outcome.message)
    if problem is not None and problem.verdict.is_problem_fault:
        return TargetFailed(
            at_ns=0, target=batch.target, reason=failure_reason(problem.verdict), message=problem.reason
        )
    usable = problem is not None and problem.verdict == "OK" and not outcome.infrastructure
    if problem is None or hello is None or not usable:
        return None
    return TargetProbed(
        at_ns=0,
        target=batch.target,
        device=hello.device,
        node=outcome.node,
        driver=hello.driver,
        cases=tuple(problem.cases),
        baselines=outcome.baselines,
        header_ref=header_ref,
    )


def _harness_fault(outcome: BatchOutcome) -> tuple[str, str]:
    """The judge ended well and yet did not say what the problem is."""
    if outcome.problem is None:
        return "HarnessError", "the judge said nothing about the problem"
    return failure_reason(outcome.problem.verdict), outcome.problem.reason or "the reference did not run"

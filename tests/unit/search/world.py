"""A pure stand-in for everything outside the search core: models, judges and time, all decided by hashes.

`World` answers each call and each batch from its id alone, so what happens depends on nothing but the journal: a search
that is taken up after any event meets the same world again. Time is virtual: the next thing to end moves it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256

from kernelharness.protocol import (
    Baseline,
    CaseFact,
    CaseResult,
    Purpose,
    Result,
    Stage,
    TensorFact,
    Verdict,
)
from kernelsearch.search.actions import Action, CallModel, ProposeTuned, Stop, SubmitBatch
from kernelsearch.search.journal import (
    BatchDone,
    BatchSubmitted,
    CandidateProposed,
    Event,
    Limits,
    LimitsChanged,
    LlmReserved,
    LlmSettled,
    ModelLimits,
    Operator,
    SearchStarted,
    Stopped,
    TargetLimits,
    TargetProbed,
    Tunable,
)
from kernelsearch.search.policy import ask, wake_ns
from kernelsearch.search.state import State, fold

SECOND = 1_000_000_000
START_NS = 1_700_000_000 * SECOND
TOKENS_RESERVED = 20_000


def unit(*parts: object) -> float:
    """A number in [0, 1) that depends on nothing but the arguments."""
    digest = sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def gauss(*parts: object) -> float:
    """A standard normal number from the same source."""
    u, v = max(unit(*parts, "u"), 1e-12), unit(*parts, "v")
    return math.sqrt(-2 * math.log(u)) * math.cos(2 * math.pi * v)


def target(name: str = "cpu", *, parallelism: int = 1, batch_size: int = 4) -> TargetLimits:
    return TargetLimits(name=name, profile="p", language="cpp", parallelism=parallelism, batch_size=batch_size)


def llm_limits(**changes: object) -> Limits:
    """40 candidates, one model, one target, unless told otherwise."""
    known: dict[str, object] = {
        "candidates": 40,
        "has_llm": True,
        "models": (ModelLimits(name="m", input_micros_per_mtok=1_000_000, output_micros_per_mtok=5_000_000),),
        "targets": (target(),),
    }
    return Limits.model_validate({**known, **changes})


def probed(name: str, at_ns: int = START_NS) -> TargetProbed:
    tensor = TensorFact(name="x", shape=[64, 512], dtype="float32")
    return TargetProbed(
        at_ns=at_ns,
        target=name,
        device="a pure CPU",
        cases=(
            CaseFact(case="only", inputs=[tensor], outputs=[tensor], bytes_min=262144, t_min_ns=10_000, bound="memory"),
        ),
        baselines=(Baseline(case="only", arm="eager", ns=100_000),),
    )


def result(
    candidate: str,
    log_speedup: float = 0.2,
    *,
    se: float = 0.005,
    verdict: Verdict = Verdict.OK,
    binary: str | None = None,
    percent_of_bound: float | None = None,
    stage: Stage = Stage.TIMING,
    arms: float | None = None,
) -> Result:
    """One verdict; `arms` is ln(compile / eager baseline), where the batch timed both."""
    if verdict is not Verdict.OK:
        return Result(
            candidate=candidate, verdict=verdict, stage=stage, summary="it failed", diagnostics="why it failed"
        )
    speedup = math.exp(log_speedup)
    case = CaseResult(
        case="only",
        ns=round(100_000 / speedup),
        low=speedup * math.exp(-2 * se),
        high=speedup * math.exp(2 * se),
        speedup=speedup,
        baseline_ns=100_000,
        mean_log_ratio=log_speedup,
        standard_error=se,
        percent_of_bound=percent_of_bound,
        speedup_eager=None if arms is None else speedup * math.exp(arms),
        speedup_compile=None if arms is None else speedup,
    )
    return Result(
        candidate=candidate,
        verdict=Verdict.OK,
        stage=Stage.TIMING,
        cases=[case],
        speedup=speedup,
        binary_hash=f"binary of {candidate}" if binary is None else binary,
    )


@dataclass
class World:
    """What a search meets. Override a field to make it meaner."""

    limits: Limits = field(default_factory=llm_limits)
    seeds: int = 0
    tunables: tuple[Tunable, ...] = ()
    fails: float = 0.35
    garbage: float = 0.05
    call_errors: float = 0.0
    error_reason: str = "LLMRateLimited"
    infrastructure: float = 0.0
    noise: float = 0.01
    gain: float = 0.08
    call_seconds: float = 20.0
    truth: Callable[[State, str], float] | None = None
    """(state, candidate) -> true ln(speedup); None: parent's plus a random step."""
    judge: Callable[[State, str, str], Result] | None = None
    """(state, candidate, batch) -> its result; None: from `truth`, `fails` and `noise`."""

    def opening(self) -> list[Event]:
        """What an engine writes first: the search, its limits, its seeds."""
        events: list[Event] = [
            SearchStarted(at_ns=START_NS, uid="uid-1", name="test", problem_digest="d", seed=7),
            LimitsChanged(at_ns=START_NS, generation=1, limits=self.limits),
        ]
        number = 1
        for limits in self.limits.targets:
            for _ in range(self.seeds):
                events.append(self.proposal(number, limits.name, Operator.SEED, None, None, START_NS, self.tunables))
                number += 1
        return events

    def proposal(
        self,
        ask_no: int,
        target: str,
        operator: Operator,
        lane: str | None,
        parent: str | None,
        at_ns: int,
        tunables: tuple[Tunable, ...],
        call_id: str = "",
    ) -> CandidateProposed:
        id = f"c{ask_no}-{target}"
        values = ",".join(t.value for t in tunables)
        source = f"{parent}:{values}" if operator is Operator.TUNE else id
        return CandidateProposed(
            at_ns=at_ns,
            id=id,
            ask_no=ask_no,
            target=target,
            operator=operator,
            lane=lane or id,
            parent=parent,
            call_id=call_id,
            model="m" if call_id else "",
            plan=f"idea {ask_no}",
            source_ref=sha256(source.encode()).hexdigest(),
            tunables=tunables,
        )

    # -- what the outside answers -------------------------------------------------------------------------------------

    def true_score(self, state: State, id: str) -> float:
        if self.truth:
            return self.truth(state, id)
        candidate = state.candidates[id]
        if candidate.parent is None or candidate.operator is Operator.REPAIR:
            return 0.3 * unit("root", id) - 0.1
        return self.true_score(state, candidate.parent) + self.gain * gauss("step", id)

    def verdict(self, state: State, id: str, batch: str) -> Result:
        if self.judge:
            return self.judge(state, id, batch)
        if unit("fails", id) < self.fails:
            return result(id, verdict=Verdict.COMPILE_ERROR, stage=Stage.COMPILE)
        return result(id, self.true_score(state, id) + self.noise * gauss("noise", id, batch), se=self.noise)

    def answer_call(self, state: State, call: LlmReserved, at_ns: int) -> list[Event]:
        def settled(outcome: str, reason: str = "") -> LlmSettled:
            return LlmSettled(
                at_ns=at_ns,
                call_id=call.call_id,
                outcome=outcome,  # type: ignore[arg-type]
                input_tokens=4000 if outcome != "error" else 0,
                output_tokens=int(1000 + 8000 * unit("out", call.call_id)) if outcome != "error" else 0,
                cost_micros=call.cost_micros // 2 if outcome != "error" else 0,
                reason=reason,
                message=reason,
            )

        if unit("error", call.call_id) < self.call_errors:
            return [settled("error", self.error_reason)]
        if unit("garbage", call.call_id) < self.garbage:
            return [settled("invalid_reply", "LLMInvalidOutput")]
        proposal = self.proposal(
            call.ask_no, call.target, call.operator, call.lane, call.parent, at_ns, self.tunables, call.call_id
        )
        return [proposal, settled("ok")]

    def answer_batch(self, state: State, batch: BatchSubmitted, at_ns: int) -> list[Event]:
        broken = unit("infrastructure", batch.id) < self.infrastructure
        survivors = (
            batch.candidates[: int(len(batch.candidates) * unit("cut", batch.id))] if broken else batch.candidates
        )
        done = BatchDone(
            at_ns=at_ns,
            id=batch.id,
            results=tuple(self.verdict(state, id, batch.id) for id in survivors),
            node=f"node-{int(3 * unit('node', batch.id))}",
            device_seconds=2.0 + len(batch.candidates),
            infrastructure="Evicted" if broken else "",
        )
        if batch.purpose is Purpose.PROBE and not broken:
            return [probed(batch.target, at_ns), done]
        return [done]

    # -- the loop ------------------------------------------------------------------------------------------------------

    def announce(self, action: Action, state: State, at_ns: int) -> list[Event]:
        """What the engine journals before it acts."""
        match action:
            case CallModel():
                model = next(m for m in self.limits.models if m.name == action.model)
                cost = TOKENS_RESERVED * (model.output_micros_per_mtok or 0) // 1_000_000
                return [
                    LlmReserved(
                        at_ns=at_ns,
                        call_id=f"a{action.ask_no}",
                        ask_no=action.ask_no,
                        target=action.target,
                        operator=action.operator,
                        lane=action.lane,
                        parent=action.parent,
                        model=action.model,
                        tokens=TOKENS_RESERVED,
                        cost_micros=cost,
                    )
                ]
            case ProposeTuned():
                parent = state.candidates[action.parent]
                tunables = tuple(
                    t.model_copy(update={"value": action.values[t.name]}) for t in parent.proposal.tunables
                )
                made = self.proposal(
                    action.ask_no, action.target, Operator.TUNE, action.lane, action.parent, at_ns, tunables
                )
                source = sha256(f"{parent.template}:{[t.value for t in tunables]}".encode()).hexdigest()
                return [made.model_copy(update={"source_ref": source})]
            case SubmitBatch():
                return [
                    BatchSubmitted(
                        at_ns=at_ns,
                        id=action.id,
                        target=action.target,
                        purpose=action.purpose,
                        candidates=action.candidates,
                        attempt=action.attempt,
                        avoid_nodes=action.avoid_nodes,
                    )
                ]
            case Stop():
                return [Stopped(at_ns=at_ns, reason=action.reason, message=action.message)]

    def ends(self, state: State) -> list[tuple[int, str]]:
        """When what is in flight ends: a function of the state, so a resumed search waits for the same things."""
        ends: list[tuple[int, str]] = []
        for call in state.calls_in_flight.values():
            seconds = self.call_seconds * (0.5 + unit("call", call.call_id))
            ends.append((call.at_ns + int(seconds * SECOND), call.call_id))
        for batch in state.batches_in_flight.values():
            seconds = 8 + 2 * len(batch.candidates) + (10 if batch.purpose is Purpose.CONFIRM else 0)
            ends.append((batch.at_ns + seconds * SECOND, batch.id))
        return sorted(ends)

    def run(self, journal: list[Event] | None = None, *, most_events: int = 20_000) -> list[Event]:
        """Take a journal up (or begin one) and go on until the search stops. Returns the whole journal."""
        journal = list(journal) if journal else self.opening()
        state = fold(journal)
        now_ns = state.last_at_ns

        def record(events: list[Event]) -> None:
            nonlocal state
            journal.extend(events)
            state = fold(events, state)

        while state.stopped is None and len(journal) < most_events:
            while actions := ask(state, now_ns):
                for action in actions:
                    record(self.announce(action, state, now_ns))
            if state.stopped:
                break
            ends, wake = self.ends(state), wake_ns(state, now_ns)
            if wake is not None and (not ends or wake < ends[0][0]):
                now_ns = wake
                continue
            assert ends, f"nothing runs and nothing is asked for: {state.progress} {state.ledger}"
            now_ns = max(now_ns, ends[0][0])
            record(self.answer(state, ends[0][1], now_ns))
        return journal

    def answer(self, state: State, id: str, at_ns: int) -> list[Event]:
        """The end of one call or batch."""
        if call := state.calls_in_flight.get(id):
            return self.answer_call(state, call, at_ns)
        return self.answer_batch(state, state.batches_in_flight[id], at_ns)

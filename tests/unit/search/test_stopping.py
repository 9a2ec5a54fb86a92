"""Each reason to stop, reached the way a search would reach it."""

import pytest
from kernelharness.protocol import Purpose, Stage, Verdict
from kernelsearch.search.actions import Stop
from kernelsearch.search.journal import (
    BatchDone,
    BatchSubmitted,
    Event,
    Limits,
    LlmSettled,
    ModelLimits,
    StopReason,
    TargetFailed,
    Tunable,
)
from kernelsearch.search.policy import ask
from kernelsearch.search.state import State, apply, fold
from kernelsearch.search.stopping import ending

from .test_state import begun, proposal, reserved, settled, submitted
from .world import SECOND, START_NS, World, llm_limits, probed, result, target


def reason(journal: list[Event]) -> StopReason:
    stopped = fold(journal).stopped
    assert stopped is not None
    assert stopped.message
    return stopped.reason


def stop_of(state: State, now_ns: int = START_NS) -> Stop:
    (action,) = ask(state, now_ns)
    assert isinstance(action, Stop)
    return action


def test_target_reached_when_the_speedup_is_verified() -> None:
    limits = llm_limits(candidates=500, stop_speedup=1.3)
    journal = World(limits=limits, gain=0.15).run()
    state = fold(journal)
    assert reason(journal) is StopReason.TARGET_REACHED
    assert state.winners["cpu"].speedup >= 1.3  # type: ignore[operator]
    assert state.ledger.candidates < 500


def test_a_provisional_speedup_reaches_nothing() -> None:
    state = begun(stop_speedup=1.2)
    state = fold(
        [proposal(1), submitted("b1", "c1-cpu"), BatchDone(at_ns=1, id="b1", results=(result("c1-cpu", 0.5),))], state
    )
    assert ending(state, START_NS) is None


def test_every_target_must_reach_it() -> None:
    limits = llm_limits(candidates=500, stop_speedup=1.3, targets=(target("a"), target("b")))
    state = fold(World(limits=limits, gain=0.15).run())
    assert state.stopped is not None
    assert state.stopped.reason is StopReason.TARGET_REACHED
    assert set(state.winners) == {"a", "b"}


def test_at_bound_when_the_verified_best_is_near_the_speed_of_light() -> None:
    def judge(state: State, id: str, batch: str) -> object:
        return result(id, 0.8, se=0.001, percent_of_bound=97.0)

    journal = World(limits=llm_limits(candidates=500), judge=judge).run()  # type: ignore[arg-type]
    assert reason(journal) is StopReason.AT_BOUND


def test_plateau_when_nothing_wins_for_long_and_every_lane_had_its_chance() -> None:
    def truth(state: State, id: str) -> float:
        return 0.3 if state.candidates[id].proposal.ask_no == 1 else 0.1

    journal = World(limits=llm_limits(candidates=1000), truth=truth, fails=0.2).run()
    state = fold(journal)
    assert reason(journal) is StopReason.PLATEAU
    assert 350 <= state.finished < 600
    assert all(lane.asks >= 12 for lane in state.lanes.values() if lane.top)


def test_without_improvement_is_taken_as_given() -> None:
    def truth(state: State, id: str) -> float:
        return 0.3 if state.candidates[id].proposal.ask_no == 1 else 0.1

    limits = llm_limits(candidates=1000, without_improvement=15)
    journal = World(limits=limits, truth=truth, fails=0.0, garbage=0.0).run()
    assert reason(journal) is StopReason.PLATEAU
    assert 16 <= fold(journal).finished <= 22


def test_a_win_that_is_refused_does_not_hold_a_plateau_off() -> None:
    state = begun(candidates=1000, without_improvement=2)
    names = [f"c{n}-cpu" for n in (1, 2, 3)]
    scores = (result(names[0], -0.2), result(names[1], -0.2), result(names[2], 0.9))
    state = fold([*(proposal(n) for n in (1, 2, 3)), submitted("b1", *names)], state)
    state = apply(state, BatchDone(at_ns=START_NS, id="b1", results=scores))
    assert ending(state, START_NS) is None
    refused = result(names[2], verdict=Verdict.WRONG_VALUES)
    state = fold([submitted("b2", names[2], purpose=Purpose.CONFIRM)], state)
    state = apply(state, BatchDone(at_ns=START_NS, id="b2", results=(refused,)))
    found = ending(state, START_NS)
    assert found is not None
    assert found.reason is StopReason.PLATEAU


def test_space_exhausted_without_a_model() -> None:
    tunable = Tunable(name="A", value="1", values=("1", "2"))
    limits = Limits(candidates=100, targets=(target(),))
    assert reason(World(limits=limits, seeds=1, tunables=(tunable,), fails=0.0).run()) is StopReason.EXHAUSTED


def test_no_viable_after_twenty_failures_and_no_success() -> None:
    journal = World(limits=llm_limits(candidates=500), fails=1.0).run()
    state = fold(journal)
    assert reason(journal) is StopReason.NO_VIABLE
    assert 20 <= state.finished <= 24
    assert state.stopped is not None
    assert "CompileError" in state.stopped.message


def test_no_viable_after_consecutive_failures() -> None:
    assert reason(World(limits=llm_limits(consecutive_failures=5), fails=1.0).run()) is StopReason.NO_VIABLE


def test_replies_that_never_hold_a_kernel_end_the_search() -> None:
    limits = llm_limits(candidates=None, duration_seconds=10**8, consecutive_failures=30)
    journal = World(limits=limits, garbage=1.0).run()
    assert reason(journal) is StopReason.NO_VIABLE
    assert fold(journal).failures["LLMInvalidOutput"].count >= 30


def test_harness_suspect_when_pods_keep_failing() -> None:
    journal = World(limits=llm_limits(candidates=400), infrastructure=0.6).run()
    assert reason(journal) in (StopReason.HARNESS_SUSPECT, StopReason.NO_TARGET_RAN)
    journal = World(limits=llm_limits(candidates=400), infrastructure=0.45).run()
    assert reason(journal) is StopReason.HARNESS_SUSPECT


@pytest.mark.parametrize(("late", "suspect"), [(0.0, False), (0.02, False), (0.05, True)])
def test_harness_suspect_when_the_baselines_drift_apart(late: float, suspect: bool) -> None:
    state, events = begun(candidates=1000), []
    for number in range(1, 21):
        arms = 0.1 if number <= 10 else 0.1 + late
        id = f"c{number}-cpu"
        events += [proposal(number), submitted(f"b{number}", id, purpose=Purpose.CONFIRM)]
        events += [BatchDone(at_ns=1, id=f"b{number}", results=(result(id, 0.1, arms=arms),))]
    found = ending(fold(events, state), START_NS)
    assert (found is not None and found.reason is StopReason.HARNESS_SUSPECT) is suspect


def test_no_target_ran_when_every_target_failed() -> None:
    limits = llm_limits(targets=(target("a"), target("b")))
    state = fold(World(limits=limits).opening())
    for name in ("a", "b"):
        state = apply(state, TargetFailed(at_ns=START_NS, target=name, reason="Unschedulable", message="no node"))
    stop = stop_of(state)
    assert stop.reason is StopReason.NO_TARGET_RAN
    assert "a: Unschedulable, no node" in stop.message


def test_a_probe_that_the_machine_spoils_three_times_fails_its_target() -> None:
    state = fold(World().opening())
    for attempt in range(3):
        (probe,) = ask(state, START_NS)
        assert getattr(probe, "attempt", None) == attempt
        events = World().announce(probe, state, START_NS)
        done = BatchDone(at_ns=START_NS, id=probe.id, results=(), infrastructure="ImagePull", message="no such image")  # type: ignore[union-attr]
        state = fold([*events, done], state)
    assert stop_of(state).reason is StopReason.NO_TARGET_RAN
    assert state.targets["cpu"].failed is not None
    assert state.targets["cpu"].failed.reason == "ImagePull"


def test_one_failed_target_does_not_end_the_others() -> None:
    limits = llm_limits(candidates=10, targets=(target("good"), target("bad")))
    world = World(limits=limits)
    failed = TargetFailed(at_ns=START_NS, target="bad", reason="ProfileNotFound", message="")
    state = fold(world.run([*world.opening(), failed]))
    assert state.stopped is not None
    assert state.stopped.reason is StopReason.BUDGET_EXHAUSTED
    assert state.targets["good"].asks == 10


@pytest.mark.parametrize("refusal", ["LLMUnauthorized", "LLMNotFound"])
def test_llm_unavailable_when_every_model_refuses_for_good(refusal: str) -> None:
    journal = World(limits=llm_limits(candidates=30), call_errors=1.0, error_reason=refusal).run()
    state = fold(journal)
    assert reason(journal) is StopReason.LLM_UNAVAILABLE
    assert state.ledger.calls <= 2
    assert state.stopped is not None
    assert refusal in state.stopped.message


def test_llm_unavailable_when_calls_only_ever_fail() -> None:
    limits = llm_limits(candidates=30, consecutive_failures=10)
    journal = World(limits=limits, call_errors=1.0, error_reason="LLMTimeout").run()
    assert reason(journal) is StopReason.LLM_UNAVAILABLE


def test_a_model_that_refused_is_tried_again_when_the_search_is_taken_up() -> None:
    from kernelsearch.search.journal import Resumed

    state = begun(models=(ModelLimits(name="m"),))
    state = fold([reserved("a1", 1), settled("a1", "error", reason="LLMUnauthorized", message="bad key")], state)
    assert stop_of(state).reason is StopReason.LLM_UNAVAILABLE
    state = apply(state, Resumed(at_ns=START_NS))
    assert not any(isinstance(action, Stop) for action in ask(state, START_NS))


def test_a_search_past_all_its_time_stops_whatever_still_runs() -> None:
    state = begun(candidates=None, duration_seconds=100)
    state = fold([proposal(1), submitted("b1", "c1-cpu")], state)
    assert ask(state, START_NS + 96 * SECOND) == (), "the running batch is awaited"
    assert stop_of(state, START_NS + 151 * SECOND).reason is StopReason.BUDGET_EXHAUSTED


def test_a_stop_waits_for_what_runs() -> None:
    state = begun(candidates=1)
    state = fold([reserved("a1", 1)], state)
    state = fold([proposal(1, call_id="a1"), settled("a1", "ok")], state)
    (batch,) = ask(state, START_NS)
    state = fold(World(limits=state.limits).announce(batch, state, START_NS), state)
    assert ask(state, START_NS) == ()
    failed = result("c1-cpu", verdict=Verdict.TIMEOUT, stage=Stage.CORRECTNESS)
    state = apply(state, BatchDone(at_ns=START_NS, id=batch.id, results=(failed,)))  # type: ignore[union-attr]
    assert stop_of(state).reason is StopReason.BUDGET_EXHAUSTED


def test_stop_reasons_that_are_failures() -> None:
    failures = {reason for reason in StopReason if reason.is_failure}
    assert failures == {
        StopReason.NO_VIABLE,
        StopReason.HARNESS_SUSPECT,
        StopReason.NO_TARGET_RAN,
        StopReason.LLM_UNAVAILABLE,
    }


def test_events_of_one_search_never_reach_past_its_stop() -> None:
    journal = World(limits=llm_limits(candidates=15)).run()
    state = fold(journal)
    assert journal[-1].type == "stopped"
    assert not state.calls_in_flight
    assert not state.batches_in_flight
    late = LlmSettled(at_ns=1, call_id="unknown", outcome="ok", input_tokens=1, output_tokens=1, cost_micros=1)
    assert apply(state, late) == state
    again = BatchSubmitted(at_ns=1, id="cpu-1-0", target="cpu", purpose=Purpose.PROBE, candidates=())
    assert apply(state, again) == state
    assert apply(state, probed("nowhere")) == state

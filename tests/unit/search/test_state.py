"""What the fold makes of events, and that saying a thing twice changes nothing."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernelharness.protocol import Purpose, Stage, Verdict
from kernelsearch.search.journal import (
    BatchDone,
    BatchSubmitted,
    CandidateProposed,
    Event,
    LimitsChanged,
    LlmReserved,
    LlmSettled,
    Operator,
    Paused,
    Resumed,
    Stopped,
    StopReason,
    dump_event,
    load_event,
)
from kernelsearch.search.state import State, apply, fold

from .world import SECOND, START_NS, World, llm_limits, probed, result


def begun(**changes: object) -> State:
    return fold([*World(limits=llm_limits(**changes)).opening(), probed("cpu")])


def proposal(
    number: int, *, source: str = "", operator: Operator = Operator.DRAFT, **more: object
) -> CandidateProposed:
    id = f"c{number}-cpu"
    fields = {"lane": id, "source_ref": source or id, **more}
    return CandidateProposed(at_ns=START_NS, id=id, ask_no=number, target="cpu", operator=operator, **fields)  # type: ignore[arg-type]


def submitted(id: str, *candidates: str, purpose: Purpose = Purpose.SEARCH) -> BatchSubmitted:
    return BatchSubmitted(at_ns=START_NS, id=id, target="cpu", purpose=purpose, candidates=candidates)


def reserved(call: str, number: int, **more: object) -> LlmReserved:
    fields = {"operator": Operator.DRAFT, "tokens": 1000, "cost_micros": 50, **more}
    return LlmReserved(at_ns=START_NS, call_id=call, ask_no=number, target="cpu", model="m", **fields)  # type: ignore[arg-type]


def settled(call: str, outcome: str, **more: object) -> LlmSettled:
    fields = {"input_tokens": 100, "output_tokens": 200, "cost_micros": 20, **more}
    return LlmSettled(at_ns=START_NS, call_id=call, outcome=outcome, **fields)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def journal() -> list[Event]:
    """A whole search with everything in it: failures, garbage, errors, evictions, confirmations, tuning."""
    return World(limits=llm_limits(candidates=60), infrastructure=0.1, call_errors=0.05).run()


def test_the_fold_is_the_same_every_time(journal: list[Event]) -> None:
    assert fold(journal) == fold(journal)
    half = len(journal) // 2
    assert fold(journal[half:], fold(journal[:half])) == fold(journal)


def test_the_fold_survives_the_journals_own_format(journal: list[Event]) -> None:
    assert fold(load_event(dump_event(event)) for event in journal) == fold(journal)


def test_earlier_states_stay_what_they_were(journal: list[Event]) -> None:
    states = [State()]
    for event in journal:
        states.append(apply(states[-1], event))
    for at in range(0, len(journal), 17):
        assert states[at] == fold(journal[:at])


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_an_event_that_comes_twice_counts_once(journal: list[Event], data: st.DataObject) -> None:
    once = ("llm_reserved", "llm_settled", "candidate_proposed", "batch_submitted", "batch_done", "search_started")
    at = data.draw(st.sampled_from([n for n, event in enumerate(journal) if event.type in once]))
    later = data.draw(st.integers(at + 1, len(journal)))
    assert fold([*journal[:later], journal[at], *journal[later:]]) == fold(journal)


def test_every_candidate_is_counted_once(journal: list[Event]) -> None:
    state = fold(journal)
    proposals = [event for event in journal if event.type == "candidate_proposed"]
    assert state.ledger.candidates == len(proposals) == len(state.candidates)
    assert state.ledger.evaluations == sum(c.result is not None for c in state.candidates.values())
    numbers = sorted(c.finished_no for c in state.candidates.values() if c.finished_no)
    assert numbers == list(range(1, state.finished + 1))


def test_a_call_is_charged_at_its_reservation_until_it_is_settled() -> None:
    state = fold([reserved("a1", 1), reserved("a2", 2)], begun())
    assert (state.ledger.reserved_micros, state.ledger.reserved_tokens, state.ledger.calls) == (100, 2000, 2)
    state = fold([settled("a1", "ok")], state)
    assert (state.ledger.cost_micros, state.ledger.reserved_micros) == (20, 50)
    assert (state.ledger.tokens, state.ledger.input_tokens, state.ledger.output_tokens) == (300, 100, 200)


def test_a_failed_call_is_charged_and_a_lost_one_in_full() -> None:
    state = fold([reserved("a1", 1), reserved("a2", 2)], begun())
    state = fold([settled("a1", "error"), settled("a2", "lost", input_tokens=0, output_tokens=0, cost_micros=0)], state)
    assert state.ledger.cost_micros == 20 + 50
    assert state.ledger.tokens == 300 + 1000
    assert not state.calls_in_flight


def test_time_counts_only_while_somebody_works_on_the_search() -> None:
    def at(seconds: int) -> int:
        return START_NS + seconds * SECOND

    state = begun(duration_seconds=100)
    assert state.ledger.active_seconds(at(10)) == 10
    state = fold([Paused(at_ns=at(10)), Resumed(at_ns=at(500))], state)
    assert state.ledger.active_seconds(at(505)) == 15
    died_at = at(510)
    state = apply(state, settled("unknown", "ok").model_copy(update={"at_ns": died_at}))
    state = apply(state, Resumed(at_ns=at(9000)))
    assert state.ledger.active_seconds(at(9001)) == 21
    state = apply(state, Stopped(at_ns=at(9002), reason=StopReason.PLATEAU, message=""))
    assert state.ledger.active_seconds(at(99999)) == 22
    state = apply(state, LimitsChanged(at_ns=at(99999), generation=2, limits=state.limits))
    assert state.stopped is None
    assert state.ledger.active_seconds(at(100000)) == 23


def test_a_clock_that_jumps_back_takes_no_time_away() -> None:
    state = begun()
    state = fold([Paused(at_ns=START_NS + 50 * SECOND), Resumed(at_ns=START_NS + 20 * SECOND)], state)
    assert state.ledger.active_seconds(START_NS + 60 * SECOND) == 60
    assert state.last_at_ns == START_NS + 50 * SECOND


def test_an_equal_source_is_a_clone_that_is_never_evaluated() -> None:
    state = fold([proposal(1, source="s"), proposal(2, source="s")], begun())
    assert state.candidates["c2-cpu"].alias_of == "c1-cpu"
    assert state.targets["cpu"].queue == ("c1-cpu",)
    state = fold([submitted("b1", "c1-cpu"), BatchDone(at_ns=1, id="b1", results=(result("c1-cpu", 0.3),))], state)
    assert state.resolve("c2-cpu").score == pytest.approx(0.3)
    assert state.ledger.evaluations == 1


def test_results_for_candidates_outside_the_batch_are_ignored() -> None:
    state = fold([proposal(1), proposal(2), submitted("b1", "c1-cpu")], begun())
    forged = BatchDone(at_ns=1, id="b1", results=(result("c1-cpu", 0.1), result("c2-cpu", 9.0), result("c1-cpu", 9.0)))
    state = apply(state, forged)
    assert state.candidates["c2-cpu"].result is None
    assert state.candidates["c1-cpu"].score == pytest.approx(0.1)


def test_the_machines_fault_puts_a_candidate_back_twice_and_not_more() -> None:
    state = fold([proposal(1)], begun())
    for attempt in range(3):
        assert state.targets["cpu"].queue == ("c1-cpu",)
        id = f"b{attempt}"
        done = BatchDone(at_ns=1, id=id, results=(), node=f"n{attempt}", infrastructure="Evicted", message="drained")
        state = fold([submitted(id, "c1-cpu"), done], state)
    candidate = state.candidates["c1-cpu"]
    assert state.targets["cpu"].queue == ()
    assert (candidate.attempts, candidate.given_up, candidate.finished) == (3, "Evicted", True)
    assert candidate.bad_nodes == ("n0", "n1", "n2")
    assert state.ledger.evaluations == 0
    assert state.failures["Evicted"].count == 3


def test_a_noisy_node_is_not_the_candidates_fault() -> None:
    noisy = result("c1-cpu", verdict=Verdict.NOISY_NODE)
    state = fold(
        [proposal(1), submitted("b1", "c1-cpu"), BatchDone(at_ns=1, id="b1", results=(noisy,), node="n")], begun()
    )
    assert state.targets["cpu"].queue == ("c1-cpu",)
    assert state.candidates["c1-cpu"].result is None
    assert not state.candidates["c1-cpu"].suspect


def test_the_one_that_was_being_judged_when_the_pod_died_is_suspect() -> None:
    names = ("c1-cpu", "c2-cpu", "c3-cpu")
    state = fold([proposal(1), proposal(2), proposal(3), submitted("b1", *names)], begun())
    died = BatchDone(at_ns=1, id="b1", results=(result("c1-cpu"),), infrastructure="OutOfMemory")
    state = apply(state, died)
    assert state.targets["cpu"].queue == ("c2-cpu", "c3-cpu")
    assert [state.candidates[name].suspect for name in names] == [False, True, False]


def test_failures_are_counted_by_reason_with_the_last_message() -> None:
    failed = result("c1-cpu", verdict=Verdict.WRONG_VALUES, stage=Stage.CORRECTNESS)
    state = fold([proposal(1), submitted("b1", "c1-cpu"), BatchDone(at_ns=5, id="b1", results=(failed,))], begun())
    assert state.failures["WrongResult"].count == 1
    assert state.failures["WrongResult"].last_message == "it failed"
    assert state.targets["cpu"].repairable == ("c1-cpu",)


def test_cheats_are_not_worth_a_repair() -> None:
    caught = result("c1-cpu", verdict=Verdict.TAMPERING)
    state = fold([proposal(1), submitted("b1", "c1-cpu"), BatchDone(at_ns=5, id="b1", results=(caught,))], begun())
    assert state.targets["cpu"].repairable == ()
    assert state.failures["Tampering"].count == 1


def test_a_target_can_be_added_to_a_search_that_runs() -> None:
    from .world import target

    state = begun()
    more = state.limits.model_copy(update={"targets": (target("cpu"), target("other"))})
    state = apply(state, LimitsChanged(at_ns=START_NS, generation=2, limits=more))
    assert state.targets["cpu"].probed
    assert not state.targets["other"].probed

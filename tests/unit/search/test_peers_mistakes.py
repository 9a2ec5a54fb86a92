"""Mistakes that other kernel searches made and published results with. One test each (the peer is named)."""

from collections import Counter

import pytest
from kernelharness.protocol import Purpose, Verdict
from kernelsearch.search.edits import ReplyError, parse_reply
from kernelsearch.search.journal import BatchDone, Operator
from kernelsearch.search.state import State, fold

from .test_state import begun, proposal, submitted
from .world import World, llm_limits, result


def test_a_timed_out_candidate_never_scores() -> None:
    """OpenEvolve: a timeout scored 0.5, because True counted as 1.0."""
    timed_out = result("c1-cpu", verdict=Verdict.TIMEOUT)
    state = fold([proposal(1), submitted("b1", "c1-cpu"), BatchDone(at_ns=1, id="b1", results=(timed_out,))], begun())
    candidate = state.candidates["c1-cpu"]
    assert (candidate.score, candidate.speedup, candidate.eligible) == (None, None, False)
    assert state.lanes["c1-cpu"].top == ()
    assert state.leaderboard("cpu") == ()


def test_the_best_is_favoured_as_a_parent() -> None:
    """OpenEvolve: P(parent = best of 80) was 0.013, against 0.012 for a uniform choice."""
    journal = World(limits=llm_limits(candidates=80), fails=0.2).run()
    state, favoured, edits = State(), 0, 0
    for event in journal:
        if event.type == "llm_reserved" and event.operator is Operator.EDIT and event.lane:
            edits += 1
            favoured += event.parent == state.lanes[event.lane].top[0]
        state = fold([event], state)
    assert edits > 20
    assert favoured / edits > 0.6


def test_an_unmatched_edit_is_an_error_and_never_the_unchanged_parent() -> None:
    """OpenEvolve: a diff that did not match evaluated the unchanged program."""
    reply = "PLAN: p\n<<<<<<< SEARCH\nnot there\n=======\nnew\n>>>>>>> REPLACE\n"
    with pytest.raises(ReplyError, match="does not occur"):
        parse_reply(reply, "int f();\n")


def test_clones_of_a_parent_that_nobody_improved_do_not_fill_the_beam() -> None:
    """KernelAgent: the beam filled with copies of one kernel."""
    names = [f"c{n}-cpu" for n in range(1, 6)]
    same_binary = [result(name, 0.3 + 0.01 * n, binary="one binary") for n, name in enumerate(names)]
    events = [proposal(1), *(proposal(n, lane="c1-cpu", parent="c1-cpu") for n in range(2, 6))]
    state = fold([*events, submitted("b1", *names), BatchDone(at_ns=1, id="b1", results=tuple(same_binary))], begun())
    assert state.lanes["c1-cpu"].top == ("c1-cpu",)
    assert [c.id for c in state.leaderboard("cpu")] == ["c1-cpu"]
    assert {state.resolve(name).id for name in names} == {"c1-cpu"}


def test_a_resumed_search_keeps_what_was_in_flight() -> None:
    """Shinka: resuming lost the work in flight and spent its budget. (Every single cut: test_policy.py.)"""
    world = World(limits=llm_limits(candidates=30))
    whole = world.run()
    busy = max(range(len(whole)), key=lambda n: _in_flight(fold(whole[:n])))
    resumed = fold(world.run(whole[:busy]))
    assert resumed == fold(whole)


def _in_flight(state: State) -> int:
    return len(state.calls_in_flight) + len(state.batches_in_flight)


def test_a_best_that_only_a_warm_process_reaches_is_not_published() -> None:
    """GEAK: the best lived on a process-wide cache and was 8.7 times slower when cold."""

    def judge(state: State, id: str, batch: str) -> object:
        cached = id == "c2-cpu"
        confirming = state.batches[batch].submitted.purpose is Purpose.CONFIRM
        return result(id, (-1.86 if confirming else 0.9) if cached else 0.2, se=0.002)

    state = fold(World(limits=llm_limits(candidates=20), judge=judge).run())  # type: ignore[arg-type]
    assert state.candidates["c2-cpu"].confirmations
    assert state.winners["cpu"].id != "c2-cpu"
    assert state.winners["cpu"].speedup == pytest.approx(1.221, abs=0.001)


def test_a_verified_kernel_names_the_binary_that_was_timed() -> None:
    """OpenEvolve: the timed process never loaded the new kernel."""
    state = fold(World(limits=llm_limits(candidates=30)).run())
    best = state.winners["cpu"]
    assert Counter(answer.binary_hash for answer in best.results) == {f"binary of {best.id}": len(best.results)}

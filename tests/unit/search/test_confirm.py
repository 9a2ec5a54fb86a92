"""Only what fresh pods confirmed is verified, and a best that does not hold loses."""

from kernelharness.protocol import Purpose, Result, Verdict
from kernelsearch.search.actions import SubmitBatch
from kernelsearch.search.fold_batches import agreeing
from kernelsearch.search.journal import BatchDone, Event, StopReason
from kernelsearch.search.policy import ask
from kernelsearch.search.scoring import Score
from kernelsearch.search.state import State, apply, fold

from .test_state import begun, proposal, submitted
from .world import START_NS, World, llm_limits, result


def searched(**scores: float) -> State:
    """A search at its end with these candidates, each measured once: c1=0.3 is c1-cpu at exp(0.3)x."""
    names = [f"{name}-cpu" for name in scores]
    events: list[Event] = [proposal(int(name[1:])) for name in scores]
    done = BatchDone(
        at_ns=START_NS,
        id="b1",
        node="n1",
        results=tuple(result(f"{name}-cpu", score) for name, score in scores.items()),
    )
    return fold([*events, submitted("b1", *names), done], begun(candidates=len(scores)))


def step(state: State, answer: Result, node: str = "n2", infrastructure: str = "") -> State:
    """Let the next confirmation run and end like this."""
    (action,) = ask(state, START_NS)
    assert isinstance(action, SubmitBatch)
    assert action.purpose is Purpose.CONFIRM
    events = World(limits=state.limits).announce(action, state, START_NS)
    answers = () if infrastructure else (answer.model_copy(update={"candidate": action.candidates[0]}),)
    done = BatchDone(at_ns=START_NS, id=action.id, results=answers, node=node, infrastructure=infrastructure)
    return fold([*events, done], state)


def test_the_best_is_verified_after_enough_fresh_pods_agree() -> None:
    state = searched(c1=0.3, c2=0.2)
    for _ in range(3):
        assert not state.candidates["c1-cpu"].verified
        assert state.winners == {}
        state = step(state, result("", 0.28))
    best = state.candidates["c1-cpu"]
    assert best.verified
    assert best.score is not None
    assert abs(best.score - 0.28) < 1e-9, "the search's own measurement was chosen for being high, so it does not count"
    assert state.winners == {"cpu": best}
    assert len(best.results) == 4


def test_each_confirmation_avoids_the_nodes_before_it() -> None:
    state = step(searched(c1=0.3), result("", 0.3), node="n2")
    (action,) = ask(state, START_NS)
    assert isinstance(action, SubmitBatch)
    assert action.avoid_nodes == ("n1", "n2")


def test_a_best_that_fails_in_a_fresh_pod_loses_and_the_next_is_confirmed() -> None:
    state = step(searched(c1=0.9, c2=0.2), result("", verdict=Verdict.WRONG_VALUES))
    assert "WRONG_VALUES" in state.candidates["c1-cpu"].refused
    assert state.targets["cpu"].best == "c2-cpu"
    assert state.lanes["c1-cpu"].top == ()
    for _ in range(3):
        state = step(state, result("", 0.2))
    assert state.targets["cpu"].confirmed_best == "c2-cpu"


def test_a_best_that_is_slow_in_a_fresh_pod_is_overtaken_after_one_pod() -> None:
    state = step(searched(c1=0.9, c2=0.2), result("", 0.05))
    assert state.targets["cpu"].best == "c2-cpu"
    (action,) = ask(state, START_NS)
    assert isinstance(action, SubmitBatch)
    assert action.candidates == ("c2-cpu",)


def test_pods_that_disagree_are_asked_again_and_the_slowest_agreement_counts() -> None:
    state = searched(c1=0.3)
    for score in (0.30, 0.10, 0.11, 0.31):
        state = step(state, result("", score))
    assert not state.candidates["c1-cpu"].verified
    state = step(state, result("", 0.12))
    best = state.candidates["c1-cpu"]
    assert best.verified
    assert best.score is not None
    assert abs(best.score - 0.11) < 1e-9


def test_a_best_whose_pods_never_agree_is_refused() -> None:
    state = searched(c1=0.6)
    for score in (0.3, 0.4, 0.5, 0.6, 0.7, 0.8):
        state = step(state, result("", score))
    assert "no 3 of 6 fresh pods agree" in state.candidates["c1-cpu"].refused
    assert state.winners == {}


def test_agreement_is_a_matter_of_percent() -> None:
    scores = [Score(0.0, 0.0), Score(0.04, 0.0), Score(0.30, 0.0)]
    assert agreeing(scores, 2, 5) == (scores[0], scores[1])
    assert agreeing(scores, 3, 5) == ()
    assert agreeing(scores[:1], 1, 5) == (scores[0],)


def test_a_spoilt_confirmation_says_nothing_but_not_for_ever() -> None:
    state = searched(c1=0.3)
    for _ in range(2):
        state = step(state, result(""), infrastructure="Evicted")
        assert not state.candidates["c1-cpu"].refused
    state = step(state, result(""), infrastructure="Evicted")
    assert "Evicted" in state.candidates["c1-cpu"].refused


def test_nothing_slower_than_the_reference_is_confirmed_or_published() -> None:
    (stop,) = ask(searched(c1=0.005, c2=-0.3), START_NS)
    assert getattr(stop, "reason", None) is StopReason.BUDGET_EXHAUSTED


def test_a_kernel_that_slows_one_case_down_is_never_the_best() -> None:
    slow = result("c1-cpu", 0.5)
    cases = [slow.cases[0], slow.cases[0].model_copy(update={"case": "other", "mean_log_ratio": -0.2})]
    state = fold([proposal(1), submitted("b1", "c1-cpu")], begun())
    done = BatchDone(at_ns=START_NS, id="b1", results=(slow.model_copy(update={"cases": cases}),))
    state = apply(state, done)
    assert state.targets["cpu"].best is None
    assert state.lanes["c1-cpu"].top == ("c1-cpu",), "it may still be a parent"


def test_parents_may_be_provisional_but_winners_are_verified() -> None:
    journal = World(limits=llm_limits(candidates=60)).run()
    states = [fold(journal[:at]) for at in range(0, len(journal), 7)]
    assert all(candidate.verified for state in states for candidate in state.winners.values())
    final = fold(journal)
    parents = {c.parent for c in final.candidates.values() if c.parent}
    assert any(not final.candidates[parent].verified for parent in parents)
    assert final.winners["cpu"].verified


def test_the_verified_best_never_regresses_unless_it_is_overtaken() -> None:
    journal = World(limits=llm_limits(candidates=80)).run()
    state, best = State(), 0.0
    for event in journal:
        state = apply(state, event)
        for winner in state.winners.values():
            assert winner.score is not None
            assert winner.score >= best
            best = winner.score


def test_the_provisional_best_is_confirmed_before_the_budget_stops_the_search() -> None:
    for seed_limits in (llm_limits(candidates=20), llm_limits(candidates=35), llm_limits(tokens=600_000)):
        state = fold(World(limits=seed_limits).run())
        target = state.targets["cpu"]
        assert state.stopped is not None
        assert state.stopped.reason is StopReason.BUDGET_EXHAUSTED
        best = state.candidates[target.best] if target.best else None
        verified = state.candidates[target.confirmed_best] if target.confirmed_best else None
        assert best is not None
        assert best.verified or (verified and not best.estimate.beats(verified.estimate))  # type: ignore[union-attr,arg-type]

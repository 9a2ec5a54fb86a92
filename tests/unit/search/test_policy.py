"""What is asked for, step by step and over whole searches in a pure world."""

from collections import Counter
from functools import cache
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernelharness.protocol import Purpose
from kernelsearch.search import budget, lanes
from kernelsearch.search.actions import CallModel, ProposeTuned, SubmitBatch
from kernelsearch.search.journal import (
    BatchDone,
    Event,
    Limits,
    LlmSettled,
    ModelLimits,
    Operator,
    Paused,
    Resumed,
    StopReason,
    Tunable,
)
from kernelsearch.search.operators import generator
from kernelsearch.search.policy import ask, wake_ns
from kernelsearch.search.state import State, apply, fold
from kernelsearch.search.width import under_way

from .test_state import begun, proposal, reserved, settled, submitted
from .world import SECOND, START_NS, World, llm_limits, probed, result, target

A = Tunable(name="A", value="1", values=("1", "2", "3"))
B = Tunable(name="B", value="1", values=("1", "2", "3", "4"))


def no_llm(**changes: object) -> Limits:
    return llm_limits(has_llm=False, models=(), **{"candidates": None, "duration_seconds": 100_000, **changes})


def states_of(journal: list[Event]) -> list[State]:
    states = [State()]
    for event in journal:
        states.append(apply(states[-1], event))
    return states


@cache
def _played(candidates: int, infrastructure: float) -> tuple[World, list[Event]]:
    """A whole search, played once for all examples of a property."""
    limits = llm_limits(candidates=candidates)
    world = World(limits=limits, seeds=1, tunables=(A, B), infrastructure=infrastructure, call_errors=0.05)
    return world, world.run()


# -- the first steps ---------------------------------------------------------------------------------------------------


def test_every_target_is_probed_before_anything_else() -> None:
    world = World(limits=llm_limits(targets=(target("a"), target("b"))), seeds=1)
    state = fold(world.opening())
    actions = ask(state, START_NS)
    assert [(a.target, a.purpose, a.candidates) for a in actions if isinstance(a, SubmitBatch)] == [
        ("a", Purpose.PROBE, ()),
        ("b", Purpose.PROBE, ()),
    ]
    assert len(actions) == 2


def test_seeds_are_evaluated_first_and_together() -> None:
    world = World(limits=no_llm(), seeds=3)
    state = apply(fold(world.opening()), probed("cpu"))
    (batch,) = ask(state, START_NS)
    assert isinstance(batch, SubmitBatch)
    assert batch.candidates == ("c1-cpu", "c2-cpu", "c3-cpu")


def test_a_search_without_seeds_begins_with_drafts() -> None:
    actions = ask(begun(candidates=60), START_NS)
    assert [(a.operator, a.lane, a.parent) for a in actions if isinstance(a, CallModel)] == [
        (Operator.DRAFT, None, None)
    ] * 2
    assert len(actions) == 2


@pytest.mark.parametrize(("candidates", "at_once"), [(20, 2), (60, 2), (120, 4), (240, 8), (480, 8)])
def test_calls_at_once_follow_the_budget(candidates: int, at_once: int) -> None:
    limits = {"targets": (target(parallelism=2, batch_size=4),), "max_concurrent_requests": 64}
    journal = World(limits=llm_limits(candidates=candidates, **limits), fails=0.0).run(most_events=150)
    states = states_of(journal)
    assert max(under_way(state, state.targets["cpu"]) for state in states if state.targets) == at_once


def test_never_more_calls_than_the_endpoint_allows() -> None:
    journal = World(limits=llm_limits(candidates=240, max_concurrent_requests=3)).run(most_events=200)
    assert max(len(state.calls_in_flight) for state in states_of(journal)) == 3


def test_nothing_is_asked_of_a_search_that_is_paused_or_stopped() -> None:
    state = apply(begun(), Paused(at_ns=START_NS))
    assert ask(state, START_NS) == ()
    assert ask(apply(state, Resumed(at_ns=START_NS)), START_NS) != ()
    stopped = fold(World(limits=llm_limits(candidates=5)).run())
    assert ask(stopped, stopped.last_at_ns) == ()


# -- level-based -------------------------------------------------------------------------------------------------------


@given(cut=st.integers(0, 10_000), candidates=st.sampled_from([12, 24]), infrastructure=st.sampled_from([0.0, 0.1]))
@settings(max_examples=40, deadline=None)
def test_asking_is_pure_and_ends_when_everything_is_journalled(
    cut: int, candidates: int, infrastructure: float
) -> None:
    world, journal = _played(candidates, infrastructure)
    state = fold(journal[: cut % (len(journal) + 1)])
    now_ns = state.last_at_ns
    rounds = 0
    while actions := ask(state, now_ns):
        assert actions == ask(state, now_ns)
        for action in actions:
            state = fold(world.announce(action, state, now_ns), state)
        rounds += 1
        assert rounds < 20
    assert ask(state, now_ns) == ()


def test_a_search_taken_up_after_any_event_is_the_uninterrupted_one() -> None:
    world, whole = _played(16, 0.1)
    assert fold(whole).stopped is not None
    begin = len(world.opening())
    for cut in range(begin, len(whole)):
        one_transaction = (whole[cut - 1].type, whole[cut].type) in (
            ("candidate_proposed", "llm_settled"),
            ("target_probed", "batch_done"),
        )
        if not one_transaction:
            assert world.run(whole[:cut]) == whole, f"cut after event {cut}, a {whole[cut - 1].type}"


@given(cut=st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_cut_off_anywhere_a_search_loses_nothing_and_counts_nothing_twice(cut: int) -> None:
    world, whole = _played(24, 0.1)
    begin = len(world.opening())
    prefix = whole[: begin + cut % (len(whole) - begin)]
    state = fold(prefix)
    lost = [
        LlmSettled(at_ns=state.last_at_ns, call_id=id, outcome="lost", input_tokens=0, output_tokens=0, cost_micros=0)
        for id, call in state.calls_in_flight.items()
        if f"c{call.ask_no}-{call.target}" not in state.candidates
    ]
    final = fold(world.run([*prefix, *lost, Resumed(at_ns=state.last_at_ns)]))
    assert final.stopped is not None
    assert final.ledger.candidates == 24
    assert all(candidate.finished for candidate in final.candidates.values())
    assert not final.calls_in_flight
    assert not final.batches_in_flight
    evaluated = Counter(
        id for b in final.batches.values() if b.submitted.purpose is Purpose.SEARCH for id in b.submitted.candidates
    )
    for id, times in evaluated.items():
        assert times <= 1 + final.candidates[id].attempts


def test_the_same_seed_gives_the_same_journal() -> None:
    one, two = (World(limits=llm_limits(candidates=40), tunables=(A,), seeds=1).run() for _ in range(2))
    assert one == two


def test_each_ask_has_its_own_randomness() -> None:
    state = begun()
    later = apply(state, reserved("a1", 1))
    assert generator(state).random() == generator(state).random()
    assert generator(state).random() != generator(later).random()


@given(
    candidates=st.sampled_from([None, 3, 12]),
    tokens=st.sampled_from([None, 50_000, 300_000]),
    duration=st.sampled_from([300, 2000]),
    roles=st.sampled_from([(), ("Propose",), ("Repair",)]),
    targets=st.sampled_from([1, 3]),
    fails=st.sampled_from([0.0, 0.5, 1.0]),
    errors=st.sampled_from([0.0, 0.3, 1.0]),
    infrastructure=st.sampled_from([0.0, 0.3, 1.0]),
    seeds=st.sampled_from([0, 2]),
)
@settings(max_examples=25, deadline=None)
def test_no_search_is_ever_stuck(
    candidates: int | None,
    tokens: int | None,
    duration: int,
    roles: tuple[str, ...],
    targets: int,
    fails: float,
    errors: float,
    infrastructure: float,
    seeds: int,
) -> None:
    models = (
        ModelLimits(name="dear", roles=roles),
        ModelLimits(name="cheap", roles=("Rewrite",), max_output_tokens=256),
    )
    limits = llm_limits(
        candidates=candidates,
        tokens=tokens,
        duration_seconds=duration,
        models=models,
        targets=tuple(target(f"t{n}") for n in range(targets)),
        without_improvement=15,
    )
    world = World(
        limits=limits, fails=fails, call_errors=errors, infrastructure=infrastructure, seeds=seeds, tunables=(A,)
    )
    state = fold(world.run(most_events=3000))
    assert state.stopped is not None
    assert state.stopped.message


# -- budget ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "limits",
    [
        {"candidates": 17},
        {"candidates": None, "tokens": 333_333},
        {"candidates": None, "cost_micros": 2_222_222},
        {"candidates": 30, "tokens": 200_000, "cost_micros": 900_000},
        {"candidates": None, "accelerator_seconds": 150},
        {"candidates": None, "duration_seconds": 600},
    ],
)
def test_no_limit_is_passed_by_more_than_one_reservation(limits: dict[str, int | None]) -> None:
    world = World(limits=llm_limits(**limits, targets=(target(parallelism=3),)), call_errors=0.05)
    journal = world.run()
    for state in states_of(journal):
        ledger = state.ledger
        if tokens := limits.get("tokens"):
            assert ledger.tokens + ledger.reserved_tokens <= tokens + 20_000
        if cost := limits.get("cost_micros"):
            assert ledger.cost_micros + ledger.reserved_micros <= cost + 100_000
        if candidates := limits.get("candidates"):
            assert ledger.candidates + budget.open_asks(state) <= candidates
    final = fold(journal)
    assert final.stopped is not None
    assert final.stopped.reason is StopReason.BUDGET_EXHAUSTED
    if seconds := limits.get("accelerator_seconds"):
        assert final.ledger.device_seconds <= seconds + 3 * 6
    if duration := limits.get("duration_seconds"):
        assert final.ledger.active_seconds(final.last_at_ns) <= duration + budget.kept_seconds(final)
    assert final.winners["cpu"].verified


def test_lost_and_failed_calls_are_paid_for() -> None:
    state = begun(candidates=None, cost_micros=100, models=(ModelLimits(name="m", max_output_tokens=256),))
    state = fold([reserved("a1", 1, cost_micros=60), settled("a1", "lost", cost_micros=0)], state)
    assert state.ledger.cost_micros == 60
    (stop,) = ask(state, START_NS)
    assert getattr(stop, "reason", None) is StopReason.BUDGET_EXHAUSTED
    assert "a call of m may cost" in stop.message  # type: ignore[union-attr]


def test_a_raised_budget_takes_a_stopped_search_up_again() -> None:
    world = World(limits=llm_limits(candidates=12))
    journal = world.run()
    assert fold(journal).stopped is not None
    more = World(limits=llm_limits(candidates=20))
    raised = more.opening()[1].model_copy(update={"generation": 2, "at_ns": journal[-1].at_ns})
    final = fold(more.run([*journal, raised]))
    assert final.ledger.candidates == 20
    assert final.stopped is not None


def test_a_raised_budget_forgives_what_spoke_against_going_on() -> None:
    world = World(limits=llm_limits(candidates=400), infrastructure=0.45)
    journal = world.run()
    stopped = fold(journal)
    assert stopped.stopped is not None
    assert stopped.stopped.reason is StopReason.HARNESS_SUSPECT
    raised = world.opening()[1].model_copy(update={"generation": 2, "at_ns": journal[-1].at_ns})
    assert ask(apply(stopped, raised), journal[-1].at_ns)


def test_targets_share_the_budget_evenly() -> None:
    limits = llm_limits(candidates=60, targets=(target("a"), target("b"), target("c")))
    state = fold(World(limits=limits).run())
    asks = [known.asks for known in state.targets.values()]
    assert sum(asks) == 60
    assert max(asks) - min(asks) <= 4


# -- lanes and parents -------------------------------------------------------------------------------------------------


def test_the_best_of_a_lane_is_the_most_likely_parent_by_far() -> None:
    lane = lanes.Lane("c1-cpu", "cpu", top=tuple(f"c{n}-cpu" for n in range(1, 7)))
    state = begun()
    counts: Counter[str] = Counter()
    for number in range(2000):
        state = apply(state, reserved(f"a{number}", number))
        counts[lanes.choose_parent(lane, generator(state))] += 1
    ranked = [counts[id] for id in lane.top]
    assert ranked[0] > 0.78 * 2000
    assert all(a > b for a, b in pairwise(ranked[:4]))


def test_a_lane_that_gains_is_worth_more_than_its_score_while_there_is_budget() -> None:
    state = fold(
        [proposal(1), submitted("b1", "c1-cpu"), BatchDone(at_ns=1, id="b1", results=(result("c1-cpu", 0.4),))], begun()
    )
    flat = lanes.Lane("c1-cpu", "cpu", top=("c1-cpu",), trail=(0.4,) * 11)
    climbing = lanes.Lane("c1-cpu", "cpu", top=("c1-cpu",), trail=(0.1, *(0.4,) * 10))
    assert lanes.value(state, climbing, 1.0) == pytest.approx(0.4 + 1.5 * 0.3)
    assert lanes.value(state, climbing, 0.0) == lanes.value(state, flat, 0.0)


def test_operators_come_in_their_proportions() -> None:
    state = fold(World(limits=llm_limits(candidates=400), tunables=(A, B), fails=0.3).run())
    share = {operator: count / 400 for operator, count in state.progress.by_operator.items()}
    assert 0.12 < share[Operator.REPAIR] < 0.40
    assert share[Operator.EDIT] > share[Operator.TUNE] > 0.05
    assert 0 < share[Operator.REWRITE] < 0.15
    assert share[Operator.DRAFT] == 4 / 400


def test_a_failed_candidate_is_repaired_once_and_only_two_deep() -> None:
    state = fold(World(limits=llm_limits(candidates=200), fails=0.6).run())
    repairs = [c for c in state.candidates.values() if c.operator is Operator.REPAIR]
    assert len({c.parent for c in repairs}) == len(repairs)
    assert {c.depth for c in repairs} == {1, 2}
    assert all(state.candidates[c.parent].score is None for c in repairs if c.parent)


def test_a_rewrite_opens_a_lane_that_gets_its_chance() -> None:
    state = fold(World(limits=llm_limits(candidates=300), fails=0.2).run())
    rewrites = [c for c in state.candidates.values() if c.operator is Operator.REWRITE]
    assert rewrites
    assert all(c.lane == c.id for c in rewrites)
    early = [state.lanes[c.id] for c in rewrites if state.lanes[c.id].top and c.proposal.ask_no < 150]
    assert early
    assert all(lane.asks >= lanes.PROVEN_ASKS for lane in early)


# -- tuning without a model --------------------------------------------------------------------------------------------


def test_without_a_model_every_setting_of_every_seed_is_tried_once() -> None:
    state = fold(World(limits=no_llm(), seeds=2, tunables=(A, B), fails=0.1).run())
    assert state.stopped is not None
    assert state.stopped.reason is StopReason.EXHAUSTED
    assert state.ledger.candidates == 2 * 3 * 4
    assert state.ledger.calls == 0
    tried = [(c.template, tuple(t.value for t in c.proposal.tunables)) for c in state.candidates.values()]
    assert len(set(tried)) == len(tried)
    assert state.winners["cpu"].verified


def test_without_a_model_the_neighbourhood_of_the_best_comes_first() -> None:
    def truth(state: State, id: str) -> float:
        values = {t.name: int(t.value) for t in state.candidates[id].proposal.tunables}
        return 0.1 * values["A"] - 0.2 * abs(values["B"] - 3)

    wide = Tunable(name="C", value="0", values=tuple(map(str, range(8))))
    limits = no_llm(candidates=40, targets=(target(batch_size=2),))
    state = fold(World(limits=limits, seeds=1, tunables=(A, B, wide), truth=truth, fails=0.0).run())
    best = {t.name: t.value for t in state.winners["cpu"].proposal.tunables}
    assert (best["A"], best["B"]) == ("3", "3"), "96 settings, 40 tried"


def test_with_a_model_tuning_spends_no_token() -> None:
    journal = World(limits=llm_limits(candidates=80), tunables=(A, B)).run()
    tuned = [c for c in fold(journal).candidates.values() if c.operator is Operator.TUNE]
    assert tuned
    assert all(c.proposal.call_id == "" for c in tuned)


# -- batching ----------------------------------------------------------------------------------------------------------


def test_a_full_batch_goes_at_once() -> None:
    state = fold([reserved("a9", 9), *(proposal(n) for n in range(1, 5))], begun(candidates=400))
    batches = [action for action in ask(state, START_NS) if isinstance(action, SubmitBatch)]
    assert [batch.candidates for batch in batches] == [tuple(f"c{n}-cpu" for n in range(1, 5))]


def test_a_partial_batch_waits_for_running_calls_but_not_for_ever() -> None:
    state = fold([reserved("a9", 9), reserved("a8", 8), proposal(1)], begun(candidates=60))
    assert not [a for a in ask(state, START_NS) if isinstance(a, SubmitBatch)]
    wake = wake_ns(state, START_NS)
    assert wake == START_NS + 20 * SECOND
    assert [a.candidates for a in ask(state, wake) if isinstance(a, SubmitBatch)] == [("c1-cpu",)]


def test_a_partial_batch_goes_when_nothing_can_fill_it() -> None:
    state = fold([proposal(1)], begun(candidates=1))
    assert [a.candidates for a in ask(state, START_NS) if isinstance(a, SubmitBatch)] == [("c1-cpu",)]


def test_no_more_batches_than_pods() -> None:
    journal = World(limits=llm_limits(candidates=100, targets=(target(parallelism=2, batch_size=1),))).run()
    open_batches = [len(state.batches_in_flight) for state in states_of(journal)]
    assert max(open_batches) == 2


def test_a_suspect_runs_alone_on_another_node() -> None:
    names = tuple(f"c{n}-cpu" for n in range(1, 4))
    died = BatchDone(
        at_ns=START_NS, id="b1", results=(result("c1-cpu", -1.0),), node="n1", infrastructure="OutOfMemory"
    )
    state = fold([*(proposal(n) for n in range(1, 4)), submitted("b1", *names), died], begun(candidates=3))
    (batch,) = ask(state, START_NS)
    assert isinstance(batch, SubmitBatch)
    assert (batch.candidates, batch.attempt, batch.avoid_nodes) == (("c2-cpu",), 1, ("n1",))


def test_batch_ids_are_never_used_twice() -> None:
    journal = World(limits=llm_limits(candidates=60), infrastructure=0.1).run()
    ids = [event.id for event in journal if event.type == "batch_submitted"]
    assert len(ids) == len(set(ids))
    assert all(id.startswith("cpu-") for id in ids)


def test_a_slow_target_does_not_hold_the_others_up() -> None:
    limits = llm_limits(candidates=40, targets=(target("fast"), target("slow")))
    world = World(limits=limits)
    state = apply(apply(fold(world.opening()), probed("fast")), probed("slow"))
    for _ in range(40):  # nothing ever comes back from the slow one
        for action in ask(state, START_NS):
            state = fold(world.announce(action, state, START_NS), state)
        call = next((c for c in state.calls_in_flight.values()), None)
        if call:
            state = fold(world.answer_call(state, call, START_NS), state)
        batch = next((b for b in state.batches_in_flight.values() if b.target == "fast"), None)
        if batch:
            state = fold(world.answer_batch(state, batch, START_NS), state)
    assert state.targets["fast"].finished > 15


# -- models ------------------------------------------------------------------------------------------------------------


def test_roles_choose_the_model() -> None:
    models = (ModelLimits(name="big", roles=("Propose", "Rewrite")), ModelLimits(name="small", roles=("Repair",)))
    state = fold(World(limits=llm_limits(candidates=100, models=models), fails=0.5).run())
    used = {
        (c.operator, c.proposal.call_id and state.calls[c.proposal.call_id].model) for c in state.candidates.values()
    }
    assert (Operator.REPAIR, "small") in used
    assert {model for operator, model in used if operator is not Operator.REPAIR} == {"big"}


def test_a_failing_model_is_left_alone_ever_longer() -> None:
    state = begun()
    for number in range(1, 4):
        state = fold([reserved(f"a{number}", number), settled(f"a{number}", "error", reason="LLMUnavailable")], state)
    assert not [a for a in ask(state, START_NS) if isinstance(a, CallModel)]
    assert wake_ns(state, START_NS) == START_NS + 8 * SECOND
    assert [a for a in ask(state, START_NS + 8 * SECOND) if isinstance(a, CallModel)]


def test_another_model_steps_in_for_one_that_refuses() -> None:
    state = begun(models=(ModelLimits(name="m"), ModelLimits(name="n")))
    state = fold([reserved("a1", 1), settled("a1", "error", reason="LLMUnauthorized")], state)
    assert {a.model for a in ask(state, START_NS) if isinstance(a, CallModel)} == {"n"}


def test_a_tuned_proposal_carries_every_value() -> None:
    world = World(limits=no_llm(), seeds=1, tunables=(A, B))
    state = apply(fold(world.opening()), probed("cpu"))
    state = fold([submitted("b1", "c1-cpu"), BatchDone(at_ns=START_NS, id="b1", results=(result("c1-cpu"),))], state)
    tuned = [action for action in ask(state, START_NS) if isinstance(action, ProposeTuned)]
    assert tuned[0].values == {"A": "2", "B": "1"}
    assert tuned[0].lane == "c1-cpu"

"""From a snapshot of the engine to the conditions, and which of their turns become events."""

from __future__ import annotations

from kernelsearch.controller.conditions import Situation, facts, stamp
from kernelsearch.controller.report import situation_of, turns
from kernelsearch.engine import Ended, PublishRefused, Snapshot
from kernelsearch.evaluate.base import Progress
from kernelsearch.search.journal import (
    Limits,
    LimitsChanged,
    Published,
    SearchStarted,
    Stopped,
    StopReason,
    TargetFailed,
    TargetLimits,
    TargetProbed,
)
from kernelsearch.search.state import State, fold

LIMITS = Limits(targets=(TargetLimits(name="cpu", profile="p", language="cpp"),))
BEGUN = [
    SearchStarted(at_ns=1, uid="u", name="s", problem_digest="d", seed=1),
    LimitsChanged(at_ns=1, generation=1, limits=LIMITS),
]
PROBED = TargetProbed(at_ns=2, target="cpu", device="d", cases=(), baselines=())
STOPPED = Stopped(at_ns=3, reason=StopReason.PLATEAU, message="nothing better")
PUBLISHED = Published(at_ns=2, digest="d" * 64, reference="configmap/n/k", candidates={"cpu": "c1-cpu"})


def as_map(situation: Situation) -> dict[str, tuple[str, str]]:
    return {fact.type: (fact.status, fact.reason) for fact in facts(situation)}


def test_what_was_published_before_does_not_settle_what_is_published_at_the_end() -> None:
    """A raised budget found something better: until that is written, the search is not complete."""
    state = fold([*BEGUN, PROBED, PUBLISHED, STOPPED])
    found = as_map(situation_of(Snapshot(state)))
    assert found["Complete"][0] == "False"
    assert found["Progressing"] == ("True", "Publishing")
    assert found["Published"] == ("True", "Published")
    ended = as_map(situation_of(Snapshot(state, ended=Ended(state, STOPPED))))
    assert ended["Complete"] == ("True", "Plateau")


def test_an_end_without_a_winner_is_told_as_such() -> None:
    state = fold([*BEGUN, PROBED, STOPPED])
    found = as_map(situation_of(Snapshot(state, ended=Ended(state, STOPPED))))
    assert found["Published"] == ("False", "NoImprovement")


def test_a_conflict_is_final_and_a_pending_approval_is_not() -> None:
    state = fold([*BEGUN, PROBED, STOPPED])
    conflict = PublishRefused("OutputConflict", "exists", final=True)
    assert as_map(situation_of(Snapshot(state, ended=Ended(state, STOPPED, conflict))))["Failed"][0] == "True"
    approval = PublishRefused("AwaitingApproval", "annotate", final=False)
    assert as_map(situation_of(Snapshot(state, refused=approval)))["Progressing"] == ("False", "AwaitingApproval")


def test_a_search_that_was_paused_is_neither_complete_nor_failed() -> None:
    state = fold([*BEGUN, PROBED])
    found = as_map(situation_of(Snapshot(state, ended=Ended(state))))
    assert (found["Complete"][0], found["Failed"][0]) == ("False", "False")


def test_activities_follow_the_search() -> None:
    assert situation_of(Snapshot(State())).activity == "Starting"
    assert situation_of(Snapshot(fold(BEGUN))).activity == "Probing"
    assert situation_of(Snapshot(fold([*BEGUN, PROBED]))).activity == "Searching"


def test_what_holds_a_batch_up_degrades_the_search() -> None:
    waiting = Progress("cpu", "Unschedulable", "0/1 nodes are available", reason="Unschedulable")
    found = situation_of(Snapshot(fold([*BEGUN, PROBED]), progress={"cpu-1-0": waiting}))
    assert found.trouble == ("Unschedulable", "target cpu: 0/1 nodes are available")
    starting = Progress("cpu", "Pending", "pod x is starting")
    assert situation_of(Snapshot(fold(BEGUN), progress={"cpu-1-0": starting})).trouble is None


def test_a_failed_target_degrades_the_search() -> None:
    failed = TargetFailed(at_ns=2, target="cpu", reason="DegenerateProblem", message="its output is constant")
    found = situation_of(Snapshot(fold([*BEGUN, failed])))
    assert found.trouble == ("DegenerateProblem", "target cpu: its output is constant")


def test_every_turn_is_an_event_once() -> None:
    def conditions(**situation: str) -> tuple:  # type: ignore[type-arg]
        return stamp(facts(Situation(**situation)), (), 1, "2030-01-01T00:00:00Z")  # type: ignore[arg-type]

    probing, searching = conditions(activity="Probing"), conditions(activity="Searching")
    verifying = conditions(activity="Verifying")
    assert [reason for _, reason, _ in turns((), probing)] == ["Accepted", "Probing"]
    assert [reason for _, reason, _ in turns(probing, searching)] == ["Searching"]
    assert turns(searching, verifying) == turns(verifying, searching) == turns(searching, searching) == []

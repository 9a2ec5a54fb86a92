"""What a search's status says while nothing runs: what was found stays, and why nothing runs is added."""

from __future__ import annotations

from kernelsearch.api.resources import KernelSearch
from kernelsearch.api.search_status import KernelSearchStatus, TargetStatus
from kernelsearch.controller.conditions import Output, Rejection, Situation, facts, stamp
from kernelsearch.controller.resting import rested
from kernelsearch.search.journal import Stopped, StopReason

SEARCH = KernelSearch.model_validate(
    {
        "metadata": {"name": "s", "namespace": "n", "uid": "u", "generation": 4},
        "spec": {
            "suspend": True,
            "problem": {"source": {"configMap": {"name": "p"}}, "seeds": [{"language": "cpp", "content": "x"}]},
            "targets": [{"name": "cpu", "profile": "p", "language": "cpp"}],
            "budget": {"candidates": 1},
        },
    }
)
NOW = "2030-01-01T00:00:00Z"


def a_status(situation: Situation) -> KernelSearchStatus:
    return KernelSearchStatus(
        best_speedup="1.500",
        controller_epoch=3,
        conditions=stamp(facts(situation), (), 3, "2029-01-01T00:00:00Z"),
        targets=(TargetStatus(name="cpu", state="Searching", message="pod x"),),
    )


def as_map(status: KernelSearchStatus) -> dict[str, tuple[str, str]]:
    return {each.type: (each.status, each.reason) for each in status.conditions}


def test_a_suspended_search_keeps_what_it_found() -> None:
    status = rested(SEARCH, a_status(Situation(activity="Searching")), Situation(suspended=True), NOW)
    found = as_map(status)
    assert (found["Suspended"], found["Progressing"]) == (("True", "Suspended"), ("False", "Suspended"))
    assert (status.best_speedup, status.phase, status.observed_generation) == ("1.500", "Suspended", 4)
    assert status.controller_epoch == 3, "a rest is no new writer"
    assert status.targets[0].message == ""


def test_a_search_that_has_ended_stays_ended_when_it_is_suspended() -> None:
    published = Output("published", "Published", "configmap/n/k")
    ended = Situation(stopped=Stopped(at_ns=1, reason=StopReason.PLATEAU, message="m"), output=published)
    found = as_map(rested(SEARCH, a_status(ended), Situation(suspended=True), NOW))
    assert found["Complete"] == ("True", "Plateau")
    assert found["Published"] == ("True", "Published")


def test_a_rejected_search_keeps_what_it_found_and_says_what_is_missing() -> None:
    rejection = Situation(rejection=Rejection("SecretNotFound", "there is no Secret"))
    status = rested(SEARCH, a_status(Situation(activity="Searching")), rejection, NOW)
    assert as_map(status)["Accepted"] == ("False", "SecretNotFound")
    assert status.best_speedup == "1.500"


def test_a_search_without_a_status_gets_one() -> None:
    status = rested(SEARCH, KernelSearchStatus(), Situation(suspended=True), NOW)
    assert len(status.conditions) == 7

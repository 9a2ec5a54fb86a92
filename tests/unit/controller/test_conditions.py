"""When a search counts as accepted, progressing, complete or failed, and when its daemon runs."""

from __future__ import annotations

from typing import Any

import pytest
from kernelsearch.controller.conditions import (
    Output,
    Rejection,
    Situation,
    facts,
    has_ended,
    is_active,
    phase,
    stamp,
)
from kernelsearch.search.journal import Stopped, StopReason

PUBLISHED = Output("published", "Published", "configmap/team-a/kernel")
NOTHING = Output("nothing", "NoImprovement", "no verified kernel is faster than the reference")
CONFLICT = Output("refused", "OutputConflict", "ConfigMap kernel exists")
APPROVAL = Output("waiting", "AwaitingApproval", "annotate the digest")


def stopped(reason: StopReason) -> Stopped:
    return Stopped(at_ns=1, reason=reason, message="because")


def as_map(now: Situation) -> dict[str, tuple[str, str]]:
    return {fact.type: (fact.status, fact.reason) for fact in facts(now)}


@pytest.mark.parametrize("reason", [each for each in StopReason if not each.is_failure])
@pytest.mark.parametrize("output", [PUBLISHED, NOTHING], ids=["published", "nothing"])
def test_a_search_that_ended_by_itself_with_its_output_settled_is_complete(reason: StopReason, output: Output) -> None:
    found = as_map(Situation(stopped=stopped(reason), output=output))
    assert found["Complete"] == ("True", reason.value)
    assert found["Failed"][0] == "False"
    assert found["Progressing"] == ("False", reason.value)
    assert found["Published"] == ("True" if output is PUBLISHED else "False", output.reason)


@pytest.mark.parametrize("reason", [each for each in StopReason if each.is_failure])
def test_a_search_that_could_not_find_anything_is_failed(reason: StopReason) -> None:
    found = as_map(Situation(stopped=stopped(reason), output=NOTHING))
    assert (found["Failed"], found["Complete"][0]) == (("True", reason.value), "False")


def test_an_output_that_belongs_to_somebody_else_fails_the_search() -> None:
    found = as_map(Situation(stopped=stopped(StopReason.PLATEAU), output=CONFLICT))
    assert found["Failed"] == ("True", "OutputConflict")
    assert found["Complete"][0] == "False"


def test_until_the_output_is_settled_a_stopped_search_is_neither_complete_nor_failed() -> None:
    found = as_map(Situation(activity="Publishing", stopped=stopped(StopReason.PLATEAU)))
    assert (found["Complete"][0], found["Failed"][0]) == ("False", "False")
    assert found["Progressing"] == ("True", "Publishing")


def test_a_pending_approval_is_told_and_nothing_progresses() -> None:
    found = as_map(Situation(activity="Publishing", output=APPROVAL))
    assert found["Complete"] == ("False", "AwaitingApproval")
    assert found["Progressing"] == ("False", "AwaitingApproval")


def test_a_search_that_may_publish_before_its_end_goes_on_while_an_approval_is_pending() -> None:
    found = as_map(Situation(activity="Searching", output=APPROVAL))
    assert found["Progressing"] == ("True", "Searching")
    assert found["Published"] == ("False", "AwaitingApproval")


def test_a_missing_reference_is_neither_complete_nor_failed_because_it_may_appear() -> None:
    found = as_map(Situation(rejection=Rejection("SecretNotFound", "there is no Secret llm-key")))
    assert found["Accepted"] == ("False", "SecretNotFound")
    assert found["Progressing"] == ("False", "SecretNotFound")
    assert (found["Complete"][0], found["Failed"][0]) == ("False", "False")


def test_a_spec_that_no_waiting_can_mend_is_invalid() -> None:
    found = as_map(Situation(rejection=Rejection("SourceUnsupported", "use a ConfigMap", is_final=True)))
    assert found["Failed"] == ("True", "InvalidSpec")


def test_a_suspended_search_does_not_progress() -> None:
    found = as_map(Situation(suspended=True))
    assert found["Suspended"] == ("True", "Suspended")
    assert found["Progressing"] == ("False", "Suspended")


@pytest.mark.parametrize(
    "now",
    [
        Situation(),
        Situation(rejection=Rejection("ProfileNotFound", "x")),
        Situation(rejection=Rejection("UnknownDimension", "x", is_final=True)),
        Situation(suspended=True),
        *(
            Situation(stopped=stopped(reason), output=output)
            for reason in StopReason
            for output in (PUBLISHED, CONFLICT)
        ),
    ],
)
def test_never_both_complete_and_failed_and_progressing_exactly_until_then(now: Situation) -> None:
    found = as_map(now)
    ended = [kind for kind in ("Complete", "Failed") if found[kind][0] == "True"]
    assert len(ended) <= 1
    if ended:
        assert found["Progressing"][0] == "False"


def test_a_transition_time_moves_only_when_the_status_does() -> None:
    first = stamp(facts(Situation(activity="Probing")), (), 1, "2030-01-01T00:00:00Z")
    second = stamp(facts(Situation(activity="Searching")), first, 2, "2030-01-01T00:01:00Z")
    ended = Situation(stopped=stopped(StopReason.PLATEAU), output=NOTHING)
    third = stamp(facts(ended), second, 2, "2030-01-01T00:02:00Z")
    by_type = [{each.type: each for each in conditions} for conditions in (first, second, third)]
    assert by_type[1]["Progressing"].last_transition_time == "2030-01-01T00:00:00Z"
    assert by_type[1]["Progressing"].reason == "Searching"
    assert by_type[2]["Progressing"].last_transition_time == "2030-01-01T00:02:00Z"
    assert by_type[2]["Accepted"].last_transition_time == "2030-01-01T00:00:00Z"
    assert {each.observed_generation for each in third} == {2}


@pytest.mark.parametrize(
    ("now", "states", "expected"),
    [
        (Situation(), [], "Pending"),
        (Situation(), ["Pending"], "Pending"),
        (Situation(), ["Queued", "Queued"], "Queued"),
        (Situation(), ["Unschedulable", "Searching"], "Running"),
        (Situation(activity="Probing"), ["Unschedulable"], "Pending"),
        (Situation(activity="Searching"), ["Unschedulable"], "Running"),
        (Situation(activity="Verifying"), ["Verifying"], "Verifying"),
        (Situation(suspended=True), ["Searching"], "Suspended"),
        (Situation(stopped=stopped(StopReason.PLATEAU), output=NOTHING), ["Done"], "Succeeded"),
        (Situation(stopped=stopped(StopReason.NO_VIABLE)), ["Done"], "Failed"),
    ],
)
def test_the_phase_says_in_one_word_what_the_conditions_say(now: Situation, states: list[str], expected: str) -> None:
    assert phase(now, states) == expected


def a_body(**changes: Any) -> dict[str, Any]:
    body: dict[str, Any] = {"metadata": {"generation": 3}, "spec": {}, "status": {}}
    for path, value in changes.items():
        part, _, key = path.partition("__")
        body[part][key] = value
    return body


def a_condition(kind: str, generation: int) -> dict[str, Any]:
    return {"type": kind, "status": "True", "observedGeneration": generation}


@pytest.mark.parametrize(
    ("body", "active"),
    [
        pytest.param(a_body(), True, id="new"),
        pytest.param({"metadata": {"generation": 1}, "spec": {}}, True, id="without a status"),
        pytest.param(a_body(metadata__deletionTimestamp="2030-01-01T00:00:00Z"), False, id="deleting"),
        pytest.param(a_body(spec__suspend=True), False, id="suspended"),
        pytest.param(a_body(status__conditions=[a_condition("Complete", 3)]), False, id="complete"),
        pytest.param(a_body(status__conditions=[a_condition("Failed", 3)]), False, id="failed"),
        pytest.param(a_body(status__conditions=[a_condition("Complete", 2)]), True, id="complete, then budget raised"),
        pytest.param(a_body(status__conditions=[a_condition("Published", 3)]), True, id="published, still searching"),
    ],
)
def test_a_search_has_a_daemon_exactly_while_something_is_to_be_done(body: dict[str, Any], active: bool) -> None:
    assert is_active(body) is active


def test_a_condition_that_is_false_ends_nothing() -> None:
    assert not has_ended(a_body(status__conditions=[{**a_condition("Complete", 3), "status": "False"}]))

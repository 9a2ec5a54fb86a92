"""A search from apply to its end, with real pods: complete, continued, suspended, deleted, expired."""

from __future__ import annotations

import json
import signal
from typing import Any

from .conftest import Operator, Place, conditions, probed

Object = dict[str, Any]


def ended(status: Object) -> bool:
    found = conditions(status)
    return any(found.get(kind, ("", ""))[0] == "True" for kind in ("Complete", "Failed"))


def test_a_search_completes_and_publishes_the_best_verified_kernel(place: Place, operator: Operator) -> None:
    place.apply(place.search_document())
    place.wait("tuned", "Complete")
    status = place.search()["status"]
    assert conditions(status)["Published"] == ("True", "Published")
    assert status["bestSpeedup"] == "1.500"
    assert status["phase"] == "Succeeded"
    assert status["progress"] == {**status["progress"], "proposed": 3, "evaluated": 3, "correct": 3, "running": 0}
    assert status["targets"][0]["best"]["verified"] is True
    assert status["outputs"]["reference"] == "configmap/tuned-kernel"
    published = place.get("configmap", "tuned-kernel")
    assert published is not None
    manifest = json.loads(published["data"]["manifest.json"])
    assert manifest["targets"][0]["speedup"] == 1.5
    assert "SPEED = 150" in published["data"]["cpu.py"]
    place.wait_until_gone(place.search()["metadata"]["uid"])


def test_a_raised_budget_continues_a_finished_search(place: Place, operator: Operator) -> None:
    """kopf's trap: a daemon that returned would never be started again for this object."""
    document = place.search_document(budget={"candidates": 2})
    place.apply(document)
    place.until("tuned", ended, "the end", 120)
    first = place.search()["status"]
    assert first["progress"]["evaluated"] == 2
    document["spec"]["budget"]["candidates"] = 20
    place.apply(document)
    status = place.until(
        "tuned", lambda status: ended(status) and status["observedGeneration"] == 2, "the second end", 120
    )
    assert status["progress"]["evaluated"] == 3
    assert conditions(status)["Complete"] == ("True", "SpaceExhausted")
    assert status["startTime"] == first["startTime"]


def test_a_suspended_search_has_no_pods_and_goes_on_where_it_stopped(place: Place, operator: Operator) -> None:
    document = place.search_document(orders="seconds=4")
    place.apply(document)
    place.until("tuned", lambda status: status.get("progress", {}).get("evaluated", 0) >= 1, "a first candidate")
    document["spec"]["suspend"] = True
    place.apply(document)
    place.wait("tuned", "Suspended", 60)
    status, uid = place.search()["status"], place.search()["metadata"]["uid"]
    assert conditions(status)["Progressing"] == ("False", "Suspended")
    assert status["phase"] == "Suspended"
    place.wait_until_gone(uid)
    assert place.search()["metadata"].get("finalizers", []) == [], "a suspended search can be deleted by anybody"
    document["spec"]["suspend"] = False
    place.apply(document)
    place.wait("tuned", "Complete")
    final = place.search()["status"]
    assert final["progress"]["evaluated"] == 3
    assert conditions(final)["Suspended"][0] == "False"


def test_a_deleted_search_leaves_nothing_but_what_it_published(place: Place, operator: Operator) -> None:
    place.apply(place.search_document(orders="seconds=60"))
    place.until("tuned", lambda status: status.get("phase") in ("Pending", "Running"), "a first status")
    uid = place.search()["metadata"]["uid"]
    place.wait_for_pod(uid, "probe")
    place.kubectl("-n", place.searches, "delete", "kernelsearch", "tuned", "--timeout=60s")
    place.wait_until_gone(uid)


def test_what_a_search_deleted_without_an_operator_left_is_swept_by_the_next_one(
    place: Place, operator: Operator
) -> None:
    place.apply(place.search_document(orders="seconds=120"))
    place.until("tuned", lambda status: status.get("phase") in ("Pending", "Running"), "a first status")
    uid = place.search()["metadata"]["uid"]
    place.wait_for_pod(uid, "probe")
    operator.kill()
    finalizers = '{"metadata": {"finalizers": null}}'
    place.kubectl("-n", place.searches, "delete", "kernelsearch", "tuned", "--wait=false")
    place.kubectl("-n", place.searches, "patch", "kernelsearch", "tuned", "--type=merge", "-p", finalizers)
    assert place.children(uid) != []
    operator.start()
    place.wait_until_gone(uid)


def test_an_expired_search_goes_and_its_output_stays(place: Place, operator: Operator) -> None:
    """kopf's trap: an idle timer would never fire; the sweeper does, whatever is written to the status."""
    place.apply(place.search_document(ttlSecondsAfterFinished=1))
    place.kubectl("-n", place.searches, "wait", "kernelsearch", "tuned", "--for=delete", "--timeout=150s")
    assert place.get("configmap", "tuned-kernel") is not None


def test_sigterm_leaves_the_pods_and_the_next_operator_adopts_them(place: Place, operator: Operator) -> None:
    place.apply(place.search_document(orders="seconds=8"))
    place.until("tuned", probed, "the probe's end")
    uid = place.search()["metadata"]["uid"]
    place.wait_for_pod(uid)
    pods = place.pods_of(uid)
    assert operator.kill(signal.SIGTERM) == 0
    assert pods <= place.pods_of(uid), "an operator that exits leaves its pods to the next one"
    operator.start()
    place.wait("tuned", "Complete")
    assert place.search()["status"]["progress"]["evaluated"] == 3

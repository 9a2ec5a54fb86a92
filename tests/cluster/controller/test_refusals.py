"""What the operator refuses, and how it says so: references, Secrets, endpoints, outputs that belong to others."""

from __future__ import annotations

import json
from typing import Any

from .conftest import REFERENCE, Operator, Place, conditions

Object = dict[str, Any]

ENDPOINT = "https://llm.example.invalid/v1"


def rejected(reason: str) -> Any:
    return lambda status: conditions(status).get("Accepted") == ("False", reason)


def message_of(status: Object, kind: str) -> str:
    return next(each["message"] for each in status["conditions"] if each["type"] == kind)


def with_model(place: Place, endpoint: str, **secret: str) -> Object:
    model: Object = {"name": "main", "model": "m", "endpoint": endpoint}
    if secret:
        model["secretKeyRef"] = secret
    return place.search_document(llm={"models": [model]})


def make_secret(place: Place, *, labels: Object | None = None, annotations: Object | None = None) -> None:
    metadata = {"name": "llm-key", "namespace": place.searches, "labels": labels, "annotations": annotations}
    place.apply({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {"token": "canary-4711"}})


def test_a_missing_profile_is_told_and_found_when_it_appears(place: Place, operator: Operator) -> None:
    place.kubectl("delete", "acceleratorprofile", place.profile)
    place.apply(place.search_document())
    status = place.until("tuned", rejected("ProfileNotFound"), "the rejection")
    assert conditions(status)["Progressing"] == ("False", "ProfileNotFound")
    assert place.profile in message_of(status, "Accepted")
    place.apply(place.profile_document())
    place.wait("tuned", "Complete")


def test_a_profile_may_keep_namespaces_out(place: Place, operator: Operator) -> None:
    document = place.profile_document()
    document["spec"]["allowedNamespaces"] = {"matchLabels": {"team": "kernels"}}
    place.apply(document)
    place.apply(place.search_document())
    place.until("tuned", rejected("ProfileNotAllowed"), "the rejection")
    place.kubectl("label", "namespace", place.searches, "team=kernels")
    place.wait("tuned", "Accepted", 60)


def test_a_source_is_read_once_and_kept(place: Place, operator: Operator) -> None:
    document = place.search_document(orders="seconds=2")
    document["spec"]["problem"]["source"] = {"configMap": {"name": "problem"}}
    place.apply(document)
    status = place.until("tuned", rejected("SourceNotFound"), "the rejection")
    assert "kubectl create configmap problem" in message_of(status, "Accepted")
    source = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "problem", "namespace": place.searches}}
    place.apply({**source, "data": {"reference.py": f"# judge: seconds=2\n{REFERENCE}"}})
    place.until("tuned", lambda status: status.get("problemDigest"), "the problem's digest")
    digest = place.search()["status"]["problemDigest"]
    place.kubectl("-n", place.searches, "delete", "configmap", "problem")
    operator.kill()
    operator.start()
    place.wait("tuned", "Complete", 180)
    assert place.search()["status"]["problemDigest"] == digest


def test_a_secret_goes_nowhere_that_its_owner_did_not_list(place: Place, operator: Operator) -> None:
    endpoint = "https://192.0.2.1/v1"
    place.apply(with_model(place, "http://127.0.0.1:9/v1", name="llm-key", key="token"))
    status = place.until("tuned", rejected("EndpointNotAllowed"), "the refusal of a loopback address")
    assert "llm.allowedOrigins" in message_of(status, "Accepted")
    operator.kill()
    operator.environment["KERNELSEARCH_ALLOWED_ORIGINS"] = json.dumps(["https://192.0.2.1"])
    operator.start()
    place.apply(with_model(place, endpoint, name="llm-key", key="token"))
    place.until("tuned", rejected("SecretNotFound"), "the missing Secret")
    make_secret(place)
    status = place.until("tuned", rejected("SecretNotAllowed"), "the refusal of a Secret without a label")
    assert "kubectl label secret llm-key" in message_of(status, "Accepted")
    make_secret(place, labels={"kernelsearch.dev/llm-credential": "true"})
    origins = {"kernelsearch.dev/allowed-origins": "https://llm.example.com"}
    make_secret(place, labels={"kernelsearch.dev/llm-credential": "true"}, annotations=origins)
    status = place.until(
        "tuned",
        lambda status: rejected("SecretNotAllowed")(status) and "annotate" in message_of(status, "Accepted"),
        "the refusal of an origin that is not listed",
    )
    assert "https://192.0.2.1:443" in message_of(status, "Accepted")
    everything = operator.log() + json.dumps(place.search())
    assert "canary-4711" not in everything


def test_a_foreign_config_map_is_never_overwritten(place: Place, operator: Operator) -> None:
    metadata = {"name": "tuned-kernel", "namespace": place.searches}
    place.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"mine": "precious"}})
    place.apply(place.search_document())
    place.wait("tuned", "Failed")
    status = place.search()["status"]
    assert conditions(status)["Failed"] == ("True", "OutputConflict")
    assert conditions(status)["Complete"][0] == "False"
    assert "delete configmap tuned-kernel" in message_of(status, "Failed")
    kept = place.get("configmap", "tuned-kernel")
    assert kept is not None
    assert kept["data"] == {"mine": "precious"}


def test_another_searchs_output_is_never_overwritten(place: Place, operator: Operator) -> None:
    output = {"configMap": {"name": "shared"}}
    place.apply(place.search_document("first", output=output))
    place.wait("first", "Complete")
    place.apply(place.search_document("second", output=output, seed="SPEED = 180"))
    place.wait("second", "Failed")
    assert conditions(place.search("second")["status"])["Failed"] == ("True", "OutputConflict")
    published = place.get("configmap", "shared")
    assert published is not None
    assert json.loads(published["data"]["manifest.json"])["search"]["name"] == "first"


def test_code_that_waits_for_approval_is_published_when_its_digest_is_approved(
    place: Place, operator: Operator
) -> None:
    place.apply(place.search_document(output={"approval": "Required"}))
    status = place.until(
        "tuned", lambda status: conditions(status).get("Complete") == ("False", "AwaitingApproval"), "the wait"
    )
    assert conditions(status)["Progressing"] == ("False", "AwaitingApproval")
    assert place.get("configmap", "tuned-kernel") is None
    digest = message_of(status, "Published").split()[2]
    place.kubectl(
        "-n", place.searches, "annotate", "kernelsearch", "tuned", f"kernelsearch.dev/approved-digest={digest}"
    )
    place.wait("tuned", "Complete", 60)
    assert place.get("configmap", "tuned-kernel") is not None


def test_a_search_that_finds_nothing_faster_writes_nothing(place: Place, operator: Operator) -> None:
    place.apply(place.search_document(seed="SPEED = 90  # tune: 80, 90"))
    place.wait("tuned", "Complete")
    assert conditions(place.search()["status"])["Published"] == ("False", "NoImprovement")
    assert place.get("configmap", "tuned-kernel") is None


def test_a_namespace_that_nobody_serves_is_told_how_to_be_enabled(place: Place, operator: Operator) -> None:
    document = place.search_document()
    document["metadata"]["namespace"] = place.pods
    place.apply(document)
    ignored = Place(place.kubectl, place.pods, place.pods, place.profile, place.image)
    status = ignored.until("tuned", rejected("NamespaceNotEnabled"), "the rejection", 90)
    assert "helm upgrade" in message_of(status, "Accepted")
    assert ignored.search()["metadata"].get("finalizers", []) == []

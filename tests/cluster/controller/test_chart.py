"""The operator as the chart deploys it: its own image, its own account with the rights it needs, uninstalled again."""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Callable

from .conftest import Kubectl, Place, conditions

Helm = Callable[..., subprocess.CompletedProcess[str]]


def test_installed_by_helm_it_completes_a_search_and_leaves_when_uninstalled(
    kubectl: Kubectl, helm: Helm, crds: None, scripted_judge: str, operator_image: str
) -> None:
    mark = uuid.uuid4().hex[:8]
    release, home = f"kernelsearch-{mark}", f"operator-{mark}"
    place = Place(kubectl, f"searches-{mark}", f"pods-{mark}", f"scripted-{mark}", scripted_judge)
    for namespace in (home, place.searches):
        kubectl("create", "namespace", namespace)
        kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
    place.apply(place.profile_document())
    try:
        values = [f"images.operator={operator_image}", f"searchNamespaces[0].name={place.searches}"]
        values += [f"evaluation.namespace={place.pods}", "storage.keep=false"]
        settings = ["--set-json", "profiles.install=[]"]
        settings += [word for value in values for word in ("--set", value)]
        installed = helm("install", release, "helm/kernelsearch", "-n", home, "--wait", "--timeout=4m", *settings)
        assert installed.returncode == 0, installed.stderr

        place.apply(place.search_document())
        place.wait("tuned", "Complete", 180)
        assert conditions(place.search()["status"])["Published"] == ("True", "Published")
        place.apply(place.search_document("running", orders="seconds=300"))
        place.until("running", lambda status: status.get("phase") in ("Pending", "Running"), "a running search")
        uid = place.search("running")["metadata"]["uid"]
        place.wait_for_pod(uid, "probe")

        removed = helm("uninstall", release, "-n", home, "--wait", "--timeout=4m")
        assert removed.returncode == 0, removed.stderr
        assert place.search("running")["spec"]["suspend"] is True
        kubectl("-n", place.searches, "delete", "kernelsearch", "running", "--timeout=30s")
        assert place.get("configmap", "tuned-kernel") is not None
    finally:
        helm("uninstall", release, "-n", home, "--no-hooks")
        kubectl("delete", "namespace", home, place.searches, place.pods, "--wait=false", "--ignore-not-found")
        kubectl("delete", "acceleratorprofile", place.profile)

"""What the charts render, and what a real API server then lets the operator do: the security page, as assertions."""

from __future__ import annotations

import json
import subprocess
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml
from kernelsearch.api.documents import parse
from kernelsearch.api.profiles import packaged_profiles
from kernelsearch.controller.settings import read_settings

Helm = Callable[..., subprocess.CompletedProcess[str]]
Object = dict[str, Any]

CHART = "helm/kernelsearch"
IMAGES = {
    "operator": "registry.example.com/operator@sha256:1",
    "harness-cpu": "registry.example.com/cpu:1",
    "harness-cuda": "registry.example.com/cuda:1",
    "harness-rocm": "registry.example.com/rocm:1",
}
VALUES: Object = {
    "images": IMAGES,
    "searchNamespaces": [{"name": "team-a"}, {"name": "team-b", "evaluationNamespace": "team-b-evaluation"}],
    "llm": {"allowedOrigins": ["http://vllm.models.svc:8000"]},
}


@pytest.fixture(scope="module")
def render(helm: Helm, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[Object]]:
    def run(**changes: Any) -> list[Object]:
        values = tmp_path_factory.mktemp("values") / "values.json"
        values.write_text(json.dumps(VALUES | changes))
        done = helm("template", "demo", CHART, "--namespace", "kernel-system", "--values", str(values))
        if done.returncode:
            raise ValueError(done.stderr)
        return [document for document in yaml.safe_load_all(done.stdout) if document]

    return run


@pytest.fixture(scope="module")
def objects(render: Callable[..., list[Object]]) -> list[Object]:
    return render()


def of(objects: list[Object], kind: str, namespace: str | None = None) -> list[Object]:
    return [
        each
        for each in objects
        if each["kind"] == kind and (namespace is None or each["metadata"].get("namespace") == namespace)
    ]


def rights(role: Object) -> dict[str, set[str]]:
    """resource -> verbs"""
    found: dict[str, set[str]] = {}
    for rule in role["rules"]:
        for resource in rule["resources"]:
            found.setdefault(resource, set()).update(rule["verbs"])
    return found


def test_both_charts_pass_lint(helm: Helm) -> None:
    images = [f"--set=images.{name}={image}" for name, image in IMAGES.items()]
    done = helm("lint", "--strict", "helm/kernelsearch-crds", CHART, *images)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_pod_is_restricted_with_a_read_only_root(objects: list[Object]) -> None:
    pods = [each["spec"]["template"]["spec"] for each in of(objects, "Deployment") + of(objects, "Job")]
    assert len(pods) == 2
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        assert all("hostPath" not in volume for volume in pod["volumes"])
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert "memory" in container["resources"]["limits"]


def test_the_operator_is_one_replica_that_is_never_doubled(objects: list[Object]) -> None:
    (deployment,) = of(objects, "Deployment")
    assert deployment["spec"]["replicas"] == 1
    assert deployment["spec"]["strategy"] == {"type": "Recreate"}
    (claim,) = of(objects, "PersistentVolumeClaim")
    assert claim["spec"]["accessModes"] == ["ReadWriteOncePod"]
    assert claim["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    for probe in ("startupProbe", "livenessProbe"):
        assert container[probe]["httpGet"] == {"path": "/healthz", "port": "liveness"}


def test_the_operator_reads_what_the_values_say(objects: list[Object]) -> None:
    (deployment,) = of(objects, "Deployment")
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    settings = read_settings({each["name"]: each["value"] for each in container["env"]})
    assert settings.namespace == "kernel-system"
    assert settings.evaluation_namespace("team-a") == "kernelsearch-evaluation"
    assert settings.evaluation_namespace("team-b") == "team-b-evaluation"
    assert settings.allowed_origins == ("http://vllm.models.svc:8000",)
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert (settings.liveness_port, settings.metrics_port) == (ports["liveness"], ports["metrics"])
    accounts = {account["metadata"]["name"] for account in of(objects, "ServiceAccount", "team-b-evaluation")}
    assert accounts == {settings.evaluation_service_account}
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert str(settings.database.parent) in mounts


def test_the_uninstall_hook_is_told_what_the_operator_is_told(objects: list[Object]) -> None:
    (hook,) = of(objects, "Job")
    assert hook["metadata"]["annotations"]["helm.sh/hook"] == "pre-delete"
    (deployment,) = of(objects, "Deployment")
    pods = [each["spec"]["template"]["spec"] for each in (hook, deployment)]
    assert pods[0]["containers"][0]["command"] == ["kernelsearch", "suspend", "--all"]
    assert pods[0]["containers"][0]["env"] == pods[1]["containers"][0]["env"]
    assert pods[0]["serviceAccountName"] == pods[1]["serviceAccountName"]


def test_cluster_wide_rights_are_our_kinds_events_and_a_look_at_nodes(objects: list[Object]) -> None:
    roles = {role["metadata"]["name"]: role for role in of(objects, "ClusterRole")}
    (binding,) = of(objects, "ClusterRoleBinding")
    assert rights(roles[binding["roleRef"]["name"]]) == {
        "kernelsearches": {"get", "list", "watch", "patch", "update", "delete"},
        "acceleratorprofiles": {"get", "list", "watch"},
        "kernelsearches/status": {"get", "patch", "update"},
        "acceleratorprofiles/status": {"get", "patch", "update"},
        "events": {"create", "patch"},
        "nodes": {"list", "watch"},
    }


def test_people_may_not_change_profiles_by_the_aggregated_roles(objects: list[Object]) -> None:
    for role in of(objects, "ClusterRole"):
        if any("aggregate-to" in label for label in role["metadata"]["labels"]):
            assert rights(role).get("acceleratorprofiles", set()) <= {"get", "list", "watch"}


@pytest.mark.parametrize("namespace", ["team-a", "team-b"])
def test_rights_in_a_search_namespace(namespace: str, objects: list[Object]) -> None:
    (role,) = of(objects, "Role", namespace)
    assert rights(role) == {
        "secrets": {"get"},
        "configmaps": {"get", "create", "update"},
        "namespaces": {"get"},
    }


def test_rights_in_the_releases_own_namespace(objects: list[Object]) -> None:
    (role,) = of(objects, "Role", "kernel-system")
    assert rights(role) == {"configmaps": {"get"}}


@pytest.mark.parametrize("namespace", ["kernelsearch-evaluation", "team-b-evaluation"])
def test_rights_in_an_evaluation_namespace(namespace: str, objects: list[Object]) -> None:
    (role,) = of(objects, "Role", namespace)
    found = rights(role)
    assert set(found) == {"jobs", "configmaps", "pods", "events", "pods/log"}
    assert found["pods"] == found["events"] == {"get", "list", "watch"}
    assert found["pods/log"] == {"get"}


def test_no_rule_has_a_wildcard_or_may_escalate(objects: list[Object]) -> None:
    for role in of(objects, "Role") + of(objects, "ClusterRole"):
        for rule in role["rules"]:
            words = [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
            assert not {"*", "pods/exec", "pods/attach", "escalate", "bind", "impersonate"} & set(words)


@pytest.mark.parametrize("namespace", ["kernelsearch-evaluation", "team-b-evaluation"])
def test_an_evaluation_namespace_is_sealed(namespace: str, objects: list[Object]) -> None:
    labels = {each["metadata"]["name"]: each["metadata"]["labels"] for each in of(objects, "Namespace")}[namespace]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    (policy,) = of(objects, "NetworkPolicy", namespace)
    assert policy["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    (account,) = of(objects, "ServiceAccount", namespace)
    assert account["automountServiceAccountToken"] is False
    subjects = [subject for binding in of(objects, "RoleBinding") for subject in binding["subjects"]]
    assert all(subject["name"] != account["metadata"]["name"] for subject in subjects)


def test_profiles_are_the_packaged_ones_with_images_of_this_installation(render: Callable[..., list[Object]]) -> None:
    names = sorted(packaged_profiles())
    rendered = {
        each["metadata"]["name"]: each for each in of(render(profiles={"install": names}), "AcceleratorProfile")
    }
    assert sorted(rendered) == names
    for name, manifest in rendered.items():
        expected = packaged_profiles()[name].to_manifest()
        for toolchain in expected["spec"]["toolchains"]:
            toolchain["image"] = IMAGES[toolchain["image"]]
        assert parse(manifest).to_manifest()["spec"] == expected["spec"]


def test_an_override_changes_only_what_it_names(render: Callable[..., list[Object]]) -> None:
    overrides = {"x86-64-v3": {"scheduling": {"priorityClassName": "spare"}}}
    (profile,) = of(render(profiles={"install": ["x86-64-v3"], "overrides": overrides}), "AcceleratorProfile")
    packaged = packaged_profiles()["x86-64-v3"].to_manifest()["spec"]["scheduling"]
    assert profile["spec"]["scheduling"] == packaged | {"priorityClassName": "spare"}


def test_a_quota_is_put_into_every_evaluation_namespace(render: Callable[..., list[Object]]) -> None:
    evaluation = {"namespace": "kernelsearch-evaluation", "resourceQuota": {"pods": "20"}}
    quotas = of(render(evaluation=evaluation), "ResourceQuota")
    assert {quota["metadata"]["namespace"] for quota in quotas} == {"kernelsearch-evaluation", "team-b-evaluation"}
    assert all(quota["spec"] == {"hard": {"pods": "20"}} for quota in quotas)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": {**IMAGES, "operator": ""}}, "set images.operator to the operator image"),
        ({"images": {**IMAGES, "harness-cpu": ""}}, "profile x86-64-v3 needs images.harness-cpu"),
        ({"profiles": {"install": ["h300"]}}, "no packaged profile h300"),
        ({"profiles": {"install": [], "overrides": {"x86-64-v3": {}}}}, "which profiles.install does not install"),
        ({"searchNamespaces": [{"name": "a"}, {"name": "a"}]}, "searchNamespaces lists a twice"),
        ({"searchNamespaces": [{"name": "a", "evaluationNamespace": "a"}]}, "candidates are hostile code"),
        ({"searchNamespaces": [{"name": "a", "evaluationNamespace": "kernel-system"}]}, "hostile code"),
        ({"searchNamespaces": []}, "searchNamespaces"),
        ({"storage": {"accessMode": "ReadWriteMany"}}, "accessMode"),
        ({"llm": {"allowedOrigins": ["https://key@llm.example.com"]}}, "allowedOrigins"),
        ({"image": "typo"}, "image"),
    ],
)
def test_values_that_cannot_work_are_refused(
    changes: Object, message: str, render: Callable[..., list[Object]]
) -> None:
    with pytest.raises(ValueError, match=r"(?i)error") as caught:
        render(**changes)
    assert message in str(caught.value)


# -- on a real API server ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def installed(
    cluster: dict[str, str], crds: list[str], helm: Helm, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """A release (its name) whose images do not exist: rights and namespaces are real, no pod ever starts."""
    release = f"charts-{uuid.uuid4().hex[:6]}"
    values = tmp_path_factory.mktemp("installed") / "values.json"
    values.write_text(
        json.dumps(
            VALUES
            | {
                "searchNamespaces": [{"name": release, "evaluationNamespace": f"{release}-evaluation"}],
                "profiles": {"install": ["amd-mi350x"]},
                "storage": {"keep": False},
            }
        )
    )
    kubectl("create", "namespace", release, cluster=cluster)
    kubectl("create", "namespace", f"{release}-system", cluster=cluster)
    done = helm("install", release, CHART, "--namespace", f"{release}-system", "--values", str(values), "--no-hooks")
    try:
        assert done.returncode == 0, done.stderr
        yield release
    finally:
        helm("uninstall", release, "--namespace", f"{release}-system", "--no-hooks")
        kubectl("delete", "namespace", "--wait=false", release, f"{release}-system", cluster=cluster)


def kubectl(*arguments: str, cluster: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["kubectl", *arguments], env=cluster, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("verb", "resource", "place", "allowed"),
    [
        ("get", "secrets", "{release}", "yes"),
        ("list", "secrets", "{release}", "no"),
        ("get", "secrets", "kube-system", "no"),
        ("update", "configmaps", "{release}", "yes"),
        ("delete", "configmaps", "{release}", "no"),
        ("create", "jobs", "{release}", "no"),
        ("create", "jobs", "{release}-evaluation", "yes"),
        ("get", "secrets", "{release}-evaluation", "no"),
        ("create", "pods/exec", "{release}-evaluation", "no"),
        ("get", "pods/log", "{release}-evaluation", "yes"),
        ("get", "namespaces/{release}", "{release}", "yes"),
        ("get", "namespaces/kube-system", "kube-system", "no"),
        ("list", "namespaces", "", "no"),
        ("watch", "kernelsearches", "kube-system", "yes"),
        ("patch", "acceleratorprofiles", "", "no"),
        ("create", "events", "default", "yes"),
        ("list", "nodes", "", "yes"),
        ("patch", "nodes", "", "no"),
        ("patch", "acceleratorprofiles/status", "", "yes"),
        ("get", "configmaps", "{release}-system", "yes"),
        ("list", "configmaps", "{release}-system", "no"),
        ("get", "secrets", "{release}-system", "no"),
        ("get", "configmaps", "kube-system", "no"),
    ],
)
def test_the_api_server_grants_the_operator_this_and_no_more(
    verb: str, resource: str, place: str, allowed: str, installed: str, cluster: dict[str, str]
) -> None:
    account = f"system:serviceaccount:{installed}-system:{installed}-kernelsearch"
    where = ["--namespace", place.format(release=installed)] if place else ["--all-namespaces"]
    kind, _, part = resource.format(release=installed).partition("/")
    what = (
        [kind, f"--subresource={part}"] if part in ("exec", "log", "status") else [f"{kind}/{part}" if part else kind]
    )
    done = kubectl("auth", "can-i", verb, *what, *where, "--as", account, cluster=cluster)
    assert done.stdout.strip() == allowed, done.stderr


def test_the_operator_reads_the_labels_of_a_search_namespace(installed: str, cluster: dict[str, str]) -> None:
    account = f"system:serviceaccount:{installed}-system:{installed}-kernelsearch"
    assert kubectl("get", "namespace", installed, "--as", account, cluster=cluster).returncode == 0
    assert kubectl("get", "namespace", "kube-system", "--as", account, cluster=cluster).returncode != 0


def test_a_pod_that_is_not_restricted_is_refused_in_the_evaluation_namespace(
    installed: str, cluster: dict[str, str]
) -> None:
    overrides = json.dumps({"spec": {"serviceAccountName": "kernelsearch-evaluation"}})
    where = ["--namespace", f"{installed}-evaluation", "--dry-run=server"]
    done = kubectl("run", "root", "--image=x", "--overrides", overrides, *where, cluster=cluster)
    assert 'violates PodSecurity "restricted' in done.stderr

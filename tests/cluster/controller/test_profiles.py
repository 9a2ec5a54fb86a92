"""What a profile needs of the cluster: texts that lie in ConfigMaps, and nodes; by an operator with the chart's rights.

The operator is a process here, as in the other tests, but it speaks to the API server as the chart's service account.
"""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from .conftest import Operator, Place
from .test_refusals import message_of, rejected

Object = dict[str, Any]
Helm = Callable[..., subprocess.CompletedProcess[str]]

GUIDE = "The matrix unit of this device wants its tiles in pairs: 4711."
KERNEL = (
    "Plan: turn it up.\n\n```python\nimport torch\n\nSPEED = {speed}\n\n\nclass ModelNew(torch.nn.Module): ...\n```\n"
)
WRITING_SECONDS = 40
"""Longer than the operator lets pass between two looks at profiles."""


@pytest.fixture
def home(place: Place, helm: Helm) -> Iterator[Place]:
    """The place with a release of the chart: its Roles and its service account. Its image does not exist."""
    home = replace(place, home=f"home-{place.profile}")
    place.kubectl("create", "namespace", home.home)
    values = [f"searchNamespaces[0].name={place.searches}", f"evaluation.namespace={place.pods}"]
    values += ["images.operator=registry.example.com/none:1", "evaluation.createNamespaces=false", "storage.keep=false"]
    settings = ["--set-json", "profiles.install=[]", *(word for value in values for word in ("--set", value))]
    installed = helm("install", place.profile, "helm/kernelsearch", "-n", home.home, "--no-hooks", *settings)
    try:
        assert installed.returncode == 0, installed.stderr
        yield home
    finally:
        helm("uninstall", place.profile, "-n", home.home, "--no-hooks")
        place.kubectl("delete", "namespace", home.home, "--wait=false")


@pytest.fixture
def operator(home: Place, operator: Operator, tmp_path: Path) -> Operator:
    """The operator as the chart's service account in the chart's namespace, not as an administrator."""
    operator.kill()
    account = f"{home.profile}-kernelsearch"
    kubeconfig = json.loads(home.kubectl("config", "view", "--raw", "--minify", "-o", "json"))
    token = home.kubectl("-n", home.home, "create", "token", account, "--duration=1h").strip()
    kubeconfig["users"][0]["user"] = {"token": token}
    (tmp_path / "kubeconfig").write_text(json.dumps(kubeconfig))
    operator.environment |= {"KUBECONFIG": str(tmp_path / "kubeconfig"), "KERNELSEARCH_NAMESPACE": home.home}
    return operator


# -- knowledge --------------------------------------------------------------------------------------------------------


@contextmanager
def model() -> Iterator[tuple[str, list[str]]]:
    """An endpoint on this machine that answers with a faster kernel each time: (its origin, what it was asked)."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append("\n".join(turn["content"] for turn in body["messages"]))
            message = {"role": "assistant", "content": KERNEL.format(speed=110 + 10 * len(asked))}
            answer: Object = {"id": "1", "object": "chat.completion", "created": 1, "model": "m"}
            answer["choices"] = [{"index": 0, "finish_reason": "stop", "message": message}]
            answer["usage"] = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
            said = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()


def guides(namespace: str, **data: str) -> Object:
    metadata = {"name": "guides", "namespace": namespace}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def with_knowledge(place: Place, namespace: str) -> Object:
    profile = place.profile_document()
    profile["spec"]["toolchains"].append({"language": "triton", "image": place.image})
    ref = {"namespace": namespace, "name": "guides", "key": "guide"}
    for_others = {"title": "for others", "languages": ["triton"], "configMapRef": ref | {"key": "nowhere"}}
    profile["spec"]["knowledge"] = [{"title": "The guide", "configMapRef": ref}, for_others]
    return profile


def test_a_text_in_a_config_map_reaches_the_prompt(home: Place, helm: Helm, operator: Operator) -> None:
    """And until it can be read, the status says what is missing, in the order in which a person mends it."""
    profile = home.profile
    binding = f"{profile}-kernelsearch-knowledge"
    home.kubectl("-n", home.home, "delete", "rolebinding", binding)
    home.apply(guides(home.searches, guide="of whoever may write in a search's namespace"))
    home.apply(with_knowledge(home, home.searches))
    with model() as (origin, asked):
        operator.environment["KERNELSEARCH_ALLOWED_ORIGINS"] = json.dumps([origin])
        operator.start()
        llm = {"models": [{"name": "main", "model": "m", "endpoint": f"{origin}/v1"}]}
        document = home.search_document(llm=llm, budget={"candidates": 3})
        del document["spec"]["problem"]["seeds"]
        home.apply(document)

        create = f"kubectl -n {home.home} create configmap guides --from-file=guide=FILE"
        where = f"profile {profile}, knowledge 'The guide': "
        status = home.until("tuned", rejected("KnowledgeNotAllowed"), "the refusal of another namespace")
        said = message_of(status, "Accepted")
        assert said.startswith(f"{where}the operator reads knowledge in its own namespace, {home.home}, and nowhere")
        assert create in said

        home.apply(with_knowledge(home, home.home))
        status = home.until("tuned", rejected("KnowledgeForbidden"), "the missing right")
        assert "helm upgrade gives it the Role" in message_of(status, "Accepted")

        upgraded = helm("upgrade", profile, "helm/kernelsearch", "-n", home.home, "--reuse-values", "--no-hooks")
        assert upgraded.returncode == 0, upgraded.stderr
        status = home.until("tuned", rejected("KnowledgeNotFound"), "the missing ConfigMap")
        assert message_of(status, "Accepted") == (
            f"{where}there is no ConfigMap guides in namespace {home.home}; whoever owns the profile makes it with"
            f" {create}"
        )

        home.apply(guides(home.home, other="x"))
        status = home.until("tuned", rejected("KnowledgeKeyNotFound"), "the missing key")
        assert "has no text under the key guide, it has other" in message_of(status, "Accepted")
        assert asked == [], "no model is asked before everything that it is told is there"

        home.apply(guides(home.home, guide=GUIDE))
        home.wait("tuned", "Complete", 180)
    assert asked
    assert all(f"## The guide\n\n{GUIDE}" in prompt for prompt in asked)
    assert not any("whoever may write" in prompt or "for others" in prompt for prompt in asked)


# -- nodes ------------------------------------------------------------------------------------------------------------


def profile_named(home: Place, name: str, **scheduling: Any) -> Object:
    document = home.profile_document(**scheduling)
    document["metadata"]["name"] = name
    return document


def status_of(home: Place, name: str) -> Object:
    found: Object = json.loads(home.kubectl("get", "acceleratorprofile", name, "-o", "json"))
    return found.get("status") or {}


def until_ready(home: Place, name: str, reason: str, nodes: int) -> Object:
    """The Ready condition as soon as it has this reason and the status this number of nodes."""
    deadline = time.monotonic() + WRITING_SECONDS
    while True:
        status = status_of(home, name)
        ready = next((each for each in status.get("conditions", []) if each["type"] == "Ready"), {})
        if (ready.get("reason"), status.get("matchingNodes")) == (reason, nodes):
            return ready
        assert time.monotonic() < deadline, f"profile {name} is not {reason}: {status}"
        time.sleep(0.5)


def test_a_profile_says_how_many_nodes_would_do_and_what_to_do_when_none_would(home: Place, operator: Operator) -> None:
    kubectl, mine = home.kubectl, f"example.com/{home.profile}"
    node = kubectl("get", "nodes", "-o", "jsonpath={.items[0].metadata.name}")
    label, absent = home.profile, f"{home.profile}-absent"
    home.apply(profile_named(home, label, nodeSelector={mine: "here"}))
    home.apply(profile_named(home, absent, resourceName=mine))
    try:
        operator.start()
        ready = until_ready(home, label, "NoNodeSelected", 0)
        assert ready["status"] == "False"
        assert ready["message"] == (
            f"no node is labelled {mine}=here: install the feature discovery that sets it, label a node with kubectl"
            f" label node NAME {mine}=here, or change spec.scheduling.nodeSelector"
        )
        ready = until_ready(home, absent, "NoDevice", 0)
        assert ready["message"] == (
            f"no node offers {mine}: install the device plugin that does, or add a node with such a device"
        )
        row = kubectl("get", "accel", absent, "--no-headers").split()
        assert row[-2:] == ["0", "False"]

        kubectl("label", "node", node, f"{mine}=here")
        ready = until_ready(home, label, "NodesMatch", 1)
        assert (ready["status"], ready["message"]) == ("True", "1 node matches")
        assert kubectl("get", "accel", label, "--no-headers").split()[-2:] == ["1", "True"]

        capacity = json.dumps({"status": {"capacity": {mine: "2"}}})
        kubectl("patch", "node", node, "--subresource=status", "--type=merge", "-p", capacity)
        assert until_ready(home, absent, "NodesMatch", 1)["message"] == f"1 node matches, with 2 {mine}"
        assert status_of(home, absent)["allocatableDevices"] == 2

        kubectl("cordon", node)
        assert f"node {node} would do" in until_ready(home, label, "NodesNotAvailable", 0)["message"]
        kubectl("uncordon", node)
        until_ready(home, label, "NodesMatch", 1)
    finally:
        kubectl("uncordon", node)
        kubectl("label", "node", node, f"{mine}-")
        gone = json.dumps({"status": {"capacity": {mine: None}, "allocatable": {mine: None}}})
        kubectl("patch", "node", node, "--subresource=status", "--type=merge", "-p", gone)
        kubectl("delete", "acceleratorprofile", absent)


def test_a_profiles_status_has_one_writer_that_rests_when_nothing_changes(home: Place, operator: Operator) -> None:
    operator.start()
    written = until_ready(home, home.profile, "NodesMatch", len(ready_nodes(home)))

    def version() -> str:
        found = home.kubectl("get", "accel", home.profile, "--show-managed-fields", "-o", "json")
        metadata = json.loads(found)["metadata"]
        managers = {each["manager"] for each in metadata["managedFields"] if each.get("subresource") == "status"}
        assert managers == {"kernelsearch-controller"}
        return str(metadata["resourceVersion"])

    before = version()
    home.kubectl("annotate", "node", ready_nodes(home)[0], f"example.com/{home.profile}=a-change-that-does-not-count")
    operator.kill()
    operator.start()
    time.sleep(15)
    assert version() == before, "neither a node's heartbeat nor a restart is a reason to write"

    document = home.profile_document()
    document["spec"]["displayName"] = "renamed"
    home.apply(document)
    deadline = time.monotonic() + WRITING_SECONDS
    while status_of(home, home.profile)["observedGeneration"] != 2:
        assert time.monotonic() < deadline, "the new generation was not seen"
        time.sleep(0.5)
    ready = until_ready(home, home.profile, "NodesMatch", len(ready_nodes(home)))
    assert ready["lastTransitionTime"] == written["lastTransitionTime"]


def ready_nodes(home: Place) -> list[str]:
    nodes = json.loads(home.kubectl("get", "nodes", "-o", "json"))["items"]
    return [
        node["metadata"]["name"]
        for node in nodes
        if any(each["type"] == "Ready" and each["status"] == "True" for each in node["status"]["conditions"])
        and not node["spec"].get("unschedulable")
    ]

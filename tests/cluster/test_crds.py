"""The API server's verdict on corpus, examples and packaged profiles; it must be this machine's verdict too."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from kernelsearch.api.base import GROUP, VERSION
from kernelsearch.api.documents import DocumentError, check_update, load_documents, parse
from kernelsearch.api.profiles import packaged_profiles
from kernelsearch.api.resources import KINDS
from kubernetes import client

from ..api_corpus import CorpusCase, read_corpus

ROOT = Path(__file__).resolve().parents[2]
KIND = {model.resource.kind: model.resource for model in KINDS}


@dataclass
class Api:
    """The API server, and a namespace of these tests' own: the same cluster may hold a demo or a person's searches."""

    objects: client.CustomObjectsApi
    namespace: str

    def create(self, body: dict[str, Any], *, dry_run: bool = True) -> Any:
        kind, body = KIND[body["kind"]], _as_kubectl_sends(body)
        options: dict[str, Any] = {"field_validation": "Strict", **({"dry_run": "All"} if dry_run else {})}
        if kind.scope == "Cluster":
            return self.objects.create_cluster_custom_object(GROUP, VERSION, kind.plural, body, **options)
        metadata = {**body["metadata"], "namespace": self.namespace}
        return self.objects.create_namespaced_custom_object(
            GROUP, VERSION, self.namespace, kind.plural, {**body, "metadata": metadata}, **options
        )

    def replace(self, before: dict[str, Any], after: dict[str, Any]) -> Any:
        """Create `before` for real, replace it by `after` as a dry run, and leave nothing behind."""
        stored = self.create(before, dry_run=False)
        place = (GROUP, VERSION, self.namespace, KIND[before["kind"]].plural, stored["metadata"]["name"])
        try:
            while True:
                version = self.objects.get_namespaced_custom_object(*place)["metadata"]["resourceVersion"]
                metadata = {**after["metadata"], "namespace": self.namespace, "resourceVersion": version}
                try:
                    return self.objects.replace_namespaced_custom_object(
                        *place, {**after, "metadata": metadata}, dry_run="All", field_validation="Strict"
                    )
                except client.ApiException as error:
                    if error.status != 409:  # an operator in this cluster wrote its status in between
                        raise
        finally:
            self.objects.delete_namespaced_custom_object(*place)


@pytest.fixture(scope="module")
def server(api: client.ApiClient, crds: list[str], kubectl: Callable[..., str]) -> Iterator[Api]:
    namespace = f"crds-{uuid.uuid4().hex[:8]}"
    kubectl("create", "namespace", namespace)
    yield Api(client.CustomObjectsApi(api), namespace)
    kubectl("delete", "namespace", namespace, "--wait=false")


def _as_kubectl_sends(value: Any) -> Any:
    """kubectl turns YAML into JSON, where 2.0 is written 2; Python's json would send a fraction."""
    if isinstance(value, dict):
        return {key: _as_kubectl_sends(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_as_kubectl_sends(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _errors(error: client.ApiException) -> dict[str, list[str]]:
    """Field -> messages. An unknown field is a 400 that names it in its text, all else a 422 with causes."""
    status = json.loads(error.body)
    if error.status == 400:
        found: dict[str, list[str]] = {}
        for part in status["message"].split("unknown field ")[1:]:
            found.setdefault(part.split('"')[1], []).append("unknown field")
        return found
    assert error.status == 422, status
    causes: dict[str, list[str]] = {}
    for cause in status["details"]["causes"]:
        if "some validation rules were not checked" in cause["message"]:
            continue  # said beside every error that keeps the CEL rules from being evaluated
        field = cause.get("field", "").replace("<nil>", "")
        if not field and (named := re.search(r'(?: in |"": ")(spec\.[^\s"]+)', cause["message"])):
            field = named[1]  # of some errors the API server names the field in the text only
        causes.setdefault(field, []).append(cause["message"])
    return causes


@pytest.mark.parametrize("case", read_corpus(), ids=lambda case: case.id)
def test_api_server_and_this_machine_agree(case: CorpusCase, server: Api) -> None:
    try:
        server.replace(case.before, case.object) if case.before is not None else server.create(case.object)
    except client.ApiException as error:
        found = _errors(error)
    else:
        found = {}
    assert set(found) == {path for path, _ in case.rejects}, found
    for path, message in case.rejects:
        assert any((message or "") in text for text in found[path]), found[path]
    assert set(found) == _local_fields(case)


def _local_fields(case: CorpusCase) -> set[str]:
    if case.before is not None:
        return {error.path for error in check_update(case.before, case.object)}
    try:
        parse(case.object)
    except DocumentError as error:
        paths = [problem.partition(": ")[0] for problem in error.problems]
        return {path if " " not in path else "" for path in paths}
    return set()


ACCEPTED = [case for case in read_corpus() if not case.rejects and case.before is None]


@pytest.mark.parametrize("case", ACCEPTED, ids=lambda case: case.id)
def test_defaults_are_the_api_servers(case: CorpusCase, server: Api) -> None:
    accepted = server.create(case.object)
    assert accepted["spec"] == parse(case.object).to_manifest()["spec"]


def _renamed(body: dict[str, Any]) -> dict[str, Any]:
    """Under a name that no installation has taken."""
    return {**body, "metadata": {**body["metadata"], "name": f"test-{uuid.uuid4().hex[:8]}"}}


@pytest.mark.parametrize("name", sorted(packaged_profiles()))
def test_packaged_profiles_are_accepted(name: str, server: Api) -> None:
    server.create(_renamed(packaged_profiles()[name].to_manifest()))


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda path: path.name)
def test_examples_are_accepted(path: Path, server: Api) -> None:
    documents = load_documents(path)
    for body in yaml.safe_load_all(path.read_text()):
        if body["kind"] in KIND:
            server.create(_renamed(body))
    assert documents.searches or documents.profiles or documents.others

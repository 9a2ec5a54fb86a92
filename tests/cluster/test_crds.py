"""The API server's verdict on corpus, examples and packaged profiles; it must be this machine's verdict too."""

from __future__ import annotations

import copy
import json
import re
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


@pytest.fixture(scope="module")
def objects(api: client.ApiClient, crds: list[str]) -> client.CustomObjectsApi:
    return client.CustomObjectsApi(api)


def _as_kubectl_sends(value: Any) -> Any:
    """kubectl turns YAML into JSON, where 2.0 is written 2; Python's json would send a fraction."""
    if isinstance(value, dict):
        return {key: _as_kubectl_sends(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_as_kubectl_sends(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _create(objects: client.CustomObjectsApi, body: dict[str, Any], *, dry_run: bool = True) -> Any:
    kind, body = KIND[body["kind"]], _as_kubectl_sends(body)
    options: dict[str, Any] = {"field_validation": "Strict", **({"dry_run": "All"} if dry_run else {})}
    if kind.scope == "Cluster":
        return objects.create_cluster_custom_object(GROUP, VERSION, kind.plural, body, **options)
    return objects.create_namespaced_custom_object(
        GROUP, VERSION, body["metadata"].get("namespace", "default"), kind.plural, body, **options
    )


def _replace(objects: client.CustomObjectsApi, before: dict[str, Any], after: dict[str, Any]) -> Any:
    """Create `before` for real, replace it by `after` as a dry run, and leave nothing behind."""
    kind = KIND[before["kind"]]
    place = (GROUP, VERSION, "default", kind.plural)
    stored = _create(objects, before, dry_run=False)
    try:
        changed = copy.deepcopy(after)
        changed["metadata"]["resourceVersion"] = stored["metadata"]["resourceVersion"]
        name = before["metadata"]["name"]
        return objects.replace_namespaced_custom_object(*place, name, changed, dry_run="All", field_validation="Strict")
    finally:
        objects.delete_namespaced_custom_object(*place, before["metadata"]["name"])


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
def test_api_server_and_this_machine_agree(case: CorpusCase, objects: client.CustomObjectsApi) -> None:
    try:
        _replace(objects, case.before, case.object) if case.before is not None else _create(objects, case.object)
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
def test_defaults_are_the_api_servers(case: CorpusCase, objects: client.CustomObjectsApi) -> None:
    accepted = _create(objects, case.object)
    assert accepted["spec"] == parse(case.object).to_manifest()["spec"]


@pytest.mark.parametrize("name", sorted(packaged_profiles()))
def test_packaged_profiles_are_accepted(name: str, objects: client.CustomObjectsApi) -> None:
    _create(objects, packaged_profiles()[name].to_manifest())


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda path: path.name)
def test_examples_are_accepted(path: Path, objects: client.CustomObjectsApi) -> None:
    documents = load_documents(path)
    for body in yaml.safe_load_all(path.read_text()):
        if body["kind"] in KIND:
            _create(objects, body)
    assert documents.searches or documents.profiles or documents.others

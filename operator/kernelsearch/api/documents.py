"""Read what a person wrote, as strictly as the API server would: `load_documents` and `check_update`.

A file may hold KernelSearches, AcceleratorProfiles and ConfigMaps (a problem's files, a profile's knowledge). All of it
is checked before anything is used, by the schema and CEL rules that the CRDs carry, and every error of a file is
reported at once: which document, which field, what to do. Other kinds are left alone, so that the manifest for the
cluster serves here too.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import Field

from kernelsearch.api.base import API_VERSION, ApiModel
from kernelsearch.api.resources import KINDS, AcceleratorProfile, KernelSearch
from kernelsearch.api.schema import object_schema
from kernelsearch.api.search_spec import ProblemSpec
from kernelsearch.api.strict_yaml import YamlDocument, YamlError, read_documents
from kernelsearch.api.validation import FieldError, validate, with_defaults

_MODELS: dict[str, type[KernelSearch] | type[AcceleratorProfile]] = {model.resource.kind: model for model in KINDS}
_CONFIG_MAP_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["metadata"],
    "properties": {
        "apiVersion": {"type": "string"},
        "kind": {"type": "string"},
        "metadata": object_schema(KernelSearch)["properties"]["metadata"],
        "data": {"type": "object", "additionalProperties": {"type": "string"}},
        "binaryData": {"type": "object", "additionalProperties": {"type": "string"}},
        "immutable": {"type": "boolean"},
    },
}


class DocumentError(ValueError):
    """What was given cannot be used. `problems` has one line for each thing to mend."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class ConfigMap(ApiModel):
    """The part of a core/v1 ConfigMap that a problem's source or a profile's knowledge needs."""

    name: str
    namespace: str | None = None
    data: dict[str, str] = Field(default_factory=dict)


@dataclass(frozen=True)
class Documents:
    """What a file holds, by name."""

    searches: dict[str, KernelSearch] = field(default_factory=dict)
    config_maps: dict[str, ConfigMap] = field(default_factory=dict)
    profiles: dict[str, AcceleratorProfile] = field(default_factory=dict)
    others: tuple[str, ...] = ()
    """Kind and name of documents that were left alone."""

    @property
    def search(self) -> KernelSearch:
        """The one KernelSearch. Raise DocumentError when there is none, or more than one."""
        match list(self.searches.values()):
            case [search]:
                return search
            case []:
                raise DocumentError(["no KernelSearch in the file; it must hold one"])
            case several:
                names = ", ".join(search.metadata.name for search in several)
                raise DocumentError([f"{len(several)} KernelSearches in the file ({names}); give each its own file"])

    def problem_files(self) -> dict[str, str]:
        """Path -> content of the search's problem. Raise DocumentError, saying what to add, when it is not here."""
        source = self.search.spec.problem.source
        if source.inline is not None:
            return {file.path: file.content for file in source.inline}
        if source.config_map is not None:
            name = source.config_map.name
            if name not in self.config_maps:
                raise DocumentError(
                    [f"spec.problem.source.configMap: no ConfigMap {name} in the file; add it as another document"]
                )
            return dict(self.config_maps[name].data)
        raise DocumentError(
            ["spec.problem.source.oci: not read without a cluster; give the files inline or as a ConfigMap"]
        )

    def with_knowledge(self, profile: AcceleratorProfile, languages: Collection[str]) -> AcceleratorProfile:
        """The profile with the texts that lie in ConfigMaps of this file. Raise DocumentError for those that do not."""
        texts: dict[str, str] = {}
        problems = []
        for title, ref in profile.spec.knowledge_elsewhere(languages).items():
            found = self.config_maps.get(ref.name)
            if found is None or found.namespace not in (None, ref.namespace) or ref.key not in found.data:
                problems.append(
                    f"profile {profile.metadata.name}, knowledge {title!r}: no ConfigMap {ref.name} of namespace"
                    f" {ref.namespace} with the key {ref.key} in the file; add it as another document"
                )
            else:
                texts[title] = found.data[ref.key]
        if problems:
            raise DocumentError(problems)
        return profile.model_copy(update={"spec": profile.spec.with_knowledge(texts)})


def load_documents(source: Path | str) -> Documents:
    """Read and check a file (Path) or YAML text (str). Raise DocumentError with every problem, OSError when unreadable.

    Defaults are filled in as the API server does. Not more than one object may have the same kind and name.
    """
    prefix = f"{source}: " if isinstance(source, Path) else ""
    try:
        text = source.read_text(encoding="utf-8") if isinstance(source, Path) else source
    except UnicodeDecodeError as error:
        raise DocumentError([f"{prefix}not a UTF-8 text file"]) from error
    problems: list[str] = []
    documents = Documents()
    others: list[str] = []
    try:
        for document in read_documents(text):
            try:
                other = _take(document, documents)
            except DocumentError as error:
                problems += [f"{prefix}{problem}" for problem in error.problems]
            else:
                others += [other] if other else []
    except YamlError as error:
        problems.append(f"{prefix}{error}")
    if problems:
        raise DocumentError(problems)
    return Documents(documents.searches, documents.config_maps, documents.profiles, tuple(others))


def _take(document: YamlDocument, into: Documents) -> str:
    """Add a document to what was read; return "Kind name" when it is of a kind that is left alone."""
    content = document.content
    where = f"document {document.number} (line {document.line})"
    if not isinstance(content, dict) or not all(isinstance(content.get(key), str) for key in ("apiVersion", "kind")):
        raise DocumentError([f"{where}: not a Kubernetes object; it needs apiVersion and kind"])
    kind, api_version = content["kind"], content["apiVersion"]
    metadata = content.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    where = f"{where}, {kind} {name or 'without a name'}"
    if kind in _MODELS:
        if api_version != API_VERSION:
            raise DocumentError([f"{where}: apiVersion is {api_version}, this version reads {API_VERSION}"])
        _add(into.searches if kind == KernelSearch.resource.kind else into.profiles, where, parse(content, where))
    elif (api_version, kind) == ("v1", "ConfigMap"):
        _add(into.config_maps, where, _config_map(content, where))
    else:
        return f"{kind} {name or ''}".rstrip()
    return ""


def _add(into: dict[str, Any], where: str, item: KernelSearch | AcceleratorProfile | ConfigMap) -> None:
    name = item.name if isinstance(item, ConfigMap) else item.metadata.name
    if name in into:
        raise DocumentError([f"{where}: another document has the same kind and name; rename one of them"])
    into[name] = item


def parse(content: Mapping[str, Any], where: str = "") -> KernelSearch | AcceleratorProfile:
    """One object of our kinds, defaults filled in. Raise DocumentError when schema or CEL rules are violated.

    A status is dropped, as it is when an object is created.
    """
    model = _MODELS[content["kind"]]
    given = {key: value for key, value in content.items() if key != "status"}
    schema = object_schema(model)
    complete = with_defaults(schema, given)
    _raise_all(validate(schema, complete), where)
    return model.model_validate(complete)


def parse_problem(content: Mapping[str, Any], where: str = "") -> ProblemSpec:
    """A problem without a search, by the rules that spec.problem has. Raise DocumentError when they are violated."""
    schema = object_schema(KernelSearch)["properties"]["spec"]["properties"]["problem"]
    complete = with_defaults(schema, dict(content))
    _raise_all(validate(schema, complete), where)
    return ProblemSpec.model_validate(complete)


def check_update(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[FieldError]:
    """What the API server would refuse when `new` replaces `old`: schema, rules and transition rules."""
    schema = object_schema(_MODELS[new["kind"]])
    before, after = (
        with_defaults(schema, {key: value for key, value in item.items() if key != "status"}) for item in (old, new)
    )
    return validate(schema, after, before)


def _config_map(content: dict[str, Any], where: str) -> ConfigMap:
    complete = with_defaults(_CONFIG_MAP_SCHEMA, content)
    _raise_all(validate(_CONFIG_MAP_SCHEMA, complete), where)
    data = dict(complete.get("data", {}))
    for key, value in complete.get("binaryData", {}).items():
        try:
            data[key] = base64.b64decode(value, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError) as error:
            raise DocumentError([f"{where}: binaryData.{key}: not UTF-8 text in base64"]) from error
    return ConfigMap(name=complete["metadata"]["name"], namespace=complete["metadata"].get("namespace"), data=data)


def _raise_all(errors: list[FieldError], where: str) -> None:
    if errors:
        raise DocumentError([f"{where}: {error}" if where else str(error) for error in errors])

"""What a spec refers to, looked up and checked: problem files, profiles, endpoints, keys, where pods may run.

The operator reads Secrets and reaches addresses that whoever may create a KernelSearch cannot. So a
Secret is used only when its owner labelled it for this purpose and listed the endpoint's origin on it, and an endpoint
only when it is public or an administrator allowed its origin. A profile says which namespaces and queues may use it.
Everything is level-based: what is missing now may be there in a minute, so most rejections are asked again.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from pydantic import SecretStr, ValidationError

from kernelsearch.api.profile import ConfigMapKeyRef, LabelSelector
from kernelsearch.api.resources import AcceleratorProfile, KernelSearch
from kernelsearch.api.search_spec import LlmModel, SecretKeyRef, TargetSpec
from kernelsearch.api.translate import (
    TranslateError,
    entry_file,
    files_of_document,
    parse_duration,
    problem_digest,
    problem_document,
)
from kernelsearch.controller.conditions import Rejection
from kernelsearch.controller.dimensions import unknown_dimension
from kernelsearch.controller.settings import Settings
from kernelsearch.engine.limits import to_limits
from kernelsearch.evaluate.kube import CONFIG_MAPS, NAMESPACES, PROFILES, SECRETS, Kind, Kube, KubeError, Object
from kernelsearch.evaluate.manifests import Placement
from kernelsearch.llm.client import ModelEndpoint
from kernelsearch.llm.origins import OriginPolicy, OriginRefused, origin_of
from kernelsearch.search.journal import SearchStarted
from kernelsearch.store.base import Store

CREDENTIAL_LABEL = "kernelsearch.dev/llm-credential"
ORIGINS_ANNOTATION = "kernelsearch.dev/allowed-origins"


class Rejected(Exception):
    """The search cannot run as it stands."""

    def __init__(self, reason: str, message: str, *, is_final: bool = False) -> None:
        super().__init__(message)
        self.rejection = Rejection(reason, message, is_final)


@dataclass(frozen=True)
class References:
    files: Mapping[str, str]
    problem_digest: str
    profiles: Mapping[str, AcceleratorProfile]
    """By name, with the texts of their knowledge."""
    endpoints: Mapping[str, ModelEndpoint]
    """By the model's name in spec.llm."""
    placements: Mapping[str, Placement]
    """By target."""
    source_changed: bool = False
    """The ConfigMap no longer holds what was read when the search began."""


async def resolve(
    kube: Kube, store: Store, settings: Settings, origins: OriginPolicy, search: KernelSearch
) -> References:
    """Raise Rejected with the first thing that is missing or not allowed."""
    namespace = search.metadata.namespace or ""
    evaluation = settings.evaluation_namespace(namespace)
    if evaluation is None:
        raise Rejected("NamespaceNotEnabled", how_to_enable(namespace))
    try:
        to_limits(search.spec)
    except TranslateError as error:
        raise Rejected("PolicyInvalid", str(error)) from error
    lookup = _Lookup(kube, namespace)
    found = {target.profile: await _profile(lookup, target, namespace) for target in search.spec.targets}
    profiles = {
        name: await _with_knowledge(
            kube, settings.namespace, profile, {each.language for each in search.spec.targets if each.profile == name}
        )
        for name, profile in found.items()
    }
    files, digest, changed = await _problem(lookup, store, search)
    if why := unknown_dimension(files[entry_file(search.spec.problem, files)], search.spec.problem.cases):
        raise Rejected("UnknownDimension", why, is_final=True)
    models = search.spec.llm.models if search.spec.llm else ()
    endpoints = {model.name: await _endpoint(lookup, origins, model) for model in models}
    placements = {
        target.name: _placement(search, target, profiles[target.profile], evaluation, settings)
        for target in search.spec.targets
    }
    return References(files, digest, profiles, endpoints, placements, changed)


@dataclass(frozen=True)
class _Lookup:
    """Reads in the search's namespace; a 403 there means that the operator has no Role in it."""

    kube: Kube
    namespace: str

    async def find(self, kind: Kind, name: str) -> Object | None:
        try:
            return await self.kube.find(kind, self.namespace if kind.namespaced else None, name)
        except KubeError as error:
            if error.is_forbidden and kind.namespaced:
                raise Rejected("NamespaceNotEnabled", f"{how_to_enable(self.namespace)} ({error})") from error
            raise


def how_to_enable(namespace: str) -> str:
    return (
        f"the operator does not serve namespace {namespace}: an administrator enables it with helm upgrade kernelsearch"
        f" --reuse-values --set 'searchNamespaces[N].name={namespace}' (N: the next index of that list)"
    )


# -- profiles ---------------------------------------------------------------------------------------------------------


async def _profile(lookup: _Lookup, target: TargetSpec, namespace: str) -> AcceleratorProfile:
    found = await lookup.find(PROFILES, target.profile)
    if found is None:
        raise Rejected(
            "ProfileNotFound",
            f"target {target.name}: there is no AcceleratorProfile {target.profile}; kubectl get accel lists them",
        )
    try:
        profile = AcceleratorProfile.model_validate(found)
    except ValidationError as error:
        raise Rejected("ProfileInvalid", f"profile {target.profile} cannot be read: {_first(error)}") from error
    spec = profile.spec
    languages = [toolchain.language for toolchain in spec.toolchains]
    if target.language not in languages:
        raise Rejected(
            "LanguageNotFound",
            f"target {target.name}: profile {target.profile} has no toolchain for {target.language};"
            f" it has {', '.join(languages)}",
        )
    if spec.scheduling.device_class_name:
        raise Rejected(
            "ProfileUnsupported",
            f"profile {target.profile} asks for a DRA device class, which this version cannot; use a device plugin's"
            " resourceName",
        )
    if spec.allowed_namespaces and not spec.allowed_namespaces.matches(await _labels(lookup, spec.allowed_namespaces)):
        raise Rejected(
            "ProfileNotAllowed",
            f"profile {target.profile} does not allow namespace {namespace}; ask whoever owns the profile",
        )
    queues = {*spec.allowed_queues, *([spec.scheduling.queue_name] if spec.scheduling.queue_name else [])}
    if target.queue_name and target.queue_name not in queues:
        allowed = ", ".join(sorted(queues)) or "none"
        raise Rejected(
            "QueueNotAllowed",
            f"target {target.name}: profile {target.profile} does not allow queue {target.queue_name}; it allows"
            f" {allowed}",
        )
    return profile


async def _with_knowledge(
    kube: Kube, home: str, profile: AcceleratorProfile, languages: Collection[str]
) -> AcceleratorProfile:
    """The profile with the texts that lie in ConfigMaps of `home`, as far as prompts for these languages show them."""
    texts = {}
    for title, ref in profile.spec.knowledge_elsewhere(languages).items():
        texts[title] = await _knowledge(kube, home, ref, f"profile {profile.metadata.name}, knowledge {title!r}")
    return profile.model_copy(update={"spec": profile.spec.with_knowledge(texts)}) if texts else profile


async def _knowledge(kube: Kube, home: str, ref: ConfigMapKeyRef, where: str) -> str:
    create = f"kubectl -n {home} create configmap {ref.name} --from-file={ref.key}=FILE"
    if ref.namespace != home:
        raise Rejected(
            "KnowledgeNotAllowed",
            f"{where}: the operator reads knowledge in its own namespace, {home}, and nowhere else; whoever owns the"
            f" profile brings ConfigMap {ref.name} of namespace {ref.namespace} there ({create}) and sets"
            f" configMapRef.namespace to {home}",
        )
    try:
        config_map = await kube.find(CONFIG_MAPS, home, ref.name)
    except KubeError as error:
        if not error.is_forbidden:
            raise
        raise Rejected(
            "KnowledgeForbidden",
            f"{where}: the operator may not read ConfigMaps of its own namespace, {home}; helm upgrade gives it the"
            f" Role for it ({error})",
        ) from error
    if config_map is None:
        raise Rejected(
            "KnowledgeNotFound",
            f"{where}: there is no ConfigMap {ref.name} in namespace {home}; whoever owns the profile makes it with"
            f" {create}",
        )
    texts: Mapping[str, str] = config_map.get("data") or {}
    if ref.key not in texts:
        keys = ", ".join(sorted(texts)) or "none"
        raise Rejected(
            "KnowledgeKeyNotFound",
            f"{where}: ConfigMap {home}/{ref.name} has no text under the key {ref.key}, it has {keys}; whoever owns the"
            " profile adds it, or names another key",
        )
    return texts[ref.key]


async def _labels(lookup: _Lookup, selector: LabelSelector) -> dict[str, str]:
    """The namespace's labels. One that every namespace has needs no reading."""
    own = {"kubernetes.io/metadata.name": lookup.namespace}
    keys = {*selector.match_labels, *(expression.key for expression in selector.match_expressions)}
    if keys <= set(own):
        return own
    found = await lookup.find(NAMESPACES, lookup.namespace)
    return {**own, **((found or {}).get("metadata", {}).get("labels") or {})}


def _placement(
    search: KernelSearch, target: TargetSpec, profile: AcceleratorProfile, evaluation: str, settings: Settings
) -> Placement:
    return Placement(
        search_uid=search.metadata.uid or "",
        search=f"{search.metadata.namespace}/{search.metadata.name}",
        namespace=evaluation,
        profile=profile.spec,
        language=target.language,
        devices=target.devices,
        queue_name=target.queue_name or profile.spec.scheduling.queue_name or "",
        service_account=settings.evaluation_service_account,
        pending_timeout_seconds=parse_duration(search.spec.stop.pending_timeout),
    )


# -- the problem ------------------------------------------------------------------------------------------------------


async def _problem(lookup: _Lookup, store: Store, search: KernelSearch) -> tuple[Mapping[str, str], str, bool]:
    """Files, their digest, and whether the source has other files by now. Read once, then kept by digest."""
    problem = search.spec.problem
    kept = await _kept_digest(store, search.metadata.uid or "")
    if kept:
        files = files_of_document(await store.get_blob(kept))
        try:
            return files, kept, problem_digest(await _source(lookup, search), problem) != kept
        except (Rejected, TranslateError):
            return files, kept, True
    files = dict(await _source(lookup, search))
    try:
        return files, await store.put_blob(problem_document(files, problem)), False
    except TranslateError as error:
        raise Rejected("SourceInvalid", str(error)) from error


async def _kept_digest(store: Store, uid: str) -> str:
    started = next((event for event in await store.read(uid) if isinstance(event, SearchStarted)), None)
    return started.problem_digest if started else ""


async def _source(lookup: _Lookup, search: KernelSearch) -> Mapping[str, str]:
    source = search.spec.problem.source
    if source.inline is not None:
        return {file.path: file.content for file in source.inline}
    if source.config_map is None:
        raise Rejected(
            "SourceUnsupported", "spec.problem.source.oci is not supported yet; use inline or configMap", is_final=True
        )
    found = await lookup.find(CONFIG_MAPS, source.config_map.name)
    if found is None:
        raise Rejected(
            "SourceNotFound",
            f"there is no ConfigMap {source.config_map.name} in namespace {lookup.namespace}; create it with kubectl"
            f" create configmap {source.config_map.name} --from-file=reference.py",
        )
    if not (files := found.get("data") or {}):
        raise Rejected("SourceInvalid", f"ConfigMap {source.config_map.name} has no data: every key of it is a file")
    return files


# -- endpoints and keys -----------------------------------------------------------------------------------------------


async def _endpoint(lookup: _Lookup, origins: OriginPolicy, model: LlmModel) -> ModelEndpoint:
    try:
        await origins.check(model.endpoint)
    except OriginRefused as error:
        raise Rejected("EndpointNotAllowed", f"model {model.name}: {error}") from error
    except OSError as error:
        raise Rejected(
            "EndpointNotFound", f"model {model.name}: the host of {model.endpoint} has no address: {error}"
        ) from error
    key = await _key(lookup, model, model.secret_key_ref) if model.secret_key_ref else None
    return ModelEndpoint(
        name=model.name,
        model=model.model,
        endpoint=model.endpoint,
        api_key=key,
        max_output_tokens=model.max_output_tokens,
        temperature=None if model.temperature is None else float(model.temperature),
    )


async def _key(lookup: _Lookup, model: LlmModel, ref: SecretKeyRef) -> SecretStr:
    secret = await lookup.find(SECRETS, ref.name)
    if secret is None:
        raise Rejected(
            "SecretNotFound",
            f"model {model.name}: there is no Secret {ref.name} in namespace {lookup.namespace}; create it with kubectl"
            f" create secret generic {ref.name} --from-literal={ref.key}=...",
        )
    if why := why_not_usable(secret, model.endpoint):
        raise Rejected("SecretNotAllowed", f"model {model.name}: {why}")
    try:
        value = base64.b64decode((secret.get("data") or {})[ref.key], validate=True).decode()
    except KeyError:
        keys = ", ".join(sorted(secret.get("data") or {})) or "none"
        raise Rejected(
            "SecretKeyNotFound", f"model {model.name}: Secret {ref.name} has no key {ref.key}; it has {keys}"
        ) from None
    except (binascii.Error, UnicodeDecodeError):
        raise Rejected("SecretInvalid", f"model {model.name}: key {ref.key} of Secret {ref.name} is not text") from None
    return SecretStr(value.strip())


def why_not_usable(secret: Object, endpoint: str) -> str:
    """Why this Secret may not be sent to this endpoint, with what to do; '' when its owner allowed it."""
    metadata = secret["metadata"]
    name, origin = metadata["name"], origin_of(endpoint)
    if (metadata.get("labels") or {}).get(CREDENTIAL_LABEL) != "true":
        return (
            f"Secret {name} is not labelled {CREDENTIAL_LABEL}=true, so it is nobody's LLM credential; label it with"
            f" kubectl label secret {name} {CREDENTIAL_LABEL}=true, or name another one"
        )
    listed = (metadata.get("annotations") or {}).get(ORIGINS_ANNOTATION, "").replace(",", " ").split()
    if origin not in _origins_of(listed):
        return (
            f"Secret {name} may not be sent to {origin}: add that origin with kubectl annotate secret {name}"
            f" {ORIGINS_ANNOTATION}={','.join([*listed, origin])} --overwrite"
        )
    return ""


def _origins_of(listed: list[str]) -> set[str]:
    """Those that are origins; a misspelt one allows nothing."""
    origins = set()
    for each in listed:
        try:
            origins.add(origin_of(each))
        except OriginRefused:
            continue
    return origins


def _first(error: ValidationError) -> str:
    detail = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}"

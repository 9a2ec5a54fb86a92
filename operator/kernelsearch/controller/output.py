"""The published kernel as a ConfigMap beside its search, and never over anybody else's.

Whoever creates a KernelSearch chooses the output's name, and the operator may update any ConfigMap of the namespace. So
it only creates, or updates what carries this search's uid; everything else is an OutputConflict, which a person solves
by another name or by deleting what is in the way. The output outlives its search: nothing owns it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from importlib.metadata import version

from kernelsearch.api.translate import to_protocol_problem
from kernelsearch.controller.wakeups import APPROVAL
from kernelsearch.engine import Publication, PublishRefused, SearchInputs
from kernelsearch.evaluate.kube import CONFIG_MAPS, Kube, KubeError, Object
from kernelsearch.publish.bundle import Bundle, BundleError, build_bundle
from kernelsearch.publish.configmap import config_map
from kernelsearch.publish.gather import built_for, gather_kernels
from kernelsearch.search.state import State
from kernelsearch.store.base import Store

OUTPUT_LABEL = "kernelsearch.dev/published-by"
"""The uid of the search that wrote it. Not the label of evaluation objects: the output outlives its search."""


async def write_owned(kube: Kube, wanted: Object) -> None:
    """Create the ConfigMap, or update it when it carries the same search's uid. Raise PublishRefused otherwise."""
    namespace, name = wanted["metadata"]["namespace"], wanted["metadata"]["name"]
    while True:
        try:
            await kube.create(CONFIG_MAPS, namespace, wanted)
            return
        except KubeError as error:
            if not error.is_conflict:
                raise _refused(error) from error
        found = await kube.find(CONFIG_MAPS, namespace, name)
        if found is None:
            continue
        if (owner := uid_of(found)) != uid_of(wanted):
            whose = f"belongs to search uid {owner}" if owner else "was not written by this operator"
            raise PublishRefused(
                "OutputConflict",
                f"ConfigMap {name} exists and {whose}; choose another spec.output.configMap.name in a new search, or"
                f" delete it with kubectl -n {namespace} delete configmap {name} and raise the budget",
                final=True,
            )
        if _content(found) == _content(wanted):
            return
        try:
            version = found["metadata"]["resourceVersion"]
            await kube.replace(
                CONFIG_MAPS, namespace, {**wanted, "metadata": {**wanted["metadata"], "resourceVersion": version}}
            )
            return
        except KubeError as error:
            if not (error.is_conflict or error.is_missing):
                raise _refused(error) from error


def uid_of(config_map: Object) -> str:
    """The uid of the search that wrote it; '' for a stranger's."""
    return str((config_map["metadata"].get("labels") or {}).get(OUTPUT_LABEL, ""))


def _content(config_map: Object) -> tuple[object, ...]:
    metadata = config_map["metadata"]
    return (
        config_map.get("data") or {},
        config_map.get("binaryData") or {},
        metadata.get("labels") or {},
        metadata.get("annotations") or {},
    )


def _refused(error: KubeError) -> Exception:
    """A 403 (quota) may pass; a 422 will not. Anything else is not about the output."""
    if error.is_forbidden:
        return PublishRefused("OutputForbidden", str(error), final=False)
    if error.status in (413, 422):
        return PublishRefused("OutputInvalid", str(error), final=True)
    return error


class ConfigMapPublisher:
    """The engine's publisher in a cluster, for one search. `metadata` may change while it runs (an approval)."""

    def __init__(self, kube: Kube, store: Store, namespace: str, approved_digest: Callable[[], str]) -> None:
        self._kube = kube
        self._store = store
        self._namespace = namespace
        self._approved_digest = approved_digest

    async def publish(self, inputs: SearchInputs, state: State) -> Publication:
        """Raise PublishRefused: OutputConflict, AwaitingApproval, BundleInvalid, or what the API server says."""
        try:
            bundle = await self._bundle(inputs, state)
            wanted = config_map(
                bundle,
                name=_name(inputs),
                namespace=self._namespace,
                labels={OUTPUT_LABEL: inputs.uid, "app.kubernetes.io/managed-by": "kernelsearch"},
                annotations={"kernelsearch.dev/search": f"{self._namespace}/{inputs.name}"},
                immutable=bool(inputs.spec.output.config_map and inputs.spec.output.config_map.immutable),
            )
        except BundleError as error:
            raise PublishRefused("BundleInvalid", str(error), final=True) from error
        if inputs.spec.output.approval == "Required" and self._approved_digest() != bundle.digest:
            raise PublishRefused("AwaitingApproval", _how_to_approve(self._namespace, inputs, bundle), final=False)
        await write_owned(self._kube, wanted)
        return Publication(bundle.digest, f"configmap/{self._namespace}/{wanted['metadata']['name']}")

    async def _bundle(self, inputs: SearchInputs, state: State) -> Bundle:
        built = {
            target.name: built_for(inputs.profiles[target.profile].spec, target.language)
            for target in inputs.spec.targets
        }
        kernels = await gather_kernels(state, built, self._store.get_blob)
        # Compressing libraries takes longer than the event loop may stand still.
        return await asyncio.to_thread(
            build_bundle,
            name=inputs.name,
            uid=inputs.uid,
            problem=to_protocol_problem(inputs.spec.problem, inputs.files),
            problem_digest=inputs.problem_digest,
            harness=version("kernelsearch"),
            kernels=kernels,
        )


def _name(inputs: SearchInputs) -> str:
    return inputs.spec.output.config_map.name if inputs.spec.output.config_map else f"{inputs.name}-kernel"


def _how_to_approve(namespace: str, inputs: SearchInputs, bundle: Bundle) -> str:
    return (
        f"the bundle {bundle.digest} waits for a person: read the kernels' sources, then kubectl -n {namespace}"
        f" annotate kernelsearch {inputs.name} {APPROVAL}={bundle.digest} --overwrite"
    )

"""The published kernel as a ConfigMap beside its search, and never over anybody else's.

Whoever creates a KernelSearch chooses the output's name, and the operator may update any ConfigMap of the namespace. So
it only creates, or updates what carries this search's uid; everything else is an OutputConflict, which a person solves
by another name or by deleting what is in the way. The output outlives its search: nothing owns it.
"""

from __future__ import annotations

from kernelsearch.engine import PublishRefused
from kernelsearch.evaluate.kube import CONFIG_MAPS, Kube, KubeError, Object
from kernelsearch.evaluate.manifests import UID_LABEL


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
    return str((config_map["metadata"].get("labels") or {}).get(UID_LABEL, ""))


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
    def __init__(self, kube: Kube, store: object, search: object) -> None:
        self._kube, self._store, self._search = kube, store, search

    async def publish(self, inputs: object, state: object) -> object:
        raise PublishRefused("NotYet", "no publisher", final=True)

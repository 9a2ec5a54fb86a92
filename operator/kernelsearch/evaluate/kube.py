"""The Kubernetes API as this project uses it: plain JSON objects, and requests that outlast an API server's absence.

Built on the official client's asyncio half for what is hard (credentials, their refresh, TLS), without its models:
manifests are dictionaries from the pure functions to the wire and back. A request that got no answer, or one that says
"later" (429, 5xx), is sent again until `patience_seconds` are over; any other answer is the caller's, as a `KubeError`.
Every write here is safe to repeat: names are deterministic, and a create that finds its own object adopts it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import aiohttp
from kubernetes.aio import client, config

Object = dict[str, Any]
"""A Kubernetes object as JSON."""

log = logging.getLogger(__name__)

PATIENCE_SECONDS = 900.0
"""An API server may be away this long (an upgrade, a lost node) before its absence becomes an error."""
LOG_PATIENCE_SECONDS = 60.0
"""A log is its node's to give, and a lost node gives none."""

SERVICE_ACCOUNT_TOKEN = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")


@dataclass(frozen=True)
class Kind:
    """Where objects of one kind live: `prefix` is /api/v1 or /apis/<group>/<version>."""

    prefix: str
    plural: str
    namespaced: bool = True

    def path(self, namespace: str | None, name: str = "", subresource: str = "") -> str:
        """The URL path; namespace None means all of them, or a cluster-scoped kind.

        A name is one part of it whatever it holds: "../secrets/x" is no way from a ConfigMap to a Secret. Raise
        KubeError 404 for "." and "..", which no object can be called and no quoting can keep.
        """
        parts = [self.prefix]
        if self.namespaced and namespace is not None:
            parts += ["namespaces", namespace]
        parts += [part for part in (self.plural, name, subresource) if part]
        if {".", ".."} & set(parts):
            raise KubeError(404, "NotFound", f"no object of {self.plural} can be called {name!r}")
        return "/".join([parts[0], *(quote(part, safe="") for part in parts[1:])])


CONFIG_MAPS = Kind("/api/v1", "configmaps")
SECRETS = Kind("/api/v1", "secrets")
PODS = Kind("/api/v1", "pods")
EVENTS = Kind("/api/v1", "events")
NAMESPACES = Kind("/api/v1", "namespaces", namespaced=False)
NODES = Kind("/api/v1", "nodes", namespaced=False)
JOBS = Kind("/apis/batch/v1", "jobs")
SEARCHES = Kind("/apis/kernelsearch.dev/v1alpha1", "kernelsearches")
PROFILES = Kind("/apis/kernelsearch.dev/v1alpha1", "acceleratorprofiles", namespaced=False)


class KubeError(RuntimeError):
    """The API server's refusal, or (status 0) its silence beyond our patience."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason

    @property
    def is_missing(self) -> bool:
        return self.status in (404, 410)

    @property
    def is_conflict(self) -> bool:
        """AlreadyExists on a create, a stale resourceVersion on a write."""
        return self.status == 409

    @property
    def is_forbidden(self) -> bool:
        return self.status == 403


@dataclass(frozen=True)
class WatchEvent:
    type: Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK"]
    object: Object


class Kube:
    """One connection pool to one API server."""

    def __init__(self, api: client.ApiClient, patience_seconds: float = PATIENCE_SECONDS) -> None:
        self._api = api
        self._patience_seconds = patience_seconds

    @classmethod
    async def connect(cls, patience_seconds: float = PATIENCE_SECONDS) -> Kube:
        """With the pod's service account, else with KUBECONFIG or ~/.kube/config."""
        configuration = client.Configuration()
        if SERVICE_ACCOUNT_TOKEN.exists() and "KUBERNETES_SERVICE_HOST" in os.environ:
            config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
        else:
            await config.load_kube_config(os.environ.get("KUBECONFIG") or None, client_configuration=configuration)  # type: ignore[no-untyped-call]
        configuration.connection_pool_maxsize = 100
        return cls(client.ApiClient(configuration), patience_seconds)

    async def close(self) -> None:
        await self._api.close()  # type: ignore[no-untyped-call]

    # -- verbs --------------------------------------------------------------------------------------------------------

    async def get(self, kind: Kind, namespace: str | None, name: str) -> Object:
        return await self._json("GET", kind.path(namespace, name))

    async def find(self, kind: Kind, namespace: str | None, name: str) -> Object | None:
        """As `get`, and None when there is no such object."""
        try:
            return await self.get(kind, namespace, name)
        except KubeError as error:
            if error.is_missing:
                return None
            raise

    async def list_all(
        self, kind: Kind, namespace: str | None = None, *, labels: str = "", fields: str = ""
    ) -> tuple[list[Object], str]:
        """All objects and the list's resourceVersion, read in pages of 500."""
        items: list[Object] = []
        query = _query(labelSelector=labels, fieldSelector=fields, limit="500")
        while True:
            page = await self._json("GET", kind.path(namespace), query)
            items += page.get("items") or []
            if not (token := page["metadata"].get("continue")):
                return items, page["metadata"].get("resourceVersion", "")
            query["continue"] = token

    async def create(self, kind: Kind, namespace: str | None, body: Object) -> Object:
        return await self._json("POST", kind.path(namespace), body=body)

    async def replace(self, kind: Kind, namespace: str | None, body: Object) -> Object:
        """Write the whole object; 409 when its metadata.resourceVersion is not the newest."""
        return await self._json("PUT", kind.path(namespace, body["metadata"]["name"]), body=body)

    async def apply(
        self, kind: Kind, namespace: str | None, body: Object, *, manager: str, subresource: str = ""
    ) -> Object:
        """Server-side apply with force: this manager owns what `body` says, and no longer what it stopped saying."""
        return await self._json(
            "PATCH",
            kind.path(namespace, body["metadata"]["name"], subresource),
            {"fieldManager": manager, "force": "true"},
            body,
            content_type="application/apply-patch+yaml",
        )

    async def merge(self, kind: Kind, namespace: str | None, name: str, patch: Object) -> Object:
        return await self._json(
            "PATCH", kind.path(namespace, name), body=patch, content_type="application/merge-patch+json"
        )

    async def delete(self, kind: Kind, namespace: str | None, name: str, *, uid: str = "") -> None:
        """Delete with its dependents. One that is gone, or that is another object by now (`uid`), is a success."""
        body: Object = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        if uid:
            body["preconditions"] = {"uid": uid}
        try:
            await self._json("DELETE", kind.path(namespace, name), body=body)
        except KubeError as error:
            if not (error.is_missing or (uid and error.is_conflict)):
                raise

    async def read_log(self, namespace: str, pod: str, *, container: str, limit_bytes: int) -> str:
        """What the container wrote so far, at most `limit_bytes` from its start."""
        query = {"container": container, "limitBytes": str(limit_bytes)}
        raw = await self._send("GET", PODS.path(namespace, pod, "log"), query, patience_seconds=LOG_PATIENCE_SECONDS)
        return raw.decode("utf-8", errors="replace")

    async def watch(
        self, kind: Kind, namespace: str | None, *, resource_version: str, labels: str = "", seconds: int = 60
    ) -> AsyncIterator[WatchEvent]:
        """Changes after `resource_version`, until the server ends the watch after `seconds`.

        Raise KubeError 410 when the version is too old: list again.
        """
        query = _query(
            watch="true",
            allowWatchBookmarks="true",
            resourceVersion=resource_version,
            labelSelector=labels,
            timeoutSeconds=str(seconds),
        )
        timeout = aiohttp.ClientTimeout(total=seconds + 30, sock_connect=10)
        response = await self._request("GET", kind.path(namespace), query, timeout=timeout)
        try:
            if response.status >= 400:
                raise _refusal(response.status, await response.read())
            while line := await response.content.readline():
                event = json.loads(line)
                if event["type"] == "ERROR":
                    status = event["object"]
                    raise KubeError(status.get("code", 500), status.get("reason", ""), status.get("message", ""))
                yield WatchEvent(event["type"], event["object"])
        finally:
            response.close()

    # -- transport ----------------------------------------------------------------------------------------------------

    async def _json(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Object | None = None,
        content_type: str = "application/json",
    ) -> Object:
        answer: Object = json.loads(await self._send(method, path, query, body, content_type))
        return answer

    async def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Object | None = None,
        content_type: str = "application/json",
        patience_seconds: float | None = None,
    ) -> bytes:
        """The answer's body. Raise KubeError for a refusal, or when there was no answer for too long."""
        deadline = time.monotonic() + (patience_seconds or self._patience_seconds)
        pause = 0.25
        while True:
            try:
                response = await self._request(method, path, query, body, content_type)
                raw = await response.read()
                if response.status < 400:
                    return raw
                refusal = _refusal(response.status, raw)
                wait = _retry_after(response)
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                refusal = KubeError(
                    0, "Unreachable", f"the API server does not answer: {error or type(error).__name__}"
                )
                wait = None
            if refusal.status not in (0, 429, 500, 502, 503, 504) or time.monotonic() >= deadline:
                raise refusal
            log.warning("%s %s: %s; trying again", method, path, refusal)
            await asyncio.sleep(max(wait or 0.0, pause * random.uniform(0.5, 1.5)))
            pause = min(pause * 2, 15.0)

    async def _request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Object | None = None,
        content_type: str = "application/json",
        timeout: aiohttp.ClientTimeout | None = None,
    ) -> aiohttp.ClientResponse:
        method, url, headers, payload, _ = await self._api.param_serialize(
            method,
            path,
            query_params=list((query or {}).items()),
            header_params={"Accept": "application/json", "Content-Type": content_type},
            body=body,
            auth_settings=["BearerToken"],
        )
        answer = await self._api.call_api(
            method, url, headers, payload, _request_timeout=timeout or aiohttp.ClientTimeout(total=30, sock_connect=10)
        )
        response: aiohttp.ClientResponse = answer.response
        return response


def _query(**values: str) -> dict[str, str]:
    return {key: value for key, value in values.items() if value}


def _refusal(status: int, raw: bytes) -> KubeError:
    try:
        answer = json.loads(raw)
        return KubeError(status, str(answer.get("reason", "")), str(answer.get("message", "")))
    except (ValueError, AttributeError):
        return KubeError(status, "", raw[:200].decode("utf-8", errors="replace"))


def _retry_after(response: aiohttp.ClientResponse) -> float | None:
    """Seconds that the server asked us to wait, at most 60."""
    value = response.headers.get("Retry-After", "")
    return min(float(value), 60.0) if value.isdecimal() else None

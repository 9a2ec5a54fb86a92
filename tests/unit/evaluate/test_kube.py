"""The client against a server of our own: what is tried again, what is not, and a watch that always catches up."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import pytest
from aiohttp import web
from kernelsearch.evaluate.cache import EvaluationCache
from kernelsearch.evaluate.kube import CONFIG_MAPS, JOBS, PODS, Kube, KubeError
from kubernetes.aio import client

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]
Object = dict[str, Any]


@dataclass
class ApiServer:
    """Answers as its script says, in order; the last answer is repeated."""

    url: str = ""
    script: list[Answer] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.seen.append(f"{request.method} {request.path_qs}")
        return await (self.script.pop(0) if len(self.script) > 1 else self.script[0])(request)


def answer(status: int, body: Object, **headers: str) -> Answer:
    async def respond(_: web.Request) -> web.StreamResponse:
        return web.json_response(body, status=status, headers=headers)

    return respond


def refusal(status: int, reason: str, **headers: str) -> Answer:
    return answer(status, {"kind": "Status", "reason": reason, "message": f"because {reason}"}, **headers)


async def hang_up(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.close()
    return web.Response()


@pytest.fixture
async def server() -> AsyncIterator[ApiServer]:
    server = ApiServer()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    server.url = f"http://{host}:{port}"
    yield server
    await runner.cleanup()


def connect(url: str, patience_seconds: float = 30) -> Kube:
    return Kube(client.ApiClient(client.Configuration(host=url)), patience_seconds)


@pytest.fixture
async def kube(server: ApiServer) -> AsyncIterator[Kube]:
    kube = connect(server.url)
    yield kube
    await kube.close()


POD: Object = {"metadata": {"name": "p", "namespace": "n", "resourceVersion": "1"}}


@pytest.mark.parametrize(
    "trouble",
    [refusal(429, "TooManyRequests", **{"Retry-After": "0"}), refusal(503, "ServiceUnavailable"), hang_up],
    ids=["429", "503", "hang up"],
)
async def test_what_may_pass_is_tried_again(server: ApiServer, kube: Kube, trouble: Answer) -> None:
    server.script = [trouble, trouble, answer(200, POD)]
    assert await kube.get(PODS, "n", "p") == POD
    assert len(server.seen) == 3


@pytest.mark.parametrize(
    ("status", "reason", "trait"),
    [(403, "Forbidden", "is_forbidden"), (404, "NotFound", "is_missing"), (409, "AlreadyExists", "is_conflict")],
)
async def test_a_refusal_is_the_callers_at_once(
    server: ApiServer, kube: Kube, status: int, reason: str, trait: str
) -> None:
    server.script = [refusal(status, reason)]
    with pytest.raises(KubeError, match=f"because {reason}") as refused:
        await kube.create(PODS, "n", POD)
    assert (refused.value.status, refused.value.reason) == (status, reason)
    assert getattr(refused.value, trait)
    assert len(server.seen) == 1


async def test_silence_beyond_patience_is_an_error() -> None:
    kube = connect("http://127.0.0.1:1", patience_seconds=0.2)
    with pytest.raises(KubeError) as silence:
        await kube.get(PODS, "n", "p")
    assert (silence.value.status, silence.value.reason) == (0, "Unreachable")
    await kube.close()


async def test_a_missing_object_is_none_and_deleting_it_a_success(server: ApiServer, kube: Kube) -> None:
    server.script = [refusal(404, "NotFound")]
    assert await kube.find(PODS, "n", "p") is None
    await kube.delete(PODS, "n", "p")


@pytest.mark.parametrize(
    "name", ["../secrets/key", "../../b/secrets/key", "x/../../secrets/key", "key?watch", "%2e%2e/x"]
)
async def test_a_name_leads_to_no_other_resource(server: ApiServer, kube: Kube, name: str) -> None:
    server.script = [answer(200, POD)]
    await kube.find(CONFIG_MAPS, "a", name)
    assert server.seen == [f"GET /api/v1/namespaces/a/configmaps/{quote(name, safe='')}"]


@pytest.mark.parametrize("name", [".", ".."])
async def test_a_name_that_no_object_can_have_is_not_asked_for(server: ApiServer, kube: Kube, name: str) -> None:
    assert await kube.find(CONFIG_MAPS, "a", name) is None
    assert server.seen == []


async def test_a_namesake_is_not_deleted(server: ApiServer, kube: Kube) -> None:
    """The precondition on the uid fails; whoever we meant to delete is gone, which is what was wanted."""
    server.script = [refusal(409, "Conflict")]
    await kube.delete(PODS, "n", "p", uid="old")
    with pytest.raises(KubeError):
        await kube.delete(PODS, "n", "p")


async def test_long_lists_come_in_pages(server: ApiServer, kube: Kube) -> None:
    first = {"items": [POD], "metadata": {"continue": "more", "resourceVersion": "7"}}
    server.script = [answer(200, first), answer(200, {"items": [POD], "metadata": {"resourceVersion": "7"}})]
    items, version = await kube.list_all(PODS, "n", labels="a=b")
    assert (len(items), version) == (2, "7")
    assert "continue=more" in server.seen[1]
    assert all("labelSelector=a%3Db" in seen or "labelSelector=a=b" in seen for seen in server.seen)


# -- the cache --------------------------------------------------------------------------------------------------------


def a_job(version: int, **status: Any) -> Object:
    return {"metadata": {"name": "j", "namespace": "n", "resourceVersion": str(version)}, "status": status}


class Cluster:
    """Lists and watches of one namespace: `lists` and `watches` say what each following request brings."""

    def __init__(self, lists: list[list[Object]], watches: list[list[Object]]) -> None:
        self.lists, self.watches = lists, watches
        self.requested: list[str] = []

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        if request.path.endswith("/pods"):
            if "watch" in request.query:
                await asyncio.Event().wait()
            return web.json_response({"items": [], "metadata": {"resourceVersion": "1"}})
        if "watch" not in request.query:
            self.requested.append("list")
            items = self.lists.pop(0)
            return web.json_response({"items": items, "metadata": {"resourceVersion": "1"}})
        self.requested.append(f"watch {request.query['resourceVersion']}")
        if not self.watches:
            await asyncio.Event().wait()
        response = web.StreamResponse()
        await response.prepare(request)
        for event in self.watches.pop(0):
            await response.write(json.dumps(event).encode() + b"\n")
        return response


async def follow(server: ApiServer, kube: Kube, cluster: Cluster, until: Callable[[Object | None], bool]) -> None:
    """Run a cache until the job is as wanted."""
    server.script = [cluster]
    cache = EvaluationCache(kube, ["n"])
    cache.expect("n", "j")
    running = asyncio.create_task(cache.run())
    try:
        while not until(cache.job("n", "j")):
            await cache.changed("n", "j", 10)
        await cache.wait_until_synced()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def has_version(version: int) -> Callable[[Object | None], bool]:
    return lambda job: job is not None and job["metadata"]["resourceVersion"] == str(version)


async def test_a_watch_that_ends_is_taken_up_where_it_ended(server: ApiServer, kube: Kube) -> None:
    modified = [{"type": "MODIFIED", "object": a_job(version)} for version in (2, 3)]
    bookmark = {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "9"}}}
    last = {"type": "MODIFIED", "object": a_job(10)}
    cluster = Cluster([[a_job(1)]], [[*modified, bookmark], [last]])
    await follow(server, kube, cluster, has_version(10))
    assert cluster.requested[:3] == ["list", "watch 1", "watch 9"]


async def test_a_watch_that_is_too_old_is_listed_again(server: ApiServer, kube: Kube) -> None:
    gone = {"type": "ERROR", "object": {"code": 410, "reason": "Expired", "message": "too old"}}
    cluster = Cluster([[a_job(1)], [a_job(20)]], [[gone]])
    await follow(server, kube, cluster, has_version(20))
    assert cluster.requested[:3] == ["list", "watch 1", "list"]


async def test_what_vanished_while_nobody_watched_is_gone_after_the_next_list(server: ApiServer, kube: Kube) -> None:
    gone = {"type": "ERROR", "object": {"code": 410, "reason": "Expired", "message": "too old"}}
    seen: list[bool] = []

    def appeared_and_vanished(job: Object | None) -> bool:
        seen.append(job is not None)
        return True in seen and job is None

    await follow(server, kube, Cluster([[a_job(1)], []], [[gone]]), appeared_and_vanished)


async def test_a_deleted_job_is_forgotten(server: ApiServer, kube: Kube) -> None:
    cluster = Cluster([[a_job(1)]], [[{"type": "DELETED", "object": a_job(2)}]])
    seen: list[bool] = []

    def deleted(job: Object | None) -> bool:
        seen.append(job is not None)
        return job is None and len(cluster.watches) == 0

    await follow(server, kube, cluster, deleted)


def test_kinds_lead_to_their_paths() -> None:
    assert JOBS.path("n", "j", "status") == "/apis/batch/v1/namespaces/n/jobs/j/status"
    assert PODS.path(None) == "/api/v1/pods"

"""What kopf is asked for: one daemon per active search, a look at changes, a probe. Nothing else.

kopf watches only our own kind, in the namespaces that are served: it would take its finalizer off a search that another
operator holds. Jobs and pods have a watch of their own (evaluate/cache.py), because kopf would list them where the
operator has no rights. Four traps of kopf shape this file:
1. kopf's `patch` and return values are never used: one refused patch would kill the daemon silently. status.py writes.
2. A daemon that returns is never started again for its object, so it waits for `stopped` whatever the search came to.
3. No timers: an `idle=` timer never fires while the status is being written.
4. A probe makes /healthz fail only by raising PermanentError.
"""

from __future__ import annotations

import logging
from typing import Any

import kopf

from kernelsearch.api.base import API_VERSION
from kernelsearch.controller.conditions import is_active
from kernelsearch.controller.health import ailment, vital_signs
from kernelsearch.controller.runner import Runner, Services

log = logging.getLogger(__name__)

FINALIZER = "kernelsearch.dev/controller"
"""Present only while a search is active."""
GRACE_SECONDS = 25.0
"""To stop in good order; afterwards the daemon is cancelled. Below the Deployment's termination grace."""

PLURAL = "kernelsearches"


def build_registry(services: Services) -> kopf.OperatorRegistry:
    """The handlers, bound to what they share."""
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    def login(**kwargs: Any) -> kopf.ConnectionInfo | None:
        return kopf.login_with_service_account(**kwargs) or kopf.login_with_kubeconfig(**kwargs)

    @kopf.on.startup(registry=registry)
    async def configure(settings: kopf.OperatorSettings, **_: Any) -> None:
        settings.persistence.finalizer = FINALIZER
        settings.posting.enabled = False  # our own events say what people want to hear
        settings.scanning.disabled = True  # no rights on CustomResourceDefinitions are needed
        settings.watching.server_timeout = 120
        settings.watching.client_timeout = 150
        settings.queueing.exit_timeout = GRACE_SECONDS

    @kopf.on.event(API_VERSION, PLURAL, registry=registry)
    async def saw(body: kopf.Body, type: str | None, uid: str, **_: Any) -> None:
        if type == "DELETED":
            services.wakeups.forget(uid)
        else:
            services.wakeups.saw(body)

    @kopf.daemon(
        API_VERSION,
        PLURAL,
        registry=registry,
        when=lambda body, **_: is_active(body),
        cancellation_backoff=GRACE_SECONDS,
        cancellation_timeout=5.0,
    )
    async def search(namespace: str | None, name: str, uid: str, stopped: kopf.DaemonStopped, **_: Any) -> None:
        runner = Runner(services, namespace or "", name, uid)
        runner.start()
        await stopped.wait()
        exiting = kopf.DaemonStoppingReason.OPERATOR_EXITING in (stopped.reason or kopf.DaemonStoppingReason(0))
        await runner.leave(exiting=exiting)

    @kopf.on.probe(registry=registry, id="alive")
    async def alive(**_: Any) -> dict[str, float | int]:
        if trouble := ailment(services):
            raise kopf.PermanentError(trouble)
        return vital_signs(services)

    return registry

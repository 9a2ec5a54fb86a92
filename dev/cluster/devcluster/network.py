"""The node's network: a namespace whose only way out is a cable to this machine, and no route further.

That pods cannot reach beyond the machine is a property of this shape, not of a rule: the node has no default route.
Nothing is added to the host but one interface and the route through it, and both vanish with the namespace.
"""

import contextlib
import subprocess
from pathlib import Path

from devcluster.instance import Instance
from devcluster.progress import Failure, run


def check_free(instance: Instance) -> None:
    """Raises Failure when this machine already uses addresses that the cluster would take."""
    routes = run("ip", "-oneline", "route", "show", "table", "all", "root", instance.network, "type", "unicast")
    foreign = [line for line in routes.splitlines() if instance.link not in line.split()]
    if foreign:
        raise Failure(
            f"{instance.network} is in use on this machine ({foreign[0].strip()}); choose another X of 10.X.0.0/16: "
            "KERNELSEARCH_CLUSTER_BLOCK=X"
        )


def disconnect(instance: Instance) -> None:
    """Removes the host's end of the cable now: the kernel would, but some time after the node's last process."""
    with contextlib.suppress(Failure):  # the kernel was faster
        run("ip", "link", "delete", instance.link)


def connect(instance: Instance, host: int) -> None:
    """Called inside the node's namespace; `host` is a descriptor of the host's network namespace."""

    def on_host(*words: str) -> None:
        _ip(words, ("nsenter", f"--net=/proc/self/fd/{host}"), host)

    link, inside = instance.link, "host"
    _ip(("link", "set", "lo", "up"))
    _ip(("link", "add", inside, "type", "veth", "peer", "name", link, "netns", f"/proc/self/fd/{host}"), (), host)
    _ip(("address", "add", f"{instance.node}/30", "dev", inside))
    _ip(("link", "set", inside, "up"))
    on_host("address", "add", f"{instance.host}/30", "dev", link)
    on_host("link", "set", link, "up")
    on_host("route", "add", instance.network, "via", instance.node)
    # A process of the node must find some route to a service before kube-proxy's rules can rewrite the address.
    _ip(("route", "add", instance.services, "dev", inside))
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    # The bridge of the isolated pods (config.py): no address, no IPv6, and so nobody on it to talk to.
    _ip(("link", "add", "nowhere", "type", "bridge"))
    Path("/proc/sys/net/ipv6/conf/nowhere/disable_ipv6").write_text("1")
    _ip(("link", "set", "nowhere", "up"))


def _ip(words: tuple[str, ...], prefix: tuple[str, ...] = (), *descriptors: int) -> None:
    subprocess.run([*prefix, "ip", *words], pass_fds=descriptors, check=True)

"""Where the controller may send a prompt and a key.

Whoever may create a KernelSearch chooses an endpoint, and the controller calls it from inside the cluster. So loopback,
link-local, private and other non-public addresses are refused unless an administrator listed the endpoint's origin
(`llm.allowedOrigins` of the chart). Names are resolved and *every* address is looked at; transport.py connects to the
addresses that were checked, so a name that resolves differently a moment later gains nothing.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Iterable

import httpx2

_PORTS = {"http": 80, "https": 443}
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class OriginRefused(Exception):
    """This endpoint may not be used; the message says what to do."""


def origin_of(url: str | httpx2.URL) -> str:
    """`scheme://host:port` in lower case, the port always given. Raise OriginRefused when there is none."""
    try:
        parsed = httpx2.URL(url)
        host = parsed.raw_host.decode("ascii").lower().rstrip(".")
    except (httpx2.InvalidURL, UnicodeError, TypeError) as error:
        raise OriginRefused(f"endpoint {str(url)!r} is not a URL ({error}): write it like https://host/v1") from None
    if parsed.scheme not in _PORTS or not host or (parsed.port or 0) > 65535:
        raise OriginRefused(f"endpoint {str(url)!r} is not an http or https URL: write it like https://host/v1")
    if parsed.userinfo:
        raise OriginRefused(f"endpoint on {host} has a user name in its URL: give the key by secretKeyRef instead")
    shown = f"[{host}]" if ":" in host else host
    return f"{parsed.scheme}://{shown}:{parsed.port or _PORTS[parsed.scheme]}"


class OriginPolicy:
    """Public addresses may be used, and the origins in `allowed`. Raise OriginRefused when one of those is no URL."""

    def __init__(self, allowed: Iterable[str] = ()) -> None:
        self._allowed = frozenset(origin_of(origin) for origin in allowed)

    async def check(self, url: str | httpx2.URL) -> None:
        """Raise OriginRefused when the endpoint may not be used, OSError when its name cannot be resolved."""
        await self.addresses(url)

    async def addresses(self, url: str | httpx2.URL) -> list[str]:
        """Resolve the URL's host and return the addresses to connect to. Raises as `check` does."""
        origin = origin_of(url)
        parsed = httpx2.URL(url)
        port = parsed.port or _PORTS[parsed.scheme]
        found = await asyncio.get_running_loop().getaddrinfo(
            parsed.raw_host.decode("ascii"), port, type=socket.SOCK_STREAM
        )
        texts = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        if origin not in self._allowed:
            for text in texts:
                if not is_public(ipaddress.ip_address(text)):
                    raise OriginRefused(
                        f"endpoint {origin} is at {text}, which is not a public address: an administrator may allow it "
                        f"by adding {origin} to llm.allowedOrigins of the chart"
                    )
        return texts


def is_public(address: Address) -> bool:
    """True for a globally routable unicast address; IPv4 inside IPv6 (mapped, 6to4, NAT64) counts as the IPv4 it is."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
        if address.teredo is not None or address.scope_id is not None or address.is_site_local:
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved

"""Which endpoints the controller may call: what an address is decides, not how it is written."""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from kernelsearch.llm import transport
from kernelsearch.llm.client import LlmClient, LlmError, LlmReason, ModelEndpoint
from kernelsearch.llm.origins import OriginPolicy, OriginRefused, is_public, origin_of

from .endpoint import completion


@pytest.mark.parametrize(
    "text",
    [
        "127.0.0.1", "127.8.8.8", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
        "224.0.0.1", "255.255.255.255", "192.0.2.1", "::1", "::", "fe80::1", "fc00::1", "ff02::1", "::ffff:10.0.0.1",
        "2002:7f00:1::", "64:ff9b::a00:1", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "fec0::1",
    ],
)  # fmt: skip
def test_addresses_of_this_machine_cluster_or_site_are_not_public(text: str) -> None:
    assert not is_public(ipaddress.ip_address(text))


@pytest.mark.parametrize(
    "text", ["8.8.8.8", "104.18.6.192", "2606:4700::6812:7c0", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_global_addresses_are_public(text: str) -> None:
    assert is_public(ipaddress.ip_address(text))


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8000/v1", "http://localhost/v1", "http://127.1/v1",
        "http://2130706433/v1", "http://0x7f000001/v1", "http://0/v1", "http://[::1]/v1", "http://[::ffff:127.0.0.1]/v1",
        "https://169.254.169.254/latest/meta-data", "http://10.96.0.1:443/api", "HTTP://LOCALHOST:80/",
    ],
)  # fmt: skip
async def test_however_a_private_address_is_written_it_is_refused(url: str) -> None:
    with pytest.raises(OriginRefused, match=r"llm\.allowedOrigins"):
        await OriginPolicy(["http://localhost:9999"]).check(url)


async def test_an_allowed_origin_is_that_scheme_host_and_port_only() -> None:
    policy = OriginPolicy(["http://Localhost:8080/v1"])
    await policy.check("http://localhost:8080/other/path")
    for other in ("http://localhost/v1", "https://localhost:8080/v1", "http://127.0.0.1:8080/v1"):
        with pytest.raises(OriginRefused):
            await policy.check(other)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("https://api.example.com@127.0.0.1/v1", "user name in its URL"),
        ("https://key:x@api.example.com/v1", "user name in its URL"),
        ("ftp://example.com/v1", "not an http or https URL"),
        ("https:///v1", "not an http or https URL"),
        ("example.com/v1", "not an http or https URL"),
        ("http://[::1/v1", "is not a URL"),
    ],
)
async def test_what_is_no_plain_url_is_refused(url: str, says: str) -> None:
    with pytest.raises(OriginRefused, match=says):
        await OriginPolicy().check(url)
    with pytest.raises(OriginRefused, match=says):
        OriginPolicy([url])


def test_an_origin_is_written_one_way() -> None:
    assert origin_of("https://API.example.com/v1") == "https://api.example.com:443"
    assert origin_of("http://[::1]:8000/v1") == "http://[::1]:8000"


async def test_one_private_address_among_public_ones_is_enough_to_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_to(monkeypatch, ["8.8.8.8", "10.0.0.7"])
    with pytest.raises(OriginRefused, match=r"is at 10\.0\.0\.7"):
        await OriginPolicy().check("https://mixed.example.com/v1")


async def test_a_name_is_resolved_once_so_that_what_was_checked_is_what_is_called(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The name would answer with another address the second time; TLS still proves the name, not the address."""
    trusted = certificate(tmp_path, "model.example.com")
    asked: list[str] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        asked.append(request.headers["Host"])
        return web.json_response(completion())

    app = web.Application()
    app.router.add_post("/v1/chat/completions", answer)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=server).start()
    port = runner.addresses[0][1]
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
    resolutions = resolve_to(monkeypatch, ["127.0.0.1"], then=["127.0.0.9"])
    try:
        for host, reason in [("model.example.com", None), ("other.example.com", LlmReason.UNAVAILABLE)]:
            resolutions.clear()
            url = f"https://{host}:{port}/v1"
            async with LlmClient(origins=OriginPolicy([url]), retries=0) as llm:
                call = llm.ping(ModelEndpoint(name="m", model="m", endpoint=url, timeout_seconds=20))
                if reason is None:
                    await call
                    assert resolutions == [host]
                else:
                    with pytest.raises(LlmError, match="certificate") as caught:
                        await call
                    assert caught.value.reason is reason
    finally:
        await runner.cleanup()
    assert asked == [f"model.example.com:{port}"]


async def test_a_name_that_does_not_resolve_is_a_failure_that_may_pass() -> None:
    async with LlmClient(origins=OriginPolicy(), retries=0) as llm:
        with pytest.raises(LlmError, match=r"cannot resolve nowhere\.invalid") as caught:
            await llm.ping(ModelEndpoint(name="m", model="m", endpoint="https://nowhere.invalid/v1"))
    assert caught.value.reason is LlmReason.UNAVAILABLE
    assert not caught.value.permanent


def test_the_guard_keeps_no_connection_between_hosts() -> None:
    pool = transport.GuardedTransport(OriginPolicy())._inner._pool
    assert pool._max_keepalive_connections == 0


def resolve_to(monkeypatch: pytest.MonkeyPatch, addresses: list[str], then: list[str] | None = None) -> list[str]:
    """Let every name resolve to these addresses, the second time to `then`; return the list of names asked for."""
    names: list[str] = []

    async def getaddrinfo(host: str, port: int, **_: Any) -> list[Any]:
        names.append(host)
        found = addresses if then is None or len(names) == 1 else then
        return [(2, 1, 6, "", (address, port)) for address in found]

    real = asyncio.get_running_loop().getaddrinfo

    async def patched(host: Any, port: int, **options: Any) -> list[Any]:
        if str(host).endswith("example.com"):
            return await getaddrinfo(str(host), port)
        return await real(host, port, **options)

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", patched)
    return names


def certificate(folder: Path, name: str) -> Path:
    """A self-signed certificate for `name`, which is its own authority."""
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
    ]
    names = ["-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}"]
    files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    subprocess.run([*command, *names, *files], check=True, capture_output=True)
    return folder / "cert.pem"

"""How bytes travel to an endpoint: to checked addresses only, and never more back than a reply may have.

The SDK sits on top and knows nothing of this. A reply is counted as it arrives, uncompressed (`identity` is asked for
and anything else refused), so neither an endless stream nor a decompression bomb reaches memory.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx2

from kernelsearch.llm.origins import OriginPolicy

MAX_REPLY_BYTES = 1024 * 1024


class ReplyRefused(httpx2.TransportError):
    """The reply is larger than MAX_REPLY_BYTES, or compressed though that was not asked for."""


class GuardedTransport(httpx2.AsyncBaseTransport):
    """`origins` None: any address, for a person's own machine."""

    def __init__(self, origins: OriginPolicy | None) -> None:
        self._origins = origins
        # No connection is kept: one opened for a host must never carry the request of another host at that address.
        self._inner = httpx2.AsyncHTTPTransport(limits=httpx2.Limits(max_keepalive_connections=0))

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        request.headers["accept-encoding"] = "identity"
        response = await self._send(request)
        if (coding := response.headers.get("content-encoding", "identity").lower()) != "identity":
            await response.aclose()
            raise ReplyRefused(f"the reply is compressed ({coding}) though that was not asked for")
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        response.stream = _Counted(response.stream)
        return response

    async def _send(self, request: httpx2.Request) -> httpx2.Response:
        if self._origins is None:
            return await self._inner.handle_async_request(request)
        try:
            addresses = await self._origins.addresses(request.url)
        except OSError as error:
            raise httpx2.ConnectError(
                f"cannot resolve {request.url.host}: {error.strerror}", request=request
            ) from error
        failure: httpx2.HTTPError | None = None
        for address in addresses:
            pinned = httpx2.Request(
                request.method,
                request.url.copy_with(host=address),
                headers=request.headers,  # Host still names the host, and so does TLS:
                stream=request.stream,
                extensions={**request.extensions, "sni_hostname": request.url.raw_host.decode("ascii")},
            )
            try:
                return await self._inner.handle_async_request(pinned)
            except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
                failure = error  # nothing was sent: the next address may be tried
        assert failure is not None
        raise failure

    async def aclose(self) -> None:
        await self._inner.aclose()


class _Counted(httpx2.AsyncByteStream):
    def __init__(self, stream: httpx2.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for chunk in self._stream:
            size += len(chunk)
            if size > MAX_REPLY_BYTES:
                raise ReplyRefused(f"the reply has more than {MAX_REPLY_BYTES} bytes")
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()

"""An HTTP client that follows no redirect to a host of a private network.

A server of public data may answer with a redirect. The client does not follow a redirect to the metadata
server of a cloud or to a service behind a firewall. It asks such a host only if the manifest itself names it.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from typing import TYPE_CHECKING, Any

from gauntlet.manifests.errors import UsageError

if TYPE_CHECKING:
    import aiohttp


async def http_client(**options: Any) -> aiohttp.ClientSession:
    """The client that fsspec uses for `http://` and `https://`."""
    import aiohttp

    tracing = aiohttp.TraceConfig()
    tracing.on_request_redirect.append(_require_public)
    return aiohttp.ClientSession(trace_configs=[tracing], **options)


async def _require_public(session: object, context: object, redirect: Any) -> None:  # noqa: ARG001
    """Raise a UsageError unless the redirect stays on its host or leads only to public addresses."""
    from yarl import URL

    location = redirect.response.headers.get("Location") or redirect.response.headers.get("URI", "")
    target = redirect.url.join(URL(location))
    if target.host == redirect.url.host:
        return
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    inner = [address for address in (str(entry[4][0]) for entry in found) if not _is_public(address)]
    if inner:
        raise UsageError(
            f"{redirect.url}: found a redirect to {target}, which is {inner[0]}, an address of a private "
            "network. It is not followed. If the data lie there, name that address in the manifest"
        )


def _is_public(address: str) -> bool:
    found = ipaddress.ip_address(address.partition("%")[0])
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return (mapped or found).is_global

"""The client: sends one request, returns the whole answer.

In: an address and a body. Out: a status, headers and bytes, or an error of `failures`. It keeps no
cookies and follows no redirects: either would move a problem's requests to another server.
aiohttp, because with 128 requests under way one costs it under a tenth of what it costs httpx
(`bench_driver.py --httpx`); a proxy is looked up here once, which aiohttp does for each request.
"""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from heal.engines.http.failures import BrokenError, from_exception
from heal.redaction import remember

CONNECT_S = 10.0
KEEP_ALIVE_S = 4.0
"""vLLM and SGLang close an idle connection after 5 s; a request just sent would be lost with it."""
MOST_BYTES = 2**29
"""Longer answers are refused: 100,000 tokens with 20 log-probs each take a quarter of it."""
READ_BYTES = 2**20
"""An answer with log-probs has megabytes; aiohttp pauses the connection at twice this."""


@dataclass(frozen=True)
class Response:
    """A whole answer."""

    status_code: int
    headers: Mapping[str, str]
    content: bytes

    def json(self) -> Any:
        """Raises: ValueError."""
        return json.loads(self.content)


class Client:
    """Connections to any number of servers. Made and used in the event loop's thread."""

    def __init__(self, key: str | None) -> None:
        import aiohttp

        remember(key)
        self.headers = {"authorization": f"Bearer {key}"} if key else {}
        self._expected = (aiohttp.ClientError, OSError)
        self._proxies: dict[str, str | None] = {}
        self._session = aiohttp.ClientSession(
            # How many are under way is counted per server; time-outs go by the tokens asked for.
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=self.headers,
            read_bufsize=READ_BYTES,
        )

    async def post(self, url: str, body: bytes, login: str | None = None) -> Response:
        """Send JSON; a `user:password` goes in place of the key. Raises: RequestError."""
        return await self._send("POST", url, body, login)

    async def get(self, url: str, login: str | None = None) -> Response:
        """Raises: RequestError."""
        return await self._send("GET", url, None, login)

    async def aclose(self) -> None:
        """End every connection."""
        await self._session.close()

    async def _send(self, method: str, url: str, body: bytes | None, login: str | None) -> Response:
        headers = {"content-type": "application/json"} if body is not None else {}
        if login is not None:
            headers["authorization"] = basic_authorization(login)
        try:
            async with self._session.request(
                method,
                url,
                data=body,
                headers=headers,
                proxy=self._proxy(url),
                allow_redirects=False,
            ) as response:
                return Response(response.status, response.headers, await _read(response))
        except self._expected as error:
            raise from_exception(error) from None

    def _proxy(self, url: str) -> str | None:
        """The environment's proxy for a server; None for a direct connection."""
        if url not in self._proxies:
            parts = urlsplit(url)
            known = getproxies()
            proxy = known.get(parts.scheme) or known.get("all")
            self._proxies[url] = None if proxy_bypass(parts.netloc) else proxy
            remember(urlsplit(proxy or "").password)
        return self._proxies[url]


def basic_authorization(login: str) -> str:
    """The header's value for a `user:password`, which is remembered as a secret."""
    user, _, password = login.partition(":")
    remember(login)
    remember(password or user)
    return f"Basic {base64.b64encode(login.encode()).decode()}"


async def _read(response: Any) -> bytes:
    """The body. Raises: BrokenError if it never ends."""
    parts, size = [], 0
    async for part in response.content.iter_any():
        parts.append(part)
        size += len(part)
        if size > MOST_BYTES:
            raise BrokenError(f"an answer of more than {MOST_BYTES >> 20} MiB")
    return b"".join(parts)

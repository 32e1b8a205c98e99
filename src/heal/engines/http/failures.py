"""What can go wrong with one request, sorted by what is to be done about it.

In: an exception or a response. Out: one of a few errors, each with a short cause that can be
counted. Whether a request may have been computed decides whether asking again may pay twice.
"""

import math
import os
from email.utils import parsedate_to_datetime
from typing import Any

from heal.redaction import redact

LONGEST_CAUSE = 200


class RequestError(Exception):
    """Base; `cause` is short, the same for the same trouble, and holds no secret.

    Here foreign words enter: a server may send back the very header that it was sent.
    """

    def __init__(self, cause: str) -> None:
        # cut last: a secret cut in two would not be known again
        self.cause = redact(cause)[:LONGEST_CAUSE]
        super().__init__(self.cause)
        self.where: Any = None
        """The `Endpoint` it happened at, once that is known."""


class RefusedError(RequestError):
    """Not now (429, 503): nothing was computed."""

    def __init__(self, status: int, wait_s: float | None) -> None:
        super().__init__(f"HTTP {status}")
        self.status = status
        self.wait_s = wait_s
        """As `Retry-After` asked; None if it did not."""


class UnreachableError(RequestError):
    """No connection: nothing was computed."""


class BrokenError(RequestError):
    """Lost on its way, or the server failed at it: it may have been computed."""


class BadAnswerError(BrokenError):
    """An answer that cannot be used; the server itself is healthy."""


class RejectedError(RequestError):
    """The server will never do this request."""


def from_exception(error: Exception) -> RequestError:
    """What an exception of aiohttp, of a socket, or a time-out, means."""
    import aiohttp

    if isinstance(error, aiohttp.ClientConnectorError):
        return UnreachableError(f"no connection ({_system_words(error)})")
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return UnreachableError("no connection (timed out)")
    if isinstance(error, TimeoutError):
        return BrokenError("timed out")
    if isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientPayloadError):
        return BrokenError("the connection ended before the answer did")
    if isinstance(error, aiohttp.ClientResponseError):
        return BrokenError("an answer that is no HTTP")
    return BrokenError(f"connection lost ({type(error).__name__})")


def check_status(response: Any, now: float) -> None:
    """Raise what a response's status means; return for 200. `now` in seconds since 1970."""
    status = response.status_code
    if status == 200:
        return
    if status in {429, 503}:
        wait = retry_after_s(response.headers.get("retry-after"), now)
        raise RefusedError(status, wait)
    words = _words(response)
    if status >= 500 or status in {401, 403, 404, 408}:
        raise BrokenError(f"HTTP {status}{words}")
    raise RejectedError(f"HTTP {status}{words}")


def retry_after_s(header: str | None, now: float) -> float | None:
    """Seconds to wait: `Retry-After` is a number or a date; None if it is neither."""
    if not header:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(header).timestamp() - now
        except (ValueError, OverflowError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _system_words(error: Any) -> str:
    """Why there is no connection, without the address asyncio puts into it."""
    number = getattr(error, "errno", None) or 0
    # resolvers count downwards, and have their own words
    told = os.strerror(number) if number > 0 else getattr(error, "strerror", None)
    return told or type(error).__name__


def _words(response: Any) -> str:
    """The server's own words, wherever this kind of server puts them."""
    try:
        tree = response.json()
    except ValueError:
        return ""
    for key in ("error", "message", "detail"):
        if isinstance(tree, dict) and tree.get(key):
            tree = tree[key]
    return f": {tree}"[:LONGEST_CAUSE] if isinstance(tree, str) else ""

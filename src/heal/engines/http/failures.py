"""What can go wrong with one request, sorted by what is to be done about it.

In: an exception or a response. Out: one of a few errors, each with a short cause that can be
counted. Whether a request may have been computed decides whether asking again may pay twice.
"""

import math
import os
import re
from email.utils import parsedate_to_datetime
from typing import Any

from heal.redaction import redact

LONGEST_CAUSE = 200
LARGEST_ERROR = 1 << 16
"""Bytes of a body that may be an error alone; an answer with log-probs has more."""
MOST_COMPLAINTS = 3
BUSY = (429, 503)
ANSWERS = frozenset(["choices", "tokens", "output_ids", "data"])
"""Fields of an answer that holds something."""


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

    def __init__(self, status: int, wait_s: float | None, words: str = "") -> None:
        super().__init__(f"HTTP {status}{words}")
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
    """Raise what a response's status means; return for 200. `now` in seconds since 1970.

    A 200 whose body is an error is that error: gateways answer so once they have begun to answer.
    """
    status = response.status_code
    if status == 200:
        _refuse_error_body(response, now)
        return
    raise _meant(status, f"HTTP {status}", _words(response), response, now)


def _meant(status: int, name: str, words: str, response: Any, now: float) -> RequestError:
    if status in BUSY:
        wait_s = retry_after_s(response.headers.get("retry-after"), now)
        return RefusedError(status, wait_s, words)
    if status in {401, 403}:
        return BrokenError(f"{name} (see engine.http.api_key){words}")
    if 300 <= status < 400:
        to = response.headers.get("location")
        return RejectedError(f"{name}{words}" + (f"; it moved to {to}" if to else ""))
    if status >= 500 or status in {404, 408}:
        return BrokenError(f"{name}{words}")
    return RejectedError(f"{name}{words}")


def _refuse_error_body(response: Any, now: float) -> None:
    """Raises: RequestError if the body is an error and nothing else."""
    body = response.content
    if len(body) > LARGEST_ERROR or b'"error"' not in body:
        return
    tree = _tree(response)
    if not isinstance(tree, dict) or not tree.get("error") or tree.keys() & ANSWERS:
        return
    words = _words(response) or ": an error without words"
    status = _status_within(tree)
    if status is None:
        raise BadAnswerError(f"an error under HTTP 200{words}")
    raise _meant(status, f"HTTP 200 with an error {status}", words, response, now)


def _status_within(tree: dict[str, Any]) -> int | None:
    """The status that an error's body names; None if it names none."""
    error = tree["error"]
    named = [tree.get("code"), tree.get("status")]
    named += [error.get("code"), error.get("status")] if isinstance(error, dict) else []
    for status in named:
        if isinstance(status, int | str) and re.fullmatch("[345][0-9][0-9]", str(status)):
            return int(status)
    return None


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
    tree = _tree(response)
    if tree is None:
        return _plain_words(response)
    for key in ("error", "message", "detail"):
        if isinstance(tree, dict) and tree.get(key):
            tree = tree[key]
    if isinstance(tree, list):
        tree = "; ".join(filter(None, map(_complaint, tree[:MOST_COMPLAINTS])))
    return f": {tree}" if isinstance(tree, str) and tree else ""


def _tree(response: Any) -> Any:
    """The body as JSON; None if it is none, or nested beyond reading."""
    try:
        return response.json()
    except (ValueError, RecursionError):
        return None


def _complaint(entry: Any) -> str | None:
    """One entry of the list in a 422 of FastAPI (vLLM, SGLang): where, and what is wrong."""
    if not isinstance(entry, dict):
        return entry if isinstance(entry, str) else None
    where = entry.get("loc")
    place = ".".join(map(str, where)) if isinstance(where, list) else ""
    words = str(entry.get("msg") or entry.get("message") or "")
    return f"{place}: {words}" if place and words else words or None


def _plain_words(response: Any) -> str:
    """The first line of a body that is text; the title of one that is a page."""
    text = response.content[:LARGEST_ERROR].decode("utf-8", "replace").strip()
    title = re.search(r"<title>([^<]*)</title>", text, re.IGNORECASE)
    line = title[1] if title else text.partition("\n")[0]
    if not line.strip() or (not title and line.lstrip().startswith(("<", "{", "["))):
        return ""
    return f": {line.strip()}"

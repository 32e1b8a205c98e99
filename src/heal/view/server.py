"""Pages over HTTP, to this machine's own browser alone.

In: a run folder. Listens on 127.0.0.1. Whoever has the address with its token gets a cookie, and
without the cookie nobody gets anything; a request that names another host (a page elsewhere whose
name was pointed here) is refused, and so is a mark without the page's own token. A policy forbids
every script, style and address but the viewer's own. Reads the run's folder anew for each trace,
and writes marks alone.
"""

import hmac
import json
import logging
import secrets
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.cookies import CookieError, SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple, cast
from urllib.parse import parse_qsl, unquote, urlsplit

from heal.errors import HealError, UserError
from heal.records import Problem
from heal.redaction import redact, visible
from heal.store import DamagedError, Store
from heal.store.marks import Mark, add_mark, read_marks
from heal.view import pages
from heal.view.index import Entry, Filters, Index, State
from heal.view.trace import open_story
from heal.wording import plural

HOST = "127.0.0.1"
MAX_BODY_BYTES = 16_384
_MAX_FIELDS = 32
_IDLE_S = 30.0
_HTML = "text/html; charset=utf-8"
_JSON = "application/json"
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self';"
    " connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # not `no-referrer`: with it a form of the page itself comes from the origin `null`
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_log = logging.getLogger(__name__)


class Answer(NamedTuple):
    """What a request gets."""

    status: HTTPStatus
    kind: str
    body: bytes
    headers: Mapping[str, str] = {}


class RefusedError(Exception):
    """A request that gets no page."""

    def __init__(self, status: HTTPStatus, said: str, hint: str = "") -> None:
        super().__init__(said)
        self.status, self.said, self.hint = status, said, hint


class Viewer(ThreadingHTTPServer):
    """One run's viewer. `serve_forever` answers until `shutdown`."""

    daemon_threads = True

    def __init__(self, folder: Path, port: int = 0) -> None:
        self.folder = folder
        self.index = Index(folder)
        self.index.refresh()
        self.token, self.page_token = secrets.token_urlsafe(24), secrets.token_urlsafe(24)
        try:
            super().__init__((HOST, port), _Handler)
        except (OSError, OverflowError) as error:
            said = getattr(error, "strerror", None) or error
            raise UserError(
                f"port {port}: {said}", hint=f"heal view {folder} chooses a free one by itself"
            ) from None
        self.port = int(self.server_address[1])

    @property
    def address(self) -> str:
        """What to open; it lets in whoever has it."""
        return f"http://{HOST}:{self.port}/?token={self.token}"

    @property
    def cookie(self) -> str:
        """Cookies are shared by all ports of a host, so each has a name of its own."""
        return f"heal_view_{self.port}"

    @property
    def hosts(self) -> tuple[str, str]:
        """What a browser on this machine calls it."""
        return f"{HOST}:{self.port}", f"localhost:{self.port}"

    def server_close(self) -> None:
        """Give back the port and the index."""
        super().server_close()
        self.index.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that broke off is nobody's business; the rest goes to the log."""
        _log.debug("a connection ended early", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    server_version, sys_version = "heal", ""
    protocol_version = "HTTP/1.1"
    timeout = _IDLE_S

    def do_GET(self) -> None:
        """A page, a file of the pages', or how far the run is."""
        self._answer(self._get)

    def do_POST(self) -> None:
        """A mark."""
        self._answer(self._post)

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:
        """Requests are not logged: their addresses may hold the token."""

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What `http.server` refuses by itself (a method, a malformed request), in our form."""
        self._send(_page(HTTPStatus(code), message or HTTPStatus(code).phrase))

    @property
    def _viewer(self) -> Viewer:
        return cast(Viewer, self.server)

    def _answer(self, work: Callable[[], Answer]) -> None:
        try:
            answer = work()
        except RefusedError as refused:
            answer = self._refused(refused)
        except HealError as error:
            answer = _page(HTTPStatus.INTERNAL_SERVER_ERROR, str(error), error.hint or "")
        except (ConnectionError, TimeoutError):
            return
        except Exception:
            _log.exception("heal view: a page could not be made")
            said = "This page could not be made; the terminal of heal view says why."
            answer = _page(HTTPStatus.INTERNAL_SERVER_ERROR, said)
        self._send(answer)

    def _refused(self, refused: RefusedError) -> Answer:
        self.close_connection = True  # what was sent with the request is not read
        if self.headers.get("Accept") == _JSON:
            return _json({"error": refused.said}, refused.status)
        return _page(refused.status, refused.said, refused.hint)

    def _send(self, answer: Answer) -> None:
        self.send_response(answer.status)
        for name, value in {**HEADERS, **answer.headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Type", answer.kind)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    # ── who may ask ─────────────────────────────────────────────────────────────────────────────

    def _require_host(self) -> None:
        hosts = self.headers.get_all("Host") or []
        if len(hosts) != 1 or hosts[0].lower() not in self._viewer.hosts:
            raise RefusedError(
                HTTPStatus.MISDIRECTED_REQUEST,
                f"This viewer answers to http://{self._viewer.hosts[0]} alone.",
                "Over SSH forward the same port: heal view RUN --port 8765 there,"
                " ssh -L 8765:127.0.0.1:8765 here.",
            )

    def _require_cookie(self) -> None:
        try:
            found = SimpleCookie(self.headers.get("Cookie", ""))
        except CookieError:
            found = SimpleCookie()
        held = found.get(self._viewer.cookie)
        if held is None or not _same(held.value, self._viewer.token):
            raise RefusedError(
                HTTPStatus.FORBIDDEN,
                "Open the address that heal view printed, with its token.",
                "The token is new each time heal view starts.",
            )

    # ── what is asked ───────────────────────────────────────────────────────────────────────────

    def _get(self) -> Answer:
        self._require_host()
        address = urlsplit(self.path)
        asked = _fields(address.query)
        if address.path == "/" and "token" in asked:
            return self._enter(asked["token"])
        self._require_cookie()
        name = address.path.removeprefix("/")
        if name in pages.ASSETS:
            return Answer(HTTPStatus.OK, pages.ASSETS[name], pages.asset(name))
        if address.path == "/":
            return self._list(asked)
        if address.path == "/state":
            return self._state()
        if address.path == "/favicon.ico":
            return Answer(HTTPStatus.NO_CONTENT, "image/x-icon", b"")
        parts = [unquote(part) for part in address.path.split("/")[1:]]
        if len(parts) == 4 and parts[0] == "trace":
            _, stage, problem, key = parts
            entry = self._entry(stage, problem, key, asked.get("tag", ""))
            return self._trace(entry, Filters.of(asked))
        raise RefusedError(HTTPStatus.NOT_FOUND, "There is no such page.")

    def _enter(self, token: str) -> Answer:
        if not _same(token, self._viewer.token):
            raise RefusedError(
                HTTPStatus.FORBIDDEN,
                "This token is not the one that heal view printed.",
                "It is new each time heal view starts.",
            )
        held = f"{self._viewer.cookie}={token}; HttpOnly; SameSite=Strict; Path=/"
        return Answer(HTTPStatus.OK, _HTML, pages.entry_page().encode(), {"Set-Cookie": held})

    def _list(self, asked: Mapping[str, str]) -> Answer:
        viewer, filters = self._viewer, Filters.of(asked)
        viewer.index.refresh_behind()
        after, before = _place(asked, "after"), _place(asked, "before")
        page = viewer.index.page(filters, -1 if after is None else after, before)
        with Store.open(viewer.folder, write=False) as store:
            problems = _problems(store, {row.problem for row in page.rows})
        text = pages.list_page(
            str(viewer.folder),
            viewer.index.state,
            page,
            filters,
            viewer.index.facets(),
            problems,
            viewer.page_token,
        )
        return Answer(HTTPStatus.OK, _HTML, text.encode())

    def _state(self) -> Answer:
        self._viewer.index.refresh_behind()
        state = self._viewer.index.state
        return _json({"version": state.version, "said": said_of(state)})

    def _entry(self, stage: str, problem: str, key: str, tag: str) -> Entry:
        found = self._viewer.index.entry(stage, problem, key, tag)
        if found is None:
            raise RefusedError(
                HTTPStatus.NOT_FOUND,
                "The run has no such trace.",
                "A changed setting may have replaced it; the list has those of the run as it is.",
            )
        return found

    def _trace(self, entry: Entry, filters: Filters) -> Answer:
        viewer = self._viewer
        with Store.open(viewer.folder, write=False) as store, store.moment():
            story = open_story(store, entry, viewer.index.of_problem(entry.problem))
        text = pages.trace_page(
            str(viewer.folder),
            viewer.index.state,
            story,
            read_marks(viewer.folder).get(entry.key),
            filters,
            viewer.index.beside(filters, entry.n),
            viewer.page_token,
        )
        return Answer(HTTPStatus.OK, _HTML, text.encode())

    def _post(self) -> Answer:
        self._require_host()
        self._require_cookie()
        origin = self.headers.get("Origin")
        if origin is not None and origin not in {f"http://{host}" for host in self._viewer.hosts}:
            raise RefusedError(HTTPStatus.FORBIDDEN, "This did not come from a page of the viewer.")
        if urlsplit(self.path).path != "/mark":
            raise RefusedError(HTTPStatus.NOT_FOUND, "There is no such page.")
        fields = self._body()
        if not _same(fields.get("token", ""), self._viewer.page_token):
            raise RefusedError(
                HTTPStatus.FORBIDDEN, "This page is of an earlier viewer.", "Load it again."
            )
        return self._mark(fields)

    def _mark(self, fields: Mapping[str, str]) -> Answer:
        viewer = self._viewer
        stage, problem, trace, tag = (
            fields.get(name, "") for name in ("stage", "problem", "trace", "tag")
        )
        entry = self._entry(stage, problem, trace, tag)
        try:
            mark = Mark(fields.get("mark", ""))
        except ValueError:
            raise RefusedError(HTTPStatus.BAD_REQUEST, "A mark is good, bad or none.") from None
        before = read_marks(viewer.folder).get(entry.key)
        note = fields.get("note", before.note if before is not None else "")
        marked = add_mark(viewer.folder, entry.key, entry.problem, mark, note)
        viewer.index.note(entry.key, mark)
        if self.headers.get("Accept") == _JSON:
            return _json({"mark": marked.mark, "note": marked.note})
        back = {"Location": pages.address(entry, Filters())}
        return Answer(HTTPStatus.SEE_OTHER, _HTML, b"", back)

    def _body(self) -> dict[str, str]:
        length = self.headers.get("Content-Length", "")
        if not length.isdigit() or int(length) > MAX_BODY_BYTES:
            raise RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "This is no mark.")
        return _fields(self.rfile.read(int(length)).decode("utf-8", "replace"))


def said_of(state: State) -> str:
    """How far the run is, in a line."""
    told = f"{plural(state.traces, 'trace')} of {plural(state.problems, 'problem')}"
    return told + ("; the run goes on" if state.is_busy else "")


def _problems(store: Store, wanted: set[str]) -> dict[str, Problem]:
    """Those that can be read; a list shows the others by their id."""
    found = {}
    for problem in wanted:
        try:
            read = store.get("problem", problem, problem, Problem)
        except DamagedError:
            continue
        if read is not None:
            found[problem] = read
    return found


def _fields(query: str) -> dict[str, str]:
    try:
        return dict(parse_qsl(query, keep_blank_values=True, max_num_fields=_MAX_FIELDS))
    except ValueError:
        raise RefusedError(HTTPStatus.BAD_REQUEST, "Too many fields.") from None


def _place(asked: Mapping[str, str], name: str) -> int | None:
    value = asked.get(name, "")
    return int(value) if value.lstrip("-").isdecimal() and len(value) < 18 else None


def _same(said: str, known: str) -> bool:
    return hmac.compare_digest(said.encode("utf-8", "replace"), known.encode())


def _page(status: HTTPStatus, said: str, hint: str = "") -> Answer:
    text = pages.error_page(status.phrase, redact(said), redact(hint))
    return Answer(status, _HTML, text.encode())


def _json(told: Mapping[str, Any], status: HTTPStatus = HTTPStatus.OK) -> Answer:
    return Answer(status, _JSON, visible(json.dumps(told)).encode())

"""What `heal view` answers, and to whom."""

import http.client
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

import pytest
from tests.scripted_run import ScriptedRun, easy, summing, world
from tests.test_pages_in_browser import PAYLOADS
from typer.testing import CliRunner

from heal.cli import app, guarded
from heal.errors import UserError
from heal.store import Store
from heal.store.marks import MARKS, Mark, add_mark, read_marks
from heal.view.index import Filters
from heal.view.server import Viewer


class Reply(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    text: str


class Client:
    """Somebody who asks, with a cookie or without."""

    def __init__(self, viewer: Viewer) -> None:
        self.viewer = viewer

    def ask(
        self,
        path: str,
        method: str = "GET",
        body: dict[str, str] | str | None = None,
        cookie: str | None = None,
        **headers: str,
    ) -> Reply:
        line = http.client.HTTPConnection("127.0.0.1", self.viewer.port, timeout=20)
        known = f"{self.viewer.cookie}={self.viewer.token}"
        sent: dict[str, str] = {"Cookie": known if cookie is None else cookie, **headers}
        if isinstance(body, dict):
            body = urlencode(body)
        line.request(method, path, body, sent)
        answer = line.getresponse()
        text = answer.read().decode()
        line.close()
        return Reply(answer.status, answer.headers, text)

    def mark(self, mark: str, trace: str = "", **more: Any) -> Reply:
        entry = self.viewer.index.page(Filters()).rows[0]
        fields = {
            "token": self.viewer.page_token,
            "stage": entry.stage,
            "problem": entry.problem,
            "trace": trace or entry.key,
            "tag": entry.tag,
            "mark": mark,
        }
        fields |= more.pop("fields", {})
        return self.ask("/mark", "POST", fields, **more)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> ScriptedRun:
    made = ScriptedRun(tmp_path_factory.mktemp("view"))
    made.go()
    return made


@pytest.fixture
def client(run: ScriptedRun) -> Iterator[Client]:
    (run.folder / MARKS).unlink(missing_ok=True)
    with serving(run.folder) as asking:
        yield asking


@contextmanager
def serving(folder: Path) -> Iterator[Client]:
    """Somebody who asks the viewer of this run."""
    with Viewer(folder) as viewer:
        thread = threading.Thread(target=viewer.serve_forever, args=(0.05,))
        thread.start()
        yield Client(viewer)
        viewer.shutdown()
        thread.join()


def links(text: str) -> list[str]:
    return [a.replace("&amp;", "&") for a in re.findall(r'class="open" href="([^"]+)"', text)]


def test_it_listens_to_this_machine_alone(client: Client) -> None:
    assert client.viewer.server_address[0] == "127.0.0.1"


def test_the_step_checkers_word_is_told_in_words(tmp_path: Path) -> None:
    made = ScriptedRun(tmp_path, world(easy("apples"), summing("plums")))
    made.go("pure.spare_checked=true", "steps.checker=arithmetic")
    with serving(made.folder) as asking:
        right, wrong = (
            asking.ask(links(asking.ask(f"/?stage=repair&gate={gate}").text)[0]).text
            for gate in ("passed", "wrong_step")
        )
    assert "no wrong step found; equations it could judge: 1" in right
    assert "PURE left it alone: the step checker read it" in right
    assert "step 3 is the first that does not hold" in wrong
    assert "60 + 80 = 150; in truth 60 + 80 is 140" in wrong
    assert "first wrong step" in wrong


def test_every_trace_has_its_page(client: Client) -> None:
    seen, path = 0, "/"
    while path:
        page = client.ask(path)
        assert page.status == 200
        for link in links(page.text)[::7]:
            told = client.ask(link)
            assert told.status == 200
            assert "What was decided" in told.text
            assert "Not shown" not in told.text
        seen += len(links(page.text))
        later = re.search(r'rel="next" href="([^"]+)"', page.text)
        path = later[1].replace("&amp;", "&") if later else ""
    assert seen == client.viewer.index.state.traces


def test_who_has_the_address_gets_a_cookie_and_is_led_on(client: Client) -> None:
    path = client.viewer.address.split(str(client.viewer.port))[1]
    reply = client.ask(path, cookie="")
    assert reply.status == 200
    held = reply.headers["Set-Cookie"]
    assert "HttpOnly" in held and "SameSite=Strict" in held
    assert client.viewer.token not in reply.text
    assert client.ask("/", cookie=held.split(";")[0]).status == 200


@pytest.mark.parametrize("path", ["/", "/state", "/view.js", "/view.css", "/trace/a/b/c", "/x"])
@pytest.mark.parametrize("cookie", ["", "heal_view=x", "{name}=", "{name}=wrong", '{name}="', ";;"])
def test_without_the_cookie_there_is_nothing(client: Client, path: str, cookie: str) -> None:
    reply = client.ask(path, cookie=cookie.format(name=client.viewer.cookie))
    assert reply.status == 403
    assert client.viewer.token not in reply.text
    assert client.viewer.page_token not in reply.text
    assert "Set-Cookie" not in reply.headers


def test_a_wrong_token_gets_no_cookie(client: Client) -> None:
    reply = client.ask("/?token=guess", cookie="")
    assert reply.status == 403
    assert "Set-Cookie" not in reply.headers


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "", "[::1]:{port}"]
)
@pytest.mark.parametrize("path", ["/", "/?token={token}", "/view.js"])
def test_another_host_is_refused(client: Client, host: str, path: str) -> None:
    """A page elsewhere may have its name lead here; its requests still carry that name."""
    viewer = client.viewer
    reply = client.ask(path.format(token=viewer.token), Host=host.format(port=viewer.port))
    assert reply.status == 421
    assert "Set-Cookie" not in reply.headers


def test_two_hosts_are_none(client: Client) -> None:
    with socket.create_connection(("127.0.0.1", client.viewer.port), 20) as line:
        own = f"127.0.0.1:{client.viewer.port}"
        line.sendall(f"GET / HTTP/1.1\r\nHost: {own}\r\nHost: evil\r\n\r\n".encode())
        assert line.recv(64).startswith(b"HTTP/1.1 421")


@pytest.mark.parametrize("path", ["/", "/view.js", "/nowhere", "/state"])
def test_the_policy_lets_in_nothing_from_elsewhere(client: Client, path: str) -> None:
    headers = client.ask(path).headers
    policy = dict(
        part.strip().split(" ", 1) for part in headers["Content-Security-Policy"].split(";")
    )
    assert policy.pop("default-src") == "'none'"
    assert set(policy.values()) == {"'self'", "'none'"}
    assert policy["base-uri"] == policy["frame-ancestors"] == "'none'"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Frame-Options"] == "DENY"


@pytest.mark.parametrize(
    "path",
    [
        "/../run.sqlite",
        "/run.sqlite",
        "/config.yaml",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/..%2f..%2fetc%2fpasswd",
        "//etc/passwd",
        "/view.js/../server.py",
        "/server.py",
        "/trace/../../../etc/passwd",
        "/trace/sample/%2e%2e%2f%2e%2e/etc",
        "/trace/problem/x/y",
        "/view.css%00.py",
        "/trace/sample/a'--/b",
    ],
)
def test_no_path_leads_out_of_the_pages(client: Client, path: str) -> None:
    reply = client.ask(path)
    assert reply.status == 404
    assert "root:" not in reply.text and "SQLite" not in reply.text


@pytest.mark.parametrize(
    "path",
    [
        "/?after=x&before=y",
        "/?after=99999999999999999999999",
        "/?before=-5",
        "/?" + "&".join(f"a{i}=1" for i in range(100)),
        "/?q=" + "z" * 5_000,
        "/?verdict=%3Cscript%3E&q=%22%3E%3Cscript%3E",
        "/?stage=%00%ff",
        "/?after=%D9%A3",
    ],
)
def test_any_question_gets_an_answer(client: Client, path: str) -> None:
    reply = client.ask(path)
    assert reply.status in (200, 400)
    assert "<script>" not in reply.text


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "FOO"])
def test_other_methods_are_refused_in_our_form(client: Client, method: str) -> None:
    reply = client.ask("/", method)
    assert reply.status == 501
    assert "default-src 'none'" in reply.headers["Content-Security-Policy"]


def test_head_has_no_body(client: Client) -> None:
    reply = client.ask("/", "HEAD")
    assert (reply.status, reply.text) == (200, "")


# ── marks ───────────────────────────────────────────────────────────────────────────────────────


def test_a_mark_is_kept_in_the_run_folder_and_shown(client: Client) -> None:
    before = (client.viewer.folder / "run.sqlite").read_bytes()
    entry = client.viewer.index.page(Filters()).rows[0]
    assert client.mark("bad", fields={"note": "counts <b>twice</b>"}).status == 303
    (held,) = read_marks(client.viewer.folder).values()
    assert (held.trace, held.problem, held.mark) == (entry.key, entry.problem, Mark.BAD)
    assert held.note == "counts <b>twice</b>"
    page = client.ask(client.mark("bad").headers["Location"]).text
    assert 'value="counts &lt;b&gt;twice&lt;/b&gt;"' in page, "a mark without a note keeps it"
    assert client.ask("/?mark=bad").text.count("data-trace=") == 1
    assert client.mark("none").status == 303
    assert client.ask("/?mark=bad").text.count("data-trace=") == 0
    assert (client.viewer.folder / "run.sqlite").read_bytes() == before


def test_a_script_gets_its_word_as_json(client: Client) -> None:
    reply = client.mark("good", Accept="application/json")
    assert json.loads(reply.text) == {"mark": "good", "note": ""}
    refused = client.mark("lovely", Accept="application/json")
    assert refused.status == 400
    assert json.loads(refused.text) == {"error": "A mark is good, bad or none."}


@pytest.mark.parametrize(
    ("status", "more"),
    [
        (403, {"fields": {"token": ""}}),
        (403, {"fields": {"token": "guess"}}),
        (403, {"cookie": ""}),
        (403, {"Origin": "http://evil.example"}),
        (403, {"Origin": "null"}),
        (421, {"Host": "evil.example"}),
        (404, {"trace": "nobody"}),
        (404, {"fields": {"stage": "check"}}),
        (400, {"fields": {"mark": "good\n"}}),
        (413, {"fields": {"note": "x" * 20_000}}),
    ],
)
def test_a_mark_from_elsewhere_is_none(client: Client, status: int, more: dict[str, Any]) -> None:
    assert client.mark("bad", **more).status == status
    assert read_marks(client.viewer.folder) == {}


def test_a_page_of_the_viewer_may_mark(client: Client) -> None:
    own = f"http://127.0.0.1:{client.viewer.port}"
    assert client.mark("good", Origin=own).status == 303


def test_a_post_without_a_length_or_elsewhere_is_refused(client: Client) -> None:
    assert client.ask("/", "POST", {"token": client.viewer.page_token}).status == 404
    with socket.create_connection(("127.0.0.1", client.viewer.port), 20) as line:
        viewer = client.viewer
        line.sendall(
            f"POST /mark HTTP/1.1\r\nHost: 127.0.0.1:{viewer.port}\r\n"
            f"Cookie: {viewer.cookie}={viewer.token}\r\n\r\n".encode()
        )
        assert line.recv(64).startswith(b"HTTP/1.1 413")


def test_a_reader_who_may_not_write_is_told(client: Client) -> None:
    (client.viewer.folder / MARKS).mkdir()
    try:
        reply = client.mark("bad")
        assert reply.status == 500
        assert "marks.jsonl" in reply.text
    finally:
        (client.viewer.folder / MARKS).rmdir()


def test_hostile_texts_stay_text(client: Client) -> None:
    entry = client.viewer.index.page(Filters()).rows[0]
    for payload in PAYLOADS:
        add_mark(client.viewer.folder, entry.key, entry.problem, Mark.BAD, payload)
        page = client.ask(links(client.ask("/").text)[0]).text
        tags = re.findall(r"<(script|iframe|img|object|embed|base|style|math)\b", page)
        assert tags == ["script"]
        assert "\x1b" not in page and "\u202e" not in page


# ── live ────────────────────────────────────────────────────────────────────────────────────────


def test_a_run_that_goes_on_is_read_as_it_grows(tmp_path: Path) -> None:
    run = ScriptedRun(tmp_path)
    run.go(until="sample")
    with Viewer(run.folder) as viewer:
        assert {e.verdict for e in viewer.index.page(Filters()).rows} == {""}
        with Store.open(run.folder):
            assert viewer.index.refresh().is_busy
        run.go()
        state = viewer.index.refresh()
        assert not state.is_busy
        assert viewer.index.page(Filters(stage="repair")).total > 0
        assert viewer.index.facets()["verdict"].get("") is None


def test_a_run_that_cannot_be_read_any_more_is_said(tmp_path: Path) -> None:
    run = ScriptedRun(tmp_path)
    run.go(until="sample")
    with Viewer(run.folder) as viewer:
        traces = viewer.index.state.traces
        (run.folder / "run.sqlite").write_bytes(b"no database at all")
        viewer.index._next = 0.0
        viewer.index.refresh_behind()
        ends = time.monotonic() + 20
        while not viewer.index.state.trouble and time.monotonic() < ends:
            time.sleep(0.01)
        assert "damaged" in viewer.index.state.trouble
        assert viewer.index.page(Filters()).total == traces


# ── the command ─────────────────────────────────────────────────────────────────────────────────


def test_what_is_no_run_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["view", str(tmp_path), "--no-open"]
    assert guarded(lambda: app(arguments, standalone_mode=False)) == 2
    said = capsys.readouterr().err
    assert "not a run folder" in said


def test_a_port_that_is_taken_is_said(run: ScriptedRun) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port}") as caught:
            Viewer(run.folder, port)
    assert "heal view" in (caught.value.hint or "")
    assert CliRunner().invoke(app, ["view", "x", "--port", "70000"]).exit_code == 2

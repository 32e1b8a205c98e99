"""Pages of hostile traces in a real browser: nothing runs, nothing is asked for, nobody leaves."""

import re
import shutil
import socketserver
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from tests.made_run import lab_run
from tests.report_fixture import changed, rewrite

from heal.records import Hint, Problem, Trace
from heal.report.html import render_html
from heal.store import Store

pytestmark = pytest.mark.slow

EVIL = "http://evil.example"
MARK = "document.title='RAN'"
PAYLOADS = (
    f"<script>{MARK}</script>",
    f"</script><script>{MARK}</script>",
    f"</style><script src={EVIL}/s.js></script>",
    f'"><img src={EVIL}/i.png onerror="{MARK}">',
    f"'><svg onload={MARK}><image href={EVIL}/s.png /></svg>",
    f"<iframe src={EVIL}/f srcdoc='<script>top.{MARK}</script>'></iframe>",
    f"<meta http-equiv=refresh content='0;url={EVIL}/away'>",
    f"<base href={EVIL}/><link rel=stylesheet href=x.css><link rel=prefetch href=y>",
    f"<form action={EVIL}/form><input autofocus onfocus={MARK}></form>",
    f"<details open ontoggle={MARK}>x</details><body onload={MARK}>",
    f"<a href='javascript:{MARK}'>a</a><object data={EVIL}/o></object><embed src={EVIL}/e>",
    f"<style>@import url({EVIL}/c.css); * {{ background: url({EVIL}/b.png) }}</style>",
    f"<math><mtext></p><style><img src=x onerror={MARK}></style></mtext></math>",
    f"<noscript><p title='</noscript><img src=x onerror={MARK}>'></noscript>",
    "<plaintext><!-- <![CDATA[ ]]> --!> -->",
    "\u202e\u2066\x1b]8;;http://evil.example\x07link\x1b]8;;\x07\u202c\x9b2J",
)


class Requests(BaseHTTPRequestHandler):
    """A proxy that hands nothing on, and counts what it was asked for."""

    def note(self) -> None:
        self.server.asked.append(self.requestline)  # type: ignore[attr-defined]
        self.send_error(404)

    do_GET = do_POST = do_CONNECT = do_HEAD = note  # noqa: N815

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def proxy() -> Iterator[socketserver.ThreadingTCPServer]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Requests) as server:
        server.asked = []  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def open_page(page: Path, proxy: socketserver.ThreadingTCPServer) -> tuple[str, str, list[str]]:
    """The page as the browser has it after three seconds, its console, and what it asked for."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        pytest.skip("chromium is not installed")
    done = subprocess.run(
        [
            browser,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            "--disable-component-update",
            f"--user-data-dir={page.parent / 'profile'}",
            f"--proxy-server=http://127.0.0.1:{proxy.server_address[1]}",
            "--proxy-bypass-list=<-loopback>",
            "--enable-logging=stderr",
            "--virtual-time-budget=3000",
            "--dump-dom",
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    console = "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)
    return done.stdout, console, [a for a in proxy.asked if "evil" in a]  # type: ignore[attr-defined]


def hostile(folder: Path) -> str:
    texts = "\n\n".join(PAYLOADS)

    def write(store: Store) -> None:
        rewrite(store, "problem", Problem, lambda p: replace(p, problem=texts, answer=texts))
        rewrite(store, "hint", Hint, lambda h: replace(h, text=texts))
        for stage in ("sample", "repair"):
            rewrite(store, stage, Trace, lambda t: replace(t, text=texts))
        list(store.query("UPDATE traces SET answer = ?", (texts,)))

    lab = lab_run(folder / "lab", problems=30, held_out=10)
    view = changed(lab, folder, edit=write)
    servers = [replace(s, url=texts) for s in view.servers]
    return render_html(
        replace(view, name=texts, config_yaml=texts, stopped=texts, teacher=texts, servers=servers)
    )


def test_hostile_traces_run_ask_and_leave_nothing(
    tmp_path: Path, proxy: socketserver.ThreadingTCPServer
) -> None:
    page = tmp_path / "report.html"
    html = hostile(tmp_path)
    page.write_text(html, encoding="utf-8")
    dom, console, asked = open_page(page, proxy)
    assert "HEAL report" in dom
    assert re.search(r"<title>HEAL report", dom), "a script has set the title"
    assert asked == []
    assert console == "", "the page's own policy was broken"
    tags = re.findall(r"<(script|style|svg|iframe|img|form|object|embed|link|base)\b", dom)
    assert [t for t in tags if t != "svg"] == ["style", "script"]
    assert len(re.findall("EVIL|evil.example", dom)) > len(PAYLOADS)


def test_the_browser_would_tell_if_something_ran(
    tmp_path: Path, proxy: socketserver.ThreadingTCPServer
) -> None:
    """The same payloads on a page without protection: what the test above looks for is there."""
    page = tmp_path / "report.html"
    page.write_text(f"<title>HEAL report</title>{PAYLOADS[0]}{PAYLOADS[3]}", encoding="utf-8")
    dom, _, asked = open_page(page, proxy)
    assert "<title>RAN" in dom
    assert asked

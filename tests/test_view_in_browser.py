"""`heal view` in a real browser: keys, marks, hostile traces, a phone, and who cannot see it.

With HEAL_AXE=…/axe.min.js (npm install axe-core) the pages are also held against axe's rules.
"""

import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.chromium import BROWSER, Chromium
from tests.report_fixture import rewrite
from tests.scripted_run import ScriptedRun
from tests.test_pages_in_browser import PAYLOADS

from heal.records import Check, Hint, Problem, Trace
from heal.store import Store
from heal.store.marks import MARKS, Mark, add_mark, read_marks
from heal.view.index import Filters
from heal.view.server import Viewer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="chromium is not installed"),
]

AXE = os.environ.get("HEAL_AXE")
FOCUSED = "document.activeElement.closest('tr')?.dataset.trace"
SAID = "document.getElementById('said').textContent"


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    with Chromium(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> ScriptedRun:
    made = ScriptedRun(tmp_path_factory.mktemp("view"))
    made.go()
    return made


@pytest.fixture
def browser(chromium: Chromium) -> Chromium:
    chromium.console.clear()
    chromium.requests.clear()
    chromium.size(1200, 900)
    return chromium


@pytest.fixture
def viewer(run: ScriptedRun) -> Iterator[Viewer]:
    (run.folder / MARKS).unlink(missing_ok=True)
    yield from serving(run.folder)


def serving(folder: Path) -> Iterator[Viewer]:
    with Viewer(folder) as viewer:
        thread = threading.Thread(target=viewer.serve_forever, args=(0.05,))
        thread.start()
        yield viewer
        viewer.shutdown()
        thread.join()


def enter(browser: Chromium, viewer: Viewer, path: str = "/") -> None:
    browser.open(viewer.address)
    browser.wait("location.search === '' && document.querySelector('table.traces')")
    if path != "/":
        browser.open(f"http://127.0.0.1:{viewer.port}{path}")
        browser.wait("document.getElementById('main')")


def test_a_trace_is_found_opened_and_marked_by_keys_alone(
    browser: Chromium, viewer: Viewer
) -> None:
    enter(browser, viewer, "/?stage=repair")
    rows = viewer.index.page(Filters(stage="repair")).rows
    for key in "jjk":
        browser.press(key)
    assert browser.eval(FOCUSED) == rows[0].key
    browser.press("b")
    browser.wait(f"{SAID} === 'marked bad'")
    assert read_marks(viewer.folder)[rows[0].key].mark is Mark.BAD
    browser.press("Enter")
    browser.wait("document.body.className === 'trace'")
    assert browser.eval("document.querySelector('.bad[aria-pressed=true]') !== null")
    browser.press("n")
    browser.write("counts a jump twice")
    browser.press("Enter")
    browser.wait(f"{SAID} === 'note kept'")
    browser.press("Escape")
    browser.press("g")
    browser.wait(f"{SAID} === 'marked good'")
    held = read_marks(viewer.folder)[rows[0].key]
    assert (held.mark, held.note) == (Mark.GOOD, "counts a jump twice")
    browser.press("g")
    browser.wait(f"{SAID} === 'mark taken back'")
    assert read_marks(viewer.folder)[rows[0].key].mark is Mark.NONE
    browser.press("j")
    browser.wait(f"location.pathname.endsWith('{rows[1].key}')")
    browser.press("u")
    browser.wait("document.body.className === 'list'")
    assert browser.eval("location.search").startswith("?stage=repair")
    assert browser.console == []


def test_keys_help_search_and_can_be_turned_off(browser: Chromium, viewer: Viewer) -> None:
    enter(browser, viewer)
    browser.press("?")
    assert browser.eval("document.getElementById('help').open")
    browser.press("Escape")
    browser.wait("!document.getElementById('help').open")
    browser.press("/")
    assert browser.eval("document.activeElement.id") == "search"
    wanted = viewer.index.page(Filters()).rows[-1].problem
    browser.write(wanted)
    browser.press("Enter")
    browser.wait(f"location.search.includes('q={wanted}')")
    browser.wait("document.querySelector('table.traces')")
    shown = "[...new Set([...document.querySelectorAll('tbody tr')].map(r => r.dataset.problem))]"
    assert browser.eval(shown) == [wanted]
    browser.eval("document.getElementById('keys-on').click()")
    browser.press("j")
    assert browser.eval(FOCUSED) is None
    browser.eval("document.getElementById('keys-on').click()")
    browser.press("j")
    assert browser.eval(FOCUSED) is not None


def test_a_filter_is_taken_when_it_is_chosen(browser: Chromium, viewer: Viewer) -> None:
    enter(browser, viewer)
    browser.eval(
        "(() => { const s = document.querySelector('select[name=drop]'); s.value = 'pure';"
        " s.dispatchEvent(new Event('change')) })()"
    )
    browser.wait("location.search.includes('drop=pure') && document.querySelector('table.traces')")
    cells = "[...document.querySelectorAll('td[data-label=Selection]')].map(c => c.textContent)"
    assert set(browser.eval(cells)) == {"dropped by PURE"}


def test_what_is_new_is_said_and_shown_when_asked(
    tmp_path: Path, browser: Chromium, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = ScriptedRun(tmp_path)
    run.go(until="sample")
    for viewer in serving(run.folder):
        enter(browser, viewer)
        assert browser.eval("document.getElementById('fresh').hidden")
        run.go()
        browser.wait("!document.getElementById('fresh').hidden", seconds=40)
        browser.eval("document.getElementById('fresh').click()")
        browser.wait("document.querySelector('tbody td[data-label=Verdict]')")
        browser.wait("document.body.textContent.includes('dropped by PURE')")


def test_hostile_traces_run_ask_and_leave_nothing(tmp_path: Path, browser: Chromium) -> None:
    run = ScriptedRun(tmp_path)
    run.go()
    texts = "\n\n".join(PAYLOADS)
    with Store.open(run.folder) as store:
        rewrite(store, "problem", Problem, lambda p: replace(p, problem=texts, answer=texts))
        rewrite(store, "hint", Hint, lambda h: replace(h, text=texts))
        rewrite(store, "check", Check, lambda c: replace(c, detail=texts))
        for stage in ("sample", "hinted", "repair"):
            rewrite(store, stage, Trace, lambda t: replace(t, text=texts))
        list(store.query("UPDATE traces SET answer = ?", (texts,)))
    for viewer in serving(run.folder):
        for entry in viewer.index.of_problem(viewer.index.page(Filters()).rows[0].problem):
            add_mark(run.folder, entry.key, entry.problem, Mark.BAD, texts)
        enter(browser, viewer)
        own = f"http://127.0.0.1:{viewer.port}/"
        for stage in ("", "sample", "hinted", "repair"):
            browser.open(f"{own}?stage={stage}")
            assert_quiet(browser, own)
            browser.open(browser.eval("document.querySelector('a.open').href"))
            assert browser.eval("document.body.className") == "trace"
            assert_quiet(browser, own)
            shown = browser.eval("document.body.textContent")
            assert "document.title='RAN'" in shown and "\u241b" in shown
        assert browser.console == []


def assert_quiet(browser: Chromium, own: str) -> None:
    assert browser.eval("document.title") != "RAN"
    assert browser.eval("document.scripts.length") == 1
    strange = "iframe, img, object, embed, base, style, math, video, audio"
    assert browser.eval(f"document.querySelectorAll('{strange}').length") == 0
    assert [a for a in browser.requests if not a.startswith(own)] == []


def test_the_browser_would_tell_if_something_ran(tmp_path: Path, browser: Chromium) -> None:
    page = tmp_path / "bare.html"
    page.write_text(f"<title>page</title>{PAYLOADS[0]}{PAYLOADS[3]}", encoding="utf-8")
    browser.open(page.as_uri())
    assert browser.eval("document.title") == "RAN"
    assert any("evil.example" in address for address in browser.requests)


def test_a_page_elsewhere_cannot_mark(tmp_path: Path, browser: Chromium, viewer: Viewer) -> None:
    """Even with the page's own token: the cookie does not come along, and the origin is told."""
    enter(browser, viewer)
    entry = viewer.index.page(Filters()).rows[0]
    fields = {
        "token": viewer.page_token,
        "stage": entry.stage,
        "problem": entry.problem,
        "trace": entry.key,
        "tag": entry.tag,
        "mark": "bad",
    }
    inputs = "".join(f"<input name={name} value='{value}'>" for name, value in fields.items())
    page = tmp_path / "elsewhere.html"
    address = f"http://127.0.0.1:{viewer.port}/mark"
    page.write_text(f"<form method=post action={address}>{inputs}</form>", encoding="utf-8")
    browser.open(page.as_uri())
    browser.eval("document.forms[0].submit()")
    browser.wait("location.protocol === 'http:' && document.querySelector('h1')")
    assert browser.eval("document.querySelector('h1').textContent") == "Forbidden"
    assert read_marks(viewer.folder) == {}


PAGES = ("/", "/?stage=repair&gate=passed", "/?verdict=none", "trace sample", "trace repair")


def shown(browser: Chromium, viewer: Viewer, page: str) -> None:
    """One of `PAGES`; of traces the first that has the most to show."""
    if not page.startswith("trace"):
        return enter(browser, viewer, page)
    gate = "passed" if page == "trace repair" else ""
    found = viewer.index.page(Filters(stage="repair", gate=gate)).rows[0]
    enter(browser, viewer, "/?stage=repair&gate=passed")
    browser.open(f"http://127.0.0.1:{viewer.port}/trace/repair/{found.problem}/{found.key}")
    if page == "trace sample":
        browser.open(browser.eval("document.querySelector('#others ~ ul a').href"))
    return None


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("width", [360, 1200])
def test_pages_fit_their_screen(browser: Chromium, viewer: Viewer, page: str, width: int) -> None:
    browser.size(width, 800)
    shown(browser, viewer, page)
    assert browser.eval("document.documentElement.scrollWidth") <= width
    small = (
        "[...document.querySelectorAll('main button, main select, main input:not([type=hidden])')]"
        ".filter(e => e.offsetParent && e.getBoundingClientRect().height < 24).length"
    )
    assert browser.eval(small) == 0


@pytest.mark.skipif(AXE is None, reason="HEAL_AXE names no axe.min.js")
@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize(("width", "dark"), [(1200, False), (1200, True), (360, False)])
def test_axe_finds_nothing(
    browser: Chromium, viewer: Viewer, page: str, width: int, dark: bool
) -> None:
    assert AXE is not None
    browser.size(width, 900, dark=dark)
    shown(browser, viewer, page)
    browser.eval(Path(AXE).read_text(encoding="utf-8") + "; 1")
    told = "v => [v.id, v.impact, v.nodes.map(n => n.html.slice(0, 120))]"
    found = browser.eval(f"axe.run().then(r => r.violations.map({told}))")
    assert found == []

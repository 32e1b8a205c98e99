"""A secret is found nowhere: not in a file of a run, not in a line that a verb prints."""

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import yaml
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.http_server import Script, Server, write_byte_tokenizer
from tests.scripted_run import ScriptedRun, merge, small_world
from tests.test_engine_http import ONCE, SCORES, quick

from heal import redaction
from heal.cli import main
from heal.cli.settings_page import resolved_yaml
from heal.config import HttpEndpoint
from heal.engines.http.failures import BadAnswerError
from heal.engines.scripted import ScriptedEngine
from heal.errors import UserError
from heal.recipe import load, parse
from heal.redaction import holds_secret, redact, remember, visible

__all__ = ["quick"]

KEY = "sk-planted/4711+key"
PASSWORD = "tr0ub4dor&three"
SMALLEST: dict[str, Any] = {
    "run": "run",
    "problems": {"path": "problems.jsonl"},
    "teacher": {"engine": "http", "model": "m"},
}
FRESH = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
FRAME = b"\x28\xb5\x2f\xfd"
"""How a zstandard frame begins."""


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing remembered before a test is known in it, nor after it."""
    monkeypatch.setattr(redaction, "_known", redaction._Known())


def with_http(**http: Any) -> dict[str, Any]:
    return merge(SMALLEST, {"engine": {"http": http}})


def contents(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Every file, and every body unpacked that is compressed in it."""
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        data = path.read_bytes()
        yield path.name, data
        for found in re.finditer(re.escape(FRAME), data):
            unpacker = zstandard.ZstdDecompressor().decompressobj()
            try:
                yield path.name, unpacker.decompress(data[found.start() :])
            except zstandard.ZstdError:
                continue


def spellings(secret: str) -> set[bytes]:
    return {f.encode() for f in (secret, quote(secret, safe=""), json.dumps(secret)[1:-1])}


# ── texts ───────────────────────────────────────────────────────────────────────────────────────


@FRESH
@given(st.text(max_size=20), st.text(max_size=20), st.text("abcdefgh012345/+&\"'\\é", min_size=8))
def test_what_is_remembered_is_in_no_redacted_text(before: str, after: str, secret: str) -> None:
    remember(secret)
    for form in (secret, json.dumps(secret), repr(secret), quote(secret, safe="")):
        assert not holds_secret(redact(f"{before}{form}{after}"))
    assert secret not in redact(f"{before}{secret}{after}")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://user:pass@host:8000/v1", "http://***@host:8000/v1"),
        ("https://token@host", "https://***@host"),
        ("Authorization: Bearer abc", "Authorization: Bearer ***"),
        ('{"authorization": "Basic dXNlcg=="}', '{"authorization": "Basic ***"}'),
        ("got Bearer a1b2c3d4e5", "got Bearer ***"),
        ("a bearer of good news", "a bearer of good news"),
        ("basic arithmetic needs no key", "basic arithmetic needs no key"),
        ("mail a@b.org", "mail a@b.org"),
        ("http://host/path", "http://host/path"),
    ],
)
def test_credentials_are_known_by_where_they_stand(text: str, shown: str) -> None:
    assert redact(text) == shown


def test_a_short_secret_leaves_longer_words_whole() -> None:
    remember("zqx")
    assert redact("zqx passed, zqxed not") == "*** passed, zqxed not"


def test_a_key_with_a_colon_hides_itself_and_no_word_of_it() -> None:
    parse(with_http(api_key="proj:1234:model", endpoints=[{"url": "http://u:x@h"}]))
    assert redact("proj:1234:model is a model; u:x, x") == "*** is a model; ***, x"


def test_a_cause_is_cut_after_it_is_redacted() -> None:
    remember(KEY)
    for length in range(150, 220):
        cause = BadAnswerError("x" * length + KEY).cause
        assert "sk-" not in cause
        assert len(cause) <= 200


def test_an_error_never_holds_a_secret() -> None:
    remember(KEY)
    error = UserError(f"no {KEY}", hint=f"try {KEY}")
    assert (str(error), error.hint) == ("no ***", "try ***")


@FRESH
@given(st.text())
def test_visible_text_holds_nothing_that_acts(text: str) -> None:
    shown = visible(text)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", shown)
    shown.encode()
    assert visible(shown) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "␛[31mred␛[0m"),
        ("a\rb\r\nc\td", "a␍b\nc\td"),
        ("\x9b2J", "⟨9B⟩2J"),
        ("ab\u202egnp.exe\u202c", "ab⟨202E⟩gnp.exe⟨202C⟩"),
        ("\ud800 and \x7f", "\ufffd and ␡"),
        ("∑ é 漢 שלום", "∑ é 漢 שלום"),
    ],
)
def test_what_would_act_is_shown_instead(text: str, shown: str) -> None:
    assert visible(text) == shown


# ── settings ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("url", "login"),
    [
        ("http://user:secret-word@host:8000/v1/", "user:secret-word"),
        ("http://user:p%40ss%2Fword@host:8000", "user:p@ss/word"),
        ("http://user:p@ss/word@host:8000", "user:p@ss/word"),
        ("http://a-token-alone@host:8000", "a-token-alone"),
    ],
)
def test_a_login_leaves_the_url(url: str, login: str) -> None:
    config = parse(with_http(endpoints=[{"url": url}]))
    (endpoint,) = config.engine.http.endpoints
    assert endpoint.login is not None
    assert endpoint.login.get_secret_value() == login
    assert (endpoint.url, endpoint.address) == ("http://***@host:8000", "http://host:8000")
    for shown in (resolved_yaml(config), repr(config), str(config.model_dump())):
        assert login.split(":")[-1] not in shown
        assert "http://***@host:8000" in shown


@pytest.mark.parametrize(
    "http",
    [
        {"endpoints": [{"url": f"user:{PASSWORD}@host"}]},
        {"endpoints": [{"url": f"ftp://user:{PASSWORD}@host"}]},
        {"endpoints": [{"url": f"http://user:{PASSWORD}@"}]},
        {"endpoints": [{"url": f"http://host/?key={PASSWORD}"}]},
        {"endpoints": [{"url": f"http://u:{PASSWORD}@host", "login": PASSWORD}]},
        {"endpoints": [{"url": f"http://u:{PASSWORD}@host", "dialekt": "vllm"}]},
        {"endpoints": f"http://u:{PASSWORD}@host"},
        {"api_key": f"{PASSWORD}\n"},
        {"api_key": f"{PASSWORD} "},
        {"api_key": [PASSWORD]},
    ],
)
def test_no_mistake_quotes_a_secret(http: dict[str, Any]) -> None:
    with pytest.raises(UserError) as caught:
        parse(with_http(**http))
    assert PASSWORD not in f"{caught.value} {caught.value.hint}"


@pytest.mark.parametrize("slip", ["=[", " ", ":", "={a: 1, a: "])
def test_a_key_with_a_slip_before_it_is_not_quoted(tmp_path: Path, slip: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(SMALLEST))
    with pytest.raises(UserError, match=r"not valid YAML|expected a\.b=value") as caught:
        load(path, [f"engine.http.api_key{slip}{PASSWORD}"])
    assert PASSWORD not in str(caught.value)


def test_a_login_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEAL_TEST_LOGIN", "me:mine")
    config = parse(with_http(endpoints=[{"url": "http://host", "login": "${HEAL_TEST_LOGIN}"}]))
    (endpoint,) = config.engine.http.endpoints
    assert endpoint.login is not None
    assert endpoint.login.get_secret_value() == "me:mine"


@pytest.mark.parametrize(
    "http",
    [
        {"api_key": KEY},
        {"endpoints": [{"url": f"http://u:{PASSWORD}@host"}]},
    ],
)
def test_a_masked_secret_is_asked_for_again(http: dict[str, Any]) -> None:
    kept = yaml.safe_load(resolved_yaml(parse(with_http(**http))))
    with pytest.raises(UserError, match="is masked: a run folder keeps no secrets"):
        parse(kept)


# ── whole runs ──────────────────────────────────────────────────────────────────────────────────


def shell(
    home: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str
) -> str:
    monkeypatch.chdir(home)
    monkeypatch.setattr("sys.argv", command.split())
    with pytest.raises(SystemExit):
        main()
    return "".join(capfd.readouterr())


FOREIGN = [
    "301:http://ECHO@elsewhere",
    "400",
    "401",
    "403",
    "404",
    "422",
    'garbage:{"error": {"message": "no,ECHO", "code": 400}}',
    'garbage:{"error": "no,ECHO"}',
    'garbage:{"choices": [{"token_ids": [9], "finish_reason": "ECHO"}]}',
    'garbage:{"choices": "ECHO"}',
]
FAULTS = {False: sorted({*ONCE, *FOREIGN} - {"drip"}), True: sorted({*SCORES, *FOREIGN})}
"""By whether log-probs are asked for."""


@dataclass
class Mischief:
    """Plays every fault in turn, and answers most requests as it should."""

    secret: str
    asked: Counter[bool] = field(default_factory=Counter)
    played: set[tuple[bool, str]] = field(default_factory=set)

    def __call__(self, number: int, body: dict[str, Any]) -> str | None:
        scores = "prompt_logprobs" in body
        turn, rest = divmod(self.asked[scores], 2 if scores else 5)
        self.asked[scores] += 1
        if rest:
            return None
        fault = FAULTS[scores][turn % len(FAULTS[scores])]
        self.played.add((scores, fault))
        return fault.replace("ECHO", self.secret) if fault.startswith("3") else fault


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("way", ["key", "login"])
def test_a_planted_secret_is_nowhere_after_any_failure(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    way: str,
) -> None:
    secret = KEY if way == "key" else PASSWORD
    parts = small_world()
    server = Server(Script(ScriptedEngine(parts[1])))
    server.echoes = True
    server.fault = mischief = Mischief(secret)
    monkeypatch.setenv("HEAL_TEST_KEY", KEY)
    url = server.url.replace("://", f"://user:{quote(PASSWORD)}@") if way == "login" else server.url
    http = {"endpoints": [{"url": url}], "in_flight": 2}
    if way == "key":
        http["api_key"] = "${HEAL_TEST_KEY}"
    model = str(write_byte_tokenizer(tmp_path / "tokenizer"))
    settings = {"teacher": {"engine": "http", "model": model}, "engine": {"http": http}}
    home = tmp_path / "home"
    ScriptedRun(home, parts, settings)
    try:
        said = "".join(
            shell(home, capfd, monkeypatch, f"heal {verb}")
            for verb in (
                "config -c recipe.yaml",
                "check -c recipe.yaml",
                "run -c recipe.yaml --set limits.failed_share=1",
                "report run",
                "show run",
                "doctor run",
            )
        )
        server.well = False
        said += shell(home, capfd, monkeypatch, "heal check -c recipe.yaml")
    finally:
        server.kill()
    assert server.authorizations == {
        f"Bearer {KEY}" if way == "key" else "Basic dXNlcjp0cjB1YjRkb3ImdGhyZWU="
    }
    assert mischief.played == {(kind, fault) for kind in FAULTS for fault in FAULTS[kind]}
    assert "***" in said
    (home / "recipe.yaml").unlink()
    places = [*contents(home), ("terminal", said.encode()), ("log", caplog.text.encode())]
    assert {"run.sqlite", "report.html", "config.yaml"} <= {name for name, _ in places}
    found = {name for name, data in places for form in spellings(secret) if form in data}
    found |= {name for name, data in places if b"dXNlcjp0cjB1" in data}
    assert found == set()


def test_a_server_that_names_its_model_by_the_key_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    parts = small_world()
    server = Server(Script(ScriptedEngine(parts[1])))
    server.served = f"model-{KEY}"
    monkeypatch.setenv("HEAL_TEST_KEY", KEY)
    model = str(write_byte_tokenizer(tmp_path / "tokenizer"))
    http = {"endpoints": [{"url": server.url}], "api_key": "${HEAL_TEST_KEY}"}
    home = tmp_path / "home"
    ScriptedRun(
        home, parts, {"teacher": {"engine": "http", "model": model}, "engine": {"http": http}}
    )
    try:
        said = shell(home, capfd, monkeypatch, "heal run -c recipe.yaml")
    finally:
        server.kill()
    assert "it names a model by the key it was sent" in said
    assert KEY not in said


def test_a_traceback_of_what_nobody_foresaw_holds_no_secret(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from heal.cli import guarded\n"
        "from heal.redaction import remember\n"
        f"remember({KEY!r})\n"
        "def call():\n"
        f"    raise RuntimeError('sent ' + {KEY[:5]!r} + {KEY[5:]!r})\n"
        "sys.exit(guarded(call))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "RuntimeError: sent ***" in done.stderr


def test_an_endpoint_without_a_login_says_so() -> None:
    assert HttpEndpoint(url="http://host").login is None

"""The pages in docs/: what they name exists, what they show runs, what is generated is current.

After changing a setting or a command: HEAL_WRITE_DOCS=1 python -m pytest tests/test_docs.py
"""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args

import pytest
import typer
import yaml

from heal import records
from heal.cli import app
from heal.cli.settings_page import reference
from heal.config import ArmName, Config
from heal.data.problems import ALIASES
from heal.data.sources import SUFFIXES
from heal.recipe import leaves, parse
from heal.records import (
    Breakpoint,
    Choice,
    Drop,
    Fallback,
    Finish,
    Gate,
    HintKind,
    Origin,
    Selection,
    Split,
    Stratum,
    Verdict,
)
from heal.store import Store
from heal.store.columns import TABLES, SelectedRow
from heal.verifiers import NAMES

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
SOURCE = ROOT / "src" / "heal"
PAGES = sorted(DOCS.glob("*.md"))
CHECKED = [*PAGES, *(ROOT / name for name in ("README.md", "AGENTS.md", "CONTRIBUTING.md"))]

WRITE = "HEAL_WRITE_DOCS"
REGENERATE = f"out of date; write it again with: {WRITE}=1 python -m pytest tests/test_docs.py"
WIDTH = 80
MINIMAL: dict[str, Any] = {
    "run": "runs/x",
    "problems": {"path": "problems.jsonl"},
    "teacher": {"model": "model"},
}

_FENCE = re.compile(r"^```(\w*) *(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\[[^\]\n]*\]\(([^)\s]+)\)")
_SECTION = re.compile(r"docs/method\.md §(\d(?:\.\d+)?)(?:(?:–|, )§(\d(?:\.\d+)?))?")
_FOLDERS = ("src/", "tests/", "recipes/", "docs/", "benchmarks/")
_SUFFIXES = (".py", ".md", ".json", ".jsonl", ".yaml", ".sqlite", ".html", ".parquet")


@dataclass(frozen=True)
class Fence:
    """A fenced block: its language, the file name beside it, its text."""

    language: str
    name: str
    text: str


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def fences(page: Path) -> Iterator[Fence]:
    for language, name, text in _FENCE.findall(page.read_text(encoding="utf-8")):
        yield Fence(language, name, text)


def named(page: Path) -> set[str]:
    """Everything the page sets as code in its prose."""
    return set(_CODE.findall(prose(page)))


def configuration_page() -> str:
    head = (
        "# Configuration\n\nEvery setting with its default and its meaning; this page is the output"
        " of `heal config`.\nSet any of them in the recipe, or with `--set gear.hint=answer`.\n\n"
    )
    return f"{head}```yaml\n{reference()}\n```\n"


def cli_page() -> str:
    head = (
        "# Command line\n\nThe help of every command, as `heal COMMAND --help` prints it.\n"
        "Each stage's command does that stage and whatever before it is still owed.\n"
        "Exit codes: 0 done; 1 the run stopped; 2 a mistake in the input, or a model that cannot\n"
        "do what is asked of it; 130 interrupted.\n"
    )
    sections = (f"\n## {name}\n\n```text\n{text}\n```\n" for name, text in helps())
    return head + "".join(sections)


def helps() -> Iterator[tuple[str, str]]:
    """(`heal run`, its help) of every command, groups before their members."""

    def walk(command: Any, name: str) -> Iterator[tuple[str, str]]:
        context = command.context_class(command, info_name=name, terminal_width=WIDTH)
        yield name, command.get_help(context).rstrip()
        for child, inner in getattr(command, "commands", {}).items():
            yield from walk(inner, f"{name} {child}")

    return walk(typer.main.get_command(app), "heal")


def commands() -> set[str]:
    return {name for name, _ in helps()}


def slugs(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h).strip().lower().replace(" ", "-") for h in headings}


def by_name(page: Path) -> str:
    return page.name


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files engines.md shows, after its command was run in it."""
    folder = tmp_path_factory.mktemp("example")
    for fence in fences(DOCS / "engines.md"):
        if fence.name:
            (folder / fence.name).write_text(fence.text, encoding="utf-8")
    command = [sys.executable, "-m", "heal", "run", "-c", "example.yaml"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize(
    ("name", "text"), [("configuration.md", configuration_page()), ("cli.md", cli_page())]
)
def test_a_generated_page_is_current(name: str, text: str) -> None:
    page = DOCS / name
    if os.environ.get(WRITE):
        page.write_text(text, encoding="utf-8")
    assert page.read_text(encoding="utf-8") == text, f"docs/{name} is {REGENERATE}"


def test_the_index_names_every_page_once() -> None:
    text = (DOCS / "README.md").read_text(encoding="utf-8")
    links = _LINK.findall("".join(line for line in text.splitlines() if line.startswith("- ")))
    pages = [page.name for page in PAGES if page.name != "README.md"]
    assert sorted(link for link in links if "/" not in link) == pages


@pytest.mark.parametrize("page", CHECKED, ids=by_name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in _LINK.findall(prose(page)):
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name}: {link}"
        assert not anchor or anchor in slugs(target), f"{page.name}: no heading {link}"


@pytest.mark.parametrize("page", CHECKED, ids=by_name)
def test_every_path_named_exists(page: Path) -> None:
    paths = {code.partition("::")[0] for code in named(page) if code.startswith(_FOLDERS)}
    missing = {path for path in paths if not (ROOT / path).exists()}
    assert not missing


@pytest.mark.parametrize("page", CHECKED, ids=by_name)
def test_every_function_named_is_in_its_file(page: Path) -> None:
    """`method/gear.py:find_breakpoint` is a top-level name of src/heal/method/gear.py."""
    for code in named(page):
        if found := re.fullmatch(r"([\w/]+\.py):(\w+)", code):
            names = top_level_names(SOURCE / found[1])
            assert found[2] in names, f"{page.name}: {code}"


def test_every_file_in_the_comparison_with_the_paper_exists() -> None:
    files = {code.partition(":")[0] for code in named(DOCS / "method-vs-paper.md")}
    missing = {f for f in files if f.endswith(".py") and not f.startswith(_FOLDERS)} - {
        str(path.relative_to(SOURCE)) for path in SOURCE.rglob("*.py")
    }
    assert not missing


def test_every_file_the_guide_for_changes_names_exists() -> None:
    files = {
        code for code in named(ROOT / "AGENTS.md") if re.fullmatch(r"[a-z_]+/[\w/]+\.py", code)
    }
    placeholders = {"stages/NAME.py", "cli/NAME.py"}
    missing = {
        f for f in files - placeholders if not ((SOURCE / f).exists() or (ROOT / f).exists())
    }
    assert not missing
    assert len(files) > 10


def test_every_section_of_the_method_that_the_code_cites_exists() -> None:
    text = (DOCS / "method.md").read_text(encoding="utf-8")
    sections = set(re.findall(r"^(?:## |\*\*)(\d(?:\.\d+)?)\b", text, re.MULTILINE))
    cited = set()
    for path in (*SOURCE.rglob("*.py"), *(ROOT / "tests").glob("*.py"), *PAGES):
        for first, last in _SECTION.findall(path.read_text(encoding="utf-8")):
            cited |= {first, *([last] if last else [])}
    assert {"1", "2", "3", "4", "5", "6"} <= sections
    assert cited <= sections, cited - sections
    assert len(cited) >= 5


def top_level_names(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names.update(t.id for t in targets if isinstance(t, ast.Name))
    return names


@pytest.mark.parametrize("page", CHECKED, ids=by_name)
def test_every_test_named_exists(page: Path) -> None:
    for code in named(page):
        if found := re.fullmatch(r"(tests/\w+\.py)::(\w+)", code):
            assert f"def {found[2]}(" in (ROOT / found[1]).read_text(encoding="utf-8"), code


@pytest.mark.parametrize("page", CHECKED, ids=by_name)
def test_every_setting_named_exists(page: Path) -> None:
    keys = {key for key, _ in leaves()}
    known = keys | {key.rpartition(".")[0] for key in keys}
    sections = {key.partition(".")[0] for key in keys if "." in key}
    for code in named(page):
        key = code.partition("=")[0].partition(":")[0]
        is_setting = re.fullmatch(r"[a-z_]+(\.[a-z_0-9]+)+", key) and not key.endswith(_SUFFIXES)
        if is_setting and key.partition(".")[0] in sections:
            assert key in known, f"{page.name}: {code}"


@pytest.mark.parametrize("page", CHECKED, ids=by_name)
def test_every_command_named_exists(page: Path) -> None:
    shell = "\n".join(f.text for f in fences(page) if f.language in ("", "bash", "console"))
    for text in (*named(page), *shell.splitlines()):
        if found := re.match(r"(?:\$ )?heal ([a-z]+)(?: ([a-z]+))?", text):
            one, two = f"heal {found[1]}", f"heal {found[1]} {found[2]}"
            assert one in commands(), f"{page.name}: {text}"
            has_members = any(name.startswith(f"{one} ") for name in commands())
            assert not has_members or not found[2] or two in commands(), f"{page.name}: {text}"


@pytest.mark.parametrize("page", CHECKED, ids=by_name)
def test_every_recipe_shown_parses(page: Path) -> None:
    """A part of a recipe is completed with the smallest one."""
    for fence in fences(page):
        if fence.language != "yaml" or page.name == "configuration.md":
            continue
        shown = yaml.safe_load(fence.text)
        assert set(shown) <= set(Config.model_fields), f"{page.name}: {fence.text}"
        parse(MINIMAL | shown, where=page.name)


@pytest.mark.parametrize("recipe", sorted(ROOT.glob("recipes/*.yaml")), ids=by_name)
def test_every_recipe_shipped_parses(recipe: Path) -> None:
    parse(yaml.safe_load(recipe.read_text(encoding="utf-8")), where=recipe.name)


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_python_shown_runs(
    page: Path, example: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All of a page's snippets, in order, in the example's folder; each prints something."""
    monkeypatch.chdir(example)
    names: dict[str, Any] = {}
    for fence in fences(page):
        if fence.language == "python":
            exec(compile(fence.text, str(page), "exec"), names)
            assert capsys.readouterr().out.strip(), fence.text


def test_the_example_run_shows_every_part_of_the_method(example: Path) -> None:
    with Store.open(example / "runs/example", write=False) as store:
        drops = {(x.pool, x.drop) for x in store.rows(SelectedRow, "arm = ?", "heal")}
        cuts = [cut for _, cut in store.live("cut", records.Cut, "difference")]
        shortcut = profile_of(store, "add 7 each time")
        honest = profile_of(store, "digit sum")
    assert {("D1", Drop.KEPT), ("D2", Drop.KEPT), ("D3", Drop.KEPT)} <= drops
    assert ("D2", Drop.PURE) in drops
    assert {cut.step for cut in cuts} == {2}
    assert shortcut > honest


def profile_of(store: Store, words: str) -> float:
    """PURE's score of a whole hinted trace with these words, as the page reads it."""
    from heal.config import Pure
    from heal.method.pure import trace_score

    texts = {key: t.text for key, t in store.live("hinted", records.Trace)}
    profiles = [profile for _, profile in store.live("pure", records.PureScore, "hinted")]
    found = [trace_score(p, Pure()).score for p in profiles if words in texts.get(p.trace, "")]
    assert found
    assert found[0] is not None
    assert f"{found[0]:.2f}" in (DOCS / "concepts.md").read_text(encoding="utf-8")
    return found[0]


def documented_tables() -> dict[str, str]:
    """Table → record, from the pages' own table."""
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \|", prose(DOCS / "formats.md"), re.MULTILINE)
    return dict(rows)


def test_the_stages_of_a_run_are_documented(example: Path) -> None:
    stages = documented_tables()
    with Store.open(example / "runs/example", write=False) as store:
        assert set(store.counts()) <= set(stages)
        for stage, record in stages.items():
            list(store.read(stage, getattr(records, record)))


def test_every_column_is_documented() -> None:
    rows = re.findall(r"^\| `(\w+)` \| ((?:`\w+`(?:, )?)+) \|$", prose(DOCS / "formats.md"), re.M)
    documented = {name: re.findall(r"`(\w+)`", listed) for name, listed in rows}
    for kind, table in TABLES.items():
        assert documented[table] == list(kind._fields), table


def test_the_fields_of_every_record_are_documented() -> None:
    rows = re.findall(r"^\| `(\w+)` \| ((?:`\w+`(?:, )?)+) \|$", prose(DOCS / "formats.md"), re.M)
    documented = {name: re.findall(r"`(\w+)`", listed) for name, listed in rows}
    for record in set(documented_tables().values()):
        kind = getattr(records, record)
        assert is_dataclass(kind)
        assert documented[record] == [field.name for field in fields(kind)], record


def test_everything_remembered_beside_the_records_is_documented() -> None:
    written = set(re.findall(r"set_meta\(\"(\w+)\"", all_source()))
    assert written <= named(DOCS / "formats.md")


def all_source() -> str:
    return "\n".join(path.read_text(encoding="utf-8") for path in sorted(SOURCE.rglob("*.py")))


def test_every_outcome_has_its_word_in_the_concepts() -> None:
    words = named(DOCS / "concepts.md")
    for enum in (
        Verdict,
        Stratum,
        Origin,
        HintKind,
        Breakpoint,
        Gate,
        Drop,
        Selection,
        Choice,
        Fallback,
    ):
        assert {str(member) for member in enum} <= words, enum.__name__
    assert set(get_args(ArmName)) <= words


def test_every_input_format_is_described() -> None:
    words = named(DOCS / "formats.md")
    assert {*SUFFIXES, *NAMES, *ALIASES} <= words
    assert {alias for aliases in ALIASES.values() for alias in aliases} <= words
    assert {str(x) for enum in (Finish, Split) for x in enum} <= words


def test_every_setting_of_the_method_has_a_row_in_the_comparison_with_the_paper() -> None:
    words = named(DOCS / "method-vs-paper.md")
    sections = ("sampling.", "gear.", "pure.", "pace.", "evaluate.")
    missing = {key for key, _ in leaves() if key.startswith(sections)} - words
    assert not missing


def test_the_architectures_of_the_fast_path_are_named() -> None:
    source = (SOURCE / "engines/local/body.py").read_text(encoding="utf-8")
    (listed,) = re.findall(r"^MODEL_TYPES = frozenset\((\{.*?\})\)", source, re.M | re.S)
    assert ast.literal_eval(listed) <= named(DOCS / "engines.md")

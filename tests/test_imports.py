"""The house rule: imports point downward, and heavy libraries stay inside those who need them."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "heal"

LEVELS = [
    ("redaction",),
    ("errors", "records", "keys", "wording", "figures"),
    ("bounded", "children", "config", "reach", "prompts", "recipe", "functions", "method"),
    ("data", "engines", "verifiers", "steps", "store"),
    ("stages",),
    ("session", "runner", "students", "report", "before"),
    ("export", "view"),
    ("run", "marking", "importing"),
    ("retention", "rehearsal", "probing", "choosing"),
    ("pipeline",),
    ("execute",),
    ("api", "examine", "rounds"),
    ("lab",),
    ("cli",),
    ("__main__",),
]
LEVEL = {name: level for level, names in enumerate(LEVELS) for name in names}

HEAVY = {"torch", "transformers", "trl", "datasets", "ray", "aiohttp", "peft", "reasoning_gym"}
HOMES = {
    "torch": (
        "engines.local",
        "students.anchor",
        "students.train",
        "students.packing",
        "students.parts",
        "lab",
    ),
    "transformers": (
        "engines.local",
        "students.train",
        "students.packing",
        "students.parts",
        "lab",
    ),
    "trl": ("students.trainer",),
    "datasets": ("students.trainer",),
}


def modules() -> list[tuple[str, Path]]:
    return [
        (".".join(path.relative_to(SOURCE).with_suffix("").parts), path)
        for path in sorted(SOURCE.rglob("*.py"))
    ]


def imported(path: Path, *, top_level_only: bool) -> set[str]:
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level_only else ast.walk(tree)
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


@pytest.mark.parametrize(("name", "path"), modules(), ids=lambda v: v if isinstance(v, str) else "")
def test_imports_point_downward(name: str, path: Path) -> None:
    if name == "__init__":  # it names the API, and loads it on demand
        return
    own = name.split(".")[0]
    for target in imported(path, top_level_only=False):
        if not target.startswith("heal.") or target == "heal.__version__":
            continue
        other = target.split(".")[1]
        assert LEVEL[other] <= LEVEL[own], f"{name} imports {target}, which stands above it"


OF_ALL_PROBLEMS = ("stages.calibrate", "stages.match_budget", "stages.filter", "stages.select")
OF_ALL_PROBLEMS += ("stages.candidates",)
"""Stages that see all problems, through the store."""
PURE = ("heal.store.columns", "heal.engines.base", "heal.keys", "heal.functions", "heal.errors")
PURE += ("heal.config", "heal.prompts", "heal.records", "heal.method", "heal.stages")
PURE += ("heal.steps",)
"""What a stage of one problem may know. Of `steps`: a checker reads text alone, so its word is as
much a function of the stored records as the other gates are."""


@pytest.mark.parametrize("path", sorted((SOURCE / "stages").glob("*.py")), ids=lambda p: p.stem)
def test_a_stage_knows_neither_disk_nor_clock_nor_a_concrete_engine(path: Path) -> None:
    name, found = f"stages.{path.stem}", imported(path, top_level_only=False)
    allowed = (*PURE, "heal.store") if name in OF_ALL_PROBLEMS else PURE
    others = {target for target in found if target.startswith("heal.")}
    strange = {t for t in others if not any(t == a or t.startswith(f"{a}.") for a in allowed)}
    assert not strange
    if name not in OF_ALL_PROBLEMS:
        assert not any(t.startswith(f"heal.{other}") for t in others for other in OF_ALL_PROBLEMS)
    clocks_and_disks = {"os", "time", "sqlite3", "random", "pathlib.Path", "datetime.datetime"}
    assert found.isdisjoint(clocks_and_disks)


def test_an_exam_is_as_pure_as_a_stage() -> None:
    found = imported(SOURCE / "students" / "exam.py", top_level_only=False)
    assert all(t.startswith(PURE) for t in found if t.startswith("heal."))


def test_the_method_is_read_on_one_screen() -> None:
    source = (SOURCE / "pipeline.py").read_text()
    assert len(source.splitlines()) <= 150
    assert not [n.name for n in ast.walk(ast.parse(source)) if isinstance(n, ast.ClassDef)]


def test_only_cli_imports_the_lab() -> None:
    users = {
        name.split(".")[0]
        for name, path in modules()
        if any(t.startswith("heal.lab") for t in imported(path, top_level_only=False))
    }
    assert users <= {"cli", "lab"}


@pytest.mark.parametrize(("name", "path"), modules(), ids=lambda v: v if isinstance(v, str) else "")
def test_heavy_libraries_are_imported_only_where_they_are_needed(name: str, path: Path) -> None:
    for target in imported(path, top_level_only=True):
        library = target.split(".")[0]
        if library in HEAVY:
            homes = HOMES.get(library, ())
            assert name.startswith(homes), f"{name} imports {library} when it is itself imported"


def test_help_loads_no_heavy_library() -> None:
    code = (
        "import sys; sys.argv = ['heal', '--help']\n"
        "from heal.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(sorted(set(sys.modules) & {'torch', 'transformers', 'trl', 'datasets', 'numpy'}))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip().endswith("[]")

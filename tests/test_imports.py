"""The house rule: imports point downward, and heavy libraries stay inside those who need them."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "heal"

LEVELS = [
    ("errors", "records", "keys"),
    ("config", "prompts", "recipe", "functions", "method"),
    ("data", "engines", "verifiers", "steps", "store"),
    ("stages", "students"),
    ("session", "run", "purchase", "rounds", "report", "before"),
    ("pipeline",),
    ("execute",),
    ("lab",),
    ("cli",),
    ("__main__",),
]
LEVEL = {name: level for level, names in enumerate(LEVELS) for name in names}

HEAVY = {"torch", "transformers", "trl", "datasets", "ray", "aiohttp", "peft", "reasoning_gym"}
HOMES = {
    "torch": ("engines.local", "students.train", "lab"),
    "transformers": ("engines.local", "students.train", "lab"),
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
    if name == "__init__":
        return
    own = name.split(".")[0]
    for target in imported(path, top_level_only=False):
        if not target.startswith("heal.") or target == "heal.__version__":
            continue
        other = target.split(".")[1]
        assert LEVEL[other] <= LEVEL[own], f"{name} imports {target}, which stands above it"


@pytest.mark.parametrize(("name", "path"), modules(), ids=lambda v: v if isinstance(v, str) else "")
def test_stages_know_neither_store_nor_a_concrete_engine(name: str, path: Path) -> None:
    if not name.startswith("stages."):
        return
    for target in imported(path, top_level_only=False):
        assert not target.startswith(("heal.store", "heal.engines.local", "heal.engines.scripted"))


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

"""A whole scripted run as a person sees it at 80 columns: the exact words, and the exit codes."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.scripted_run import ScriptedRun, small_batches, small_disk, unsynced

from heal.cli import main
from heal.engines.scripted import ScriptedEngine

SESSION = Path(__file__).parent / "cases" / "scripted_session.txt"
COMMANDS = (
    "heal run -c recipe.yaml",
    "heal run -c recipe.yaml",
    "heal show run",
    "heal run -c recipe.yaml --set gear.candidates=1 --set sampling.n=41",
    "heal select -c recipe.yaml --set run=capped --set limits.teacher_tokens=9000",
    "heal select -c recipe.yaml --set run=capped",
    "heal show capped",
    "heal report capped",
)

EARLY = "report    run/report.html, at the end; until then: heal show run\n"

Shell = Callable[[str], tuple[int, str]]


@pytest.fixture
def shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Shell:
    """Runs a `heal …` command in a folder with the small world; its exit code and output."""
    ScriptedRun(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("heal.cli.progress.time", SimpleNamespace(monotonic=lambda: 0.0))

    def call(command: str) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", command.split())
        with pytest.raises(SystemExit) as ended, unsynced(), small_batches():
            main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out + said.err

    return call


def test_a_session_reads_exactly_like_this(shell: Shell) -> None:
    said = []
    for command in COMMANDS:
        code, text = shell(command)
        said.append(f"$ {command}\n{text}[exit {code}]\n")
    session = "\n".join(said)
    assert session == SESSION.read_text(encoding="utf-8")
    for line in session.splitlines():
        # messages are not broken: people copy paths and commands out of them
        assert len(line) <= 80 or line.startswith(("$ ", "heal: ")), line
        assert line == line.rstrip()


def test_ctrl_c_says_how_to_go_on(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ScriptedEngine, "_reply", interrupted)
        code, said = shell("heal sample -c recipe.yaml")
    assert code == 130
    assert said == EARLY + "stopped; what is done is stored, and the same command continues\n"
    assert shell("heal sample -c recipe.yaml")[0] == 0


def test_a_full_disk_is_exit_code_2(shell: Shell) -> None:
    with small_disk():
        code, said = shell("heal sample -c recipe.yaml")
    assert code == 2
    assert said == EARLY + (
        "heal: run: no disk space left; everything finished so far is stored\n"
        "  → free some space, then run the same command again\n"
    )

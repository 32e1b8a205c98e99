"""A run that is still going is reported as running, and one that was killed is not."""

import subprocess
import sys
from pathlib import Path

import pytest
from tests.made_run import lab_run
from tests.report_fixture import Page, changed, lab_view, printed

from heal.report.html import render_html
from heal.report.load import load_view
from heal.report.view import Progress
from heal.store import SelectedRow, Store, TraceRow


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lab_run(tmp_path_factory.mktemp("lab") / "run", problems=60, held_out=20)


def test_a_run_that_is_still_going_says_how_far_it_is(lab: Path, tmp_path: Path) -> None:
    undone = (
        "UPDATE meta SET value = 'null' WHERE name = 'complete'",
        """INSERT INTO meta VALUES ('stopped', '"it was interrupted"')""",
    )
    changed(lab, tmp_path, *undone)
    at = "2026-03-14T09:31:00+00:00"
    with Store.open(tmp_path / "run") as writer:
        assert "Still running; what is finished is below." in _both(tmp_path)
        told = {"stage": "problems", "done": 1200, "owed": 4000, "at": at}
        writer.set_meta("progress", told)
        said = _both(tmp_path)
        assert lab_view(tmp_path / "run").running == Progress("problems", 1200, 4000, at)
        assert said.count("Still running: problems, 1,200 of 4,000; what is finished is") == 2
        assert "interrupted" not in said and "HEAL repaired" in said
        # its own report, once it has stopped: the lock is its own
        assert load_view(writer).running is None
    assert lab_view(tmp_path / "run").running is None
    assert _both(tmp_path).count("omplete: it was interrupted") == 2


def test_a_killed_run_is_not_called_running(lab: Path, tmp_path: Path) -> None:
    changed(lab, tmp_path, "UPDATE meta SET value = 'null' WHERE name = 'complete'")
    code = (
        "import sys, time; from pathlib import Path; from heal.store import Store; "
        "store = Store.open(Path(sys.argv[1])); "
        "store.set_meta('progress', {'stage': 'problems', 'done': 1, 'owed': 9}); "
        "print('held', flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        assert lab_view(tmp_path / "run").running == Progress("problems", 1, 9)
        process.kill()
    assert lab_view(tmp_path / "run").running is None


def _both(folder: Path) -> str:
    view = lab_view(folder / "run")
    said = Page(render_html(view)).text + " " + " ".join(printed(view).split())
    return said.replace("\u00a0", " ")


def test_a_view_is_of_one_moment_while_another_process_writes(lab: Path, tmp_path: Path) -> None:
    before = changed(lab, tmp_path)
    with (
        Store.open(tmp_path / "run", write=False) as reader,
        Store.open(tmp_path / "run") as writer,
    ):
        with reader.moment():
            ((count,),) = reader.query("SELECT COUNT(*) FROM traces")
            writer.forget(TraceRow)
            writer.forget(SelectedRow)
            ((still,),) = reader.query("SELECT COUNT(*) FROM traces")
            assert still == count > 0
        assert load_view(reader).traces == () != before.traces

"""The paper estimate: its formulas by hand, and its page against its output."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from heal.before.estimate import Cost

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def paper() -> ModuleType:
    place = ROOT / "benchmarks" / "paper_estimate.py"
    spec = importlib.util.spec_from_file_location("paper_estimate", place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_quotes_what_the_script_computes(paper: ModuleType) -> None:
    page = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    assert "\n".join(paper.lines()) in page


def test_the_page_says_it_was_not_measured_on_gpus() -> None:
    page = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    assert "independent numbers, not measured on GPUs" in page


def test_keys_and_values_of_qwen3_32b_take_256_kib_per_token(paper: ModuleType) -> None:
    assert paper.QWEN3_32B.kv_per_token == 2 * 64 * 8 * 128 * 2 == 256 * 1024


def test_a_32b_model_in_bf16_leaves_one_80_gb_gpu_room_for_few_sequences(
    paper: ModuleType,
) -> None:
    alone, pair = paper.Server(paper.H100, 1, 2), paper.Server(paper.H100, 2, 2)
    assert alone.kv_room == pytest.approx(80e9 * 0.9 - 3e9 - 65.6e9)
    assert alone.in_flight(4200) == 3
    assert pair.in_flight(4200) == int((2 * 69e9 - 65.6e9) / (256 * 1024 * 4200)) == 65
    assert paper.Server(paper.Gpu("small", 24e9, 1e12, 1e14), 1, 2).in_flight(4200) == 0


def test_the_writing_bound_is_one_pass_over_weights_and_keys_per_step(paper: ModuleType) -> None:
    pair = paper.Server(paper.H100, 2, 2)
    step_s = (65.6e9 + 65 * 256 * 1024 * 4200) / (2 * 3.35e12)
    assert pair.written_s(4200) == pytest.approx(65 / step_s / 2)


def test_hours_add_writing_and_reading_and_fall_with_gpus(paper: ModuleType) -> None:
    cost = Cost("x", read=3_600_000, written=7_200_000)
    assert paper.hours(cost, 1, 1_000, 2_000) == pytest.approx(2 + 0.5)
    assert paper.hours(cost, 10, 1_000, 2_000) == pytest.approx(0.25)


def test_sampling_writes_what_the_run_says(paper: ModuleType) -> None:
    by_part = {cost.part: cost for cost in paper.stages()}
    assert by_part["sample"].written == 10_000 * 30 * 4_000
    ended = {cost.part: cost for cost in paper.ended_by_target(paper.stages())}
    # one in five passes: eight take 40 of 200 candidates, and the third round ends at 70
    assert ended["repair"].written == pytest.approx(by_part["repair"].written * 70 / 200)

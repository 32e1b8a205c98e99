"""Settings every test shares."""

import gc

import pytest
from hypothesis import settings

from heal import functions

# first calls import and machines are shared: time limits per example only make tests flaky
settings.register_profile("heal", deadline=None)
settings.load_profile("heal")


def pytest_collection_finish() -> None:
    """Nine thousand collected tests live to the end: the garbage collector need not walk them."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def code_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with `--allow-code`, for one test."""
    monkeypatch.setattr(functions, "_allowed", True)
    monkeypatch.setattr(functions, "_named", set())

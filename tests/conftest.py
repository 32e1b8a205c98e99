"""Settings every test shares."""

import pytest
from hypothesis import settings

from heal import functions

# first calls import and machines are shared: time limits per example only make tests flaky
settings.register_profile("heal", deadline=None)
settings.load_profile("heal")


@pytest.fixture
def code_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with `--allow-code`, for one test."""
    monkeypatch.setattr(functions, "_allowed", True)
    monkeypatch.setattr(functions, "_named", set())

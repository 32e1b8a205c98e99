"""Settings every test shares."""

from hypothesis import settings

# first calls import and machines are shared: time limits per example only make tests flaky
settings.register_profile("heal", deadline=None)
settings.load_profile("heal")

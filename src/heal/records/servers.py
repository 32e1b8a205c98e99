"""What servers were asked."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ServerFacts:
    """What one server was asked in one process, and how it fared."""

    url: str
    asked: int
    """Requests sent: `answered`, `failures` by cause, and those abandoned when the run stopped."""
    answered: int
    failures: dict[str, int]
    """Tries that brought nothing, by cause: each was made again, or is one of `given_up`."""
    given_up: int
    """Requests that no further try mended."""
    pauses: int
    paused_s: float

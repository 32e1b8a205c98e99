"""Everything HEAL raises on purpose.

    HealError
    ├── UserError             bad input or configuration: exit code 2, no traceback
    │   └── NoServerError     nobody answers at any address
    ├── CapabilityError       an engine cannot do what the method needs
    ├── EngineError           an engine failed as a whole; one failed item is a record
    └── TooManyFailuresError  a stage lost so many items that going on would waste tokens

`UserError` says what is wrong, where, and the next command to try. No message carries a secret:
each goes through `redact` when it is made, for what it quotes may have come from anywhere.
"""

from heal.redaction import redact


class HealError(Exception):
    """Base of every error HEAL raises on purpose; `exit_code` is what the command returns."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(redact(message))
        self.hint = None if hint is None else redact(hint)


class UserError(HealError):
    """Bad input: what and where in the message, the next command in `hint`."""

    exit_code = 2


class NoServerError(UserError):
    """None of the servers named is there; a run that owes them nothing can do without."""


class CapabilityError(HealError):
    """An engine lacks something the method needs; the message names the remedy."""

    exit_code = 2


class EngineError(HealError):
    """An engine failed as a whole."""


class TooManyFailuresError(HealError):
    """A stage stopped because too many of its items failed; the message sums up by cause."""

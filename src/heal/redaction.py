"""What text from elsewhere may not carry into files and onto screens.

`redact` takes out secrets: those that were `remember`ed, in the spellings below, and whatever
stands where a credential stands (before the @ of an address, after `Bearer`). `visible` shows
characters that would act on a terminal or reorder a page instead of being read. Every error that
HEAL raises on purpose, and every cause a server gives, goes through `redact`; every line a verb
prints goes through both. Limit: a secret spelt in a way not listed here (split, reversed,
encrypted) is not known again.
"""

import base64
import json
import re
from collections.abc import Iterator
from urllib.parse import quote

MASK = "***"
_LEAST = 3
"""Secrets of fewer characters would take every article out of a text."""
_SHORT = 8
"""Secrets of fewer characters are taken out as whole words only, or `pass` would empty `passed`."""

_CREDENTIALS = re.compile(
    r"(?P<before>://)[^\s/@\"'<>]+@"
    r"|(?P<scheme>\b(?:bearer|basic)[ \t]+)(?=\S*\d)[^\s\"'<>,;]{8,}"
    r"|(?P<header>\bauthorization[\"']?[ \t]*[:=][ \t]*[\"']?(?:bearer|basic)[ \t]+)[^\s\"'<>,;]+",
    re.IGNORECASE,
)
_ACTING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)
_PICTURES = 0x2400
"""Where Unicode keeps one picture for each of the control characters from 0 to 31."""


class _Known:
    """The secrets of this process, and one pattern that finds any of them."""

    def __init__(self) -> None:
        self.secrets: set[str] = set()
        self.pattern: re.Pattern[str] | None = None


_known = _Known()


def remember(secret: str | None) -> None:
    """From now on `redact` takes it out; None, and what is too short to hide anything, is not."""
    if not secret or len(secret) < _LEAST or secret in _known.secrets:
        return
    _known.secrets.add(secret)
    forms = {form for known in _known.secrets for form in _spellings(known)}
    _known.pattern = re.compile(
        "|".join(_found_as(form) for form in sorted(forms, key=len, reverse=True)), re.IGNORECASE
    )


def redact(text: str) -> str:
    """The text without any secret."""
    if _known.pattern is not None:
        text = _known.pattern.sub(MASK, text)
    return _CREDENTIALS.sub(_masked, text)


def holds_secret(text: str) -> bool:
    """Whether a remembered secret stands in it."""
    return _known.pattern is not None and _known.pattern.search(text) is not None


def visible(text: str) -> str:
    """Control characters and direction overrides as something to be seen.

    `ESC` becomes `␛`, a right-to-left override `⟨202E⟩`, half a surrogate pair `�`. Line
    breaks and tabs stay.
    """
    return _ACTING.sub(_shown, text.replace("\r\n", "\n"))


def _spellings(secret: str) -> Iterator[str]:
    """As it is, and as it may come back: in JSON, in an address, in a header."""
    yield secret
    yield json.dumps(secret)[1:-1]
    yield repr(secret)[1:-1]
    yield quote(secret, safe="")
    yield base64.b64encode(secret.encode("utf-8", "surrogatepass")).decode()


def _found_as(form: str) -> str:
    found = re.escape(form)
    return rf"(?<!\w){found}(?!\w)" if len(form) < _SHORT else found


def _masked(found: re.Match[str]) -> str:
    before, scheme, header = found["before"], found["scheme"], found["header"]
    return f"{before}{MASK}@" if before else f"{scheme or header}{MASK}"


def _shown(found: re.Match[str]) -> str:
    code = ord(found[0])
    if code < 0x20:
        return chr(_PICTURES + code)
    if code == 0x7F:
        return "\u2421"
    if 0xD800 <= code <= 0xDFFF or code in (0xFFFE, 0xFFFF):
        return "\ufffd"
    return f"⟨{code:02X}⟩"

"""Counts in words: `1 trace`, `2 traces`, `12,345 traces`.

In: a number and a noun. Out: text. Whatever counts things for a reader says so through here, on
pages, on the terminal and in messages alike.
"""


def count(n: int) -> str:
    """`12345` → `12,345`."""
    return f"{n:,}"


def plural(n: float, one: str, many: str | None = None) -> str:
    """`1 trace`, `2 traces`; `many` where an s at the end does not make the plural.

    A fraction is printed as a whole number.
    """
    shown = f"{n:,.0f}"
    return f"{shown} {one if shown == '1' else many or one + 's'}"

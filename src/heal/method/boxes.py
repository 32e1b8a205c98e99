r"""Boxed answers: the content of every `\boxed{}` in a text.

In: any text, however long or broken. Out: the contents, in order. One pass with a stack, so time
grows with the length of the text alone: unclosed and nested boxes cost no second look.
"""

import re
from collections.abc import Iterator

_TOKEN = re.compile(
    # a backslash before `\boxed` escapes nothing: some texts double every backslash
    r"\\(?=\\(?:boxed|fbox)(?![a-zA-Z]))|(?P<box>\\(?:boxed|fbox)(?![a-zA-Z]))|\\.|[{}]",
    re.DOTALL,
)
_OPENING = re.compile(r" *\{")
_BARE = re.compile(r"\s+(\\?[^\s{}$\\.,;]+)")
_BETWEEN = re.compile(
    r"[ $]*(?:\\[()\]\[] *)?(?:,|;|,? *(?:and|or|\\text\{ *(?:and|or) *\}))[ $]*(?:\\[()\]\[] *)?"
)
_LONGEST_BETWEEN = 40


def boxed(text: str) -> list[str]:
    r"""Contents of every closed, non-empty `\boxed{}`, in order; neighbours in a list are joined.

    An empty box is the prompt's own wording and an unclosed one was never finished: both are
    left out. Of boxes inside a box the last one counts.
    """
    groups: list[dict[str, None]] = []
    last_end: int | None = None
    for start, end, content in _closed_boxes(text):
        if last_end is None or not _are_joined(text, last_end, start):
            groups.append({})
        groups[-1][content] = None
        last_end = end
    return [", ".join(group) for group in groups]


def has_box(text: str) -> bool:
    r"""Whether a text mentions a `\boxed`, closed or not."""
    return any(match["box"] for match in _TOKEN.finditer(text))


def _are_joined(text: str, end: int, start: int) -> bool:
    return start - end <= _LONGEST_BETWEEN and bool(_BETWEEN.fullmatch(text, end, start))


def _closed_boxes(text: str) -> Iterator[tuple[int, int, str]]:
    """(start, end, content) of the outermost closed boxes."""
    found: list[tuple[int, int, str]] = []
    braces: list[tuple[int, int] | None] = []  # a box's start and its content's, or a mere brace
    at = 0
    while token := _TOKEN.search(text, at):
        at = token.end()
        if token["box"]:
            at = _open_box(text, token, braces, found)
        elif token[0] == "{":
            braces.append(None)
        elif token[0] == "}" and braces and (opened := braces.pop()):
            _close_box(text, opened, token, found)
    yield from found


def _open_box(
    text: str,
    token: re.Match[str],
    braces: list[tuple[int, int] | None],
    found: list[tuple[int, int, str]],
) -> int:
    if opening := _OPENING.match(text, token.end()):
        braces.append((token.start(), opening.end()))
        return opening.end()
    if bare := _BARE.match(text, token.end()):
        found.append((token.start(), bare.end(), bare[1]))
        return bare.end()
    return token.end()


def _close_box(
    text: str, opened: tuple[int, int], token: re.Match[str], found: list[tuple[int, int, str]]
) -> None:
    start, content_at = opened
    inner = ""
    while found and found[-1][0] > start:
        last = found.pop()
        inner = inner or last[2]
    content = inner or text[content_at : token.start()].strip()
    if content:
        found.append((start, token.end(), content))

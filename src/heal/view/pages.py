"""What a reader sees: the list of traces, one trace, and what went wrong.

In: rows and a `Story`. Out: pages as text. Everything that came from a problem or a model is
escaped, and what would act in a page (control characters, direction overrides) is shown instead.
No page has a script, a style or an address of its own: those stand in two files beside it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import jinja2

from heal.records import Problem
from heal.redaction import visible
from heal.report.templates import templates
from heal.report.words import excerpt
from heal.store.marks import MAX_NOTE_CHARS, Marked
from heal.view import heat, words
from heal.view.index import FACETS, NONE, Entry, Filters, Page, State
from heal.view.steps import number
from heal.view.trace import Story
from heal.wording import count, plural

ASSETS = {
    "view.css": "text/css; charset=utf-8",
    "view.js": "text/javascript; charset=utf-8",
}


@cache
def asset(name: str) -> bytes:
    """One of `ASSETS`."""
    return (Path(__file__).parent / name).read_bytes()


def list_page(
    run: str,
    state: State,
    page: Page,
    filters: Filters,
    facets: Mapping[str, Mapping[str, int]],
    problems: Mapping[str, Problem],
    token: str,
) -> str:
    """The traces that a filter finds, some at a time."""
    return _render(
        "list.html.j2",
        run=run,
        state=state,
        page=page,
        filters=filters,
        choices=[_Choices(name, facets.get(name, {}), filters) for name in FACETS],
        problems=problems,
        earlier=_link(filters, before=page.rows[0].n) if page.rows else "",
        later=_link(filters, after=page.rows[-1].n) if page.rows else "",
        token=token,
        tab=_tab(filters),
    )


def trace_page(
    run: str,
    state: State,
    story: Story,
    mark: Marked | None,
    filters: Filters,
    beside: tuple[Entry | None, Entry | None],
    token: str,
) -> str:
    """One trace and all that is known of it."""
    return _render(
        "trace.html.j2",
        run=run,
        state=state,
        it=story,
        entry=story.entry,
        mark=mark,
        filters=filters,
        earlier=address(beside[0], filters) if beside[0] else "",
        later=address(beside[1], filters) if beside[1] else "",
        back=_link(filters, after=story.entry.n - 1),
        scale=heat.scale(),
        max_note=MAX_NOTE_CHARS,
        token=token,
    )


def error_page(title: str, said: str, hint: str = "") -> str:
    """What went wrong, and what to do."""
    return _render("error.html.j2", title=title, said=said, hint=hint)


def entry_page() -> str:
    """Leads on once the cookie is set: from here, so that the browser sends it."""
    return _render("entry.html.j2")


def address(entry: Entry, filters: Filters) -> str:
    """Where one trace is, within a filter."""
    path = "/".join(quote(part, safe="") for part in (entry.stage, entry.problem, entry.key))
    asked = filters.asked() | ({"tag": entry.tag} if entry.tag else {})
    return f"/trace/{path}" + (f"?{urlencode(asked)}" if asked else "")


def _link(filters: Filters, **place: int) -> str:
    return "/?" + urlencode(filters.asked() | {name: str(n) for name, n in place.items()})


def _tab(filters: Filters) -> Sequence[tuple[str, str, bool]]:
    """Links to each kind of trace: what it is called, its address, whether it is shown."""
    return [
        (label, _link(replace(filters, stage=stage)).removesuffix("?"), filters.stage == stage)
        for stage, label in (("", "all"), *words.STAGES.items())
    ]


class _Choices:
    """One filter and what may be chosen in it."""

    def __init__(self, name: str, counts: Mapping[str, int], filters: Filters) -> None:
        self.name, self.label = name, words.FILTERS[name]
        chosen = getattr(filters, name)
        self.options = [
            (value or NONE, words.name_of(name, value), n, chosen == (value or NONE))
            for value, n in counts.items()
        ]
        known = {value for value, *_ in self.options}
        if chosen and chosen not in known:
            self.options.append((chosen, words.name_of(name, chosen.replace(NONE, "")), 0, True))


def _render(template: str, **told: Any) -> str:
    return visible(_environment().get_template(template).render(told))


@cache
def _environment() -> jinja2.Environment:
    filters: dict[str, Callable[..., Any]] = {
        "count": count,
        "excerpt": excerpt,
        "number": number,
        "plural": plural,
        "shown": lambda value, facet: words.name_of(facet, value or ""),
    }
    environment = templates(Path(__file__).parent, filters)
    environment.globals |= {"address": address, "GATES": words.GATES, "DROPS": words.DROPS}
    return environment

"""What a reader's marks do to a selection.

In: `marks.jsonl` of the run folder, and whether `pace.respect_marks` asks for it. Out: the traces
that `select` leaves out. A bad mark that leaves nothing out is told and counted, whatever for.
"""

from collections.abc import Collection

from heal.session import Session
from heal.store.marks import MARKS, bad_marks
from heal.wording import plural

_NAMED = 3
"""Traces that a line names."""


def marked_bad(session: Session) -> frozenset[str]:
    """Keys of the run's traces that are to be left out. Raises: UserError for what is no mark."""
    bad = bad_marks(session.store.folder)
    known = {key for key, problem in bad.items() if _is_known(session, key, problem)}
    _tell_unknown(session, sorted(bad.keys() - known))
    if session.config.pace.respect_marks:
        if not bad:
            session.observer.say(f"{MARKS}: no trace is marked bad")
        return frozenset(known)
    session.fact("traces marked bad, not left out: pace.respect_marks is off", len(known))
    return frozenset()


def tell_left_out(session: Session, marked: Collection[str], left_out: Collection[str]) -> None:
    """What became of them: `left_out` would have been candidates past PURE of some arm."""
    if not marked:
        return
    others = len(marked) - len(left_out)
    session.fact("traces marked bad, left out of the selection", len(left_out))
    session.fact("traces marked bad that no arm would have taken anyway", others)
    session.observer.say(
        f"{MARKS}: {plural(len(marked), 'trace')} marked bad: {len(left_out):,} left out of the"
        f" selection, {others:,} that no arm would have taken anyway"
    )


def _is_known(session: Session, key: str, problem: str) -> bool:
    sql = "SELECT 1 FROM traces WHERE problem=? AND key=? LIMIT 1"
    return any(session.store.query(sql, (problem, key)))


def _tell_unknown(session: Session, unknown: list[str]) -> None:
    if not unknown:
        return
    session.fact("bad marks of traces that this run does not have", len(unknown))
    named = ", ".join(unknown[:_NAMED]) + (", …" if len(unknown) > _NAMED else "")
    one = plural(len(unknown), "trace")
    session.observer.say(f"{MARKS}: {one} marked bad that this run does not have: {named}")

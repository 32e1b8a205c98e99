"""One line per stage: what went in and what became of it, in counts that add up.

In: the columns of a run. Out: text. Words for a person; nothing reads them back.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from heal.config import Config
from heal.records import Breakpoint, Hint
from heal.report.hint_words import choice_line, read_choice
from heal.store import Store, step_words
from heal.wording import plural

_OWN_HINTS = "tag<>'answer' AND tag NOT LIKE 'probe-%'"
"""Written for the run's own cuts: neither whole traces' answers nor what a probe tried."""
_CUT: Mapping[str, str] = {
    Breakpoint.CLAIMS: "by claims",
    Breakpoint.CHECKER: "by the checker",
    Breakpoint.RANDOM: "at random",
    Breakpoint.FIXED_THIRD: "at a third",
    Breakpoint.RESTART: "kept nothing",
}
"""How a path was cut by what is no surge of entropy."""
_FINISHED = {"stop": "complete", "length": "truncated", "loop": "looping"}


def tally(lead: str, one: str, outcomes: Mapping[str, int], many: str | None = None) -> str:
    """`240 problems · 7,200 traces: 7,100 stop · 100 length`; zero counts are left out.

    one, many: what is counted, as `plural` takes it.
    """
    total = sum(outcomes.values())
    parts = [
        f"{count:,} {str(name).replace('_', ' ')}"
        for name, count in sorted(outcomes.items(), key=lambda item: (-item[1], item[0]))
        if count
    ]
    line = plural(total, one, many) + (f": {' · '.join(parts)}" if parts else "")
    return f"{lead} · {line}" if lead else line


def stage_lines(store: Store, config: Config, early: int | None) -> Iterator[tuple[str, str]]:
    """(stage, line) of the stages that see one problem at a time, once all problems are done.

    early: problems decided before their plan's end; None where sampling is not adaptive.
    """
    main = str(config.gear.breakpoint)
    yield "sample", sampled(store, early)
    yield "verify", verified(store)
    yield "locate", located(store, main)
    choice = read_choice(store)
    if choice is not None:
        yield "probe", choice_line(choice)
    yield "guide", guided(store)
    yield "repair", repaired(store, main)
    if config.steps.checker is not None:
        yield "words", checked(store)
    yield "score", scored(store)


def sampled(store: Store, early: int | None = None) -> str:
    """Unaided traces by how they ended; `early`: problems decided before the plan's end."""
    ended = _count(store, "SELECT finish, COUNT(*) FROM traces WHERE stage='sample' GROUP BY 1")
    lead = plural(_one(store, "SELECT COUNT(DISTINCT problem) FROM traces"), "problem")
    if early is not None:
        lead += f", {early:,} decided early"
    return tally(lead, "trace", Counter({_FINISHED.get(k, k): n for k, n in ended.items()}))


def verified(store: Store) -> str:
    """Unaided traces by verdict."""
    found = "SELECT verdict, COUNT(*) FROM traces WHERE stage='sample' GROUP BY 1"
    return tally("", "trace", _count(store, found))


def located(store: Store, main: str) -> str:
    """Failed paths by how they were cut."""
    word = _CUT.get(main, "surge")
    how = _count(
        store,
        "SELECT CASE WHEN fallback IS NOT NULL THEN 'fallback (' || replace(fallback, '_', ' ')"
        " || ')' WHEN undecided THEN 'undecided ' || ? ELSE ? END,"
        " COUNT(*) FROM cuts WHERE tag=? GROUP BY 1",
        *(word, word, main),
    )
    how["not scored"] = _one(store, "SELECT SUM(paths) FROM problems") - how.total()
    extreme = "SELECT COUNT(*) FROM problems WHERE stratum='extreme' AND split='train'"
    problems = _one(store, extreme)
    return tally(plural(problems, "extreme problem"), "failed path", how)


def guided(store: Store) -> str:
    """Hints by kind, and what they were to be if they fell back."""
    how = _count(
        store,
        "SELECT CASE WHEN kind=asked THEN kind || CASE WHEN cut_off THEN ', cut off' ELSE '' END"
        " ELSE kind || ' for ' || CASE WHEN failed THEN 'failed' WHEN leaks THEN 'refused'"
        " ELSE 'missing' END || ' ' || asked END, COUNT(DISTINCT key)"
        f" FROM hints WHERE {_OWN_HINTS} GROUP BY 1",
    )
    return tally("", "hint", how) + _flaws(store)


def _flaws(store: Store) -> str:
    """`; draws refused: 4 leaks · 2 cut off`; nothing where none was."""
    flaws, told = Counter[str](), set[str]()
    for (tag,) in list(store.query(f"SELECT DISTINCT tag FROM hints WHERE {_OWN_HINTS}")):
        for key, hint in store.live("hint", Hint, tag):
            if key not in told:
                told.add(key)
                flaws.update(hint.flaws)
    return f"; {tally('', 'draw refused', flaws, 'draws refused')}" if flaws else ""


def repaired(store: Store, main: str) -> str:
    """Assisted traces of HEAL's own breakpoint by gate."""
    own = "FROM traces WHERE (stage='hinted' OR (stage='repair' AND tag=?))"
    covered = "SELECT COUNT(DISTINCT problem) FROM traces WHERE stage='repair' AND tag=?"
    passed = _one(store, f"{covered} AND gate='passed'", main)
    tried = _one(store, "SELECT COUNT(DISTINCT problem) FROM cuts WHERE tag=?", main)
    gates = _count(store, f"SELECT gate, COUNT(*) {own} GROUP BY 1", main)
    return tally(f"{passed:,} of {plural(tried, 'problem')} repaired", "trace", gates)


def checked(store: Store) -> str:
    """Complete training traces by what the step checker says of them."""
    there = {key for (key,) in store.query("SELECT key FROM traces WHERE stage<>'matched'")}
    said = Counter[str]()
    said.update(str(word.outcome) for key, word in step_words(store) if key in there)
    return tally("", "complete trace", said)


def scored(store: Store, honest: bool = False) -> str:
    """Profiles, of candidates or of honest traces."""
    how = _count(
        store,
        "SELECT CASE WHEN failed THEN 'failed' ELSE 'scored' END, COUNT(DISTINCT key) FROM scores"
        f" WHERE stage='pure' AND tag{'=' if honest else '<>'}'honest' GROUP BY 1",
    )
    if honest:
        return tally("", "honest trace", how)
    return tally("", "trace past the gates", how, "traces past the gates")


def _count(store: Store, sql: str, *parameters: Any) -> Counter[str]:
    rows: Iterator[tuple[str | None, int]] = store.query(sql, parameters)
    return Counter({str(name): count for name, count in rows})


def _one(store: Store, sql: str, *parameters: Any) -> int:
    ((found,),) = store.query(sql, parameters)
    return int(found or 0)

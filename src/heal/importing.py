"""Import: traces that were sampled elsewhere become the run's unaided traces.

In: a session whose config names trace files. Out: their bodies in the store, under the teacher's
tokenizer, and for each problem the list of its own. The files are read row by row and stored in
batches under content keys: a killed import that starts again stores nothing twice, and one that is
complete is not read again. What was left out, derived or unlike is counted.
"""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from heal.data.trace_formats import Given, LeftOut
from heal.data.traces import Ending, Found, Matcher
from heal.keys import content_key, trace_key
from heal.method.thinking import CLOSE, OPEN
from heal.records import Finish, Imported, Origin, Problem, Trace, Verdict
from heal.report.lines import tally
from heal.session import Session
from heal.stages.found import opened_thinking
from heal.stages.sample import IMPORT, STAGE, solve_ids
from heal.store import Stored
from heal.wording import plural

BATCH = 256
"""Traces stored together."""
NAMED = 3
"""Disagreements that are shown."""


def bring_in(session: Session) -> None:
    """Import what the config names, unless that is done; tell the facts. Raises: UserError."""
    if session.trace_files is None:
        return
    done = session.store.meta("imported")
    if done is None or done["name"] != session.imports or _is_incomplete(session):
        done = _import(session)
    for text, count in done["facts"].items():
        session.fact(text, count)
    session.observer.end(IMPORT, done["line"])


def compare_verdicts(session: Session) -> None:
    """Set our verdicts against the files' own, once they are there; each side may be wrong."""
    if session.trace_files is None:
        return
    ours = dict(
        session.store.query("SELECT key, verdict FROM traces WHERE stage=?", (STAGE,))
    )  # a key and a word for each trace
    agree, named = Counter[str](), list[str]()
    for _, listed in session.store.live(IMPORT, Imported):
        for key, place, said in zip(listed.traces, listed.places, listed.said, strict=True):
            verdict = ours.get(key)
            if said is None or verdict is None:
                continue
            how = _agreement(said, Verdict(verdict))
            agree[how] += 1
            if how in (_TOO_KIND, _TOO_HARSH):
                word = "correct" if said else "wrong"
                named.append(f"{place}: its file says {word}, our verifier {verdict}")
    for text, count in agree.items():
        session.fact(text, count)
    for line in named[:NAMED]:
        session.observer.say(line)
    if len(named) > NAMED:
        session.observer.say(f"… and {plural(len(named) - NAMED, 'other verdict')} not shared")


_SAME = "imported traces on which our verifier agrees with their file"
_TOO_KIND = "imported traces their file calls correct, and our verifier does not"
_TOO_HARSH = "imported traces their file calls wrong, and our verifier correct"
_UNJUDGED = (
    "imported traces their file has a verdict on, and ours judges none: cut off or unverifiable"
)


def _agreement(said: bool, ours: Verdict) -> str:
    if ours in (Verdict.TRUNCATED, Verdict.UNVERIFIABLE):
        return _UNJUDGED
    if said is (ours is Verdict.CORRECT):
        return _SAME
    return _TOO_KIND if said else _TOO_HARSH


def _is_incomplete(session: Session) -> bool:
    """Whether a body that was imported is gone, as after damage."""
    stored = {key for (key,) in session.store.query("SELECT key FROM records WHERE stage='sample'")}
    listed = (one.traces for _, one in session.store.live(IMPORT, Imported))
    return any(key not in stored for keys in listed for key in keys)


def _import(session: Session) -> dict[str, object]:
    store, files = session.store, session.trace_files
    assert files is not None and session.imports is not None
    session.observer.begin(IMPORT, 0, "traces")
    work = _Work(session)
    for found in files.rows():
        work.add(found)
    work.flush()
    store.record(IMPORT, ((one.key, one.problem_id, one) for one in work.listed.values()))
    form = files.form.name if files.form else "no rows"
    several = f"{plural(len(files.files), 'file')}, " if len(files.files) > 1 else ""
    lead = f"{several}{form} · {plural(len(work.listed), 'problem')}"
    line = tally(lead, "trace", {**work.finishes, "left out": work.left_out.total()})
    done: dict[str, object] = {
        "name": session.imports,
        "facts": work.facts(),
        "line": line,
        "format": form,
    }
    store.set_meta("imported", done)
    return done


@dataclass
class _Work:
    """One pass over the files."""

    session: Session
    listed: dict[str, Imported] = field(default_factory=dict)
    """By problem."""
    finishes: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    counted: Counter[str] = field(default_factory=Counter)
    tokens: int = 0
    _batch: list[Stored] = field(default_factory=list)
    _prompt_tokens: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        s = self.session
        assert s.trace_files is not None
        self._matcher = Matcher(s.problem_set.problems)
        self._ending = Ending(s.trace_files.settings, s.config.problems.verifier)
        self._teacher = s.teacher if s.config.teacher is not None else None
        self._named = None if self._teacher is None else self._teacher.model_id
        # what the teacher's prompts open of its thinking is in its traces' text, not in their ids
        self._opened = opened_thinking(self._teacher, s.config.prompts) if self._teacher else ""
        self._seen: Counter[str] = Counter()
        self._stored = {
            key for (key,) in s.store.query("SELECT key FROM records WHERE stage='sample'")
        }

    def add(self, found: Found) -> None:
        """Take in a row's traces."""
        self.counted["trace rows read"] += 1
        problem_id = self._matcher.find(found)
        if problem_id is None:
            self.counted["trace rows whose problem is not in the run"] += 1
            self.left_out["their problem is not in the run"] += len(found.traces)
            return
        for given in found.traces:
            if isinstance(given, LeftOut):
                self.left_out[given.reason] += 1
            else:
                self._take(self.session.problems[problem_id], given, found.place)

    def flush(self) -> None:
        """Store what is waiting."""
        if self._batch:
            self.session.store.commit(self._batch)
            self.session.observer.advance(len(self._batch))
            self._batch = []

    def facts(self) -> dict[str, int]:
        """What a reader should know of it."""
        problems = self.session.problem_set.problems
        traces = sum(len(one.traces) for one in self.listed.values())
        facts = {
            "imported traces": traces,
            "problems without any imported trace": len(problems) - len(self.listed),
            "trace rows joined by a part of their prompt": self._matcher.by_parts,
            **self.counted,
            **{f"traces not imported: {why}": n for why, n in self.left_out.most_common()},
            **self._ending.counted,
        }
        facts["tokens of imported traces, which the ledger counts as sampled"] = self.tokens
        if self._teacher is None:
            facts["imported traces without token counts, as there is no teacher"] = traces
        return {text: count for text, count in facts.items() if count}

    def _take(self, problem: Problem, given: Given, place: str) -> None:
        text, finish = self._ending.of(given)
        opened, text = self._without_opener(text)
        name = content_key("imported", problem.id, opened, text, self._named)
        if given.repeated and self._seen[name]:
            self.left_out["given again by another row"] += 1
            return
        self._list(problem, name, place, given, (opened, text), finish)

    def _list(
        self,
        problem: Problem,
        name: str,
        place: str,
        given: Given,
        written: tuple[str, str],
        finish: Finish | None,
    ) -> None:
        listed = self.listed.setdefault(
            problem.id, Imported(self.session.imports or "", problem.id, [], [], [])
        )
        ids, text = self._ids(written[1]), "".join(written)
        finish = finish or self._ending.derive(text, len(ids))
        key = trace_key(content_key(name, finish), self._seen[name])
        if self._seen[name]:
            self.counted["imported traces that repeat another of their problem word for word"] += 1
        self._seen[name] += 1
        self.finishes[_WORDS[finish]] += 1
        self.tokens += len(ids)
        if key not in self._stored:
            index, asked = len(listed.traces), self._tokens_asked(problem)
            trace = Trace(key, problem.id, Origin.UNAIDED, index, ids, text, finish, asked)
            self._batch.append(Stored(STAGE, key, problem.id, trace))
        listed.traces.append(key)
        listed.places.append(place)
        listed.said.append(given.said)
        if len(self._batch) >= BATCH:
            self.flush()

    def _ids(self, text: str) -> np.ndarray:
        if self._teacher is None:
            return np.zeros(0, np.int32)
        ids = self._teacher.encode(text)
        if self._teacher.decode(ids) != text:
            self.counted["imported traces whose text the tokenizer does not give back"] += 1
        return np.array(ids, np.int32)

    def _without_opener(self, text: str) -> tuple[str, str]:
        """What the teacher's prompt has opened already of a text, and what is left to write."""
        if not self._opened:
            return "", text
        if text.startswith(OPEN):
            space = self._opened.removeprefix(OPEN)
            return self._opened, text.removeprefix(OPEN).removeprefix(space)
        if CLOSE in text:  # its own prompt had opened it as well
            return self._opened, text
        self.counted["imported traces without thinking, which the teacher's prompt opens"] += 1
        return "", text

    def _tokens_asked(self, problem: Problem) -> int:
        if self._teacher is None:
            return 0
        if problem.id not in self._prompt_tokens:
            ids = solve_ids(problem, self.session.config.prompts, self._teacher)
            self._prompt_tokens[problem.id] = len(ids)
        return self._prompt_tokens[problem.id]


_WORDS = {Finish.STOP: "complete", Finish.LENGTH: "truncated"}

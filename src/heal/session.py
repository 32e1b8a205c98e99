"""One open run: its store, its engines, and the one way work is done in it.

`collect` is that way: ask a stage only for what is owed, store each result as it arrives, count
it, and stop with a summary by cause when too much fails. The method itself is in `pipeline`.
"""

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol, TypeVar
from uuid import uuid4

from heal.config import Config, ModelRef
from heal.data.problems import ProblemSet, read_problems
from heal.engines import noted, open_absent, open_engine
from heal.engines.base import Engine, Served
from heal.errors import CapabilityError, HealError, NoServerError, TooManyFailuresError
from heal.records import Check, Problem, Trace
from heal.stages.draw import Claim
from heal.stages.verify import check_key, verify
from heal.store import Store
from heal.verifiers import Verifier, open_verifier

_ENGINES = ("teacher", "scorer")
NOTE_S = 30.0
"""A killed process takes at most so many seconds of its servers' facts with it."""
FEW = 20
"""Below so many items a share of failures says little, and nothing is stopped."""


class Observer(Protocol):
    """Whoever watches a run: a progress bar, a log, a test."""

    def begin(self, stage: str, total: int) -> None:
        """A stage of `total` items starts."""

    def stored(self, count: int) -> None:
        """So many items of this stage were there already."""

    def advance(self, outcome: str, tokens: int) -> None:
        """One item arrived."""

    def end(self, line: str) -> None:
        """The stage is over; `line` says what came of it, in counts that add up."""

    def say(self, text: str) -> None:
        """Something a person should know."""


class Keyed(Protocol):
    """A record that knows its own name and problem."""

    @property
    def key(self) -> str:
        """Content key."""
        ...

    @property
    def problem_id(self) -> str:
        """The problem it belongs to."""
        ...


_TELLING_TEXTS = ("Let x = 12.5 × 3.\n\n  So 1,234 ≥ é 🙂\t", "\\boxed{-7/2}\n\n")
"""Where tokenizers of two families differ: digits, blank lines, signs, bytes."""

Item = TypeVar("Item", bound=Keyed)
Produce = Callable[[Collection[str], Claim], Iterator[Item]]


def _exhaust(items: Iterator[Any]) -> None:
    for _ in items:
        pass


class TokenCapError(HealError):
    """The run reached `limits.teacher_tokens`; everything drawn so far is stored."""


@dataclass
class Session:
    """Everything a pipeline stage works with. Close it when done."""

    config: Config
    store: Store
    observer: Observer
    facts: Counter[str] = field(default_factory=Counter)
    spent_tokens: int = 0
    billed: set[str] = field(default_factory=set)
    """Keys of every item whose tokens are counted: two arms may share one."""
    arrived: Counter[str] = field(default_factory=Counter)
    """Items by table that this process waited for."""
    failed: dict[str, Counter[str]] = field(default_factory=dict)
    """Those of them that failed, by table and cause."""
    checked: set[str] = field(default_factory=set)
    """Keys of every verdict this run has asked for."""
    judged: set[str] = field(default_factory=set)
    """Keys of the verdicts that fell while this process was drawing."""
    process: str = field(default_factory=lambda: uuid4().hex)
    """Tells the facts of this process's engines from those of earlier ones."""
    noted: float = field(default_factory=time.monotonic)

    @cached_property
    def problem_set(self) -> ProblemSet:
        """The problems, read and split once. Raises: UserError."""
        return read_problems(self.config.problems, Path.cwd())

    @cached_property
    def problems(self) -> dict[str, Problem]:
        """By id."""
        return {problem.id: problem for problem in self.problem_set.problems}

    @cached_property
    def teacher(self) -> Engine:
        """Opened when the first stage needs it."""
        return self._open("teacher", self.config.teacher)

    @cached_property
    def scorer(self) -> Engine:
        """Gives the unhinted log-probs; the teacher itself unless the config names another."""
        if self.config.scorer is None:
            return self.teacher
        return self._open("scorer", self.config.scorer)

    def _open(self, role: str, ref: ModelRef) -> Engine:
        """Servers that are away are missed only by a run that owes them something."""
        known = self.store.meta("engines") or {}
        try:
            engine = open_engine(ref, self.config.engine)
        except NoServerError as error:
            absent = open_absent(ref, known.get(role), error)
            self.observer.say(f"{error}; going on with what is stored")
            return absent
        if isinstance(engine, Served):
            self.store.set_meta("engines", known | {role: noted(engine)})
        return engine

    def require_scores(self) -> None:
        """Ask before any token is spent. Raises: CapabilityError where nobody can score."""
        named = self.config.scorer is not None
        if not self.scorer.capabilities.score:
            raise CapabilityError(
                f"the {'scorer' if named else 'teacher'}'s engine cannot give log-probs of a given "
                "text, which locating breaks and PURE need",
                hint="name a `scorer:` with the same vocabulary (a local copy of the teacher will "
                "do), or stop before that with `heal verify`",
            )
        for text in _TELLING_TEXTS if named else ():
            if self.scorer.encode(text) != self.teacher.encode(text):
                raise CapabilityError(
                    f"the scorer's tokenizer reads {text!r} as other ids than the teacher's: it "
                    "would score other texts than the teacher wrote",
                    hint="name a scorer of the teacher's own family, with its tokenizer",
                )

    @cached_property
    def verifier(self) -> Verifier:
        """Opened when the first trace is to be judged."""
        return open_verifier(self.config.problems)

    def fact(self, text: str, count: int) -> None:
        """Count something a reader should know; zero is not worth a word."""
        if count:
            self.facts[text] += count

    def trained(self, step: int, total: int, loss: float) -> None:
        """One optimizer step was made."""
        self.observer.advance("done", 0)

    def close(self) -> None:
        """Free engines and workers that were opened; how servers fared is stored."""
        self.close_engines()
        if "verifier" in self.__dict__:
            self.__dict__.pop("verifier").close()

    def close_engines(self) -> None:
        """Free teacher and scorer, which no stage after `select` asks: students want the room."""
        opened = {name: self.__dict__.pop(name) for name in _ENGINES if name in self.__dict__}
        for one in opened.values():
            one.close()
        self._note_servers(opened)
        self.process = uuid4().hex  # what is opened after this counts from 0 again

    def _note_servers(self, opened: Mapping[str, Any]) -> None:
        """Store how each server has fared in this process, beside what earlier ones noted."""
        # One engine may be teacher and scorer: under two names it would be counted twice.
        distinct = {id(opened[name]): name for name in reversed(_ENGINES) if name in opened}
        rows = [
            (f"{self.process}-{name}-{facts.url}", "", facts)
            for name in distinct.values()
            if isinstance(engine := opened[name], Served)
            for facts in engine.servers()
        ]
        if rows:
            self.store.put_many("server", rows)
            self.store.set_live("server", self.store.keys("server"))
        self.noted = time.monotonic()

    def collect(
        self,
        table: str,
        kind: type[Item],
        keys: Sequence[str],
        produce: Produce[Item],
        follow: Callable[[Iterator[Item]], None] = _exhaust,
    ) -> dict[str, Item]:
        """Do what is owed of `keys`, store it as it arrives, and return all of it, as asked.

        What failed in an earlier process is owed again: its cause may have been mended. `follow`
        gets what arrives once it is stored, and has to take all of it.
        """
        stored = self.store.read(table, kind, keys)
        items = {key: item for key, item in stored.items() if _error(item) is None}
        self._bill(items.values())
        self.observer.stored(len(items))
        if len(items) < len(set(keys)):
            fresh: list[Item] = []
            arriving = produce(frozenset(items), partial(self.store.claim, table))
            follow(self._taken(table, arriving, fresh))
            items |= {item.key: item for item in fresh}
        return {key: items[key] for key in keys if key in items}

    def _taken(self, table: str, arriving: Iterable[Item], fresh: list[Item]) -> Iterator[Item]:
        """Store what arrives, add it to `fresh`, and pass it on."""
        seconds, asked = 0.0, time.monotonic()
        for item in arriving:
            self.store.put(table, item.key, item.problem_id, item)
            fresh.append(item)
            self._count(table, item)
            if time.monotonic() - self.noted > NOTE_S:
                self._note_servers(self.__dict__)
            seconds += time.monotonic() - asked
            yield item
            asked = time.monotonic()  # what is done with it meanwhile is not this table's work
        self._note_work(table, fresh, seconds + time.monotonic() - asked)

    def _note_work(self, table: str, items: Sequence[Any], seconds: float) -> None:
        """Add to what each kind of work took here: the ledger's relative cost of a scored token."""
        work = self.store.meta("work") or {}
        tokens, before = work.get(table, (0, 0.0))
        tokens += sum(_tokens(item) or int(getattr(item, "scored_tokens", 0)) for item in items)
        self.store.set_meta("work", work | {table: (tokens, before + seconds)})

    def _count(self, table: str, item: Any) -> None:
        error = _error(item)
        self.observer.advance("failed" if error else "done", _tokens(item))
        failed = self.failed.setdefault(table, Counter())
        self.arrived[table] += 1
        if error:
            failed[error] += 1
        arrived, share = self.arrived[table], failed.total() / self.arrived[table]
        if arrived >= FEW and share > self.config.limits.failed_share:
            raise TooManyFailuresError(
                f"{failed.total()} of {arrived} items failed: {causes(failed)}",
                hint="mend the cause, then run the same command again; what succeeded is stored",
            )
        self._bill([item])

    def _bill(self, items: Iterable[Any]) -> None:
        fresh = {item.key: _tokens(item) for item in items if item.key not in self.billed}
        self.billed |= fresh.keys()
        self.spent_tokens += sum(fresh.values())
        cap = self.config.limits.teacher_tokens
        if cap is not None and self.spent_tokens >= cap:
            raise TokenCapError(
                f"stopped at limits.teacher_tokens = {cap:,}; everything drawn so far is stored",
                hint="raise the cap and run the same command again to go on",
            )

    def judge(self, traces: Iterable[Trace]) -> None:
        """Have traces verified while later ones are drawn."""
        done, problem_of = self.store.keys("check"), dict[str, str]()

        def owed() -> Iterator[tuple[str, Trace]]:
            for trace in traces:
                problem = self.problems[trace.problem_id]
                key = check_key(trace, problem, self.config.problems)
                if key not in done and trace.error is None:  # failed ones may be drawn again
                    problem_of[key] = problem.id
                    yield key, trace

        for key, found in verify(owed(), self.problems, self.verifier):
            self.store.put("check", key, problem_of[key], found)
            self.judged.add(key)

    def check(self, traces: Iterable[Trace], *, shown: bool = False) -> dict[str, Check]:
        """Verdicts of traces, by trace key; only new ones are verified.

        `shown` where judging is the stage's own work: else a drawn trace would count twice.
        """
        wanted = {
            check_key(t, self.problems[t.problem_id], self.config.problems): t for t in traces
        }
        done = self.store.keys("check")
        fresh = {key: trace for key, trace in wanted.items() if key not in done}
        if shown:
            self.observer.stored(len(wanted.keys() - fresh.keys() - self.judged))
        for key, found in verify(fresh.items(), self.problems, self.verifier) if fresh else ():
            self.store.put("check", key, fresh[key].problem_id, found)
            if shown:
                self.observer.advance(found.verdict, 0)
        self.checked |= wanted.keys()
        self.store.set_live("check", self.checked)
        found_all = self.store.read("check", Check, wanted)
        if shown:
            for key in self.judged & wanted.keys():
                self.observer.advance(found_all[key].verdict, 0)
        return {check.trace: check for check in found_all.values()}


def _error(item: Any) -> str | None:
    """Why an item failed; None for what did not, or cannot."""
    error: str | None = getattr(item, "error", None)
    return error


def _tokens(item: Any) -> int:
    """Teacher tokens sampled for an item; 0 for what samples nothing, or not the teacher."""
    return int(getattr(item, "new_tokens", 0))


def causes(failed: Mapping[str, int], most: int = 3) -> str:
    """`12 × connection refused; 3 × timeout`"""
    common = Counter(failed).most_common()
    shown = "; ".join(f"{count} × {reason}" for reason, count in common[:most])
    return shown + (f"; {len(common) - most} more causes" if len(common) > most else "")

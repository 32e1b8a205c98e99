"""What one process holds open while a run goes on: config, store, engines, verifier, counted facts.

Engines and the verifier are opened when they are first asked for, so that a run that owes nothing
opens no model. The loop that keeps them busy is `heal.runner`; the method is in `heal.pipeline`.
"""

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

from heal.config import Config, ModelRef
from heal.data.problems import ProblemSet, read_problems
from heal.data.trace_files import fingerprint
from heal.data.traces import TraceFile
from heal.engines import model_files, noted, open_absent, open_engine
from heal.engines.base import Engine, Served
from heal.errors import CapabilityError, NoServerError
from heal.keys import content_key
from heal.method.arms import wants_scores
from heal.records import Problem
from heal.store import Store
from heal.verifiers import Verifier, edition, open_verifier

IMPORT_RULES = 1
"""Raised when imported traces would be read otherwise than before: they are then read again."""
_ENGINES = ("teacher", "scorer")
SERVERS = "servers"
"""Where servers that were started for a run log to."""
NOTE_S = 30.0
"""A killed process takes at most so many seconds of its servers' facts with it."""


class Observer(Protocol):
    """Whoever watches a run: a progress bar, a log, a test."""

    def begin(self, stage: str, total: int, unit: str = "items") -> None:
        """A part of the work that has `total` units starts."""

    def stored(self, count: int) -> None:
        """So many units of it were there already."""

    def advance(self, count: int = 1) -> None:
        """So many units of it are finished."""

    def arrived(self, outcome: str, tokens: int) -> None:
        """One answer came, of the many a unit may take."""

    def waiting(self, count: int) -> None:
        """So many answers are under way, and none came just now."""

    def end(self, stage: str, line: str) -> None:
        """A stage is over; `line` says what came of it, in counts that add up."""

    def say(self, text: str) -> None:
        """Something a person should know."""


_TELLING_TEXTS = ("Let x = 12.5 × 3.\n\n  So 1,234 ≥ é 🙂\t", "\\boxed{-7/2}\n\n")
"""Where tokenizers of two families differ: digits, blank lines, signs, bytes."""


@dataclass
class Session:
    """Everything a process has open. Close it when done."""

    config: Config
    store: Store
    observer: Observer
    facts: Counter[str] = field(default_factory=Counter)
    process: str = field(default_factory=lambda: uuid4().hex)
    """Tells the facts of this process's engines from those of earlier ones."""
    noted: float = field(default_factory=time.monotonic)
    probed: frozenset[str] = frozenset()
    """Problems on which kinds of hints are tried, for `gear.hint: auto`."""

    def __post_init__(self) -> None:
        """Settle what the recipe leaves to the problems. Raises: UserError."""
        problems = self.config.problems
        if problems.verifier == "auto":
            named = problems.model_copy(update={"verifier": self.problem_set.verifier})
            self.config = self.config.model_copy(update={"problems": named})

    @cached_property
    def problem_set(self) -> ProblemSet:
        """The problems, read and split once. Raises: UserError."""
        return read_problems(self.config.problems, Path.cwd())

    @cached_property
    def problems(self) -> dict[str, Problem]:
        """By id."""
        return {problem.id: problem for problem in self.problem_set.problems}

    @cached_property
    def trace_files(self) -> TraceFile | None:
        """The traces to be imported. Raises: UserError."""
        traces = self.config.problems.traces
        return None if traces is None else TraceFile(traces, Path.cwd())

    @cached_property
    def imports(self) -> str | None:
        """Names what is imported, by content; opens no model."""
        if self.trace_files is None:
            return None
        teacher, c = self.config.teacher, self.config
        tokenizer = None if teacher is None else model_files(teacher.model)
        content, settings = fingerprint(self.trace_files.files), self.trace_files.settings
        settings = settings.model_copy(update={"path": "", "top_up": False})
        asked = (c.prompts.solve, c.prompts.system, self.judge)
        ids = [problem.id for problem in self.problem_set.problems]
        return content_key("import", IMPORT_RULES, content, settings, tokenizer, asked, ids)

    @cached_property
    def teacher(self) -> Engine:
        """Opened when the first stage needs it."""
        assert self.config.teacher is not None, "without a teacher no stage asks for one"
        return self._open("teacher", self.config.teacher)

    @cached_property
    def scorer(self) -> Engine:
        """Gives the unhinted log-probs; the teacher itself unless the config names another."""
        if self.config.scorer is None:
            return self.teacher
        return self._open("scorer", self.config.scorer)

    @cached_property
    def judge(self) -> str:
        """Names the verifier as it is now."""
        return edition(self.config.problems.verifier)

    @cached_property
    def verifier(self) -> Verifier:
        """Opened when the first trace is to be judged."""
        return open_verifier(self.config.problems)

    def require_scores(self) -> None:
        """Ask before any token is spent. Raises: CapabilityError where nobody can score."""
        named, locates = self.config.scorer is not None, wants_scores(self.config)
        if not self.scorer.capabilities.score:
            raise CapabilityError(
                f"the {'scorer' if named else 'teacher'}'s engine cannot give log-probs of a given "
                f"text, which {'locating breaks and PURE need' if locates else 'PURE needs'}",
                hint="name a `scorer:` with the same vocabulary (a local copy of the teacher will "
                f"do), or stop before that with `heal {'verify' if locates else 'repair'}`",
            )
        for text in _TELLING_TEXTS if named else ():
            if self.scorer.encode(text) != self.teacher.encode(text):
                raise CapabilityError(
                    f"the scorer's tokenizer reads {text!r} as other ids than the teacher's: it "
                    "would score other texts than the teacher wrote",
                    hint="name a scorer of the teacher's own family, with its tokenizer",
                )

    def fact(self, text: str, count: int) -> None:
        """Count something a reader should know; zero is not worth a word."""
        if count:
            self.facts[text] += count

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

    def note_servers(self) -> None:
        """Store now and then how each server has fared in this process."""
        if time.monotonic() - self.noted > NOTE_S:
            self._note_servers(self.__dict__)

    def _open(self, role: str, ref: ModelRef) -> Engine:
        """Servers that are away are missed only by a run that owes them something."""
        known = self.store.meta("engines") or {}
        if ref.serve is not None:
            self.observer.say(
                f"starting the {role}'s server: {self.store.folder / SERVERS}/{role}-0.log"
            )
        try:
            engine = open_engine(ref, self.config.engine, role, self.store.folder / SERVERS)
        except NoServerError as error:
            absent = open_absent(ref, known.get(role), error)
            self.observer.say(f"{error}; going on with what is stored")
            return absent
        if isinstance(engine, Served):
            self.store.set_meta("engines", known | {role: noted(engine)})
        return engine

    def _note_servers(self, opened: Mapping[str, Any]) -> None:
        # One engine may be teacher and scorer: under two names it would be counted twice.
        distinct = {id(opened[name]): name for name in reversed(_ENGINES) if name in opened}
        rows = [
            (f"{self.process}-{name}-{facts.url}", "", facts)
            for name in distinct.values()
            if isinstance(engine := opened[name], Served)
            for facts in engine.servers()
        ]
        if rows:
            self.store.add_live("server", rows)
        self.noted = time.monotonic()

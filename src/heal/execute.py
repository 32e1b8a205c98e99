"""Execute a config in its run folder: continue, say what a changed setting reaches, report.

In: a config and somebody to watch. Out: the run's view. Running again with nothing changed opens
no model at all.
"""

import importlib.metadata
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from heal import __version__
from heal.config import Config
from heal.engines import model_files
from heal.errors import HealError, UserError
from heal.figures import as_json
from heal.functions import functions_allowed
from heal.importing import bring_in, compare_verdicts
from heal.keys import content_key
from heal.method.arms import (
    breakpoints,
    wants_reliance,
    wants_scores,
    wants_uncertainty,
    wants_worst_result,
)
from heal.pipeline import OF_ALL, OF_EACH_PROBLEM, WITHOUT_A_TEACHER
from heal.probing import settle_hint
from heal.reach import BY_EFFECT, IDENTITY, ONLY_MORE_OR_FEWER, first_stage, flatten, what_changed
from heal.records import TrainResult
from heal.report import choice_words
from heal.report.lines import stage_lines
from heal.report.load import load_view
from heal.report.student_card import student_card
from heal.report.told import told
from heal.report.view import RunView
from heal.run import Noting, Run, ask_each, count_early, count_unrepaired, to_judge_again
from heal.session import SERVERS, Observer, Session
from heal.stages import calibrate, match_budget
from heal.steps import checker_edition
from heal.store import DATABASE, AttemptRow, ScoreRow, SelectedRow, Store, TraceRow
from heal.store.marks import bad_marks
from heal.students.sets import REHEARSED
from heal.verifiers import edition
from heal.wording import plural

PACKAGES = (
    *("torch", "transformers", "trl", "datasets", "tokenizers", "numpy", "math-verify"),
    *("datasketch", "reasoning-gym", "peft", "gguf"),
)

_HOW: dict[str, Any] = {
    "run": True,
    "limits": True,
    "engine": True,
    "teacher": {"serve"},
    "scorer": {"serve"},
}
"""Says how work is done: a run that is complete stays so, whatever stands here."""

Consent = Callable[[str], bool]
"""Given what may be redone at most, whether to."""

_DRAWN = (
    ("sample", "sample"),
    ("repair", "hinted"),
    ("repair", "repair"),
    ("match", "matched"),
)
"""Stages that draw traces, and what the columns call those."""


def execute(
    config: Config,
    observer: Observer,
    *,
    until: str | None = None,
    adopt: bool = False,
    consent: Consent = lambda at_stake: True,
) -> RunView:
    """Run the stages up to and including `until` (None: all) and write the report.

    consent: asked before a changed setting redoes what was paid for, with what that is at most.
    Raises: UserError where it is refused; nothing has changed then.
    """
    with _folder_of(Path(config.run)) as store:
        session = Session(config, store, Noting(observer, store))
        # Before the folder is claimed: a mistyped path must not decide whose folder it is.
        stamp, config = _stamp(session), session.config
        _claim_folder(store, config, observer, adopt, consent)
        if store.meta("complete") == stamp and not to_judge_again(store, config):
            observer.say(f"{config.run}: complete, nothing to do (heal show {config.run})")
            return load_view(store)
        store.set_meta("complete", None)
        _forget_results(store)
        try:
            _run_stages(session, until)
            store.set_meta("stopped", f"it was only asked to go up to '{until}'" if until else None)
            store.set_meta("complete", None if until else stamp)
        except HealError as error:
            store.set_meta("stopped", str(error))
            raise
        finally:
            session.close()
        return write_report(store)


@contextmanager
def _folder_of(folder: Path) -> Iterator[Store]:
    """A run's folder. One made for a run that fails before its first answer is removed again."""
    made, empty = not folder.exists(), False
    try:
        with Store.open(folder) as store:
            try:
                yield store
            except HealError as error:
                empty = error.exit_code == UserError.exit_code and not store.totals().received
                raise
    finally:
        # Logs of a server that did not start are what its error points to.
        if made and empty and not (folder / SERVERS).exists():
            shutil.rmtree(folder, ignore_errors=True)


def write_report(store: Store) -> RunView:
    """Render report.html and report.json from the store alone."""
    from heal.report.html import render_html

    view = load_view(store)
    store.write_text("report.html", render_html(view))
    store.write_text("report.json", as_json(told(view)))
    _write_student_cards(store, view)
    return view


def _write_student_cards(store: Store, view: RunView) -> None:
    """README.md beside the weights of each trained student."""
    config = store.meta("config") or {}
    by_student: dict[tuple[str, int], list[TrainResult]] = {}
    for result in view.training:
        by_student.setdefault((result.arm, result.seed), []).append(result)
    for stages in by_student.values():
        own = sorted(stages, key=lambda result: result.stage)
        folder = own[-1].folder
        if (store.folder / folder / "config.json").is_file():
            store.write_text(f"{folder}/README.md", student_card(view, config, own))


def overview(store: Store) -> Iterator[str]:
    """What a run folder holds, line by line, for `heal show`."""
    yield f"{'stage':<12} {'stored':>11}"
    for stage, count in store.counts().items():
        yield f"{stage:<12} {count:>11,}"
    totals, claimed = store.totals(), store.claimed()
    kept = totals.received - totals.replaced
    yield f"answers received {totals.received:,}: {kept:,} kept, {totals.replaced:,} thrown away"
    yield f"teacher tokens drawn and stored: {totals.spent:,}"
    yield f"in flight when a process ended, so paid for again at most: {totals.lost:,}"
    if claimed:
        yield f"in flight now, or when the last process ended: {claimed:,}"
    if allowed := store.meta("allowed_code"):
        yield f"ran by --allow-code: {', '.join(allowed)}"
    yield state(store)


def state(store: Store) -> str:
    """Whether a run is complete, and if not, why not or how far it is."""
    if store.meta("complete"):
        return "complete"
    if not store.is_busy():
        return f"not complete: {store.meta('stopped') or 'interrupted'}"
    told = store.meta("progress") or {}
    far = f": {told['stage']}, {told['done']:,} of {told['owed']:,}" if told else ""
    return f"still running{far}"


def _forget_results(store: Store) -> None:
    """Drop from the columns what only stages that see all problems say.

    It was said under earlier settings, or of fewer problems. Bodies stay: saying it again costs no
    model anything.
    """
    for kind in (SelectedRow, AttemptRow):
        store.forget(kind)
    store.forget(TraceRow, stage=match_budget.STAGE)
    store.forget(ScoreRow, tag=calibrate.TAG)
    store.set_meta(choice_words.META, None)
    for stage in ("plan", "train", REHEARSED):
        store.set_live(stage, ())


def ask_all(session: Session, until: str | None = None) -> Run:
    """Ask each problem through its stages, up to and including `until`."""
    run, names = Run(session), [stage.name for stage in OF_EACH_PROBLEM]
    session.store.set_problems(session.problem_set.problems)
    with _timed(session, "import"):
        bring_in(session)
    possible = OF_EACH_PROBLEM if session.config.teacher is not None else WITHOUT_A_TEACHER
    wanted = possible[: names.index(until) + 1] if until in names else possible
    before = names.index("probe")
    if session.config.gear.hint == "auto" and len(wanted) > before:
        with _timed(session, "probe"):
            settle_hint(run, wanted[:before], _settings(session))
    with _timed(session, "problems"):
        asked, done = ask_each(run, wanted, _settings(session), whole=wanted == possible)
    line = f"{asked:,} asked" + (f", {done:,} finished before" if done else "")
    session.observer.end("problems", line)
    early = count_early(session)
    for name, line in stage_lines(session.store, session.config, early):
        if name in {stage.name for stage in wanted}:
            session.observer.end(name, line)
    compare_verdicts(session)
    count_unrepaired(session)
    return run


def _scores(config: Config, until: str | None) -> bool:
    """Whether any stage up to there scores."""
    names = [stage.name for stage in OF_EACH_PROBLEM]
    first = "locate" if wants_scores(config) else "score"
    return until not in names[: names.index(first)]


def _run_stages(session: Session, until: str | None) -> None:
    session.store.set_meta("stopped", "it was interrupted")
    _problem_facts(session)
    session.store.set_meta("facts", dict(session.facts))
    if session.config.teacher is not None and _scores(session.config, until):
        session.require_scores()
    run = ask_all(session, until)
    single = until in {stage.name for stage in OF_EACH_PROBLEM}
    for name, work in () if single else OF_ALL:
        session.observer.begin(name, 0)
        with _timed(session, name):
            line = work(run)
        session.observer.end(name, line)
        session.store.set_meta("facts", dict(session.facts))
        if name == until:
            return
    session.store.set_meta("facts", dict(session.facts))


@contextmanager
def _timed(session: Session, name: str) -> Iterator[None]:
    started = time.monotonic()
    yield
    timings = dict(session.store.meta("timings") or {})
    # What found everything done keeps the time it really took.
    timings[name] = max(timings.get(name, 0.0), time.monotonic() - started)
    session.store.set_meta("timings", timings)


def _problem_facts(session: Session) -> None:
    found = session.problem_set
    for text, count in found.facts.items():
        session.fact(text, count)
    doubts = session.verifier.preflight(found.problems)
    session.fact("gold answers that do not verify against themselves", doubts.doubtful)
    for line in doubts.named:
        session.observer.say(f"doubtful gold answer: {line}")


def _settings(session: Session) -> str:
    """Names everything that what a single problem owes depends on."""
    config, stages = session.config, {stage.name for stage in OF_EACH_PROBLEM}
    flat = flatten(config.model_dump(mode="json"))
    own = {k: v for k, v in flat.items() if k not in BY_EFFECT and first_stage(k) in stages}
    own["breakpoints"] = [str(kind) for kind in breakpoints(config)]
    asked = (wants_uncertainty, wants_reliance, wants_worst_result)
    own["imported"] = session.imports
    own |= {"probed": sorted(session.probed)} if session.probed else {}
    own["measured"] = [wants(config) for wants in asked]
    refs = (config.teacher, config.scorer)
    files = [model_files(ref.model) for ref in refs if ref is not None]
    judge, numerics = edition(config.problems.verifier), config.engine.local.numerics
    checker = checker_edition(config.steps.checker)
    return content_key(own, judge, checker, numerics, files, versions())


def foreseen(config: Config) -> Iterator[str]:
    """What a run would do in its folder, line by line, for `--dry-run`. Changes nothing."""
    if not (Path(config.run) / DATABASE).exists():
        yield f"{config.run}: nothing is there yet; heal check says what a run costs"
        return
    with Store.open(Path(config.run), write=False) as store:
        before, resolved = store.meta("config"), config.model_dump(mode="json")
        yield state(store)
        changed = list(what_changed(before, resolved)) if before else []
        yield from changed or ["no setting has changed: stored work is kept"]
        if at_stake := _at_stake(store, before or {}, resolved):
            yield at_stake


def _claim_folder(
    store: Store, config: Config, observer: Observer, adopt: bool, consent: Consent
) -> None:
    resolved = config.model_dump(mode="json")
    before = store.meta("config")
    if before is not None:
        _refuse_another_run(config.run, before, resolved, adopt)
        for line in what_changed(before, resolved):
            observer.say(line)
        at_stake = _at_stake(store, before, resolved)
        if at_stake:
            observer.say(at_stake)
        if at_stake and not consent(at_stake):
            hint = "nothing was changed; --set run=DIR does it in another folder"
            raise UserError(f"{config.run}: not continued under other settings", hint=hint)
    store.set_meta("config", resolved)
    if allowed := functions_allowed():
        observer.say(f"runs by --allow-code: {', '.join(allowed)}")
    store.set_meta("allowed_code", allowed)
    store.set_meta("versions", versions())
    store.set_meta("date", datetime.now(UTC).isoformat(timespec="seconds"))
    store.write_text("config.yaml", yaml.safe_dump(resolved, sort_keys=False, allow_unicode=True))
    count_lost(store, observer)


def count_lost(store: Store, observer: Observer) -> None:
    """Note what was in flight when an earlier process ended: it may be paid for twice."""
    lost = store.release_claims()
    if lost:
        observer.say(
            f"an earlier process ended with {plural(lost, 'request')} in flight; they are redone"
        )


def _refuse_another_run(
    folder: str, before: Mapping[str, Any], now: Mapping[str, Any], adopt: bool
) -> None:
    old, new = flatten(before), flatten(now)
    differing = [key for key in IDENTITY if old.get(key) != new.get(key)]
    if differing and not adopt:
        key = differing[0]
        raise UserError(
            f"{folder}: belongs to another config ({key} was {old.get(key)}, is {new.get(key)})",
            hint="choose another folder with --set run=DIR, or go on in this one with --adopt",
        )


def _at_stake(store: Store, before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What changed settings may redo of what was paid for, at most; '' for nothing."""
    old, new = flatten(before), flatten(now)
    changed = {k for k in old.keys() | new.keys() if old.get(k) != new.get(k)}
    reached = [first_stage(key) for key in changed - ONLY_MORE_OR_FEWER]
    stages = [name for name, *_ in (*OF_EACH_PROBLEM, *OF_ALL)]
    places = [stages.index(stage) for stage in reached if stage in stages]
    if not places:
        return ""
    redone = frozenset(stages[min(places) :])
    kinds = [kind for first, kind in _DRAWN if first in redone]
    marks = ", ".join("?" * len(kinds))
    query = f"SELECT COUNT(*), COALESCE(SUM(new_tokens), 0) FROM traces WHERE stage IN ({marks})"
    ((traces, tokens),) = store.query(query, kinds)
    counts = store.counts()
    parts = [
        f"{plural(traces, 'trace')} of {plural(tokens, 'token')}" if traces else "",
        f"{plural(n, 'scored trace')}"
        if (n := counts.get("pure", 0)) and "score" in redone
        else "",
        f"{plural(n, 'training stage')}" if (n := counts.get("train", 0)) else "",
    ]
    told_parts = " and ".join(part for part in parts if part)
    return told_parts and f"to redo at most: {told_parts}; what fits the new settings is kept"


def versions() -> dict[str, str]:
    """What ran: HEAL, Python, and the packages that decide results."""
    found = {"heal": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _stamp(session: Session) -> str:
    """Fingerprint of everything a complete run depends on, without opening a model."""
    config = session.config
    problems = session.problem_set.problems
    refs = (config.teacher, config.scorer, config.student)
    files = [model_files(ref.model) for ref in refs if ref is not None]
    settings = config.model_dump(mode="json", exclude=_HOW)
    judge, numerics = edition(config.problems.verifier), config.engine.local.numerics
    checker = checker_edition(config.steps.checker)
    marks = sorted(bad_marks(session.store.folder)) if config.pace.respect_marks else []
    imports = session.imports
    return content_key(
        settings, judge, checker, numerics, problems, files, imports, versions(), marks
    )

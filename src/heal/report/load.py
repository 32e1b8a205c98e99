"""From the store to a `RunView`: everything a report shows, without opening a model.

In: a run folder, finished, stopped or still going. Out: counts, and the few texts that are shown.
What is counted is counted by the store; memory does not grow with the number of traces. All of it
is of one moment, whatever another process writes meanwhile.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from heal.config import Config, Gear, Pure
from heal.method.arms import TRAINED
from heal.method.intervals import Interval
from heal.method.lines import AtLine
from heal.method.pure import LINED
from heal.method.retention import Retained, after_stages, after_training
from heal.method.summary import EvalSummary, summarise
from heal.records import ServerFacts, StageExam, StagePlan, TrainResult
from heal.report.choice_words import read_trace_choice
from heal.report.counts import Counts
from heal.report.gallery import Gallery
from heal.report.hint_words import read_choice
from heal.report.ledger import arm_ledger, stage_ledger
from heal.report.truth import judge_repairs, witness
from heal.report.view import Fact, Filtering, PlanRow, Progress, RunView, is_heal
from heal.store import AttemptRow, Store
from heal.students.sets import pool_of

GALLERY = 3
"""Broken traces that are shown."""


def load_view(store: Store, gallery: int = GALLERY) -> RunView:
    """Read a run folder."""
    with store.moment():
        return _load(store, gallery)


def _load(store: Store, gallery: int) -> RunView:
    config: dict[str, Any] = store.meta("config") or {}
    main_arm = Config.model_construct(**config).main_arm
    own = str(config.get("gear", {}).get("breakpoint") or Gear().breakpoint)
    kind = _breakpoint(main_arm) or own
    pure = Pure.model_validate(config.get("pure", {}))
    lined = pure.selection in LINED
    counts = Counts(store, main_arm, kind)
    traces = counts.traces()
    stages = stage_ledger(store, traces, kind, lined=lined)
    # only HEAL's own cuts are stored with their entropies
    taken = is_heal(main_arm) and kind == own
    who = witness(config)
    shown, unreadable = Gallery(store, main_arm, own, taken, who).show(gallery)
    running = _running(store)
    evaluation, retention = _evaluation(store, config)
    facts = {**(store.meta("facts") or {}), "broken trace passed over, unreadable": unreadable}
    return RunView(
        name=str(config.get("run", store.folder.name)),
        date=store.meta("date") or "",
        seed=int(config.get("seed", 0)),
        teacher=(config.get("teacher") or {}).get("model", ""),
        imported=is_imported(config),
        student=(config.get("student") or {}).get("model"),
        main_arm=main_arm,
        config_yaml=yaml.safe_dump(config, sort_keys=False, allow_unicode=True),
        versions=store.meta("versions") or {},
        running=running,
        stopped=None if running else store.meta("stopped"),
        problems=counts.problems(),
        strata=counts.strata(),
        extreme=counts.extreme(),
        traces=traces,
        reach=counts.reach(),
        cuts=counts.cuts(),
        hints=counts.hints(),
        hint_choice=read_choice(store),
        yields=counts.yields(),
        profiles=counts.profiles(),
        pure_settings=pure,
        filtering=_filtering(store, main_arm),
        judged=judge_repairs(store, main_arm, kind, who) if who and is_heal(main_arm) else None,
        pools=counts.pools(),
        extreme_rows=counts.extreme_rows(),
        gallery=shown,
        plan=tuple(_plan_rows(store, config)),
        training=tuple(found for _, found in store.live("train", TrainResult)),
        choice=read_trace_choice(store),
        evaluation=evaluation,
        retention=retention,
        stage_ledger=stages,
        arm_ledger=tuple(arm_ledger(store, main_arm, config.get("arms", ()), stages)),
        facts=tuple(Fact(text, count) for text, count in facts.items()),
        servers=_servers(store),
        timings=store.meta("timings") or {},
    )


def is_imported(config: Mapping[str, Any]) -> bool:
    """Whether a run's unaided traces were all sampled elsewhere."""
    traces = (config.get("problems") or {}).get("traces")
    return traces is not None and not traces.get("top_up")


def _breakpoint(arm: str | None) -> str | None:
    """Which the repairs of an arm follow; None: the run's own."""
    return TRAINED[arm].breakpoint if arm is not None and arm in TRAINED else None


def _filtering(store: Store, arm: str | None) -> Filtering | None:
    told = (store.meta("pure") or {}).get(arm)
    if not told:
        return None
    own = told.get("at_line")
    sides = ("clean_lost", "fudged_passed")
    read = own and AtLine(**{**own, **{k: Interval(**own[k]) for k in sides if own[k]}})
    cut_at_line = tuple(told["cut_at_line"])
    return Filtering(**{**told, "cut_at_line": cut_at_line, "at_line": read})


def _running(store: Store) -> Progress | None:
    """How far the run is, if another process is working on it.

    A process that was killed leaves its last note behind, but no lock.
    """
    if store.meta("complete") or not store.is_busy():
        return None
    noted = store.meta("progress")
    if not noted:
        return Progress()
    return Progress(noted["stage"], int(noted["done"]), int(noted["owed"]), noted.get("at", ""))


def _servers(store: Store) -> tuple[ServerFacts, ...]:
    """One row per address: each process, and each use of a server, has noted its own."""
    by_url: dict[str, list[ServerFacts]] = {}
    for _, facts in store.live("server", ServerFacts):
        by_url.setdefault(facts.url, []).append(facts)
    return tuple(_sum_up(url, by_url[url]) for url in sorted(by_url))


def _sum_up(url: str, found: Sequence[ServerFacts]) -> ServerFacts:
    failures = Counter[str]()
    for facts in found:
        failures.update(facts.failures)
    return ServerFacts(
        url,
        sum(f.asked for f in found),
        sum(f.answered for f in found),
        dict(failures.most_common()),
        sum(f.given_up for f in found),
        sum(f.pauses for f in found),
        sum(f.paused_s for f in found),
    )


def _evaluation(
    store: Store, config: Mapping[str, Any]
) -> tuple[EvalSummary | None, tuple[Retained, ...]]:
    """How the students fared, and what they kept of what they knew."""
    strata: dict[str, str] = {}
    families: dict[str, str] = {}
    known = "SELECT problem, stratum, n, family FROM problems WHERE split = 'held_out'"
    for problem, stratum, n, family in store.query(known):
        if n:
            strata[problem] = stratum
        if family is not None:
            families[problem] = family
    resamples = int(config.get("evaluate", {}).get("bootstrap", 10_000))
    seed = int(config.get("seed", 0))
    found = summarise(
        store.rows(AttemptRow),
        strata,
        families,
        resamples=resamples,
        seed=seed,
        arms=config.get("arms", ()),
    )
    base = dict(
        store.query(
            "SELECT problem, AVG(verdict = 'correct') FROM attempts"
            " WHERE arm = 'base' AND error IS NULL GROUP BY problem"
        )
    )
    exams = [exam for _, exam in store.live("watched", StageExam)]
    kept = after_stages(exams, base, strata, families, resamples=resamples, seed=seed)
    return found, (*kept, *(after_training(found) if found else ()))


def _plan_rows(store: Store, config: Mapping[str, Any]) -> Iterator[PlanRow]:
    """Of the first training seed; those of the others differ in what is shown more often."""
    first = f"-seed{next(iter(config.get('seeds', ())), 0)}"
    planned: dict[str, list[StagePlan]] = {}
    for key, plan in store.live("plan", StagePlan):
        name = key.rsplit("-", 1)[0]
        if name.endswith(first):
            planned.setdefault(name.removesuffix(first), []).append(plan)
    for arm, plans in planned.items():
        pools = pool_of(store, arm)
        for plan in plans:
            shown = [trace for batch in plan.batches for trace in batch]
            if not pools.keys() >= set(shown):
                continue  # of sets chosen before: the stage has not run since
            yield PlanRow(
                arm=arm,
                stage=plan.index,
                steps=len(plan.batches),
                presentations=len(shown),
                distinct=len(set(shown)),
                shares=dict(Counter(pools[trace] for trace in shown)),
            )

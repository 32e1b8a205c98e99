"""Audit a run: do the method's parts do what they say? So far: PURE, by answer swap.

In: the config of a run folder that has verified traces. Out: counts, and how far each detector's
scores stand apart. What is drawn and scored lies in the same folder under stages of its own
(`audit…`), so an audit can be resumed, a second one costs nothing, and what `select` and `train`
see stays as it is.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from heal.config import Config, Problems
from heal.errors import UserError
from heal.execute import IDENTITY, count_lost, first_stage, flatten
from heal.lab import answer_swap as auditing
from heal.lab import sampled_answers as answering
from heal.method.audit import PureAudit, SampledU, Separation, rank_correlation, separation
from heal.method.pure import commitment, drop_scores
from heal.records import (
    AuditItem,
    AuditSide,
    Ceiling,
    Check,
    Cut,
    HintedScore,
    Problem,
    PureScore,
    SampledUncertainty,
    Selection,
    Trace,
)
from heal.report.lines import finishes, tally
from heal.run import Run, teacher_sampling
from heal.session import Observer, Session
from heal.stages import score as scoring
from heal.stages.draw import draw_keys, draw_traces
from heal.stages.repair import gate
from heal.stages.verify import check_key, verify
from heal.store import Store
from heal.verifiers import open_verifier

RESAMPLES = 2_000
CORRELATION_RESAMPLES = 500
DETECTORS = (
    Selection.FRACTION,
    Selection.SURPRISAL,
    Selection.MEAN_NLL,
    Selection.MAX_PPL,
    Selection.LENGTH,
    Selection.RANDOM,
)
"""PURE's scores and the trivial ones; `calibrated` and `reliance` join them where a run is set to
measure what they need."""
SHARED = frozenset({"sample", "verify", "locate", "guide", "repair", "score"})
"""Stages whose settings should be those of the run that is read."""


def audit_pure(config: Config, n: int, observer: Observer, *, sampled_u: bool = False) -> PureAudit:
    """Audit PURE on up to n problems of a run. Raises: UserError where there is none to audit.

    sampled_u: also sample short answers after every step of the traces that are scored.
    """
    folder = Path(config.run)
    with Store.open(folder, write=False):
        pass  # opened to write, a mistyped name would become an empty run
    with Store.open(folder) as store:
        _same_run(store, config, observer)
        count_lost(store, observer)
        session = Session(config, store, observer)
        try:
            return _audit(Run(session), n, sampled_u)
        finally:
            session.close()


def _audit(run: Run, n: int, sampled_u: bool) -> PureAudit:
    s = run.session
    material = _material(s.store)
    plan = auditing.plan(material, n, s.config.seed)
    asked = list(auditing.ask(plan.cases, run.prompts, s.teacher))
    traces, taken_over = _continue(run, asked)
    found = [
        each
        for side in AuditSide
        for each in _judge(run, [a for a in asked if a.side is side], traces)
    ]
    honest = auditing.honest(material, s.config.pure) if run.wants_calibration() else []
    profiles, scored_tokens = _score(
        run, [*(auditing.candidate(f) for f in found if f.scorable), *honest]
    )
    run.calibrate([profiles[c.trace.key] for c in honest if c.trace.key in profiles])
    items = [auditing.item(f, scored=f.trace.key in profiles) for f in found]
    run.record("audit", ((item.key, item.problem_id, item) for item in items))
    uncommitted = {k for k, p in profiles.items() if commitment(p, s.config.pure) is None}
    swaps = sum(item.side is AuditSide.SWAPPED for item in items)
    facts = {
        "continuations the run had drawn already": len(taken_over),
        "swapped answers compared as text, for no gym task can judge them": swaps * _by_text(run),
    }
    return PureAudit(
        run=str(s.store.folder),
        problems=len(plan.cases),
        inside=plan.inside,
        outcomes=_by_side((item.side, item.outcome) for item in items),
        gates=_by_side((item.side, item.gate) for item in items if item.gate is not None),
        never_committed=dict(Counter(str(i.side) for i in items if i.key in uncommitted)),
        detectors=_detectors(run, profiles, items),
        facts={**plan.facts, **{fact: count for fact, count in facts.items() if count}},
        sampled_tokens=sum(t.new_tokens for key, t in traces.items() if key not in taken_over),
        scored_tokens=scored_tokens,
        sampled_u=_sampled_u(run, found, profiles, items) if sampled_u else None,
    )


def _same_run(store: Store, config: Config, observer: Observer) -> None:
    """Refuse another run's config, and say which settings differ from the run's."""
    before = flatten(store.meta("config") or {})
    now = flatten(config.model_dump(mode="json"))
    if not store.live_count("check"):
        raise UserError(
            f"{config.run}: nothing is verified yet, so there is nothing to audit",
            hint="heal repair -c FILE goes far enough",
        )
    for key in IDENTITY:
        if before.get(key) != now.get(key):
            raise UserError(
                f"{config.run}: belongs to another config"
                f" ({key} was {before.get(key)}, is {now.get(key)})",
                hint="audit it with the recipe that made it, or name another with --set run=DIR",
            )
    shared = [k for k in now if before.get(k) != now[k] and first_stage(k) in SHARED]
    if shared:
        observer.say(f"settings that differ from the run's: {', '.join(shared)}")


def _material(store: Store) -> auditing.Material:
    checks = {check.trace: check for check in store.live("check", Check).values()}
    assisted = [*store.live("hinted", Trace).values(), *store.live("repair", Trace).values()]
    unaided = store.live("sample", Trace)
    return auditing.Material(
        problems=store.live("problem", Problem),
        unaided={key: trace for key, trace in unaided.items() if key in checks},
        unjudged=len(unaided.keys() - checks.keys()),
        checks=checks,
        ceilings=store.live("ceiling", Ceiling),
        cuts=list(store.live("cut", Cut).values()),
        hinted={trace.problem_id for trace in assisted},
    )


def _continue(run: Run, asked: Sequence[auditing.Asked]) -> tuple[dict[str, Trace], frozenset[str]]:
    """Every continuation by key, and the keys of those the run had drawn for itself."""
    s, sampling, seed = run.session, teacher_sampling(run.session), run.session.config.seed
    draws = [draw for each in asked for draw in each.draws]
    keys = draw_keys(draws, s.teacher, sampling, seed)
    own = s.store.read("hinted", Trace, keys) | s.store.read("repair", Trace, keys)
    own = {key: trace for key, trace in own.items() if trace.error is None}
    s.store.put_many("audit_trace", ((t.key, t.problem_id, t) for t in own.values()))
    s.observer.begin("audit", len(keys))
    traces = s.collect(
        "audit_trace",
        Trace,
        keys,
        lambda done, claim: draw_traces(draws, s.teacher, sampling, seed, done, claim),
    )
    run.keep("audit_trace", traces)
    s.observer.end(tally(f"{len(asked) // 2:,} problems", "continuations", finishes(traces)))
    return traces, frozenset(own)


def _judge(
    run: Run, asked: Sequence[auditing.Asked], traces: Mapping[str, Trace]
) -> list[auditing.Continued]:
    """One side's continuations, verified against both answers and past the gates or not."""
    s, gear, settings = run.session, run.session.config.gear, run.session.config.problems
    sampling, seed = teacher_sampling(s), s.config.seed
    asked_of = {
        key: each for each in asked for key in draw_keys(each.draws, s.teacher, sampling, seed)
    }
    own = [traces[key] for key in asked_of if key in traces]
    gold = _check(run, own, {a.case.problem.id: a.case.problem for a in asked}, settings)
    if any(a.side is AuditSide.SWAPPED for a in asked) and _by_text(run):
        settings = settings.model_copy(update={"verifier": "exact"})
    told = _check(run, own, {a.problem.id: a.problem for a in asked}, settings)
    found = []
    for trace in own:
        each, check = asked_of[trace.key], told[trace.key]
        passed = gate(trace, check, each.problem, each.hint, gear, s.teacher).gate
        found.append(auditing.Continued(trace, each, check, gold[trace.key], passed))
    return found


def _by_text(run: Run) -> bool:
    """Whether swapped answers are compared as text: a gym entry only knows its own answer."""
    return run.session.config.problems.verifier == "gym"


def _check(
    run: Run, traces: Sequence[Trace], problems: Mapping[str, Problem], settings: Problems
) -> dict[str, Check]:
    """Verdicts against the answers these problems have, by trace; only new ones are verified."""
    s = run.session
    wanted = {check_key(t, problems[t.problem_id], settings): t for t in traces}
    stored = s.store.read("audit_check", Check, wanted)
    fresh = {key: trace for key, trace in wanted.items() if key not in stored}
    same = settings.verifier == s.config.problems.verifier
    verifier = s.verifier if same else open_verifier(settings)
    for key, found in verify(fresh.items(), problems, verifier) if fresh else ():
        s.store.put("audit_check", key, fresh[key].problem_id, found)
        stored[key] = found
    return {check.trace: check for check in stored.values()}


def _score(run: Run, candidates: Sequence[scoring.Candidate]) -> tuple[dict[str, PureScore], int]:
    """Profiles by trace, and the tokens scored for this audit; the run's own are taken over."""
    s, gear, prompts = run.session, run.session.config.gear, run.prompts
    keys = [scoring.pure_key(c, prompts, gear, s.scorer) for c in candidates]
    own = {k: p for k, p in s.store.read("pure", PureScore, keys).items() if p.error is None}
    s.store.put_many("audit_pure", ((p.key, p.problem_id, p) for p in own.values()))
    owed = dict(zip(keys, candidates, strict=True))
    s.observer.begin("score", len(keys))
    found = s.collect(
        "audit_pure",
        PureScore,
        keys,
        lambda done, claim: scoring.score(owed, prompts, gear, s.scorer, True, done, claim),
    )
    profiles = {p.trace: p for p in found.values() if p.error is None}
    asked = scoring.assisted(candidates, profiles) if run.wants_reliance() else []
    hinted = s.collect(
        "audit_hinted",
        HintedScore,
        [scoring.hinted_key(c, prompts, gear, s.scorer) for c in asked],
        lambda done, claim: scoring.score_hinted(asked, prompts, gear, s.scorer, done, claim),
    )
    tokens = sum(p.scored_tokens for p in profiles.values() if p.key not in own)
    tokens += sum(h.scored_tokens for h in hinted.values())
    known = scoring.with_hinted(profiles, hinted.values())
    run.keep("audit_pure", found)
    run.keep("audit_hinted", hinted)
    how = Counter("failed" if p.error else "scored" for p in found.values())
    s.observer.end(tally("", "traces past the gates", how))
    return profiles | known, tokens


def _detectors(
    run: Run, profiles: Mapping[str, PureScore], items: Sequence[AuditItem]
) -> dict[str, Separation]:
    pure, seed = run.session.config.pure, run.session.config.seed
    kinds = list(DETECTORS)
    lines = run.calibration.lines if run.calibration else {}
    kinds[1:1] = [Selection.CALIBRATED] if Selection.CALIBRATED in lines else []
    kinds += [Selection.RELIANCE] if run.wants_reliance() else []
    found = {}
    for kind in kinds:
        readable = [
            profiles[item.key]
            for item in items
            if item.key in profiles
            and (kind is not Selection.RELIANCE or profiles[item.key].hinted_log_ppl is not None)
        ]
        scores = drop_scores(readable, kind, pure, seed=seed, calibration=run.calibration)
        found[str(kind)] = _separation(scores, items, seed)
    return found


def _separation(scores: Mapping[str, float], items: Sequence[AuditItem], seed: int) -> Separation:
    groups: dict[AuditSide, dict[str, list[float]]] = {side: {} for side in AuditSide}
    for item in items:
        if item.key in scores:
            groups[item.side].setdefault(item.problem_id, []).append(scores[item.key])
    return separation(*groups.values(), resamples=RESAMPLES, seed=seed)


def _sampled_u(
    run: Run,
    found: Sequence[auditing.Continued],
    profiles: Mapping[str, PureScore],
    items: Sequence[AuditItem],
) -> SampledU:
    """U by sampled answers, for every scored continuation: how alike, and how good a detector."""
    s, gear, prompts = run.session, run.session.config.gear, run.prompts
    candidates = [auditing.candidate(f) for f in found if f.trace.key in profiles]
    s.observer.begin("sampled U", len(candidates))
    drawn = s.collect(
        "audit_sampled",
        SampledUncertainty,
        [answering.sampled_key(c, prompts, gear, s.teacher) for c in candidates],
        lambda done, claim: answering.sample_answers(
            candidates, prompts, gear, s.teacher, s.config.seed, done, claim
        ),
    )
    run.keep("audit_sampled", drawn)
    read = {d.trace: d for d in drawn.values() if d.error is None}
    swapped_in = [replace(profiles[t], uncertainty=d.entropy) for t, d in read.items()]
    pairs: dict[str, list[tuple[float, float]]] = {}
    for trace, d in read.items():
        both = np.stack([profiles[trace].uncertainty, d.entropy], axis=1)
        both = both[np.isfinite(both).all(axis=1)]
        pairs.setdefault(d.problem_id, []).extend(map(tuple, both.tolist()))
    scores = drop_scores(swapped_in, Selection.FRACTION, s.config.pure, seed=s.config.seed)
    steps = sum(map(len, pairs.values()))
    s.observer.end(
        tally("", "traces", Counter("failed" if d.error else "asked" for d in drawn.values()))
    )
    return SampledU(
        traces=len(read),
        steps=steps,
        samples=answering.SAMPLES,
        correlation=rank_correlation(pairs, resamples=CORRELATION_RESAMPLES, seed=s.config.seed),
        ratio=_separation(scores, items, s.config.seed),
        failed=len(drawn) - len(read),
        unclosed=sum(d.unclosed for d in read.values()),
        sampled_tokens=sum(d.new_tokens for d in drawn.values()),
    )


def _by_side(pairs: Iterable[tuple[AuditSide, str]]) -> dict[str, dict[str, int]]:
    counted: dict[str, Counter[str]] = {side: Counter() for side in AuditSide}
    for side, name in pairs:
        counted[side][str(name)] += 1
    return {side: dict(counts) for side, counts in counted.items()}

"""The kind of hint that all problems are told, where `gear.hint: auto` leaves it to the run.

All problems are asked up to where they broke, a few extreme ones try every kind, and the choice is
stored beside the settings it was made under: running again repeats neither. What was drawn for the
probe stays stored, is counted in the ledger, and serves the chosen kind.
"""

from collections.abc import Sequence
from dataclasses import asdict

from heal.method.hint_choice import choose_hint
from heal.records import HintKind
from heal.report.hint_words import META, choice_sentence
from heal.run import Run, Stage, ask_each
from heal.stages import probe
from heal.stages.found import Found

_EXTREME = "SELECT problem FROM problems WHERE split='train' AND stratum='extreme'"


def settle_hint(run: Run, before: Sequence[Stage], settings: str) -> None:
    """Choose the kind and go on with it; `before` are the stages before the probe.

    settings: names all that the choice depends on.
    """
    store = run.session.store
    known = store.meta(META)
    if known is None or known["settings"] != settings:
        run.session.observer.say("gear.hint is auto: the kinds are tried once all are sampled")
        ask_each(run, before, settings, whole=False)
        extreme = [problem for (problem,) in store.query(_EXTREME)]
        probed = probe.problems_to_probe(extreme, run.session.config)
        choice = choose_hint(probe.tally(_try_kinds(run, probed)), run.session.config.seed)
        known = {"settings": settings, "probed": sorted(probed), **asdict(choice)}
        store.set_meta(META, known)
        run.session.observer.say(choice_sentence(choice))
    run.go_on_with(HintKind(known["kind"]), known["probed"])


def _try_kinds(run: Run, probed: frozenset[str]) -> dict[str, probe.Rows]:
    """Every kind on these problems; rows by problem."""
    run.go_on_with(None, probed)
    observer, rows = run.session.observer, dict[str, probe.Rows]()
    observer.begin("probe", len(probed), "problems")

    def done(found: Found) -> None:
        rows[found.problem.id] = list(probe.conclude(found, run.setup))
        observer.advance()

    problems = [run.session.problems[problem] for problem in sorted(probed)]
    run.ask(problems, lambda found: probe.owes(found, run.setup), done)
    return {problem: rows[problem] for problem in sorted(rows)}

"""What a real-model run shows before it has ended, from a copy of its folder and no model.

In: a run folder that another process may be writing. Out: a folder of its own with the step
checker's words, cuts by `claims` and the sets of every arm that owes no more samples, and from it
the tables of `benchmarks.real_yield`, `heal audit gear` and PURE's readings by the checker's word,
with the gate `wrong_step` off and on. What needs the teacher (repairs from other cuts, `rft_more`,
`star`) is not there.

    python -m benchmarks.real_so_far RUN --out FOLDER [--json FILE]
"""

import argparse
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from benchmarks.real_model import READINGS
from benchmarks.real_model_readings import write_figures
from benchmarks.real_yield import print_table, table

from heal.config import Config
from heal.engines.http.tokenizer import open_tokenizer
from heal.lab.checked import audit_gear, separate_pure
from heal.method.arms import TRAINED, Extra
from heal.method.claims import find_claim_break
from heal.method.pure import calibrate
from heal.records import (
    Breakpoint,
    Cut,
    Finish,
    Gate,
    Outcome,
    Problem,
    StepWord,
    StepWords,
    TokenScores,
    Trace,
)
from heal.report.audit_page import gear_page
from heal.stages import calibrate as calibrating
from heal.stages import select
from heal.stages.candidates import unseen
from heal.stages.filter import Profiles, profiles
from heal.stages.steps import step_text, trace_steps
from heal.steps import open_checker
from heal.store import DATABASE, CutRow, Store, Stored, step_words


class Reader:
    """A teacher's tokenizer where no model is opened: `heal.stages.found.TextModel`."""

    model_id = "tokenizer alone"

    def __init__(self, model: str) -> None:
        self._tokens = open_tokenizer(model).tokens
        self.encode, self.decode = self._tokens.encode, self._tokens.decode
        self.token_bytes = self._tokens.bytes_of

    def render(self, user: str, *, system: str | None = None) -> tuple[int, ...]:
        """Ids of a conversation up to the opened assistant turn."""
        return self._tokens.render(user, system)


def copy(run: Path, out: Path) -> Config:
    """The run's database as it is now, in a folder of its own, and its settings for that folder."""
    out.mkdir(parents=True, exist_ok=True)
    (out / DATABASE).unlink(missing_ok=True)
    with (
        closing(sqlite3.connect(f"file:{run / DATABASE}?mode=ro", uri=True)) as old,
        closing(sqlite3.connect(out / DATABASE)) as new,
    ):
        old.backup(new)
    tree = yaml.safe_load((run / "config.yaml").read_text("utf-8"))
    arms = [a for a in tree["arms"] if a == "base" or TRAINED[a].extra is Extra.NOTHING]
    return Config.model_validate({**tree, "run": str(out), "arms": arms})


def check(store: Store, config: Config, tokens: Reader) -> None:
    """Store the checker's word on every complete training trace."""
    own = store.meta("config") or {}
    store.set_meta("config", own | {"steps": own.get("steps", {}) | {"checker": "arithmetic"}})
    checker = open_checker("arithmetic")
    assert checker is not None, "named on the line above"
    for problem, traces in _traces(store):
        said: dict[str, StepWord] = {}
        for trace in traces:
            ends = trace_steps(trace, tokens, config.gear, config.prompts)
            steps = [step_text(trace, ends, k, tokens) for k in range(1, len(ends) + 1)]
            said[trace.key] = checker(problem.problem, problem.answer, steps)
        record = StepWords(StepWords.KEY, problem.id, checker.edition, said)
        store.commit([Stored("stepwords", StepWords.KEY, problem.id, record)])


def _traces(store: Store) -> Iterator[tuple[Problem, list[Trace]]]:
    for problem_id, problem in list(store.read("problem", Problem)):
        rows = store.query(
            "SELECT DISTINCT stage, key FROM traces WHERE problem=? AND finish=? AND stage IN"
            " ('sample', 'hinted', 'repair')",
            (problem_id, str(Finish.STOP)),
        )
        found = [store.get(stage, key, problem_id, Trace) for stage, key in list(rows)]
        yield problem, [trace for trace in found if trace is not None]


def cut_by_claims(store: Store, config: Config, tokens: Reader) -> None:
    """Where `claims` would have cut, beside the run's own cuts."""
    main, keys = str(config.gear.breakpoint), dict(_score_keys(store))
    rows = []
    for _, cut in store.live("cut", Cut, main):
        scores = store.get("scores", keys[cut.trace], cut.problem_id, TokenScores)
        trace = store.get("sample", cut.trace, cut.problem_id, Trace)
        assert scores is not None and trace is not None, "columns name only what is stored"
        pieces = tokens.token_bytes(trace.ids.tolist())
        bounds = scores.entropy_lo, scores.entropy_hi
        found = find_claim_break(scores.logprob, *bounds, cut.step_ends, pieces)
        place = cut.problem_id, str(Breakpoint.CLAIMS), f"claims of {cut.key}", cut.trace
        how = found.margin, found.fallback, found.undecided, False
        rows.append(CutRow(*place, found.step, len(cut.step_ends), *how))
    store.insert(rows)


def _score_keys(store: Store) -> Iterator[tuple[str, str]]:
    yield from store.query("SELECT trace, key FROM scores WHERE stage='scores'")


def choose(store: Store, config: Config) -> None:
    """PURE and PACE for every arm, by the honest traces that are scored."""
    honest = [profile for _, profile in profiles(store, calibrating.TAG)]
    lines = calibrate(sorted(honest, key=lambda profile: profile.trace), config.pure)
    problems = dict(store.read("problem", Problem))
    own = Profiles(store, config, lines)
    select.select(select.Offer(store, config, problems, own, unseen), lambda example: None)


def gate(store: Store) -> int:
    """Refuse what holds a wrong step, as the gate would have; how many."""
    refused = [trace for trace, word in step_words(store) if word.outcome is Outcome.WRONG_STEP]
    passed = {key for (key,) in store.query("SELECT key FROM traces WHERE gate='passed'")}
    marks = [key for key in refused if key in passed]
    for key in marks:
        list(store.query("UPDATE traces SET gate=? WHERE key=?", (str(Gate.WRONG_STEP), key)))
    return len(marks)


def figures(run: Path, out: Path) -> dict[str, Any]:
    """All tables, ungated and gated."""
    config = copy(run, out)
    tokens = Reader(config.teacher.model)
    with Store.open(out) as store:
        check(store, config, tokens)
        cut_by_claims(store, config, tokens)
        choose(store, config)
        found = table(store)
        readings = separate_pure(store, config, READINGS)
        found["pure"] = {name: asdict(own) for name, own in readings.items()}
        found["refused_by_the_gate"] = gate(store)
        choose(store, config)
        found["gated"] = {
            key: found_gated for key, found_gated in table(store).items() if key != "ways"
        }
    audit = audit_gear(config)
    print(gear_page(audit))
    found["gear"] = asdict(audit)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    found = figures(args.run, args.out)
    print_table(found)
    print("\nwith the gate:")
    print_table({**found["gated"], "ways": []})
    for name, own in found["pure"].items():
        print(name, own["swapped"], own["gold"], own["auroc"])
    if args.json:
        write_figures(args.json, found)


if __name__ == "__main__":
    main()

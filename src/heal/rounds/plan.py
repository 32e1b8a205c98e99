"""What a second round is: whose traces are sampled, and the recipe of the run that imports them.

In: a finished run's folder, and which of its students. Out: a `Plan`; no model is asked, nothing
written. The recipe is the first run's but for its folder, its seed, its student and the trace file;
overrides stand over all of that.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from heal.config import Config
from heal.errors import UserError
from heal.recipe import load_over, parse
from heal.records import TrainResult
from heal.store import Store
from heal.students import arms as students

SOURCES = ("path", "hub", "gym", "source")
"""Settings that name problems; without any the trace file gives them."""
_MASKED = "**********"
"""What a stored config shows of a secret."""
_NAMELESS: dict[str, Any] = {
    "run": "-",
    "problems": {"path": "-"},
    "teacher": {"model": "-"},
    "student": {"model": "-"},
}
"""The shortest recipe: what a setting is where nobody chose it."""


@dataclass(frozen=True)
class Plan:
    """A round that is settled and not begun."""

    folder: Path
    """Of the run before."""
    student: students.Student
    recipe: Path
    traces: Path
    config: Config
    """Of the second run."""
    text: str
    """The recipe."""

    @property
    def has_source(self) -> bool:
        """Whether the recipe names problems beside the traces."""
        return any(getattr(self.config.problems, name) is not None for name in SOURCES)


def plan_round(
    folder: Path,
    out: Path | None = None,
    *,
    arm: str | None = None,
    seed: int | None = None,
    overrides: Sequence[str] = (),
    force: bool = False,
) -> Plan:
    """Settle whose traces are sampled and what the second run's recipe says; asks no model.

    out: where the recipe goes; None: beside the run's folder. arm, seed: None takes the run's main
    arm and its first seed. Raises: UserError.
    """
    recipe = out or folder.with_name(f"{folder.name}-round2.yaml")
    with Store.open(folder, write=False) as store:
        before: dict[str, Any] | None = store.meta("config")
        results = [result for _, result in store.live("train", TrainResult)]
    if before is None:
        raise UserError(f"{folder}: a folder no run was begun in", hint="heal run FILE.yaml")
    _require_secrets(folder, before, overrides)
    first = parse(_unmasked(before), where=f"{folder}/config.yaml")
    student = _chosen(folder, first, results, arm, seed)
    traces = recipe.with_name(f"{recipe.stem}-traces.jsonl")
    tree = _second(before, str(folder.parent / recipe.stem), student.model, traces)
    config = load_over(tree, overrides, where=str(recipe))
    _require_new(folder, config, recipe)
    if config.teacher is None:
        hint = f"name one: heal round {folder} --set teacher.model=FOLDER"
        raise UserError(f"{folder}: a run without a teacher, who would repair", hint=hint)
    text = _text(tree, config, folder, student)
    if not force:
        _require_room(folder, recipe, text)
    return Plan(folder, student, recipe, traces, config, text)


def _chosen(
    folder: Path, config: Config, results: Sequence[TrainResult], arm: str | None, seed: int | None
) -> students.Student:
    """The trained student asked for. Raises: UserError naming those there are."""
    if config.student is None:
        hint = f"heal run {folder}/config.yaml --set student.model=FOLDER"
        raise UserError(f"{folder}: a run without a student", hint=hint)
    if not results:
        hint = f"heal run {folder}/config.yaml"
        raise UserError(f"{folder}: no student is trained to the end yet", hint=hint)
    last = {(r.arm, r.seed): r for r in sorted(results, key=lambda r: r.stage)}
    arms = list(dict.fromkeys(name for name, _ in last))
    usual = config.main_arm if config.main_arm in arms else arms[0]
    wanted = arm or usual
    seeds = sorted(n for name, n in last if name == wanted)
    if not seeds:
        raise UserError(
            f"{folder}: no arm '{wanted}' was trained; trained are {', '.join(arms)}",
            hint=f"heal round {folder} --arm {usual}",
        )
    number = seeds[0] if seed is None else seed
    if number not in seeds:
        raise UserError(
            f"{folder}: {wanted} was not trained under seed {number}; its seeds are"
            f" {', '.join(map(str, seeds))}",
            hint=f"heal round {folder} --arm {wanted} --seed {seeds[0]}",
        )
    found = students.watched(config, folder, last[wanted, number])
    if found is not None:
        return found
    there = (own for own in last.values() if students.watched(config, folder, own) is not None)
    other = next(there, None)
    raise UserError(
        f"{folder / last[wanted, number].folder}: the student's weights are gone",
        hint=f"heal round {folder} --arm {other.arm} --seed {other.seed}, or bring them back"
        if other
        else f"train it again: heal run {folder}/config.yaml --set run={folder}-again",
    )


def _second(before: Mapping[str, Any], run: str, model: str, traces: Path) -> dict[str, Any]:
    """The second run's settings, all of them."""
    tree = deepcopy(dict(before))
    problems = tree["problems"]
    if all(problems.get(name) is None for name in SOURCES):
        # The trace file gives the problems too, and what overlapped is gone from them.
        problems["decontaminate"] = None
    problems["traces"] = {
        "path": str(traces),
        "format": "generic",
        "fields": {"id": "problem_id"},
    }
    # One more, or the teacher's hinted and matched traces would be those of the run before.
    return tree | {
        "run": run,
        "seed": tree["seed"] + 1,
        "student": {**tree["student"], "model": model},
    }


def _text(tree: Mapping[str, Any], config: Config, folder: Path, student: students.Student) -> str:
    """A recipe that says what differs from the defaults."""
    usual = parse({**_NAMELESS, "preset": config.preset}).model_dump(mode="json")
    usual["problems"]["path"] = None
    short = _unlike(tree, usual)
    # A null among a function's own arguments is no default: then all is said.
    whole = short if parse(short) == config else tree
    body = yaml.safe_dump(dict(whole), sort_keys=False, allow_unicode=True)
    return (
        f"# Written by heal round: the student {student.arm}, seed {student.seed}, of {folder}\n"
        "# and its own traces of the training problems, which the teacher now repairs.\n"
        f"# Everything else is as in {folder}/config.yaml.\n{body}"
    )


def _unlike(tree: Mapping[str, Any], usual: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in tree.items():
        known = usual.get(name)
        if value == known:
            continue
        if isinstance(value, Mapping) and known != {}:
            value = _unlike(value, known if isinstance(known, Mapping) else {})
            if not value:
                continue
        found[name] = value
    return found


def _require_secrets(folder: Path, before: Mapping[str, Any], overrides: Sequence[str]) -> None:
    """A run folder keeps none; the teacher's servers may want them. Raises: UserError."""
    http = before["engine"]["http"]
    given = {text.partition("=")[0] for text in overrides}
    masked = {
        "engine.http.api_key": http.get("api_key") == _MASKED,
        "engine.http.endpoints": any(e.get("login") == _MASKED for e in http["endpoints"]),
    }
    for name in [name for name, is_masked in masked.items() if is_masked and name not in given]:
        value = "${NAME}" if name.endswith("key") else "[{url: URL, login: ${NAME}}]"
        raise UserError(
            f"{folder}/config.yaml: {name} holds a secret, which no run folder keeps",
            hint=f"heal round {folder} --set '{name}={value}'",
        )


def _unmasked(before: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without the secrets that are not in them."""
    tree = deepcopy(dict(before))
    tree["engine"]["http"] |= {"api_key": None, "endpoints": []}
    return tree


def _require_new(folder: Path, config: Config, recipe: Path) -> None:
    """Neither the first run's folder nor any other is in the way. Raises: UserError."""
    if recipe.is_dir():
        hint = f"heal round {folder} --out {recipe / 'round2.yaml'}"
        raise UserError(f"{recipe}: is a folder", hint=hint)
    if Path(config.run).resolve() == folder.resolve():
        hint = f"heal round {folder} --out {recipe.with_name(f'{recipe.stem}-round2.yaml')}"
        raise UserError(f"{folder}: the second run would be in the first one's folder", hint=hint)


def _require_room(folder: Path, recipe: Path, text: str) -> None:
    """Before hours of sampling: the same command again may write over its own recipe alone."""
    if recipe.exists() and recipe.read_bytes() != text.encode():
        raise UserError(
            f"{recipe}: is there already, and says something else",
            hint=f"heal round {folder} --out OTHER.yaml, or --force to write over it",
        )

"""What pages call the values that the store has."""

STAGES = {
    "sample": "sampled",
    "hinted": "hinted",
    "repair": "repaired",
    "matched": "drawn for the budget",
}
FILTERS = {
    "stage": "Kind",
    "verdict": "Verdict",
    "stratum": "Stratum",
    "gate": "Gate",
    "hint": "Hint",
    "drop": "Selection",
    "mark": "Mark",
}
EMPTY = {
    "verdict": "not verified",
    "gate": "no gate",
    "hint": "no hint",
    "drop": "no candidate",
    "mark": "unmarked",
}
"""What it means that a trace has no value."""
_DROPS = {
    "kept": "kept",
    "pure": "dropped by PURE",
    "near_duplicate": "near duplicate",
    "alternate": "shown in turn",
    "parent_cap": "parent cap",
    "problem_cap": "problem cap",
    "too_long": "too long",
    "lossy": "lossy",
    "thinking": "thinking",
    "marked": "marked bad",
}
_GATES = {"passed": "passed the gates"}
_VERDICTS = {"failed": "engine failed"}


def name_of(facet: str, value: str) -> str:
    """A stored value in words: (`drop`, `pure`) → `dropped by PURE`."""
    if not value:
        return EMPTY.get(facet, "none")
    named = {"stage": STAGES, "drop": _DROPS, "gate": _GATES, "verdict": _VERDICTS}.get(facet, {})
    return named.get(value, value.replace("_", " "))


GATES = {
    "passed": "It passed all gates.",
    "incorrect": "Its answer is not correct.",
    "incomplete": "It was cut off.",
    "several_answers": "It states several answers.",
    "hint_talk": "It speaks of the hint.",
    "copied_hint": "It copies the hint.",
    "early_answer": "It states the answer before it has worked for it.",
    "wrong_step": "The step checker found a wrong step.",
}
DROPS = {
    "kept": "It is in the set.",
    "pure": "PURE took it for a shortcut, or could not score it.",
    "near_duplicate": "It is too like a trace that was kept.",
    "alternate": "It is not in the set, but shown in turn with a trace that is (pace.fresh_text).",
    "parent_cap": "Enough repairs of its parent were kept.",
    "problem_cap": "Enough traces of its problem were kept.",
    "too_long": "It is longer than train.max_length.",
    "lossy": "The student's tokenizer does not give its text back.",
    "thinking": "Its thinking is not one closed section.",
    "marked": "A reader marked it bad, and pace.respect_marks is on.",
}

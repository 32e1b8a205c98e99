"""`heal sample` … `heal evaluate`: one verb per stage, which runs whatever before it is owed."""

from collections.abc import Callable, Mapping

from heal.cli.console import one_file
from heal.cli.options import (
    Adopt,
    AllowCode,
    ConfigFile,
    DryRun,
    JsonFile,
    Overrides,
    RecipeFile,
    RespectMarks,
    Yes,
)
from heal.cli.run import Choices, respecting, run_until

HELP: Mapping[str, str] = {
    "sample": "Sample the teacher unaided.",
    "verify": "… and judge every trace; find each problem's ceiling.",
    "locate": "… and find where failed traces broke.",
    "guide": "… and write a hint for each.",
    "repair": "… and let the teacher try again.",
    "score": "… and measure perplexity and surprisal of what passed the gates.",
    "select": "… and choose the training sets; writes the stage JSONL files.",
    "train": "… and train the students.",
    "evaluate": "… and evaluate them on held-out problems.",
}
"""The stages that have a verb, in order; each line continues the one before."""
SELECTING = ("select", "train", "evaluate")
"""Those that choose the training sets on their way."""


def up_to(stage: str) -> Callable[..., None]:
    """The command of one stage."""

    def command(
        file: RecipeFile = None,
        config: ConfigFile = None,
        overrides: Overrides = [],  # noqa: B006
        adopt: Adopt = False,
        allow_code: AllowCode = False,
        dry_run: DryRun = False,
        yes: Yes = False,
        json_file: JsonFile = None,
    ) -> None:
        choices = Choices(adopt, allow_code, dry_run, yes, json_file)
        run_until(stage, one_file(file, config), overrides, choices)

    def selecting(
        file: RecipeFile = None,
        config: ConfigFile = None,
        overrides: Overrides = [],  # noqa: B006
        adopt: Adopt = False,
        allow_code: AllowCode = False,
        marks: RespectMarks = False,
        dry_run: DryRun = False,
        yes: Yes = False,
        json_file: JsonFile = None,
    ) -> None:
        choices = Choices(adopt, allow_code, dry_run, yes, json_file)
        run_until(stage, one_file(file, config), [*overrides, *respecting(marks)], choices)

    chosen = selecting if stage in SELECTING else command
    chosen.__doc__ = HELP[stage]
    return chosen

"""Who else is told of training: `train.report_to`.

In: names. Out: what transformers' own callbacks need, or the command that installs what is missing.
"""

import importlib.util
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from heal.errors import UserError

_PACKAGES = {
    "tensorboard": ("tensorboard", "tensorboardX"),
    "trackio": ("trackio",),
    "wandb": ("wandb",),
}
"""Any one of them will do."""
_FOLDER = "TENSORBOARD_LOGGING_DIR"
"""Where transformers looks for the folder of TensorBoard's files."""


def require_packages(names: Sequence[str]) -> None:
    """Raises: UserError when one is not installed."""
    for name in names:
        if not any(_is_installed(package) for package in _PACKAGES[name]):
            raise UserError(
                f"train.report_to needs the {name} package, which is not installed",
                hint=f"pip install {name}",
            )


@contextmanager
def logs_in(folder: Path) -> Iterator[None]:
    """TensorBoard's files go there, unless its own environment variable says where."""
    if _FOLDER in os.environ:
        yield
        return
    os.environ[_FOLDER] = str(folder)
    try:
        yield
    finally:
        del os.environ[_FOLDER]


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ValueError:  # a module that was put there without a spec
        return False

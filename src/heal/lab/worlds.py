"""The lab's worlds by name."""

from __future__ import annotations

from heal.errors import UserError
from heal.lab.moves import Moves
from heal.lab.rows import Rows
from heal.lab.walks import Walks
from heal.lab.world import Problem, World

WORLDS: dict[str, World] = {world.name: world for world in (Rows(), Walks(), Moves())}


def world_named(name: str) -> World:
    """A world by its name. Raises: UserError if there is none."""
    if name not in WORLDS:
        raise UserError(f"the lab has no world {name!r}", hint=f"--world {' or '.join(WORLDS)}")
    return WORLDS[name]


def world_of(text: str) -> World:
    """The world a problem's text is of. Raises: ValueError if it is of none."""
    for world in WORLDS.values():
        if world.owns(text):
            return world
    raise ValueError(f"not a lab problem: {text!r}")


def parse(text: str) -> tuple[World, Problem]:
    """A problem from its text. Raises: ValueError if it is not one of the lab's."""
    world = world_of(text)
    return world, world.parse(text)

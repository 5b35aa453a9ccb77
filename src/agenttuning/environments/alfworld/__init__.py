"""ALFWorld (Shridhar et al. 2021): household text games. The paper's test is 50 of its valid_unseen games.

An item has `id`, `kind` (a key of AgentBench's split lists, see tables.KINDS) and either `path`, a `game.tw-pddl` file,
or `game`, the content of one. See docs/environments/alfworld.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from agenttuning.environments import Backend, Missing, Room, backend_of, build_items
from agenttuning.environments.alfworld.environment import Environment
from agenttuning.environments.alfworld.files import load
from agenttuning.environments.alfworld.generator import draw
from agenttuning.errors import UserError

__all__ = ["BACKENDS", "BENCHMARK", "NAME", "Environment", "items", "load", "missing", "serve"]

NAME = "alfworld"
BENCHMARK = "ALFWorld"
BACKENDS = (
    Backend("textworld", "TextWorld with alfworld 0.3.3's words", comparable=True),
    Backend(
        "engine",
        "our engine, word for word TextWorld on generated games, not yet compared on official ones",
        comparable=False,
    ),
)


def items(split: str, n: int, seed: int) -> list[dict]:
    """`n` generated games; goals and rooms of the two splits are disjoint. See the package for the face."""
    return build_items(NAME, split, n, seed, draw)


@contextmanager
def serve(backend: str = "engine", **where: str) -> Iterator[Room]:
    """The room of a backend; neither has options. Raises UserError for another backend or an option."""
    found = backend_of(NAME, BACKENDS, backend)
    if where:
        raise UserError(
            f"alfworld's backend {backend} has no option {min(where)!r}; it would be without effect; leave it out"
        )
    if backend == "engine":
        yield Room(NAME, found, Environment)
        return
    lacking = missing(backend)
    if lacking:
        raise UserError(f"{lacking[0].what} is not installed, so nothing could be played; run: {lacking[0].command}")
    from agenttuning.environments.alfworld.textworld_backend import TextWorld

    yield Room(NAME, found, TextWorld, isolation="process")


def missing(backend: str = "engine", **where: str) -> list[Missing]:
    """What this machine lacks for a backend."""
    if backend_of(NAME, BACKENDS, backend).name != "textworld":
        return []
    from importlib.util import find_spec

    lacking = [name for name in ("textworld", "fast_downward") if find_spec(name) is None]
    # GPL (its planner) and compiled at installation: never a dependency of this project.
    return [Missing(f"TextWorld ({' and '.join(lacking)})", "pip install 'textworld[pddl]>=1.6.1'")] if lacking else []

"""Embedded environments: mechanics only, no model, no prompt format.

One module a task, and one small face. A module has `NAME`, `INSTRUCTION`, `ACKNOWLEDGEMENT`, `MAX_TURNS`,
`items(split, n, seed) -> list[dict]` and `Environment(item)` with

    reset() -> str            the first observation, which states the goal
    step(action) -> Step      an invalid action is reported in the observation and changes nothing else
    score() -> float          the reward in [0, 1] of the present state
    oracle() -> Move          the scripted expert's next move in the present state
    actions() -> list[str]    some admissible actions of the present state
    close()                   gives back what the environment holds (a database, a folder)

These four are the miniature's own worlds, small but real: `database` is SQLite, `files` is a folder on disk.
They stand in kind for the paper's ALFWorld, database, WebShop and operating-system tasks and are not those tasks.
"""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """What an action led to. `valid` is False when the action was not understood or not possible."""

    observation: str
    done: bool = False
    valid: bool = True


@dataclass(frozen=True)
class Move:
    """One move of the scripted expert: what it thinks and the action it takes."""

    thought: str
    action: str


def reserved(*parts: object) -> bool:
    """True for the fifth of all combinations that only test items may use (crc32: the same on every machine)."""
    return zlib.crc32("|".join(map(str, parts)).encode()) % 5 == 0


def build_items(name: str, split: str, n: int, seed: int, draw) -> list[dict]:
    """`n` distinct items of `split` from `draw(rng, test) -> dict | None` (None: drawn again).

    An item of a split is drawn until `draw` accepts it, and no two items of one call are equal, so that n is the
    number of different problems. Raises ValueError for an unknown split or when the world is too small for n.
    """
    if split not in ("train", "test"):
        raise ValueError(f"split is {split!r}; it must be 'train' or 'test'")
    rng = random.Random(f"{name}/{split}/{seed}")
    found: list[dict] = []
    seen: set[str] = set()
    for _ in range(200 * n + 1000):
        if len(found) == n:
            return found
        item = draw(rng, split == "test")
        if item is None or repr(item) in seen:
            continue
        seen.add(repr(item))
        found.append({"id": f"{name}_{split}_{len(found)}", **item})
    if len(found) == n:
        return found
    raise ValueError(f"{name} has only {len(found)} different {split} items, {n} were asked for")


from agenttuning.environments import database, files, household, shop  # noqa: E402  (they use the names above)

TASKS = {module.NAME: module for module in (household, database, shop, files)}

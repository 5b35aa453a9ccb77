"""Which domains the engine plays: a game's actions are compared with those it was held to TextWorld on."""

from __future__ import annotations

import hashlib
from functools import lru_cache

from agenttuning.environments.alfworld import pddl

# The first 8 hex digits of the sha256 of each action, spaced by pddl.write: of alfworld 0.3.3 and 0.4.2, which are
# equal (alfworld/data/alfred.pddl), and of our domain.txt.
ACTIONS = {
    "look": ("af35305d", "18547fdc"),
    "inventory": ("707bf5a9", "850aa9f4"),
    "examinereceptacle": ("b3bf4929", "02c36ae7"),
    "examineobject": ("30dc940e", "295e0d78"),
    "gotolocation": ("1a17e26d", "0c8dd452"),
    "openobject": ("21956169", "5c0a3d19"),
    "closeobject": ("11ebd468", "7ef3a7f1"),
    "pickupobject": ("67566d33", "1444ea39"),
    "putobject": ("6ebc84b6", "d38ef9b5"),
    "cleanobject": ("60439a4f", "c4cc3115"),
    "heatobject": ("913128a2", "1222978d"),
    "coolobject": ("e5584ea4", "2c6b0424"),
    "toggleobject": ("add36a6e", "56004d7d"),
    "sliceobject": ("d10bfbed", "7f0c2f08"),
}
HELP = "help"  # of alfworld 0.4; it changes nothing, and the paper's version has it not: neither has the engine


@lru_cache(maxsize=8)
def other_actions(domain: str, where: str) -> tuple[str, ...]:
    """The names of a domain's actions that are missing or have another form than the engine plays. Raises UserError for
    a text that is no PDDL, naming `where`.
    """
    actions = {str(part[1]): part for part in pddl.parse(domain, where) if part[:1] == [":action"] and len(part) > 1}
    actions.pop(HELP, None)
    known = {name for name, action in actions.items() if digest(action) in ACTIONS.get(name, ())}
    return tuple(sorted((set(ACTIONS) | set(actions)) - known))


def digest(action: list) -> str:
    """The digest of one action, whatever its spacing, case and comments."""
    return hashlib.sha256(pddl.write(action).encode()).hexdigest()[:8]


def without_help(domain: str, where: str) -> str:
    """A domain's text without `help`."""
    return pddl.write([part for part in pddl.parse(domain, where) if part[:2] != [":action", HELP]])

"""Finds the official games on the user's disk: AgentBench's split lists, or a folder of games."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

from agenttuning.environments.alfworld.game import read_file, read_game
from agenttuning.environments.alfworld.tables import KINDS
from agenttuning.errors import UserError

log = logging.getLogger(__name__)
GAME = "game.tw-pddl"
LISTS = ("std.json", "standard.json", "dev.json")  # AgentBench.old, AgentBench v0.2, both: the paper's comes first
SHOWN = 5  # of a list of missing files


def load(path: str | Path) -> list[dict]:
    """The games of a split list or of a folder, each read once and found to be whole; in the list's order.

    A split list is AgentBench's {kind: [paths below $ALFWORLD_DATA]}; without the variable, paths are looked for beside
    the list and in the folders above it. A folder is taken by the first of LISTS in it, else every game below it is
    taken, save those which alfworld leaves out as well: with a movable receptacle, with slices, or marked unsolvable.
    Raises UserError when there is nothing, when games of a list are missing, or when one is no game.
    """
    path = Path(path)
    if path.is_dir():
        listed = next((path / name for name in LISTS if (path / name).is_file()), None)
        return _listed(listed) if listed else _below(path)
    if not path.is_file():
        raise UserError(f"there is no {path}; no game could be loaded; give a split list or a folder of games")
    return _listed(path)


def _listed(path: Path) -> list[dict]:
    content = read_file(path)
    for kind, games in content.items():
        if kind not in KINDS or not isinstance(games, list) or not all(isinstance(game, str) for game in games):
            raise UserError(
                f"{path}: {kind!r} is not one of {', '.join(KINDS)} with a list of paths; which demonstration and "
                "which games belong to it would be a guess; give AgentBench's data/alfworld/std.json"
            )
    wanted = [(kind, game) for kind, games in content.items() for game in games]
    found = [(kind, game, _find(path, game)) for kind, game in wanted]
    lacking = [game for _, game, place in found if place is None]
    if lacking or not wanted:
        more = f" and {len(lacking) - SHOWN} more" if len(lacking) > SHOWN else ""
        raise UserError(
            f"{path}: {len(lacking)} of {len(wanted)} games are missing: {', '.join(lacking[:SHOWN])}{more}; a score "
            "over the others would be over another set; set ALFWORLD_DATA to the folder that holds json_2.1.1"
        )
    return [_item(path.stem, n, kind, place, read_file(place)) for n, (kind, _, place) in enumerate(found)]


def _find(path: Path, game: str) -> Path | None:
    named = os.environ.get("ALFWORLD_DATA")
    for root in [Path(named)] if named else [path.parent, *path.parent.resolve().parents]:
        if (root / game).is_file():
            return root / game
    return None


def _below(folder: Path) -> list[dict]:
    games = sorted(folder.rglob(GAME))
    taken: list[dict] = []
    for game in games:
        if "movable" in str(game) or "Sliced" in str(game):
            continue
        content = read_file(game)
        if content.get("solvable") is not False:
            taken.append(_item("games", len(taken), _kind(game), game, content))
    if len(taken) < len(games):
        log.info("%s: %d of %d games are left out, as alfworld does", folder, len(games) - len(taken), len(games))
    if not taken:
        raise UserError(f"below {folder} is no {GAME} to play; no game could be loaded; run alfworld-download")
    return taken


def _kind(game: Path) -> str:
    # .../look_at_obj_in_light-Mug-None-DeskLamp-308/trial_.../game.tw-pddl; ours lie in a folder of their kind.
    for part in reversed(game.parts):
        kind = next((kind for kind in KINDS if part.startswith(kind)), None)
        if kind is not None:
            return kind
    raise UserError(
        f"{game}: no folder in its path is named after a kind of task, so its demonstration would be a guess; "
        f"the kinds are {', '.join(KINDS)}"
    )


def _item(name: str, number: int, kind: str, path: Path, content: dict) -> dict:
    read_game(content, str(path))
    return {"id": f"alfworld-{name}_{number}", "kind": kind, "path": str(path)}


def write(items: list[dict], folder: str | Path) -> list[Path]:
    """Write generated items as `KIND/ID/game.tw-pddl` below a folder, as alfworld and `load` read them."""
    paths = []
    for item in items:
        path = Path(folder) / item["kind"] / item["id"] / GAME
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(item["game"]), encoding="utf-8")
        paths.append(path)
    return paths

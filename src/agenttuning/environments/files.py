"""A folder on disk: find a file, take it, put it into another folder. Kept out of training (the held-out task).

The verbs are the household's, the words and the observations are not: it asks whether what was learned there carries
over. Every item is a real temporary directory; actions name entries of its listing and are never joined to a path
before they are found in it.
"""

from __future__ import annotations

import random
import shutil
import tempfile
from pathlib import Path

from agenttuning.environments import Move, Step, build_items, reserved
from agenttuning.environments.words import FILES, FOLDERS

NAME = "files"
INSTRUCTION = "You have a computer. Do the task. Actions: look, go to, take from, put in."
ACKNOWLEDGEMENT = "Ok."
MAX_TURNS = 14


def _draw(rng: random.Random, test: bool) -> dict | None:
    folders = rng.sample(FOLDERS, rng.randint(3, 4))
    target = rng.choice(folders)
    goal, *others = rng.sample(FILES, rng.randint(3, 5))
    if reserved(NAME, goal, target) != test:
        return None
    layout = {folder: [] for folder in folders}
    layout[rng.choice([folder for folder in folders if folder != target])].append(goal)
    for other in others:
        layout[rng.choice(folders)].append(other)
    return {"goal": goal, "target": target, "layout": {folder: sorted(names) for folder, names in layout.items()}}


def items(split: str, n: int, seed: int) -> list[dict]:
    """`n` items of a split; see the package for the face."""
    return build_items(NAME, split, n, seed, _draw)


class Environment:
    """One directory tree, one folder deep; a taken file lies in a hand outside the folders."""

    def __init__(self, item: dict) -> None:
        self.item = item
        self.root: Path | None = None

    def reset(self) -> str:
        """Make the tree, and state the task."""
        self.close()
        self.root = Path(tempfile.mkdtemp(prefix="agenttuning-files-"))
        (self.root / "hand").mkdir()
        for folder, names in self.item["layout"].items():
            (self.root / "tree" / folder).mkdir(parents=True)
            for name in names:
                (self.root / "tree" / folder / name).write_text(f"{name}\n", encoding="utf-8")
        self.here: str | None = None
        self.looked = False
        return f"Task: put the {self.item['goal']} in the {self.item['target']}."

    def _names(self, folder: str) -> list[str]:
        return sorted(path.name for path in (self.root / "tree" / folder).iterdir())

    def _held(self) -> str | None:
        return next((path.name for path in (self.root / "hand").iterdir()), None)

    def step(self, action: str) -> Step:
        """`look`, `go to FOLDER`, `take FILE from FOLDER`, `put FILE in FOLDER`."""
        folders, held = self.item["layout"], self._held()
        match action.split():
            case ["look"]:
                self.looked = True
                seen = [f"{name} in {folder}" for folder in folders for name in self._names(folder)]
                return Step(f"Files: {', '.join(seen) or 'nothing'}.")
            case ["go", "to", folder] if folder in folders:
                self.here = folder
                return Step(f"Folder {folder}.")
            case ["take", name, "from", folder] if folder == self.here and held is None and name in self._names(folder):
                (self.root / "tree" / folder / name).rename(self.root / "hand" / name)
                return Step(f"You have {name}.")
            case ["put", name, "in", folder] if folder == self.here and name == held:
                (self.root / "hand" / name).rename(self.root / "tree" / folder / name)
                return Step(f"{name} is in {folder}.", done=self.score() == 1.0)
        return Step("Nothing happens.", valid=False)

    def score(self) -> float:
        """1.0 when the file lies in the target folder, else 0.0."""
        return float((self.root / "tree" / self.item["target"] / self.item["goal"]).is_file())

    def oracle(self) -> Move:
        """Look, fetch the file, carry it."""
        goal, target, held = self.item["goal"], self.item["target"], self._held()
        if held is not None and held != goal:
            return Move(f"the {held} is not the {goal}. put it back.", f"put {held} in {self.here}")
        if held == goal:
            if self.here != target:
                return Move(f"I hold the {goal}. next the {target}.", f"go to {target}")
            return Move(f"I hold the {goal} in the {target}.", f"put {goal} in {target}")
        if not self.looked:
            return Move(f"find the {goal}.", "look")
        home = next(folder for folder in self.item["layout"] if goal in self._names(folder))
        return Move(f"{goal} in {home}.", f"go to {home}" if self.here != home else f"take {goal} from {home}")

    def actions(self) -> list[str]:
        """Admissible actions now."""
        found = ["look", *(f"go to {folder}" for folder in self.item["layout"])]
        held = self._held()
        if self.here is not None and held is None:
            found += [f"take {name} from {self.here}" for name in self._names(self.here)]
        if self.here is not None and held is not None:
            found.append(f"put {held} in {self.here}")
        return found

    def close(self) -> None:
        """Remove the tree."""
        if self.root is not None:
            shutil.rmtree(self.root, ignore_errors=True)
            self.root = None

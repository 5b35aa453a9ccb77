"""One game as an environment. The game is read when the episode begins, so that a list of items stays small."""

from __future__ import annotations

from agenttuning.environments import Move, Step
from agenttuning.environments.alfworld import oracle, texts
from agenttuning.environments.alfworld.engine import Engine
from agenttuning.environments.alfworld.game import Game, read_file, read_game
from agenttuning.errors import UserError


def content_of(item: dict) -> tuple[dict, str]:
    """The content of an item's game file, and how to name it in an error."""
    if "game" in item:
        return item["game"], item["id"]
    return read_file(item["path"]), item["path"]


class Environment:
    """A game played by the engine; the game ends when its goal holds."""

    def __init__(self, item: dict) -> None:
        self.item = item
        self.engine: Engine | None = None

    def reset(self) -> str:
        """The room and the task. Raises UserError for a file that is no game, or one with other rules."""
        content, where = content_of(self.item)
        self.engine = Engine(playable(read_game(content, where), where))
        return self.engine.intro()

    def step(self, action: str) -> Step:
        """`go to`, `open`, `close`, `take X from Y`, `put X in/on Y`, `clean`, `heat` or `cool X with Y`, `use`,
        `slice X with Y`, `examine`, `look`, `inventory`; X and Y with their numbers, as in `mug 1`.
        """
        answer = self.engine.act(action.strip())
        if answer is None:
            return Step(texts.NOTHING, valid=False)
        return Step(answer, done=self.engine.won())

    def score(self) -> float:
        """1.0 when the goal holds, else 0.0."""
        return float(self.engine.won())

    def oracle(self) -> Move:
        """The next move of an expert that knows where everything is."""
        return oracle.next_move(self.engine)

    def actions(self) -> list[str]:
        """All admissible actions, sorted."""
        return self.engine.admissible()

    def metrics(self) -> dict:
        """`category`: the kind of the task."""
        return {"category": self.item["kind"]}

    def close(self) -> None:
        """Let the game go."""
        self.engine = None


def playable(game: Game, where: str) -> Game:
    """The game. Raises UserError when its domain has other actions than those that the engine plays."""
    if game.others:
        raise UserError(
            f"{where}: its domain is not alfworld's in {', '.join(game.others)}; the engine plays alfworld's rules, so "
            "the score would be of another game; play it with the backend textworld"
        )
    return game

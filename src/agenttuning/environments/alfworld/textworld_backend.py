"""The same games played by TextWorld (textworld[pddl], GPL in part, never a dependency): the reference of the engine.

Each environment takes about 100 MB and needs a process of its own, since the planner is one C library per process.
"""

from __future__ import annotations

from agenttuning.environments import Move, Step
from agenttuning.environments.alfworld import oracle
from agenttuning.environments.alfworld.engine import Engine
from agenttuning.environments.alfworld.environment import content_of
from agenttuning.environments.alfworld.game import read_game, shown_names
from agenttuning.environments.alfworld.generator import grammar_for
from agenttuning.environments.alfworld.rules import without_help


class TextWorld:
    """A game played by TextWorld with the file's own domain and problem, and alfworld 0.3.3's words."""

    def __init__(self, item: dict) -> None:
        self.item = item
        self.env = None

    def reset(self) -> str:
        """The room and the task. Raises UserError for a file that is no game."""
        import textworld
        from textworld.envs import PddlEnv

        content, where = content_of(self.item)
        game = read_game(content, where)
        self.env = PddlEnv(textworld.EnvInfos(admissible_commands=True, won=True))
        self.env.load(
            {
                "pddl_domain": without_help(content["pddl_domain"], where),
                "pddl_problem": content["pddl_problem"],
                "grammar": grammar_for(game.task),
            }
        )
        infos = self.env._entity_infos
        names = shown_names({info.id for info in infos.values()})
        for info in infos.values():
            info.name = names[info.id]
        self.state = self.env.reset()
        self.shadow = Engine(game)  # for the expert, which must know the state
        return "\n".join(self.state.feedback.split("\n\n")[1:])

    def step(self, action: str) -> Step:
        """As the engine's."""
        valid = action.strip() in self.state["admissible_commands"]
        self.state, _, done = self.env.step(action)
        self.shadow.act(action.strip())
        return Step(self.state.feedback, done=bool(done), valid=valid)

    def score(self) -> float:
        """1.0 when the goal holds, else 0.0."""
        return float(self.state["won"])

    def oracle(self) -> Move:
        """The next move of the engine's expert."""
        return oracle.next_move(self.shadow)

    def actions(self) -> list[str]:
        """All admissible actions, sorted."""
        return list(self.state["admissible_commands"])

    def metrics(self) -> dict:
        """`category`: the kind of the task."""
        return {"category": self.item["kind"]}

    def close(self) -> None:
        """Let the game go."""
        if self.env is not None:
            self.env.close()
            self.env = None

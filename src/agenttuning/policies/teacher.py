"""A teacher that errs: the scripted expert with slips, so that the reward filter has something to filter.

It stands in for the paper's GPT-4, of whose trajectories one in nineteen passed the filter (Table 1: 5.28 %).
"""

from __future__ import annotations

from agenttuning.errors import UserError
from agenttuning.policies import Policy, Turn
from agenttuning.policies.expert import expert

HESITATION = "I am not sure. I try"
GIVING_UP = "Thought: I do not know how to go on. I give up."


def teacher(slip: float, give_up: float, seed: int) -> Policy:
    """A policy which at each turn gives up with probability `give_up`, slips with `slip`, else plays the expert's move.

    A slip is a random admissible action and says so in its thought; the expert goes on from wherever it led. Giving up
    is a reply without an action. Raises UserError unless both are probabilities with a sum of at most 1.
    """
    if slip < 0 or give_up < 0 or slip + give_up > 1:
        raise UserError(
            f"teacher has slip {slip} and give_up {give_up}; they are chances of one draw and would not add up; "
            "give two numbers >= 0 with a sum <= 1"
        )

    def answer(turn: Turn) -> str:
        rng = turn.rng(seed)
        draw = rng.random()
        if draw < give_up:
            return GIVING_UP
        if draw < give_up + slip:
            action = rng.choice(turn.env.actions())
            return turn.write(f"{HESITATION} {action}.", action)
        return expert([turn])[0]

    return lambda turns: [answer(turn) for turn in turns]

"""The scripted expert: plays the environment's own oracle, and shows that every item can be won."""

from __future__ import annotations

from agenttuning.policies import Turn
from agenttuning.protocols import react


def expert(turns: list[Turn]) -> list[str]:
    """The oracle's thought and action for each turn."""
    moves = [turn.env.oracle() for turn in turns]
    return [react.render(move.thought, move.action) for move in moves]

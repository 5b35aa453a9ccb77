"""The scripted expert: plays the environment's own oracle, and shows that every item can be won."""

from __future__ import annotations

from agenttuning.policies import Turn


def expert(turns: list[Turn]) -> list[str]:
    """The oracle's thought and action for each turn."""
    moves = [turn.env.oracle() for turn in turns]
    return [turn.write(move.thought, move.action) for turn, move in zip(turns, moves, strict=True)]

"""A player without sense: the floor under every score."""

from __future__ import annotations

from agenttuning.policies import Policy, Turn


def random_policy(seed: int) -> Policy:
    """A policy that takes an admissible action at random, with equal chances."""

    def play(turns: list[Turn]) -> list[str]:
        return [turn.write("any of them.", turn.rng(seed).choice(turn.env.actions())) for turn in turns]

    return play

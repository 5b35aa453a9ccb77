"""Play stored trajectories again, to see whether an environment still answers as it did."""

from __future__ import annotations

from agenttuning.policies import Policy, Turn


def replay(records: list[dict]) -> Policy:
    """A policy that repeats the replies of stored episode records.

    Raises LookupError (from the policy: an agent_error) for an item or a turn that the records do not have.
    """
    replies = {record["item"]: _replies(record) for record in records}

    def answer(turn: Turn) -> str:
        known = replies.get(turn.item, [])
        if turn.number >= len(known):
            raise LookupError(f"the episode of {turn.item!r} has {len(known)} turns; turn {turn.number} was asked for")
        return known[turn.number]

    return lambda turns: [answer(turn) for turn in turns]


def _replies(record: dict) -> list[str]:
    return [message["content"] for message in record["messages"] if message["role"] == "assistant" and message["loss"]]

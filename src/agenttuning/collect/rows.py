"""Which episodes are kept, and how they are written as AgentInstruct's rows."""

from __future__ import annotations

from collections import Counter

from agenttuning.episodes import status

SPEAKER = {"user": "human", "assistant": "gpt"}


def conversation(messages: list[dict]) -> list[dict]:
    """Messages as AgentInstruct's turns: loss null for human, false for the acknowledgement, true for the agent."""
    return [
        {
            "from": SPEAKER[message["role"]],
            "loss": None if message["role"] == "user" else message["loss"],
            "value": message["content"],
        }
        for message in messages
    ]


def kept(name: str, records: list[dict], threshold: float, fresh: bool = False) -> list[dict]:
    """The rows of the episodes that reach the threshold.

    The number in a row's id is the instruction's, not the row's: a row leads back to the item it was played on.
    `fresh`: each turn was a conversation of its own (Format.fresh), and becomes a row of its own, with the turn's
    number behind the instruction's.
    """
    rows = []
    for number, record in enumerate(records):
        if not passes(record, threshold):
            continue
        talks = exchanges(record["messages"]) if fresh else [answered(record["messages"])]
        ids = [f"{name}_{number}_{turn}" for turn in range(len(talks))] if fresh else [f"{name}_{number}"]
        rows += [{"id": row_id, "conversations": conversation(talk)} for row_id, talk in zip(ids, talks, strict=True)]
    return rows


def passes(record: dict, threshold: float) -> bool:
    """Whether an episode is kept."""
    if threshold == 0:  # no filter: whatever the teacher ended with, but not what the infrastructure broke
        return status.is_result(record["status"])
    return record["status"] == status.COMPLETED and record["reward"] >= threshold


def answered(messages: list[dict]) -> list[dict]:
    """Without a last observation that the agent had no more room or turns to answer."""
    return messages[:-1] if messages and messages[-1]["role"] == "user" else messages


def exchanges(messages: list[dict]) -> list[list[dict]]:
    """Each trained reply with the message it answers, and what stood before the first of them."""
    first = next((place for place, message in enumerate(messages) if message["loss"]), len(messages))
    opening = messages[: first - 1]
    return [
        [*opening, messages[place - 1], message] for place, message in enumerate(messages) if place and message["loss"]
    ]


def statistics(records: list[dict], rows: list[dict], threshold: float) -> dict:
    """One line of the paper's Table 1 and how the episodes ended. `kept` counts episodes, which are `rows` rows."""
    turns = sum(turn["loss"] is True for row in rows for turn in row["conversations"])
    passed = sum(passes(record, threshold) for record in records)
    return {
        "instructions": len(records),
        "kept": passed,
        "rows": len(rows),
        "turns": turns,
        "avg_turns": round(turns / len(rows), 2) if rows else None,
        "ratio_percent": round(100 * passed / len(records), 2),
        "threshold": threshold,
        "statuses": dict(sorted(Counter(record["status"] for record in records).items())),
    }


def total(stats: dict[str, dict]) -> dict:
    """The table's last line."""
    keys = ("instructions", "kept", "rows", "turns")
    sums = {key: sum(task[key] for task in stats.values()) for key in keys}
    return {
        **sums,
        "avg_turns": round(sums["turns"] / sums["rows"], 2) if sums["rows"] else None,
        "ratio_percent": round(100 * sums["kept"] / sums["instructions"], 2),
    }

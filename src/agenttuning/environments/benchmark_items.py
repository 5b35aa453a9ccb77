"""What the items of each held-in benchmark are made up of, so that as many others do not pass for them.

Counted in the paper's repository, AgentBench.old/data: alfworld/std.json, dbbench/standard.jsonl, os_interaction/data,
knowledgegraph/std.json. WebShop's goals and Mind2Web's steps are checked by their backends (digests of the files, and
the list of tasks).
"""

from __future__ import annotations

from collections import Counter

_AGGREGATION = {f"aggregation-{name}": 8 for name in ("SUM", "MIN", "MAX", "AVG")}
_QUESTIONS = dict.fromkeys(("other", "counting", "comparison", "ranking"), 17)
MADE_OF: dict[str, dict[str, int]] = {
    "os": {"check": 135, "match": 9},
    "db": {**_QUESTIONS, **_AGGREGATION, "INSERT": 100, "UPDATE": 100},
    "kg": {"grailqa": 91, "cwq": 41, "graphquestions": 17, "webqsp": 1},
    "alfworld": {
        "pick_and_place": 9,
        "pick_clean_then_place": 9,
        "pick_heat_then_place": 8,
        "pick_cool_then_place": 8,
        "look_at_obj": 8,
        "pick_two_obj": 8,
    },
}
_KIND = {
    "os": lambda item: "match" if item.get("match") else "check",
    "db": lambda item: item.get("type"),
    "kg": lambda item: str(item.get("qid")).rpartition("_")[2],
    "alfworld": lambda item: item.get("kind"),
}


def differ(task: str, items: list[dict]) -> str | None:
    """How items differ from the benchmark's in what they are made up of; None where they do not, or cannot be told."""
    if task not in MADE_OF:
        return None
    found, wanted = Counter(map(_KIND[task], items)), MADE_OF[task]
    if found == wanted:
        return None
    kind = next(kind for kind in (*wanted, *found) if found[kind] != wanted.get(kind, 0))
    return f"{found[kind]} items of the kind {kind}, and the benchmark has {wanted.get(kind, 0)}"

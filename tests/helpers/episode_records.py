"""Episode records as the runner writes them: played on the toy with a scripted policy, or written down for a task whose
environment a test does not need.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from agenttuning.environments import EMBEDDED, Room
from agenttuning.episodes.runner import play
from agenttuning.episodes.store import EpisodeStore
from agenttuning.protocols.messages import own
from helpers import toy_task

HOSTILE = (
    "<script>document.title='pwned'</script><img src=x onerror=alert(2)></div></li></details></style>&amp; \x1b[31m"
    "\x1b]0;owned\x07 \x9b2J \u202e \ud800 \r\u2028 {{ 7*7 }} end"
)


def user(content: str) -> dict:
    return {"role": "user", "content": content, "loss": False}


def model(content: str) -> dict:
    return {"role": "assistant", "content": content, "loss": True}


def step(action: str | None, valid: bool = True, error: str | None = None) -> dict:
    return {"action": action, "valid": valid and action is not None, "cut": False, "error": error}


def record(task: str = "toy", item: str = "a", *turns: tuple, **more) -> dict:
    """`turns` are (reply, step, observation); the last observation is the closing one."""
    messages = [user("Do it."), {"role": "assistant", "content": "Ok.", "loss": False}, user("Start.")]
    for reply, _, observation in turns:
        messages += [model(reply), user(observation)]
    made = {
        "task": task, "backend": "embedded", "protocol": "paper-text@1", "item": item, "seed": 0, "model": "m@1",
        "sample": 0, "status": "completed", "reward": 1.0, "metrics": {}, "turns": len(turns), "prompt": "0" * 16,
        "messages": messages[:-1] if turns else messages, "steps": [taken for _, taken, _ in turns],
        "last": turns[-1][2] if turns else None, "error": None,
    }  # fmt: skip
    return made | more


def said(*actions: str, observation: str = "Hm.") -> list[tuple]:
    """Turns of a ReAct model whose actions are all carried out."""
    return [(f"Thought: so.\nAction: {action}", step(action), observation) for action in actions]


def stored(folder: Path, *records: dict) -> Path:
    with EpisodeStore(folder) as store:
        for one in records:
            store.append(one)
    return folder


def toy_run(folder: Path, policy: Callable, n: int = 8, **breaks: str) -> Path:
    """Play the toy into a store; `breaks` says of items (by number: i0="step") where their world breaks."""
    items = toy_task.items("test", n, 0)
    for name, place in breaks.items():
        items[int(name[1:])]["breaks"] = place
    room = Room("toy", EMBEDDED, toy_task.Environment)
    with EpisodeStore(folder) as store:
        play(room, items, policy, toy_task.PROTOCOL, own(toy_task), model="m@1", seed=0, store=store, retries=0,
             progress=False)  # fmt: skip
    return folder

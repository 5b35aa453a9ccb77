"""A task for tests: count up to a target. Its items can be told to raise, so that every status can be reached."""

from __future__ import annotations

from agenttuning.environments import Move, Step
from agenttuning.protocols import Decoding, Limits, Protocol, TaskRules

NAME = "toy"
INSTRUCTION = "Count."
ACKNOWLEDGEMENT = "Ok."
MAX_TURNS = 6

PROTOCOL = Protocol(
    name="toy",
    version=1,
    decoding=Decoding(max_new_tokens=16, temperature=0.0),
    limits=Limits(repetition=3, invalid_in_a_row=4, action_chars=20),
    void_above=0.2,
    tasks={"toy": TaskRules(max_turns=MAX_TURNS, n=8, seed=0, group="held_in", metric="success_rate")},
)


def items(split: str, n: int, seed: int) -> list[dict]:
    return [{"id": f"toy_{split}_{number}", "target": 1 + (number + seed) % 4} for number in range(n)]


class Environment:
    """`add K` adds K; the episode is over when the count reaches the target, and won when it is exact."""

    def __init__(self, item: dict) -> None:
        self.item = item
        self.closed = False

    def _break(self, place: str) -> None:
        if self.item.get("breaks") == place:
            raise OSError(f"the world broke in {place}")

    def reset(self) -> str:
        self._break("reset")
        self.count = 0
        return f"Count to {self.item['target']}."

    def step(self, action: str) -> Step:
        self._break("step")
        verb, _, number = action.partition(" ")
        if verb != "add" or number not in ("0", "1", "2", "9"):
            return Step("No.", valid=False)
        self.count += int(number)
        return Step(f"At {self.count}.", done=self.count >= self.item["target"])

    def score(self) -> float:
        self._break("score")
        return float(self.count == self.item["target"])

    def oracle(self) -> Move:
        return Move(f"at {self.count}.", "add 1")

    def actions(self) -> list[str]:
        return ["add 0", "add 1", "add 2"]

    def close(self) -> None:
        self._break("close")
        self.closed = True

"""One episode of the os task: a machine, a terminal in it, and the rule that judges.

Actions:

    bash: CODE      typed into the terminal; may be of many lines
    answer: TEXT    the answer to the question; the episode is over
    finish          the work is done; the episode is over, and an answer that is asked for is "None"

Observations are the original's (AgentBench.old, src/tasks/os_interaction/task.py).
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Callable
from typing import Any

from agenttuning.environments import Move, Step
from agenttuning.environments.os_interaction.checks import INIT_S, judge, script_argv
from agenttuning.environments.os_interaction.sandbox import Sandbox, SandboxError
from agenttuning.environments.os_interaction.shell import Shell

SHOWN, KEPT = 800, 780  # characters: above SHOWN the first KEPT and a notice
DEATH_S = 0.5  # from a terminal that is cut off to the word that the machine is dead
PLAUSIBLE = ("ls", "pwd", "whoami", "ls /", "id", "cat /etc/passwd", "history", "echo $HOME")


def observation(output: str) -> str:
    """What the model is told of a command's output."""
    if len(output) > SHOWN:
        output = output[:KEPT] + "\n[truncated because the output is too long]"
    return f"The output of the OS:\n\n{output}" if output else "The output of the OS is empty."


def host_name(item: dict) -> str:
    """As docker's look, but the same whenever the item is played: the prompt shows it."""
    return hashlib.sha256(item["id"].encode()).hexdigest()[:12]


class Environment:
    """Plays one item on a machine that `boot(image, host name)` gives: a sandbox or a container.

    Infrastructure that fails raises: SandboxError, ShellGone (the terminal) or OSError.
    """

    def __init__(self, item: dict, boot: Callable[[str, str], Any]) -> None:
        self.item = item
        self.boot = boot
        self.machine: Any = None
        self.shell: Shell | None = None

    def reset(self) -> str:
        """A fresh machine, prepared by the item's scripts, and the task."""
        self.close()
        self.answer: str | None = None
        self.done_moves, self.printed = 0, ""
        self.result: float | None = None
        if "unplayable" in self.item:
            raise SandboxError(f"{self.item['id']} cannot be played: {self.item['unplayable']}")
        self.machine = self.boot(self.item["image"], host_name(self.item))
        for script in self.item["init"]:
            # Its exit status means nothing, as in the original.
            if self.machine.run(script_argv(self.machine, script, []), INIT_S).code is None:
                raise SandboxError(f"a script that prepares {self.item['id']} ran for more than {INIT_S:.0f} s")
        self.shell = self.machine.shell()
        if self.item["start"]:
            self.shell.run(self.item["start"][1])
        return self.item["description"]

    def step(self, action: str) -> Step:
        """One of the actions of the module."""
        if action == "finish":
            return Step("The task is finished.", done=True)
        if action.startswith("answer:"):
            self.answer = action[7:].removeprefix(" ")
            return Step("The answer is given.", done=True)
        if not action.startswith("bash:"):
            return Step("Nothing was done.", valid=False)
        self.result = None
        output = self.shell.run(action[5:].removeprefix(" "))
        if not self.machine.alive(DEATH_S if self.shell.gone else 0.0):
            raise SandboxError("the machine died during a command")
        self._follow(action)
        return Step(observation(output))

    def score(self) -> float:
        """1.0 when the item's rule accepts what was answered and what was left, else 0.0. Runs the rule's scripts.

        As in the original, an episode that nobody ended is judged like one that ended with `finish`: the protocol's
        `unfinished` says whether it counts.
        """
        if self.result is None:
            self.result = float(judge(self.machine, self.item, self.answer))
        return self.result

    def oracle(self) -> Move:
        """The item's own solution, command by command, then its answer.

        Of AgentBench's items the example script is the solution, and what it prints is the answer; a `match` item has
        no script and its answer is known.
        """
        steps = self._solution()
        if self.done_moves < len(steps):
            thought, code = steps[self.done_moves]
            return Move(thought, f"bash: {code}")
        if self.item.get("silent"):
            return Move("The work is done.", "finish")
        wanted = (self.item.get("match") or {}).get("answer")
        answer = wanted if wanted is not None else self.printed.strip()
        return Move("Now I have the answer.", f"answer: {answer}")

    def _solution(self) -> list[list[str]]:
        """[thought, command] for each of its commands."""
        if "solution" in self.item:
            return self.item["solution"]
        example = self.item.get("example")
        return [["I run what the task needs.", _as_bash(example)]] if example else []

    def _follow(self, action: str) -> None:
        # Another command than the solution's next, a slip of a teacher, moves nothing on: its output is no answer.
        steps = self._solution()
        if self.done_moves < len(steps) and action == f"bash: {steps[self.done_moves][1]}":
            self.done_moves += 1
            self.printed = self.shell.plain

    def actions(self) -> list[str]:
        """Some commands that anybody would try, and some answers."""
        return [*(f"bash: {code}" for code in PLAUSIBLE), "finish", *(f"answer: {n}" for n in (0, 1, 2, 3, "root"))]

    def metrics(self) -> dict:
        """The item's labels and the kind of rule that judged it."""
        rule = "match" if self.item.get("match") else "check"
        return {"rule": rule, "labels": " ".join(self.item.get("labels", []))}

    def abort(self) -> None:
        """End the command that is running, by ending its machine: half a minute of it is long after Ctrl-C."""
        machine = self.machine
        if isinstance(machine, Sandbox):
            machine.kill()

    def close(self) -> None:
        """End the machine and everything in it."""
        if self.shell is not None:
            self.shell.close()
            self.shell = None
        if self.machine is not None:
            self.machine.close()
            self.machine = None


def _as_bash(script: list[str]) -> str:
    language, code = script
    return code if language == "bash" else f"python3 -c {shlex.quote(code)}"

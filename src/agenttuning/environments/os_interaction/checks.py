"""How an episode is judged: by its answer, or by scripts in the machine it leaves behind, as the original does.

    match   the answer is the wanted text, or contains the wanted pattern
    check   scripts run one after the other in the same machine, with the answer and then the output of each script
            before as arguments; all must end with status 0. An entry null is the item's example script: it computes the
            right answer from the machine as it is.

Source: AgentBench.old, src/tasks/os_interaction/task.py (_judge, execute_independent).
"""

from __future__ import annotations

import re
from typing import Protocol

from agenttuning.environments.os_interaction.sandbox import Ran

INIT_S = 120.0  # seconds of one script that prepares a machine; the original has no limits here, we chose
CHECK_S = 60.0  # seconds of one script that judges


class Machine(Protocol):
    """What runs an item: a sandbox, or a container."""

    def run(self, command: list[str], timeout_s: float) -> Ran: ...


def script_argv(machine: Machine, script: list[str], arguments: list[str]) -> list[str]:
    """The command of a script [language, code]; C and C++ are compiled first. ValueError for another language."""
    language, code = script
    if language == "bash":
        return ["bash", "-c", code, *(["--", *arguments] if arguments else [])]
    if language == "python":
        return ["python3", "-c", code, *arguments]
    if language in ("c", "c++"):
        compiler = "gcc -x c" if language == "c" else "g++ -x c++"
        machine.run(["bash", "-c", f'printf %s "$1" | {compiler} -o /tmp/a.out -', "--", code], CHECK_S)
        return ["/tmp/a.out", *arguments]
    raise ValueError(f"a script in {language!r} cannot be run")


def matches(wanted: dict, answer: str | None) -> bool:
    """Whether the answer is the wanted one. `finish` has none, and is never right."""
    if answer is None:
        return False
    if wanted.get("strip"):
        answer = answer.strip()
    if "answer" in wanted:
        return answer == wanted["answer"]
    return re.search(wanted["regex"], answer) is not None


def judge(machine: Machine, item: dict, answer: str | None) -> bool:
    """Whether an episode that ended with `answer` (None: with `finish`) was a success."""
    if item.get("match"):
        return matches(item["match"], answer)
    arguments = [str(answer).replace("\0", "")]
    for script in item["check"]:
        ran = machine.run(script_argv(machine, script or item["example"], arguments), CHECK_S)
        if ran.code != 0:
            return False
        arguments.append(ran.output)
    return True

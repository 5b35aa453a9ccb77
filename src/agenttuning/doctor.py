"""What of the held-in tasks can be played on this machine, by which backend, and what supplies the rest."""

from __future__ import annotations

from collections.abc import Mapping

from agenttuning.environments import HELD_IN, held_in
from agenttuning.stages import check_names, check_options


def doctor(where: Mapping[str, Mapping[str, str]] | None = None) -> list[dict]:
    """Print, for each task and backend, whether it would run here, whether its scores may be set beside the paper's,
    what is missing and the command that supplies it; return the same as rows. `where` are the options that
    `eval-held-in` would be given.
    """
    check_names(where or {})
    rows = [row for task in HELD_IN for row in _rows(task, dict((where or {}).get(task, {})))]
    print(page(rows), flush=True)
    return rows


def _rows(task: str, where: dict[str, str]) -> list[dict]:
    module, rows = held_in(task), []
    check_options(module, where)
    for backend in module.BACKENDS:
        missing = module.missing(backend.name, **where)
        rows.append({"task": task, "backend": backend, "missing": missing, "chosen": False})
    runs = next((row for row in rows if not row["missing"]), None)
    if runs is not None:
        runs["chosen"] = True
    return rows


def page(rows: list[dict]) -> str:
    """The table on the terminal."""
    lines = [f"{'task':<10}{'backend':<13}{'runs here':<11}{'beside the paper':<18}what it is"]
    for row in rows:
        backend = row["backend"]
        runs = "chosen" if row["chosen"] else "no" if row["missing"] else "yes"
        beside = "yes" if backend.comparable else "no"
        lines.append(f"{row['task']:<10}{backend.name:<13}{runs:<11}{beside:<18}{backend.label}")
        lines += [f"{'':<23}missing: {one.what}: {one.command}" for one in row["missing"]]
    return "\n".join([*lines, "", *_around()])


def _around() -> list[str]:
    """What is needed beside the backends: prompts and the benchmarks' items, which nobody else can supply."""
    return [
        "'chosen' plays the benchmark's items (--data TASK=PATH); practice items are played on a task's last backend.",
        "'beside the paper' speaks of the backend: the items must be the benchmark's own as well, and all of them.",
        "An option of a backend is given as --env TASK.OPTION=VALUE, e.g. --env kg.url=http://127.0.0.1:8890/sparql.",
        "prompts   of paper-text and paper-code: AgentInstruct on the Hub, or --prompts its rows, or a checkout",
        "          of AgentBench (git clone https://github.com/THUDM/AgentBench && git -C AgentBench checkout f36853f)",
        "          alfworld's, webshop's and mind2web's demonstrations, which the paper showed, are in the latter only",
    ]

"""Prompts out of a checkout of AgentBench, by reading its source files as data: nothing of them is imported or run.

The files are those of AgentBench.old (THUDM/AgentTuning, folder AgentBench.old) and of THUDM/AgentBench at its first
commit, f36853f. A file that is not shaped as described here is refused, never guessed at.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agenttuning.errors import UserError
from agenttuning.protocols.messages import Message, Prompt, Prompts, assistant, user

SOURCES = {
    "os": ("src/tasks/os_interaction/task.py",),
    "db": ("src/tasks/dbbench/__init__.py",),
    "kg": ("src/tasks/knowledgegraph/task.py",),
    "webshop": ("src/tasks/webshop/__init__.py",),
    "alfworld": ("src/tasks/alfworld/task.py", "src/tasks/alfworld/prompts/alfworld_multiturn_react.json"),
    "mind2web": ("data/mind2web/prompt/llm_prompt_cot.json",),
}
# alfworld/task.py, `prefixes`: which demonstration goes with which task type.
DEMONSTRATIONS = {
    "pick_and_place": "put",
    "pick_clean_then_place": "clean",
    "pick_heat_then_place": "heat",
    "pick_cool_then_place": "cool",
    "look_at_obj": "examine",
    "pick_two_obj": "puttwo",
}


def is_checkout(place: Path) -> bool:
    """Whether a folder holds AgentBench's sources, or AgentTuning's with them in AgentBench.old."""
    return _root(place) is not None


def prompts(task: str, place: Path) -> Prompts:
    """The prompts of `task`. Raises UserError where its file is missing or not shaped as expected."""
    root = _root(place)
    files = [root / name for name in SOURCES[task]]
    for file in files:
        if not file.is_file():
            raise UserError(
                f"{file} is not there; the prompt of {task} is in it; check out THUDM/AgentBench at f36853f, whose "
                "task files are those of the paper's harness, or give AgentInstruct's rows"
            )
    try:
        return _READ[task](*files)
    except (KeyError, ValueError, IndexError, TypeError, SyntaxError, StopIteration) as error:
        raise UserError(
            f"{files[0]} is not shaped as at AgentBench's first commit ({type(error).__name__}: {error}); its prompt "
            "would be a guess; check out THUDM/AgentBench at f36853f"
        ) from error


def _root(place: Path) -> Path | None:
    for root in (place / "AgentBench.old", place):
        if (root / "src" / "tasks").is_dir():
            return root
    return None


def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def _constant(tree: ast.Module, name: str) -> Any:
    """The value of a literal assigned to a name at module level."""
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            return ast.literal_eval(node.value)
    raise KeyError(name)


def _injected(tree: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """(role, content) of each `session.inject({...})` in the order of the file."""
    calls = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "inject"
    ]
    for call in sorted(calls, key=lambda call: call.lineno):
        entry = call.args[0]
        if isinstance(entry, ast.Dict):
            values = {key.value: value for key, value in zip(entry.keys, entry.values, strict=True)}
            role = values.get("role")
            if isinstance(role, ast.Constant):
                yield role.value, values["content"]


def _messages(pairs: Iterator[tuple[str, str]]) -> tuple[Message, ...]:
    # Content is stripped when the chat template is applied, as in the original; here it stays as it is.
    return tuple(user(text) if role == "user" else assistant(text, loss=False) for role, text in pairs)


def _lead(content: ast.expr) -> str:
    """The constant text that a string expression starts with."""
    while isinstance(content, ast.BinOp):
        content = content.left
    if isinstance(content, ast.JoinedStr):
        content = content.values[0]
    return content.value if isinstance(content, ast.Constant) else ""


def _fixed(pairs: list[tuple[str, str]], lead: str) -> Prompts:
    prompt = Prompt(_messages(pairs), lead, "AgentBench checkout")
    return lambda _item: prompt


def _os(file: Path) -> Prompts:
    tree = _tree(file)
    (_, instruction), (_, problem), *_ = _injected(tree)
    demonstration = _constant(tree, "ONE_SHOT")
    joins = [node for node in ast.walk(tree) if isinstance(node, ast.AugAssign) and "ONE_SHOT" in ast.dump(node)]
    first = ast.literal_eval(instruction) + _lead(joins[0].value) + demonstration[0]["content"]
    rest = [(turn["role"], turn["content"]) for turn in demonstration[1:]]
    return _fixed([("user", first), *rest], _lead(problem))


def _db(file: Path) -> Prompts:
    return _fixed([("user", _constant(_tree(file), "big_prompt")), ("agent", _acknowledged(_tree(file)))], "")


def _kg(file: Path) -> Prompts:
    tree = _tree(file)
    turns = [("user" if place % 2 == 0 else "agent", text) for place, text in enumerate(_constant(tree, "ONE_SHOT"))]
    opening = [("user", _constant(tree, "INSTRUCTIONS")), ("agent", _acknowledged(tree))]
    leads = [_lead(content) for role, content in _injected(tree) if isinstance(content, ast.BinOp)]
    return _fixed([*opening, *turns], next(lead for lead in leads if lead.endswith(": ")))


def _webshop(file: Path) -> Prompts:
    tree = _tree(file)
    shown = [(role, content.value) for role, content in _injected(tree) if isinstance(content, ast.Constant)]
    if len(shown) < 2 or len(shown) % 2 == 0:  # the acknowledgement, then whole exchanges
        raise ValueError(f"{len(shown)} fixed messages")
    return _fixed([("user", _constant(tree, "prompt")), *shown], "")


def _alfworld(file: Path, demonstrations: Path) -> Prompts:
    tree = _tree(file)
    functions = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    returned = next(node for node in ast.walk(functions["get_task_instruction"]) if isinstance(node, ast.Return))
    opening = [("user", ast.literal_eval(returned.value)), ("agent", _acknowledged(tree))]
    run = list(ast.walk(functions["alfworld_run"]))
    assigned = [node for node in run if isinstance(node, ast.Assign)]
    lead = next(text for node in assigned if (text := _lead(node.value)).startswith("Here is your task"))
    example = next(text for node in assigned if (text := _lead(node.value)).startswith("Here is one example"))
    shown = json.loads(demonstrations.read_text(encoding="utf-8"))

    def of_kind(kind: str) -> Prompt:
        first, *rest = shown[DEMONSTRATIONS[kind]]
        turns = [("user" if place % 2 else "agent", text) for place, text in enumerate(rest)]
        return Prompt(_messages([*opening, ("user", example + first), *turns]), lead, "AgentBench checkout")

    made = {kind: of_kind(kind) for kind in DEMONSTRATIONS}
    return lambda item: next(prompt for kind, prompt in made.items() if item["kind"].startswith(kind))


def _mind2web(file: Path) -> Prompts:
    turns = json.loads(file.read_text(encoding="utf-8"))
    if turns[-1]["content"]:  # the place of the question
        raise ValueError("the last message is not empty")
    return _fixed([(turn["role"], turn["content"]) for turn in turns[:-1]], "")


def _acknowledged(tree: ast.Module) -> str:
    return next(content.value for role, content in _injected(tree) if role == "agent")


_READ = {"os": _os, "db": _db, "kg": _kg, "webshop": _webshop, "alfworld": _alfworld, "mind2web": _mind2web}

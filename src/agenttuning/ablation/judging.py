"""What the variants are scored on here: said before anything is trained, and which words each evaluation gets.

The CPU twin has a suite of its own, played by `eval`. Every other recipe is judged by the paper's tasks: `eval-held-in`
and `eval-general`, with the options that the user gave once for all variants.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from agenttuning import protocols, stages
from agenttuning.environments import HELD_IN, benchmark_items, held_in
from agenttuning.errors import UserError
from agenttuning.recipe import Recipe
from agenttuning.suites import suite_for

Parse = Callable[[str, list[str]], argparse.Namespace]
# Options that name one model or one place: every variant would be judged by it, or written over by the next.
OF_ONE = ("model", "server", "served_model", "out", "run_dir")
GENERAL_PROTOCOL = ["--protocol", "paper"]  # the one whose scores may stand beside the paper's


@dataclass(frozen=True)
class Judging:
    """verbs: {verb: the words it gets besides the recipe's}, in the order in which they run; lines: what was found."""

    verbs: dict[str, list[str]] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)

    @property
    def suite(self) -> bool:
        """Whether the twin's own suite judges, whose groups are means of scores x 100."""
        return "eval" in self.verbs


def judging(main: Recipe, given: Mapping[str, list[str]], parse: Parse, known: Mapping[str, object]) -> Judging:
    """What can be scored here. given: {verb: the user's words for it}; known: the verbs that there are.

    Raises UserError for words that the verb does not take, that name one model for all, or that are for a verb which
    does not judge this recipe.
    """
    verbs = ("eval",) if has_suite(main) else ("eval-held-in", "eval-general")
    if wrong := [verb for verb in given if verb not in verbs]:
        raise UserError(
            f"--{wrong[0]} is given, and {main.name} is judged by {' and '.join(verbs)}; it would do nothing; leave it "
            "out"
        )
    made = Judging()
    for verb in verbs:
        if verb not in known:
            made.lines.append(f"{verb}: not in this version; its scores will be missing")
            continue
        words = given.get(verb, [])
        said = _parsed(verb, main, words, parse)
        found = {"eval": _suite, "eval-held-in": _held_in, "eval-general": _general}[verb](main, words, said)
        made.lines.extend(f"{verb}: {line}" for line in found[1])
        if found[0] is not None:
            made.verbs[verb] = found[0]
    return made


def has_suite(recipe: Recipe) -> bool:
    """Whether a suite of evaluation/suites/ judges models that are trained on these sources."""
    try:
        suite_for(recipe)
    except UserError:
        return False
    return True


def _parsed(verb: str, main: Recipe, words: list[str], parse: Parse) -> argparse.Namespace:
    try:
        said = parse(verb, [str(main.path), *words])
    except SystemExit:  # argparse has said what is wrong
        raise UserError(f"--{verb} holds words that `agenttuning {verb}` does not take; nothing was started") from None
    for name in OF_ONE:
        if getattr(said, name, None) is not None:
            raise UserError(
                f"--{verb} holds --{name.replace('_', '-')}, which is one for all variants: they would get the same "
                "scores or the same place; leave it out, or judge one variant by itself: the lines that begin with $ "
                "are its commands"
            )
    if said.overrides:
        raise UserError(f"--{verb} holds {said.overrides[0]}; what changes the recipe goes before it, without --{verb}")
    return said


Found = tuple[list[str] | None, list[str]]


def _suite(main: Recipe, words: list[str], said: argparse.Namespace) -> Found:
    suite = suite_for(main)
    return words, [f"{suite.label}: {', '.join(suite.tasks)}"]


def _held_in(main: Recipe, words: list[str], said: argparse.Namespace) -> Found:
    """The tasks whose benchmark is here are played; the others' practice items would be played for no score."""
    rules = protocols.find(said.protocol)
    data = dict(pair.split("=", 1) for pair in said.data if "=" in pair)
    env = [pair.partition("=") for pair in said.env]
    ready, lines = [], []
    for task in said.task or list(HELD_IN):
        options = {name.partition(".")[2]: value for name, _, value in env if name.partition(".")[0] == task}
        why = _not_ready(task, data, said, rules, options)
        lines.append(f"{task}: {why or 'ready'}")
        ready += [] if why else [task]
    if not ready:
        return None, [*lines, "no task can be scored here: --eval-held-in='--data TASK=PATH ...' (docs/held-in.md)"]
    kept = [] if said.task else [word for task in ready for word in ("--task", task)]
    if said.task and (idle := [task for task in said.task if task not in ready]):
        raise UserError(f"--eval-held-in asks for {idle[0]}, which cannot be scored here: {'; '.join(lines)}")
    return [*words, *kept], lines


def _not_ready(
    task: str, data: Mapping[str, str], said: argparse.Namespace, rules: protocols.Protocol, options: Mapping[str, str]
) -> str:
    """Why a task would have no score of its benchmark here, as far as items and backend tell without playing."""
    module = held_in(task) if task in HELD_IN else None
    if module is None:
        stages.check_names([task])
    if task not in data:
        return f"not scored, no items of {module.BENCHMARK}: --data {task}=PATH"
    if rules.prompts == "ours":
        return f"not scored, {rules.label} is not the paper's protocol"
    try:
        items = module.load(data[task])
        where = dict(options)
        if option := getattr(module, "DATA_OPTION", None):
            where.setdefault(option, data[task])
        backends = dict(pair.split("=", 1) for pair in said.backend if "=" in pair)
        backend = stages.choose_backend(module, backends.get(task, "auto"), where)
    except UserError as error:
        return f"not scored: {' '.join(str(error).split())}"
    if not backend.comparable:
        return f"not scored, backend {backend.name}: {backend.label}"
    items, wanted = items[: said.items], rules.rules(task).n
    if len(items) != wanted:
        return f"not scored, {len(items)} items, and {module.BENCHMARK} has {wanted}"
    if other := benchmark_items.differ(task, items):
        return f"not scored: {other}"
    if said.prompts and not Path(said.prompts).exists():
        return f"not scored, --prompts {said.prompts} does not exist"
    return ""


def _general(main: Recipe, words: list[str], said: argparse.Namespace) -> Found:
    spoken = [] if any(word.split("=")[0] == "--protocol" for word in words) else GENERAL_PROTOCOL
    missing = [path for _, _, path in (pair.partition("=") for pair in getattr(said, "data", [])) if path]
    if gone := [path for path in missing if not Path(path).exists()]:
        raise UserError(f"--eval-general is to read {gone[0]}, which does not exist; nothing was started")
    shown = " ".join([*spoken, *words])
    return [*spoken, *words], [f"{shown}; what no --data names comes from the Hub"]

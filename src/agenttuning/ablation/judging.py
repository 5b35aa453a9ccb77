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
from agenttuning.errors import UserError, nearest
from agenttuning.plan import evaluation as plan_evaluation
from agenttuning.recipe import Recipe
from agenttuning.suites import suite_for

Parse = Callable[[str, list[str]], argparse.Namespace]
# Options that name one model or one place: every variant would be judged by it, or written over by the next.
OF_ONE = ("model", "server", "served_model", "out", "run_dir")
PAPER = "paper"  # the general protocol whose scores may stand beside the paper's


@dataclass(frozen=True)
class Judging:
    """verbs: {verb: the words it gets besides the recipe's}, in the order in which they run; tasks: those of the paper
    that are scored; lines: what was found, for the user.
    """

    verbs: dict[str, list[str]] = field(default_factory=dict)
    tasks: list[str] = field(default_factory=list)
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
        found = {"eval": _suite, "eval-held-in": _held_in, "eval-general": _general}[verb](main, said)
        lines, tasks, more = found
        made.lines.extend(f"{verb}: {line}" for line in lines)
        made.tasks.extend(tasks)
        if tasks:
            made.verbs[verb] = [*words, *more]
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


Found = tuple[list[str], list[str], list[str]]  # lines for the user, tasks that are scored, words to add to the user's


def _suite(main: Recipe, said: argparse.Namespace) -> Found:
    suite = suite_for(main)
    return [f"{suite.label}: {', '.join(suite.tasks)}"], suite.tasks, []


def _held_in(main: Recipe, said: argparse.Namespace) -> Found:
    """The tasks whose benchmark is here are played; the others' practice items would be played for no score."""
    rules = protocols.find(said.protocol)
    data = dict(pair.split("=", 1) for pair in said.data if "=" in pair)
    env = [pair.partition("=") for pair in said.env]
    whys = {}
    for task in said.task or HELD_IN:
        options = {name.partition(".")[2]: value for name, _, value in env if name.partition(".")[0] == task}
        whys[task] = _not_ready(task, data, said, rules, options) or _too_large(main)
    return _found("eval-held-in", whys, bool(said.task), "--data TASK=PATH ...' (docs/held-in.md)")


def _found(verb: str, whys: dict[str, str], named: bool, how: str) -> Found:
    """whys: {task: why it cannot be scored here, or ""}; named: whether the user asked for these tasks by name."""
    ready = [task for task, why in whys.items() if not why]
    lines = [f"{task}: {why or 'ready'}" for task, why in whys.items()]
    if named and len(ready) < len(whys):
        raise UserError(f"--{verb} asks for what cannot be scored here: {'; '.join(lines)}; nothing was started")
    if not ready:
        return [*lines, f"nothing of it can be scored here: --{verb}='{how}"], [], []
    return lines, ready, [] if named else [word for task in ready for word in ("--task", task)]


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


def _too_large(main: Recipe) -> str:
    """Why a model in this process, which has one GPU, cannot be asked; "" where it can, as far as the plan tells."""
    jobs = plan_evaluation.jobs(main, "tuned", ["os"])
    if not jobs or jobs[0].gpus in (None, 1):
        return ""
    return f"not scored, the model needs {jobs[0].gpus} {jobs[0].gpu_name} and a server (recipes/ablations/README.md)"


def _general(main: Recipe, said: argparse.Namespace) -> Found:
    """What has its prompts here; items that no --data names come from the Hub, which is not asked now."""
    from agenttuning.general.protocol import find

    rules, data = find(said.protocol), dict(pair.split("=", 1) for pair in said.data if "=" in pair)
    whys = {}
    for task in said.task or rules.tasks:
        if task not in rules.tasks:
            raise UserError(f"protocol {rules.label} has no task {task!r}; {nearest(task, rules.tasks)}")
        told, why = rules.tasks[task], ""
        if task in data and not Path(data[task]).exists():
            why = f"not scored, --data {task}={data[task]} does not exist"
        elif said.protocol != PAPER:
            why = f"not scored, {rules.label} is not the paper's protocol"
        elif told.prompts == "source" and said.prompts and not Path(said.prompts).is_dir():
            why = f"not scored, --prompts {said.prompts} is no folder here"
        elif told.prompts == "source" and not said.prompts:
            why = "not scored, no prompts: --prompts AgentTuning, a checkout of THUDM/AgentTuning"
        elif task == "mt_bench" and not getattr(said, "judge", None):
            why = "not scored, no judge: --judge URL"
        elif said.items is not None and said.items < told.n:
            why = f"not scored, {said.items:,} items, and the benchmark has {told.n:,}"
        whys[task] = why or (_too_large(main) if said.backend == "transformers" else "")
    return _found("eval-general", whys, bool(said.task), "--prompts AgentTuning ...' (docs/general.md)")

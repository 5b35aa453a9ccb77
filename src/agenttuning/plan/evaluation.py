"""What an evaluation that was not run would take: the command, and hours and dollars, reckoned and not measured.

Work is items x calls x tokens at the limits of the protocols, so hours are rather too many than too few; playing is
reckoned for a model in this process, without the time of the environments (docker, a SPARQL server) and of a judge.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agenttuning import model_size
from agenttuning.plan.target import USABLE_MEMORY
from agenttuning.preflight import plan_command

if TYPE_CHECKING:
    from agenttuning.recipe import Recipe

GIB = 2**30


@dataclass(frozen=True)
class Work:
    """One task: items, calls of the model for each, tokens that a call reads and writes."""

    items: int
    calls: int
    reads: int
    writes: int


# Items: evaluation/published.yaml. Calls: the turns that evaluation/protocols/paper-text.yaml allows (of mind2web the
# questions of a tournament). Tokens of a call: about 2,048 read and 120 written over AgentBench's tasks, our estimate;
# MMLU's prompts of five examples 650, our estimate, and letters are read off, not written. GSM8K: eight worked examples
# are about 1,200, our estimate, and 512 new is the script's limit. HumanEval: a function's head, our estimate, and 512,
# our choice, as no script was published. MT-Bench: 80 questions of two turns; answers of about 400 and prompts of 600,
# our estimate, where the script allows 4,096.
HELD_IN = {
    "alfworld": Work(50, 35, 2048, 120),
    "webshop": Work(200, 10, 2048, 120),
    "mind2web": Work(1173, 3, 2048, 120),
    "kg": Work(150, 15, 2048, 120),
    "os": Work(144, 8, 2048, 120),
    "db": Work(300, 16, 2048, 120),
}
GENERAL = {
    "mmlu": Work(14042, 1, 650, 0),
    "humaneval": Work(164, 1, 200, 512),
    "gsm8k": Work(1319, 1, 1200, 512),
    "mt_bench": Work(80, 2, 600, 400),
}
NO_HARNESS = {
    "rewoo": "no harness in this version, and none could repeat it: its judge and its tools are retired models",
}
# Of a token written by transformers' generate: 34 ms for Llama-2-13B's 40 layers, our estimate (13,000 calls of
# AgentBench one after the other in 15 hours); a batch takes about as long as one.
STEP_SECONDS_A_LAYER = 0.034 / 40
WIDTH = 32  # prompts decoded together, policies/transformers_policy.py

# Where the items and prompts are: of a checkout of THUDM/AgentTuning (with its copy of AgentBench), of AgentBench
# itself (the graph's ontology), of WebShop, of the image that has mind2web's list, and of FastChat, which has all files
# of MT-Bench (whether its Space has, we could not see). Options that the backend needs whose scores may be set beside
# the paper's: docs/environments.
CHECKOUT, AGENTBENCH = "AgentTuning", "AgentTuning/AgentBench.old"
WORDS = {
    "alfworld": f"--data alfworld={AGENTBENCH}/data/alfworld/std.json --backend alfworld=textworld",
    "webshop": "--data webshop=webshop/data --backend webshop=full",
    "mind2web": "--data mind2web=data_std --env mind2web.data_std=data_std",
    "kg": f"--data kg={AGENTBENCH}/data/knowledgegraph/std.json --env kg.url=http://127.0.0.1:3001/sparql "
    "--env kg.checkout=AgentBench",
    "os": f"--data os={AGENTBENCH}/data/os_interaction --env os.network=bridge",
    "db": f"--data db={AGENTBENCH}/data/dbbench/standard.jsonl",
    "mt_bench": "--data mt_bench=FastChat --judge https://api.openai.com/v1 --judge-model gpt-4-0613 "
    "--judge-key-env OPENAI_API_KEY",
}
PROMPTED = ("mmlu", "gsm8k")  # general tasks whose prompts are in the checkout


@dataclass(frozen=True)
class Job:
    """One command for some tasks of a side. hours, usd: None where the model or the machine is not known."""

    tasks: tuple[str, ...]
    command: str
    gpus: int | None
    gpu_name: str
    hours: float | None
    usd: float | None

    @property
    def cost(self) -> str:
        """`about 1.2 hours on 1 NVIDIA H200, $6.10`, or that it is not known."""
        if self.hours is None:
            return "hours not known: the recipe names no machine, or its model is not in our table"
        long = f"{60 * self.hours:.0f} minutes" if self.hours < 1 else f"{self.hours:.1f} hours"
        price = "" if self.usd is None else f", ${self.usd:,.2f}"
        return f"about {long} on {self.gpus} {self.gpu_name}{price}"


def jobs(recipe: Recipe, side: str, tasks: Iterable[str]) -> list[Job]:
    """The commands that would score these tasks of a side (base, tuned, released), one a verb; none for tasks without
    a harness.
    """
    tasks = list(tasks)
    found = []
    for verb, work in (("eval-held-in", HELD_IN), ("eval-general", GENERAL)):
        if chosen := [task for task in tasks if task in work]:
            found.append(_job(recipe, side, verb, work, chosen))
    return found


def not_run(recipe: Recipe, side: str, task: str) -> str:
    """Why there is no score: the command with hours and cost, or that there is no harness."""
    if found := jobs(recipe, side, [task]):
        return f"{found[0].command}: {found[0].cost} (reckoned, not measured)"
    return NO_HARNESS.get(task, "no harness in this version")


def _job(recipe: Recipe, side: str, verb: str, work: dict[str, Work], tasks: list[str]) -> Job:
    launch, model = recipe.launch, model_size.find(recipe.values["model_name_or_path"])
    known = not isinstance(model, str) and launch.gpu_memory_gib and launch.gpu_peak_tflops and launch.mfu
    gpus = _gpus(model, launch.gpu_memory_gib) if known else None
    hours = sum(_hours(work[task], model, gpus, launch) for task in tasks) if known else None
    usd = hours * gpus * launch.usd_per_gpu_hour if known and launch.usd_per_gpu_hour else None
    whole = len(tasks) == len(work) and side != "released"  # whose verb has both kinds of tasks
    words = [] if whole else [f"--task {task}" for task in tasks]
    words += [WORDS[task] for task in tasks if task in WORDS]
    if verb == "eval-held-in" or any(task in PROMPTED for task in tasks):
        words.append(f"--prompts {CHECKOUT}")
    words += _player(recipe, side, gpus)
    verb = "eval-released" if side == "released" else verb
    if recipe.run_dir_override:
        words.append(f"--run-dir {shlex.quote(str(recipe.run_dir))}")
    return Job(tuple(tasks), _command(recipe, verb, words), gpus, launch.gpu_name or "GPU", hours, usd)


def _player(recipe: Recipe, side: str, gpus: int | None) -> list[str]:
    """Who answers: a model in this process has one GPU; larger ones are behind a server."""
    if gpus is not None and gpus > 1:
        name = side if side != "released" else "agentlm"
        return ["--server http://127.0.0.1:8000/v1", f"--served-model {name}"]
    return [f"--model {recipe.values['model_name_or_path']}"] if side == "base" else []


def _command(recipe: Recipe, verb: str, words: list[str]) -> str:
    plan, verb_words = plan_command(recipe), " ".join(words)
    if name := plan.removeprefix("make plan-") if plan.startswith("make plan-") else "":
        return f"make {verb}-{name}" + (f" ARGS='{verb_words}'" if words else "")
    return f"agenttuning {verb} {recipe.path} {verb_words}".rstrip()


def _gpus(model: model_size.Architecture, memory_gib: float) -> int:
    """GPUs that hold the weights in bfloat16 in four fifths of what may be used, the rest for keys and values."""
    need, gpus = 2 * model_size.parameters(model) / GIB, 1
    while need > 0.8 * USABLE_MEMORY * memory_gib * gpus:
        gpus *= 2
    return gpus


def _hours(work: Work, model: model_size.Architecture, gpus: int, launch) -> float:
    calls = work.items * work.calls
    read = calls * work.reads * 2 * model_size.parameters(model) / (launch.gpu_peak_tflops * 1e12 * launch.mfu * gpus)
    steps = -(-calls // WIDTH) * work.writes
    return (read + steps * STEP_SECONDS_A_LAYER * model.layers) / 3600

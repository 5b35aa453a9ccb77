"""The tables that the recipes' READMEs carry, made from `plan` and published.yaml: a test holds the pages to them.

`PYTHONPATH=src:tests python -m helpers.readme_table` writes the figures into the pages again, after a change of plan or
recipes; look at what it changed.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from agenttuning import plan, recipe
from agenttuning.machine import Machine
from agenttuning.plan.target import USABLE_MEMORY
from agenttuning.preflight import plan_command
from agenttuning.recipe.schema import REPOSITORY
from agenttuning.scoring import published

NOWHERE = Machine(gpus=(), cpus=2, memory_gib=24.0, world_size=None)
# GiB as nvidia-smi reports them: RTX 4090, A100-40GB, RTX A6000 (48 GB), H100-80GB, H200
CARDS = {"24 GB": 24.0, "40 GB": 40.0, "48 GB": 48.0, "80 GB": 79.6, "H200": 140.0}
FILES = ("sft.yaml", "sft-lora.yaml", "sft-qlora.yaml")


def plans(folder: Path) -> dict[str, plan.Plan]:
    """{file name: its plan on the machine that it states}"""
    found = [folder / name for name in FILES if (folder / name).is_file()]
    return {path.name: plan.make(recipe.load(path), machine=NOWHERE) for path in found}


def plan_table(folder: Path) -> str:
    """What each recipe of the folder takes."""
    made = plans(folder)
    rows = [["", *(f"[{name}]({name})" for name in made)], ["---"] * (len(made) + 1)]
    rows += [[words, *(say(one) for one in made.values())] for words, say in ROWS.items()]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def _command(one: plan.Plan) -> str:
    return f"`{plan_command(recipe.load(one.file)).replace('make plan', 'make train')}`"


def _machine(one: plan.Plan) -> str:
    return (
        f"{one.target.gpus} x {one.target.name.removeprefix('NVIDIA ')}, `{one.settings['launch.accelerate_config']}`"
    )


def _cards(one: plan.Plan) -> str:
    total = one.memory_gib["total"]
    return next((f"{name}" for name, size in CARDS.items() if total <= size * USABLE_MEMORY), "none of ours")


def _states(one: plan.Plan) -> str:
    held = one.memory_gib
    return ", ".join(f"{held[name]:.1f}" for name in ("weights", "gradients", "optimizer"))


def _rest(one: plan.Plan) -> str:
    held = one.memory_gib
    return ", ".join(f"{held[name]:.1f}" for name in ("activations", "loss_head", "copies"))


def _disk(one: plan.Plan) -> str:
    """The kept checkpoints, the best, the one being written, and the model, as training/disk.py counts them."""
    many = one.settings["save_total_limit"] + (one.settings["metric_for_best_model"] is not None) + 1
    width = 4 if one.settings["dtype"] == "float32" else 2
    model = 4 * one.trained if one.method == "full" else 4 * one.trained + width * one.parameters
    return f"{(many * 12 * one.trained + model) / 1e9:,.0f}"


ROWS = {
    "command": _command,
    "trained parameters": lambda one: f"{one.trained / 1e6:,.0f} M",
    "planned for": _machine,
    "smallest card that fits, as many": _cards,
    "GiB per GPU": lambda one: f"{one.memory_gib['total']:.1f}",
    "of it weights, gradients, optimizer": _states,
    "of it activations, output head, copies": _rest,
    "GB of disk": _disk,
    "EFLOP": lambda one: f"{one.flops / 1e18:.1f}",
    "assumed share of 989 TFLOP/s": lambda one: f"{one.settings['launch.mfu']:.0%}",
    "GPU-hours": lambda one: f"{one.gpu_hours:.1f}",
    "hours": lambda one: f"{one.wall_hours:.1f}",
    "cost at $5 per GPU-hour": lambda one: f"${one.usd:,.0f}",
    "peak memory, speed": lambda one: "not yet measured",
}


def score_table(size: str) -> str:
    """Published scores of the base model and of AgentLM, for "7b", "13b" or "70b"."""
    told = published.load()
    base, tuned = f"llama-2-{size}-chat", f"agentlm-{size}"
    lines = [f"| task | Llama-2-{size}-chat | AgentLM-{size.upper()} |", "|---|---|---|"]
    for name, task in told.tasks.items():
        values = [told.scores[name][model] for model in (base, tuned)]
        lines.append(f"| {task['title']} | {' | '.join(f'{value:g}' for value in values)} |")
    for group, words in (("held_in", "held-in"), ("held_out", "held-out"), ("general", "general")):
        values = [told.overalls[group][model] for model in (base, tuned)]
        lines.append(f"| **overall, {words}** | {' | '.join(f'{value:g}' for value in values)} |")
    return "\n".join(lines) + "\n"


# a command with its figure in running text: `make train-NAME ARGS='...'` (12.3 GiB)
SINGLE = re.compile(r"`make\s+train-(\S+)\s+ARGS='([^']*)'`\s+\(([\d.]+)\s+GiB\)")


def single_plan(name: str, words: str) -> plan.Plan:
    """The plan of `make train-NAME ARGS=WORDS`, for a NAME like 13b or 13b-lora."""
    size, _, kind = name.partition("-")
    path = REPOSITORY / f"recipes/agentlm-{size}/sft{'-' * bool(kind)}{kind}.yaml"
    return plan.make(recipe.load(path, shlex.split(words)), machine=NOWHERE)


def written_again(folder: Path) -> str:
    """The folder's README with today's figures."""
    page = (folder / "README.md").read_text()
    page = re.sub(r"^\|  \| \[sft\.yaml\].*?\n(?=\n)", lambda _: plan_table(folder), page, flags=re.M | re.S)

    def figure(found: re.Match) -> str:
        gib = single_plan(found[1], found[2]).memory_gib["total"]
        return found[0].replace(f"{found[3]}", f"{gib:.1f}")

    return SINGLE.sub(figure, page)


if __name__ == "__main__":
    for path in sorted((REPOSITORY / "recipes").rglob("sft.yaml")):
        if path.parent.name != "agentlm-tiny":
            (path.parent / "README.md").write_text(written_again(path.parent))

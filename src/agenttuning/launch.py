"""How `train` gets its processes: a recipe whose accelerate config asks for several is started again by accelerate.

Inside a launch (accelerate, torchrun) WORLD_SIZE is set and nothing is started. Light: no torch.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from agenttuning.errors import UserError
from agenttuning.machine import Machine, detect
from agenttuning.recipe import Recipe
from agenttuning.recipe.accelerate_config import validate

# accelerate starts a single process without WORLD_SIZE, which must not start another one in turn.
LAUNCHED = "AGENTTUNING_LAUNCHED"


def inside(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this process was started by a launcher."""
    return "WORLD_SIZE" in environment or LAUNCHED in environment


def command(
    recipe: Recipe,
    data_paths: Mapping[str, Path] | None = None,
    resume: str = "auto",
    machine: Machine | None = None,
    allow_partial: bool = False,
) -> list[str] | None:
    """The `accelerate launch` command that trains `recipe` here, one process per visible GPU; None when this process
    can train by itself.

    The command repeats what came from the command line, as `recipe.origin` records it. Raises UserError where several
    machines are asked for, because only their owner knows the addresses.
    """
    config = validate(recipe.accelerate_config)
    if inside() or config["num_processes"] == 1:
        return None
    ours = ["-m", "agenttuning", "train", str(recipe.path), *overrides(recipe), "--resume", resume]
    ours += ["--allow-partial"] if allow_partial else []
    ours += ["--run-dir", str(recipe.run_dir)]
    ours += [word for name, path in (data_paths or {}).items() for word in ("--data", f"{name}={path}")]
    launch = ["--config_file", str(recipe.accelerate_config)]
    if config["num_machines"] > 1:
        typed = " ".join([*launch, "--machine_rank RANK --main_process_ip ADDRESS", *ours])
        raise UserError(
            f"{recipe.accelerate_config.name} spreads the run over {config['num_machines']} machines, and which of "
            f"them this one is cannot be guessed; on each of them run: accelerate launch {typed}"
        )
    processes = max(1, len((machine or detect()).gpus))
    start = [sys.executable, "-m", "accelerate.commands.launch", *launch, "--num_processes", str(processes)]
    return [*start, *ours]


def overrides(recipe: Recipe) -> list[str]:
    """The `key=value` words that give this recipe again from its file: JSON is YAML, and sources go in as a whole."""
    flat, words = recipe.flat(), {}
    for key, where in recipe.origin.items():
        if where == "command line" and key.startswith("mixture.sources."):
            sources = {name: asdict(source) for name, source in recipe.mixture.sources.items()}
            words["mixture.sources"] = sources
        elif where == "command line":
            words[key] = flat[key]
    return [f"{key}={json.dumps(value)}" for key, value in words.items()]


def run(words: list[str]) -> None:
    """Run the launch to its end. Exits this process with its status when that is not 0."""
    print("starting:", " ".join(words), flush=True)
    status = subprocess.run(words, env={**os.environ, LAUNCHED: "1"}).returncode
    if status:
        raise SystemExit(status if status > 0 else 128 - status)


def prepare_process(recipe: Recipe) -> None:
    """Make this process fit its accelerate config, before torch looks at the GPUs.

    A launcher hands the config's precision to its processes; without one only the recipe speaks, so the two must agree.
    Raises UserError otherwise.
    """
    config = validate(recipe.accelerate_config)
    asked = "fp16" if recipe.values.get("fp16") else "no" if recipe.values.get("bf16") is False else "bf16"
    if config.get("mixed_precision", "no") != asked:
        raise UserError(
            f"{recipe.accelerate_config.name} says mixed_precision: {config.get('mixed_precision', 'no')} and the "
            f"recipe asks for {asked} (TRL's default is bf16: true); which of them wins would depend on the launcher; "
            "make them agree"
        )
    if config["num_processes"] == 1 and not config.get("use_cpu") and not inside():
        # the Trainer would put every visible GPU under nn.DataParallel, which TRL refuses
        os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]

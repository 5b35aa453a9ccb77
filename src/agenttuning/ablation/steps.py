"""One verb of the command line, run as a step: its status is told, and what fails ends nothing but itself."""

from __future__ import annotations

import shlex
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path

from agenttuning import launch
from agenttuning.ablation.variants import data_for
from agenttuning.errors import Stopped
from agenttuning.recipe import Recipe
from agenttuning.recipe.accelerate_config import validate

Verbs = Callable[[list[str]], int]  # the command line in this process: words -> exit status


def words(verb: str, recipe: Recipe, more: list[str] | None = None) -> list[str]:
    """The words that run `verb` on this variant: what anybody could type."""
    return [verb, str(recipe.path), *launch.overrides(recipe), "--run-dir", str(recipe.run_dir), *(more or [])]


def data_words(recipe: Recipe, data: Mapping[str, Path]) -> list[str]:
    """--data NAME=PATH for the sources that this variant draws from."""
    return [word for name, path in data_for(recipe, data).items() for word in ("--data", f"{name}={path}")]


def apart(recipe: Recipe) -> bool:
    """Whether steps get a process each: on GPUs, whose memory nothing gives back as surely as the end of a process."""
    return not validate(recipe.accelerate_config).get("use_cpu")


def run(what: list[str], recipe: Recipe, here: Verbs) -> bool:
    """Run one step and say whether it succeeded. Raises Stopped or KeyboardInterrupt where it was told to end."""
    print(f"$ {command(what)}", flush=True)
    told: list[int] = []
    if apart(recipe):
        status = launch.wait([sys.executable, "-m", "agenttuning", *what], told=told)
    else:
        status = _here(what, here)
    if signal.SIGTERM in told or status == 128 + signal.SIGTERM:
        raise Stopped(signal.SIGTERM)
    if told or status == 128 + signal.SIGINT:
        raise KeyboardInterrupt
    return status == 0


def command(what: list[str]) -> str:
    """The step as a line for a shell."""
    return shlex.join(["agenttuning", *what])


def _here(what: list[str], here: Verbs) -> int:
    try:
        return here(what)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 1
    except Exception:  # a defect or a full GPU in one variant: told, counted, and the next one is tried
        traceback.print_exc()
        return 1

"""The miniature's verbs: `base` makes its base model, `quickstart` runs the whole method. They only call the others."""

from __future__ import annotations

import json
import platform
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from agenttuning.machine import detect, peak_rss

if TYPE_CHECKING:
    from agenttuning.recipe import Recipe

BASE = ("drill.yaml", "pretrain.yaml")  # the base model's recipes, each of which starts from what the one before made
CORPORA = ("drill-corpus.yaml", "corpus.yaml", "general.yaml")
RECORD = "quickstart.json"
MINIATURE = (
    "A miniature: a Llama of {:.1f} M parameters in worlds made by a program. It shows the method, on the entry points "
    "that the full size uses; its scores say nothing about Llama-2 and are not comparable with the paper's."
)


class Clock:
    """Wall seconds by stage, printed as each one begins and ends."""

    def __init__(self) -> None:
        self.begun, self.seconds = time.perf_counter(), {}

    @contextmanager
    def stage(self, name: str, what: str):
        """Announce a stage and note how long its block took."""
        print(f"\n== {name}: {what}", flush=True)
        begun = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - begun
        print(f"== {name}: {self.seconds[name]:.0f} s", flush=True)

    def total(self) -> float:
        """Seconds since this clock was made."""
        return time.perf_counter() - self.begun


def base(path: str | Path) -> Path:
    """Make the base model of the recipe folder `path` and return its folder: corpora, random start, then its recipes.

    What is finished and still the same is not made again. Raises UserError as its parts do.
    """
    from agenttuning.miniature.corpus import write_corpus
    from agenttuning.miniature.start import make_start
    from agenttuning.recipe import load
    from agenttuning.train import train

    folder = Path(path)
    for name in CORPORA:
        print(f"written: {write_corpus(folder / name)}", flush=True)
    recipes = [load(folder / name) for name in BASE]
    start = Path(recipes[0].values["model_name_or_path"])
    print(f"written: {make_start(folder / 'config.json', start, recipes[0].values['seed'])}", flush=True)
    for recipe in recipes:
        model = train(recipe)
    return model


def ready(recipe: Recipe) -> None:
    """Make what a recipe of the miniature starts from: the base model of its folder, and the trajectories. Nothing for
    a recipe that starts from another model. Raises UserError as its parts do.
    """
    from agenttuning.collect import collect
    from agenttuning.recipe import load

    folder = recipe.path.parent
    last = folder / BASE[-1]
    if last.is_file() and load(last).run_dir / "model" == Path(recipe.values["model_name_or_path"]):
        base(folder)
        collect(folder / "collect.yaml")


def quickstart(path: str | Path, agent_items: int | None = None, general_items: int | None = None) -> Path:
    """Run the method on the recipe folder `path`, from nothing to a results page, and return the page's path.

    Base model, stage 1 (collect), stage 2 (train on the mixture), evaluation of base and tuned model on at most
    `agent_items` and `general_items` a task, report. A second call goes on where the first one ended. Raises UserError
    as its parts do.
    """
    from agenttuning.collect import collect
    from agenttuning.evaluate import evaluate
    from agenttuning.recipe import load
    from agenttuning.report import report
    from agenttuning.train import train

    folder, clock = Path(path), Clock()
    recipe = load(folder / "sft.yaml")
    with clock.stage("base model", "general skills, no agent"):
        started_from = base(folder)
    with clock.stage("stage 1", "a teacher plays training items; what reaches the threshold is kept"):
        print(f"written: {collect(folder / 'collect.yaml')}", flush=True)
    with clock.stage("stage 2", "fine-tune on the mixture of agent and general conversations"):
        tuned = train(recipe)
    for side, model in (("base", started_from), ("tuned", tuned)):
        with clock.stage(f"evaluate {side}", "unseen items: held-in, held-out and general tasks"):
            evaluate(recipe, model=model, agent_items=agent_items, general_items=general_items)
    with clock.stage("report", "base and tuned side by side"):
        page = report(recipe)
    print(f"\n{MINIATURE.format(parameters(tuned) / 1e6)}\n{_record(recipe.run_dir, clock)}", flush=True)
    return page


def parameters(model: Path) -> int:
    """How many numbers the weights of a model folder hold, from their headers."""
    from safetensors import safe_open

    total = 0
    for file in model.glob("*.safetensors"):
        with safe_open(file, "pt") as weights:
            for name in weights.keys():  # noqa: SIM118 (not a mapping)
                size = 1
                for length in weights.get_slice(name).get_shape():
                    size *= length
                total += size
    return total


def _record(run_dir: Path, clock: Clock) -> str:
    """Write quickstart.json into the run's folder; return its line for the terminal."""
    record = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{platform.system()} {platform.machine()}, {detect().cpus} cores usable",
        "seconds": clock.seconds,
        "total_seconds": clock.total(),
        "peak_rss_gib": peak_rss(children=True) / 2**30,
    }
    (run_dir / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    stages = ", ".join(f"{name} {seconds:.0f}" for name, seconds in clock.seconds.items())
    return (
        f"{clock.total():.0f} s in all ({stages}); at most {record['peak_rss_gib']:.1f} GiB resident; "
        f"{record['machine']}; written: {run_dir / RECORD}"
    )

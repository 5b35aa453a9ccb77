"""What a model is judged by: a versioned file of evaluation/suites/, read strictly, and which of them fits a recipe."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from agenttuning import protocols
from agenttuning.errors import UserError
from agenttuning.recipe.schema import REPOSITORY, build, one_of
from agenttuning.recipe.yaml_io import read_mapping

if TYPE_CHECKING:
    from agenttuning.recipe import Recipe

FOLDER = REPOSITORY / "evaluation" / "suites"


@dataclass(frozen=True)
class GeneralTask:
    """A task of lm-eval (evaluation/lm_eval/mini_NAME.yaml): test items, the seed that draws them, its metric."""

    n: int
    seed: int
    metric: str = one_of("acc", "exact_match", "pass_at_1")


@dataclass(frozen=True)
class Suite:
    """`judges`: names of data sources; the suite is for models trained on these and no others."""

    name: str
    version: int
    judges: list[str]
    protocol: protocols.Protocol
    general: dict[str, GeneralTask]
    path: Path

    @property
    def label(self) -> str:
        """`name@version`, as it stands in every score."""
        return f"{self.name}@{self.version}"

    @property
    def tasks(self) -> list[str]:
        """All task names, agent tasks first."""
        return [*self.protocol.tasks, *self.general]


@dataclass(frozen=True)
class _File:
    name: str
    version: int
    judges: list
    protocol: str
    general: dict


def load(path: str | Path) -> Suite:
    """Read a suite file. Raises UserError for a missing key, an unknown one (naming the nearest) or a bad value."""
    path = Path(path)
    top = build(_File, read_mapping(path), str(path))
    protocol = protocols.load(path.parent.parent / "protocols" / f"{top.protocol}.yaml")
    general = {name: build(GeneralTask, task, f"{path}: general.{name}") for name, task in top.general.items()}
    twice = set(general) & set(protocol.tasks)
    if twice or any(task.n < 1 for task in general.values()):
        raise UserError(f"{path}: names of general tasks must not be those of agent tasks, and n must be at least 1")
    return Suite(top.name, top.version, top.judges, protocol, general, path)


def test_items(suite: Suite) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Every test item of a suite as (task, id, texts): what a model is shown first, and a general task's answer."""
    from agenttuning.environments import TASKS
    from agenttuning.miniature.lm_eval_docs import documents

    for task, rules in suite.protocol.tasks.items():
        for item in TASKS[task].items("test", rules.n, rules.seed):
            environment = TASKS[task].Environment(item)
            try:
                yield task, item["id"], (environment.reset(),)
            finally:
                environment.close()
    for task, rules in suite.general.items():
        for document in documents(task, rules.n, rules.seed):
            yield task, document["id"], (document["question"], document["answer"])


def suite_for(recipe: Recipe, folder: Path = FOLDER) -> Suite:
    """The suite that judges models of this recipe. Raises UserError where there is none in this version."""
    for path in sorted(folder.glob("*.yaml")):
        suite = load(path)
        if recipe.mixture.sources.keys() <= set(suite.judges):
            return suite
    raise UserError(
        f"{recipe.name} is trained on {', '.join(recipe.mixture.sources)}, and no suite of evaluation/suites/ judges "
        "models of that; numbers from other tasks would be no comparison with the paper; the paper's held-in tasks are "
        f"`agenttuning eval-held-in {recipe.path}`, its general ones `agenttuning eval-general {recipe.path}` (docs/"
        "held-in.md, docs/general.md); the whole evaluation in small is that of recipes/agentlm-tiny"
    )

"""How a general benchmark is asked and read: one file of evaluation/general/ a protocol, read strictly.

A score without its protocol is not a score, and scores of two protocols, or of two versions of one, are never put in
one column.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from agenttuning.errors import UserError, nearest
from agenttuning.recipe.schema import REPOSITORY, build, one_of
from agenttuning.recipe.yaml_io import read_mapping

FOLDER = REPOSITORY / "evaluation" / "general"
TASK_FILES = REPOSITORY / "evaluation" / "lm_eval"
OTHERS = ("sources", "mt_bench")  # files of FOLDER that are no protocols: where items are, MT-Bench's own rules
BENCHMARKS = ("mmlu", "gsm8k", "humaneval", "mt_bench")


@dataclass(frozen=True)
class Rules:
    """One benchmark under one protocol. lm_eval: stem of its task file in evaluation/lm_eval/; None: not lm-eval's.

    n: items of the whole benchmark. chat: how messages become a prompt, `fschat` (the text that fschat 0.2.31 made of
    them, which the original was asked with), `trained` (as in training), or `none`. letters: which token of a choice is
    looked at, the `natural` next ones or the `last_sub_token` of " A" after a prompt that ends in a space.
    max_prompt_tokens: of a longer prompt the last max_prompt_tokens - 1 are left, as the original does. prompts_sha256:
    of the authors' words where `prompts` are the source's (Originals.digest). not_comparable: why a score may not be
    set beside the paper's although protocol and items are these; None where it may.
    """

    n: int
    metric: str = one_of("acc", "exact_match", "pass_at_1", "rating")
    lm_eval: str | None = None
    chat: str = one_of("fschat", "trained", "none", default="trained")
    system_prompt: str | None = None
    letters: str = one_of("natural", "last_sub_token", default="natural")
    max_prompt_tokens: int | None = None
    prompts: str = one_of("source", "own", default="own")
    prompts_sha256: str | None = None
    not_comparable: str | None = None


@dataclass(frozen=True)
class GeneralProtocol:
    """`void_above`: the share in [0, 1] of items lost to infrastructure above which a benchmark has no score."""

    name: str
    version: int
    void_above: float
    tasks: dict[str, Rules]

    @property
    def label(self) -> str:
        """`name@version`, as it stands in every score."""
        return f"{self.name}@{self.version}"


@dataclass(frozen=True)
class _File:
    name: str
    version: int
    void_above: float
    tasks: dict


def find(name: str, folder: Path = FOLDER) -> GeneralProtocol:
    """A protocol by its name in evaluation/general/. Raises UserError where there is none, or for a wrong value."""
    known = sorted(file.stem for file in folder.glob("*.yaml") if file.stem not in OTHERS)
    if name not in known:
        raise UserError(f"there is no general protocol {name!r}; nothing could be asked by it; {nearest(name, known)}")
    path = folder / f"{name}.yaml"
    top = build(_File, read_mapping(path), str(path))
    tasks = {task: build(Rules, rules, f"{path}: tasks.{task}") for task, rules in top.tasks.items()}
    for task, rules in tasks.items():
        file = TASK_FILES / f"{rules.lm_eval}.yaml"
        if task not in BENCHMARKS or rules.n < 1 or not (rules.lm_eval is None or file.is_file()):
            raise UserError(
                f"{path}: tasks.{task} cannot be asked: it must be one of {', '.join(BENCHMARKS)}, have items, and "
                f"name a task file in {TASK_FILES}"
            )
        if (rules.prompts == "source") != (rules.prompts_sha256 is not None):
            raise UserError(
                f"{path}: tasks.{task}: prompts_sha256 goes with `prompts: source`: with other words the score would "
                "pass for the paper's"
            )
    if top.version < 1 or not 0 <= top.void_above <= 1 or top.name != name:
        raise UserError(f"{path}: name must be the file's, version at least 1, void_above a share in [0, 1]")
    return GeneralProtocol(top.name, top.version, top.void_above, tasks)

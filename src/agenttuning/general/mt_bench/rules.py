"""The rules of MT-Bench, read strictly from evaluation/general/mt_bench.yaml, where each value has its source."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from agenttuning.errors import UserError
from agenttuning.recipe.schema import REPOSITORY, build
from agenttuning.recipe.yaml_io import read_mapping

FILE = REPOSITORY / "evaluation" / "general" / "mt_bench.yaml"


@dataclass(frozen=True)
class JudgeRules:
    """How the judge is asked. reference_categories: those judged with a reference answer. judgings: of each answer.
    retries: of a reply without a rating. of_the_paper: names that GPT-4 of 2023 is served by.
    """

    reference_categories: list
    temperature: float
    max_tokens: int
    judgings: int
    retries: int
    of_the_paper: list


@dataclass(frozen=True)
class DataRules:
    """Where the files are on the Hub, and what the benchmark's own are made up of (`sha256` by file name)."""

    hub_id: str
    repo_type: str
    revision: str
    first_id: int
    last_id: int
    in_category: int
    sha256: dict


@dataclass(frozen=True)
class PracticeRules:
    """The tiny twin: how many questions, the seed that draws them, tokens of an answer."""

    n: int
    seed: int
    max_new_tokens: int


@dataclass(frozen=True)
class Rules:
    """All of it. temperatures: by category, 0 is greedy. max_new_tokens: of one answer. void_above: share of questions
    in [0, 1]."""

    name: str
    version: int
    system_prompt: str
    max_new_tokens: int
    temperatures: dict
    seed: int
    judge: JudgeRules
    void_above: float
    data: DataRules
    practice: PracticeRules

    @property
    def label(self) -> str:
        """`name@version`, as it stands in every score."""
        return f"{self.name}@{self.version}"


@dataclass(frozen=True)
class _File:
    name: str
    version: int
    system_prompt: str
    max_new_tokens: int
    temperatures: dict
    seed: int
    judge: dict
    void_above: float
    data: dict
    practice: dict


def read_rules(path: Path = FILE) -> Rules:
    """The rules of a file. Raises UserError for an unknown or missing key, a wrong type or an impossible value."""
    file = build(_File, read_mapping(path), str(path))
    blocks = {"judge": JudgeRules, "data": DataRules, "practice": PracticeRules}
    made = {name: build(kind, getattr(file, name), f"{path}, {name}") for name, kind in blocks.items()}
    rules = Rules(**{**vars(file), **made})
    whole = {"max_new_tokens": rules.max_new_tokens, "judge.max_tokens": rules.judge.max_tokens}
    whole |= {"judge.judgings": rules.judge.judgings, "judge.retries + 1": rules.judge.retries + 1}
    for name, value in whole.items():
        if value < 1:
            raise UserError(f"{path}: {name} is {value}; nothing would be asked; give at least 1")
    for category, value in rules.temperatures.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
            raise UserError(f"{path}: the temperature of {category} is {value!r}; write 0.0 for greedy, or more")
    return rules

"""The miniature's general conversations on disk, in the `messages` format: one JSONL file.

    seed: 0
    out: runs/agentlm-tiny/sources/general
    conversations: 8000
    exchanges: 4                # at least so many questions and answers in a conversation, as ShareGPT has several
    weights: {knowledge: 1, arithmetic: 2, functions: 1, reading: 1}    # how often a skill is drawn

They stand in for a pretraining corpus and for ShareGPT; the same file gives the same bytes.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from dataclasses import dataclass
from pathlib import Path

from agenttuning.errors import UserError
from agenttuning.miniature.general import SKILLS
from agenttuning.recipe.schema import build
from agenttuning.recipe.yaml_io import read_mapping

FILE = "train.jsonl"


@dataclass(frozen=True)
class _File:
    conversations: int
    exchanges: int
    weights: dict
    out: str
    seed: int = 0


def write_corpus(path: str | Path) -> Path:
    """Write what the file at `path` asks for and return the folder, which is replaced whole or not at all.

    Raises UserError for a bad file, an unknown skill, and a folder that holds something else.
    """
    plan = build(_File, read_mapping(Path(path)), str(path))
    unknown = set(plan.weights) - set(SKILLS)
    if unknown:
        raise UserError(f"{path}: unknown skill {min(unknown)!r}; it would be left out; known: {', '.join(SKILLS)}")
    out = Path(plan.out)
    if out.exists() and any(entry.name != FILE for entry in out.iterdir()):
        raise UserError(f"{out} holds other files than a corpus; they would be lost; choose another folder in {path}")
    partial = out.parent / f".{out.name}.{os.getpid()}.tmp"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    rng = random.Random(f"corpus/{plan.seed}")
    with (partial / FILE).open("w", encoding="utf-8") as file:
        for number in range(plan.conversations):
            messages = conversation(rng, plan.weights, plan.exchanges)
            file.write(json.dumps({"id": f"{out.name}_{number}", "messages": messages}) + "\n")
    shutil.rmtree(out, ignore_errors=True)
    partial.rename(out)
    return out


def conversation(rng: random.Random, weights: dict[str, float], exchanges: int) -> list[dict]:
    """Messages of one conversation: samples of skills drawn by weight until there are `exchanges` exchanges."""
    turns: list[tuple[str, str]] = []
    while len(turns) < exchanges:
        [skill] = rng.choices(list(weights), list(weights.values()))
        turns += SKILLS[skill](rng, False).turns
    return [
        {"role": role, "content": text}
        for turn in turns
        for role, text in zip(("user", "assistant"), turn, strict=True)
    ]

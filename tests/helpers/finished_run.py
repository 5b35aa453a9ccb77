"""A run folder as it stands after training and two evaluations, made in seconds without a model: scripted policies
play the agent tasks, and the general scores are written down.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

from agenttuning import protocols, recipe
from agenttuning.environments import TASKS, room
from agenttuning.episodes.runner import play
from agenttuning.episodes.store import EpisodeStore
from agenttuning.evaluate import add_general
from agenttuning.general_tasks import score
from agenttuning.policies.random_policy import random_policy
from agenttuning.policies.teacher import teacher
from agenttuning.protocols.messages import own
from agenttuning.recipe.schema import REPOSITORY
from agenttuning.scoring import scores
from agenttuning.suites import GeneralTask

METRICS = {"knowledge": "acc", "arithmetic": "exact_match", "functions": "pass_at_1"}


def finished_run(folder: Path, n: int = 12):
    """Write the folder and return the recipe it is the run of."""
    one = recipe.load(REPOSITORY / "recipes/agentlm-tiny/sft.yaml", (), folder)
    players = {"base": random_policy(0), "tuned": teacher(0.08, 0.02, 0)}
    rights = {"base": (0.9, 0.8, 0.7), "tuned": (0.88, 0.85, 0.72)}
    for side, policy in players.items():
        judged(folder, side, policy, n, dict(zip(METRICS, rights[side], strict=True)), one)
    log = [{"step": step, "loss": 0.2 + 3 * math.exp(-step / 90), "loss_by_source": {
        "miniature-agent": 0.1 + 3.4 * math.exp(-step / 60), "miniature-general": 0.25 + 2.8 * math.exp(-step / 110)}}
        for step in range(25, 601, 25)]  # fmt: skip
    training = {
        "recipe_hash": one.hash,
        "steps": 600,
        "tokens": 3_500_000,
        "seconds": 340.0,
        "device": "cpu",
        "log": log,
    }
    (folder / "train.json").write_text(json.dumps(training))
    (folder / "data").mkdir()
    shares = {"miniature-agent": 0.2, "miniature-general": 0.8}
    mixture = {name: _source(share) for name, share in shares.items()}
    (folder / "data" / "mixture.json").write_text(json.dumps({"sources": mixture}))
    return one


def judged(folder: Path, side: str, policy, n: int, rights: dict[str, float], one) -> dict:
    """Write eval/SIDE: episodes and scores."""
    protocol = protocols.load()
    place, records = folder / "eval" / side, []
    with EpisodeStore(place) as store:
        for task in TASKS.values():
            items = task.items("test", n, 0)
            model = f"{side}@0123456789abcdef"
            records += play(room(task), items, policy, protocol, own(task), model=model, seed=0, store=store)
    found = scores.score_records(records, protocol)
    add_general(found, {name: _general(name, n, share) for name, share in rights.items()})
    notes = {"suite": "miniature@1", "recipe_hash": one.hash, "date": "2026-01-02T03:04:05+00:00", "commit": "0" * 40}
    found["notes"] = {**notes, "sandbox": "limits+user+syscalls", "versions": {"python": "3.11.7", "torch": "2.13.0"}}
    scores.write(found, place)
    return found


def _general(name: str, n: int, share: float) -> dict:
    metric = METRICS[name]
    samples = [{"doc": {"id": f"{name}_test_{k}"}, metric: float(k < share * n)} for k in range(n)]
    return score(samples, GeneralTask(n, 0, metric))


def _source(share: float) -> dict:
    return {
        "rows": 2400, "share_asked": share, "share_realised": share, "share_of_supervised_tokens": share, "epochs": 1.5
    }  # fmt: skip

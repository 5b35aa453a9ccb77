"""Judge a model: it plays the agent tasks of its suite and takes the general tasks. Both resume.

<run directory>/eval/LABEL/ gets episodes.jsonl (every episode, scoring can be done again from it), docs/ (documents,
task files and samples of the general tasks), general.json (their scores and what they were made from) and scores.json.
LABEL is "base" for the recipe's model_name_or_path, "tuned" for the run's own model, else the folder's name.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from agenttuning import environments, run_record
from agenttuning.chat import fingerprint
from agenttuning.errors import UserError
from agenttuning.model_files import find_model, model_digest
from agenttuning.scoring import intervals, scores
from agenttuning.stopping import stoppable
from agenttuning.suites import Suite, suite_for

if TYPE_CHECKING:
    from agenttuning.policies.transformers_policy import TransformersPolicy
    from agenttuning.recipe import Recipe

GENERAL = "general.json"


@stoppable()
def evaluate(
    recipe: Recipe,
    model: str | Path | None = None,
    out: str | Path | None = None,
    agent_items: int | None = None,
    general_items: int | None = None,
    tasks: Iterable[str] | None = None,
) -> dict:
    """Judge the run's own model, or `model` (a folder or a Hub id), print the scores and return what scores.json holds.

    At most `agent_items` and `general_items` a task, by default what protocol and suite say; `tasks` names some of the
    suite's, by default all. `out` is written to instead of <run directory>/eval/LABEL. Raises UserError when there is
    no model, no suite for the recipe, or no task of a name.
    """
    suite = suite_for(recipe)
    chosen = _choose(suite, tasks)
    path, label = find_model(recipe, model)
    folder = Path(out) if out else recipe.run_dir / "eval" / label
    folder.mkdir(parents=True, exist_ok=True)
    digest = model_digest(path)
    name = f"{label}@{digest[:16]}"
    print(f"judging {label}: {path} (weights {digest[:16]}) by {suite.label}, into {folder}", flush=True)

    policy = _policy(path, suite, recipe)
    found = _play(policy, suite, chosen, folder, name, agent_items)
    general = _general(policy, suite, chosen, folder, digest, general_items, recipe)
    add_general(found, general)
    found["notes"] = _notes(recipe, suite, label, path, digest)
    if "functions" in general:
        found["notes"]["sandbox"] = _guards()
    scores.write(found, folder)
    print(summary(found), flush=True)
    return found


def _choose(suite: Suite, tasks: Iterable[str] | None) -> list[str]:
    chosen = suite.tasks if tasks is None else list(tasks)
    for name in chosen:
        if name not in suite.tasks:
            raise UserError(f"{suite.label} has no task {name!r}; it cannot be scored; it has {', '.join(suite.tasks)}")
    if not chosen:
        raise UserError("no task was named; there is nothing to judge by")
    return chosen


def _policy(path: Path, suite: Suite, recipe: Recipe) -> TransformersPolicy:
    from agenttuning.policies.transformers_policy import load

    decoding = suite.protocol.decoding
    return load(
        path,
        max_new_tokens=decoding.max_new_tokens,
        temperature=decoding.temperature,
        system_prompt=recipe.mixture.system_prompt,
        chat_format=recipe.mixture.chat_format,
    )


def _play(
    policy: TransformersPolicy, suite: Suite, chosen: list[str], folder: Path, name: str, most: int | None
) -> dict:
    """Play the chosen agent tasks; the content of scores.json so far."""
    from agenttuning.episodes.runner import play
    from agenttuning.episodes.store import EpisodeStore
    from agenttuning.protocols.messages import own

    protocol = suite.protocol
    records = []
    with EpisodeStore(folder, _rules_digest(suite, policy)) as store:
        for task in (environments.TASKS[name] for name in protocol.tasks if name in chosen):
            rules = protocol.rules(task.NAME)
            items = task.items("test", _at_most(rules.n, most), rules.seed)
            room, prompts = environments.room(task), own(task)
            records += play(room, items, policy, protocol, prompts, model=name, seed=rules.seed, store=store)
    if records:
        return scores.score_records(records, protocol)
    empty = {"tasks": [], "score": None, "interval": None}
    groups = {"held_in": empty, "held_out": empty}
    return {"schema": scores.SCHEMA, "model": name, "protocol": protocol.label, "tasks": {}, "groups": groups}


def _rules_digest(suite: Suite, policy: TransformersPolicy) -> str:
    """sha256, in hex, of the protocol, of the code of the environments, and of how a conversation becomes ids."""
    code = sorted(Path(environments.__file__).parent.glob("*.py"))
    parts = [repr(suite.protocol), *(path.read_text(encoding="utf-8") for path in code), _asked_with(policy)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _asked_with(policy: TransformersPolicy) -> str:
    return json.dumps([fingerprint(policy.tokenizer), policy.system_prompt])


def _general(
    policy: TransformersPolicy,
    suite: Suite,
    chosen: list[str],
    folder: Path,
    digest: str,
    most: int | None,
    recipe: Recipe,
) -> dict[str, dict]:
    """Scores of the chosen general tasks, taken from general.json where they were made from the very same things."""
    from agenttuning.general_tasks import TASKS, run_general
    from agenttuning.miniature.lm_eval_docs import documents

    tasks = {k: replace(task, n=_at_most(task.n, most)) for k, task in suite.general.items() if k in chosen}
    made_from = {
        name: hashlib.sha256(
            json.dumps(
                [digest, repr(task), documents(name, task.n, task.seed), _asked_with(policy)]
                + [(TASKS / f"mini_{name}.yaml").read_text(encoding="utf-8")]
            ).encode()
        ).hexdigest()
        for name, task in tasks.items()
    }
    kept = _read_general(folder / GENERAL)
    left = {name: task for name, task in tasks.items() if kept.get(name, {}).get("made_from") != made_from[name]}
    if len(left) < len(tasks):
        print(f"already judged, same model and documents: {', '.join(k for k in tasks if k not in left)}", flush=True)
    if left:
        new = run_general(policy.model, policy.tokenizer, left, folder / "docs", recipe.mixture.system_prompt)
        kept |= {name: {"made_from": made_from[name], "score": entry} for name, entry in new.items()}
        partial = folder / f".{GENERAL}.tmp"
        partial.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
        partial.replace(folder / GENERAL)
    return {name: {**kept[name]["score"], "asked": suite.general[name].n} for name in tasks}


def _read_general(path: Path) -> dict:
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # absent or damaged: judged again
    return kept if isinstance(kept, dict) else {}


def add_general(found: dict, general: dict[str, dict]) -> None:
    found["tasks"] |= general
    group = {"tasks": list(general), "score": None, "interval": None}
    if general:
        values = [entry["score"] for entry in general.values()]
        group["score"] = sum(values) / len(values)
        group["interval"] = list(intervals.mean_of(values, [entry["interval"] for entry in general.values()]))
    found["groups"] = {**found["groups"], "general": group}


def _at_most(n: int, most: int | None) -> int:
    if most is not None and most < 1:
        raise UserError(f"{most} items were asked for; a score needs at least 1")
    return n if most is None else min(n, most)


def _notes(recipe: Recipe, suite: Suite, label: str, path: Path, digest: str) -> dict:
    """What a score is not a score without."""
    return {
        "label": label,
        "suite": suite.label,
        "protocol": suite.protocol.label,
        "recipe": recipe.name,
        "recipe_hash": recipe.hash,
        "model_path": str(path),
        "model_sha256": digest,
        "seeds": {
            **{name: rules.seed for name, rules in suite.protocol.tasks.items()},
            **{name: task.seed for name, task in suite.general.items()},
        },
        "versions": {**run_record.versions(), "lm-eval": metadata.version("lm_eval")},
        "commit": run_record.commit(recipe.root),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _guards() -> str:
    """What holds foreign code on this machine, in the words of sandbox.Verdict.guards."""
    from agenttuning.sandbox import run_functions

    return run_functions([("def f(x): return x", "f", [[1, 1]])])[0].guards


def summary(found: dict) -> str:
    """One line a task and a group."""
    lines = []
    for name, entry in found["tasks"].items():
        result = f"void: {entry['void']}" if entry["void"] else _with_interval(entry)
        statuses = ", ".join(f"{key} {count}" for key, count in entry["statuses"].items())
        lines.append(f"{name:<11} {result:<22} n={entry['n']:<4} {statuses}")
    for name, group in found["groups"].items():
        if group["score"] is not None:
            lines.append(f"{name.replace('_', '-') + ' mean':<13} {_with_interval(group)}  over {len(group['tasks'])}")
    return "\n".join(lines)


def _with_interval(entry: dict) -> str:
    low, high = entry["interval"]
    return f"{entry['score']:5.1f} [{low:.1f}, {high:.1f}]"

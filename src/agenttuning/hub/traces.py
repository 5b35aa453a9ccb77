"""The tuned model's episodes as a data set of session traces, which the Hub shows in its trace viewer.

Only episodes of <run_dir>/eval/tuned go, and of a server's folder that the comparison counts as `tuned`: the model that
is published played them. The base model's and a teacher's stay here. Files are those of `episodes.exports.traces`, one
a session, in a folder a task, which is a config of the data set.
"""

from __future__ import annotations

import re
import shutil
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agenttuning.episodes import index as indexed
from agenttuning.episodes.exports import export
from agenttuning.episodes.store import FILE
from agenttuning.errors import UserError
from agenttuning.hub import check, secrets
from agenttuning.hub.model_card import number
from agenttuning.hub.results import SIDES, check_weights, labels
from agenttuning.hub.staged import CARD, Staged, new
from agenttuning.recipe.schema import REPOSITORY
from agenttuning.recipe.yaml_io import read_mapping
from agenttuning.report import templating
from agenttuning.scoring import comparison, intervals

if TYPE_CHECKING:
    from agenttuning.episodes.index import Entry, Index
    from agenttuning.recipe import Recipe

STAGED, REGISTRATION = "hub/traces", "hub/eval.yaml"
SPLIT = "test"
SESSION = re.compile(r"[A-Za-z0-9._-]+/[A-Za-z0-9._-]*-[0-9a-f]{16}\.jsonl")
TEXTS = REPOSITORY / "evaluation" / "trace_texts.yaml"
UNKNOWN = {"prompts": "not known here", "items": "not known here"}
TEMPLATES = Path(__file__).parent / "templates"
TAGS = ("agenttuning", "agents", "agent-traces", "arxiv:2310.12823")


def stage(recipe: Recipe, record: dict[str, Any] | None, cleared: set[secrets.Finding]) -> Staged:
    """Write <run_dir>/hub/traces. record: train.json of the run. Raises UserError where there is no episode of the
    tuned model, for episodes of other weights, and for what looks like a secret.
    """
    own = recipe.run_dir / "eval" / "tuned"
    index = read(recipe.run_dir / "eval", labels(comparison.read(recipe.run_dir), "tuned"))
    for entry in index.entries:
        if entry.path.is_relative_to(own):
            check_weights(entry.model, "tuned", (record or {}).get(SIDES["tuned"]), entry.path)
    with new(recipe.run_dir / STAGED) as partial:
        done = export(index, index.entries, "traces", partial / "sessions")
        for path in sorted((partial / "sessions").iterdir()):
            if path.name != CARD:
                shutil.move(path, partial / path.name)
        shutil.rmtree(partial / "sessions")
        text = card(recipe, index, done.left_out, sorted(path.name for path in partial.iterdir()))
        (partial / CARD).write_text(text, encoding="utf-8")
        check.card(text, "dataset")
        check.folder(partial, check.TRACE_FILES)
        findings = list(check.secrets_in(partial, secrets.of_this_process()))
        secrets.refuse(findings, cleared, recipe.run_dir / secrets.FOUND)
    registration(recipe, index)
    model = index.entries[0].model
    message = f"Episodes of {recipe.name}, model {model}"
    owns = "sessions (TASK/ITEM-DIGEST.jsonl) of earlier pushes"
    return Staged("traces", recipe.run_dir / STAGED, recipe.publish.hub_traces_id, "dataset", message, owned, owns)


def registration(recipe: Recipe, index: Index) -> Path:
    """Write <run_dir>/hub/eval.yaml, which would make a data set a Benchmark of the Hub (docs/publishing.md says why it
    is not sent): a task for each config (huggingface.co/docs/hub/eval-results).
    """
    import yaml

    tasks = sorted({entry.task for entry in index.entries})
    content = {
        "name": f"Agent tasks of {recipe.name}",
        "description": f"Episodes of {', '.join(tasks)}, scored by the protocols of AgentTuning's open rebuild.",
        "evaluation_framework": "agenttuning",
        "tasks": [{"id": task, "config": task, "split": SPLIT} for task in tasks],
    }
    path = recipe.run_dir / REGISTRATION
    path.write_text(yaml.safe_dump(content, sort_keys=False, width=120), encoding="utf-8")
    return path


def owned(name: str) -> bool:
    """Whether a file of the repository is a session that a push wrote."""
    return bool(SESSION.fullmatch(name))


def read(folder: Path, labels: list[str]) -> Index:
    """All episodes below `folder`/LABEL. Raises UserError where there are none."""
    whole = indexed.Index(folder)
    for path in (path for label in labels for path in sorted((folder / label).rglob(FILE))):
        one = indexed.read(path)
        whole.entries += one.entries
        whole.superseded += one.superseded
        whole.unfinished += one.unfinished
    if not whole.entries:
        raise UserError(
            f"{folder}/{labels[0]} holds no episode; there is nothing to publish; let the tuned model play first "
            "(agenttuning eval, eval-held-in), or leave publish.hub_traces_id out"
        )
    return whole


def card(recipe: Recipe, index: Index, left_out: Counter, folders: list[str]) -> str:
    """The text of README.md. folders: those of the tasks, each a config."""
    tasks, known = sorted({entry.task for entry in index.entries}), read_mapping(TEXTS)
    values = {
        "name": recipe.name,
        "repository": recipe.publish.hub_traces_id,
        "model": recipe.publish.hub_model_id,
        "weights": sorted({entry.model for entry in index.entries}),
        "groups": [_group(name, entries) for name, entries in _groups(index).items()],
        "left_out": sorted((+left_out).items()),
        "texts": [{"task": task, **known.get(task, UNKNOWN)} for task in tasks],
        "folders": folders,
    }
    body = templating.render("traces_card.md.jinja", values, TEMPLATES)
    return f"---\n{header(recipe, folders, len(index.entries))}---\n\n{body}"


def header(recipe: Recipe, folders: list[str], sessions: int) -> str:
    """The YAML header: a config for each task."""
    from huggingface_hub import DatasetCardData

    from agenttuning.hub.card import size_category

    configs = [{"config_name": name, "data_files": [{"split": SPLIT, "path": f"{name}/*.jsonl"}]} for name in folders]
    data = DatasetCardData(
        pretty_name=f"Episodes of {recipe.name}",
        language=["en"],
        license="other",
        license_name="by-task",
        tags=list(TAGS),
        size_categories=[size_category(sessions)],
        configs=configs,
    )
    return data.to_yaml() + "\n"


def _groups(index: Index) -> dict[tuple[str, str, str], list[Entry]]:
    found: dict[tuple[str, str, str], list[Entry]] = {}
    for entry in sorted(index.entries, key=lambda one: (one.reported_as, one.protocol, one.backend)):
        found.setdefault((entry.reported_as, entry.protocol, entry.backend), []).append(entry)
    return found


def _group(name: tuple[str, str, str], entries: list[Entry]) -> dict[str, Any]:
    """A row of the table: how the episodes of a task under a protocol on a backend ended."""
    results = [entry for entry in entries if not entry.lost]
    won = sum(entry.won for entry in results)
    low, high = intervals.wilson(won, len(results)) if results else (0.0, 1.0)
    shown = f"{number(100 * won / len(results))} ({number(100 * low)} to {number(100 * high)})" if results else "\u2013"
    counts = Counter(entry.status for entry in entries)
    ended = ", ".join(f"{key.replace('_', ' ')} {count:,}" for key, count in counts.most_common())
    return {
        "task": name[0], "protocol": name[1], "backend": name[2], "n": len(entries),
        "lost": len(entries) - len(results), "won": shown, "ended": ended,
    }  # fmt: skip

"""Mind2Web's own files: osunlp/Mind2Web on the Hub (CC BY 4.0), or AgentBench's `data_std`, which has the same form.

A file is a JSON list of tasks {annotation_id, website, confirmed_task, action_reprs, actions}, an action is
{action_uid, cleaned_html, operation {op, value}, pos_candidates, neg_candidates}, a candidate {backend_node_id}. The
ranks of the candidates come from `ranks.jsonl` in the same folder, which scores.py writes.
"""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from pathlib import Path
from typing import Any

from agenttuning.errors import UserError

RANKS = "ranks.jsonl"
COMMAND = "python -m agenttuning.environments.mind2web.scores scores_all_data.pkl"


def load(path: str | Path, top_k: int) -> list[dict]:
    """All steps of the files `*.json` in a folder, tasks in the order of the sha256 of their id: the first n steps are
    then a sample of all sites. Files are read one at a time; a page is held compressed, some 15 kB.

    Candidates with a rank of `top_k` or more are left out. Raises UserError for a missing file or another form.
    """
    folder = Path(path)
    files = _files(folder)
    ranks = _ranks(folder / RANKS)
    tasks: dict[str, list[dict]] = {}
    for file in files:
        for place, task in enumerate(_tasks(file)):
            where = f"{file.name}, task {place}"
            try:
                identity, steps = task["annotation_id"], _steps(task, folder.name, ranks, top_k)
            except (KeyError, TypeError, AttributeError) as error:
                raise UserError(
                    f"{where}: {type(error).__name__} {error}; its steps could not be played; the file is not of "
                    "Mind2Web's form, or ranks.jsonl is of other files"
                ) from None
            if identity in tasks:
                raise UserError(f"{where}: the id {identity} came before; its steps would count twice; remove one")
            tasks[identity] = steps
    order = sorted(tasks, key=lambda identity: hashlib.sha256(identity.encode()).hexdigest())
    return [step for identity in order for step in tasks[identity]]


def task_ids(path: str | Path) -> set[str]:
    """The ids of the tasks in a folder. Raises UserError for a file of another form."""
    try:
        return {task["annotation_id"] for file in _files(Path(path)) for task in _tasks(file)}
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{path}: a task has no id ({error}); its steps could not be told; it is not Mind2Web's"
        ) from None


def _files(folder: Path) -> list[Path]:
    files = sorted(folder.glob("*.json")) if folder.is_dir() else []
    if not files:
        raise UserError(
            f"{folder} is no folder with JSON files; there are no steps to play; give the folder of one split of "
            "osunlp/Mind2Web (test_domain is AgentBench's), unpacked"
        )
    return files


def _tasks(file: Path) -> list[dict]:
    try:
        content = json.loads(file.read_bytes())
    except ValueError as error:
        raise UserError(f"{file} is not JSON ({error}); no step of it could be played; download it again") from None
    if not isinstance(content, list):
        raise UserError(f"{file} holds a {type(content).__name__}, not a list of tasks; it is not a file of Mind2Web")
    return content


def _ranks(file: Path) -> dict[str, dict[str, int]]:
    if not file.is_file():
        raise UserError(
            f"{file} is missing; without the ranks nobody knows which ten elements are asked about; write it with "
            f"{COMMAND} {file}"
        )
    ranks: dict[str, dict[str, int]] = {}
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                ranks[row["step"]] = dict(row["ranks"])
            except (ValueError, KeyError, TypeError):
                raise UserError(
                    f"{file}, line {number}, is no line of ranks; no step could be ranked; write it again: {COMMAND}"
                ) from None
    return ranks


def _steps(task: dict, split: str, ranks: dict[str, dict[str, int]], top_k: int) -> list[dict]:
    steps = []
    for place, action in enumerate(task["actions"]):
        of_step = ranks[f"{task['annotation_id']}_{action['action_uid']}"]
        page = action["cleaned_html"].encode()
        steps.append(
            {
                # What stands before the last "_" names the items in results.
                "id": f"mind2web_{split}_" + f"{task['annotation_id']}-{action['action_uid']}".replace("_", "-"),
                "annotation_id": task["annotation_id"],
                "website": task["website"],
                "task": task["confirmed_task"],
                "previous_actions": list(task["action_reprs"][:place]),
                "html_zlib": base64.b64encode(zlib.compress(page)).decode(),
                "operation": {"op": str(action["operation"]["op"]), "value": str(action["operation"]["value"])},
                "positive": _ranked(action["pos_candidates"], of_step, top_k),
                "negative": _ranked(action["neg_candidates"], of_step, top_k),
            }
        )
    return steps


def _ranked(candidates: list[dict], ranks: dict[str, Any], top_k: int) -> list[list]:
    found = [str(candidate["backend_node_id"]) for candidate in candidates]
    return [[identity, ranks[identity]] for identity in found if ranks.get(identity, top_k) < top_k]

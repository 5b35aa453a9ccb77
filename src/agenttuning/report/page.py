"""What the page and RESULTS.md show, gathered into one mapping for the templates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agenttuning import run_record
from agenttuning.episodes import status, store
from agenttuning.report import figures
from agenttuning.report.figures import Row, Value

if TYPE_CHECKING:
    from agenttuning.recipe import Recipe

MOST_CHARACTERS = 1500  # of a message in a trajectory
WIDTH, HEIGHT = 640, 200  # of the loss curve's own coordinates
MOST_SOURCES = 3  # lines beside the total that can still be told apart
TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


def gather(recipe: Recipe, found: dict[str, dict]) -> dict[str, Any]:
    """Everything the templates need."""
    training = _read(recipe.run_dir / "train.json")
    rows = figures.rows(found)
    return {
        "name": recipe.name,
        "headline": headline(rows),
        "rows": rows,
        "sides": [side for side in figures.SIDES if side in found],
        "errors": figures.error_kinds(found),
        "errors_by_task": {task: figures.error_kinds(found, task) for task in figures.agent_tasks(found)},
        "curve": curve(training.get("log")),
        "mixture": _read(recipe.run_dir / "data" / "mixture.json").get("sources", {}),
        "trajectories": trajectories(recipe.run_dir / "eval"),
        "provenance": provenance(recipe, found, training),
        "commands": commands(recipe),
    }


def headline(rows: list[Row]) -> list[str]:
    """Sentences that say what happened, one a group; a change whose interval holds 0 is called none."""
    sentences = []
    for group, what in {
        "held_in": "On the kinds of task it was tuned on",
        "held_out": "On a kind of task it was never tuned on",
        "general": "On general skills",
    }.items():
        members = [row for row in rows if row.group == group]
        row = next((row for row in members if row.mean), members[0] if members else None)
        if row is None or not isinstance(row.base, Value) or not isinstance(row.tuned, Value) or not row.difference:
            continue
        change = row.difference
        sure = change.low > 0 or change.high < 0
        how = ("rose" if change.score > 0 else "fell") if sure else "did not change measurably"
        sentences.append(f"{what}, the score {how}: {row.base.score:.1f} before, {row.tuned.score:.1f} after.")
    return sentences


def curve(log: Any) -> dict[str, Any] | None:
    """The loss curve in coordinates of WIDTH x HEIGHT, with ticks, and one for each source where the log tells them
    apart; None when there is nothing to draw.
    """
    entries = [
        entry
        for entry in (log if isinstance(log, list) else [])
        if isinstance(entry, dict) and all(isinstance(entry.get(key), int | float) for key in ("step", "loss"))
    ]
    if len(entries) < 2 or entries[0]["step"] == entries[-1]["step"]:
        return None
    points = [(entry["step"], entry["loss"]) for entry in entries]
    sources = _by_source(entries)
    first, last = points[0][0], points[-1][0]
    top = max(loss for line in (points, *sources.values()) for _, loss in line) or 1.0
    tick = next((tick for tick in TICKS if top / tick <= 5), top / 4)
    ceiling = tick * (int(top / tick) + 1)

    def placed(line: list[tuple[int, float]]) -> str:
        at = [(WIDTH * (step - first) / (last - first), HEIGHT * (1 - max(0.0, loss) / ceiling)) for step, loss in line]
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in at)

    return {
        "points": placed(points),
        "sources": [{"name": name, "points": placed(line), "last": line[-1][1]} for name, line in sources.items()],
        "ticks": [
            {"at": 100 * (1 - number * tick / ceiling), "label": f"{number * tick:g}"}
            for number in range(int(ceiling / tick + 1e-9) + 1)
        ],
        "first_step": first,
        "last_step": last,
        "first_loss": points[0][1],
        "last_loss": points[-1][1],
    }


def _by_source(entries: list[dict]) -> dict[str, list[tuple[int, float]]]:
    """(step, loss) by source, of the first MOST_SOURCES; none where the run has a single source, whose curve it is."""
    found: dict[str, list[tuple[int, float]]] = {}
    for entry in entries:
        losses = entry.get("loss_by_source")
        for name, loss in (losses if isinstance(losses, dict) else {}).items():
            if isinstance(loss, int | float):
                found.setdefault(name, []).append((entry["step"], loss))
    return dict(list(found.items())[:MOST_SOURCES]) if len(found) > 1 else {}


def trajectories(folder: Path) -> list[dict[str, Any]]:
    """Two episodes to read: one that the tuned model won, and the same item before, else one that was lost."""
    sides = {side: _episodes(folder / side / store.FILE) for side in figures.SIDES}
    tuned, base = sides["tuned"], sides["base"]
    won = [key for key, record in tuned.items() if record["reward"] >= 1.0]
    lost = [key for key, record in tuned.items() if record["reward"] < 1.0]
    telling = [key for key in won if key in base and base[key]["reward"] < 1.0]
    shown = []
    if won:
        key = (telling or won)[0]
        shown.append(_shown("After: solved", tuned[key]))
        if telling:
            return [*shown, _shown("Before: the same item", base[key])]
    if lost:
        return [*shown, _shown("After: not solved", tuned[lost[0]])]
    if base:
        shown.append(_shown("Before", next(iter(base.values()))))
    return shown


def _episodes(path: Path) -> dict[tuple, dict]:
    """The scored records of the newest model of a store, by (task, item), in the order of their items."""
    records = [record for record in store.read(path) if status.is_result(record["status"])]
    newest = records[-1]["model"] if records else None
    found = {(record["task"], record["item"]): record for record in records if record["model"] == newest}
    return dict(sorted(found.items(), key=lambda entry: (len(entry[1]["messages"]) < 6, entry[0])))


def _shown(title: str, record: dict) -> dict[str, Any]:
    # the first two are the instruction and its acknowledgement, the same in every episode
    turns = [{"who": m["role"], "text": _short(m["content"])} for m in record["messages"][2:]]
    if record.get("last"):
        turns.append({"who": "user", "text": _short(record["last"])})
    return {
        "title": title,
        "task": record["task"],
        "item": record["item"],
        "status": record["status"].replace("_", " "),
        "reward": record["reward"],
        "instruction": _short(record["messages"][0]["content"]) if record["messages"] else "",
        "turns": turns,
    }


def _short(text: str) -> str:
    return text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]} … ({len(text):,} characters in all)"


def provenance(recipe: Recipe, found: dict[str, dict], training: dict) -> dict[str, str]:
    """Where the numbers come from, as label and text. Says so when scores or training are of another recipe record."""
    facts = {"recipe": f"{recipe.name}, record {recipe.hash[:16]}"}
    for side, entry in found.items():
        notes = entry.get("notes") or {}
        parts = [f"model {entry['model']}", f"judged {notes.get('date', 'at an unknown time')}"]
        if commit := notes.get("commit"):  # none outside of git
            parts.append(f"commit {commit[:12]}{'+changes' * commit.endswith('+changes')}")
        if side == "tuned" and notes.get("recipe_hash") not in (None, recipe.hash):
            parts.append(f"judged under another recipe record, {notes['recipe_hash'][:16]}")
        facts[f"scores, {side}"] = "; ".join(parts)
    notes = (found.get("tuned") or found["base"]).get("notes") or {}
    facts["judged by"] = f"suite {notes.get('suite', 'unknown')}, protocol {next(iter(found.values()))['protocol']}"
    if training:
        facts["training"] = _training(recipe, training)
    if notes.get("sandbox"):
        facts["sandbox of the functions task"] = notes["sandbox"].replace("+", ", ")
    versions = notes.get("versions") or training.get("versions") or run_record.versions()
    facts["versions"] = ", ".join(f"{name} {version}" for name, version in versions.items())
    return facts


def _training(recipe: Recipe, training: dict) -> str:
    parts = [f"{training[key]:,} {key}" for key in ("steps", "tokens") if isinstance(training.get(key), int)]
    if isinstance(training.get("seconds"), int | float):
        parts.append(f"{training['seconds'] / 60:.1f} minutes on {training.get('device', 'an unknown device')}")
    if training.get("recipe_hash") not in (None, recipe.hash):
        parts.append(f"of another recipe record, {training['recipe_hash'][:16]}")
    return ", ".join(parts) or "recorded without figures"


def commands(recipe: Recipe) -> list[str]:
    """What to type to get this page again."""
    path = recipe.path.resolve()
    shown = path.relative_to(recipe.root.resolve()) if path.is_relative_to(recipe.root.resolve()) else recipe.path.name
    base = recipe.values["model_name_or_path"]
    base = Path(base).name if Path(base).is_absolute() else base
    first = ["make base-tiny collect-miniature"] if recipe.name.startswith("agentlm-tiny/") else []
    verbs = (f"train {shown}", f"eval {shown} --model {base}", f"eval {shown}", f"report {shown}")
    return [*first, *(f"agenttuning {words}" for words in verbs)]


def _read(path: Path) -> dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # its section is then absent from the page
    return content if isinstance(content, dict) else {}

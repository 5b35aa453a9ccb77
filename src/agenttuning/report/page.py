"""What the page and RESULTS.md show, gathered into one mapping for the templates."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from agenttuning import run_record
from agenttuning.episodes import status, store
from agenttuning.report import ablations, drill, figures, further
from agenttuning.report.curves import curve
from agenttuning.report.figures import Row, Value
from agenttuning.report.reading import read_json

if TYPE_CHECKING:
    from agenttuning.recipe import Recipe

MOST_CHARACTERS = 1500  # of a message in a trajectory


def gather(recipe: Recipe, found: dict[str, dict]) -> dict[str, Any]:
    """Everything the templates need."""
    training = read_json(recipe.run_dir / "train.json")
    rows = figures.rows(found)
    return {
        "name": recipe.name,
        "miniature": is_miniature(recipe),
        "further": further.find(recipe.run_dir),
        "headline": headline(rows),
        "rows": rows,
        "sides": [side for side in figures.SIDES if side in found],
        "errors": figures.error_kinds(found),
        "errors_by_task": {task: figures.error_kinds(found, task) for task in figures.agent_tasks(found)},
        "curve": curve(training.get("log")),
        "mixture": read_json(recipe.run_dir / "data" / "mixture.json").get("sources", {}),
        "trajectories": trajectories(recipe.run_dir / "eval"),
        "ablations": ablations.of_twin(recipe.run_dir),
        "shelves": drill.write(recipe.run_dir),
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
    judged = found.get("tuned") or found.get("base") or {}
    notes = judged.get("notes") or {}
    if judged:
        facts["judged by"] = f"suite {notes.get('suite', 'unknown')}, protocol {judged['protocol']}"
    if training:
        facts["training"] = training_facts(recipe, training)
    if notes.get("sandbox"):
        facts["sandbox of the functions task"] = notes["sandbox"].replace("+", ", ")
    versions = notes.get("versions") or training.get("versions") or run_record.versions()
    facts["versions"] = ", ".join(f"{name} {version}" for name, version in versions.items())
    return facts


def training_facts(recipe: Recipe, training: dict) -> str:
    """Steps, tokens, minutes and device of a training record, as far as it has them."""
    parts = [f"{training[key]:,} {key}" for key in ("steps", "tokens") if isinstance(training.get(key), int)]
    if isinstance(training.get("seconds"), int | float):
        parts.append(f"{training['seconds'] / 60:.1f} minutes on {training.get('device', 'an unknown device')}")
    if training.get("recipe_hash") not in (None, recipe.hash):
        parts.append(f"of another recipe record, {training['recipe_hash'][:16]}")
    return ", ".join(parts) or "recorded without figures"


def commands(recipe: Recipe) -> list[str]:
    """What to type to get this page again."""
    shown = shown_path(recipe)
    if not is_miniature(recipe):
        verbs = ("train", "eval-held-in", "eval-general", "compare", "report")
        return [f"agenttuning {verb} {shown}" for verb in verbs]
    base = recipe.values["model_name_or_path"]
    base = Path(base).name if Path(base).is_absolute() else base
    first = ["make base-tiny collect-miniature"] if recipe.name.startswith("agentlm-tiny/") else []
    verbs = (f"train {shown}", f"eval {shown} --model {base}", f"eval {shown}", f"report {shown}")
    return [*first, *(f"agenttuning {words}" for words in verbs)]


def is_miniature(recipe: Recipe) -> bool:
    """Whether a recipe is trained on the miniature's sources alone."""
    return all(source.startswith("miniature-") for source in recipe.mixture.sources)


def shown_path(recipe: Recipe) -> str:
    """The recipe's file as one types it in the repository; elsewhere its name alone, and no path of this machine."""
    path, root = recipe.path.resolve(), recipe.root.resolve()
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else recipe.path.name

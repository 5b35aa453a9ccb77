"""The paper's six held-in tasks played by a model: `agenttuning eval-held-in`, and what of them can be played here.

<run directory>/eval/LABEL/held-in/PROTOCOL/ gets scores.json, and a folder for each task, backend and set of items with
every episode (episodes.jsonl). A task that was begun is gone on with. A score bears the benchmark's name only where the
items are the benchmark's own, all of them, the backend is one whose scores may be set beside the paper's, and model and
reply met the paper's prompt and rules; any other bears the name of its items and of its backend.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from agenttuning import protocols, run_record
from agenttuning.data.folders import alone_in
from agenttuning.disk import needs_room
from agenttuning.environments import HELD_IN
from agenttuning.episodes import status
from agenttuning.errors import UserError
from agenttuning.scoring import scores
from agenttuning.scoring.compare import published_lines
from agenttuning.stages import Stage, check_names, digest, prepare
from agenttuning.stopping import stoppable

if TYPE_CHECKING:
    from agenttuning.policies import Policy
    from agenttuning.recipe import Recipe

GROUP = "held_in"


@stoppable()
def evaluate_held_in(
    recipe: Recipe,
    make_policy,
    *,
    label: str,
    model: str,
    protocol: str = "paper-text",
    tasks: Iterable[str] | None = None,
    backends: Mapping[str, str] | None = None,
    where: Mapping[str, Mapping[str, str]] | None = None,
    data: Mapping[str, str | Path] | None = None,
    prompts: str | Path | None = None,
    most: int | None = None,
    out: str | Path | None = None,
) -> dict:
    """Play the tasks, print the scores and return what scores.json holds.

    make_policy(protocol) gives who answers, asked only when everything else is ready. label names the folder, model the
    weights in every record. data: {task: path of the benchmark's items}; a task without one is played on practice
    items. where: {task: options of its backend}. most: at most so many items a task. Raises UserError for an unknown
    task, backend or option, for data that cannot be read, where nothing of a task can be played here, and, when all is
    written and printed, for tasks that lost so many episodes that they have no score.
    """
    rules = protocols.find(protocol)
    if prompts is not None and rules.prompts == "ours":
        raise UserError(f"protocol {rules.name} has prompts of its own; --prompts would do nothing; leave it out")
    chosen = _chosen(tasks, {**(backends or {}), **(where or {}), **(data or {})})
    folder = Path(out) if out else recipe.run_dir / "eval" / label / "held-in" / rules.name
    # all rooms are open before a model is loaded: what cannot be played is said first
    with needs_room(folder), ExitStack() as held:
        stages = [
            prepare(
                task, rules, held, most=most, backend=(backends or {}).get(task, "auto"),
                where=(where or {}).get(task), data=(data or {}).get(task), prompts=prompts,
            )
            for task in chosen
        ]  # fmt: skip
        print(announcement(stages, rules, folder, model), flush=True)
        policy, found, played = make_policy(rules), {}, []
        for stage in stages:
            try:
                records = play_stage(stage, rules, policy, folder, model)
            except KeyboardInterrupt:
                print(f"episodes that ended are kept in {folder}; the same command goes on there", file=sys.stderr)
                raise
            entry = _entry(stage, records, rules)
            name, stale = stage.name, None
            if entry["not_comparable"] and name == stage.task:
                name, stale = stage.other_name, name
            played.append(name)
            found = _published(entry, name, stale, folder, rules, model, _notes(recipe, label))
            _check_heard(stage, records)
    of_benchmark = [name for name in played if found["tasks"][name]["not_comparable"] is None]
    beside = published_lines(recipe.name, of_benchmark)
    print(summary(found, played), *beside, f"written: {folder}", flush=True, sep="\n")
    if void := [name for name in played if found["tasks"][name]["void"]]:
        raise UserError(
            f"no score of {', '.join(void)}: too many episodes were lost to infrastructure, see the warnings above; "
            "the same command plays the lost ones again"
        )
    return found


def _published(
    entry: dict, name: str, stale: str | None, folder: Path, rules: protocols.Protocol, model: str, notes: dict
) -> dict:
    """The folder's scores with this entry and without the one named `stale`, written; another run may play another task
    into the same folder.
    """
    with alone_in(folder):
        found = _kept(folder, rules, model)
        found["tasks"].pop(stale, None)
        found["tasks"][name] = entry
        found["groups"] = {GROUP: _held_in_mean(found["tasks"])}
        found["notes"] = notes
        scores.write(found, folder)
    return found


def _check_heard(stage: Stage, records: list[dict]) -> None:
    if all(record["status"] == status.AGENT_ERROR for record in records):
        raise UserError(
            f"{stage.task}: not one of {len(records)} episodes had its answers from the model; the last was lost to "
            f"{records[-1]['error']}; the tasks that follow would most likely be lost, too; see to what failed and "
            "type the same command: what has a result is not played again"
        )


def _held_in_mean(tasks: dict[str, dict]) -> dict:
    mean = scores.group({name: entry for name, entry in tasks.items() if name in HELD_IN}, GROUP)
    # a mean over some of the six is not the paper's
    return mean if set(HELD_IN) <= set(tasks) else {**mean, "score": None, "interval": None}


def play_stage(stage: Stage, rules: protocols.Protocol, policy: Policy, folder: Path, model: str) -> list[dict]:
    """The records of one stage, played or taken from its folder."""
    from agenttuning.episodes.runner import play
    from agenttuning.episodes.store import EpisodeStore

    place = folder / stage.name
    seed = rules.rules(stage.task).seed
    with EpisodeStore(place, _rules_digest(stage, rules)) as store:
        return play(stage.room, stage.items, policy, rules, stage.prompts, model=model, seed=seed, store=store)


def _chosen(tasks: Iterable[str] | None, spoken_of: Iterable[str]) -> list[str]:
    chosen = list(dict.fromkeys(HELD_IN if tasks is None else tasks))
    check_names([*chosen, *spoken_of])
    if idle := [name for name in spoken_of if name not in chosen]:
        raise UserError(
            f"--data, --backend or --env speaks of {idle[0]}, which is not among the tasks that are played "
            f"({', '.join(chosen)}); it would do nothing; leave it out, or add --task {idle[0]}"
        )
    return chosen


def announcement(stages: list[Stage], rules: protocols.Protocol, folder: Path, model: str) -> str:
    """What will be played, printed before a model is loaded."""
    decoding = rules.decoding
    how = "greedy" if decoding.temperature == 0 else f"sampled at {decoding.temperature:g}"
    lines = [f"{model} by {rules.label}: {decoding.max_new_tokens} new tokens, {how}; into {folder}"]
    lines += [
        f"{stage.task:<9} {len(stage.items):>5} items  {stage.backend.name:<10} as {stage.name}" for stage in stages
    ]
    return "\n".join([*lines, *_no_scores((stage.module.BENCHMARK, stage.why_not) for stage in stages)])


def _no_scores(found: Iterable[tuple[str, str | None]]) -> list[str]:
    """A line for each reason why scores are not the benchmarks', from (benchmark, reason or None)."""
    by_reason: dict[str, list[str]] = {}
    for benchmark, reason in found:
        if reason is not None:
            by_reason.setdefault(reason, []).append(benchmark)
    return [f"not a score of {', '.join(names)}: {reason}" for reason, names in by_reason.items()]


def _entry(stage: Stage, records: list[dict], rules: protocols.Protocol) -> dict:
    entry, why_not = scores.score_task(records, rules), stage.why_not
    uncut = entry["statuses"].get(status.CONTEXT_LIMIT, 0)
    if why_not is None and uncut and rules.decoding.truncate_prompt_tokens:
        # the paper's server cut them and the episodes went on; here they count as lost games
        why_not = f"the prompts of {uncut} episodes were too long for the model's server, which does not cut them"
    prompt = {record["prompt"] for record in records if record["prompt"]}
    return {
        **entry,
        "asked": len(stage.items),
        "task": stage.task,
        "benchmark": stage.module.BENCHMARK,
        "not_comparable": why_not,
        "backend": {"name": stage.backend.name, "label": stage.backend.label},
        "prompts": {"source": stage.prompts(stage.items[0]).source, "digests": sorted(prompt)},
        "items_sha256": digest(stage.items),
    }


def _rules_digest(stage: Stage, rules: protocols.Protocol) -> str:
    """sha256, in hex, of all that a record's key does not say and that decides how an episode goes."""
    format_file = Path(import_module(f"agenttuning.protocols.{rules.rules(stage.task).format}").__file__)
    code = [*sorted(Path(stage.module.__file__).parent.glob("*.py")), format_file]
    asked = [repr(rules), digest(stage.items), sorted({stage.prompts(item).digest for item in stage.items})]
    return digest([*asked, stage.where, *(file.read_text(encoding="utf-8") for file in code)])


def _kept(folder: Path, rules: protocols.Protocol, model: str) -> dict:
    """The scores that stand in the folder already, where they are of the same model and protocol."""
    empty = {"schema": scores.SCHEMA, "model": model, "protocol": rules.label, "tasks": {}, "groups": {}}
    path = folder / scores.FILE
    if not path.exists():
        return empty
    kept = scores.read(path)
    return kept if (kept["model"], kept["protocol"]) == (model, rules.label) else empty


def _notes(recipe: Recipe, label: str) -> dict:
    return {
        "label": label,
        "recipe": recipe.name,
        "recipe_hash": recipe.hash,
        "versions": run_record.versions(),
        "commit": run_record.commit(recipe.root),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def summary(found: dict, played: Iterable[str] | None = None) -> str:
    """One line a task: score with interval, n, what ended the episodes; and why a score is none of the benchmark.
    `played`: what this run played; what earlier runs left in the same file comes behind it.
    """
    tasks, played = found["tasks"], list(found["tasks"] if played is None else played)
    earlier = [name for name in tasks if name not in played]
    lines = ["scores x 100 with 95 % intervals, n episodes, and how they ended", *_lines(tasks, played)]
    if earlier:
        lines += ["from earlier runs:", *_lines(tasks, earlier)]
    mean = found["groups"][GROUP]
    if mean["score"] is not None:
        lines.append(f"{'held-in mean':<26} {mean['score']:5.1f} {_range(mean['interval'])}")
    return "\n".join(lines)


def _lines(tasks: dict[str, dict], names: list[str]) -> list[str]:
    lines = []
    for name in names:
        entry = tasks[name]
        result = f"void: {entry['void']}" if entry["void"] else f"{entry['score']:5.1f} {_range(entry['interval'])}"
        statuses = ", ".join(f"{key} {count}" for key, count in entry["statuses"].items())
        lines.append(f"{name:<26} {result:<22} n={entry['n']:<5} {statuses}")
    return [*lines, *_no_scores((tasks[name]["benchmark"], tasks[name]["not_comparable"]) for name in names)]


def _range(interval: list[float]) -> str:
    low, high = interval
    return f"[{low:.1f}, {high:.1f}]"

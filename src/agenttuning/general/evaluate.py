"""`agenttuning eval-general`: a model is asked the paper's general benchmarks, and what came out is written.

<run directory>/eval/LABEL/general/PROTOCOL/BACKEND/ gets scores.json, answers.jsonl (every answer as it came), docs/
(items, lm-eval's task files, and what was asked, answered and wanted) and mt_bench/ (answers and verdicts). A run that
was ended goes on. A score bears the benchmark's name only over all its official items; one over practice items or a
part of them says so in its name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agenttuning import run_record
from agenttuning.chat import format_of
from agenttuning.data.folders import alone_in
from agenttuning.disk import needs_room
from agenttuning.errors import UserError, nearest
from agenttuning.general import documents as items
from agenttuning.general import judged, mt_bench, originals
from agenttuning.general.documents import Documents
from agenttuning.general.engine import run
from agenttuning.general.kept import Answers
from agenttuning.general.mt_bench import Judge, Questions
from agenttuning.general.players import Player
from agenttuning.general.protocol import GeneralProtocol, Rules, find
from agenttuning.scoring import scores
from agenttuning.scoring.compare import published_lines
from agenttuning.stopping import stoppable

if TYPE_CHECKING:
    from agenttuning.recipe import Recipe

PRACTICE_ITEMS = 40  # a benchmark of the tiny twin; 95 % within +-15 points


@stoppable()
def evaluate_general(
    recipe: Recipe,
    player: Player,
    *,
    protocol: str = "paper",
    tasks: Iterable[str] | None = None,
    data: Mapping[str, str | Path] | None = None,
    prompts: str | Path | None = None,
    judge: Judge | None = None,
    most: int | None = None,
    out: str | Path | None = None,
) -> dict:
    """Ask the benchmarks of a protocol, print the scores and return what scores.json holds.

    data: {task: official items}; without it they are read from the Hub, and for the tiny twin made here. prompts: a
    checkout of THUDM/AgentTuning, where a protocol has the original's prompts. judge: of mt_bench; without one its
    answers are made and kept, and nothing is scored. most: at most so many items a task.
    Raises UserError for an unknown protocol or task, for items or prompts that cannot be read, and, when all is written
    and printed, for tasks that lost so many items that they have no score.
    """
    rules = find(protocol)
    chosen = _chosen(rules, tasks, data or {}, player)
    folder = Path(out) if out else recipe.run_dir / "eval" / player.label / "general" / rules.name / player.backend
    practising = is_practice(recipe)
    if judge is not None and judged.TASK not in chosen:
        raise UserError("a judge is named and mt_bench is not asked; it would do nothing; leave --judge out")
    words = _prompts(rules, chosen, prompts, practising)  # before any item: those may be a long download
    mt_bench.ready(judge, mt_bench.read_rules())  # the judge comes last, after hours of answers
    loaded = {task: _items(task, (data or {}).get(task), practising, most) for task in chosen}
    print(_announcement(rules, loaded, player, folder), flush=True)
    with needs_room(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with alone_in(folder):  # a second process waits, and finds the answers of the first
            found, played = _all_asked(player, rules, loaded, words, judge, folder, _notes(recipe, player))
    of_benchmark = [name for name in played if found["tasks"][name]["not_comparable"] is None]
    lines = [summary(found, played), *published_lines(recipe.name, of_benchmark), f"written: {folder}"]
    print(*lines, flush=True, sep="\n")
    if void := [name for name in played if found["tasks"][name]["void"] and found["tasks"][name]["lost"]]:
        raise UserError(
            f"no score of {', '.join(void)}: more than {rules.void_above:.0%} of the answers were lost to "
            "infrastructure; what was answered is kept, and the same command asks the lost ones alone"
        )
    return found


def is_practice(recipe: Recipe) -> bool:
    """Whether this is a recipe of the tiny twin, whose model knows the miniature's words and no others."""
    return all(name.startswith("miniature-") for name in recipe.mixture.sources)


def _chosen(rules: GeneralProtocol, tasks: Iterable[str] | None, data: Mapping[str, Any], player: Player) -> list[str]:
    chosen = list(rules.tasks) if tasks is None else list(dict.fromkeys(tasks))
    if player.policy is None and judged.TASK in chosen:
        why = f"{judged.TASK} is a conversation, for which vLLM is asked as a server (`vllm serve`, --server URL)"
        if tasks is not None:
            raise UserError(f"{why}; nothing would be answered")
        print(f"not asked: {why}", flush=True)
        chosen.remove(judged.TASK)
    for name in [*chosen, *data]:
        if name not in rules.tasks:
            raise UserError(
                f"protocol {rules.label} has no task {name!r}; it cannot be asked; {nearest(name, rules.tasks)}"
            )
    if idle := [name for name in data if name not in chosen]:
        raise UserError(f"--data speaks of {idle[0]}, which is not asked; it would do nothing; leave it out")
    return chosen


def _items(task: str, path: str | Path | None, practising: bool, most: int | None) -> Documents | Questions:
    if task == judged.TASK:
        return judged.questions(path, practising, most)
    found = items.practice(task, PRACTICE_ITEMS) if path is None and practising else items.load(task, path)
    return found.cut(most)


def _prompts(
    rules: GeneralProtocol, chosen: list[str], path: str | Path | None, practising: bool
) -> originals.Originals:
    wanted = {task for task in chosen if rules.tasks[task].prompts == "source"}
    if path is not None and not wanted:
        raise UserError(f"protocol {rules.label} has prompts of its own for {', '.join(chosen)}; leave --prompts out")
    if path is None and practising:
        return originals.OWN
    if path is None and wanted:
        raise UserError(
            f"the prompts of {', '.join(sorted(wanted))} under {rules.label} are in the authors' repository and not "
            "ours to copy; other questions would be asked; `git clone https://github.com/THUDM/AgentTuning` and give "
            "--prompts AgentTuning, or choose --protocol stock"
        )
    return originals.read(path, wanted) if wanted else originals.OWN


def _all_asked(
    player: Player,
    rules: GeneralProtocol,
    loaded: dict[str, Documents | Questions],
    words: originals.Originals,
    judge: Judge | None,
    folder: Path,
    notes: dict,
) -> tuple[dict, list[str]]:
    """What scores.json holds with these tasks in it, and the names that they have there."""
    found: dict[str, Any] = {}
    played: list[str] = []
    for task, asked in loaded.items():
        if task == judged.TASK:
            name, entry = asked.task, judged.ask(player, asked, judge, folder / "mt_bench")
        else:
            name = _name(asked, rules.tasks[task])
            entry = _asked(player, rules, asked, words, folder, name)
        played.append(name)
        found = _published(entry, name, folder, rules, player.model, notes)
    return found, played


def _asked(
    player: Player, rules: GeneralProtocol, documents: Documents, words: originals.Originals, folder: Path, name: str
) -> dict:
    task, told, lm = documents.task, rules.tasks[documents.task], player.lm()
    by = "messages" if lm.chat_only else "ids"
    identity = [player.model, player.backend, str(lm.precision), repr(told), by, lm.form()]
    answers = Answers(folder, "\0".join(identity))
    try:
        entry = run(lm, told, documents, words, folder / "docs", answers, name)
    finally:
        answers.close()
    if answers.reused:
        print(f"{task}: {answers.reused:,} answers were kept from before", flush=True)
    share = entry["lost"] / entry["asked"]
    if share > rules.void_above or not entry["n"]:
        void = f"{entry['lost']} of {entry['asked']} items lost to infrastructure, {rules.void_above:.0%} are allowed"
        entry |= {"void": void, "score": None, "interval": None}
    return {
        **entry,
        "task": task,
        "benchmark": task,
        "not_comparable": _why_not(documents, told, words, entry, lm),
        "backend": {"name": player.backend, "label": player.says, "precision": lm.precision, "asked_by": by},
        "prompts": {"source": words.source, "sha256": words.digest(task)} if told.prompts == "source" else None,
        "data": {
            "source": documents.source,
            "revision": documents.revision,
            "sha256": documents.sha256,
            "n": len(documents.test),
        },
    }


def _why_not(documents: Documents, rules: Rules, words: originals.Originals, entry: dict, lm: Any) -> str | None:
    if documents.practice:
        return "practice items of our own"
    if len(documents.test) != rules.n:
        return f"{len(documents.test):,} items, and the benchmark has {rules.n:,}"
    if name := documents.strange:
        return f"item {name} is not the benchmark's: other items, or in another order"
    if rules.prompts == "source" and words is originals.OWN:
        return "asked in words of our own"
    if rules.prompts == "source" and words.digest(documents.task) != rules.prompts_sha256:
        return "asked in other words than the authors' script has at commit e33a45d"
    if rules.chat == "fschat" and format_of(lm.tokenizer) != "llama2":
        return "asked in the model's own chat template, the paper's models in Llama-2's"
    if rules.chat == "fschat" and lm.chat_only:
        return "asked by messages, which the server puts in a template of its own; the paper's models in fschat's text"
    if entry["cut"]:
        return f"{entry['cut']} prompts have no room in the model and lost their beginning"
    return rules.not_comparable


def _name(documents: Documents, rules: Rules) -> str:
    if documents.practice:
        return f"tiny-{documents.task}"
    if len(documents.test) != rules.n:
        return f"part-{documents.task}"
    return f"other-{documents.task}" if documents.strange else documents.task


def _published(entry: dict, name: str, folder: Path, rules: GeneralProtocol, model: str, notes: dict) -> dict:
    """The folder's scores with this entry, written; what earlier runs left of the same model and rules stays."""
    path = folder / scores.FILE
    kept = scores.read(path) if path.exists() else {}
    if (kept.get("model"), kept.get("protocol")) != (model, rules.label):
        kept = {"tasks": {}}
    tasks = {**kept["tasks"], name: entry}
    found = {"schema": scores.SCHEMA, "model": model, "protocol": rules.label, "tasks": tasks, "groups": {}}
    found["notes"] = notes
    scores.write(found, folder)
    return found


def _notes(recipe: Recipe, player: Player) -> dict:
    return {
        "label": player.label,
        "recipe": recipe.name,
        "recipe_hash": recipe.hash,
        "versions": {**run_record.versions(), "lm-eval": metadata.version("lm_eval")},
        "commit": run_record.commit(recipe.root),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _announcement(
    rules: GeneralProtocol, loaded: dict[str, Documents | Questions], player: Player, folder: Path
) -> str:
    lines = [f"{player.model} by {rules.label}, {player.says}; into {folder}"]
    for task, documents in loaded.items():
        n, source = (
            (len(documents.items), documents.data["source"])
            if isinstance(documents, Questions)
            else (len(documents.test), documents.source)
        )
        lines.append(f"{task:<10} {n:>6} items  {source}")
    if any(isinstance(documents, Documents) and documents.practice for documents in loaded.values()):
        lines.append("practice items: they show that the machinery works; the tiny model was never taught such prompts")
    return "\n".join(lines)


def summary(found: dict, played: Iterable[str] | None = None) -> str:
    """One line a task: score with interval, n, and why a score is none to set beside the paper's. played: the tasks of
    this run, default all; those that earlier runs left in the file come behind them, and say so.
    """
    tasks = found["tasks"]
    now = list(tasks if played is None else played)
    before = {name: entry for name, entry in tasks.items() if name not in now}
    lines = _lines({name: tasks[name] for name in now})
    return "\n".join([*lines, *(["scored by an earlier run:"] if before else []), *_lines(before)])


def _lines(tasks: dict[str, dict]) -> list[str]:
    lines = []
    for name, entry in tasks.items():
        if entry["void"] or entry["score"] is None:
            result = f"void: {entry['void']}"
        else:
            low, high = entry["interval"]
            digits = 2 if entry["metric"] == "rating" else 1
            result = f"{entry['score']:5.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
        statuses = ", ".join(f"{key} {count:,}" for key, count in entry["statuses"].items())
        lines.append(f"{name:<16} {result:<22} n={entry['n']:<6} {statuses}")
        if entry.get("sandbox"):
            lines.append(f"{'':<16} programs ran behind {entry['sandbox'].replace('+', ', ')} (agenttuning.sandbox)")
        if entry["not_comparable"]:
            lines.append(f"{'':<16} not beside the paper's: {entry['not_comparable']}")
    return lines

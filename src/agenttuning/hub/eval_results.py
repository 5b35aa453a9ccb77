"""Scores where the Hub looks for them: .eval_results/*.yaml of registered benchmarks, and the older model-index.

evaluation/hub_benchmarks.yaml says which are registered and how we know. The format is huggingface_hub's own
(EvalResultEntry); a file is read back by it before it is sent.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agenttuning.chat.show import escape
from agenttuning.hub import check
from agenttuning.recipe.schema import REPOSITORY
from agenttuning.recipe.yaml_io import read_mapping
from agenttuning.scoring import published
from agenttuning.scoring.scores import metric_words

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

    from agenttuning.hub.results import Results, Score

FOLDER = ".eval_results"
TABLE = REPOSITORY / "evaluation" / "hub_benchmarks.yaml"
HUB = "https://huggingface.co"  # where readers follow links, whatever HF_ENDPOINT says


@cache
def benchmarks() -> dict[str, dict[str, Any]]:
    """{task: its benchmark on the Hub}."""
    return read_mapping(TABLE)["benchmarks"]


def owned(name: str) -> bool:
    """Whether a file is one of ours; other people may add theirs."""
    return name in {f"{FOLDER}/{task}.yaml" for task in benchmarks()}


def write(folder: Path, results: Results, repository: str) -> list[Path]:
    """Write .eval_results/TASK.yaml into `folder` for each registered benchmark with a score; returns the files. Raises
    UserError for what huggingface_hub would not read.
    """
    import yaml
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    written = []
    for task, benchmark in benchmarks().items():
        score = stated(results, task, benchmark["prefer"])
        if score is None:
            continue
        entry = EvalResultEntry(
            dataset_id=benchmark["dataset_id"],
            task_id=benchmark["task_id"],
            dataset_revision=_revision(score, benchmark["dataset_id"]),
            value=round(score.entry["score"], 4),
            date=score.date,
            source_url=source(repository, score),
            source_name="AgentTuning recipes: the scores, item by item",
            notes=notes(score),
        )
        path = folder / FOLDER / f"{task}.yaml"
        path.parent.mkdir(exist_ok=True)
        text = yaml.safe_dump(eval_result_entries_to_yaml([entry]), sort_keys=False, allow_unicode=True, width=120)
        path.write_text(text, encoding="utf-8")
        check.eval_results(path)
        written.append(path)
    return written


def stated(results: Results, task: str, prefer: list[str]) -> Score | None:
    """The tuned model's score of the whole benchmark by the first of these protocols that was run."""
    found = [score for score in results.of("tuned") if score.task == task and score.of_benchmark]
    by_name = {score.protocol.partition("@")[0]: score for score in reversed(found)}
    return next((by_name[name] for name in prefer if name in by_name), None)


def notes(score: Score) -> str:
    """What the number is, in a line: protocol, items, interval, backend, and the judge where there was one."""
    low, high = score.entry["interval"]
    parts = [
        f"protocol {score.protocol}",
        f"n = {score.entry['n']}",
        f"95 % interval {low:.{score.digits}f} to {high:.{score.digits}f}",
        f"backend {score.backend}",
    ]
    if judge := score.entry.get("judge"):
        parts.append(f"judged by {escape(str(judge.get('model')))}")
    if score.unrounded:
        parts.append("scored before the weights were rounded to bfloat16")
    return ", ".join(parts)


def source(repository: str, *scores: Score) -> str:
    """Where the file of these scores will lie; of several files, the folder that holds them."""
    if len({score.place for score in scores}) == 1:
        return f"{HUB}/{repository}/blob/main/{scores[0].place}"
    return f"{HUB}/{repository}/tree/main/results"


def model_index(results: Results, repository: str) -> list[EvalResult]:
    """The legacy entries of a card's header, for scores that bear a benchmark's own name. The format has one source for
    all scores of a data set.
    """
    from huggingface_hub import EvalResult

    facts, known = published.load().tasks, benchmarks()
    by_task: dict[str, list[Score]] = {}
    for score in results.of("tuned"):
        if score.of_benchmark:
            by_task.setdefault(score.task, []).append(score)
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=known.get(task, {}).get("dataset_id", task),
            dataset_name=facts[task]["title"],
            metric_type=score.entry["metric"],
            metric_name=f"{metric_words(score.entry['metric'])}; {notes(score)}",
            metric_value=round(score.entry["score"], 4),
            source_name="scores, item by item",
            source_url=source(repository, *scores),
        )
        for task, scores in by_task.items()
        for score in scores
    ]


def _revision(score: Score, dataset_id: str) -> str | None:
    data = score.entry.get("data") or {}
    revision = data.get("revision")
    return revision if dataset_id in str(data.get("source")) and isinstance(revision, str) else None

"""The folder of a run of the paper's size as evaluations leave it, without a model: a comparison with the published
table, and for the tasks that have items their episodes and samples, as many as asked. Answers come from a seed.
"""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from pathlib import Path

from agenttuning import recipe
from agenttuning.recipe.schema import REPOSITORY
from agenttuning.scoring import comparison, intervals, published, scores
from agenttuning.scoring.comparison import Comparison, Overall, Pair, Row
from helpers.episode_records import record, said

ITEMS = {"alfworld": 50, "webshop": 200, "mind2web": 177, "kg": 150, "os": 144, "db": 300}
GENERAL = {"mmlu": 14042, "gsm8k": 1319, "humaneval": 164, "mt_bench": 80}
MODELS = {"base": "llama-2-13b-chat", "tuned": "agentlm-13b", "released": "agentlm-13b"}
NOT_RUN = "`make eval-held-in-13b`: 3.1 hours, $124 on 8 x H200"


def paper_run(folder: Path, sides=("base", "tuned"), most: int = 10**9, text: str = "look around", words: int = 60):
    """Write the folder and return the recipe it is the run of; at most `most` items a task, each with `text` in it."""
    one = recipe.load(REPOSITORY / "recipes/agentlm-13b/sft.yaml", (), folder)
    for side in sides:
        _held_in(folder / "eval" / side / "held-in" / "paper-text", side, most, text, words, one.hash)
        _general(folder / "eval" / side / "general" / "paper" / "vllm", side, most, text, words, one.hash)
    folder.mkdir(parents=True, exist_ok=True)
    log = [
        {
            "step": k,
            "loss": 0.5 + 1.5 * math.exp(-k / 200),
            "loss_by_source": {"agentinstruct": 0.3 + 2 * math.exp(-k / 90), "sharegpt": 0.8 + math.exp(-k / 300)},
        }
        for k in range(10, 1500, 10)
    ]
    (folder / "train.json").write_text(json.dumps({"steps": 1490, "recipe_hash": one.hash, "log": log}))
    comparison.write(compared(sides), folder)
    return one


def compared(sides=("base", "tuned"), seed: int = 0) -> Comparison:
    """A comparison with every verdict: of the sides that were run the first task differs, one is not comparable, the
    held-out tasks were not run.
    """
    paper, rng = published.load(), random.Random(seed)
    rows = [_row(paper, task, side, side in sides, rng) for side in comparison.SIDES for task in paper.tasks]
    overalls = tuple(_overall(paper, group, side, rows) for group in published.GROUPS for side in comparison.SIDES)
    pairs = [
        Pair("tuned - base", task, "paper-text@1", "base", "tuned", n, 40.0, (30.0, 50.0), 1e-9)
        for task, n in ITEMS.items()
    ]
    pairs.append(
        Pair(
            "tuned: vllm - transformers",
            "gsm8k",
            "paper@1",
            "tuned transformers",
            "tuned vllm",
            1319,
            -0.2,
            (-0.9, 0.5),
            0.6,
        )
    )
    return Comparison("agentlm-13b/sft", "13b", "2026-11-30", "0123456789abcdef", tuple(rows), overalls, tuple(pairs))


def _row(paper, task: str, side: str, ran: bool, rng: random.Random) -> Row:
    facts, model = paper.tasks[task], MODELS[side]
    value, n = paper.scores[task][model], facts["n"]["value"]
    theirs = paper.interval(task, model)
    row = Row(
        task, facts["title"], facts["group"], facts["metric"], side, model, value, n, theirs, True, "not run", NOT_RUN
    )
    if not ran or facts["group"] == "held_out":
        return row
    top = 10.0 if task == "mt_bench" else 100.0
    ours = min(top, max(0.0, value + rng.gauss(0, top / 60)))
    if task == "alfworld":
        ours = max(0.0, value - 25)
    low, high = (end * top for end in intervals.wilson(round(ours / top * n), n))
    row = replace(
        row,
        verdict="differs" if task == "alfworld" else "consistent",
        why="",
        ours=ours,
        n=n,
        interval=(low, high),
        difference=ours - value,
        difference_interval=(ours - value - 4, ours - value + 4),
        detectable=top / math.sqrt(n),
        protocol="paper@1",
        backend="vllm",
        model=f"{side}@0",
    )
    if task == "humaneval":
        return replace(
            row,
            verdict="not comparable",
            why="12 items, and the published score is over 164",
            difference=None,
            difference_interval=None,
            detectable=None,
        )
    return row


def _overall(paper, group: str, side: str, rows: list[Row]) -> Overall:
    members = [row for row in rows if row.side == side and row.group == group]
    ran = [row for row in members if row.verdict in ("consistent", "differs")]
    theirs = paper.overalls[group][MODELS[side]]
    if not ran:
        return Overall(group, side, theirs, (), len(members))
    ours, same = (
        sum(value(row) / paper.divisors[row.task] for row in ran) / len(ran)
        for value in (lambda r: r.ours, lambda r: r.published)
    )
    return Overall(
        group, side, theirs, tuple(row.task for row in ran), len(members), ours, (ours - 0.1, ours + 0.1), same
    )


def _lines(words: int, number: int) -> str:
    return " ".join(f"word{(number * 7 + k) % 97}" for k in range(words))


def _held_in(place: Path, side: str, most: int, text: str, words: int, recipe_hash: str) -> None:
    tasks, rng = {}, random.Random(len(side))
    for task, n in ITEMS.items():
        records = []
        for number in range(min(n, most)):
            won = rng.random() < (0.6 if side == "tuned" else 0.1)
            turns = said(*(f"{text} {turn}" for turn in range(8)), observation=f"{_lines(words, number)}\n{text}")
            records.append(
                record(task, f"{task}-{number}", *turns, reward=float(won), protocol="paper-text@1", model=f"{side}@0")
            )
            records[-1]["messages"][0]["content"] = f"Instruction. {_lines(400, 0)}"
        (place / task).mkdir(parents=True)
        (place / task / "episodes.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
        tasks[task] = {
            "group": "held_in",
            "metric": "success_rate",
            "n": len(records),
            "void": None,
            "score": 50.0,
            "interval": [40.0, 60.0],
            "rewards": {one["item"]: one["reward"] for one in records},
            "task": task,
            "not_comparable": None,
        }
    _scores(place, side, "paper-text@1", tasks, recipe_hash)


def _general(place: Path, side: str, most: int, text: str, words: int, recipe_hash: str) -> None:
    tasks, rng = {}, random.Random(len(side))
    for task, n in GENERAL.items():
        samples = []
        for number in range(min(n, most)):
            score = float(rng.random() < 0.5)
            samples.append(
                {
                    "id": f"{task}-{number}",
                    "question": f"{text} {_lines(words, number)}?",
                    "wanted": "B",
                    "got": [[f"{text}. The answer is B."]],
                    "score": score,
                }
            )
        (place / "docs").mkdir(parents=True, exist_ok=True)
        lines = "".join(json.dumps(one) + "\n" for one in samples)
        if task == "mt_bench":
            _talks(place / "mt_bench", [one["id"] for one in samples], text)
        else:
            (place / "docs" / f"{task}.samples.jsonl").write_text(lines)
        tasks[task] = {
            "group": "general",
            "metric": "acc",
            "n": len(samples),
            "void": None,
            "score": 50.0,
            "interval": [40.0, 60.0],
            "rewards": {one["id"]: one["score"] for one in samples},
        }
    tasks["mt_bench"] |= {
        "metric": "rating",
        "score": 6.57,
        "interval": [6.2, 6.9],
        "judge": {"model": "gpt-4-0613", "host": "127.0.0.1"},
        "judgings": 3,
        "unparsed": 2,
        "spread": {"scores": [6.5, 6.6, 6.61], "mean": 6.57, "sd": 0.06, "verdict_sd": 0.4},
        "first_turn": 7.0,
        "second_turn": 6.14,
        "by_category": {
            name: {"score": 4.0 + k / 2, "n": 20} for k, name in enumerate(("writing", "math", "coding", "stem"))
        },
    }
    _scores(place, side, "paper@1", tasks, recipe_hash)


def _talks(place: Path, names: list[str], text: str) -> None:
    place.mkdir(parents=True)
    asked = [(name, turn) for name in names for turn in (1, 2)]
    answers = [
        {"key": "0", "question": name, "turn": turn, "status": "completed", "error": None, "answer": f"{text} {turn}"}
        for name, turn in asked
    ]
    verdicts = [
        {
            "key": "0",
            "question": name,
            "turn": turn,
            "judging": k,
            "error": None,
            "reply": f"{text} Rating: [[{k + 5}]]",
            "rating": k + 5,
        }
        for name, turn in asked
        for k in (1, 2)
    ]
    for name, records in (("answers", answers), ("verdicts", verdicts)):
        (place / f"{name}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))


def _scores(place: Path, side: str, protocol: str, tasks: dict, recipe_hash: str) -> None:
    notes = {"label": side, "recipe_hash": recipe_hash, "date": "2026-11-30T00:00:00+00:00", "commit": "0" * 40}
    scores.write(
        {"schema": 1, "model": f"{side}@0", "protocol": protocol, "tasks": tasks, "groups": {}, "notes": notes}, place
    )

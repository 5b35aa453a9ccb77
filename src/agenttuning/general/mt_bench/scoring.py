"""Ratings in, the entry of scores.json out.

The score is the mean of all turn ratings, as FastChat's show_result gives it (llm_judge/show_result.py: "Average"); the
rating of a turn is the mean over its judgings. Only questions count whose two turns have a rating each: FastChat drops
the one missing verdict and keeps the question's other turn. Nothing that is missing is scored.
"""

from __future__ import annotations

import statistics
from collections import Counter

from agenttuning.episodes.status import AGENT_ERROR, COMPLETED, CONTEXT_LIMIT
from agenttuning.general.mt_bench import prompts
from agenttuning.general.mt_bench.answering import TURNS, lost
from agenttuning.general.mt_bench.judging import Judge, Verdicts
from agenttuning.general.mt_bench.questions import Questions
from agenttuning.general.mt_bench.rules import Rules
from agenttuning.scoring import intervals

BENCHMARK = "MT-Bench"
UNJUDGED = "unjudged"  # answered, and a turn has no rating
NO_JUDGE = (
    "no judge was named: the answers are made and kept, and nothing is scored; name one (--judge URL --judge-model "
    "NAME) and type the same command: nothing is made again"
)
SNAPSHOT = (
    "the paper says GPT-4 and names no snapshot and no date: what bears this name today may be another model, and that "
    "it is GPT-4 at all is its server's word"
)


def entry(
    questions: Questions,
    records: dict[str, list[dict]],
    verdicts: Verdicts | None,
    rules: Rules,
    judge: Judge | None,
    counts: Counter,
) -> dict:
    """The entry of MT-Bench. `records`: the answers by question; `verdicts`: of those that are not lost, None where
    there is no judge; `counts`: what the policies counted.
    """
    ratings = {} if verdicts is None else verdicts.ratings
    means = {key: statistics.fmean(known) for key, all_ in ratings.items() if (known := _known(all_))}
    status = {item.id: _status(records[item.id], item.id, means, verdicts) for item in questions.items}
    scored = [item for item in questions.items if status[item.id] in (COMPLETED, CONTEXT_LIMIT)]
    missing = len(status) - len(scored)
    found = {
        "group": "general",
        "metric": "rating",
        "task": questions.task,
        "benchmark": BENCHMARK,
        "protocol": rules.label,
        "n": 0 if verdicts is None else len(scored),
        "asked": len(questions.items),
        "lost": missing,
        "statuses": dict(sorted(Counter(status.values()).items())),
        "void": _void(missing, len(status), verdicts, rules),
        "rewards": {f"{item.id}/{turn}": means[item.id, turn] for item in scored for turn in TURNS if verdicts},
        **dict.fromkeys(("score", "interval", "first_turn", "second_turn", "by_category", "spread")),
        "not_comparable": _not_comparable(questions, verdicts, rules, judge),
        "data": questions.data,
        "answers": _answers(records, counts),
        "judge": None if judge is None or verdicts is None else _judge(questions, verdicts, rules, judge),
        "judgings": verdicts and verdicts.judgings,
        "unparsed": verdicts and verdicts.why["unparsed"],
    }
    if found["void"] is None:
        by_question = {item.id: [means[item.id, turn] for turn in TURNS] for item in scored}
        found["score"], found["interval"] = _mean(list(by_question.values()))
        found["first_turn"], found["second_turn"] = (
            statistics.fmean(turns[place] for turns in by_question.values()) for place in (0, 1)
        )
        found["by_category"] = {}
        for name in dict.fromkeys(item.category for item in scored):
            members = [by_question[item.id] for item in scored if item.category == name]
            score = statistics.fmean(rating for turns in members for rating in turns)
            found["by_category"][name] = {"score": score, "n": len(members)}
        found["spread"] = _spread([verdicts.ratings[item.id, turn] for item in scored for turn in TURNS])
    return found


def _known(ratings: list[float | None]) -> list[float]:
    return [rating for rating in ratings if rating is not None]


def _status(records: list[dict], name: str, means: dict, verdicts: Verdicts | None) -> str:
    if lost(records):
        return AGENT_ERROR
    if verdicts is not None and any((name, turn) not in means for turn in TURNS):
        return UNJUDGED
    return CONTEXT_LIMIT if any(record["status"] == CONTEXT_LIMIT for record in records) else COMPLETED


def _void(missing: int, asked: int, verdicts: Verdicts | None, rules: Rules) -> str | None:
    if verdicts is None:
        return NO_JUDGE
    if missing / asked > rules.void_above or missing == asked:
        why = ", ".join(f"{name} {n}" for name, n in sorted(verdicts.why.items()))
        said = f" (verdicts: {why})" if why else ""
        return f"{missing} of {asked} questions have no answer or no rating{said}, {rules.void_above:.0%} are allowed"
    return None


def _mean(by_question: list[list[float]]) -> tuple[float, list[float]]:
    # Questions are drawn with replacement, each with all its judgings: what the judge varies by is in a question's mean
    # already, and drawing judgings again would count it twice (Davison & Hinkley 1997, section 3.8).
    means = [statistics.fmean(turns) for turns in by_question]
    return statistics.fmean(means), list(intervals.bootstrap(means))


def _spread(ratings: list[list[float | None]]) -> dict:
    """scores: of each judging by itself, over the turns that it rated; mean and sd of those; verdict_sd: of one verdict
    around its turn's mean, pooled. sd and verdict_sd are None for one judging.
    """
    by_judging = [_known(list(one)) for one in zip(*ratings, strict=True)]
    scores = [statistics.fmean(one) for one in by_judging if one]
    several = [known for one in ratings if len(known := _known(one)) > 1]
    free = sum(len(known) - 1 for known in several)
    squares = sum((rating - statistics.fmean(known)) ** 2 for known in several for rating in known)
    return {
        "scores": scores,
        "mean": statistics.fmean(scores),
        "sd": statistics.stdev(scores) if len(scores) > 1 else None,
        "verdict_sd": (squares / free) ** 0.5 if free else None,
    }


def _answers(records: dict[str, list[dict]], counts: Counter) -> dict:
    """What happened to the answers. shortened: those for which the context left less than max_new_tokens."""
    every = [record for one in records.values() for record in one]
    most = max((record["max_new_tokens"] for record in every), default=0)
    return {
        "turns": len(every),
        "empty": sum(record["status"] == COMPLETED and not record["answer"] for record in every),
        "shortened": sum(record["status"] == COMPLETED and record["max_new_tokens"] < most for record in every),
        "no_room": sum(record["status"] == CONTEXT_LIMIT for record in every),
        "this_time": dict(sorted(counts.items())),  # what was kept from before is not in it
    }


def _judge(questions: Questions, verdicts: Verdicts, rules: Rules, judge: Judge) -> dict:
    days = sorted(verdicts.days)
    return {
        "model": judge.model,
        "served": sorted(verdicts.served),
        "host": judge.host,
        "dates": days[:1] + days[-1:] if len(days) > 1 else days,  # of its first and its last reply
        "prompts": prompts.digest(questions.prompts),
        "remark": SNAPSHOT if _of_the_paper(judge.model, rules) else None,
        "counts": dict(sorted(verdicts.counts.items())),
        "this_time": dict(sorted(verdicts.this_time.items())),
        "without_rating": dict(sorted(verdicts.why.items())),
    }


def _not_comparable(questions: Questions, verdicts: Verdicts | None, rules: Rules, judge: Judge | None) -> str | None:
    why = [questions.not_comparable] if questions.not_comparable else []
    if judge is None or verdicts is None:
        return "; ".join([*why, "not judged"])
    named = [judge.model, *sorted(verdicts.served)]
    if other := [name for name in named if not _of_the_paper(name, rules)]:
        why.append(f"judged by {other[0]}, the paper by GPT-4 of 2023")
    return "; ".join(why) or None


def _of_the_paper(name: str, rules: Rules) -> bool:
    # a provider's name may stand before the model's: openai/gpt-4
    return name.rpartition("/")[2] in rules.judge.of_the_paper

"""One benchmark through lm-eval: its task files, the answers, a check of every prompt, and the rewards."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from agenttuning.chat import RowError, encode, encode_prompt
from agenttuning.errors import UserError
from agenttuning.general import gsm8k, mmlu
from agenttuning.general.documents import Documents
from agenttuning.general.kept import Answers
from agenttuning.general.lm import Asking, Lost, is_lost, quiet
from agenttuning.general.originals import Originals
from agenttuning.general.protocol import Rules
from agenttuning.general.task_files import write_documents
from agenttuning.scoring import intervals

SEED = 1234  # lm_eval.simple_evaluate's default: which examples lm-eval's own gsm8k draws, and torch's own samples


def run(
    lm: Asking,
    rules: Rules,
    documents: Documents,
    originals: Originals,
    folder: Path,
    answers: Answers,
    name: str | None = None,
) -> dict:
    """The benchmark's entry for scores.json, as far as items and answers decide it (score, interval, n, lost,
    statuses, rewards, and `cut`: the items for whose whole prompt the model has no room; of humaneval
    also `programs` and `sandbox`: how they ended and what held them). `folder` gets the documents, the task files, and
    what was asked, answered and wanted (NAME.samples.jsonl; name: the entry's in scores.json, by default the task's).

    Raises UserError where lm-eval is missing, where the sandbox does not work, and where a prompt is not the one of
    training although the rules say so.
    """
    task = documents.task
    lm.ask_by(rules, answers)
    with tempfile.TemporaryDirectory(prefix="agenttuning-") as cache:
        names = _write(folder, rules, documents, originals, cache)
        samples = _evaluated(lm, rules, names, folder)
        _write(folder, rules, documents, originals, None)  # for `lm_eval run --include_path`; the cache ends here
    if rules.chat == "trained":
        for sample in samples:
            check_prompt(sample, lm, rules.system_prompt)
    lost = {sample["doc"]["id"]: _why(sample) for sample in samples if _why(sample) is not None}
    good = [sample for sample in samples if sample["doc"]["id"] not in lost]
    _write_samples(folder / f"{name or task}.samples.jsonl", samples, lost, rules)
    rewards = _rewards(task, good, rules)
    cut = sum(any(lm.is_cut(*arguments[:2]) for arguments in sample["arguments"]) for sample in samples)
    return {**entry(rewards, len(lost), rules, lost), "cut": cut, **_more(task, good)}


def entry(rewards: dict[str, float], lost: int, rules: Rules, why: dict[str, str] | None = None) -> dict[str, Any]:
    """score (x 100) and interval of the rewards: Wilson where all are 0 or 1, else the bootstrap; null for none."""
    values, n = list(rewards.values()), len(rewards)
    right = sum(value == 1.0 for value in values)
    statuses = {"right": right, "wrong": sum(value == 0.0 for value in values)}
    statuses["partly"] = n - sum(statuses.values())
    found = {
        "group": "general",
        "metric": rules.metric,
        "n": n,
        "asked": n + lost,
        "lost": lost,
        "statuses": {
            key: count for key, count in {**statuses, "lost": lost}.items() if count or key in ("right", "wrong")
        },
        "void": None,
        "rewards": rewards,
        "score": 100 * sum(values) / n if n else None,
        "interval": [100 * end for end in intervals.mean_interval(values)] if n else None,
    }
    return {**found, "lost_to": dict(Counter((why or {}).values()).most_common(5))} if lost else found


def _write(folder: Path, rules: Rules, documents: Documents, originals: Originals, cache: str | None) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    if documents.task == "mmlu":
        return mmlu.write(folder, rules, documents.test, documents.examples, originals, cache)
    if documents.task == "gsm8k":
        return gsm8k.write(folder, rules, documents.test, documents.examples, originals, cache)
    from agenttuning.general import humaneval

    return humaneval.write(folder, rules, documents.test, cache)


def _rewards(task: str, samples: list[dict], rules: Rules) -> dict[str, float]:
    if task == "humaneval":
        from agenttuning.general import humaneval

        return humaneval.rewards(samples, rules)
    return {sample["doc"]["id"]: float(sample[rules.metric]) for sample in samples}


def _evaluated(lm: Asking, rules: Rules, names: list[str], folder: Path) -> list[dict]:
    try:
        import datasets
        import torch
        from lm_eval.evaluator import evaluate
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise UserError(
            f"lm-eval cannot be imported ({error}); nothing could be asked; install it: pip install -e '.[eval]'"
        ) from None
    from agenttuning.sandbox import SandboxError

    quiet()
    datasets.disable_progress_bars()
    try:
        # what lm_eval.simple_evaluate does, without its seconds of asking pip and the shell about this machine
        loaded = TaskManager(include_path=str(folder), include_defaults=False).load(names)
        for task in loaded["tasks"].values():
            task.set_fewshot_seed(seed=SEED)
            if task.get_config("num_fewshot") is None:
                task.set_config(key="num_fewshot", value=0)
        torch.manual_seed(SEED)
        with _templates_compiled_once():
            results = evaluate(
                lm=lm,
                task_dict=loaded,
                apply_chat_template=rules.chat != "none",
                fewshot_as_multiturn=True,
                system_instruction=rules.system_prompt,
                log_samples=True,
                bootstrap_iters=0,
            )
    except SandboxError as error:
        raise UserError(
            f"the sandbox does not work here ({error}); programs would be counted as wrong; repair it, or leave the "
            "task out with --task; what was answered is kept"
        ) from None
    return [sample for name in names for sample in _by_document(results["samples"][name])]


@contextmanager
def _templates_compiled_once() -> Iterator[None]:
    """lm-eval compiles each Jinja template anew for each use: six minutes of CPU for the 14,042 questions of MMLU."""
    from lm_eval.utils import env

    env.from_string = lru_cache(maxsize=1000)(env.from_string)
    try:
        yield
    finally:
        del env.from_string  # the class's own again


def _by_document(samples: list[dict]) -> list[dict]:
    # lm-eval logs a sample once for each of its filters; lm-eval's own gsm8k has two, of which the first is the score
    first = {}
    for sample in samples:
        first.setdefault(sample["doc"]["id"], sample)
    return list(first.values())


def _why(sample: dict) -> str | None:
    """What lost a sample's answers, None where nothing did."""
    lost = [answer for answers in sample["resps"] for answer in answers if is_lost(answer)]
    if not lost:
        return None
    return lost[0].why if isinstance(lost[0], Lost) else "no likelihood came back"


def check_prompt(sample: dict, lm: Asking, system_prompt: str | None) -> None:
    """Raise UserError unless the ids of this sample's prompt, and of each scored choice, are those of training."""
    for arguments in sample["arguments"]:
        context, continuation = arguments[0], arguments[1]
        messages = lm.rendered[context]
        begun = messages[-1]["content"] if messages[-1]["role"] == "assistant" else None
        more = continuation if isinstance(continuation, str) else ""
        asked = messages[:-1] if begun is not None else messages
        try:
            wanted = encode_prompt(asked, lm.tokenizer, system_prompt)
            scored = list(lm.tok_encode(context))
            if begun is not None:
                answer = {"role": "assistant", "content": begun + more, "loss": True}
                wanted = encode([*asked, answer], lm.tokenizer, "last", system_prompt).input_ids
                scored = sum(map(list, lm._encode_pair(context, more)), []) if more else scored
                wanted = wanted[: len(scored)]
        except RowError as error:
            raise UserError(f"{sample['doc']['id']}: its prompt cannot be asked as in training: {error}") from error
        if begun and more and (shown := _shown_otherwise(asked, begun, more)):
            raise UserError(
                f"{sample['doc']['id']}: {more!r} is scored behind {begun!r}, where its examples have {shown!r}; "
                "another token would be looked at than training has there; check doc_to_choice and target_delimiter"
            )
        if scored != wanted:
            raise UserError(
                f"{sample['doc']['id']}: lm-eval asks with ids ..{scored[-12:]}, training has ..{wanted[-12:]}; the "
                "score would be of another prompt; check the chat template and the tokenizer (chat.load_tokenizer)"
            )


def _shown_otherwise(asked: list[dict], begun: str, more: str) -> str | None:
    """An example's answer that goes on behind `begun` with more or fewer blanks than `more` has."""

    def blanks(text: str) -> int:
        return len(text) - len(text.lstrip())

    shown = [one["content"] for one in asked if one["role"] == "assistant" and one["content"].startswith(begun)]
    return next((one for one in shown if blanks(one[len(begun) :]) != blanks(more)), None)


def _more(task: str, samples: list[dict]) -> dict[str, Any]:
    """What a benchmark adds to its entry: how the programs of HumanEval ended, and what held them."""
    if task != "humaneval":
        return {}
    from agenttuning.general import humaneval

    return {"programs": humaneval.statuses(samples), "sandbox": humaneval.guards(samples)}


def _told(sample: dict, rules: Rules) -> dict:
    if "choices" in sample["doc"]:
        return mmlu.told(sample, rules)
    if "answer" in sample["doc"]:
        return gsm8k.told(sample, rules)
    from agenttuning.general import humaneval

    return humaneval.told(sample, rules)


def _write_samples(path: Path, samples: list[dict], lost: dict[str, str], rules: Rules) -> None:
    """A line an item: id, question, wanted, got, extracted (what was read out of it), score, and what the benchmark
    adds; of a lost one `lost`, what lost it, and no score.
    """
    rows = []
    for sample in samples:
        name = sample["doc"]["id"]
        if name in lost:
            row = {**_told(sample, rules), "got": None, "extracted": None, "score": None, "lost": lost[name]}
        else:
            row = {**_told(sample, rules), "score": float(sample[rules.metric])}
        rows.append({"id": name, **row})
    write_documents(path, rows)

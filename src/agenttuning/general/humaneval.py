"""HumanEval for lm-eval: its items, its task files filled in, and the hooks that run programs in the sandbox.

lm_eval/tasks/humaneval/utils.py is never imported: it fetches code from the Hub and runs programs in the process of the
harness. What is lm-eval's own here (prompts, stop strings) is read from the installed package's YAML as data.
"""

from __future__ import annotations

import ast
import gzip
import json
import math
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from agenttuning.data.files import SUFFIXES, read_file
from agenttuning.errors import UserError
from agenttuning.general.humaneval_replies import program
from agenttuning.general.protocol import TASK_FILES
from agenttuning.general.task_files import write_documents, write_task
from agenttuning.miniature.general import samples as miniature_samples
from agenttuning.sandbox.dialogue import Program, TestError, run_programs

NAME = "humaneval"
COLUMNS = ("task_id", "prompt", "canonical_solution", "test", "entry_point")
TINY = "tiny-humaneval/"
# The form of the tiny twin: the question alone, which is the docstring of its prompts, and short answers.
TINY_FORM = {"doc_to_text": '{{ prompt.split(\'"""\')[1] }}'}
TINY_TOKENS = 48  # as in evaluation/lm_eval/mini_functions.yaml
# What a task takes from the package where the committed file does not say otherwise.
TAKEN = ("test_split", "output_type", "num_fewshot", "doc_to_text", "doc_to_target", "gen_prefix", "generation_kwargs")


def load(path: str | Path) -> list[dict]:
    """The items of an official file: HumanEval.jsonl, HumanEval.jsonl.gz, or Parquet of openai/openai_humaneval.

    Raises UserError for another file, a row that is no item, and an id that comes twice.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} is no file; HumanEval could not be asked; give HumanEval.jsonl.gz or the Parquet file")
    if path.suffix not in (*SUFFIXES, ".gz"):
        raise UserError(f"{path} is no {', '.join(SUFFIXES)} or .jsonl.gz file; its rows cannot be read; give one")
    return checked(_unpacked(path) if path.suffix == ".gz" else read_file(path), str(path))


def _unpacked(path: Path) -> Iterable[object]:
    try:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            return [json.loads(line) for line in lines if line.strip()]
    except (OSError, EOFError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path} is no gzip of JSON lines ({error}); its rows cannot be read; download it again"
        ) from error


def checked(rows: Iterable[object], source: str) -> list[dict]:
    """Rows as items: the official columns, and `id`, which is the task_id. Raises UserError, see `load`."""
    found: dict[str, dict] = {}
    for number, row in enumerate(rows, 1):
        wrong = _wrong(row)
        if not wrong and row["task_id"] in found:
            wrong = f"its task_id {row['task_id']!r} was there before"
        if wrong:
            raise UserError(
                f"{source}, row {number}, is no item of HumanEval: {wrong}; its score would be wrong; repair the file"
            )
        found[row["task_id"]] = {"id": row["task_id"], **{name: row[name] for name in COLUMNS}}
    if not found:
        raise UserError(f"{source} holds no rows; HumanEval could not be asked; give HumanEval.jsonl.gz")
    return list(found.values())


def _wrong(row: object) -> str | None:
    """What is wrong with a row; the test must define `check`, and the prompt the function, by its name."""
    if not isinstance(row, dict):
        return getattr(row, "reason", "it is no mapping")
    missing = [name for name in COLUMNS if not isinstance(row.get(name), str)]
    if missing or not row["task_id"]:
        return f"{', '.join(missing) or 'task_id'} must be a text"
    for column, name in (("prompt", row["entry_point"]), ("test", "check")):
        try:
            defined = [node.name for node in ast.parse(row[column]).body if isinstance(node, ast.FunctionDef)]
        except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
            return f"{column} is no Python ({error})"
        if name not in defined:
            return f"{column} defines no function {name[:40]!r}"
    return None


def practice(n: int, seed: int) -> list[dict]:
    """`n` items of our own in the official columns, from the test split of the miniature's functions.

    The docstring of a prompt is the question as the tiny model was taught it, and `write` makes it the whole question
    of the chat form: the tiny model knows that sentence and one-line answers, and gets nearly all right as it was
    trained, about half under a system prompt, which it has never seen. It cannot go on with a function that was begun
    for it, and knows none of lm-eval's words, so in the stock form, which shows it the prompt, it scores 0.
    """
    items = []
    for number, sample in enumerate(miniature_samples("functions", "test", n, seed)):
        [(question, answer)], name = sample.turns, sample.check["name"]
        asserts = "".join(f"    assert candidate({x}) == {wanted}\n" for x, wanted in sample.check["cases"])
        items.append(
            {
                "task_id": f"{TINY}{number}",
                "prompt": f'def {name}(x):\n    """{question}"""\n',
                "canonical_solution": f"    {answer.partition(': ')[2]}\n",
                "test": f"def check(candidate):\n{asserts}",
                "entry_point": name,
            }
        )
    return checked(items, "practice items")


def write(folder: Path, rules: Any, documents: list[dict], cache: str | None) -> list[str]:
    """Write documents and task file into `folder` for `lm_eval run --include_path FOLDER`; the one task's name.

    rules.lm_eval: stem of the committed file, whose metadata names the package's file that it goes on from. cache:
    where `datasets` keeps its copy, None for its own place. Raises UserError where the package's file lacks something.
    """
    ours = _read(TASK_FILES / f"{rules.lm_eval}.yaml")
    packaged = package_file(ours["metadata"]["packaged"])
    task = {key: packaged[key] for key in TAKEN if key in packaged and key not in ours}
    if documents[0]["task_id"].startswith(TINY):
        if packaged.get("gen_prefix"):
            task.pop("gen_prefix")
            task |= TINY_FORM
        task["generation_kwargs"] = {**packaged["generation_kwargs"], **ours.get("generation_kwargs", {})}
        task["generation_kwargs"]["max_gen_toks"] = TINY_TOKENS
    return [
        write_task(folder, NAME, rules, {"test": write_documents(folder / f"{NAME}.jsonl", documents)}, cache, task)
    ]


def package_file(name: str) -> dict[str, Any]:
    """lm_eval/tasks/humaneval/NAME of the installed package with what it includes, functions as their names."""
    spec = find_spec("lm_eval")
    if spec is None or spec.origin is None:
        raise UserError("lm-eval is not installed; HumanEval cannot be asked; install it: pip install -e '.[eval]'")
    path = Path(spec.origin).parent / "tasks" / "humaneval" / name
    if not path.is_file():
        raise UserError(f"{path} is not there; HumanEval cannot be asked; install the lm-eval of constraints.txt")
    found = _read(path)
    if lacking := [key for key in TAKEN if key not in found and key != "gen_prefix"]:
        raise UserError(
            f"{path} has no {lacking[0]}; another question would be asked; install the lm-eval of constraints.txt"
        )
    return found


class _Loader(yaml.SafeLoader):
    """Plain data; a function stays its name."""


_Loader.add_constructor("!function", _Loader.construct_scalar)


def _read(path: Path) -> dict[str, Any]:
    found = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506 - a SafeLoader
    return _read(path.parent / found.pop("include")) | found if "include" in found else found


def stock_programs(resps: list[list[str]], docs: list[dict]) -> list[list[str]]:
    """lm-eval's filter: programs as lm-eval's own task builds them, the prompt and the reply."""
    return [[doc["prompt"] + reply for reply in replies] for replies, doc in zip(resps, docs, strict=True)]


def chat_programs(resps: list[list[str]], docs: list[dict]) -> list[list[str]]:
    """lm-eval's filter: programs out of the replies of a chat model (humaneval_replies)."""
    return [
        [program(doc["prompt"], doc["entry_point"], reply) for reply in replies]
        for replies, doc in zip(resps, docs, strict=True)
    ]


def run(resps: list[list[str]], docs: list[dict]) -> list[list[dict[str, str]]]:
    """lm-eval's filter: the program and its verdict (sandbox.Verdict) of each reply, run in the sandbox; equal ones
    run once.

    As many at a time as this process has cores. Raises SandboxError when the sandbox failed, UserError for a test that
    says nothing about any answer.
    """
    jobs = [
        Program(code, doc["prompt"], doc["test"], doc["entry_point"])
        for codes, doc in zip(resps, docs, strict=True)
        for code in codes
    ]
    once = list(dict.fromkeys(jobs))
    try:
        verdicts = dict(zip(once, run_programs(once, _cores()), strict=True))
    except TestError as error:
        raise UserError(f"{error}; all answers would pass or fail; repair the item in the data file") from error
    told = iter({"program": j.code, **asdict(verdicts[j])} for j in jobs)
    return [[next(told) for _ in codes] for codes in resps]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def process_results(doc: dict, results: list[list[dict[str, str]]]) -> dict[str, float]:
    """lm-eval's `process_results`: pass@1 of one item from all its samples, which `run` has judged."""
    [judged] = results
    return {"pass_at_1": pass_at_k(len(judged), sum(one["status"] == "passed" for one in judged), 1)}


def pass_at_k(n: int, right: int, k: int) -> float:
    """The unbiased estimator of Chen et al. 2021 (equation 1): the chance that one of k of the n samples is right."""
    return 1.0 - math.comb(n - right, k) / math.comb(n, k)


def rewards(samples: list[dict], rules: Any) -> dict[str, float]:
    """{task_id: pass@1 in [0, 1]} from lm-eval's logged samples."""
    return {sample["doc"]["task_id"]: float(sample["pass_at_1"]) for sample in samples}


def statuses(samples: list[dict]) -> dict[str, int]:
    """How many of all programs ended in which way (`sandbox.dialogue.run_programs`), from lm-eval's logged samples."""
    return dict(Counter(one["status"] for sample in samples for judged in sample["filtered_resps"] for one in judged))


def guards(samples: list[dict]) -> str:
    """What held the programs, in the words of sandbox.Verdict.guards."""
    held = (one["guards"] for sample in samples for judged in sample["filtered_resps"] for one in judged)
    return ", ".join(sorted(set(held)))


def told(sample: dict, rules: Any) -> dict[str, Any]:
    """What a reader of one item wants to see: a reference, the reply, and the program that was run of it and how it
    ended; of several samples the first, and how many of them passed.
    """
    doc, [judged] = sample["doc"], sample["filtered_resps"]
    first = judged[0]
    ended = f"{first['status']} {first['detail']}".strip()
    passed = {"passed": f"{sum(one['status'] == 'passed' for one in judged)} of {len(judged)}"} if judged[1:] else {}
    return {
        "question": doc["prompt"],
        "wanted": doc["canonical_solution"],
        "got": sample["resps"][0][0],
        "extracted": first["program"],
        "ended": ended,
        **passed,
    }

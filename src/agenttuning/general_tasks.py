"""The general tasks, judged by lm-eval with the model and tokenizer that also play the agent tasks. No Hub access.

Every prompt that lm-eval built is held against `chat.encode_prompt`, and every scored choice against the ids a training
conversation has there, before a number leaves this module: one wrong space, and it is another model that is judged.
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from agenttuning.chat import encode, encode_prompt, format_of
from agenttuning.chat.template import controls, cut, shape_of
from agenttuning.errors import UserError
from agenttuning.miniature.lm_eval_docs import write_documents
from agenttuning.recipe.schema import REPOSITORY
from agenttuning.scoring import intervals
from agenttuning.suites import GeneralTask

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

TASKS = REPOSITORY / "evaluation" / "lm_eval"
# prompts at a time; 420 documents, one million parameters, two cores: 9.0 s at 16, 5.4 at 50, 4.5 at 75, 4.3 at 150
BATCH = 75


def run_general(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    tasks: dict[str, GeneralTask],
    folder: Path,
    system_prompt: str | None = None,
) -> dict[str, dict]:
    """One score a task, in the shape of scoring.scores' entries (x 100, Wilson intervals, `rewards` by item).

    `folder` gets the documents, and the task files which lm-eval read: `lm_eval run --include_path FOLDER` takes them
    again. Raises UserError when lm-eval is not installed, when the sandbox does not work, and when a prompt is not the
    one of training.
    """
    try:
        import lm_eval
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise UserError(
            f"lm-eval cannot be imported ({error}); the general tasks would be missing from the scores; "
            "install it: pip install -e '.[eval]'"
        ) from None
    from agenttuning.sandbox import SandboxError

    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # its warnings are about command lines that nobody typed
    judge = _judge(model, tokenizer)
    opening = shape_of(tokenizer).openings[1] if format_of(tokenizer) == "tokenizer" else None
    with tempfile.TemporaryDirectory(prefix="agenttuning-") as cache:
        for name, task in tasks.items():
            _write_task(folder, name, task, cache, opening)
        try:
            results = lm_eval.simple_evaluate(
                model=judge,
                tasks=[f"mini_{name}" for name in tasks],
                task_manager=TaskManager(include_path=str(folder), include_defaults=False),
                apply_chat_template=True,
                system_instruction=system_prompt,
                log_samples=True,
                bootstrap_iters=0,
            )
        except SandboxError as error:
            raise UserError(
                f"the sandbox does not work here ({error}); functions would be counted as wrong; leave the task out "
                "or repair it"
            ) from None
        finally:
            for name in tasks:  # the cache ends with this run
                _write_task(folder, name, tasks[name], None, opening)
    samples = {name: results["samples"][f"mini_{name}"] for name in tasks}
    for name in tasks:
        _write_samples(folder / f"{name}.samples.jsonl", samples[name], tasks[name].metric)
        for sample in samples[name]:
            check_sample(sample, judge, tokenizer, system_prompt)
    return {name: score(samples[name], task) for name, task in tasks.items()}


def _judge(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast):
    import datasets
    from lm_eval.models.huggingface import HFLM

    quiet = not sys.stderr.isatty()
    if quiet:
        datasets.disable_progress_bars()

    class Judge(HFLM):
        def loglikelihood(self, requests, disable_tqdm=False):
            return super().loglikelihood(requests, disable_tqdm or quiet)

        def generate_until(self, requests, disable_tqdm=False):
            replies = super().generate_until(requests, disable_tqdm or quiet)
            return [reply.removeprefix(opening) for reply in replies] if opening else replies

    opening = _visible_opening(tokenizer)
    return Judge(pretrained=model, tokenizer=tokenizer, batch_size=BATCH)


def _visible_opening(tokenizer: PreTrainedTokenizerFast) -> str:
    """What lm-eval sees of the text that a template puts before an answer; the rest are special tokens."""
    if format_of(tokenizer) != "tokenizer":
        return ""
    items = cut(shape_of(tokenizer).openings[1], tokenizer)
    seen = [item for item in items if not controls([item], tokenizer)]
    return "".join(item if isinstance(item, str) else tokenizer.convert_ids_to_tokens(item) for item in seen)


def _write_task(folder: Path, name: str, task: GeneralTask, cache: str | None, opening: str | None = None) -> None:
    """Documents of a task, and a task file that is the committed one with the documents' place filled in, and with the
    `opening` that the model's own template puts before an answer in front of each choice (None: format llama2, whose
    choices the committed file has).
    """
    documents = write_documents(folder, name, task.n, task.seed)
    place = {"data_files": {"test": str(documents.resolve())}, **({"cache_dir": cache} if cache else {})}
    content = {"include": str(TASKS / f"mini_{name}.yaml"), "task": f"mini_{name}", "dataset_kwargs": place}
    if opening is not None and task.metric == "acc":
        text = json.dumps(opening)
        content["doc_to_choice"] = f"[{{% for one in choices %}}{{{{ ({text} ~ one)|tojson }}}},{{% endfor %}}]"
    (folder / f"mini_{name}.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")


def _write_samples(path: Path, samples: list[dict], metric: str) -> None:
    rows = [
        {"id": s["doc"]["id"], "question": s["doc"]["question"], "wanted": s["doc"]["answer"], "got": s["resps"]}
        | {"score": float(s[metric])}
        for s in samples
    ]
    path.write_text("".join(json.dumps(row, default=float) + "\n" for row in rows), encoding="utf-8")


def check_sample(
    sample: dict[str, Any], judge: Any, tokenizer: PreTrainedTokenizerFast, system_prompt: str | None
) -> None:
    """Raise UserError unless the ids of this sample's prompt, and of each scored choice, are those of training."""
    doc = sample["doc"]
    messages = [{"role": "user", "content": doc["question"]}]
    wanted = encode_prompt(messages, tokenizer, system_prompt)
    for arguments in sample["arguments"]:
        context, continuation = arguments[0], arguments[1]
        prompt = judge.tok_encode(context)
        if isinstance(continuation, str):
            prompt, scored = judge._encode_pair(context, continuation)  # how lm-eval joins the two
            words = continuation
            if format_of(tokenizer) == "tokenizer":
                words = continuation.removeprefix(shape_of(tokenizer).openings[1])
                # lm-eval moves white space at the end of a prompt to each choice, where it weighs on all the same
                moved = wanted[len(prompt) :]
                if prompt == wanted[: len(prompt)] and scored[: len(moved)] == moved:
                    prompt, scored = wanted, scored[len(moved) :]
            answer = [{"role": "assistant", "content": words.strip(), "loss": True}]
            trained = encode(messages + answer, tokenizer, "last", system_prompt).input_ids[len(wanted) :]
            if not scored or trained[: len(scored)] != scored:
                raise UserError(
                    f"{doc['id']}: lm-eval scores {continuation!r} as ids {scored}, training has {trained}; the "
                    "score would be of something the model never saw; check doc_to_choice and target_delimiter"
                )
        if prompt != wanted:
            raise UserError(
                f"{doc['id']}: lm-eval asks with ids {prompt}, training with {wanted}; the score would be of another "
                "prompt; check the chat template and the tokenizer (chat.load_tokenizer)"
            )


def score(samples: list[dict], task: GeneralTask) -> dict:
    """The entry of one task from lm-eval's samples, whose metrics are 0 or 1."""
    rewards = {sample["doc"]["id"]: float(sample[task.metric]) for sample in samples}
    n, right = len(rewards), int(sum(rewards.values()))
    return {
        "group": "general",
        "metric": task.metric,
        "n": n,
        "asked": task.n,
        "lost": 0,
        "statuses": {"right": right, "wrong": n - right},
        "void": None,
        "rewards": rewards,
        "score": 100 * right / n,
        "interval": [100 * end for end in intervals.wilson(right, n)],
    }

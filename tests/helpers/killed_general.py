"""Ask MMLU and GSM8K and die: `python killed_general.py MODEL FOLDER CASES`, CASES a JSON object of {name: [when,
number]}. Each case is `agenttuning eval-general` into FOLDER/name in a process of its own, forked after the imports,
which take longer than the runs; then the same command is typed again. Prints as its last line {name: [first exit
status, lines that were kept, second exit status, answers that were asked then]}, -9 for a process that was killed.

when: `answer`, dying after the answer `number` was kept; `torn`, in the middle of its line; `documents`, before the
file `number` is put in its place; `full`, on a disk that takes `number` bytes a file; `term`, told to stop after the
answer `number`; `never`. `together` are two at once, of which the second waits.
"""

import json
import os
import resource
import signal
import sys
import traceback
from pathlib import Path

import datasets  # noqa: F401  forked processes shall find it imported, as all that follows
import lm_eval.evaluator
import lm_eval.models.huggingface  # noqa: F401
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast  # noqa: F401

from agenttuning import cli
from agenttuning.general import gsm8k, kept, task_files
from agenttuning.policies import transformers_policy
from agenttuning.recipe.schema import REPOSITORY

RECIPE = REPOSITORY / "recipes/agentlm-tiny/sft.yaml"
WORDS = ["--task", "mmlu", "--task", "gsm8k", "--items", "5"]


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def before(owner: object, name: str, number: int, action=die) -> None:
    """Do `action` first, in the call `number` of `owner.name`."""
    original, calls = getattr(owner, name), []

    def patched(*arguments, **named):
        calls.append(1)
        if len(calls) == number:
            action()
        return original(*arguments, **named)

    setattr(owner, name, patched)


def prepare(when: str, number: int) -> None:
    if when in ("answer", "torn", "term"):
        add = kept.Answers.add
        calls = []

        def dying(self, key, answer):
            if key in self:
                return
            calls.append(1)
            if when == "torn" and len(calls) == number:
                with self.path.open("ab") as file:
                    file.write(json.dumps({"key": key, "answer": answer}).encode()[:-3])
                die()
            add(self, key, answer)
            if when != "torn" and len(calls) == number:
                os.kill(os.getpid(), signal.SIGTERM if when == "term" else signal.SIGKILL)

        kept.Answers.add = dying
    elif when == "documents":
        before(task_files.Path, "replace", number)
    elif when == "full":
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (number, number))


def counted(count: Path) -> None:
    """Write down how many answers are asked."""
    add = kept.Answers.add

    def counting(self, key, answer):
        if key not in self:
            with count.open("a") as file:
                file.write("1\n")
        add(self, key, answer)

    kept.Answers.add = counting


def forked(model: str, folder: Path, when: str, number: int) -> int:
    """The process in which the command runs."""
    child = os.fork()
    if child:
        return child
    status = 70
    try:
        counted(folder.with_suffix(".asked"))
        prepare(when, number)
        status = cli.main(["eval-general", str(RECIPE), "--model", model, "--out", str(folder), *WORDS]) or 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def status_of(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def short_replies() -> None:
    """A random model says whatever it says up to the last token it may, which is 24 here."""
    write = gsm8k.write_task
    few = {"generation_kwargs": {"do_sample": False, "max_gen_toks": 24, "until": ["Question:", "</s>"]}}
    gsm8k.write_task = lambda *arguments: write(*arguments[:-1], {**arguments[-1], **few})


def main() -> None:
    torch.set_num_threads(1)
    short_replies()
    transformers_policy.load(sys.argv[1], max_new_tokens=1)  # imports what forked processes shall find
    model, root, cases = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
    found = {}
    for name, (when, number) in cases.items():
        folder, count = root / name, root / f"{name}.asked"
        if when == "together":
            children = [forked(model, folder, "never", 0) for _ in range(2)]
            first, kept_lines = status_of(children[0]), 0
            second = status_of(children[1])
        else:
            first = status_of(forked(model, folder, when, number))
            answers = folder / kept.FILE
            kept_lines = answers.read_bytes().count(b"\n") if answers.exists() else 0
            count.unlink(missing_ok=True)
            second = status_of(forked(model, folder, "never", 0))
        found[name] = [first, kept_lines, second, len(count.read_text().split()) if count.exists() else 0]
    print(json.dumps(found))


main()

"""HumanEval through lm-eval: the items, what is asked, what is read out of a reply, and what counts as right."""

from __future__ import annotations

import gzip
import itertools
import json
import socket
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch
import yaml

from agenttuning import recipe
from agenttuning.errors import UserError
from agenttuning.general import humaneval
from agenttuning.general.evaluate import evaluate_general
from agenttuning.general.humaneval_replies import LONG, program
from agenttuning.general.players import player
from agenttuning.recipe.schema import REPOSITORY
from agenttuning.sandbox import SandboxError
from helpers.tiny_llama import save_tiny_llama

FILES = REPOSITORY / "evaluation" / "lm_eval"
STEMS = ["stock_humaneval", "paper_humaneval", "sampled_humaneval"]
TYPED = {
    "task_id": "Ours/0",
    "prompt": "from typing import List\n\n\ndef total(xs: List[int]) -> int:\n"
    '    """ Add up.\n    >>> total([1, 2])\n    3\n    """\n',
    "canonical_solution": "    return sum(xs)\n",
    "test": "\n\nMETADATA = {}\n\n\ndef check(candidate):\n    assert candidate([]) == 0\n"
    "    assert candidate([4, 5]) == 9\n",
    "entry_point": "total",
}
HELPED = {
    "task_id": "Ours/1",
    "prompt": 'def turn(s):\n    """ Backwards. """\n    return s[::-1]\n\n\ndef unturn(s):\n    """ Undo turn. """\n',
    "canonical_solution": "    return turn(s)\n",
    "test": "def check(candidate):\n    import random\n    for _ in range(9):\n"
    "        s = ''.join(random.choice('ab') for i in range(5))\n        assert candidate(turn(s)) == s\n",
    "entry_point": "unturn",
}
DOCS = humaneval.checked([TYPED, HELPED], "ours")


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("something opened a connection")

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(socket.socket, "connect", refuse)


# ---------------------------------------------------------------------------------------------------- replies

PROMPT = 'from typing import List\n\n\ndef f(x: int) -> int:\n    """ Double x.\n    >>> f(2)\n    4\n    """\n'
BODY = "    y = x * 2\n    return y"
WHOLE = f"def f(x: int) -> int:\n{BODY}"
RIGHT = [
    # the body, as far as its spaces came through
    BODY, f"\n{BODY}\n", f"{BODY}\n```", "   y = x * 2\n    return y", "y = x * 2\n    return y", "y = x * 2\nreturn y",
    "  y = x * 2\n  return y", "return x * 2", "   return x * 2", "return x * 2 if x or not x else None",
    "for i in [1]:\n        y = x * 2\n    return y", "for i in [1]:\n    y = x * 2\nreturn y",
    "y: int = x * 2\nreturn y", "y = x\ny *= 2\nreturn y", "y = [x]\ny[0] = x * 2\nreturn y[0]",
    "a, b = x, x\nreturn a + b", "# so\n    return x * 2", "    return sum([\n        x,\n        x,\n    ])",
    f'    """ Double. """\n{BODY}', "    '''\nDoubles it\n'''\n    return x * 2", f"    # {'long ' * LONG}\n{BODY}",
    # and what comes after it
    f"{BODY}\n```\n\nThis doubles.\n```python\nprint(f(3))\n```", f"{BODY}\n\nThis function doubles its input.",
    f"{BODY}\n\ndef g(x):\n    return x", f"{BODY}\n\nif __name__ == '__main__':\n    print(f(2))",
    "y = x * 2\nreturn y\n\nif __name__ == '__main__':\n    print(f(2))", f"{BODY}\n[/INST]",
    f"{BODY}\n\nExplanation:\n    it takes x twice\n", f"{BODY}\n```\nor\n```python\ndef f(x): return 0\n```",
    # the whole function, alone or in company
    WHOLE, f"import math\n{WHOLE}", PROMPT + BODY, f"from __future__ import annotations\n{WHOLE}",
    "f = lambda x: x * 2", WHOLE.replace("\n", "\r\n"), "def g(x):\n    return 2 * x\n\ndef f(x):\n    return g(x)",
    f"{WHOLE}\n\nprint(f(2))",
    f"{WHOLE}\n\nExample usage:\nprint(f(2))", f"{WHOLE}\n\nfor example f(2) returns 4.", f"{WHOLE}\n\nf(2) returns 4.",
    f"{WHOLE}\n\nfrom the above we see that it works.", f"{WHOLE}\n\nThe result y = x * 2 is right.",
    f"Here is the completed function:\n\n{WHOLE}\n\nThis function doubles its input.", f"import math first\n{WHOLE}",
    f"**Solution**\n\n{WHOLE}",
    # fenced once more
    f"```python\n{WHOLE}\n```", f"```\n{WHOLE}\n```\n", f"```python\n{WHOLE}", f"```python\n{BODY}\n```",
    f"Sure! Here it is:\n\n```python\n{WHOLE}\n```\nIt doubles.", f"Here you go:\n```python\n{BODY}\n```",
    f"First a helper:\n```python\ndef g(x):\n    return x\n```\nThen:\n```python\n{WHOLE}\n```",
    f"1. First\n```py\n{WHOLE}\n```",
]  # fmt: skip
WRONG = [
    "", "\n\n", "```", "I cannot help with that.", "def g(x):\n    return 2 * x", "passed", "\0", "    return x",
    "```python\n```", "    return x\n```\n```python\ndef f(x): return 2 * x\n```",
]  # fmt: skip


def test_the_program_is_found_in_awkward_replies() -> None:
    judge = "import json, sys\nfor text in json.load(sys.stdin):\n space = {}\n"
    judge += " try: exec(text, space); right = space['f'](21) == 42\n"
    judge += " except BaseException: right = False\n print(right, file=sys.stderr)"
    texts = [program(PROMPT, "f", reply) for reply in RIGHT + WRONG]
    told = subprocess.run([sys.executable, "-c", judge], input=json.dumps(texts), capture_output=True, text=True)
    found = [line == "True" for line in told.stderr.split()]
    assert [reply for reply, right in zip(RIGHT, found, strict=False) if not right] == []
    assert found[len(RIGHT) :] == [False] * len(WRONG)


@pytest.mark.parametrize(
    "text",
    ["a(" + ")" * 250, "x = " * 90, "`", " " * 400 + "x", "a.b[" * 90, "\n", "a, " * 99, "a(" + ")" * 19_000 + "!"],
    ids=lambda text: repr(text[:6]),
)
@pytest.mark.parametrize("joint", ["", "\n"])
def test_a_hostile_reply_is_read_in_no_time(text, joint) -> None:
    before = time.process_time()
    assert program(PROMPT, "f", joint.join([text] * (10**6 // len(text)))).startswith(PROMPT)
    assert time.process_time() - before < 1.0


# ------------------------------------------------------------------------------------------------------ items


def rows() -> list[dict]:
    return [{key: value for key, value in doc.items() if key != "id"} for doc in DOCS]


def test_official_files_are_read(tmp_path) -> None:
    import pyarrow
    from pyarrow import parquet

    lines = "".join(json.dumps(row) + "\n" for row in rows())
    (tmp_path / "HumanEval.jsonl").write_text(lines)
    (tmp_path / "HumanEval.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    parquet.write_table(pyarrow.Table.from_pylist(rows()), tmp_path / "test-0.parquet")
    for name in ("HumanEval.jsonl", "HumanEval.jsonl.gz", "test-0.parquet"):
        assert humaneval.load(tmp_path / name) == DOCS
    assert [doc["id"] for doc in DOCS] == [doc["task_id"] for doc in DOCS] == ["Ours/0", "Ours/1"]
    assert humaneval.checked(DOCS, "once more") == DOCS


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task_id": "Ours/1"}, "was there before"),
        ({"task_id": ""}, "task_id must be"),
        ({"test": None}, "test must be"),
        ({"prompt": 3}, "prompt must be"),
        ({"entry_point": "sum"}, "prompt defines no function 'sum'"),
        ({"test": "def test(c): pass"}, "test defines no function 'check'"),
        ({"prompt": "def total(xs):"}, "prompt is no Python"),
        ({"test": "(" * 10**5}, "test is no Python"),
    ],
)
def test_a_row_that_is_no_item_is_refused(change, message) -> None:
    with pytest.raises(UserError, match=message):
        humaneval.checked([HELPED, {**TYPED, **change}], "mine")


def test_a_file_that_is_no_data_is_refused(tmp_path) -> None:
    for name, content, message in (
        ("a.jsonl", b"", "holds no rows"),
        ("b.jsonl", b"{\n", "not valid JSON"),
        ("c.jsonl", b"[1]\n", "no mapping"),
        ("d.gz", b"no gzip", "no gzip of JSON lines"),
        ("e.gz", gzip.compress(json.dumps(rows()[0]).encode())[:-9], "no gzip of JSON lines"),
        ("f.txt", b"", "cannot be read"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=message):
            humaneval.load(tmp_path / name)
    with pytest.raises(UserError, match="is no file"):
        humaneval.load(tmp_path / "nothing.jsonl")


def judged(docs: list[dict], replies: list[list[str]]) -> list[list[str]]:
    return [[one["status"] for one in some] for some in humaneval.run(humaneval.stock_programs(replies, docs), docs)]


def test_practice_items_are_what_the_tiny_model_was_taught() -> None:
    docs = humaneval.practice(4, 0)
    assert docs == humaneval.practice(4, 0) != humaneval.practice(4, 1) and docs[:2] == humaneval.practice(2, 0)
    assert docs[0]["task_id"] == "tiny-humaneval/0" and docs == humaneval.checked(docs, "again")
    assert judged(docs, [[doc["canonical_solution"], "    return 3\n"] for doc in docs]) == [["passed", "wrong"]] * 4


def test_canonical_solutions_pass_and_others_do_not() -> None:
    wrong = ["    return None\n", "    return (\n", "    return 1 // 0\n"]
    replies = [[doc["canonical_solution"], *wrong] for doc in DOCS]
    assert judged(DOCS, replies) == [["passed", "wrong", "error", "error"]] * 2


def test_equal_programs_run_once(monkeypatch) -> None:
    seen = []
    real = humaneval.run_programs
    monkeypatch.setattr(humaneval, "run_programs", lambda jobs, workers: seen.extend(jobs) or real(jobs, workers))
    assert judged([DOCS[0]], [["    return 3\n"] * 5 + ["    return sum(xs)\n"]]) == [["wrong"] * 5 + ["passed"]]
    assert len(seen) == 2


def test_a_test_that_judges_nothing_stops_the_run() -> None:
    idle = humaneval.checked([{**TYPED, "test": "def check(candidate): pass"}], "mine")
    with pytest.raises(UserError, match="test of total ended without a call"):
        judged(idle, [["    pass\n"]])


@pytest.mark.parametrize(("n", "right", "k"), [(5, 0, 1), (5, 2, 1), (5, 5, 1), (6, 2, 3), (6, 5, 2), (7, 1, 7)])
def test_the_estimator_is_the_share_of_draws_with_a_right_one(n, right, k) -> None:
    draws = list(itertools.combinations([True] * right + [False] * (n - right), k))
    assert humaneval.pass_at_k(n, right, k) == pytest.approx(sum(map(any, draws)) / len(draws), abs=1e-12)


# ---------------------------------------------------------------------------------------------------- lm-eval

SYSTEM = "You are a helpful, respectful and honest assistant."


def scripted(reply):
    """A model that says `reply(prompt, place)`; `asked` holds what it was given."""
    from lm_eval.api.model import LM

    class Scripted(LM):
        tokenizer_name = "none"
        asked = []

        def generate_until(self, requests, disable_tqdm=False):
            self.asked += [request.args for request in requests]
            return [reply(request.args[0], place) for place, request in enumerate(requests)]

        def chat_template(self, chat_template=False):
            return "json"

        def apply_chat_template(self, chat_history, add_generation_prompt=True):
            return json.dumps([chat_history, add_generation_prompt])

        def loglikelihood(self, requests, disable_tqdm=False):
            raise NotImplementedError

        loglikelihood_rolling = loglikelihood

    return Scripted()


@pytest.fixture(autouse=True)
def no_look_at_the_machine(monkeypatch):
    """lm-eval asks pip and git about the machine for its own report, two seconds each time."""
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda _: None)
    monkeypatch.setattr("lm_eval.evaluator.get_git_commit_hash", lambda: None)


def evaluated(stem: str, docs: list[dict], tmp_path, reply):
    import lm_eval
    from lm_eval.tasks import TaskManager

    rules = SimpleNamespace(lm_eval=stem)
    names = humaneval.write(tmp_path / "docs", rules, docs, str(tmp_path / "cache"))
    model = scripted(reply)
    results = lm_eval.simple_evaluate(
        model=model,
        tasks=names,
        task_manager=TaskManager(include_path=str(tmp_path / "docs"), include_defaults=False),
        apply_chat_template=stem != "stock_humaneval",
        fewshot_as_multiturn=True,
        system_instruction=None if stem == "stock_humaneval" else SYSTEM,
        log_samples=True,
        bootstrap_iters=0,
    )
    samples = results["samples"]["humaneval"]
    json.dumps(samples, default=float)
    assert results["results"]["humaneval"]["pass_at_1,run"] == pytest.approx(
        sum(humaneval.rewards(samples, rules).values()) / len(samples)
    )
    assert "lm_eval.tasks.humaneval.utils" not in sys.modules
    return model, samples, humaneval.rewards(samples, rules)


def solution(prompt: str) -> str:
    [doc] = [doc for doc in DOCS if f"def {doc['entry_point']}(" in prompt]
    return doc["canonical_solution"]


@pytest.mark.parametrize("stem", STEMS)
def test_a_right_answer_scores_100_and_a_wrong_one_0(stem, tmp_path) -> None:
    lie = "    print('passed')\n    exit(0)\n"
    _, samples, rewards = evaluated(
        stem, DOCS, tmp_path, lambda prompt, _: lie if "unturn" in prompt else solution(prompt)
    )
    assert rewards == {"Ours/0": 1.0, "Ours/1": 0.0}
    times = 20 if stem == "sampled_humaneval" else 1
    assert humaneval.statuses(samples) == {"passed": times, "error": times}
    assert "limits" in humaneval.guards(samples) and "," not in humaneval.guards(samples)


def test_a_sampled_score_is_the_share_of_right_samples(tmp_path) -> None:
    def fourth(prompt: str, place: int) -> str:
        return solution(prompt) if place % 4 == 0 else "    return 0\n"

    model, samples, rewards = evaluated("sampled_humaneval", DOCS, tmp_path, fourth)
    assert rewards == {"Ours/0": 0.25, "Ours/1": 0.25}
    assert [len(sample["resps"][0]) for sample in samples] == [20, 20] and len(model.asked) == 40
    assert model.asked[0][1] | {"until": []} == {
        "do_sample": True, "temperature": 0.2, "top_p": 0.95, "top_k": 0, "max_gen_toks": 1024, "until": [],
    }  # fmt: skip


def packaged(name: str, docs: list[dict], tmp_path, monkeypatch):
    """The installed package's own task on our documents, and its module utils, whose code_eval is a blank here."""
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks._yaml_loader import load_yaml

    blank = SimpleNamespace(compute=lambda **_: ({}, {}))
    monkeypatch.setitem(sys.modules, "evaluate", SimpleNamespace(load=lambda _: blank))
    path = humaneval.find_spec("lm_eval").submodule_search_locations[0] + f"/tasks/humaneval/{name}.yaml"
    config = load_yaml(path)
    utils = sys.modules.pop("lm_eval.tasks.humaneval.utils")
    data = tmp_path / "packaged.jsonl"
    data.write_text("".join(json.dumps(doc) + "\n" for doc in docs))
    place = {"data_files": {"test": str(data)}, "cache_dir": str(tmp_path / "cache")}
    return ConfigurableTask(config={**config, "dataset_path": "json", "dataset_kwargs": place}), utils


def test_stock_is_lm_evals_own_task(tmp_path, monkeypatch) -> None:
    """Prompts, stop strings and all other generation settings, targets, and the programs that are built."""
    model, samples, _ = evaluated("stock_humaneval", DOCS, tmp_path, lambda prompt, _: "    return 1\n")
    task, utils = packaged("humaneval", DOCS, tmp_path, monkeypatch)
    task.build_all_requests()
    assert model.asked == [one.args for one in task.instances]
    assert "\ndef" in model.asked[0][1]["until"] and model.asked[0][1]["max_gen_toks"] == 1024
    replies = [["    return 1\n", "x\n```\ny"], [""]]
    assert humaneval.stock_programs(replies, DOCS) == utils.build_predictions(replies, DOCS)
    for sample, one in zip(samples, task.instances, strict=True):
        # what code_eval would run: the program, then the target
        assert sample["target"] == task.doc_to_target(one.doc) == f"{one.doc['test']}\ncheck({one.doc['entry_point']})"
        assert sample["filtered_resps"][0][0]["program"] == one.doc["prompt"] + "    return 1\n"


def test_the_chat_form_asks_in_lm_evals_words(tmp_path, monkeypatch) -> None:
    model, _, _ = evaluated("paper_humaneval", DOCS, tmp_path, lambda prompt, _: "    return 1\n")
    task, utils = packaged("humaneval_instruct", DOCS, tmp_path, monkeypatch)
    for (prompt, settings), doc in zip(model.asked, DOCS, strict=True):
        messages, opens = json.loads(prompt)
        assert [message["role"] for message in messages] == ["system", "user", "assistant"] and opens is False
        assert [message["content"] for message in messages] == [SYSTEM, task.doc_to_text(doc), task.doc_to_prefix(doc)]
        assert settings == {"do_sample": False, "temperature": 0.0, "max_gen_toks": 1024, "until": ["</s>"]}
        for reply in (doc["canonical_solution"], doc["canonical_solution"] + "```\n\nThat is all.\n"):
            ours, theirs = humaneval.chat_programs([[reply]], [doc]), utils.build_predictions_instruct([[reply]], [doc])
            assert ours[0][0].strip() == theirs[0][0].strip()


@pytest.mark.parametrize("stem", STEMS[:2])
def test_the_tiny_twin_runs_the_same_files(stem, tmp_path) -> None:
    docs = humaneval.practice(3, 0)
    model, _, rewards = evaluated(stem, docs, tmp_path, lambda prompt, _: _taught(prompt, docs, stem))
    assert rewards == {f"tiny-humaneval/{place}": 1.0 for place in range(3)}
    assert model.asked[0][1]["max_gen_toks"] == humaneval.TINY_TOKENS
    if stem == "paper_humaneval":  # the question as in training, and nothing before the answer
        question = docs[0]["prompt"].split('"""')[1]
        assert json.loads(model.asked[0][0]) == [
            [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}], True,
        ]  # fmt: skip


def _taught(prompt: str, docs: list[dict], stem: str) -> str:
    [doc] = [doc for doc in docs if doc["prompt"].split('"""')[1] in prompt]
    if stem == "stock_humaneval":
        return doc["canonical_solution"]
    return f"def {doc['entry_point']}(x):{doc['canonical_solution'].rstrip()} "  # as the tiny model answers


def test_a_broken_sandbox_is_no_wrong_answer(monkeypatch, tmp_path) -> None:
    def broken(*_):
        raise SandboxError("no processes here")

    monkeypatch.setattr(humaneval, "run_programs", broken)
    with pytest.raises(SandboxError, match="no processes here"):
        evaluated("stock_humaneval", DOCS, tmp_path, lambda prompt, _: solution(prompt))


def test_another_lm_eval_is_refused(monkeypatch, tmp_path) -> None:
    (tmp_path / "tasks" / "humaneval").mkdir(parents=True)
    monkeypatch.setattr(humaneval, "find_spec", lambda _: SimpleNamespace(origin=str(tmp_path / "__init__.py")))
    with pytest.raises(UserError, match="is not there"):
        humaneval.package_file("humaneval.yaml")
    (tmp_path / "tasks" / "humaneval" / "humaneval.yaml").write_text("task: humaneval\n")
    with pytest.raises(UserError, match="has no test_split"):
        humaneval.package_file("humaneval.yaml")
    monkeypatch.setattr(humaneval, "find_spec", lambda _: None)
    with pytest.raises(UserError, match="not installed"):
        humaneval.package_file("humaneval.yaml")


@pytest.mark.parametrize("stem", STEMS)
def test_a_task_file_holds_none_of_lm_evals_words(stem) -> None:
    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor("!function", Loader.construct_scalar)
    held = yaml.load((FILES / f"{stem}.yaml").read_text(), Loader)  # noqa: S506
    assert not {"doc_to_text", "doc_to_target", "gen_prefix"} & set(held) and "Write a solution" not in str(held)
    assert held.get("unsafe_code") in (False, None) and held["metadata"]["version"] == 1


def test_samples_are_drawn_alike_in_every_run(tmp_path) -> None:
    one = recipe.load(REPOSITORY / "recipes/agentlm-tiny/sft.yaml", (), tmp_path / "run")
    who, said = player(one, str(save_tiny_llama(tmp_path / "model"))), []
    for name in ("first", "again"):
        torch.manual_seed(len(said))  # whatever was drawn before
        evaluate_general(one, who, protocol="sampled", most=1, out=tmp_path / name)
        lines = (tmp_path / name / "answers.jsonl").read_text(encoding="utf-8").splitlines()
        said.append([json.loads(line)["answer"] for line in lines])
    assert said[0] == said[1] and len(set(said[0])) > 10, "twenty samples, hardly two alike"

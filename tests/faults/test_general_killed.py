"""`eval-general` killed, told to stop, short of disk, or started twice: the command typed again gives the scores of an
undisturbed run, and asks nothing again whose answer was kept.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from agenttuning.errors import UserError
from agenttuning.general.kept import Answers
from agenttuning.general.lm import Asking, Lost, is_lost
from agenttuning.general.protocol import Rules
from helpers.tiny_llama import save_tiny_llama

pytestmark = pytest.mark.slow
TESTS = Path(__file__).resolve().parents[1]
ALL = 4 * 5 + 5  # four letters of five questions, five replies
CASES = {
    "whole": ("never", 0),
    "within": ("answer", 14),  # between the letters of a question
    "torn": ("torn", 22),
    "between": ("documents", 11),  # mmlu has its score, and gsm8k's documents come
    "term": ("term", 7),
    "full": ("full", 2500),
    "twice": ("together", 0),
}
FIRST = {"whole": 0, "term": 128 + 15, "full": 2, "twice": 0}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """(folder, {case: what killed_general says of it}, what was shown)"""
    folder = tmp_path_factory.mktemp("runs")
    model = save_tiny_llama(tmp_path_factory.mktemp("model"))
    environment = {**os.environ, "PYTHONPATH": f"{TESTS.parent / 'src'}{os.pathsep}{TESTS}", "HF_HUB_OFFLINE": "1"}
    environment |= {"OMP_NUM_THREADS": "1", "HF_DATASETS_CACHE": str(folder / "cache")}
    script = TESTS / "helpers" / "killed_general.py"
    ran = subprocess.run(
        [sys.executable, str(script), str(model), str(folder), json.dumps(CASES)],
        env=environment, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-3000:]
    *shown, last = ran.stdout.splitlines()
    return folder, json.loads(last), "\n".join(shown) + ran.stderr


def scores(folder: Path) -> dict:
    found = json.loads((folder / "scores.json").read_text())
    del found["notes"]["date"]
    return found


def lines(folder: Path) -> dict[str, object]:
    """Kept answers by their keys; each line is whole, and no key comes twice."""
    rows = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
    assert len({row["key"] for row in rows}) == len(rows)
    return {row["key"]: row["answer"] for row in rows}


def test_an_undisturbed_run_asks_everything_once(runs) -> None:
    folder, found, _ = runs
    assert found["whole"] == [0, ALL, 0, 0]  # typed again, nothing is asked
    tasks = scores(folder / "whole")["tasks"]
    assert set(tasks) == {"tiny-mmlu", "tiny-gsm8k"} and {entry["n"] for entry in tasks.values()} == {5}
    assert len({json.dumps(answer) for answer in lines(folder / "whole").values()}) > ALL // 2  # a model that varies


@pytest.mark.parametrize("name", [name for name in CASES if name != "whole"])
def test_it_goes_on_where_it_was(runs, name) -> None:
    folder, found, shown = runs
    first, kept, second, asked = found[name]
    assert (first, second) == (FIRST.get(name, -9), 0), shown[-3000:]
    assert asked == ALL - kept
    assert kept == {"within": 14, "torn": 21, "between": 20, "term": 7}.get(name, kept)
    assert scores(folder / name) == scores(folder / "whole")
    wanted, there = lines(folder / "whole"), lines(folder / name)
    assert there.keys() == wanted.keys()
    for key, answer in there.items():  # another batch may add a float's last digit, and changes no reply
        assert answer == (pytest.approx(wanted[key]) if isinstance(answer, list) else wanted[key])


def test_what_is_said(runs) -> None:
    _, found, shown = runs
    assert "another process builds in" in shown  # the second of two waits
    assert "answers.jsonl cannot be written (File too large)" in shown
    assert "make room and type the same command" in shown
    assert 0 < found["full"][1] < ALL
    assert "stopped by SIGTERM; the same command goes on from here" in shown
    assert "Traceback" not in shown and "pretrained" not in shown  # lm-eval's warnings about a model that is loaded


def test_a_damaged_line_is_said_and_a_torn_one_left_out(tmp_path) -> None:
    kept = Answers(tmp_path, "x")
    for number in range(3):
        kept.add(f"key{number}", [-1.0, True])
    kept.close()
    whole = (tmp_path / "answers.jsonl").read_bytes()
    (tmp_path / "answers.jsonl").write_bytes(whole[:-5])
    again = Answers(tmp_path, "x")
    assert [name for name in ("key0", "key1", "key2") if name in again] == ["key0", "key1"]
    again.add("key2", "no")
    again.close()
    assert Answers(tmp_path, "x")["key2"] == "no" and Answers(tmp_path, "x")["key0"] == [-1.0, True]
    (tmp_path / "answers.jsonl").write_bytes(whole.replace(b'"key1"', b'"ke\n1"'))
    with pytest.raises(UserError, match=r"answers.jsonl, line 2 is no record; .* delete the line"):
        Answers(tmp_path, "x")


def test_samples_of_one_question_are_kept_apart(tmp_path) -> None:
    kept = Answers(tmp_path, "x")
    question = ("what?", {"until": ["</s>"], "temperature": 0.2})
    keys = kept.keys("generate_until", [question, question, ("other?", question[1])])
    assert len(set(keys)) == 3 and keys == kept.keys("generate_until", [question, question, ("other?", question[1])])
    assert not set(keys) & set(Answers(tmp_path, "y").keys("generate_until", [question]))
    assert not set(keys) & set(kept.keys("loglikelihood", [question]))


class _Sampling:
    """An LM of lm-eval that tells of its answers in another order than it gives them back."""

    def __init__(self) -> None:
        self.cache_hook, self.given = None, []

    def generate_until(self, requests, disable_tqdm=False):
        self.given = [Lost("broken") if number == 1 else f"sample {number}" for number in range(len(requests))]
        for request, answer in reversed(list(zip(requests, self.given, strict=True))):
            self.cache_hook.add_partial("generate_until", request.args, answer)
        return self.given


def test_each_sample_of_a_question_is_kept_once_and_the_lost_one_is_asked_again(tmp_path) -> None:
    class LM(Asking, _Sampling):
        def longest(self) -> int:
            return 100

    asked = [SimpleNamespace(args=("what?", {"max_gen_toks": 5}), task_name="humaneval") for _ in range(4)]
    lm = LM()
    lm.ask_by(Rules(4, "pass_at_1"), Answers(tmp_path, "x"))
    first = lm.generate_until(asked)
    assert sorted(first) == ["", "sample 0", "sample 2", "sample 3"] and sum(map(is_lost, first)) == 1
    lm.ask_by(Rules(4, "pass_at_1"), Answers(tmp_path, "x"))
    again = lm.generate_until(asked)
    assert sorted(again) == ["sample 0", "sample 0", "sample 2", "sample 3"] and lm.given == ["sample 0"]
    asked[0].args[1]["max_gen_toks"] = 100
    with pytest.raises(UserError, match="humaneval lets a reply have 100 tokens, and the model has room for 100"):
        lm.generate_until(asked)

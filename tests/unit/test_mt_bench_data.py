"""MT-Bench's data: a checkout, a folder or the Hub, what it is called, and what is refused."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace

import pytest

from agenttuning.errors import UserError
from agenttuning.general import mt_bench
from agenttuning.general.mt_bench import sources
from helpers.judge_server import RULES, JudgeServer, players, write_files

TINY = mt_bench.practice(4, 0)


def test_a_checkout_of_80_questions_is_known_by_its_content(tmp_path) -> None:
    root = write_files(tmp_path / "FastChat")
    found = mt_bench.load(root, RULES)
    assert found.task == "mt_bench" and len(found.items) == 80
    assert found.not_comparable.startswith("question.jsonl, judge_prompts.jsonl, gpt-4.jsonl of other content")
    assert found.data["revision"] is None and found.data["n"] == 80 and len(found.data["files"]) == 3
    known = replace(RULES, data=replace(RULES.data, sha256=found.data["files"]))
    assert mt_bench.load(root, known).not_comparable is None
    inner = root / "fastchat/llm_judge/data"
    for place in (root / "fastchat/llm_judge", inner, inner / "mt_bench"):
        assert mt_bench.load(place, known) == mt_bench.load(root, known)
    assert mt_bench.load(write_files(tmp_path / "flat", checkout=False), known).not_comparable is None
    git = ["git", "-C", str(root), "-c", "user.name=n", "-c", "user.email=e"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "m"]):
        subprocess.run([*git, *words], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    assert mt_bench.load(root, known).data["revision"] == commit
    (inner / "judge_prompts.jsonl").open("a").write("\n")
    changed = mt_bench.load(root, known)
    assert changed.data["revision"] == f"{commit}+changes"
    assert changed.not_comparable == "judge_prompts.jsonl of other content than the files known (sha256)"


def test_fewer_questions_are_no_mt_bench(tmp_path) -> None:
    root = write_files(tmp_path / "FastChat")
    part = mt_bench.load(root, RULES).head(7)
    assert (part.task, len(part.items)) == ("part-mt_bench", 7) and part.not_comparable.startswith("7 of 80 questions")
    assert part.data["n"] == 7 and TINY.head(3).task == "tiny-mt_bench" and TINY.head(99) is TINY
    path = root / "fastchat/llm_judge/data/mt_bench/question.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    cut = mt_bench.load(root, RULES)
    for change in ({"question_id": 161}, {"category": "math"}):
        other = write_files(
            tmp_path / next(iter(change)), question=lambda row, c=change: row["question_id"] == 81 and row.update(c)
        )
        found = mt_bench.load(other, replace(RULES, judge=replace(RULES.judge, reference_categories=[])))
        assert (found.task, len(found.items)) == ("part-mt_bench", 80)
    assert cut.task == "part-mt_bench" and "79 questions of 8 categories; the benchmark has 80" in cut.not_comparable


def test_references_and_judge_prompts_that_are_missing_are_named(tmp_path) -> None:
    numbers = [81 + 10 * list(RULES.temperatures).index(name) for name in ("math", "coding")]
    with pytest.raises(UserError, match=f"no answer to question {numbers[0]}, {numbers[1]};"):
        mt_bench.load(write_files(tmp_path / "a", drop=tuple(numbers)), RULES)
    root = write_files(tmp_path / "b", checkout=False)
    (root / "judge_prompts.jsonl").unlink()
    with pytest.raises(UserError, match=r"questions but no judge_prompts\.jsonl"):
        mt_bench.load(root, RULES)
    for path, said in ((tmp_path / "nothing", "is no folder"), (tmp_path, r"holds no question\.jsonl")):
        with pytest.raises(UserError, match=said):
            mt_bench.load(path, RULES)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"question": lambda row: row.update(turns=["one"])}, "not two turns"),
        ({"question": lambda row: row.update(category="poetry")}, "no temperature"),
        ({"question": lambda row: row.update(question_id=5)}, "twice"),
        ({"prompt": lambda row: row.update(output_format="[[A]]")}, r"another output_format"),
        ({"prompt": lambda row: row.update(prompt_template="{question.__class__} {answer}")}, "nothing is known for"),
        ({"prompt": lambda row: row.update(prompt_template="{question!r} {answer}")}, "nothing is known for"),
        ({"prompt": lambda row: row.update(prompt_template="{question} {")}, "cannot be filled"),
        ({"prompt": lambda row: row.update(prompt_template="{question}")}, "lacks answer"),
        ({"prompt": lambda row: row.update(name="single-v1")}, "twice"),
        ({"prompt": lambda row: row.update(name="pair")}, "has no prompt single-v1, single-v1-multi-turn"),
    ],
)  # fmt: skip
def test_files_of_another_make_are_refused(tmp_path, change, said) -> None:
    with pytest.raises(UserError, match=said):
        mt_bench.load(write_files(tmp_path / "f", **change), RULES)


def test_the_prompts_are_filled_as_str_format_fills_them(tmp_path) -> None:
    questions = mt_bench.load(write_files(tmp_path / "f"), RULES)
    values = {f"{kind}_{n}": f"{kind} {n}" for kind in ("question", "answer", "ref_answer") for n in (1, 2)}
    values |= {"question": "Q", "answer": "A"}
    for name, prompt in questions.prompts.items():
        system, user = prompt.messages(values)
        assert system["content"] == f"Judge by {name}."
        assert user["content"] == prompt.template.format(**values) and user["content"].startswith("{} <")
    hostile = dict.fromkeys(values, "{answer} {{}} {question.__class__}")
    assert questions.prompts["single-v1"].messages(hostile)[1]["content"].count("{question.__class__}") == 2


def test_each_turn_is_judged_by_its_prompt_and_its_reference(tmp_path) -> None:
    questions = mt_bench.load(write_files(tmp_path / "f"), RULES)
    questions = replace(questions, items=questions.items[::10])  # one of a category
    with JudgeServer(lambda body: "[[6]]") as server:
        make, _ = players(questions)
        mt_bench.evaluate(questions, make, tmp_path, RULES, server.judge(judgings=1), model="m")
    wanted = []
    for item in questions.items:
        values = dict(zip(("question_1", "question_2"), item.turns, strict=True))
        answers, refers = item.reference or ("one", "two"), item.category in ("math", "reasoning", "coding")
        values |= {"answer_1": answers[0], "answer_2": answers[1], "question": item.turns[0], "answer": answers[0]}
        values |= {"ref_answer_1": item.reference[0], "ref_answer_2": item.reference[1]} if refers else {}
        for name in (
            ("single-math-v1", "single-math-v1-multi-turn") if refers else ("single-v1", "single-v1-multi-turn")
        ):
            filled = questions.prompts[name].template.format(**values)
            wanted.append([f"Judge by {name}.", filled])
    asked = [[message["content"] for message in body["messages"]] for body in server.asked]
    assert sorted(asked) == sorted(wanted) and len(asked) == 16


def test_from_the_hub_at_a_commit_that_is_resolved_once(tmp_path, monkeypatch) -> None:
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError

    root, commit, calls = write_files(tmp_path / "f"), "a" * 40, []
    lock = tmp_path / "rules.yaml"
    monkeypatch.setattr(sources, "FILE", lock)

    def download(hub_id, name, *, repo_type, revision):
        calls.append((hub_id, repo_type, revision))
        path = root / "fastchat/llm_judge" / name
        if not path.is_file():
            raise EntryNotFoundError(name)
        return str(path)

    def info(self, hub_id, *, revision):
        calls.append((hub_id, "info", revision))
        return type("Info", (), {"sha": commit})

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(huggingface_hub.HfApi, "space_info", info)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", info)
    found = mt_bench.load(None, RULES)  # the rules' place
    assert found.data["revision"] == commit and found.data["source"] == "hf://spaces/lmsys/mt-bench"
    assert calls[0] == ("lmsys/mt-bench", "info", "main") and {call[2] for call in calls[1:]} == {commit}
    calls.clear()
    assert mt_bench.load(None, RULES) == found and not [call for call in calls if call[1] == "info"]
    assert json.loads((tmp_path / "lock.json").read_text())["mt_bench"]["commit"] == commit
    other = mt_bench.load(f"hf://datasets/us/ours@{'b' * 40}", RULES)
    assert (other.data["source"], other.data["revision"]) == ("hf://datasets/us/ours", "b" * 40)
    (root / "fastchat/llm_judge/data/judge_prompts.jsonl").unlink()
    with pytest.raises(UserError, match=rf"us/ours at {'b' * 40} has questions but no data/judge_prompts\.jsonl"):
        mt_bench.load(f"hf://datasets/us/ours@{'b' * 40}", RULES)

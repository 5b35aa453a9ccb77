"""The pages of items: every one of them once, what went wrong first, bounded in size, and never in place of a file of
somebody's.
"""

from __future__ import annotations

import json
import re
from collections import Counter

import pytest
from test_report import Page

from agenttuning.errors import UserError
from agenttuning.general import mt_bench
from agenttuning.general.mt_bench.scripted_judge import MODEL, scripted_judge
from agenttuning.report import drill, items, rated, talks
from agenttuning.scoring import scores
from helpers.episode_records import record, said, stored
from helpers.judge_server import RULES, players
from helpers.paper_run import GENERAL, ITEMS, paper_run


class ItemsPage(Page):
    VOID = {"meta", "line", "rect", "polyline", "circle"}

    def summaries(self) -> list[str]:
        return [attributes["class"] for tag, attributes in self.tags if tag == "details" and "id" in attributes]


def pages(run_dir, shelf) -> list[tuple[str, ItemsPage]]:
    texts = [(run_dir / "report" / page["href"]).read_text(encoding="utf-8") for page in shelf.pages]
    return [(text, ItemsPage(text)) for text in texts]


@pytest.fixture(scope="module")
def shelves(tmp_path_factory):
    run = paper_run(tmp_path_factory.mktemp("runs") / "run", most=23)
    return run.run_dir, {(shelf.label, shelf.task): shelf for shelf in drill.write(run.run_dir)}


def test_every_item_of_every_task_is_on_one_page_and_failures_come_first(shelves) -> None:
    run_dir, found = shelves
    assert set(found) == {(side, task) for side in ("base", "tuned") for task in (*ITEMS, *GENERAL)}
    for (side, task), shelf in found.items():
        assert shelf.n == 23
        names, states = Counter(), []
        for text, page in pages(run_dir, shelf):
            names.update(re.findall(rf"<summary class=\"row\"><span>(?:question )?({task}-\d+)</span>", text))
            states += page.summaries()
        assert names == Counter(f"{task}-{number}" for number in range(23)), (side, task)
        ranks = [
            ["lost", "not won", "won", "rated"].index(state.removeprefix("episode ").replace("-", " "))
            for state in states
        ]
        assert ranks == sorted(ranks)
    lines = (run_dir / "eval/tuned/held-in/paper-text/db/episodes.jsonl").read_text().splitlines()
    won = sum(json.loads(line)["reward"] for line in lines)
    assert found["tuned", "db"].counts == {"lost": 0, "won": won, "not won": 23 - won, "rated": 0}


def test_a_page_shows_the_trajectory_and_the_common_prompt_once(shelves) -> None:
    run_dir, found = shelves
    text, page = pages(run_dir, found["tuned", "kg"])[0]
    first = text.index("<span>kg-")
    assert text.count("Instruction. word0") == 1 and text.index("Instruction. word0") < first
    assert page.text.count("Action: look around 3") == len(page.summaries()) and "after the last action" in text
    text, page = pages(run_dir, found["tuned", "gsm8k"])[0]
    assert page.text.count("look around. The answer is B.") == len(page.summaries()) and "wanted answer" in text
    text, page = pages(run_dir, found["base", "mt_bench"])[0]
    assert page.text.count("Rating: [[6]]") == 2 * 23 and "judging 1 of turn 2: 6" in text and "4 ratings" in text


def test_an_item_with_its_own_prompt_keeps_it(tmp_path) -> None:
    records = [record("toy", f"i{k}", *said("go")) for k in range(4)]
    records[2]["messages"][0]["content"] = "Do it otherwise."
    stored(tmp_path / "eval/tuned", *records)
    (shelf,) = drill.write(tmp_path)
    ((text, _),) = pages(tmp_path, shelf)
    assert text.count(">Do it.<") == 1 and text.count(">Do it otherwise.<") == 1
    assert text.index("Do it otherwise.") > text.index("<span>i2</span>")


def test_a_page_stays_small_whatever_was_written(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(drill, "MOST_ITEMS", 4)
    monkeypatch.setattr(drill, "MOST_TEXT", 60_000)
    long = [record("toy", f"i{k}", *said("x" * 1_000_000), status="completed") for k in range(3)]
    many = record("toy", "many", *said(*(f"look {k} {'y' * 5000}" for k in range(200))))
    stored(tmp_path / "eval/tuned", *long, many, *(record("toy", f"j{k}", *said("go")) for k in range(9)))
    (shelf,) = drill.write(tmp_path)
    sizes = [page["n"] for page in shelf.pages]
    assert sum(sizes) == 13 and max(sizes) == 4 and len(sizes) > 3
    texts = [text for text, _ in pages(tmp_path, shelf)]
    assert max(map(len, texts)) < drill.MOST_OF_AN_ITEM + 100_000
    assert any("characters cut)" in text for text in texts) and any(
        "more messages are not on this page" in text for text in texts
    )
    contents = (tmp_path / "report" / shelf.href).read_text(encoding="utf-8")
    assert all(page["href"] in contents for page in shelf.pages)


def test_lost_ones_and_those_of_another_model_are_said_and_no_wrong_answers(tmp_path) -> None:
    other = [record("toy", f"o{k}", *said("go"), model="old@1") for k in range(2)]
    lost = record("toy", "l", status="agent_error", reward=None, error="the server was gone")
    stored(tmp_path / "eval/tuned", *other, lost, record("toy", "w", *said("go")))
    docs = tmp_path / "eval/tuned/general/paper/vllm/docs"
    docs.mkdir(parents=True)
    verdict = [[{"program": "def f():\n    pass", "status": "error"}]]
    lines = [
        {"id": "a", "question": "q", "got": verdict, "score": 1.0},
        {"id": "b", "question": "q", "score": None, "lost": "503"},
    ]
    (docs / "mmlu.samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"id": "c", "sco')
    toy, mmlu = drill.write(tmp_path)
    assert toy.counts == {"lost": 1, "not won": 0, "won": 1, "rated": 0}
    assert toy.said == "1 lost, 1 won; left out: 2 episodes of another model or protocol in the same file"
    assert mmlu.said == "1 lost, 1 won; left out: 1 lines that cannot be read"
    assert "program: def f():\n    pass\nstatus: error" in pages(tmp_path, mmlu)[1][1].text
    assert "the server was gone" in pages(tmp_path, toy)[0][1].text and "503" in pages(tmp_path, mmlu)[0][1].text


def test_what_mt_bench_itself_writes_is_read(tmp_path) -> None:
    """The real writer, answered by rote and judged by its scripted judge."""
    questions = mt_bench.practice(8, 0)
    folder = tmp_path / "eval/tuned/general/paper/vllm"
    with scripted_judge(questions) as url:
        judge = mt_bench.Judge(url, MODEL, judgings=2)
        entry = mt_bench.evaluate(questions, players(questions)[0], folder / talks.FOLDER, RULES, judge, model="m@1")
    scores.write({"schema": 1, "model": "m@1", "protocol": "paper@1", "tasks": {"mt_bench": entry}}, folder)
    (shelf,) = drill.write(tmp_path)
    assert shelf.counts == {"lost": 0, "not won": 0, "won": 0, "rated": 8} and "left out" not in shelf.said
    ((text, page),) = pages(tmp_path, shelf)
    for item in questions.items:
        assert f"question {item.id}" in text
        assert item.reference is None or all(answer in page.text for answer in item.reference)
    assert (
        text.count("4 ratings") == 8
        and page.text.count("[[10]]") == 32
        and text.count('data-label="score">10.00<') == 8
    )
    (one,) = rated.find(tmp_path)
    assert one.score.startswith("10.00 (10.00 to 10.00, n = 8)") and one.facts["judgings"] == "2"
    assert {name for name, *_ in one.categories} == {item.category for item in questions.items}
    assert all(value == 10.0 for _, value, _ in one.categories)


def test_names_of_files_need_no_care_and_are_never_shared(tmp_path) -> None:
    for label in ("a b", "a-b", "a<script>b"):
        stored(tmp_path / "eval" / label, record("toy", "x", *said("go")))
    names = [page["href"] for shelf in drill.write(tmp_path) for page in shelf.pages]
    assert len(set(names)) == 3 and all(re.fullmatch(r"[a-z0-9-]+\.html", name) for name in names)


def test_pages_of_an_earlier_report_go_and_a_folder_of_somebodys_stays(tmp_path) -> None:
    stored(tmp_path / "eval/tuned", record("toy", "x", *said("go")))
    drill.write(tmp_path)
    (tmp_path / "report/stale.html").write_text("old")
    drill.write(tmp_path)
    assert not (tmp_path / "report/stale.html").exists() and (tmp_path / "report/index.html").is_file()
    (tmp_path / "report/index.html").unlink()
    (tmp_path / "report/thesis.tex").write_text("mine")
    with pytest.raises(UserError, match="not the pages of a report"):
        drill.write(tmp_path)
    assert (tmp_path / "report/thesis.tex").read_text() == "mine" and not list(tmp_path.glob(".report*"))


def test_items_are_in_the_order_of_their_numbers() -> None:
    assert sorted(["i10", "i9", "i", "j1", "i2b"], key=items.natural) == ["i", "i2b", "i9", "i10", "j1"]
